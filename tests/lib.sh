# shellcheck shell=bash
# Words for test files written in bash. Source it, define functions `test_NAME`, call `run_tests`.
#
#   #!/usr/bin/env bash
#   . "$(dirname "$0")/../lib.sh"
#   test_a_command_says_what_it_printed() {
#     assert_eq "$(d run --rm busybox echo hello)" hello
#   }
#   start_daemon
#   load_busybox
#   run_tests
#   finish
#
# Each test runs in a subshell under `set -eu`; a test calls `skip WHY` to be counted as skipped.
# The daemon has its own data root, exec root and socket under HULL_WORK. Kill loops find its
# process id in `daemon_pid`.
set -uo pipefail

: "${HULL:?the path of the binary under test; use tests/run}"
: "${HULL_WORK:?an empty folder; use tests/run}"
HULL_TEST_SCALE=${HULL_TEST_SCALE:-1}
# How many times longer than usual this machine may take.
HULL_TEST_PATIENCE=${HULL_TEST_PATIENCE:-1}
. "$(dirname "${BASH_SOURCE[0]}")/../script/lib.sh"

DOCKER=${DOCKER:-$(newest_docker)}
SOCKET=$HULL_WORK/hull.sock
DAEMON_LOG=$HULL_WORK/daemon.log
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/hull-test

# How long a daemon may take until it answers, and until it has ended.
DAEMON_START_S=20
DAEMON_STOP_S=20

# ---- the daemon ----------------------------------------------------------------------------------

# Starts the daemon and returns when it answers. More flags, also in HULL_DAEMON_FLAGS.
start_daemon() { # [FLAG...]
  # shellcheck disable=SC2086 # flags are meant to be split
  "$HULL" daemon --data-root "$HULL_WORK/data" --exec-root "$HULL_WORK/run" \
    --pidfile "$HULL_WORK/hull.pid" --host "unix://$SOCKET" ${HULL_DAEMON_FLAGS:-} "$@" \
    >>"$DAEMON_LOG" 2>&1 </dev/null &
  echo $! >"$HULL_WORK/daemon"
  wait_until $DAEMON_START_S daemon_answers_or_is_dead
  alive "$(daemon_pid)" || fail "the daemon ended: $(tail -n 3 "$DAEMON_LOG")"
}

daemon_pid() { cat "$HULL_WORK/daemon"; }

daemon_answers_or_is_dead() { daemon_answers || ! alive "$(daemon_pid)"; }

daemon_answers() { [ -S "$SOCKET" ] && [ "$(api GET /_ping)" = OK ]; }

# Asks the daemon to end; containers go on.
stop_daemon() {
  kill -TERM "$(daemon_pid)" && wait_until $DAEMON_STOP_S dead "$(daemon_pid)"
}

kill9_daemon() {
  kill -KILL "$(daemon_pid)" && wait_until $DAEMON_STOP_S dead "$(daemon_pid)"
}

restart_daemon() { # [FLAG...]
  stop_daemon
  start_daemon "$@"
}

# Ends a test file: takes away every container, then what outlives a daemon by design, then it.
# The look from outside follows.
finish() {
  if ! alive "$(daemon_pid)"; then start_daemon; fi
  d ps -aq | xargs -r env DOCKER_HOST="unix://$SOCKET" DOCKER_CONFIG="$HULL_WORK/docker" "$DOCKER" rm -f >/dev/null
  hull system shutdown >>"$DAEMON_LOG" 2>&1
  if alive "$(daemon_pid)"; then stop_daemon; fi
  exit $failures
}

# ---- the reference -------------------------------------------------------------------------------

# Starts Debian's dockerd to compare with, in network and mount namespaces of its own; `r` is the
# CLI that speaks to it. With HULL_TEST_ETC it sees that folder as /etc.
start_reference() { # [FLAG...]
  command -v dockerd >/dev/null || skip "no dockerd here to compare with"
  mkdir -p "$HULL_WORK/reference"
  # shellcheck disable=SC2016 # expanded by that shell
  unshare --net --mount sh -c 'ip link set lo up; [ -z "$1" ] || mount --bind "$1" /etc; shift; exec "$@"' - "${HULL_TEST_ETC:-}" \
    dockerd --data-root "$HULL_WORK/reference/data" --exec-root "$HULL_WORK/reference/run" \
    --pidfile "$HULL_WORK/reference/pid" --host "unix://$HULL_WORK/reference.sock" --log-level error "$@" \
    >"$HULL_WORK/reference/log" 2>&1 </dev/null &
  echo $! >"$HULL_WORK/reference/daemon"
  wait_until 60 reference_answers
}

reference_answers() { r version >/dev/null 2>&1; }

