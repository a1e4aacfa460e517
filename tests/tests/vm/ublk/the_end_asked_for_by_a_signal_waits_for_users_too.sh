# At shutdown a service manager sends SIGTERM to everybody. In use, the volume stays.
# limit: 300
empty_disk /dev/vda
luksmith format --batch-mode --key-file $KEY $CHEAP /dev/vda
open_volume /dev/vda ours
mkfs.ext4 -q /dev/luksmith/ours
mount /dev/luksmith/ours /mnt
asked=0
for who in server keeper; do
	# Three signals at once are one question and get one answer.
	for signal in TERM INT HUP; do pkill -$signal -x luksmith-$who; done
	asked=$((asked + 1))
	noise /mnt/noise 2
	sync
	within 60 sh -c "[ \$(dmesg | grep -c 'asked to end, but it is in use; still serving') = $asked ]"
	pgrep -x luksmith-server && pgrep -x luksmith-keeper
done
[ "$(luksmith status ours --json | grep -o '"recoveries": *[0-9]*' | grep -o '[0-9]*')" = 0 ]
umount /mnt
udevadm settle
pkill -TERM -x luksmith-keeper
within 10 sh -c '! pgrep luksmith'
[ ! -e /run/luksmith/ours ] && [ ! -e /dev/luksmith/ours ]
judge_opens /dev/vda
fsck.ext4 -f -n /dev/mapper/judge >/dev/null
cryptsetup close judge
