# As in an initramfs: no udev, and yet /dev/luksmith/NAME.
# udev is stopped and looks as if it did not run, and is itself again afterwards.
udevadm settle
pkill -STOP -f udevd
mv /run/udev/control /run/udev/control.hidden
trap 'mv /run/udev/control.hidden /run/udev/control; pkill -CONT -f udevd' EXIT
empty_disk /dev/vda
luksmith format --batch-mode --key-file $KEY $CHEAP /dev/vda
open_volume /dev/vda ours
mkfs.ext4 -q /dev/luksmith/ours
[ "$(readlink /dev/luksmith/ours)" = ../ublkb0 ]
luksmith close ours
[ ! -e /dev/luksmith ] && [ ! -L /dev/luksmith/ours ]
