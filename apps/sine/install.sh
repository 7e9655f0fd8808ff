#!/bin/sh
set -e
mkdir -p /usr/local/bin
cp sine /usr/local/bin/sine
