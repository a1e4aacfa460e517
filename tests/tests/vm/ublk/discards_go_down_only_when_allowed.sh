# limit: 300
empty_disk /dev/vda
mkfs.ext4 -q /dev/vda
mount /dev/vda /mnt
truncate -s 128M /mnt/disk
luksmith format --batch-mode --key-file $KEY $CHEAP --sector-size 4096 /mnt/disk
noise /tmp/noise 32
used() { du -k /mnt/disk | cut -f1; }
property() { cat "/sys/block/$(basename "$(readlink -f /dev/luksmith/ours)")/queue/$1"; }

open_volume /mnt/disk ours
dd if=/tmp/noise of=/dev/luksmith/ours bs=1M oflag=direct status=none
full=$(used)
[ "$(property discard_max_bytes)" = 0 ]
refused 1 blkdiscard /dev/luksmith/ours
[ "$(used)" -ge "$full" ] || fail "a discard went down that nobody allowed"
luksmith close ours

open_volume /mnt/disk ours --allow-discards
[ "$(property discard_max_bytes)" -gt 0 ]
[ "$(property discard_granularity)" -ge 4096 ]
# Zeroes are never a short command: they are encrypted like everything else.
[ "$(property write_zeroes_max_bytes)" = 0 ]
blkdiscard -o 0 -l $((16 << 20)) /dev/luksmith/ours
sync
[ "$(used)" -le $((full - 15000)) ] || fail "the discard gave no room back: $full, then $(used)"
dd if=/dev/luksmith/ours bs=1M skip=16 iflag=direct count=16 status=none | cmp - <(tail -c $((16 << 20)) /tmp/noise)
blkdiscard -z -o 0 -l $((1 << 20)) /dev/luksmith/ours
dd if=/dev/luksmith/ours bs=1M count=1 iflag=direct status=none | cmp -n $((1 << 20)) - /dev/zero
mkfs.ext4 -q /dev/luksmith/ours
mkdir /tmp/inner
mount -o discard /dev/luksmith/ours /tmp/inner
noise /tmp/inner/file 16
sync
rm /tmp/inner/file
sync
fstrim /tmp/inner
umount /tmp/inner
fsck.ext4 -f -n /dev/luksmith/ours >/dev/null
luksmith close ours
umount /mnt
