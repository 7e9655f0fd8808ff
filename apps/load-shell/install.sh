#!/bin/sh
set -e
mkdir -p /usr/local/bin
cp load.sh /usr/local/bin/load.sh
chmod 755 /usr/local/bin/load.sh
