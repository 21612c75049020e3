# Runs one set-up command on a host, or attaches to it where it runs or ran already.
#
#   sh -c THIS flambed KEY BYTES <COMMAND
#
# KEY names the run; its folder below ~/.flambed/setup keeps the command, its output and, once it has ended, its exit
# code. BYTES is the length of the command, so that one that was cut off on its way is never run.
# Prints "flambed-exit KEY CODE SIZE" and the last 64 KiB of the output, which has SIZE bytes. Its own exit code is
# 0 then, 120 if the command could not be stored, and 121 if it ended without leaving an exit code.
#
# The command has a session of its own: it goes on when this script or the connection dies. The lock is held as long
# as it runs and is one for the whole host, so that two commands never run at once, and no command twice at once;
# "flock -o" keeps it out of the hands of services that a command leaves behind.

all="$HOME/.flambed/setup"
d="$all/$1"
cd "$HOME" && mkdir -p -m 700 "$all" && mkdir -p "$d" || {
  echo "~/.flambed/setup cannot be made: is the disk full, or the home folder not writable?" >&2
  exit 120
}

# A power cut may leave files empty.
if [ ! -e "$d/command" ] || [ "$(wc -c <"$d/command")" -ne "$2" ]; then
  cat >"$d/command.$$" && [ "$(wc -c <"$d/command.$$")" -eq "$2" ] && mv "$d/command.$$" "$d/command" || {
    rm -f "$d/command.$$"
    echo "the command could not be stored in ~/.flambed/setup: is the disk full?" >&2
    exit 120
  }
fi

if [ ! -s "$d/exit" ]; then
  setsid flock -o "$all/lock" sh -c '
    [ -s "$1/exit" ] && exit 0
    sh "$1/command" >"$1/output" 2>&1
    echo $? >"$1/exit.new" && mv "$1/exit.new" "$1/exit"
  ' flambed "$d" </dev/null >/dev/null 2>&1 &
  wait $!
  ended=$?
fi

code=$(cat "$d/exit" 2>/dev/null)
if [ -z "$code" ]; then
  echo "the command left no exit code (its runner: $ended): it was killed, the disk is full, or flock is missing" >&2
  exit 121
fi
echo "flambed-exit $1 $code $(wc -c <"$d/output")"
tail -c 65536 "$d/output"
