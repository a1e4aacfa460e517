# udev: /dev/luksmith/NAME, by-id by volume, by-uuid and by-label by file system, and all gone after close;
# /dev/mapper/NAME for a name of crypttab, unless device-mapper has a device of that name.
small_disks 64
uuid=11111111-2222-3333-4444-555555555555
luksmith format --batch-mode --key-file $KEY $CHEAP --uuid $uuid /dev/ram0
open_volume /dev/ram0 ours
device=$(readlink -f /dev/luksmith/ours)
udevadm settle --timeout=20
points_there() { [ "$(readlink -f "$1")" = "$device" ]; }
ls -l /dev/luksmith /dev/disk/by-id
within 5 points_there /dev/luksmith/ours
within 5 sh -c 'ls /dev/disk/by-id | grep -q "^luksmith-"'
for link in /dev/disk/by-id/luksmith-*; do points_there "$link" || fail "$link leads elsewhere"; done
ls /dev/disk/by-id | grep -q $uuid || fail "no link names the UUID of the volume"
[ ! -e /dev/mapper/ours ] || fail "/dev/mapper is for names of crypttab"
echo "ours UUID=$uuid none luks" >/etc/crypttab
udevadm trigger --settle "$device"
points_there /dev/mapper/ours || fail "no /dev/mapper/ours for a name of crypttab"
mkfs.ext4 -q -L my-label -U aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee "$device"
within 10 points_there /dev/disk/by-uuid/aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee
within 10 points_there /dev/disk/by-label/my-label
# As an initramfs finds root=UUID=...
[ "$(blkid -c /dev/null -l -t UUID=aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee -o device)" = "$device" ] || fail "blkid does not find it"
mount /dev/disk/by-label/my-label /mnt
refused 5 luksmith close ours
umount /mnt
luksmith close ours
udevadm settle --timeout=20
within 5 test ! -e /dev/luksmith/ours
within 5 test ! -e /dev/disk/by-label/my-label
within 5 test ! -e /dev/mapper/ours
dmsetup create ours --table "0 8 zero"
open_volume /dev/ram0 ours
udevadm settle --timeout=20
case $(readlink -f /dev/mapper/ours) in /dev/dm-*) ;; *) fail "the name of another device was taken" ;; esac
luksmith close ours
dmsetup remove ours
rm /etc/crypttab
udevadm settle --timeout=20
[ -z "$(ls /dev/disk/by-id | grep '^luksmith-')" ] || fail "links are left"
