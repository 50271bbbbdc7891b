# shellcheck shell=bash
# Which cgroup hierarchies the tests take a part of. Sourced by run and look.

# Mount points. Beside version 1, version 2 is left alone: what controllers it has there are strays,
# and other programs of the host decide about them.
cgroup_hierarchies() {
  awk '{for (i = 7; i <= NF; i++) if ($i == "-") print $(i + 1), $5}' /proc/self/mountinfo |
    awk '$1 == "cgroup" {v1[n++] = $2} $1 == "cgroup2" {v2 = $2} END {for (i in v1) print v1[i]; if (!n) print v2}'
}
