# A file system under load, cut off at a sample of its flushes: it always mounts and is clean.
# limit: 300
small_disks 96
truncate -s 600M /tmp/log.img
log=$(losetup -f --show /tmp/log.img)
luksmith format --batch-mode --key-file $KEY $CHEAP /dev/ram0
dd if=/dev/ram0 of=/dev/ram1 bs=1M count=16 oflag=direct status=none
dmsetup create logged --table "0 $(blockdev --getsz /dev/ram0) log-writes /dev/ram0 $log"
open_volume /dev/mapper/logged ours
mkfs.ext4 -q /dev/luksmith/ours
sync
dmsetup message logged 0 mark made
mount -o commit=1 /dev/luksmith/ours /mnt
fio --name=load --directory=/mnt --rw=randwrite --bs=4k --size=8m --numjobs=2 --fsync=16 \
	--time_based --runtime=4 --randrepeat=1 --minimal >/dev/null
for i in $(seq 20); do mkdir -p /mnt/d$i && cp /etc/services /mnt/d$i/ && sync /mnt/d$i/services && rm -rf /mnt/d$((i - 3)); done
umount /mnt
luksmith close ours
dmsetup remove logged

replay-log "$log" list >/tmp/entries
made=$(grep -nE ' made$' /tmp/entries | cut -d: -f1)
before=$(head -n "$made" /tmp/entries | awk '$2 ~ /F|U/' | wc -l)
all=$(awk '$2 ~ /F|U/' /tmp/entries | wc -l)
echo "flushes: $all, of these $before while the file system was made"
[ $((all - before)) -ge 20 ] || fail "only $((all - before)) flushes reached the disk"
for step in 1 2 3 4 5; do
	replay-log "$log" /dev/ram1 flush $((before + (all - before - 1) * step / 5))
	judge_opens /dev/ram1
	# As after a power cut: the journal is replayed, then nothing may be wrong.
	fsck.ext4 -p /dev/mapper/judge || [ $? -le 1 ]
	fsck.ext4 -f -n /dev/mapper/judge >/dev/null || fail "not clean after flush step $step"
	cryptsetup close judge
done
losetup -d "$log"