r() { DOCKER_HOST=unix://$HULL_WORK/reference.sock DOCKER_CONFIG=$HULL_WORK/docker "$DOCKER" "$@"; }

# Ends it and takes away what it leaves, since the look from outside is for ours.
stop_reference() {
  r ps -aq | xargs -r env DOCKER_HOST="unix://$HULL_WORK/reference.sock" "$DOCKER" rm -f >/dev/null
  kill -TERM "$(cat "$HULL_WORK/reference/daemon")"
  wait_until $DAEMON_STOP_S dead "$(cat "$HULL_WORK/reference/daemon")"
  # The last one of several takes the parent away.
  find /sys/fs/cgroup -mindepth 1 -maxdepth 2 -type d -name docker -exec rmdir --ignore-fail-on-non-empty {} +
}

# ---- clients -------------------------------------------------------------------------------------

# The stock docker CLI, with nothing of the user's.
d() { DOCKER_HOST=unix://$SOCKET DOCKER_CONFIG=$HULL_WORK/docker "$DOCKER" "$@"; }

# Our own command line, speaking to the same daemon.
hull() { HULL_HOST=unix://$SOCKET "$HULL" "$@"; }

# A raw request; prints the body. `status` prints the number too.
api() { # METHOD PATH [JSON]
  curl -sS --max-time 60 --unix-socket "$SOCKET" -X "$1" ${3:+-H 'Content-Type: application/json' -d "$3"} \
    "http://localhost$2" 2>/dev/null
}

status() { # METHOD PATH [JSON]
  curl -sS --max-time 60 --unix-socket "$SOCKET" -X "$1" ${3:+-H 'Content-Type: application/json' -d "$3"} \
    -o /dev/null -w '%{http_code}' "http://localhost$2"
}

# ---- images --------------------------------------------------------------------------------------

# Loads `busybox:latest`: one layer, static, about a megabyte.
load_busybox() { d load -q -i "$(busybox_image)" >/dev/null; }

# The path of a `docker save` file of it, made once per machine from Debian's busybox-static.
busybox_image() {
  local tar=$CACHE/busybox.tar
  [ "$tar" -nt /bin/busybox ] || make_busybox_image "$tar"
  printf '%s\n' "$tar"
}

make_busybox_image() { # FILE
  local work root layer arch
  mkdir -p "$CACHE"
  work=$(mktemp -d)
  root=$work/root
  mkdir -p "$root"/{bin,dev,etc,home,proc,root,run,sys,tmp,usr,var}
  chmod 1777 "$root/tmp"
  cp /bin/busybox "$root/bin/busybox"
  /bin/busybox --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
  done
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
  tar -C "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/layer.tar" .
  layer=$(sha256sum "$work/layer.tar" | cut -d ' ' -f 1)
  arch=$(dpkg --print-architecture)
  printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created_by":"busybox-static"}]}' \
    "$arch" "$layer" >"$work/config.json"
  printf '[{"Config":"config.json","RepoTags":["busybox:latest"],"Layers":["layer.tar"]}]' >"$work/manifest.json"
  tar -C "$work" -cf "$work/image" manifest.json config.json layer.tar
  # Renamed into place, since other test files may be making it too.
  mv "$work/image" "$1"
  rm -rf "$work"
}

# ---- tests ---------------------------------------------------------------------------------------

failures=0

# Runs every `test_` function of the calling file, in the file's order, or those whose names contain
# HULL_TEST_ONLY.
run_tests() {
  local name
  while read -r name; do
    if [[ $name == *"${HULL_TEST_ONLY:-}"* ]]; then run_test "$name" </dev/null; fi
  done < <(sed -n 's/^test_\([a-z0-9_]*\)().*/\1/p' "$0")
}

run_test() { # NAME
  local log=$HULL_WORK/test.log rc
  # Not in a condition: there, `set -e` would do nothing.
  (
    set -eu
    "test_$1"
  ) >"$log" 2>&1
  rc=$?
  case $rc in
    0) echo "ok $1" ;;
    77) echo "skip $1: $(tail -n 1 "$log")" ;;
    *)
      echo "not ok $1: $(tail -n 1 "$log")"
      sed 's/^/    /' "$log"
      failures=1
      ;;
  esac
}

fail() {
  echo "$*" >&2
  exit 1
}

skip() {
  echo "$*" >&2
  exit 77
}

assert_eq() { # GOT WANTED [WHAT]
  [ "$1" = "$2" ] || fail "${3:-value}: got '$1', wanted '$2'"
}

assert_contains() { # TEXT PART [WHAT]
  [[ $1 == *"$2"* ]] || fail "${3:-text}: no '$2' in '$1'"
}

assert_fails() { # CODE COMMAND...
  local wanted=$1 rc=0
  shift
  "$@" || rc=$?
  assert_eq "$rc" "$wanted" "exit code of $*"
}

# Calls a command until it succeeds; fails after so many seconds.
wait_until() { # SECONDS COMMAND...
  local deadline=$((SECONDS + $1 * HULL_TEST_PATIENCE))
  shift
  until "$@"; do
    [ $SECONDS -lt $deadline ] || fail "waited in vain for: $*"
    sleep 0.02
  done
}

# A loop's count: the aim times the scale, at least one.
scaled() { awk -v n="$1" -v s="$HULL_TEST_SCALE" 'BEGIN {n = int(n * s); print n < 1 ? 1 : n}'; }

alive() { # PID
  local state
  state=$(sed -n 's/^State:\t\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null) && [ -n "$state" ] && [ "$state" != Z ]
}

dead() { ! alive "$1"; }
