"""The fingerprint of a host's public key. Pure."""

from __future__ import annotations

import base64
import hashlib


def fingerprint(public: str) -> str:
    """Return the fingerprint of a public key in OpenSSH format, as OpenSSH prints it: `SHA256:...`."""
    try:
        data = base64.b64decode(public.split()[1], validate=True)
    except (IndexError, ValueError):
        return "(no key)"  # whoever asks wants to tell of it, not to judge it
    return "SHA256:" + base64.b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
