# The job of a suite: runs every check of /run/vm/checks on its own, within its time,
# and looks at what the kernel said meanwhile. Results: NAME.status (0, a number,
# "timeout" or "kernel complains"), NAME.out, NAME.dmesg, NAME.seconds.
cd /run/vm/checks || exit 1
# Waits without a process: in an emulated machine a fork costs more than what is waited for.
mkfifo /run/silence && exec 9<>/run/silence
pause() { read -rt "$1" -u 9 || true; }

dmesg --clear
for script in *.sh; do
	name=${script%.sh}
	limit=$(sed -n 's/^# limit: *//p' "$script")
	limit=${limit:-120}
	# A second processor only for those who ask: emulated, it takes half the speed of the first.
	processors=$(sed -n 's/^# processors: *//p' "$script")
	echo $((${processors:-1} - 1)) >/sys/devices/system/cpu/cpu1/online || exit 1
	start=$SECONDS
	mount -t tmpfs -o mode=1777 tmp /tmp # a fresh one; an empty /mnt as well
	mount -t tmpfs mnt /mnt
	setsid bash -euEo pipefail -c '
		trap '\''echo "failed (status $?) at line $LINENO of ${BASH_SOURCE[0]##*/}: $BASH_COMMAND" >&2'\'' ERR
		cd /tmp
		. /run/vm/prelude.sh
		. "/run/vm/checks/$1"
	' check "$script" >"$name.out" 2>&1 </dev/null &
	child=$!
	status=
	while kill -0 $child 2>/dev/null; do
		if ((SECONDS - start >= limit)); then
			status="timeout after $limit s"
			{
				echo "--- still running:"
				ps -eo pid,ppid,stat,wchan:30,args | grep -v '\]$'
			} >>"$name.out"
			echo w >/proc/sysrq-trigger
			kill -9 -- -$child 2>/dev/null
			break
		fi
		pause 0.3
	done
	# A process that hangs in the kernel cannot be waited for.
	[ -n "$status" ] || { wait $child; status=$?; }
	dmesg >"$name.dmesg"
	dmesg --clear
	if [ "$status" = 0 ] && grep -qE 'BUG:|Oops|WARNING: |general protection|blocked for more than|Call Trace' "$name.dmesg"; then
		status="kernel complains"
	fi
	echo $((SECONDS - start)) >"$name.seconds"
	timeout -k 5 30 bash -c '. /run/vm/prelude.sh; leave_nothing_behind' >"$name.cleanup" 2>&1 </dev/null
	umount -l /mnt /tmp
	dmesg --clear
	echo "$status" >"$name.status"
	echo "$name: $status, $(cat "$name.seconds") s"
done
