# shellcheck shell=bash
# The cgroup hierarchies of this system. Sourced by run and look.

# Their mount points, version 2 too where it stands beside version 1.
cgroup_hierarchies() {
  awk '{for (i = 7; i <= NF; i++) if ($i == "-" && $(i + 1) ~ /^cgroup2?$/) print $5}' /proc/self/mountinfo
}
