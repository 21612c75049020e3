"""OpenSSH's own sshd on hosts of their own: how the service gets to trust them, and what it bears."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from flambed.actions import Peer
from flambed.errors import Reason
from flambed.hostkey import fingerprint
from flambed.observed.facts import (
    CommandEnded,
    CommandStarted,
    Fact,
    HostAcquainted,
    HostKeyKept,
    HostKeyLearned,
    HostKeyMade,
)
from flambed.outputs import Outputs
from flambed.setupkeys import setup_digest
from flambed.ssh import (
    Deadlines,
    HostKeyChangedError,
    SshError,
    Target,
    connect,
    connect_when_up,
    new_host_key,
    shown_keys,
)
from flambed.steps import link
from flambed.steps.acquaint import Guide, acquaint
from flambed.steps.setup import SetupWork, set_up
from tests.real.hosts import BOOTSTRAP_PUBLIC, LOGIN_PUBLIC, RealHost
from tests.sshserver import eventually

MakeHost = Callable[..., RealHost]
DEADLINES = Deadlines(connect=1, login=5, keepalive=0.3, missed=2)


class Crash(BaseException):
    """The service ends here."""


@dataclass
class Desk:
    """Where set-up is ordered from; with `crashes_at` it ends as soon as it is told such a fact."""

    outputs: Outputs
    facts: list[Fact] = field(default_factory=list)
    crashes_at: type[Fact] | None = None
    told: asyncio.Condition = field(default_factory=asyncio.Condition)

    def emit(self, fact: Fact) -> None:
        """Take a fact."""
        if type(fact) is self.crashes_at:
            raise Crash
        self.facts.append(fact)

    async def written(self, fact: Fact) -> None:
        """Write a fact down."""
        self.facts.append(fact)
        if type(fact) is self.crashes_at:
            raise Crash

    async def set_up(self, target: Target, *commands: str, instance: str = "i-1", rekey: bool = True) -> None:
        """Set a host up over a real connection."""
        work = SetupWork(
            cluster_id="c1",
            instance=instance,
            target=target,
            commands=commands,
            attempt=0,
            digest=setup_digest(commands),
            timeout=30.0,
            deadline=20.0,
            description="{}\n",
            description_digest="d1",
            rekey=rekey,
        )
        await set_up(
            work,
            emit=self.emit,
            written=self.written,
            now=partial(next, itertools.count(1.0)),
            connect=partial(connect_when_up, deadlines=DEADLINES),
            outputs=self.outputs,
        )

    def of(self, kind: type[Fact]) -> list[Fact]:
        """Return the facts of a kind."""
        return [fact for fact in self.facts if type(fact) is kind]

    @property
    def made(self) -> list[str]:
        """The keys that hosts were said to have made."""
        return [fact.public_key for fact in self.facts if isinstance(fact, HostKeyMade)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A desk with a fresh state folder."""
    return Desk(Outputs(tmp_path / "state"))


async def refused(target: Target) -> HostKeyChangedError:
    """Return how a host is refused that shows another key."""
    with pytest.raises(HostKeyChangedError) as caught:
        async with connect(target, DEADLINES):
            pass
    return caught.value


# --- the key -----------------------------------------------------------------------------------------------------


async def test_a_host_gets_a_key_of_its_own_over_its_first_connection(hosts: MakeHost, desk: Desk) -> None:
    """The private half is made there; from then on only the new key counts, and the session is not cut."""
    host = hosts()
    await desk.set_up(host.target(), "echo set up")
    [made] = desk.made
    assert host.key == made != BOOTSTRAP_PUBLIC
    assert [(f.public_key, f.source) for f in desk.facts if isinstance(f, HostKeyLearned)] == [(made, "replaced")]
    assert desk.facts.index(desk.of(HostKeyMade)[0]) < desk.facts.index(desk.of(CommandStarted)[0])
    assert [output.text for output in desk.outputs.read("c1")] == ["set up\n"]
    async with connect(host.target(made), DEADLINES) as session:
        assert session.host_key == made
    assert (await refused(host.target())).shown == made


async def test_each_host_makes_another_key(hosts: MakeHost, desk: Desk) -> None:
    """Though all began with the one of the user data; they are set up at the same time."""
    some = [hosts() for _ in range(4)]
    await asyncio.gather(*(desk.set_up(host.target(), instance=host.name) for host in some))
    assert sorted(desk.made) == sorted(host.key for host in some)
    assert len(set(desk.made)) == len(some)


@pytest.mark.parametrize("moment", [HostKeyMade, HostKeyLearned], ids=["made", "shown"])
async def test_a_crash_in_the_middle_loses_no_host(hosts: MakeHost, desk: Desk, moment: type[Fact]) -> None:
    """What was written down is enough to log in again, and the key that was made is the one that is pinned."""
    host = hosts()
    desk.crashes_at = moment
    with pytest.raises(Crash):
        await desk.set_up(host.target())
    [made] = desk.made
    assert host.key == (BOOTSTRAP_PUBLIC if moment is HostKeyMade else made)
    desk.crashes_at = None
    await desk.set_up(host.target(BOOTSTRAP_PUBLIC, made))
    assert desk.made == [made], "none is made twice"
    assert [f.public_key for f in desk.facts if isinstance(f, HostKeyLearned)] == [made]
    assert host.key == made


