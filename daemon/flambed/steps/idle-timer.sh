# flambed's dead-man's timer: ends a host that flambed launched when it is idle and nobody has renewed its lease.
#
#   idle-timer install MINUTES PERCENT        at every boot: let systemd tick once a minute
#   idle-timer tick                           look at CPU, GPU and terminals, and end the host if it is time
#   idle-timer renew MINUTES PERCENT SECONDS  a new lease; prints what `status` prints
#   idle-timer status                         what is known, one key=value a line; times in seconds
#
# The host ends when both have passed:
# - 24 h since the lease was renewed (2 h of uptime if it never was), or the SECONDS of a hold, if those are more;
# - max(MINUTES, 60) without a break in which the CPU was used below PERCENT, no GPU above 5 %, and no terminal had
#   input within the last 30 minutes. What cannot be told counts as use.
# With MINUTES -1 it never ends. All times are uptime, as the wall clock may jump; a reboot begins them anew.

memory=$root/run/flambed
# cloud-init's folder of this very instance: an image that is made of the host must not bring the lease to others.
disk=$root/var/lib/cloud/instance/flambed
units=$root/run/systemd/system

say() { echo "flambed: $*"; }
fail() {
  echo "timer=failed $*"
  exit 1
}

now() { # sets: boot, up
  { read -r boot <"$root/proc/sys/kernel/random/boot_id" && read -r up _ <"$root/proc/uptime"; } 2>/dev/null ||
    fail "/proc cannot be read"
  up=${up%%.*}
}

keep() { # FOLDER NAME WORDS: writes a file in one step; "end" tells a whole one from one that was cut off
  { mkdir -p "$1" && echo "$3 end" >"$1/$2.$$" && mv "$1/$2.$$" "$1/$2"; } 2>/dev/null || {
    rm -f "$1/$2.$$" 2>/dev/null
    return 1
  }
}

recall() { # FILE: sets words
  words=
  { read -r words <"$1"; } 2>/dev/null
  case $words in *" end") ;; *) return 1 ;; esac
}

# --- the lease: MINUTES PERCENT SECONDS BOOT UPTIME, the last two of its renewal ---

keep_lease() { # WORDS: in memory where the disk is full or read-only
  if keep "$disk" lease "$1"; then
    rm -f "$memory/lease"
  else
    keep "$memory" lease "$1" && [ "${1%% *}" -ge 0 ] # -1 must outlive a reboot
  fi
}

lease() { # sets: minutes, percent, hold, renewed, ends; fails where there is none that can be read
  file=$disk/lease
  [ ! -e "$memory/lease" ] || file=$memory/lease
  recall "$file" || return 1
  set -- $words
  minutes=$1 percent=$2 hold=$3 renewed=$5 ends=86400
  case $4 in
  never) renewed=never ends=7200 ;;
  "$boot") ;;
  *) renewed=0 ;;
  esac
  [ "$hold" -le "$ends" ] || ends=$hold
  [ "$renewed" = never ] || ends=$((renewed + ends))
}

# --- the samples: BOOT UPTIME TOTAL REST CPU GPU TERMINALS INPUT SINCE, as the last tick left them ---
# TOTAL and REST are the CPU's clock ticks since the boot, all of them and the idle ones; CPU is in thousandths of a
# percent; GPU the maximum since the lease was renewed; INPUT and SINCE are when a terminal and anything was last used.

samples() { # sets: sampled and so on; fails where there are none of the last five minutes
  recall "$memory/samples" || return 1
  set -- $words
  sampled=$2 total=$3 rest=$4 cpu=$5 peak=$6 typed=$7 input=$8 since=$9
  [ "$1" = "$boot" ] || return 1
  [ "$up" -ge "$sampled" ] || up=$sampled # a tick came between our look at the clock and this one
  [ $((up - sampled)) -le 300 ]
}

cpu_times() { # sets: total_now, rest_now, in clock ticks since the boot
  read -r _ user nice system idle wait irq soft steal _ <"$root/proc/stat" || return 1
  case $user$nice$system$idle$wait$irq$soft$steal in '' | *[!0-9]*) return 1 ;; esac
  rest_now=$((idle + wait))
  total_now=$((user + nice + system + rest_now + irq + soft + steal))
} 2>/dev/null

thousandths() { # 0.5 -> 500
  case $1 in *.*) part=${1#*.} ;; *) part= ;; esac
  part=$(printf %.3s "${part}000")
  echo $((${1%%.*} * 1000 + 1$part - 1000))
}

rank() { # of a GPU sample: one that failed lies between 5 % and 6 %
  case $1 in none) echo -1 ;; failed) echo 11 ;; *) echo $((2 * $1)) ;; esac
}

