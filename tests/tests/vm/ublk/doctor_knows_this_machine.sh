# limit: 300
luksmith doctor
luksmith doctor --json >/tmp/doctor
grep -q "$(uname -r)" /tmp/doctor
rmmod ublk_drv
# Not loaded is not a reason to fail: open loads it.
luksmith doctor || true
empty_disk /dev/vda
luksmith format --batch-mode --key-file $KEY $CHEAP /dev/vda
open_volume /dev/vda ours
luksmith close ours