async def test_a_user_who_cannot_become_root_keeps_the_key_and_is_set_up(hosts: MakeHost, desk: Desk) -> None:
    """The host does not fail for it; it is told once."""
    host = hosts()
    await desk.set_up(host.target(username="ubuntu"), "id -un")
    assert len(desk.of(HostKeyKept)) == 1
    assert (host.key, desk.made) == (BOOTSTRAP_PUBLIC, [])
    assert [output.text for output in desk.outputs.read("c1")] == ["ubuntu\n"]


async def test_a_changed_key_is_refused_with_both_fingerprints(hosts: MakeHost) -> None:
    """No login is tried with it; what it shows can be told to a person."""
    host = hosts()
    changed = host.change_key()
    error = await refused(host.target())
    assert (error.reason, error.shown) == (Reason.HOST_KEY_CHANGED, changed)
    assert fingerprint(changed) in error.message
    assert fingerprint(BOOTSTRAP_PUBLIC) in error.message
    assert "Accepted publickey" not in host.log()
    assert await shown_keys(host.address, 22) == (changed,)


# --- the link ----------------------------------------------------------------------------------------------------


async def test_a_host_whose_sshd_comes_late_is_waited_for(hosts: MakeHost, desk: Desk) -> None:
    """It is logged in to as soon as it answers."""
    host = hosts(sshd=False)
    running = asyncio.create_task(desk.set_up(host.target(), "echo here"))
    await asyncio.sleep(0.5)  # it knocks a few times in vain
    assert not running.done()
    await asyncio.to_thread(host.start_sshd)
    await running
    assert [output.text for output in desk.outputs.read("c1")] == ["here\n"]


async def test_a_command_goes_on_while_its_host_is_cut_off_and_is_attached_to_again(
    hosts: MakeHost, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs once; the service hears of its end although it was not there when it came."""
    monkeypatch.setattr(link, "PAUSES", (0.1, 0.2, 0.4, 0.8, 1.6))
    host = hosts()
    command = "echo begun >>~/runs; while [ ! -e ~/go ]; do sleep 0.1; done; echo done >>~/runs; cat ~/runs"
    running = asyncio.create_task(desk.set_up(host.target(), command))
    begun = host.path("runs")
    await asyncio.to_thread(eventually, begun.exists, "the command has begun")
    host.cut()
    host.path("go").touch()
    await asyncio.to_thread(eventually, lambda: "done" in begun.read_text(), "the command ends without a link")
    assert not running.done()
    host.mend()
    await running
    assert [(f.number, f.code) for f in desk.facts if isinstance(f, CommandEnded)] == [(0, 0)]
    assert [output.text for output in desk.outputs.read("c1")] == ["begun\ndone\n"]


async def test_a_connection_to_a_host_that_was_cut_off_is_given_up_and_made_again(hosts: MakeHost) -> None:
    """Nothing tells that the link is gone but silence; it is noticed by that, and nobody waits for ever."""
    host = hosts()
    async with connect(host.target(), DEADLINES) as session:
        host.cut()
        with pytest.raises(SshError) as caught:
            await session.run("true", timeout=20)
    assert caught.value.reason is Reason.CONNECTION_LOST
    with pytest.raises(SshError) as caught:
        async with connect(host.target(), replace(DEADLINES, connect=0.5)):
            pass
    assert caught.value.reason is Reason.UNREACHABLE
    host.mend()
    until = asyncio.get_running_loop().time() + 20
    async with connect_when_up(host.target(), until=until, deadlines=DEADLINES) as session:
        assert (await session.run("hostname", timeout=20)).stdout == f"{host.name}\n"


# --- from host to host -------------------------------------------------------------------------------------------


async def test_the_orchestrator_logs_in_to_its_factories_by_name_without_a_prompt(hosts: MakeHost, desk: Desk) -> None:
    """By the pinned key and no other; what was in the user's files stays, and doing it again changes nothing."""
    host = hosts()  # it is both, so that no packet has to be routed
    private, public = new_host_key()
    (host.folder / "root" / ".ssh" / "config").write_text("Host elsewhere\n    User nobody")
    for key, code in ((BOOTSTRAP_PUBLIC, 0), (new_host_key()[1], 255)):
        peer = Peer(instance="i-0", name="x_factory_0", address=host.address, host_keys=(key,))
        for what in (public, Guide(private, "root", 22, (peer,))):
            for _ in range(2):
                await acquaint(
                    "i-o",
                    host.target(),
                    what,
                    "d",
                    deadline=20,
                    emit=desk.emit,
                    now=lambda: 1.0,
                    connect=connect_when_up,
                )
        async with connect(host.target(), DEADLINES) as session:
            for name in ("x_factory_0", host.address):
                done = await session.run(f"ssh -o BatchMode=yes {name} hostname", timeout=20)
                assert (done.code, done.stdout) == (code, f"{host.name}\n" if code == 0 else ""), done.stderr
    assert "Host key verification failed" in done.stderr
    files = host.folder / "root"
    assert (files / ".flambed" / "ssh" / "id_ed25519").stat().st_mode & 0o777 == 0o600
    assert (files / ".ssh" / "authorized_keys").read_text().splitlines() == [LOGIN_PUBLIC, public]
    config = (files / ".ssh" / "config").read_text()
    assert config == "Include ~/.flambed/ssh/config\nHost elsewhere\n    User nobody"
    assert len(desk.of(HostAcquainted)) == 8
