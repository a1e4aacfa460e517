# Mounted, swapped to, stacked upon, opened: close refuses and says by whom; the volume serves on.
# limit: 300
empty_disk /dev/vda
luksmith format --batch-mode --key-file $KEY $CHEAP /dev/vda
open_volume /dev/vda ours
device=/dev/luksmith/ours
still_there() {
	refused 5 luksmith close ours 2>/tmp/said
	cat /tmp/said
	grep -q "$1" /tmp/said || fail "close does not name $1"
	dd if=$device of=/dev/null bs=64k count=1 iflag=direct status=none
}
mkfs.ext4 -q $device
mount $device /mnt
still_there /mnt
luksmith status ours --json | grep -q '"/mnt"'
umount /mnt
# A mount that this process cannot see.
unshare -m --propagation private sh -c "mount $device /mnt && touch /tmp/mounted && exec sleep 100" &
hidden=$!
within 10 test -e /tmp/mounted
refused 5 luksmith close ours
kill $hidden
wait $hidden || true
dmsetup create on-top --table "0 $(blockdev --getsz $device) linear $device 0"
still_there dm-
dmsetup remove on-top
mkswap $device >/dev/null
swapon $device
still_there swap
swapoff $device
exec 9<$device
still_there "process $$"
exec 9<&-
luksmith close ours
