# LVM on a volume: found by udev at each open, with its data; it keeps the volume from being closed, passes
# discards only when they are allowed, and grows with the disk.
export LVM_SUPPRESS_FD_WARNINGS=1
modprobe dm-mod
truncate -s 160M /tmp/disk.img
disk=$(losetup -f --show /tmp/disk.img)
luksmith format --batch-mode --key-file $KEY $CHEAP "$disk"
open_volume "$disk" ours --allow-discards
pvcreate -q /dev/luksmith/ours
vgcreate -q vg /dev/luksmith/ours
lvcreate -q -y -L 60M -n root vg
lvcreate -q -y -L 20M -n swap vg
mkfs.ext4 -q /dev/vg/root
mkswap -q /dev/mapper/vg-swap
mount /dev/vg/root /mnt
noise /mnt/file 20
sum=$(sha256sum </mnt/file)
refused 5 luksmith close ours
before=$(stat -c %b /tmp/disk.img)
rm /mnt/file
sync
fstrim /mnt
[ $((before - $(stat -c %b /tmp/disk.img))) -gt 20000 ] || fail "the discards did not reach the disk"
noise /mnt/file 20
umount /mnt
refused 5 luksmith close ours
vgchange -q -an vg
luksmith close ours

losetup -d "$disk"
truncate -s 200M /tmp/disk.img
disk=$(losetup -f --show /tmp/disk.img)
open_volume "$disk" ours
# Nobody activates it but udev.
within 30 test -b /dev/mapper/vg-root
[ "$(cat "/sys/class/block/$(basename "$(readlink -f /dev/mapper/vg-root)")/queue/discard_max_bytes")" = 0 ] ||
	fail "a discard would leave a volume that does not allow them"
pvresize -q /dev/luksmith/ours
lvextend -q -L +50M /dev/vg/root
mount /dev/vg/root /mnt
resize2fs /dev/vg/root
[ "$(sha256sum </mnt/file)" = "$sum" ] || fail "the file is another"
[ "$(df --output=size -k /mnt | tail -n 1)" -gt 90000 ] || fail "the file system did not grow"
swapon /dev/mapper/vg-swap
swapoff /dev/mapper/vg-swap
umount /mnt
vgchange -q -an vg
luksmith close ours
losetup -d "$disk"
