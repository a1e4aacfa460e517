nothing_left() {
	[ -z "$(ls /run/luksmith 2>/dev/null)" ] || fail "a name is left"
	[ -z "$(ls /dev/ublk[bc]* 2>/dev/null)" ] || fail "a device is left"
	within 5 sh -c '! pgrep luksmith'
}
empty_disk /dev/vda
luksmith format --batch-mode --key-file $KEY $CHEAP /dev/vda
printf wrong >/tmp/wrong
refused 2 luksmith open /dev/vda ours --key-file /tmp/wrong
nothing_left
refused 1 luksmith open /dev/vda a/b --key-file $KEY
nothing_left
mkfs.ext4 -q /dev/vdb
mount /dev/vdb /mnt
refused 5 luksmith open /dev/vdb ours --key-file $KEY || [ $? = 1 ]
umount /mnt
nothing_left
# No room for the device: the driver's own limit.
if [ -w /sys/module/ublk_drv/parameters/ublks_max ]; then
	was=$(cat /sys/module/ublk_drv/parameters/ublks_max)
	echo 0 >/sys/module/ublk_drv/parameters/ublks_max
	luksmith open /dev/vda ours --key-file $KEY && { luksmith close ours; echo "the limit does not count us"; }
	echo "$was" >/sys/module/ublk_drv/parameters/ublks_max
	nothing_left
fi
# The device is added and cannot be served: a folder stands where its node would appear.
mkdir /dev/ublkc0
refused 1 luksmith open /dev/vda ours --key-file $KEY 2>/tmp/said
cat /tmp/said
grep -q /dev/ublkc0 /tmp/said || fail "it failed before the device was added"
rmdir /dev/ublkc0
[ -z "$(ls /sys/class/ublk-char 2>/dev/null)" ] || fail "the driver has a device"
nothing_left
# And then it opens; with the longest name there is.
long=$(printf 'n%.0s' $(seq 127))
open_volume /dev/vda "$long"
luksmith status "$long" >/dev/null
luksmith close "$long"
nothing_left
