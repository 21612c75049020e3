"""Setting up hosts over real SSH: what is emitted, in which order, and what becomes of trouble on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from flambed.errors import Reason, StepError
from flambed.observed.facts import CommandEnded, CommandStarted, Fact, HostInformed, HostReached, SetupDone
from flambed.outputs import Outputs
from flambed.setupkeys import command_key, setup_digest
from flambed.ssh import Deadlines, SshError, Target, connect_when_up, new_host_key
from flambed.steps import link
from flambed.steps.link import SetupError
from flambed.steps.setup import SetupWork, inform, set_up
from tests.sshserver import Gate, SshHost, kill_runner, processes_of, ssh_host, wire_to

CLUSTER = '{"name": "x"}\n'


@dataclass
class Desk:
    """Where set-up is ordered from: it keeps the facts, and counts the time in whole steps."""

    outputs: Outputs
    facts: list[Fact] = field(default_factory=list)
    time: float = 1000.0

    def now(self) -> float:
        """A second later each time."""
        self.time += 1
        return self.time

    async def set_up(self, work: SetupWork) -> None:
        """Set up over real connections."""
        connect = partial(connect_when_up, deadlines=Deadlines(connect=1, login=5, keepalive=0.2, missed=2))
        await set_up(
            work,
            emit=self.facts.append,
            written=self.written,
            now=self.now,
            connect=connect,
            outputs=self.outputs,
        )

    async def written(self, fact: Fact) -> None:
        """Write a fact down."""
        self.facts.append(fact)

    async def failing(self, work: SetupWork) -> StepError:
        """How a set-up fails that must fail."""
        with pytest.raises(StepError) as caught:
            await self.set_up(work)
        return caught.value

    def kinds(self) -> list[str]:
        """The kinds of the facts so far, in order."""
        return [type(fact).__name__ for fact in self.facts]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A desk with a fresh state folder."""
    return Desk(Outputs(tmp_path / "state"))


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[SshHost]:
    """A host on loopback that is up."""
    (tmp_path / "home").mkdir()
    async with ssh_host(tmp_path / "home") as host:
        yield host


@pytest.fixture
def gate(host: SshHost) -> Iterator[Gate]:
    """A gate on the host."""
    gate = Gate(host.home)
    yield gate
    gate.close()


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses after a loss that a test can wait for."""
    monkeypatch.setattr(link, "PAUSES", (0.01, 0.02, 0.04))


def work(target: Target, *commands: str, **changes: object) -> SetupWork:
    """Set-up of instance i-1 with these commands."""
    whole = SetupWork(
        cluster_id="c1",
        instance="i-1",
        target=target,
        commands=commands,
        attempt=0,
        digest=setup_digest(commands),
        timeout=20.0,
        deadline=10.0,
        description=CLUSTER,
        description_digest="d1",
    )
    return replace(whole, **changes)  # type: ignore[arg-type]  # a test may change anything


# --- the way it should go ----------------------------------------------------------------------------------------


async def test_a_host_is_reached_informed_and_set_up_in_order(host: SshHost, desk: Desk) -> None:
    """Each step is a fact with the time at which it became known."""
    commands = ("echo one", "cat ~/.flambed/cluster.json >&2")
    await desk.set_up(work(host.target(), *commands))
    digest = setup_digest(commands)
    assert desk.facts == [
        HostReached(at=1001, instance="i-1"),
        HostInformed(at=1002, instance="i-1", digest="d1"),
        CommandStarted(at=1003, instance="i-1", number=0, attempt=0),
        CommandEnded(at=1004, instance="i-1", number=0, attempt=0, code=0, digest=digest),
        CommandStarted(at=1005, instance="i-1", number=1, attempt=0),
        CommandEnded(at=1006, instance="i-1", number=1, attempt=0, code=0, digest=digest),
        SetupDone(at=1007, instance="i-1", digest=digest),
    ]
    assert [output.text for output in desk.outputs.read("c1")] == ["one\n", CLUSTER]
    assert host.attempts == 1


async def test_without_commands_a_host_is_done_once_it_is_informed(host: SshHost, desk: Desk) -> None:
    """The description is there for whoever logs in."""
    await desk.set_up(work(host.target()))
    assert desk.kinds() == ["HostReached", "HostInformed", "SetupDone"]
    assert (host.home / ".flambed" / "cluster.json").read_text() == CLUSTER


async def test_commands_that_are_done_are_left_alone(host: SshHost, desk: Desk) -> None:
    """A restarted service goes on with the first that is not."""
    await desk.set_up(work(host.target(), "touch first", "touch second", first=1))
    assert not (host.home / "first").exists()
    assert (host.home / "second").exists()
    assert desk.kinds() == ["HostReached", "HostInformed", "CommandStarted", "CommandEnded", "SetupDone"]


async def test_the_same_set_up_again_runs_nothing_again(host: SshHost, desk: Desk) -> None:
    """The host knows what has ended, even where the service has forgotten."""
    for _ in range(2):
        await desk.set_up(work(host.target(), "echo ran >>count"))
    assert (host.home / "count").read_text() == "ran\n"
    assert desk.kinds().count("SetupDone") == 2


async def test_another_attempt_runs_its_commands_anew(host: SshHost, desk: Desk) -> None:
    """Which is what a retry is for; the outputs of both are kept."""
    for attempt in range(2):
        await desk.set_up(work(host.target(), "echo ran | tee -a count", attempt=attempt))
    assert (host.home / "count").read_text() == "ran\nran\n"
    assert [output.attempt for output in desk.outputs.read("c1")] == [0, 1]


async def test_an_edited_list_runs_again_from_the_first_change(host: SshHost, desk: Desk) -> None:
    """What stands before it has been done."""
    await desk.set_up(work(host.target(), "echo a >>count", "echo b >>count", "echo c >>count"))
    await desk.set_up(work(host.target(), "echo a >>count", "echo B >>count", "echo c >>count"))
    assert (host.home / "count").read_text() == "a\nb\nc\nB\nc\n"


async def test_no_command_is_ever_part_of_a_command_line(host: SshHost, desk: Desk) -> None:
    """Whoever lists the host's processes would read it."""
    await desk.set_up(work(host.target(), "export TOKEN=sesame"))
    assert host.commands
    assert not any("sesame" in command for command in host.commands)


