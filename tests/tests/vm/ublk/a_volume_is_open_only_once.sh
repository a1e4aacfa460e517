empty_disk /dev/vda
luksmith format --batch-mode --key-file $KEY $CHEAP /dev/vda
open_volume /dev/vda ours
refused 5 luksmith open /dev/vda ours --key-file $KEY
refused 5 luksmith open /dev/vda other --key-file $KEY
ln -s /dev/vda /tmp/alias
refused 5 luksmith open /tmp/alias other --key-file $KEY
refused 5 cryptsetup open /dev/vda judge --key-file $KEY
refused 32 mount /dev/vda /mnt
[ "$(ls /run/luksmith)" = ours ]
# Dying servers do not give the disk away.
pkill -9 -x luksmith-server
refused 5 cryptsetup open /dev/vda judge --key-file $KEY
luksmith close ours
# And the other way round.
judge_opens /dev/vda
refused 5 luksmith open /dev/vda ours --key-file $KEY
cryptsetup close judge
# A file can be claimed too.
truncate -s 32M /tmp/disk
luksmith format --batch-mode --key-file $KEY $CHEAP /tmp/disk
if open_volume /tmp/disk file --buffered; then
	refused 5 luksmith open /tmp/disk other --key-file $KEY --buffered
	luksmith close file
fi
