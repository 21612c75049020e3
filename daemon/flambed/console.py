"""What a host says of itself on its console (EC2's GetConsoleOutput)."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"-----BEGIN SSH HOST KEY KEYS-----(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL)
_KEY = re.compile(r"\b(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp\d+) +(AAAA[0-9A-Za-z+/]+={0,2})")


def host_key_of_console(text: str) -> str | None:
    """The host key that cloud-init printed at the end of a boot, out of the last block that is complete.

    Lines may begin with the kernel's or cloud-init's own marks, as `[   12.3] cloud-init[512]: `.

    Returns:
        The ed25519 key, else the first one; OpenSSH format, without the comment. None: there is none (yet).
    """
    blocks = _BLOCK.findall(text)
    keys = _KEY.findall(blocks[-1]) if blocks else []
    chosen = next((key for key in keys if key[0] == "ssh-ed25519"), keys[0] if keys else None)
    return " ".join(chosen) if chosen else None