async def test_a_greeting_of_the_login_shell_is_not_taken_for_output(host: SshHost, desk: Desk) -> None:
    """Some people's start-up files print, and some set options."""
    host.greeting = "echo Welcome to flambed-exit 9 9; "
    await desk.set_up(work(host.target(), "echo real"))
    assert [output.text for output in desk.outputs.read("c1")] == ["real\n"]


async def test_much_output_is_kept_from_its_end_with_the_size_of_the_loss(host: SshHost, desk: Desk) -> None:
    """Cut on the host, told here."""
    await desk.set_up(work(host.target(), "head -c 100000 /dev/zero | tr '\\0' x; echo end"))
    (output,) = desk.outputs.read("c1")
    assert output.text.startswith(f"[flambed: the first {100004 - 65536} bytes are not kept]\nxx")
    assert output.text.endswith("xend\n")


# --- what goes wrong ---------------------------------------------------------------------------------------------


async def test_the_first_command_that_fails_is_the_last(host: SshHost, desk: Desk) -> None:
    """The message names it by its number and code; its text and output are kept for the owner alone."""
    failed = await desk.failing(work(host.target(), "true", "echo no such package; exit 7\n# more", "touch never"))
    assert isinstance(failed, SetupError)
    assert (failed.reason, failed.code, failed.number, failed.exit_code) == (Reason.COMMAND_FAILED, "7", 1, 7)
    assert failed.message == "set-up command 2 of 3 ended with 7"
    assert desk.kinds()[-2:] == ["CommandStarted", "CommandEnded"]
    assert [output.code for output in desk.outputs.read("c1")] == [0, 7]
    assert not (host.home / "never").exists()


async def test_a_command_over_its_time_is_told_to_be_still_running(host: SshHost, desk: Desk, gate: Gate) -> None:
    """What it printed by then is kept; when it has ended, the same set-up learns of it and runs nothing twice."""
    slow = work(host.target(), f"echo ran | tee -a count; {gate.command}", timeout=1.0)
    failed = await desk.failing(slow)
    assert failed.reason is Reason.TIMED_OUT
    assert "not ended after 1 s" in failed.message
    assert "still runs on the host" in failed.message
    assert desk.kinds()[-1] == "CommandStarted"
    assert [(output.code, output.text) for output in desk.outputs.read("c1")] == [(None, "ran\n")]
    gate.let_go()
    await desk.set_up(replace(slow, timeout=20.0))
    assert [(output.code, output.text) for output in desk.outputs.read("c1")] == [(0, "ran\n")]
    assert (host.home / "count").read_text() == "ran\n"


@pytest.mark.usefixtures("brisk")
async def test_a_link_that_drops_is_made_anew_and_the_command_attached_to(
    host: SshHost, desk: Desk, gate: Gate
) -> None:
    """Nothing of it is seen outside, and the command runs once."""
    async with wire_to(host) as wire:
        setting_up = asyncio.create_task(
            desk.set_up(work(host.target(port=wire.port), f"echo ran >>count; {gate.command}; echo done"))
        )
        await asyncio.to_thread(gate.wait)
        for asked in (3, 4):  # after cluster.json and the command
            wire.cut()
            await host.wait_for_commands(asked)
        gate.let_go()
        await setting_up
    assert (host.home / "count").read_text() == "ran\n"
    assert [output.text for output in desk.outputs.read("c1")] == ["done\n"]
    assert desk.kinds() == ["HostReached", "HostInformed", "CommandStarted", "CommandEnded", "SetupDone"]


