# shellcheck shell=bash
# Registries for tests: Debian's docker-registry with a store below HULL_WORK. Sourced by test files.

# Starts one; `registry_pid NAME` ends it. Further lines of its configuration on the standard input.
start_registry() { # NAME ADDRESS [EXTRA-YAML]
  local file=$HULL_WORK/registry-$1.yml
  cat >"$file" <<YAML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $HULL_WORK/registry-$1}, delete: {enabled: true}}
http: {addr: "$2"${3:-}}
${4:-}
YAML
  docker-registry serve "$file" >>"$HULL_WORK/registry-$1.log" 2>&1 </dev/null &
  echo $! >"$HULL_WORK/registry-$1.pid"
  wait_until 20 listens "$2"
}

listens() { (: <"/dev/tcp/${1%:*}/${1##*:}") 2>/dev/null; }

stop_registry() { # NAME
  local pid
  pid=$(cat "$HULL_WORK/registry-$1.pid")
  kill "$pid"
  wait_until 10 dead "$pid"
}

# The digest that a registry has under a name, as skopeo sees it.
digest_at() { # REFERENCE [SKOPEO-FLAG...]
  local reference=$1
  shift
  skopeo inspect --no-tags --tls-verify=false --format '{{.Digest}}' "$@" "docker://$reference"
}

blobs() { find "$HULL_WORK/data/blobs/sha256" -type f -printf '%f\n' | sort; }
