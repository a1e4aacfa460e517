# kill -9 of the server, again and again, under a writer that verifies: no error, no lost write.
# processors: 2
# limit: 400
empty_disk /dev/vda
luksmith format --batch-mode --key-file $KEY $CHEAP /dev/vda
open_volume /dev/vda ours --queues 2 --queue-depth 32
mkfs.ext4 -q /dev/luksmith/ours
mount /dev/luksmith/ours /mnt
noise /mnt/before 8 1
sync
fio --name=load --directory=/mnt --rw=randwrite --bsrange=4k-128k --size=16m --numjobs=2 --iodepth=16 \
	--ioengine=libaio --direct=1 --verify=crc32c --verify_backlog=64 --verify_fatal=1 --fsync=32 \
	--time_based --runtime=25 --output=/tmp/fio &
fio=$!
kills=0
while kill -0 $fio 2>/dev/null; do
	server=$(pgrep -x luksmith-server) || { pause 0.1; continue; }
	kill -9 "$server"
	kills=$((kills + 1))
	[ $kills -lt 12 ] || break
	sleep 1.5
done
wait $fio || { cat /tmp/fio; fail "the writer got an error"; }
! grep -q 'err= *[1-9]' /tmp/fio || { cat /tmp/fio; fail "the writer got an error"; }
[ $kills -ge 5 ] || fail "only $kills servers were killed"
within 20 pgrep -x luksmith-server
# The page cache must not hide what the disk has.
sync
echo 3 >/proc/sys/vm/drop_caches
noise /tmp/before 8 1
same /tmp/before /mnt/before
[ "$(luksmith status ours --json | grep -o '"recoveries": *[0-9]*' | grep -o '[0-9]*')" = $kills ]
umount /mnt
fsck.ext4 -f -n /dev/luksmith/ours >/dev/null
! dmesg | grep -E 'I/O error|lost async page write|Buffer I/O' || fail "the kernel saw an error"
luksmith close ours
judge_opens /dev/vda
fsck.ext4 -f -n /dev/mapper/judge >/dev/null
cryptsetup close judge
