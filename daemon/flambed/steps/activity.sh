# What a host can tell of its own use: the part that idle-timer.sh and probe.sh share.

root=$FLAMBED_ROOT # only tests set it

# gpu SECONDS: how busy the busiest GPU is now, in percent; "none" where there is none to be used; "failed WHY", as
# when nvidia-smi takes longer than that.
gpu() {
  command -v nvidia-smi >/dev/null || { echo none && return; }
  # An image may bring the program to machines without a GPU, where it does nothing but fail.
  if [ -d "$root/sys/bus/pci/devices" ] && ! grep -qs 0x10de "$root"/sys/bus/pci/devices/*/vendor; then
    echo none && return
  fi
  limit=
  command -v timeout >/dev/null && limit="timeout $1"
  used=$($limit nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits 2>/dev/null) ||
    { echo "failed nvidia-smi ends with $?" && return; }
  most=
  for one in $used; do
    case $one in *[!0-9]*) echo "failed nvidia-smi does not tell" && return ;; esac
    [ "$one" -le "${most:-0}" ] || most=$one
    : "${most:=0}"
  done
  echo "${most:-failed nvidia-smi says nothing}"
}

# terminals: one word TIME:NAME for each terminal, with the time of its last input; fails where that cannot be told.
terminals() {
  set --
  # Not /dev/pts/ptmx, whose time moves with what programs print.
  for one in "$root"/dev/pts/[0-9]* "$root"/dev/tty*; do
    [ ! -e "$one" ] || set -- "$@" "$one"
  done
  [ $# -gt 0 ] || return 0
  listed=$(stat -c %X:%n "$@" 2>/dev/null) # a terminal may be gone by now, which is no failure
  [ -n "$listed" ] && echo "$listed"
}
