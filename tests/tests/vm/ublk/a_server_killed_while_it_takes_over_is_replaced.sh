# kill -9 at any moment, also of a server that is about to take over, and with every tag in its hands.
# processors: 2
# limit: 300
empty_disk /dev/vda
luksmith format --batch-mode --key-file $KEY $CHEAP /dev/vda
open_volume /dev/vda ours --queues 2 --queue-depth 4
mkfs.ext4 -q /dev/luksmith/ours
mount /dev/luksmith/ours /mnt
fio --name=load --directory=/mnt --rw=randwrite --bsrange=4k-128k --size=8m --numjobs=2 --iodepth=16 \
	--ioengine=libaio --direct=1 --verify=crc32c --verify_backlog=64 --verify_fatal=1 --fsync=32 \
	--time_based --runtime=28 --output=/tmp/fio &
fio=$!
within 30 test -e /mnt/load.1.0
for kill in 1 2 3 4 5 6; do
	kill -0 $fio || break
	before=$(dmesg | grep -c "luksmith: ours: ublkb[0-9]* is served by")
	# Again and again until one of them serves; 14 within a minute are still replaced.
	for again in 1 2; do
		within 10 pgrep -x luksmith-server >/dev/null
		pkill -9 -x luksmith-server || true
		pause 0.$((RANDOM % 3))$((RANDOM % 10))
	done
	within 20 sh -c "[ \$(dmesg | grep -c 'luksmith: ours: ublkb[0-9]* is served by') -gt $before ]"
	sleep 1
done
wait $fio || { cat /tmp/fio; fail "the writer got an error"; }
! grep -q 'err= *[1-9]' /tmp/fio || { cat /tmp/fio; fail "the writer got an error"; }
umount /mnt
fsck.ext4 -f -n /dev/luksmith/ours >/dev/null
! dmesg | grep -E 'I/O error|lost async page write|Buffer I/O' || fail "the kernel saw an error"
luksmith close ours
judge_opens /dev/vda
cryptsetup close judge
