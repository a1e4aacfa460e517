# limit: 300
empty_disk /dev/vda
luksmith format --batch-mode --key-file $KEY $CHEAP /dev/vda
# The server outlives its keeper.
open_volume /dev/vda ours
noise /tmp/noise 4
dd if=/tmp/noise of=/dev/luksmith/ours bs=1M oflag=direct status=none
pkill -9 -x luksmith-keeper
dd if=/dev/luksmith/ours bs=1M count=4 iflag=direct status=none | cmp - /tmp/noise
luksmith close ours
[ ! -e /run/luksmith/ours ]
within 10 sh -c '! pgrep luksmith'
# Both gone: the kernel keeps the device, and close takes it down.
open_volume /dev/vda ours
pkill -9 -x luksmith-keeper
pkill -9 -x luksmith-server
within 10 sh -c '! pgrep luksmith'
luksmith list
luksmith close ours || [ $? = 4 ] || fail "an abandoned volume cannot be closed"
[ -z "$(ls /dev/ublk[bc]* 2>/dev/null)" ] || fail "the device is still there"
[ ! -e /run/luksmith/ours ]
open_volume /dev/vda ours
dd if=/dev/luksmith/ours bs=1M count=4 iflag=direct status=none | cmp - /tmp/noise
luksmith close ours
