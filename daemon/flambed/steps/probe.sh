# Asks a host how it is used and renews its idle timer, within 20 seconds or so.
#
#   sh -c THIS flambed MINUTES PERCENT SECONDS [EXPERIMENT]
#
# The first three are the lease (see idle-timer.sh), EXPERIMENT is a program's name. Prints one signal a line:
#
#   flambed-probe                          what a login shell prints of its own comes before this line
#   timer renewed|off|absent|failed WHY
#   gpu PERCENT|none|failed WHY            the busiest GPU; with a timer the maximum since it was last renewed
#   terminal SECONDS|none|failed WHY       since the last input at a terminal
#   experiment running|none|failed WHY
#   uptime SECONDS|failed WHY
#   end                                    an answer without this line was cut off

timer=$root/run/flambed/idle-timer

renew() { # MINUTES PERCENT SECONDS: the timer's answer, as lines of ours
  [ -e "$timer" ] || { echo "timer absent" && return; }
  become="sudo -n"
  [ "$(id -u)" -ne 0 ] || become=
  limit=
  ! command -v timeout >/dev/null || limit="timeout 10"
  answer=$($limit $become sh "$timer" renew "$@" 2>/dev/null </dev/null)
  code=$?
  case $answer in timer=*) ;; *) echo "timer failed it ends with $code: does sudo ask for a password?" && return ;; esac
  echo "$answer" | while IFS='=' read -r key value; do
    case $key in timer | gpu | terminal) echo "$key $value" ;; esac
  done
}

terminal() { # seconds since the last input, by the wall clock
  listed=$(terminals) || { echo "failed stat does not tell" && return; }
  now=$(date +%s)
  { read -r up _ <"$root/proc/uptime"; } 2>/dev/null || up=0
  least=none
  for one in $listed; do
    age=$((now - ${one%%:*}))
    # What was touched in the future was touched before the clock was set back, and nobody has typed there since.
    [ "$age" -ge 0 ] || continue
    # Consoles carry the time of the boot until somebody types there.
    case $one in */tty*) [ "$age" -lt $((${up%%.*} - 60)) ] || continue ;; esac
    [ "$least" != none ] && [ "$age" -ge "$least" ] || least=$age
  done
  echo "$least"
}

experiment() { # NAME: whether a process runs that program, by itself or by an interpreter
  [ "$1" ] || { echo none && return; }
  { read -r comm <"$root/proc/1/comm"; } 2>/dev/null || { echo "failed the processes of others are hidden" && return; }
  short=$(printf %.15s "$1") # as the kernel keeps names
  for one in "$root"/proc/[0-9]*; do
    { read -r comm <"$one/comm"; } 2>/dev/null || continue # it has ended
    case $comm in
    "$short") echo running && return ;;
    python* | pypy* | perl | ruby | node | *sh) ;;
    *) continue ;;
    esac
    program=$(tr '\0' '\n' <"$one/cmdline" 2>/dev/null | {
      read -r interpreter
      while read -r word; do
        case $word in
        -m) read -r word && echo "$word" && break ;;
        -c | -) break ;;
        -W | -X) read -r word ;;
        -*) ;;
        *) echo "$word" && break ;;
        esac
      done
    })
    [ "${program##*/}" != "$1" ] || { echo running && return; }
  done
  echo none
}

echo flambed-probe
told=$(renew "$1" "$2" "$3")
echo "$told"
case $told in *"
gpu "*) ;; *)
  echo "gpu $(gpu 10)"
  echo "terminal $(terminal)"
  ;;
esac
echo "experiment $(experiment "$4")"
{ read -r up _ <"$root/proc/uptime"; } 2>/dev/null || up="failed /proc cannot be read"
echo "uptime ${up%%.*}"
echo end
