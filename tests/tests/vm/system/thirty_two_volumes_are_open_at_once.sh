# 32 volumes on 32 files: all are written at the same time, each reads back its own data.
# limit: 600
mkfs.ext4 -q /dev/vda
mount /dev/vda /mnt
for i in $(seq 32); do
	truncate -s 8M /mnt/disk-$i
	luksmith format --batch-mode --key-file $KEY $CHEAP --luks2-keyslots-size 512K --label v$i /mnt/disk-$i
done
for i in $(seq 32); do open_volume /mnt/disk-$i v$i --queues 1 --queue-depth 16; done
luksmith list
[ "$(luksmith list --json | grep -o '"/dev/ublkb[0-9]*"' | sort -u | wc -l)" = 32 ]
jobs=()
for i in $(seq 32); do jobs+=(--name=v$i --filename=/dev/luksmith/v$i); done
fio --thread --rw=randwrite --bs=16k --size=1m --iodepth=4 --ioengine=libaio --direct=1 \
	--verify=crc32c --do_verify=1 --verify_fatal=1 --minimal "${jobs[@]}" >/tmp/fio.log 2>&1 || { cat /tmp/fio.log; fail "fio failed"; }
[ "$(grep -c '^3;' /tmp/fio.log)" = 32 ]
for i in $(seq 32); do printf 'volume %4d' $i | dd of=/dev/luksmith/v$i bs=4096 seek=600 conv=sync oflag=direct status=none; done
for i in $(seq 32); do
	[ "$(dd if=/dev/luksmith/v$i bs=4096 skip=600 count=1 iflag=direct status=none | tr -d '\0')" = "$(printf 'volume %4d' $i)" ]
done
for i in $(seq 32); do luksmith close v$i; done
[ -z "$(ls /dev/ublkb* 2>/dev/null)" ] || fail "devices are left"
within 10 sh -c '! pgrep luksmith'
for i in 1 17 32; do
	judge_opens /mnt/disk-$i
	[ "$(dd if=/dev/mapper/judge bs=4096 skip=600 count=1 iflag=direct status=none | tr -d '\0')" = "$(printf 'volume %4d' $i)" ]
	cryptsetup close judge
done
umount /mnt
