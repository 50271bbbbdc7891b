#!/bin/sh
# A command in a container: output, exit code, standard input, a bind mount.
set -eu
engine=${ENGINE:-hull}

$engine run --rm busybox echo "hello from a container"

# The exit code is the command's.
code=0
$engine run --rm busybox sh -c 'exit 3' || code=$?
echo "exit code $code"

# Standard input ends when ours does.
printf 'b\na\n' | $engine run --rm -i busybox sort

# A folder of the host, read-only.
folder=$(mktemp -d)
echo "from the host" >"$folder/note"
$engine run --rm -v "$folder:/data:ro" busybox cat /data/note
rm -r "$folder"
