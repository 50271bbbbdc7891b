# shellcheck shell=bash
# What the scripts of this folder share. Sourced, never run.

HULL_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export HULL_ROOT
# Where rustup puts its links; a login shell may not have been started since.
PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH

say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

host_triple() { rustc -vV | sed -n 's/^host: //p'; }

# The folder cargo puts a profile's binaries in.
target_folder() { # PROFILE
  printf '%s/%s/%s\n' "${CARGO_TARGET_DIR:-$HULL_ROOT/target}" "$(host_triple)" "$1"
}

# The newest stock docker CLI on this machine: Debian 12's own is 20.10, others bring a newer one.
newest_docker() {
  local docker version
  for docker in /usr/local/bin/docker /usr/bin/docker /opt/*/bin/docker; do
    [ -x "$docker" ] || continue
    version=$("$docker" --version | sed -n 's/^Docker version \([0-9.]*\).*/\1/p')
    [ -n "$version" ] && printf '%s %s\n' "$version" "$docker"
  done | sort -V | tail -n 1 | cut -d ' ' -f 2
}
