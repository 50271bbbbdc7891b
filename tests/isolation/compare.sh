# shellcheck shell=bash
# A container's view under two engines, side by side. Sourced by tests that have both, `d` and `r`.
#
# `view.sh` prints the view inside. Where the two differ, the file given to `read_differences` has a
# reason, and what has none fails.
compare=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
patterns=()

read_differences() { # FILE...
  mapfile -t patterns < <(sed -nE '/^[<>] /s/ # [^#]*$//p' "$@")
}

# Prints the view under one engine.
view() { # ENGINE FLAG...
  "$1" run --rm --env "NAMESPACES=$(namespaces "$1")" "${@:2}" busybox sh -c "$(cat "$compare/view.sh")" </dev/null
}

# The view of a process that is added to a container with these flags.
view_of_exec() { # ENGINE FLAG... -- FLAG_OF_EXEC...
  local engine=$1 flags=() id
  shift
  while [ "$1" != -- ]; do flags+=("$1"); shift; done
  id=$("$engine" run -d "${flags[@]}" busybox sleep $((60 * HULL_TEST_PATIENCE)))
  "$engine" exec --env "NAMESPACES=$(namespaces "$engine")" "${@:2}" "$id" sh -c "$(cat "$compare/view.sh")" </dev/null
  "$engine" rm -f "$id" >/dev/null
}

# The namespaces that are the host's to an engine.
namespaces() { # ENGINE
  local pid
  if [ "$1" = r ]; then pid=$(cat "$HULL_WORK/reference/pid"); else pid=$(daemon_pid); fi
  readlink /proc/"$pid"/ns/{cgroup,ipc,mnt,net,pid,user,uts} | tr '\n' ' '
}

# Fails if the views have differences without a reason, and notes the reasons that were needed.
same_by() { # VIEW FLAG...
  local theirs=$HULL_WORK/theirs ours=$HULL_WORK/ours shown
  { "$1" r "${@:2}" 2>&1 | tidy >"$theirs" || true; } &
  "$1" d "${@:2}" 2>&1 | tidy >"$ours" || true
  wait $!
  # The engine that refuses these flags says so in one line.
  for shown in "$theirs" "$ours"; do
    [ "$(wc -l <"$shown")" -gt 150 ] || fail "no view of $(basename "$shown"): $(tail -n 3 "$shown")"
  done
  { diff "$theirs" "$ours" || true; } | sed -n "/^[<>]/p" | explain >"$HULL_WORK/unexplained"
  [ ! -s "$HULL_WORK/unexplained" ] || fail "differences without a reason:"$'\n'"$(cat "$HULL_WORK/unexplained")"
}

same() { same_by view "$@"; } # FLAG...

tidy() { tr -d '\r' | sed '/^env NAMESPACES=/d' | sort; }

# Passes on the lines that have no reason.
explain() {
  local line pattern
  while IFS= read -r line; do
    for pattern in "${patterns[@]}"; do
      # shellcheck disable=SC2053 # a glob it is
      if [[ $line == $pattern ]]; then
        printf '%s\n' "$pattern" >>"$HULL_WORK/used"
        continue 2
      fi
    done
    printf '%s\n' "$line"
  done
}

# Fails if a listed difference was not seen.
every_listed_difference_was_seen() {
  printf '%s\n' "${patterns[@]}" | grep -vxFf "$HULL_WORK/used" >"$HULL_WORK/unused" || return 0
  fail "no longer so: $(cat "$HULL_WORK/unused")"
}
