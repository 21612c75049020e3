#!/bin/bash
# prepare.sh NEWROOT: put into a throwaway root what a bare Debian has once its operator has fetched a checkout:
# the checkout ($CHECKOUT) in /usr/src/flambed, a Python for everybody, and an index of packages ($WHEELS) for pip, as
# there is no network. And what the lab beside it runs with, the Python of the tests ($PYTHON_PREFIX, $VENV_PREFIX).
set -eu
root=$1
# A folder of the host as it is, under this name: an overlay, as no mount of the host may be seen.
graft() {
  mkdir -p "$root$2" "$root/run/empty"
  mount -t overlay overlay -o "lowerdir=$1:$root/run/empty" "$root$2"
}
for folder in "$PYTHON_PREFIX" "$VENV_PREFIX"; do
  [ -e "$root$folder/bin" ] || graft "$folder" "$folder"
done
mkdir -p "$root/usr/src/flambed"
git -C "$CHECKOUT" -c safe.directory="$CHECKOUT" ls-files -z --cached --others --exclude-standard |
  (cd "$CHECKOUT" && tar --null --files-from=- --ignore-failed-read -cf -) | tar -C "$root/usr/src/flambed" --no-same-owner -xf -
case $PYTHON_PREFIX in
/root/* | /home/*) # where no unit with ProtectHome= may look
  graft "$PYTHON_PREFIX" /opt/python # which is on root's PATH (machine.py)
  echo /opt/python/lib > "$root/etc/ld.so.conf.d/python.conf"
  ldconfig -r "$root"
  ;;
esac
graft "$WHEELS" /opt/packages
printf '[global]\nno-index = true\nfind-links = /opt/packages\ndisable-pip-version-check = true\n' > "$root/etc/pip.conf"
# Nothing of an installation, of settings or of users that this machine may have.
rm -rf "$root"/etc/flambed "$root"/opt/flambed "$root"/var/lib/flambed "$root"/usr/local/lib/systemd/system/flambed.* \
  "$root"/var/log/journal "$root"/root/.config/pip
sed -i '/^flambed/d' "$root"/etc/{passwd,group,shadow,gshadow}
: > "$root/etc/machine-id"
