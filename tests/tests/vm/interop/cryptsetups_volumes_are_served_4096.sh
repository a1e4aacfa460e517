# A volume that cryptsetup formatted, 4096-byte sectors, argon2id.
# limit: 300
small_disks 24
cryptsetup luksFormat --batch-mode --type luks2 --key-file $KEY --sector-size 4096 \
	--pbkdf argon2id --pbkdf-memory 8192 --pbkdf-parallel 2 --pbkdf-force-iterations 4 /dev/ram0
both_ways /dev/ram0 4096
