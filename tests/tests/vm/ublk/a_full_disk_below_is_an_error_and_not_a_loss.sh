# A sparse file on a file system that fills up: the writer gets an error, what was there stays,
# and when there is room again everything goes on.
empty_disk /dev/vda
mkfs.ext4 -q -m 0 /dev/vda 64M
mount /dev/vda /mnt
truncate -s 256M /mnt/disk
luksmith format --batch-mode --key-file $KEY $CHEAP /mnt/disk
open_volume /mnt/disk ours
device=/dev/luksmith/ours
noise /tmp/noise 4
dd if=/tmp/noise of=$device bs=1M oflag=direct status=none
dd if=/dev/zero of=/mnt/filler bs=1M status=none 2>/dev/null || true
dd if=/dev/zero of=/mnt/filler2 bs=4k status=none 2>/dev/null || true
sync
refused 1 dd if=/tmp/noise of=$device bs=1M seek=100 oflag=direct status=none 2>/tmp/said
cat /tmp/said
grep -qi 'no space\|input/output' /tmp/said
dd if=$device bs=1M count=4 iflag=direct status=none | cmp - /tmp/noise
pgrep -x luksmith-server >/dev/null
rm /mnt/filler /mnt/filler2
sync
dd if=/tmp/noise of=$device bs=1M seek=100 oflag=direct status=none
dd if=$device bs=1M skip=100 count=4 iflag=direct status=none | cmp - /tmp/noise
luksmith close ours
umount /mnt
