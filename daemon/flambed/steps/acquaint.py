"""The orchestrator's way to its factories: a key pair a cluster, and the factories' real host keys.

The private half lies on the orchestrator only, 0600, below ~/.flambed/ssh; factories let in who has it. `ssh` on the
orchestrator finds them by name or address, without a prompt, and trusts their pinned keys and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Final

from flambed.actions import Peer
from flambed.errors import Reason
from flambed.observed.facts import Fact, HostAcquainted
from flambed.ssh import Target
from flambed.steps.link import SHORT, Connector, Link, SetupError, insist, store

ACQUAINT: Final = resources.files(__package__).joinpath("acquaint.sh").read_text(encoding="utf-8")

_FOLDER: Final = "ssh"  # below ~/.flambed


@dataclass(frozen=True, slots=True)
class Guide:
    """What an orchestrator needs to log in to its factories."""

    private: str = field(repr=False)  # the cluster's key
    username: str
    port: int
    peers: Sequence[Peer]

    @property
    def config(self) -> str:
        """A part of an ssh_config that names each factory."""
        return "".join(
            f"Host {peer.name} {peer.address}\n"
            f"    HostName {peer.address}\n"
            f"    Port {self.port}\n"
            f"    User {self.username}\n"
            f"    HostKeyAlias {peer.instance}\n"
            f"    IdentityFile ~/.flambed/{_FOLDER}/id_ed25519\n"
            "    IdentitiesOnly yes\n"
            f"    UserKnownHostsFile ~/.flambed/{_FOLDER}/known_hosts\n"
            "    StrictHostKeyChecking yes\n"
            for peer in self.peers
        )

    @property
    def known_hosts(self) -> str:
        """The factories' pinned keys."""
        return "".join(f"{peer.instance} {key}\n" for peer in self.peers for key in peer.host_keys)


async def acquaint(
    instance: str,
    target: Target,
    what: Guide | str,
    digest: str,
    *,
    deadline: float,
    emit: Callable[[Fact], None],
    now: Callable[[], float],
    connect: Connector,
) -> None:
    """Give an orchestrator its guide, or have a factory let in who has the private half of a public key.

    Raises:
        SshError: the host could not be reached within `deadline` seconds, or the link dropped again and again.
        SetupError: its files could not be written.
    """
    async with Link(target, connect, deadline) as link:
        if isinstance(what, str):
            await authorize(link, instance, what)
        else:
            await store(link, instance, f"{_FOLDER}/id_ed25519", what.private, mode="600")
            await store(link, instance, f"{_FOLDER}/known_hosts", what.known_hosts, mode="600")
            await store(link, instance, f"{_FOLDER}/config", what.config, mode="600")
            await _run(link, instance, "include")
    emit(HostAcquainted(at=now(), instance=instance, digest=digest))


async def authorize(link: Link, instance: str, public: str) -> None:
    """Have a host let in who has the private half of `public`."""
    await _run(link, instance, "authorize", public)


async def _run(link: Link, instance: str, *args: str) -> None:
    code, _, _ = await insist(lambda: link.run(ACQUAINT, *args, timeout=SHORT))
    if code != 0:
        why = "is its disk full, or the home folder not writable?"
        raise SetupError(Reason.COMMAND_FAILED, f"exit {code}", f"~/.ssh cannot be changed on {instance}: {why}")
