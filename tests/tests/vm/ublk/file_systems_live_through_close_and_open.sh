# format -> open -> file system -> mount -> fio with verification -> fsck -> close -> open again.
# processors: 2
# limit: 600
load() { # DIRECTORY
	fio --name=load --directory="$1" --rw=randwrite --bsrange=4k-256k --size=12m --numjobs=2 --iodepth=8 \
		--ioengine=libaio --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1 --minimal >/tmp/fio ||
		{ cat /tmp/fio; fail "fio found wrong data"; }
	noise "$1/noise" 8 3
}
for kind in ext4 xfs; do
	sector=4096
	[ $kind = xfs ] || sector=512
	empty_disk /dev/vda
	luksmith format --batch-mode --key-file $KEY $CHEAP --sector-size $sector /dev/vda
	open_volume /dev/vda ours --queues 2
	mkfs.$kind -q /dev/luksmith/ours
	mount /dev/luksmith/ours /mnt
	load /mnt
	umount /mnt
	case $kind in
	ext4) fsck.ext4 -f -n /dev/luksmith/ours >/dev/null ;;
	xfs) xfs_repair -n /dev/luksmith/ours >/dev/null 2>&1 ;;
	esac
	luksmith close ours
	[ ! -e /dev/luksmith/ours ] || fail "the name outlives the volume"
	! pgrep luksmith || fail "a process outlives the volume"

	open_volume /dev/vda ours --readonly
	[ "$(blockdev --getro /dev/luksmith/ours)" = 1 ]
	mount -o ro /dev/luksmith/ours /mnt
	noise /tmp/noise 8 3
	same /tmp/noise /mnt/noise
	refused 1 dd if=/dev/zero of=/dev/luksmith/ours count=1 status=none
	umount /mnt
	luksmith close ours
	# Every write of ours went through O_DIRECT and was flushed: dm-crypt sees the same file system.
	judge_opens /dev/vda
	mount -o ro /dev/mapper/judge /mnt
	same /tmp/noise /mnt/noise
	umount /mnt
	cryptsetup close judge
done
