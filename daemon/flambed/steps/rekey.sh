# Gives a host an SSH host key of its own, in the place of the one that came with its user data, which everybody on the
# host can read. As root, and in two steps, so that the new key is pinned before any client is shown it:
#
#   sh -c THIS flambed make FILE SHOWN    makes a key beside FILE and prints "flambed-key" and its public half
#   sh -c THIS flambed use FILE CONSOLE   puts it in the place of FILE, has sshd read it, and tells CONSOLE
#
# FILE is sshd's host key, SHOWN the public half of what sshd shows now. Either step can be cut off anywhere and done
# again; private keys never leave the host. Exit codes: 121 there is no ssh-keygen, 122 the key could not be made,
# 123 it could not be put in its place, 124 sshd did not take it.

PATH=$PATH:/usr/sbin:/sbin
file=$2
made=$2.flambed

public() {
  ssh-keygen -y -P '' -f "$1" 2>/dev/null | cut -d ' ' -f 1,2
}

make() {
  if [ "$(public "$file")" != "$1" ]; then # it was put in its place before, and sshd has not read it yet
    echo "flambed-key $(public "$file")"
    return
  fi
  if [ -z "$(public "$made")" ]; then # there is none, or a power cut left half of one
    rm -f "$made" "$made.pub"
    ssh-keygen -q -t ed25519 -N '' -C '' -f "$made" </dev/null >/dev/null || return
    sync "$made" 2>/dev/null || sync # an empty host key would shut everybody out
  fi
  echo "flambed-key $(public "$made")"
}

use() {
  if [ -n "$(public "$made")" ]; then
    mv -f "$made" "$file" || return
  fi
  public "$file" >"$made.pub" && chmod 644 "$made.pub" && mv -f "$made.pub" "$file.pub"
}

# Sessions outlive it, ours among them.
reload() {
  sshd -t || return
  for unit in ssh sshd; do
    if systemctl --quiet is-active "$unit" 2>/dev/null; then
      systemctl reload "$unit"
      return
    fi
  done
  kill -HUP "$(cat /run/sshd.pid)"
}

# Where cloud-init shows the first keys of a host: whoever has lost the pinned ones can learn them there.
announce() {
  {
    echo "-----BEGIN SSH HOST KEY KEYS-----"
    public "$file"
    echo "-----END SSH HOST KEY KEYS-----"
  } 2>/dev/null >"$1" || true
}

command -v ssh-keygen >/dev/null || exit 121
case $1 in
make)
  make "$3" || exit 122
  ;;
use)
  use || exit 123
  reload || exit 124
  announce "$3"
  ;;
esac
