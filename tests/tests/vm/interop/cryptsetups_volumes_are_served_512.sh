# A volume that cryptsetup formatted, 512-byte sectors, a 256-bit key (AES-128).
# limit: 300
small_disks 24
cryptsetup luksFormat --batch-mode --type luks2 --key-file $KEY $CHEAP --sector-size 512 --key-size 256 /dev/ram0
both_ways /dev/ram0 512
