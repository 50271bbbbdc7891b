#!/bin/sh
# An image from any root file system: here a single static program.
set -eu
engine=${ENGINE:-hull}

root=$(mktemp -d)
trap 'rm -r "$root"; $engine rmi example-import >/dev/null 2>&1 || true' EXIT
mkdir "$root/bin"
cp /bin/busybox "$root/bin/busybox"

tar -C "$root" -c . | $engine import --change 'ENTRYPOINT ["/bin/busybox"]' - example-import >/dev/null
$engine run --rm example-import echo "an image of one file"
