#!/bin/sh
# An app in shell: it logs the load of the gateway every ten seconds.
echo "hello from the shell on $(hostname)"
while true; do
	read -r load rest < /proc/loadavg
	echo "load $load"
	sleep 10
done
