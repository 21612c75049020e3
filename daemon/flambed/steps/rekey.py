"""A key of its own for a host, in the place of the one out of its user data (see rekey.sh beside this file).

The user data's key is a bootstrap key: everybody on the host can read it, and whoever may read the user data. So over
the first connection, which it vouches for, the host makes another. That is in the journal before any client is shown
it, so whatever is cut off, the service knows each key that the host can show; and once it was shown, only that counts.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Final

from flambed.observed.facts import Fact, HostKeyKept, HostKeyLearned, HostKeyMade
from flambed.steps.link import SHORT, Link, insist

REKEY: Final = resources.files(__package__).joinpath("rekey.sh").read_text(encoding="utf-8")
AS_ROOT: Final = '[ "$(id -u)" -eq 0 ] || set -- sudo -n "$@"\nexec "$@"'

FILE: Final = "/etc/ssh/ssh_host_ed25519_key"  # where cloud-init puts the user data's
CONSOLE: Final = "/dev/console"

_WHY: Final = {
    1: "the user may not become root without a password (`sudo -n`)",
    121: "it has no ssh-keygen",
    122: "the key could not be made: is its disk full?",
    123: f"the key could not be put into the place of {FILE}",
    124: "its sshd did not take the key (`sshd -t`, `systemctl reload ssh`)",
    127: "it has no sudo",
}
_LOOKS: Final = (0.0, 0.5, 1.0, 2.0)
"""Seconds before each look whether sshd shows the new key: it reads its keys a moment after it was told to."""


async def rekey(
    link: Link,
    instance: str,
    host_keys: tuple[str, ...],
    *,
    emit: Callable[[Fact], None],
    written: Callable[[Fact], Awaitable[None]],
    now: Callable[[], float],
) -> None:
    """Have a host make itself a key, show it, and be pinned by it; a host that cannot keeps the key that it has.

    Emits HostKeyMade unless that was told before, then HostKeyLearned, or HostKeyKept where it was to no avail.

    Args:
        host_keys: what it may show: the pinned key, and the one that it is known to have made.

    Raises:
        SshError: the host could not be reached, or the link dropped again and again.
        StepError: HostKeyMade could not be written down.
    """
    pinned, *known = host_keys
    shown = (await link.open()).host_key
    made = known[0] if known else None
    if shown == pinned:
        code, printed = await _step(link, "make", pinned)
        report = re.search(r"^flambed-key (ssh-ed25519 \S+)$", printed, re.MULTILINE)
        if code == 0 and report:
            if report[1] != made:
                await written(HostKeyMade(at=now(), instance=instance, public_key=report[1]))
            made = report[1]
            link.accept(pinned, made)
            code, _ = await _step(link, "use", CONSOLE)
        if code != 0 or made is None:
            why = _WHY.get(code, f"its script ended with {code}")
            emit(HostKeyKept(at=now(), instance=instance, why=why))
            return
        shown = await _shown_anew(link, made)
    if shown != made:
        emit(HostKeyKept(at=now(), instance=instance, why="its sshd goes on showing the old one; a reboot may help"))
        return
    link.accept(shown)
    emit(HostKeyLearned(at=now(), instance=instance, public_key=shown, source="replaced"))


async def _step(link: Link, step: str, argument: str) -> tuple[int, str]:
    code, printed, _ = await insist(
        lambda: link.run(AS_ROOT, "sh", "-c", REKEY, "flambed", step, FILE, argument, timeout=SHORT)
    )
    return code, printed


async def _shown_anew(link: Link, wanted: str) -> str:
    """Return the key that the host shows to a new connection, the wanted one as soon as it does."""
    shown = ""
    for pause in _LOOKS:
        await link.drop()
        await asyncio.sleep(pause)
        shown = (await link.open()).host_key
        if shown == wanted:
            break
    return shown
