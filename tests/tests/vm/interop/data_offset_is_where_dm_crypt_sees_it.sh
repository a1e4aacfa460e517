# Data at an offset of its own, with the header on the disk and in a file.
# limit: 300
small_disks 32
luksmith format --batch-mode --key-file $KEY $CHEAP --sector-size 4096 --offset 49152 /dev/ram0
both_ways /dev/ram0 4096
cryptsetup luksFormat --batch-mode --type luks2 --key-file $KEY $CHEAP --sector-size 512 --offset 49152 --header /tmp/header /dev/ram1
both_ways /dev/ram1 512 --header /tmp/header
