#!/bin/sh
# An app in shell: it writes the load of the gateway to the resource "load", as the
# gateway itself, every so many seconds.
every=${1:-60}
while true; do
	if cik=$(gwe -C); then # each time: the gateway may be activated anew
		read -r load rest < /proc/loadavg
		echo "load $load: $(gdc write "$cik" load "$load" 2>&1)"
	else
		echo "the gateway is not activated yet"
	fi
	sleep "$every"
done
