# cryptsetup and dm-crypt of the machine work in the guest, with udev.
cryptsetup luksFormat --batch-mode --type luks2 $CHEAP /dev/vda $KEY
cryptsetup open /dev/vda judge --key-file $KEY
within 10 test -e /dev/disk/by-id/dm-name-judge
mkfs.ext4 -q /dev/mapper/judge
mount /dev/mapper/judge /mnt
umount /mnt
cryptsetup close judge
