# 32 volumes on 32 files: all are written at the same time, each reads back its own data.
# limit: 600
mkfs.ext4 -q /dev/vda
mount /dev/vda /mnt
truncate -s 8M /mnt/disk-1
luksmith format --batch-mode --key-file $KEY $CHEAP --luks2-keyslots-size 512K /mnt/disk-1
for i in $(seq 2 32); do cp /mnt/disk-1 /mnt/disk-$i; done
for i in $(seq 32); do open_volume /mnt/disk-$i v$i --queues 1 --queue-depth 16; done
luksmith list
[ "$(luksmith list --json | grep -o '"/dev/ublkb[0-9]*"' | sort -u | wc -l)" = 32 ]
# Each volume gets a pattern of its own, so that fio notices one that reads another's data.
jobs=()
for i in $(seq 32); do jobs+=(--name=v$i --filename=/dev/luksmith/v$i --verify_pattern=$(printf '0x%02x5aa5' $i)); done
fio --thread --rw=randwrite --bs=16k --size=1m --iodepth=4 --ioengine=libaio --direct=1 \
	--verify=pattern --do_verify=1 --verify_fatal=1 --minimal "${jobs[@]}" >/tmp/fio.log 2>&1 || { cat /tmp/fio.log; fail "fio failed"; }
[ "$(grep -c '^3;' /tmp/fio.log)" = 32 ]
for i in $(seq 32); do luksmith close v$i; done
[ -z "$(ls /dev/ublkb* 2>/dev/null)" ] || fail "devices are left"
within 10 sh -c '! pgrep luksmith'
for i in 1 17 32; do
	judge_opens /mnt/disk-$i
	[ "$(od -An -tx1 -N3 /dev/mapper/judge | tr -d ' ')" = "$(printf '%02x5aa5' $i)" ] || fail "volume $i has other data for dm-crypt"
	cryptsetup close judge
done
umount /mnt
