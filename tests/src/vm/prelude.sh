# Functions for the checks of a suite (bash, -euo pipefail).

export LC_ALL=C.UTF-8
# A key derivation that takes no time: what is tested here is the data path.
CHEAP="--pbkdf pbkdf2 --pbkdf-force-iterations 1000"
KEY=/tmp/key
printf 'a passphrase for tests' >$KEY

fail() { echo "FAILED: $*" >&2; return 1; }

# refused STATUS COMMAND...: the command must fail with just this status.
refused() {
	local want=$1 got=0
	shift
	"$@" || got=$?
	[ "$got" = "$want" ] || fail "\"$*\" ended with status $got, not $want"
}

# within SECONDS COMMAND...: tries again until it succeeds.
within() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		((SECONDS < end)) || fail "not in time: $*"
		sleep 0.2
	done
}

# empty_disk DEVICE: no signature, no old data at its begin.
empty_disk() { blkdiscard -f "$1" 2>/dev/null || true; dd if=/dev/zero of="$1" bs=1M count=20 conv=fsync status=none; }

# noise FILE MIB [SEED]: writes the same noise on every call (fast, and not compressible).
noise() {
	{ openssl enc -aes-128-ctr -K "$(printf '%032d' "${3:-7}")" -iv 00000000000000000000000000000000 \
		</dev/zero 2>/dev/null || true; } | dd of="$1" bs=1M count="$2" iflag=fullblock conv=notrunc,fsync status=none
}

# same A B: two files or devices of one size with the same bytes.
same() { cmp "$1" "$2" || fail "$1 and $2 differ"; }

# open_volume DEVICE NAME [options]: opens with luksmith and prints the block device.
open_volume() {
	local device=$1 name=$2
	shift 2
	luksmith open "$device" "$name" --key-file $KEY "$@" >&2
	volume_device "$name"
}

# volume_device NAME: the block device of an open volume, as status tells it.
volume_device() { luksmith status "$1" --json | sed -n 's/.*"device": *"\([^"]*\)".*/\1/p' | head -n 1; }

# What a check left open is closed, whatever state it is in.
leave_nothing_behind() {
	local name
	umount -l /mnt /mnt/* 2>/dev/null
	if command -v luksmith >/dev/null; then
		for name in $(ls /run/luksmith 2>/dev/null); do timeout 10 luksmith close "$name"; done
	fi
	pkill -9 -x luksmith
	dmsetup remove_all --force --retry 2>/dev/null
	losetup -D
	rm -rf /tmp/*
	return 0
}
