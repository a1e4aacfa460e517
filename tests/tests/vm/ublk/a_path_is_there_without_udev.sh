# As in an initramfs: no udev, and yet /dev/luksmith/NAME.
mv /run/udev /run/udev-hidden
trap 'mv /run/udev-hidden /run/udev' EXIT
pkill -STOP -f udevd || true
empty_disk /dev/vda
luksmith format --batch-mode --key-file $KEY $CHEAP /dev/vda
open_volume /dev/vda ours
mkfs.ext4 -q /dev/luksmith/ours
[ "$(readlink /dev/luksmith/ours)" = ../ublkb0 ]
luksmith close ours
[ ! -e /dev/luksmith ] && [ ! -L /dev/luksmith/ours ]
pkill -CONT -f udevd || true
