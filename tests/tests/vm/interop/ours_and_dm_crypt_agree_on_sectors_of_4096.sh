# A volume of luksmith with 4096-byte sectors and the default key derivation, made cheap.
# limit: 300
small_disks 24
luksmith format --batch-mode --key-file $KEY --sector-size 4096 \
	--pbkdf argon2id --pbkdf-memory 8192 --pbkdf-parallel 2 --pbkdf-force-iterations 4 /dev/ram0
both_ways /dev/ram0 4096
