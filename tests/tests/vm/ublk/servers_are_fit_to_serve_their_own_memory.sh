# What must be true of keeper and server, or memory pressure could stop the machine.
# processors: 2
# limit: 300
empty_disk /dev/vda
luksmith format --batch-mode --key-file $KEY $CHEAP /dev/vda
open_volume /dev/vda ours --queues 2
dd if=/dev/luksmith/ours of=/dev/null bs=1M count=4 iflag=direct status=none
# PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE, the two marks of an I/O flusher.
marks=$((0x00080000 | 0x00100000))
look() {
	local pid task flags
	for pid in $(pgrep luksmith); do
		echo "$pid $(cat /proc/$pid/comm)"
		for task in /proc/$pid/task/*; do
			flags=$(sed 's/.*) //' "$task/stat" | cut -d' ' -f7)
			[ $((flags & marks)) = $marks ] || fail "$(cat "$task/comm") is no I/O flusher"
			# Everything that can be blocked is blocked: no signal interrupts I/O. (The keeper waits
			# for signals, and the kernel shows the mask of a thread in sigwait as empty.)
			[ "$(cat /proc/$pid/comm)" = luksmith-keeper ] || grep -qE '^SigBlk:\s+f{4,}' "$task/status" || fail "$(cat "$task/comm") takes signals: $(grep SigBlk "$task/status")"
		done
		[ "$(awk '/^VmLck/ {print $2}' /proc/$pid/status)" -gt 1000 ] || fail "memory of $pid is not locked"
		[ "$(cat /proc/$pid/oom_score_adj)" = -1000 ]
		grep -q '^Max core file size *0 ' /proc/$pid/limits
		# Its own root, with nothing of the host's disks in it.
		[ "$(readlink /proc/$pid/ns/mnt)" != "$(readlink /proc/self/ns/mnt)" ]
		! grep -vE ' (/|/dev|/proc|/sys|/run/luksmith) ' /proc/$pid/mountinfo || fail "$pid holds mounts"
	done
	[ "$(pgrep luksmith | wc -l)" = 2 ]
	[ "$(ls /proc/$(pgrep -x luksmith-server)/task | wc -l)" -ge 3 ]
}
look
pkill -9 -x luksmith-server
within 20 pgrep -x luksmith-server
dd if=/dev/luksmith/ours of=/dev/null bs=1M count=4 iflag=direct status=none
look
# Only root may look into the folder or speak on the socket.
[ "$(stat -c %a /run/luksmith)" = 700 ] && [ "$(stat -c %a /run/luksmith/ours)" = 700 ]
[ ! -e /run/ublksrvd ] || fail "the library's own state folder is there"
# The passphrase and the key are in no place that can be read without tracing the process.
! cat /run/luksmith/ours/*.json /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | grep -aq "a passphrase for tests" ||
	fail "the passphrase lies open"
luksmith close ours