tick() {
  now
  renewed=never minutes=-1 percent=0 # without a lease nothing is idle, and nothing ends
  lease || say "the lease cannot be read: this host does not end by itself before it is renewed"
  if ! samples; then
    sampled=$up total=failed rest=failed peak=none typed=unknown input=none since=$up
  elif [ $((up - sampled)) -lt 30 ]; then
    return # another tick was just here
  fi

  cpu_now=failed
  if ! cpu_times; then
    total_now=failed rest_now=failed
  elif [ "$total" != failed ] && [ "$total_now" -gt "$total" ]; then
    cpu_now=$((100000 * (total_now - total - rest_now + rest) / (total_now - total)))
  fi
  gpu_now=$(gpu 30)
  gpu_now=${gpu_now%% *}
  typed_now=failed
  if listed=$(terminals); then
    typed_now=
    for one in $listed; do typed_now=$typed_now,$one; done
    typed_now=${typed_now:-nobody}
  fi

  # The probe asks for the maximum since it last renewed.
  if { [ "$renewed" != never ] && [ "$renewed" -gt "$sampled" ]; } || [ "$(rank "$gpu_now")" -ge "$(rank "$peak")" ]; then
    peak=$gpu_now
  fi
  case $typed,$typed_now in
  unknown,* | failed,* | *,failed | "$typed,$typed") ;;
  *) input=$up ;;
  esac

  if [ "$cpu_now" = failed ] || [ "$cpu_now" -ge "$(thousandths "$percent")" ] || [ "$(rank "$gpu_now")" -gt 10 ] ||
    [ "$typed_now" = failed ] || { [ "$input" != none ] && [ $((up - input)) -lt 1800 ]; }; then
    since=$up
  fi
  keep "$memory" samples "$boot $up $total_now $rest_now $cpu_now $peak $typed_now $input $since" ||
    fail "$memory cannot be written"

  [ "$minutes" -ge 0 ] || return 0
  left=$(($(due) - up))
  if [ "$left" -le 0 ]; then
    say "idle for $(((up - since) / 60)) minutes, and the lease ended $(((up - ends) / 60)) minutes ago: the host ends"
    shutdown -h now || systemctl poweroff
  elif [ "$left" -le 300 ]; then
    say "idle, and nobody has renewed the lease: the host ends in $left s, unless it is used"
    say "this host is idle and ends in $left seconds; whoever types something keeps it" | wall 2>/dev/null
  fi
}

due() { # the uptime at which the host ends if nothing is used any more
  at=$((since + 60 * (minutes > 60 ? minutes : 60)))
  echo $((at > ends ? at : ends))
}

# --- what others ask for ---

status() { # WORD for a timer that works, "yes" if there are samples
  lease || fail "there is no lease that can be read"
  word=$1
  [ "$minutes" -ge 0 ] || word=off
  [ "$2" ] || [ "$word" = off ] || fail "it has not looked at the host for five minutes"
  echo "timer=$word"
  echo "minutes=$minutes"
  echo "percent=$percent"
  echo "hold=$hold"
  [ "$renewed" = never ] && echo renewed=never || echo "renewed=$((up - renewed))"
  [ "$2" ] || return 0
  echo "sampled=$((up - sampled))"
  [ "$cpu" = failed ] && echo cpu=failed || echo "cpu=$((cpu / 1000)).$(printf %03d $((cpu % 1000)))"
  [ "$peak" = failed ] && echo "gpu=failed nvidia-smi does not tell" || echo "gpu=$peak"
  case $typed/$input in
  failed/*) echo "terminal=failed stat does not tell" ;;
  */none) echo terminal=none ;;
  *) echo "terminal=$((up - input))" ;;
  esac
  echo "idle=$((up - since))"
  [ "$word" = off ] && echo ends=never || echo "ends=$(($(due) - up))"
}

renew() { # MINUTES PERCENT SECONDS "yes" if there are samples, which were read before the lease changes their meaning
  case $1 in -1) ;; '' | *[!0-9]* | 0?*) fail "MINUTES is -1 or a number, not '$1'" ;; esac
  case $2 in '' | .* | *[!0-9.]* | *.*.* | 0[0-9]*) fail "PERCENT is a number such as 0.5, not '$2'" ;; esac
  case $3 in '' | *[!0-9]* | 0?*) fail "SECONDS is a number, not '$3'" ;; esac
  keep_lease "$1 $2 $3 $boot $up" || fail "the lease cannot be stored: is the disk full or read-only?"
  status renewed "$4"
}

install() { # MINUTES PERCENT
  mkdir -p "$memory" "$units" && cp "$0" "$memory/idle-timer" || fail "it cannot be stored in $memory"
  [ -e "$disk/lease" ] || [ -e "$memory/lease" ] || keep_lease "$1 $2 0 never 0" || fail "the lease cannot be stored"
  # Below /run, so that nothing of it is left when the host, or an image of it, boots without this user data.
  {
    echo "[Unit]"
    echo "Description=flambed: end this host when it is idle and nobody has renewed its lease"
    echo "[Service]"
    echo "Type=oneshot"
    echo "ExecStart=/bin/sh $memory/idle-timer tick"
    echo "TimeoutStartSec=50"
    echo "SyslogLevel=notice"
    echo "LogLevelMax=notice" # systemd itself would tell of each tick
  } >"$units/flambed-idle.service"
  {
    echo "[Unit]"
    echo "Description=flambed: look at the use of this host every minute"
    echo "[Timer]"
    echo "OnActiveSec=0"
    echo "OnUnitInactiveSec=60"
    echo "AccuracySec=1"
  } >"$units/flambed-idle.timer"
  # Not waited for: this runs before systemd is ready to start it.
  systemctl daemon-reload && systemctl --no-block start flambed-idle.timer || fail "systemd does not start it"
}

fresh=
case $1 in
install) install "$2" "$3" ;;
tick) tick ;;
renew | status)
  now
  samples && fresh=yes
  if [ "$1" = renew ]; then renew "$2" "$3" "$4" "$fresh"; else status on "$fresh"; fi
  ;;
*) fail "usage: idle-timer install|tick|renew|status; see its first lines" ;;
esac
