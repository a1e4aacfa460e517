# dm-log-writes below our device: after each fsync, and after each O_DSYNC write, a disk that
# kept only what it had to keep still has the file; a file that was not synced is not there yet.
# limit: 300
small_disks 96
truncate -s 400M /tmp/log.img
log=$(losetup -f --show /tmp/log.img)
dmsetup create logged --table "0 $(blockdev --getsz /dev/ram0) log-writes /dev/ram0 $log"
mark() { dmsetup message logged 0 mark "$1"; }

luksmith format --batch-mode --key-file $KEY $CHEAP --sector-size 4096 /dev/mapper/logged
open_volume /dev/mapper/logged ours
mkfs.ext4 -q /dev/luksmith/ours
mount /dev/luksmith/ours /mnt
for i in 1 2 3; do
	noise /tmp/file-$i 2 $i
	dd if=/tmp/file-$i of=/mnt/file-$i bs=64k conv=fsync status=none
	sync /mnt
	mark synced-$i
done
# O_DIRECT and O_DSYNC: the block layer asks for a FUA write.
dd if=/tmp/file-1 of=/mnt/preallocated bs=1M conv=fsync status=none
dd if=/tmp/file-2 of=/mnt/preallocated bs=64k oflag=direct,dsync conv=notrunc status=none
mark dsynced
dd if=/tmp/file-3 of=/mnt/not-synced bs=64k status=none
mark not-synced
umount /mnt
# On the raw device, without a file system that flushes by itself.
dd if=/tmp/file-1 of=/dev/luksmith/ours bs=4k count=16 oflag=direct status=none
mark raw-not-flushed
# Another block: the log has a FUA write before older writes that were not flushed yet.
dd if=/tmp/file-3 of=/dev/luksmith/ours bs=4k seek=32 count=1 oflag=direct,dsync status=none
mark raw-flushed
luksmith close ours
dmsetup remove logged
replay-log "$log" list | tail -n 40

power_cut_at() { # MARK: /dev/ram1 as the disk has it then, opened by dm-crypt
	replay-log "$log" /dev/ram1 "$1"
	judge_opens /dev/ram1
}
small_sum() { head -c "$1" "$2" | sha256sum; }

for i in 1 2 3; do
	power_cut_at synced-$i
	mount /dev/mapper/judge /mnt
	for j in $(seq $i); do same /tmp/file-$j /mnt/file-$j; done
	[ ! -e /mnt/file-$((i + 1)) ] || fail "the log is not in order: file-$((i + 1)) is there too early"
	umount /mnt
	fsck.ext4 -f -n /dev/mapper/judge >/dev/null
	cryptsetup close judge
done
power_cut_at dsynced
mount /dev/mapper/judge /mnt
same /tmp/file-2 /mnt/preallocated
umount /mnt
cryptsetup close judge

# The test of the test: without a flush the data is not there.
power_cut_at not-synced
mount /dev/mapper/judge /mnt
if cmp -s /tmp/file-3 /mnt/not-synced; then fail "a file that nobody synced is there: this test proves nothing"; fi
umount /mnt
cryptsetup close judge
power_cut_at raw-not-flushed
if [ "$(small_sum 65536 /dev/mapper/judge)" = "$(small_sum 65536 /tmp/file-1)" ]; then fail "unflushed data is there: this test proves nothing"; fi
cryptsetup close judge

power_cut_at raw-flushed
block_32() { dd if="$1" bs=4k skip=32 count=1 status=none | sha256sum; }
[ "$(block_32 /dev/mapper/judge)" = "$(small_sum 4096 /tmp/file-3)" ] || fail "an O_DSYNC write is lost"
cryptsetup close judge

# And the last state is what luksmith itself opens.
open_volume /dev/ram1 ours
[ "$(block_32 /dev/luksmith/ours)" = "$(small_sum 4096 /tmp/file-3)" ]
luksmith close ours
losetup -d "$log"