@pytest.mark.usefixtures("brisk")
async def test_a_link_that_drops_again_and_again_is_told(host: SshHost, desk: Desk, gate: Gate) -> None:
    """Bounded; the command goes on, so that a later attempt can attach."""
    async with wire_to(host) as wire:
        setting_up = asyncio.create_task(desk.failing(work(host.target(port=wire.port), gate.command)))
        await asyncio.to_thread(gate.wait)
        for asked in (3, 4, 5):
            wire.cut()
            await host.wait_for_commands(asked)
        wire.cut()
        failed = await setting_up
    assert failed.reason is Reason.CONNECTION_LOST
    assert "set-up command 1 of 1" in failed.message
    assert processes_of(host.home, "flock")


@pytest.mark.usefixtures("brisk")
async def test_a_command_that_was_killed_with_its_host_runs_again(host: SshHost, desk: Desk, gate: Gate) -> None:
    """As after a reboot: no exit code, no lock."""
    setting_up = asyncio.create_task(desk.set_up(work(host.target(), f"echo ran >>count; {gate.command}")))
    await asyncio.to_thread(gate.wait)
    kill_runner(host.home)
    await asyncio.to_thread(gate.wait)
    gate.let_go()
    await setting_up
    assert (host.home / "count").read_text() == "ran\nran\n"
    assert desk.kinds()[-1] == "SetupDone"


async def test_a_home_that_cannot_be_written_fails_with_the_hosts_words(host: SshHost, desk: Desk) -> None:
    """Before any command."""
    (host.home / ".flambed").write_text("in the way")
    failed = await desk.failing(work(host.target(), "true"))
    assert failed.reason is Reason.COMMAND_FAILED
    assert "cluster.json cannot be written" in failed.message
    assert desk.kinds() == ["HostReached"]


@pytest.mark.usefixtures("brisk")
async def test_a_command_that_never_leaves_an_exit_code_is_given_up(host: SshHost, desk: Desk) -> None:
    """Here it kills its own runner each time."""
    failed = await desk.failing(work(host.target(), "echo ran >>count; kill -9 0"))
    assert failed.reason is Reason.COMMAND_FAILED
    assert "left no exit code" in failed.message
    assert (host.home / "count").read_text() == "ran\n" * 4


async def test_a_host_that_is_never_reached_fails_without_a_fact(host: SshHost, desk: Desk) -> None:
    """With SSH's own reason."""
    host.lets_in = False
    failed = await desk.failing(work(host.target(), "true", deadline=0.5))
    assert isinstance(failed, SshError)
    assert failed.reason is Reason.LOGIN_REFUSED
    assert desk.facts == []


async def test_a_cancelled_set_up_leaves_the_command_alone_and_no_connection(
    host: SshHost, desk: Desk, gate: Gate
) -> None:
    """The service stops; its successor attaches."""
    task = work(host.target(), f"echo ran >>count; {gate.command}")
    setting_up = asyncio.create_task(desk.set_up(task))
    await asyncio.to_thread(gate.wait)
    setting_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await setting_up
    async with asyncio.timeout(10):
        await host.all_closed.wait()
    gate.let_go()
    await desk.set_up(task)
    assert (host.home / "count").read_text() == "ran\n"
    assert desk.kinds()[-1] == "SetupDone"


# --- a later description, and the keys ---------------------------------------------------------------------------


async def informed(desk: Desk, target: Target) -> None:
    """Inform a host of another description, with the digest d2."""
    await inform(
        "i-1",
        target,
        "{}",
        "d2",
        deadline=10,
        rekeyed=False,
        emit=desk.facts.append,
        written=desk.written,
        now=desk.now,
        connect=connect_when_up,
    )


async def test_a_host_is_informed_of_what_has_changed(host: SshHost, desk: Desk) -> None:
    """The file is replaced, and the fact tells by which."""
    await desk.set_up(work(host.target()))
    await informed(desk, host.target())
    assert (host.home / ".flambed" / "cluster.json").read_text() == "{}"
    assert desk.facts[-1] == HostInformed(at=1004, instance="i-1", digest="d2")


async def test_a_host_that_cannot_be_informed_is_told(host: SshHost, desk: Desk) -> None:
    """And no fact claims that it was."""
    stranger = host.target(host_keys=(new_host_key()[1],))
    with pytest.raises(SshError) as caught:
        await informed(desk, stranger)
    assert caught.value.reason is Reason.HOST_KEY_CHANGED
    assert desk.facts == []


def test_a_key_stands_for_the_commands_up_to_its_own_and_the_attempt() -> None:
    """What comes later does not count, and where one command ends does."""
    key = command_key(["a", "b", "c"], 1, 0)
    assert key == command_key(["a", "b", "other"], 1, 0)
    others = [(["A", "b"], 1, 0), (["a", "b"], 0, 0), (["a", "b"], 1, 1), (["a\nb"], 0, 0), (["", "a", "b"], 2, 0)]
    assert len({key, *(command_key(*other) for other in others)}) == 6
    with pytest.raises(IndexError, match="no set-up command 2"):
        command_key(["a", "b"], 2, 0)


def test_a_digest_stands_for_the_whole_list() -> None:
    """Order and borders count; the kind of sequence does not."""
    assert setup_digest(["a", "b"]) == setup_digest(("a", "b"))
    assert len({setup_digest(commands) for commands in (["a", "b"], ["b", "a"], ["ab"], ["a\nb"], [])}) == 5
