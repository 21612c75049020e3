"""The fingerprint of a host key."""

from __future__ import annotations

import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from flambed.hostkey import fingerprint
from flambed.ssh import new_host_key
from tests.parts import real_part


def test_a_fingerprint_is_the_one_that_ssh_keygen_prints(tmp_path: Path) -> None:
    """A person compares the two."""
    _, public = new_host_key()
    (tmp_path / "key.pub").write_text(public)
    command = [real_part("ssh-keygen", "openssh-client"), "-lf", str(tmp_path / "key.pub")]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    assert printed.split()[1] == fingerprint(public)


@given(st.text())
def test_what_is_no_key_has_none_and_upsets_nobody(text: str) -> None:
    """A damaged record must not keep a log line from being written."""
    assert fingerprint(text).startswith(("SHA256:", "(no key)"))
