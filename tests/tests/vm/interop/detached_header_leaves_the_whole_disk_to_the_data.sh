# A header in a file of its own: the data begins at the disk's first byte, for both programs.
# limit: 300
small_disks 24
luksmith format --batch-mode --key-file $KEY $CHEAP --sector-size 512 --header /tmp/header /dev/ram0
both_ways /dev/ram0 512 --header /tmp/header
open_volume /dev/ram0 ours --header /tmp/header
[ "$(blockdev --getsize64 /dev/luksmith/ours)" = "$(blockdev --getsize64 /dev/ram0)" ]
luksmith close ours
