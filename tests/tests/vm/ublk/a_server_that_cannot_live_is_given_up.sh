# Killed faster than it can be worth replacing: the device goes, its users get errors rather than
# hang for ever, the key is wiped, and the volume can be opened again.
# limit: 300
empty_disk /dev/vda
luksmith format --batch-mode --key-file $KEY $CHEAP /dev/vda
open_volume /dev/vda ours
dd if=/dev/urandom of=/dev/luksmith/ours bs=4k oflag=direct status=none 2>/tmp/writer &
writer=$!
end=$((SECONDS + 55))
while [ -e /run/luksmith/ours ] && [ $SECONDS -lt $end ]; do pkill -9 -x luksmith-server || true; pause 0.05; done
within 60 test ! -e /run/luksmith/ours
refused 1 wait $writer
within 10 sh -c '! pgrep luksmith'
[ -z "$(ls /dev/ublkb* 2>/dev/null)" ] || fail "the device is still there"
dmesg | grep -q 'luksmith: ours: the server died' || fail "the kernel log says nothing"
open_volume /dev/vda ours
luksmith close ours
