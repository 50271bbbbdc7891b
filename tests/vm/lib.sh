# shellcheck shell=bash
# What tests of machines have in common.

RIG_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/hull-rig

# Imports the kernel of HULL_TEST_KERNEL, or of the test rig, which is there already, or else fetches Debian's.
import_kernel() {
  local image
  image=$(find "$RIG_CACHE" -path '*/boot/vmlinuz-*' 2>/dev/null | sort -V | tail -n 1)
  image=${HULL_TEST_KERNEL:-$image}
  "$HULL" vm kernel --data-root "$HULL_WORK/data" import "${image:-debian}" >/dev/null
}

qemu_of() { d inspect --format '{{.State.Pid}}' "$1"; }
