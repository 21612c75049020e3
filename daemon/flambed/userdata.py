"""The user data of an instance: the host key that we will pin, its idle timer, and what the user wants at first boot. Pure.

cloud-init takes several things in one user data as a MIME multipart message, each part with its kind as content type.
It merges cloud-configs in order and a later one replaces the top-level keys of an earlier one (its default,
`dict(replace)+list()+str()`; a part's own `Merge-Type` or `merge_how` counts for that part alone). Ours comes last and holds
two keys only, so everything of the user's keeps its effect, and nothing of it - not even what an `#include` fetches -
can put another host key in the place of the one we pin. cloud-init writes it once an instance, so it does not undo the
one that the host makes itself afterwards (`steps/rekey.py`).

The idle timer (`steps/idle-timer.sh`) comes first. It is no cloud-config, whose lists would replace the user's, nor a
script, which would run after the user's packages are installed: it is a boothook, which cloud-init runs at each boot
before SSH opens. All together is compressed, as cloud-init allows, so that the user keeps the 16 KB that EC2 takes.
"""

from __future__ import annotations

import base64
import email
import email.encoders
import email.policy
import gzip
import hashlib
import re
import textwrap
from dataclasses import dataclass
from email.message import Message
from importlib import resources
from typing import Final

from flambed import yamlfile
from flambed.errors import ClusterConfigurationError, Problem

LIMIT: Final = 16_384
"""What EC2 takes, in bytes, before base64; and what the user's own may have, before it is compressed."""

_KINDS: Final = {
    "## template: jinja": "text/jinja2",
    "#!": "text/x-shellscript",
    "#cloud-config-archive": "text/cloud-config-archive",
    "#cloud-config-jsonp": "text/cloud-config-jsonp",
    "#cloud-config": "text/cloud-config",
    "#cloud-boothook": "text/cloud-boothook",
    "#include-once": "text/x-include-once-url",
    "#include": "text/x-include-url",
    "#part-handler": "text/part-handler",
}
"""How cloud-init tells the kinds of user data apart: by how they begin. Longer beginnings come first."""

_HEADERS: Final = re.compile(r"(?:content-type|mime-version|content-transfer-encoding):", re.IGNORECASE)
_OURS: Final = ("ssh_keys", "ssh_deletekeys")
_TOP_LEVEL: Final = re.compile(rf"^[\"']?({'|'.join(_OURS)})[\"']?\s*:", re.MULTILINE)
# A file is judged before there is a host key. Those are of one size, and hardly compress: no more than these do.
_NOISE: Final = base64.b64encode(b"".join(hashlib.sha512(bytes([n])).digest() for n in range(6))).decode()
_SAMPLE_KEY: Final = "\n".join(
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        *textwrap.wrap(_NOISE[:420], 70),
        "-----END OPENSSH PRIVATE KEY-----",
    ]
)
_SAMPLE_PUBLIC: Final = "ssh-ed25519 " + _NOISE[420:488]

_ADVICE: Final = "move what is large to a bucket or to setup_cmds"

_STEPS: Final = resources.files("flambed.steps")
_TIMER: Final = "".join(_STEPS.joinpath(name).read_text(encoding="utf-8") for name in ("activity.sh", "idle-timer.sh"))


@dataclass(frozen=True, slots=True)
class IdleTimer:
    """What an instance's own timer keeps to until the service first renews it; see `steps/idle-timer.sh`."""

    minutes: int  # of idleness after which it may end
    threshold: float  # percent of CPU, at a resolution of 0.001

    @property
    def script(self) -> str:
        """Return the timer as a program, which installs itself where it is called without arguments."""
        install = f"[ $# -gt 0 ] || set -- install {self.minutes} {self.threshold:.3f}\n"
        return f"#!/bin/sh\n{install}{_TIMER}"


_SAMPLE_TIMER: Final = IdleTimer(1_058_473, 97.263)
_SAMPLE_SLACK: Final = 16  # bytes: other numbers may compress a little worse


def build(*, host_key_private: str, host_key_public: str, user_data: str | None, timer: IdleTimer | None) -> bytes:
    """Return the user data for RunInstances, compressed and before base64; the same arguments give the same bytes.

    Args:
        host_key_private: an ed25519 key in OpenSSH's PEM.
        host_key_public: its public half, `ssh-ed25519 AAAA...`.
        user_data: the user's own, of any kind that cloud-init takes, or None.
        timer: what the instance ends itself by, None for never.

    Raises:
        ClusterConfigurationError: the user's own cannot be used, or all together is larger than EC2 takes.
    """
    if user_data is not None and (reasons := _content_problems(user_data)):
        raise ClusterConfigurationError(Problem(reason, field="user_data") for reason in reasons)
    raw = _compressed(_assemble(host_key_private, host_key_public, user_data, timer))
    if len(raw) > LIMIT:
        raise ClusterConfigurationError([Problem(_too_large(len(raw)), field="user_data")])
    return raw


def problems(user_data: str) -> tuple[str, ...]:
    """Return what makes this text unusable as a cluster's `user_data`, each as a sentence that says what to do."""
    if (size := len(user_data.encode(errors="surrogatepass"))) > LIMIT:
        return (f"the user data has {size} bytes, and {LIMIT} are the most: {_ADVICE}",)
    if reasons := _content_problems(user_data):
        return reasons
    size = len(_compressed(_assemble(_SAMPLE_KEY, _SAMPLE_PUBLIC, user_data, _SAMPLE_TIMER))) + _SAMPLE_SLACK
    return (_too_large(size),) if size > LIMIT else ()


