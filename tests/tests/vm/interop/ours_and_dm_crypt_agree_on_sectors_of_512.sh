# A volume of luksmith with 512-byte sectors: both programs read what the other wrote, bit for bit.
# limit: 300
small_disks 24
luksmith format --batch-mode --key-file $KEY $CHEAP --sector-size 512 /dev/ram0
both_ways /dev/ram0 512
