# The kernel's NBD client over our Unix socket: a file system, and dm-crypt reads it afterwards.
# limit: 300
small_disks 64
modprobe nbd
cryptsetup luksFormat --batch-mode --type luks2 --key-file $KEY $CHEAP --sector-size 4096 /dev/ram0
luksmith serve /dev/ram0 --socket /run/nbd.sock --key-file $KEY &
server=$!
within 20 test -S /run/nbd.sock
nbd-client -unix /run/nbd.sock /dev/nbd0 -b 4096
mkfs.ext4 -q /dev/nbd0
mount /dev/nbd0 /mnt
noise /mnt/noise 16
sum=$(sha256sum </mnt/noise)
umount /mnt
mount /dev/nbd0 /mnt
[ "$(sha256sum </mnt/noise)" = "$sum" ]
umount /mnt
nbd-client -d /dev/nbd0
kill -TERM $server
wait $server || [ $? = 143 ]
judge_opens /dev/ram0
fsck.ext4 -f -n /dev/mapper/judge
mount -o ro /dev/mapper/judge /mnt
[ "$(sha256sum </mnt/noise)" = "$sum" ]
umount /mnt
cryptsetup close judge