def _too_large(size: int) -> str:
    return (
        f"the user data has {size} bytes with the host's key and its idle timer, compressed, and EC2 takes {LIMIT}: "
        f"{_ADVICE}"
    )


def _compressed(text: bytes) -> bytes:
    return gzip.compress(text, mtime=0)  # with a time in it, no two would be the same


def _content_problems(text: str) -> tuple[str, ...]:
    if not text.strip():
        return ("the user data is empty: leave it out",)
    if re.search("[\0\ud800-\udfff]", text):
        return ("the user data holds a character that text cannot carry (NUL or half a surrogate pair): remove it",)
    if _is_mime(text):
        leaves = _leaves(text)
        if not leaves:
            return ("the user data begins as a MIME message and has no parts: check its Content-Type and its boundary",)
        found = [reason for leaf in leaves for reason in _part_problems(_kind_of(leaf), _text_of(leaf))]
    else:
        found = _part_problems(_kind(text), text)
    return tuple(dict.fromkeys(found))


def _part_problems(kind: str | None, text: str) -> list[str]:
    if kind is None:
        start = text.strip().split("\n")[0][:20]
        return [f"cloud-init would ignore what begins with {start!r}: begin it with #!, #cloud-config or a MIME header"]
    if kind in {"text/jinja2", "text/cloud-config-archive"}:
        keys = {match[1] for match in _TOP_LEVEL.finditer(textwrap.dedent(text))}
    elif kind == "text/cloud-config":
        try:
            document = yamlfile.load(text, source="user_data")
        except ClusterConfigurationError as error:
            return [f"the cloud-config in the user data cannot be read: {problem}" for problem in error.problems]
        keys = set(document.value)
    else:
        return []
    return [
        f"the user data sets {key!r}, but flambed sets the host's key itself, to know the host again: leave it out"
        for key in _OURS
        if key in keys
    ]


def _kind(text: str) -> str | None:
    start = text.lstrip().lower()
    return next((kind for beginning, kind in _KINDS.items() if start.startswith(beginning)), None)


def _is_mime(text: str) -> bool:
    return _HEADERS.match(text.lstrip()) is not None


def _leaves(text: str) -> list[Message]:
    message = email.message_from_bytes(text.lstrip().encode(), policy=email.policy.compat32)
    return [part for part in message.walk() if not part.is_multipart() and part.get_content_maintype() != "multipart"]


def _text_of(part: Message) -> str:
    payload = part.get_payload(decode=True)
    return payload.decode(errors="replace") if isinstance(payload, bytes) else ""


def _kind_of(part: Message) -> str | None:
    # As cloud-init does: a part that says no more than "text" is told by how it begins.
    declared = part.get_content_type()
    return _kind(_text_of(part)) if declared in {"text/plain", "text/x-not-multipart"} else declared


def _ours(private: str, public: str) -> str:
    key = textwrap.indent(private.strip() + "\n", "    ")
    return f"#cloud-config\nssh_deletekeys: true\nssh_keys:\n  ed25519_private: |\n{key}  ed25519_public: {public.strip()}\n"


def _assemble(private: str, public: str, user_data: str | None, timer: IdleTimer | None) -> bytes:
    ours = _ours(private, public)
    if user_data is None and timer is None:
        return ours.encode()
    parts = [_rendered("text/cloud-boothook", timer.script)] if timer else []
    if user_data is not None and _is_mime(user_data):
        parts += [_rendered_leaf(leaf) for leaf in _leaves(user_data)]
    elif user_data is not None:
        parts.append(_rendered(_kind(user_data) or "text/plain", user_data.lstrip()))
    parts.append(_rendered("text/cloud-config", ours))
    # Out of the content: it cannot occur in it, and replaying a launch gives the same bytes.
    boundary = f"flambed-{hashlib.sha256(b''.join(parts)).hexdigest()[:32]}"
    head = f'Content-Type: multipart/mixed; boundary="{boundary}"\nMIME-Version: 1.0\n\n'.encode()
    # The line's end before a boundary belongs to the boundary, not to the part.
    body = b"".join(b"--" + boundary.encode() + b"\n" + part + b"\n" for part in parts)
    return head + body + b"--" + boundary.encode() + b"--\n"


def _rendered(kind: str, text: str) -> bytes:
    if text.isascii():
        return f'Content-Type: {kind}; charset="us-ascii"\nMIME-Version: 1.0\n\n{text}'.encode()
    encoded = base64.encodebytes(text.encode()).decode()
    head = f'Content-Type: {kind}; charset="utf-8"\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n'
    return f"{head}\n{encoded}".encode()


def _rendered_leaf(part: Message) -> bytes:
    policy = email.policy.compat32.clone(mangle_from_=False)
    rendered = part.as_bytes(policy=policy)
    if not rendered.isascii():
        del part["Content-Transfer-Encoding"]
        email.encoders.encode_base64(part)
        rendered = part.as_bytes(policy=policy)
    return rendered
