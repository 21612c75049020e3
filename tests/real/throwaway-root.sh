#!/bin/bash
# throwaway-root.sh [-p PREPARE] CMD [ARG...]
#
# Run CMD as PID 1 of fresh pid, mount, uts, ipc, net and cgroup namespaces, on an overlay of / whose writes go to a
# tmpfs and vanish. Made for booting a real systemd in a test:
#
#   throwaway-root.sh -p ./prepare.sh /lib/systemd/systemd --system --unit=multi-user.target
#
# PREPARE is run before the switch, as `PREPARE NEWROOT`, to put files into the new root; etc/systemd/system is empty
# there. Needs root and a cgroup2 mount.
#
# systemd-tmpfiles on a root that is shared with the host empties the host's /tmp. So nothing is run (exit 10-13) unless it
# is certain that no path of the host can be reached any more, and the units that run systemd-tmpfiles are masked.
#
# Enter it with: nsenter -t PID -m -u -i -n -p -C -r -w CMD, where PID is the child of the unshare under this script. End it
# by ending this script: everything inside is killed with it.
set -eu
prepare=/bin/true
if [ "${1:-}" = -p ]; then
  prepare=$(realpath "$2")
  shift 2
fi
[ $# -ge 1 ] || { sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 2; }
[ "$(id -u)" = 0 ] || { echo "throwaway-root: needs root" >&2; exit 2; }
cgroup=$(awk '$3=="cgroup2"{print $2; exit}' /proc/mounts)
[ -n "$cgroup" ] || { echo "throwaway-root: no cgroup2 mount" >&2; exit 9; }
mkdir "$cgroup/throwaway.$$"
# /tmp, which is another one in there: whoever sees the canary is not in there.
export TMPDIR=/tmp THROWAWAY_PREPARE=$prepare THROWAWAY_CANARY
THROWAWAY_CANARY=$(mktemp -t throwaway-canary.XXXXXX)
cleanup() {
  rm -f "$THROWAWAY_CANARY"
  rmdir "$TMPDIR"/throwaway-root.* 2>/dev/null || true
  for _ in 1 2 3 4 5; do
    find "$cgroup/throwaway.$$" -depth -type d -exec rmdir {} + 2>/dev/null && break
    sleep 0.2
  done
}
trap cleanup EXIT
trap 'kill -KILL $child 2>/dev/null; wait $child 2>/dev/null || true; exit 143' TERM INT
bash -c 'echo $$ > "$0"; exec setpriv --pdeathsig KILL "$@"' "$cgroup/throwaway.$$/cgroup.procs" \
  unshare --fork --kill-child --pid --mount --uts --ipc --net --cgroup --propagation private bash -euc '
  M=$(mktemp -d -t throwaway-root.XXXXXX)
  mount -t tmpfs -o mode=755 tmpfs "$M"; mkdir "$M/up" "$M/work" "$M/root"
  mount -t overlay overlay -o lowerdir=/,upperdir="$M/up",workdir="$M/work" "$M/root"; cd "$M/root"
  mount -t proc proc proc; mount -t sysfs -o ro sysfs sys
  for d in run tmp var/tmp dev; do mount -t tmpfs -o mode=755 tmpfs $d; done; chmod 1777 tmp var/tmp
  for n in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    IFS=: read -r a b c <<<"$n"; mknod -m 666 dev/$a c $b $c; done
  mkdir dev/shm dev/pts; mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts; ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd; mount -t cgroup2 cgroup2 sys/fs/cgroup || exit 9
  rm -rf etc/systemd/system; mkdir -p etc/systemd/system
  for u in systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service systemd-tmpfiles-clean.service \
    systemd-tmpfiles-clean.timer; do
    ln -s /dev/null etc/systemd/system/$u; done
  "$THROWAWAY_PREPARE" "$PWD"
  mkdir -p .old; ip link set lo up; hostname throwaway; pivot_root . .old; cd /; umount -l /.old
  mount --make-rshared / # as a container manager leaves it: LoadCredential= depends on it
  [ ! -e "$THROWAWAY_CANARY" ]          || { echo "throwaway-root: ABORT: the host temporary folder is visible" >&2; exit 10; }
  [ -z "$(ls -A /.old)" ]               || { echo "throwaway-root: ABORT: the old root is visible" >&2; exit 11; }
  ! grep -qE "^/dev/|ext4" /proc/mounts || { echo "throwaway-root: ABORT: a host device is mounted" >&2; exit 12; }
  [ "$(awk "\$2==\"/\"{print \$3}" /proc/mounts | tail -1)" = overlay ] ||
    { echo "throwaway-root: ABORT: / is no overlay" >&2; exit 13; }
  exec env -i container=throwaway PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"' _ "$@" <&0 &
child=$!
wait $child
