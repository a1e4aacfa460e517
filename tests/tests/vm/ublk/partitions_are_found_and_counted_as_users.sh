empty_disk /dev/vda
luksmith format --batch-mode --key-file $KEY $CHEAP --sector-size 512 /dev/vda
open_volume /dev/vda ours
device=$(readlink -f /dev/luksmith/ours)
# Two partitions of 64 MiB in an MBR: type 83, first sectors 2048 and 133120.
{
	head -c 446 /dev/zero
	printf '\0\0\0\0\203\0\0\0\000\010\000\000\000\000\002\000'
	printf '\0\0\0\0\203\0\0\0\000\010\002\000\000\000\002\000'
	head -c 32 /dev/zero
	printf '\125\252'
} | dd of="$device" bs=512 count=1 iflag=fullblock conv=fsync status=none
within 5 blockdev --rereadpt "$device"
within 10 test -b "${device}p2"
mkfs.ext4 -q "${device}p2"
# The table is read again meanwhile, so the link may go and come.
udevadm settle --timeout=20
points_there() { [ "$(readlink -f /dev/luksmith/ours-part2)" = "${device}p2" ]; }
within 10 points_there
mount "${device}p2" /mnt
refused 5 luksmith close ours 2>/tmp/said
grep -q "p2 is mounted at /mnt" /tmp/said || { cat /tmp/said; fail "the mount is not named"; }
umount /mnt
luksmith close ours
# They are there again at the next open, since the device serves before it starts.
open_volume /dev/vda ours
within 10 test -e /dev/luksmith/ours-part2
luksmith close ours
within 10 test ! -e /dev/luksmith/ours-part2
