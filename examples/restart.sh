#!/bin/sh
# A restart policy: the container comes back after each failure, three times at most.
set -eu
engine=${ENGINE:-hull}

$engine run -d --name example-restart --restart on-failure:3 busybox sh -c 'echo started; exit 1' >/dev/null
trap '$engine rm -f example-restart >/dev/null' EXIT

# The delay doubles from 0.1 seconds each time.
tries=0
while [ "$($engine inspect --format '{{.State.Status}} {{.RestartCount}}' example-restart)" != "exited 3" ]; do
  tries=$((tries + 1))
  [ $tries -lt 100 ] || { echo "it did not come to rest" >&2 && exit 1; }
  sleep 0.1
done
echo "started $($engine logs example-restart | wc -l) times"
