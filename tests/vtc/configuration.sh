#!/bin/sh
# Prints a configuration for the Kafka whose `kafkalog dev-broker` writes to the file $1 ("none": nobody listens there),
# with a stream for each further argument.
set -e
bootstrap=127.0.0.1:1
if [ "$1" != none ]; then
	for _ in $(seq 200); do
		bootstrap=$(tr -d '\r' <"$1" | sed -n 's/^bootstrap: *//p')
		[ -z "$bootstrap" ] || break
		sleep 0.05
	done
	[ -n "$bootstrap" ]
fi
shift
printf '[kafka]\nbootstrap = ["%s"]\n' "$bootstrap" | sed 's/,/", "/g'
for stream in "$@"; do
	printf '[[stream]]\nname = "%s"\ntopic = "%s"\nformat = "webrequest"\n' "$stream" "$stream"
done
