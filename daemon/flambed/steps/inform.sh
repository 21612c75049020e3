# Stores a file of ours on a host, below ~/.flambed, old or new but never half.
#
#   sh -c THIS flambed BYTES FILE MODE <CONTENT

umask 077
file="$HOME/.flambed/$2"
new="$file.$$"
mkdir -p -m 755 "$HOME/.flambed" && mkdir -p "${file%/*}" &&
  cat >"$new" && [ "$(wc -c <"$new")" -eq "$1" ] && chmod "$3" "$new" && mv "$new" "$file" || {
  rm -f "$new"
  echo "~/.flambed/$2 cannot be written: is the disk full, or the home folder not writable?" >&2
  exit 120
}
