# By a TPM of the kernel: our slot opens for systemd-cryptsetup, and for cryptsetup with the plug-in of systemd.
# limit: 240
# On Debian the systemd that vm-images/systemd brings; elsewhere the machine's own.
tree=/run/project/vm-images/cache/systemd-trixie/tree
if ! grep -q '^ID=debian' /etc/os-release; then tree=; fi
[ -d "$tree/" ] || fail "there is no $tree: vm-images/systemd brings it"
libraries=$tree/usr/lib/x86_64-linux-gnu
theirs() { # PROGRAM ARGUMENTS...
	local program=$tree$1
	shift
	if [ -z "$tree" ]; then "$program" "$@"; return; fi
	SYSTEMD_CRYPTSETUP_TOKEN_PATH=$libraries/cryptsetup \
		"$libraries/ld-linux-x86-64.so.2" --library-path "$libraries:$libraries/systemd" "$program" "$@"
}
modprobe -a tpm_vtpm_proxy dm_crypt
mkdir -p /tmp/tpm
swtpm chardev --vtpm-proxy --tpm2 --tpmstate dir=/tmp/tpm --daemon
within 20 test -c /dev/tpmrm0
measure() { tpm2_pcrextend -T device:/dev/tpmrm0 "7:sha256=$(printf '%064d' 7)"; }
measure
empty_disk /dev/vda
luksmith format --batch-mode --key-file $KEY $CHEAP /dev/vda
luksmith enroll /dev/vda --unlock-key-file $KEY --tpm2-device=auto --tpm2-pcrs=7
luksmith open /dev/vda ours --token-only
noise /tmp/noise 2
dd if=/tmp/noise of=/dev/luksmith/ours bs=1M oflag=direct status=none
luksmith close ours

attach() { theirs /usr/bin/systemd-cryptsetup attach judge /dev/vda - tpm2-device=auto,headless; }
plug_in() { theirs /usr/sbin/cryptsetup open --token-only --external-tokens-path "$libraries/cryptsetup" /dev/vda judge; }
for by in attach plug_in; do
	$by
	dd if=/dev/mapper/judge of=/tmp/back bs=1M count=2 iflag=direct status=none
	same /tmp/noise /tmp/back
	cryptsetup close judge
done

# What was measured does not come back.
measure
refused 2 luksmith open /dev/vda ours --token-only
for by in attach plug_in; do
	! $by || fail "$by opens it though PCR 7 has another value"
done
pkill swtpm
