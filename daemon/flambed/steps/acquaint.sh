# Changes the SSH files of a host's user so that the orchestrator can log in to the factories.
#
#   sh -c THIS flambed authorize PUBLIC   lets in whoever has the private half of PUBLIC
#   sh -c THIS flambed include            makes ~/.flambed/ssh/config, which names the factories, part of ~/.ssh/config
#
# Both can be done again and change nothing then; what was in the files stays.

umask 077
ssh="$HOME/.ssh"

authorize() {
  keys="$ssh/authorized_keys"
  if grep -qxF -e "$1" "$keys" 2>/dev/null; then return; fi
  if [ -n "$(tail -c 1 "$keys" 2>/dev/null)" ]; then echo >>"$keys" || return; fi # its last line has no end
  echo "$1" >>"$keys"
}

# In front of all: within the part of one host it would count for that one only.
include() {
  config="$ssh/config"
  line="Include ~/.flambed/ssh/config"
  if grep -qxF -e "$line" "$config" 2>/dev/null; then return; fi
  { echo "$line" && if [ -e "$config" ]; then cat "$config"; fi; } >"$config.$$" && mv "$config.$$" "$config"
}

mkdir -p "$ssh" && case $1 in
authorize) authorize "$2" ;;
include) include ;;
esac || {
  echo "~/.ssh cannot be written: is the disk full, or the home folder not writable?" >&2
  exit 120
}
