# The kernel has ublk, dm-crypt and the devices that can fail and log.
for module in ublk_drv dm-crypt dm-log-writes dm-flakey null_blk brd loop scsi_debug nbd xfs; do
	modprobe -n "$module"
done
test -c /dev/ublk-control
test "$(cat /proc/sys/kernel/io_uring_disabled)" = 0
