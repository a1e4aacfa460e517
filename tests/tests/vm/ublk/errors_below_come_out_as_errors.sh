# A disk with a bad stretch: reads and writes there fail, everything else is served; a failed
# flush is never forgotten.
# limit: 300
small_disks 64
luksmith format --batch-mode --key-file $KEY $CHEAP --sector-size 4096 /dev/ram0
sectors=$(blockdev --getsz /dev/ram0)
bad=65536 # the stretch begins at 32 MiB and is 1 MiB long
dmsetup create below <<T
0 $bad linear /dev/ram0 0
$bad 2048 error
$((bad + 2048)) $((sectors - bad - 2048)) linear /dev/ram0 $((bad + 2048))
T
open_volume /dev/mapper/below ours
device=/dev/luksmith/ours
offset=$(($(luksmith status ours --json | grep -o '"data_offset_bytes": *[0-9]*' | grep -o '[0-9]*')))
first=$(((bad * 512 - offset) / 4096)) # first bad block of the volume
noise /tmp/noise 1
dd if=/tmp/noise of=$device bs=4k count=64 seek=$((first - 64)) oflag=direct status=none
dd if=/tmp/noise of=$device bs=4k count=64 seek=$((first + 256)) oflag=direct status=none
for at in $first $((first + 255)); do
	refused 1 dd if=$device of=/dev/null bs=4k count=1 skip=$at iflag=direct status=none
	refused 1 dd if=/tmp/noise of=$device bs=4k count=1 seek=$at oflag=direct status=none
done
# A request half of which is good is an error as a whole.
refused 1 dd if=$device of=/dev/null bs=64k count=1 skip=$((first - 8))B iflag=direct status=none 2>/dev/null ||
	refused 1 dd if=$device of=/dev/null bs=32k count=1 skip=$(((first - 4) * 4096)) iflag=direct,skip_bytes status=none
dd if=$device bs=4k count=64 skip=$((first - 64)) iflag=direct status=none | cmp -n 262144 - /tmp/noise
dd if=$device bs=4k count=64 skip=$((first + 256)) iflag=direct status=none | cmp -n 262144 - /tmp/noise
luksmith status ours --json | grep -o '"errors": *[0-9]*' | grep -qv ' 0$' || fail "errors are not counted"
pgrep -x luksmith-server >/dev/null
luksmith close ours
dmsetup remove below

# The disk falls ill under a mounted file system: fsync says so, and no later flush is a success.
dmsetup create below --table "0 $sectors linear /dev/ram0 0"
open_volume /dev/mapper/below ours
mkfs.ext4 -q $device
mount -o errors=continue $device /mnt
noise /mnt/noise 1
sync
dmsetup suspend --noflush --nolockfs below
dmsetup load below --table "0 $sectors error"
dmsetup resume below
refused 1 dd if=/tmp/noise of=/mnt/other bs=64k count=4 conv=fsync status=none
umount /mnt
refused 1 blockdev --flushbufs $device || refused 1 dd if=/tmp/noise of=$device bs=4k count=1 conv=fsync status=none
dmsetup suspend --noflush --nolockfs below
dmsetup load below --table "0 $sectors linear /dev/ram0 0"
dmsetup resume below
luksmith close ours || [ $? = 4 ] || [ $? = 5 ] || fail "close says nothing it documents"
within 10 test ! -e /run/luksmith/ours
dmsetup remove below
