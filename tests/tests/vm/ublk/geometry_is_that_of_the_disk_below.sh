# Disks of 512 bytes, of 4096 bytes that say 512, and of 4096 bytes; each with both sector sizes.
# limit: 600
for disk in "512 0" "512 3" "4096 0"; do
	read -r size exponent <<<"$disk"
	modprobe scsi_debug dev_size_mb=12 sector_size=$size physblk_exp=$exponent delay=0
	udevadm settle
	below=/dev/$(ls /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block)
	[ "$(blockdev --getss $below)" = $size ]
	for sector in 512 4096; do
		echo "disk of $size << $exponent, sectors of $sector"
		dd if=/dev/zero of=$below bs=1M count=12 oflag=direct status=none
		if [ $size -gt $sector ]; then
			# We make no such volume, cryptsetup does, and it must open.
			refused 1 luksmith format --batch-mode --key-file $KEY $CHEAP --luks2-keyslots-size 1M --sector-size $sector $below
			cryptsetup luksFormat --type luks2 -q --key-file $KEY $CHEAP --luks2-keyslots-size 1m --sector-size $sector $below
		else
			luksmith format --batch-mode --key-file $KEY $CHEAP --luks2-keyslots-size 1M --sector-size $sector $below
		fi
		open_volume $below ours
		device=/dev/luksmith/ours
		logical=$((size > sector ? size : sector))
		physical=$((size << exponent))
		[ "$(blockdev --getss $device)" = $logical ]
		[ "$(blockdev --getpbsz $device)" = $((physical > logical ? physical : logical)) ]
		[ "$(($(blockdev --getsize64 $device) % sector))" = 0 ]
		noise /tmp/noise 4
		dd if=/tmp/noise of=$device bs=$logical seek=3 count=300 oflag=direct status=none
		dd if=/tmp/noise of=$device bs=1M seek=4 oflag=direct status=none
		sum=$(sha256sum <$device)
		luksmith close ours
		judge_opens $below
		[ "$(blockdev --getss /dev/mapper/judge)" = $logical ] || fail "dm-crypt has another logical block"
		[ "$(sha256sum </dev/mapper/judge)" = "$sum" ] || fail "dm-crypt reads other bytes"
		cryptsetup close judge
	done
	udevadm settle
	within 10 rmmod scsi_debug
done
