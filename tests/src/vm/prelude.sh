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
		pause 0.2
	done
}

# pause SECONDS: sleeps without a process, which in an emulated machine would cost more than the time.
pause() { read -rt "$1" -u 9 || true; }

# empty_disk DEVICE: no signature, no old data at its begin.
empty_disk() { blkdiscard -f "$1" 2>/dev/null || true; dd if=/dev/zero of="$1" bs=1M count=20 conv=fsync status=none; }

# noise FILE MIB [SEED]: writes the same noise on every call (fast, and not compressible).
noise() {
	{ openssl enc -aes-128-ctr -K "$(printf '%032d' "${3:-7}")" -iv 00000000000000000000000000000000 \
		</dev/zero 2>/dev/null || true; } | dd of="$1" bs=1M count="$2" iflag=fullblock conv=notrunc,fsync status=none
}

# same A B: two files or devices of one size with the same bytes.
same() { cmp "$1" "$2" || fail "$1 and $2 differ"; }

# open_volume DEVICE NAME [options]: opens with luksmith; the device is /dev/luksmith/NAME.
open_volume() {
	local device=$1 name=$2
	shift 2
	luksmith open "$device" "$name" --key-file $KEY "$@"
	[ -b "$(readlink -f "/dev/luksmith/$name")" ] || fail "no block device behind /dev/luksmith/$name"
}

# judge_opens DEVICE [options]: opens with cryptsetup and dm-crypt as /dev/mapper/judge.
judge_opens() {
	local device=$1
	shift
	cryptsetup open "$device" judge --key-file $KEY "$@"
	[ -b /dev/mapper/judge ] || fail "no block device behind /dev/mapper/judge"
}

# small_disks MIB: /dev/ram0 and /dev/ram1 of that size, full of zeroes.
small_disks() {
	rmmod brd 2>/dev/null || true
	modprobe brd rd_nr=2 rd_size=$(($1 * 1024))
}

# both_ways DEVICE BLOCK [open options]: what luksmith writes dm-crypt reads bit for bit, and
# the other way round, over the whole volume; and both put the same bytes on the disk.
both_ways() {
	local device=$1 block=$2 mib sum
	shift 2
	open_volume "$device" ours "$@"
	mib=$(($(blockdev --getsize64 /dev/luksmith/ours) >> 20))
	noise /tmp/plain-1 $mib 1
	noise /tmp/plain-2 $mib 2
	[ "$(blockdev --getsize64 /dev/luksmith/ours)" = "$(stat -c %s /tmp/plain-1)" ] || fail "the volume is not whole MiB"
	dd if=/tmp/plain-1 of=/dev/luksmith/ours bs=1M oflag=direct status=none
	pieces "$block" /dev/luksmith/ours
	luksmith close ours
	pieces "$block" /tmp/plain-1
	sum=$(sha256sum <"$device")

	judge_opens "$device" "$@"
	same /tmp/plain-1 /dev/mapper/judge
	dd if=/tmp/plain-2 of=/dev/mapper/judge bs=1M oflag=direct status=none
	dd if=/tmp/plain-1 of=/dev/mapper/judge bs=1M oflag=direct status=none
	cryptsetup close judge
	[ "$(sha256sum <"$device")" = "$sum" ] || fail "dm-crypt puts other bytes on the disk"

	judge_opens "$device" "$@"
	dd if=/tmp/plain-2 of=/dev/mapper/judge bs=1M oflag=direct status=none
	pieces "$block" /dev/mapper/judge
	cryptsetup close judge
	pieces "$block" /tmp/plain-2
	open_volume "$device" ours "$@"
	same /tmp/plain-2 /dev/luksmith/ours
	luksmith close ours
	rm /tmp/plain-1 /tmp/plain-2
}

# pieces BLOCK TARGET: overwrites parts of odd length at odd places, in whole blocks.
pieces() {
	local block=$1 target=$2 direct= at
	[ ! -b "$target" ] || direct=oflag=direct
	[ -e /tmp/odd ] || noise /tmp/odd 1 3
	for at in 1 7 129 501; do
		dd if=/tmp/odd of="$target" bs="$block" skip=$((at % 100)) seek=$((at * 3)) count=$((at % 100 + 1)) conv=notrunc $direct status=none
	done
}

# What a check left open is closed, whatever state it is in.
leave_nothing_behind() {
	local name
	umount -l /mnt 2>/dev/null
	nbd-client -d /dev/nbd0 2>/dev/null
	if command -v luksmith >/dev/null; then
		for name in $(ls /run/luksmith 2>/dev/null); do timeout 10 luksmith close "$name"; done
	fi
	pkill -9 luksmith
	dmsetup remove_all --force --retry 2>/dev/null
	losetup -D
	return 0
}
