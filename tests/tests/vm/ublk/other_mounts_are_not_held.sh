# A volume stays open for months; what the host unmounts meanwhile must be free.
mkfs.ext4 -q /dev/vdb
mount /dev/vdb /mnt
empty_disk /dev/vda
luksmith format --batch-mode --key-file $KEY $CHEAP /dev/vda
open_volume /dev/vda ours
umount /mnt
# Exclusive: fails as long as anybody has it mounted, in whatever name space.
fsck.ext4 -f -p /dev/vdb
mkfs.ext4 -q -F /dev/vdb
# And a mount of our own device is not seen by our processes.
mkfs.ext4 -q /dev/luksmith/ours
mount /dev/luksmith/ours /mnt
for pid in $(pgrep luksmith); do ! grep ublkb /proc/$pid/mountinfo || fail "$pid has its own device mounted"; done
umount /mnt
luksmith close ours
