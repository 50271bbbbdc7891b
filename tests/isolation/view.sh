# What a container sees of itself, one `key value` each line, with what must differ between two
# engines (ids, addresses, paths of their data) made the same. Run inside by busybox's shell.
# NSTYPES: the caller's namespaces, to say which the container shares.
umask_before=$(umask)
me=/proc/self

# -- who it is and what it may
grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|Seccomp_filters):' $me/status | tr '\t' ' '
echo "umask $umask_before"
echo "cwd $(pwd)"
echo "pid $$"
echo "oom_score_adj $(cat $me/oom_score_adj)"
echo "session $(awk '{print $5, $6}' /proc/$$/stat | sed 's/\b[1-9][0-9]\{2,\}\b/BIG/g')"
sed 's/  */ /g; s/^/limit /' $me/limits
env | sed -E 's/^HOSTNAME=[0-9a-f]{12}$/HOSTNAME=ID/; s/^/env /'
for fd in /proc/$$/fd/*; do
  case ${fd##*/} in 10) ;; *) echo "fd ${fd##*/} $(readlink $fd | sed -E 's/[0-9]+/N/g')" ;; esac
done
for ns in cgroup ipc mnt net pid user uts; do
  case " $NAMESPACES " in
    *" $(readlink $me/ns/$ns) "*) echo "namespace $ns host" ;;
    *) echo "namespace $ns own" ;;
  esac
done

# -- file systems
while read -r _ _ _ root point options rest; do
  optional=${rest%%-*} type=${rest#*- }
  super=${type#* * } type=${type%% *}
  case $root in /../*) root=elsewhere ;; esac
  case $type in
    overlay) super=$(echo "$super" | tr ',' '\n' | grep -E '^r[ow]$') ;;
    tmpfs) super=$(echo "$super" | sed -E 's/,?inode64//') ;;
    ext4 | btrfs | xfs) super=disk type=disk ;;
    cgroup) super=$(echo "$super" | tr ',' '\n' | sort | tr '\n' ' ') ;;
  esac
  case $point in /etc/hosts | /etc/hostname | /etc/resolv.conf) super=disk type=disk ;; esac
  case $root in /) ;; */*) [ $type = disk ] && root=FILE ;; esac
  [ $type = cgroup ] && root=$(echo "$root" | sed -E 's/[0-9a-f]{64}/ID/')
  echo "mount $point $type root=$root $(echo "$options" | tr ',' '\n' | sort | tr '\n' ,) $(echo "$optional" | sed -E 's/:[0-9]+//g') $super"
done <$me/mountinfo
find /dev /proc /sys -maxdepth 1 ! -path '/proc/[1-9]*' ! -type l -exec stat -c 'node %n %A %u:%g %t:%T' {} + 2>/dev/null
find /dev -mindepth 2 -maxdepth 2 ! -path '/dev/pts/*' -exec stat -c 'node %n %A %u:%g %t:%T' {} + 2>/dev/null
find / -xdev -mindepth 1 -maxdepth 1 -exec stat -c 'node %n %A %u:%g' {} + 2>/dev/null
for file in /etc/hosts /etc/hostname /etc/resolv.conf; do stat -c 'node %n %A %u:%g' $file; done
find /dev -type l | while read -r link; do echo "link $link $(readlink $link)"; done

# -- what is hidden and what can be written. Opening to append changes nothing.
writable() { (: >>"$1") 2>/dev/null && echo writable || echo read-only; }
for path in /proc/asound /proc/acpi /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list \
  /proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do
  if [ -d $path ]; then echo "hidden $path directory of $(ls -A $path | wc -l)"
  elif [ -e $path ]; then echo "hidden $path $(stat -c '%F %t:%T' $path) of $(head -c 1 $path 2>/dev/null | wc -c)"
  else echo "hidden $path missing"; fi
done
for path in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sys/net/ipv4/ip_forward \
  /proc/sys/vm/overcommit_memory /proc/irq/default_smp_affinity /proc/mtrr /sys/kernel/mm/transparent_hugepage/enabled \
  /sys/kernel/uevent_helper /sys/power/state /sys/module/zswap/parameters/enabled /proc/self/attr/exec /etc/hosts /etc/resolv.conf \
  /proc/bus/pci/devices /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/memory/release_agent /made-here; do
  [ ! -e $path ] && [ $path != /made-here ] || echo "write $path $(writable $path)"
done
rm -f /made-here
for dir in /proc/sys /proc/bus /proc/fs /proc/irq; do
  echo "writable-below $dir $(find $dir -type f 2>/dev/null | while read -r file; do writable $file; done | grep -c writable)"
done

# -- limits and names
echo "cgroups $(cut -d : -f 2,3 $me/cgroup | sed -E 's/[0-9a-f]{64}/ID/' | sort | tr '\n' ' ')"
cd /sys/fs/cgroup && for file in memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory/memory.soft_limit_in_bytes \
  memory/memory.swappiness memory/memory.oom_control memory/memory.kmem.limit_in_bytes cpu/cpu.shares cpu/cpu.cfs_quota_us \
  cpu/cpu.cfs_period_us cpuset/cpuset.cpus cpuset/cpuset.mems pids/pids.max devices/devices.list blkio/blkio.bfq.weight \
  memory.max cpu.max pids.max; do
  [ ! -e $file ] || sort $file | sed "s|^|cgroup $file |"
done
echo "hostname $(hostname | sed -E 's/^[0-9a-f]{12}$/ID/') $(cat /proc/sys/kernel/domainname)"
for file in /etc/hosts /etc/hostname /etc/resolv.conf; do
  sed -E "s/\b[0-9a-f]{12}\b/ID/; s/172\.[0-9]+\.0\.[0-9]+/ADDRESS/; s|^|$file |" $file | tr '\t' ' '
done
ls /sys/class/net | sed 's/^/link-named /'
for key in kernel/msgmax kernel/msgmnb kernel/shmmax kernel/shm_rmid_forced kernel/sem fs/mqueue/msg_max \
  net/ipv4/ip_forward net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range net/core/somaxconn \
  net/ipv6/conf/all/disable_ipv6 net/ipv6/conf/default/disable_ipv6 net/ipv4/conf/all/send_redirects; do
  [ ! -e /proc/sys/$key ] || echo "sysctl $key $(cat /proc/sys/$key | tr '\t' ' ')"
done
