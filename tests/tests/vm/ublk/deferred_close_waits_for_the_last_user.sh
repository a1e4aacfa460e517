# limit: 300
empty_disk /dev/vda
luksmith format --batch-mode --key-file $KEY $CHEAP /dev/vda
state() { luksmith status ours --json | grep -o '"state": *"[a-z-]*"'; }
open_volume /dev/vda ours
mkfs.ext4 -q /dev/luksmith/ours
mount /dev/luksmith/ours /mnt
luksmith close ours --deferred
state | grep -q close-pending
sleep 1
noise /mnt/noise 4
# What is pending outlives the server.
pkill -9 -x luksmith-server
within 20 pgrep -x luksmith-server
state | grep -q close-pending
luksmith close ours --cancel-deferred
state | grep -q live
umount /mnt
sleep 1
state | grep -q live || fail "a cancelled close happened"

mount /dev/luksmith/ours /mnt
luksmith close ours --deferred
umount /mnt
within 10 test ! -e /run/luksmith/ours
within 10 sh -c '! pgrep luksmith'
[ ! -e /dev/luksmith/ours ]
# Unused, deferred is now.
open_volume /dev/vda ours
mount /dev/luksmith/ours /mnt
same /mnt/noise <(noise /tmp/noise 4; cat /tmp/noise)
umount /mnt
luksmith close ours --deferred
within 10 test ! -e /run/luksmith/ours
