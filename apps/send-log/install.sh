#!/bin/sh
# An app that runs once: what an installer prints goes to fetch_status, so this
# sends the ends of all logs there. It installs nothing.
for log in /var/log/messages /var/log/*.log; do
	if [ -f "$log" ]; then
		echo "== $log"
		tail -n 20 "$log"
	fi
done
