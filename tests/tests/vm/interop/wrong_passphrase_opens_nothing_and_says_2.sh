# A wrong passphrase ends with cryptsetup's status 2 and leaves no device behind.
small_disks 24
luksmith format --batch-mode --key-file $KEY $CHEAP /dev/ram0
printf 'another one' >/tmp/wrong
refused 2 luksmith open /dev/ram0 ours --key-file /tmp/wrong
refused 2 cryptsetup open /dev/ram0 ours --key-file /tmp/wrong
[ ! -e /dev/luksmith/ours ]
[ -z "$(ls /dev/ublkb* 2>/dev/null)" ]
