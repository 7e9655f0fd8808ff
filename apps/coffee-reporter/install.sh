#!/bin/sh
set -e
mkdir -p /usr/local/bin
cp report_coffee.py coffee_level.py /usr/local/bin/
