# shellcheck shell=bash
# What the suites of the SDKs share: an engine with the images that they ask for, and a registry that
# stands for the default one. A suite defines `suite`, which writes `STATUS<TAB>NAME` to $HULL_WORK/results,
# and calls `run_suite NAME`.
#
# Tests have no network: `tests/suites/prepare NAME` fetches what a suite consists of before.
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/../lib.sh"

SUITES=${XDG_CACHE_HOME:-$HOME/.cache}/hull-test/suites
SUITE_SCOPE=${SUITE_SCOPE:-part}
REGISTRY=127.0.0.1:5005

unprepared() { # NAME
  echo "skip $1: tests/suites/prepare $1 has not fetched it"
  exit 0
}

run_suite() { # NAME
  local rc
  [ -d "$SUITES/$1" ] || unprepared "$1"
  # Some look for the engine there, whatever the environment says.
  mount -t tmpfs tmpfs /run && mkdir /run/lock && ln -s "$SOCKET" /run/docker.sock
  # An uplink with an address, which leads nowhere.
  ip link add up0 type veth peer name up1
  ip address add 198.51.100.2/24 dev up0 && ip link set up0 up && ip link set up1 up
  start_registry
  start_daemon --registry-mirror "http://$REGISTRY" --insecure-registry "$REGISTRY"
  export DOCKER_HOST=unix://$SOCKET DOCKER_CONFIG=$HULL_WORK/docker
  load_images
  : >"$HULL_WORK/results"
  # Some send SIGINT to their clients, which a job in the background would pass on as ignored.
  (suite) </dev/null
  "$HERE/judge" "$1" "$HULL_WORK/results" "$([ "$SUITE_SCOPE" = whole ] && echo whole)"
  rc=$?
  if [ -n "${SUITE_OUTPUT:-}" ]; then cp "$HULL_WORK/results" "$SUITE_OUTPUT/$1.tsv"; fi
  if [ $rc != 0 ]; then tail -n 200 "$HULL_WORK/suite.log"; fi
  leave $rc
}

start_registry() {
  mkdir -p "$HULL_WORK/registry"
  printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: %s}\nlog: {level: error}\n' \
    "$HULL_WORK/registry" "$REGISTRY" >"$HULL_WORK/registry.yml"
  docker-registry serve "$HULL_WORK/registry.yml" >"$HULL_WORK/registry.log" 2>&1 &
  echo $! >"$HULL_WORK/registry.pid"
  wait_until 20 registry_answers
}
registry_answers() { curl -sf "http://$REGISTRY/v2/" >/dev/null; }

load_images() {
  local name pushed
  "$HERE/images.py" "$HULL_WORK/images.tar" >"$HULL_WORK/images"
  d load -q -i "$HULL_WORK/images.tar" >/dev/null
  while read -r name; do
    pushed=$REGISTRY/$name
    case $name in */*) ;; *) pushed=$REGISTRY/library/$name ;; esac
    d tag "$name" "$pushed" && d push -q "$pushed" && d rmi "$pushed"
  done <"$HULL_WORK/images" >/dev/null
}

# What tests of the suites leave is theirs, not the engine's.
leave() { # RC
  d ps -aq | xargs -r env DOCKER_HOST="unix://$SOCKET" "$DOCKER" rm -fv >/dev/null
  d network prune -f >/dev/null
  hull system shutdown >>"$DAEMON_LOG" 2>&1
  stop_daemon
  kill "$(cat "$HULL_WORK/registry.pid")"
  ip link delete up0
  umount /run
  exit "$1"
}
