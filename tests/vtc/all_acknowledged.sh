#!/bin/sh
# Whether what the module said at its process's end, in varnishd's standard error $1, agrees with what load.py said of the
# answers that it got, in $2: all is acknowledged, nothing lost. Up to eight answers, one on each connection, may have been cut
# off by the end.
set -e
cat "$1" "$2"
ended=$(sed -n 's/.*kafkalog: the process ends: //p' "$1")
answered=$(tr -d '\r' <"$2" | sed -n 's/answered: //p')
echo "$ended" | sed 's/[a-z,]//g' | {
	read -r lines acknowledged lost
	[ "$lines" -eq "$acknowledged" ] && [ "$lost" -eq 0 ] &&
		[ "$lines" -ge "$answered" ] && [ "$lines" -le $((answered + 8)) ]
}
