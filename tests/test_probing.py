"""keeper.probing: hosts are asked every five minutes, and only edges of their use are told."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from flambed.actions import Protection, Question
from flambed.errors import Reason, StepError
from flambed.keeper import Keeper
from flambed.keeper.probing import PARALLEL
from flambed.observed.facts import Fact, HostHeard, HostMute, TimerSeen, VoteBegan, VoteEnded
from flambed.steps import protect
from flambed.steps.protect import alarm_name
from tests.fakes import ME, Cloud, ids
from tests.virtualtime import START, virtual

HOST = ids([1])[0]
MINUTE = 60.0


class Hosts:
    """Answers for the hosts, as their probe would."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {"timer": "renewed", "gpu": "none", "terminal": "none", "experiment": "none"}
        self.broken: StepError | None = None
        self.text: str | None = None
        self.asked: list[tuple[float, Question, float]] = []

    async def ask(self, question: Question, hold: float) -> str:
        """Answer one probe."""
        self.asked.append((asyncio.get_running_loop().time(), question, hold))
        if self.broken is not None:
            raise self.broken
        lines = [f"{signal} {value}" for signal, value in (self.answers | {"uptime": "900"}).items()]
        return self.text if self.text is not None else "\n".join(["flambed-probe", *lines, "end", ""])


def wanted(**changes: Any) -> dict[str, Protection]:
    """Return the protection of one factory with a timeout of an hour that can be asked."""
    question: dict[str, Any] = {
        "address": "127.0.0.9", "instance": HOST, "host_keys": ("ssh-ed25519 A",), "username": "ubuntu", "minutes": 60, "threshold": 0.5,
        "hold_until": None, "experiment": False, "votes": (), "mute": False,
    }  # fmt: skip
    asked = Question(**(question | changes))
    plain = Protection(
        instance=HOST, minutes=60, threshold=0.5, vote_until=None, seed=False, policy="p", question=asked
    )
    return {HOST: plain}


@asynccontextmanager
async def opened(
    cloud: Cloud, hosts: Hosts, memory: dict[str, str] | None = None, **changes: Any
) -> AsyncIterator[Keeper]:
    """Open a region with one host that can be asked."""
    async with cloud.region(survey_interval=1e9, memory=memory if memory is not None else {}) as region:
        region.subscribe(ME, cloud.heard.take)
        region.keeper.want(ME, wanted(**changes), cloud.heard.take, ask=hosts.ask)
        yield region.keeper


def edges(cloud: Cloud) -> list[tuple[str, str]]:
    """Return the uses that were told, in their order."""
    return [(type(fact).__name__, fact.vote) for fact in cloud.heard.facts if isinstance(fact, VoteBegan | VoteEnded)]


@virtual
async def test_a_host_is_asked_every_five_minutes_and_says_nothing_new_each_time() -> None:
    """Twelve probes an hour, one fact: its timer was seen."""
    cloud, hosts = Cloud(), Hosts()
    async with opened(cloud, hosts):
        await asyncio.sleep(59 * MINUTE)
    assert [round(later - hosts.asked[0][0]) for later, _, _ in hosts.asked] == [300 * number for number in range(12)]
    assert [(fact.state, fact.minutes) for fact in cloud.heard.of(TimerSeen)] == [("renewed", 60)]
    assert edges(cloud) == []


@pytest.mark.idle("votes")
@virtual
async def test_a_busy_gpu_is_a_vote_from_the_probe_that_sees_it_to_the_one_that_does_not() -> None:
    """Above the setting, and not at it."""
    cloud, hosts = Cloud(), Hosts()
    async with opened(cloud, hosts):
        for percent in ("5", "97", "80", "5"):
            hosts.answers["gpu"] = percent
            await asyncio.sleep(5 * MINUTE)
    assert edges(cloud) == [("VoteBegan", "gpu"), ("VoteEnded", "gpu")]
    began, ended = cloud.heard.of(VoteBegan)[0].at, cloud.heard.of(VoteEnded)[0].at
    assert ended - began == pytest.approx(10 * MINUTE, abs=2)


@pytest.mark.idle("votes")
@virtual
async def test_somebody_at_a_terminal_is_a_vote_for_half_an_hour_from_the_last_input() -> None:
    """A terminal without input, as a forgotten tmux, is none."""
    cloud, hosts = Cloud(), Hosts()
    hosts.answers["terminal"] = "600"
    async with opened(cloud, hosts):
        await asyncio.sleep(MINUTE)
        hosts.broken = StepError(Reason.CONNECTION_LOST, "Lost", "the link dropped")
        await asyncio.sleep(40 * MINUTE)
    assert edges(cloud) == [("VoteBegan", "terminal"), ("VoteEnded", "terminal")]
    began, ended = cloud.heard.of(VoteBegan)[0].at, cloud.heard.of(VoteEnded)[0].at
    assert ended - began == pytest.approx(20 * MINUTE, abs=5)
    cloud, hosts = Cloud(), Hosts()
    hosts.answers["terminal"] = "1801"
    async with opened(cloud, hosts):
        await asyncio.sleep(20 * MINUTE)
    assert edges(cloud) == []


@virtual
async def test_the_experiment_is_a_vote_while_its_process_runs() -> None:
    """How long it may do nothing is decided elsewhere."""
    cloud, hosts = Cloud(), Hosts()
    hosts.answers["experiment"] = "running"
    async with opened(cloud, hosts, experiment=True):
        await asyncio.sleep(11 * MINUTE)
        hosts.answers["experiment"] = "none"
        await asyncio.sleep(5 * MINUTE)
    assert edges(cloud) == [("VoteBegan", "experiment"), ("VoteEnded", "experiment")]


@pytest.mark.idle("votes", "host mute and no CPU data")
@virtual
async def test_a_probe_that_fails_proves_nothing_and_keeps_a_vote_for_fifteen_minutes_at_most() -> None:
    """Neither use nor idleness; after that the host counts as mute, and is told as such once."""
    cloud, hosts = Cloud(), Hosts()
    hosts.answers["gpu"] = "97"
    async with opened(cloud, hosts):
        await asyncio.sleep(MINUTE)
        hosts.broken = StepError(Reason.UNREACHABLE, "Timeout", "no answer")
        await asyncio.sleep(60 * MINUTE)
        assert edges(cloud) == [("VoteBegan", "gpu"), ("VoteEnded", "gpu")]
        began, ended = cloud.heard.of(VoteBegan)[0].at, cloud.heard.of(VoteEnded)[0].at
        assert ended - began == pytest.approx(15 * MINUTE, abs=2)
        [mute] = cloud.heard.of(HostMute)
        assert mute.why == "no answer"
        hosts.broken = None
        await asyncio.sleep(5 * MINUTE)
        assert len(cloud.heard.of(HostHeard)) == 1
    assert edges(cloud)[2:] == [("VoteBegan", "gpu")]


@pytest.mark.parametrize("text", ["", "flambed-probe\ntimer renewed\n", "flambed-probe\ngpu lots\nend\n", "Welcome!\n"])
@virtual
async def test_an_answer_that_is_none_is_a_failure(text: str) -> None:
    """Cut off, or something else that answered: it says nothing."""
    cloud, hosts = Cloud(), Hosts()
    hosts.text = text
    async with opened(cloud, hosts) as keeper:
        await asyncio.sleep(20 * MINUTE)
        assert len(cloud.heard.of(HostMute)) == 1
        [signal] = [one for one in (await keeper.signals([HOST]))[HOST] if one["signal"] == "probe"]
    assert signal["value"].startswith("fails: ")


@virtual
async def test_probes_that_fail_are_told_at_the_second_once_and_so_is_their_end() -> None:
    """Not after a single one, which a boot or a dropped link may bring; long before the host is mute."""
    cloud, hosts = Cloud(), Hosts()
    broken = StepError(Reason.CONNECTION_LOST, "Lost", "the link dropped")
    async with opened(cloud, hosts):
        await asyncio.sleep(MINUTE)
        for minutes in (4.5, 10.0):  # one failure, and those of five minutes
            hosts.broken = broken
            await asyncio.sleep(minutes * MINUTE)
            hosts.broken = None
            await asyncio.sleep(2 * MINUTE)
    [failed, recovered] = [event for event in cloud.heard.events if "probe" in event[0]]
    assert failed[0] == "instance.probe_failed"
    assert (failed[1]["instance"], failed[1]["cluster"], failed[1]["why"]) == (HOST, ME[1], "the link dropped")
    assert recovered[0] == "instance.probe_recovered"
    assert recovered[1]["failures"] > 2
    assert cloud.heard.of(HostMute) == []


@virtual
async def test_a_host_that_is_mute_by_then_is_heard_of_again_and_no_more_is_told() -> None:
    """Two events for the beginning, since the second one says more, and one for the end."""
    cloud, hosts = Cloud(), Hosts()
    hosts.text = "Welcome!"
    async with opened(cloud, hosts):
        await asyncio.sleep(60 * MINUTE)
        hosts.text = None
        await asyncio.sleep(6 * MINUTE)
    assert (len(cloud.heard.of(HostMute)), len(cloud.heard.of(HostHeard))) == (1, 1)
    assert [name for name, _ in cloud.heard.events if "probe" in name] == ["instance.probe_failed"]


@virtual
async def test_a_signal_that_a_host_cannot_tell_twice_is_told_once_and_so_is_its_end() -> None:
    """A driver that broke, a lease that cannot be stored: `why` says it at once, the log at the second time."""
    cloud, hosts = Cloud(), Hosts()
    async with opened(cloud, hosts) as keeper:
        hosts.answers |= {"gpu": "failed nvidia-smi ends with 9", "timer": "failed the lease cannot be stored"}
        await asyncio.sleep(MINUTE)
        seen = {one["signal"]: one["value"] for one in (await keeper.signals([HOST]))[HOST]}
        assert seen["gpu"] == "not known: nvidia-smi ends with 9"
        assert seen["renewal"] == "fails: the lease cannot be stored"
        assert [name for name, _ in cloud.heard.events if "signal" in name] == []
        await asyncio.sleep(30 * MINUTE)
        hosts.answers |= {"gpu": "0"}
        await asyncio.sleep(5 * MINUTE)
    told = [(name, said["signal"], said.get("why")) for name, said in cloud.heard.events if "signal" in name]
    assert told == [
        ("instance.signal_unknown", "timer", "the lease cannot be stored"),
        ("instance.signal_unknown", "gpu", "nvidia-smi ends with 9"),
        ("instance.signal_known", "gpu", None),
    ]
    assert cloud.heard.of(TimerSeen) == []


@virtual
async def test_what_a_host_cannot_tell_keeps_what_was_known_for_its_lease() -> None:
    """nvidia-smi hangs: the GPU may be in use, and nobody knows; the rest of the answer counts."""
    cloud, hosts = Cloud(), Hosts()
    hosts.answers["gpu"] = "97"
    async with opened(cloud, hosts):
        await asyncio.sleep(MINUTE)
        hosts.answers["gpu"] = "failed nvidia-smi does not answer"
        await asyncio.sleep(13 * MINUTE)
        assert edges(cloud) == [("VoteBegan", "gpu")]
        await asyncio.sleep(2 * MINUTE)
    assert edges(cloud) == [("VoteBegan", "gpu"), ("VoteEnded", "gpu")]
    assert cloud.heard.of(HostMute) == []


@pytest.mark.idle("votes", "daemon restarted")
@virtual
async def test_a_service_that_restarts_again_and_again_does_not_prolong_a_vote() -> None:
    """The lease is kept across restarts: a host that nobody reaches is not immortal."""
    cloud, hosts, memory = Cloud(), Hosts(), dict[str, str]()
    hosts.answers["gpu"] = "97"
    async with opened(cloud, hosts, memory):
        await asyncio.sleep(MINUTE)
    began = cloud.heard.of(VoteBegan)[0].at
    hosts.broken = StepError(Reason.UNREACHABLE, "Timeout", "no answer")
    for _ in range(10):
        async with opened(cloud, hosts, memory, votes=("gpu",)):
            await asyncio.sleep(2 * MINUTE)
        if edges(cloud)[-1] == ("VoteEnded", "gpu"):
            break
    assert cloud.heard.of(VoteEnded)[0].at - began == pytest.approx(15 * MINUTE, abs=2)
    assert memory == {}


@pytest.mark.idle("dead-man's timer", "timeout changed on a live cluster")
@pytest.mark.idle("daemon restarted")
@virtual
async def test_after_a_restart_the_hosts_are_asked_first_whose_use_would_lapse_first() -> None:
    """All are due at once, and only so many are asked at a time."""
    cloud, slow = Cloud(), asyncio.Event()
    asked: list[str] = []

    async def ask(question: Question, _hold: float) -> str:
        asked.append(question.instance)
        await slow.wait()
        raise StepError(Reason.CONNECTION_LOST, "Lost", "the link dropped")

    hosts = ids(range(1, PARALLEL + 11))
    soon, later = hosts[-1], hosts[-2]
    memory = {f"leases {host}": f'{{"gpu": {START + left}}}' for host, left in ((soon, 120), (later, 600))}
    [plain] = wanted().values()
    assert plain.question is not None
    table = {
        host: replace(
            plain,
            instance=host,
            question=replace(plain.question, instance=host, votes=("gpu",) if host in (soon, later) else ()),
        )
        for host in hosts
    }
    async with cloud.region(survey_interval=1e9, memory=memory) as region:
        region.keeper.want(ME, table, cloud.heard.take, ask=ask)
        await asyncio.sleep(MINUTE)
        assert len(asked) == PARALLEL
        assert asked[:2] == [soon, later]
        slow.set()


@virtual
async def test_a_new_timeout_and_a_hold_are_told_to_the_timer_at_once() -> None:
    """Not at the next probe: until then it would end the host by the old ones."""
    cloud, hosts = Cloud(), Hosts()
    async with opened(cloud, hosts) as keeper:
        await asyncio.sleep(MINUTE)
        until = keeper.region.clock.now() + 3600
        for changes in ({"minutes": 120}, {"minutes": 120, "hold_until": until}):
            keeper.want(ME, wanted(**changes), cloud.heard.take, ask=hosts.ask)
            await asyncio.sleep(1)
    assert [(question.minutes, round(hold, -1)) for _, question, hold in hosts.asked] == [
        (60, 0),
        (120, 0),
        (120, 3600),
    ]
    assert [fact.minutes for fact in cloud.heard.of(TimerSeen)] == [60, 120]


@virtual
async def test_a_timer_that_cannot_be_told_of_a_hold_is_told_a_minute_later_and_not_without_a_pause() -> None:
    """A host that refuses at once, as one with another key does, is not asked in a busy loop until it counts as mute."""
    cloud, hosts = Cloud(), Hosts()
    async with opened(cloud, hosts) as keeper:
        await asyncio.sleep(MINUTE)
        hosts.broken = StepError(Reason.HOST_KEY_CHANGED, "HostKeyNotVerifiable", "it shows another key")
        until = keeper.region.clock.now() + 3600
        keeper.want(ME, wanted(hold_until=until), cloud.heard.take, ask=hosts.ask)
        await asyncio.sleep(150)
        hosts.broken = None
        await asyncio.sleep(MINUTE)
    assert [question.hold_until for _, question, _ in hosts.asked] == [None, until, until, until, until]


@virtual
async def test_a_host_that_cannot_be_asked_is_left_alone() -> None:
    """Without an address, without a key, or without a timeout there is no question."""
    cloud, hosts = Cloud(), Hosts()
    async with opened(cloud, hosts) as keeper:
        [(host, protection)] = wanted().items()
        keeper.want(
            ME, {host: Protection(**{**_fields(protection), "question": None})}, cloud.heard.take, ask=hosts.ask
        )
        await asyncio.sleep(60 * MINUTE)
    assert len(hosts.asked) <= 1


def _fields(protection: Protection) -> dict[str, Any]:
    return {name: getattr(protection, name) for name in protection.__dataclass_fields__}


# --- where CloudWatch refuses points under AWS/: what was missed while the service was away


def away_for_hours() -> Cloud:
    """Return a region in which a host idled by its CPU for two hours, of which the last one has no point of ours."""
    cloud = Cloud()
    cloud.cloudwatch.refuses_aws = True
    cloud.cloudwatch.alarms[alarm_name(HOST)] = protect.alarm(HOST, 60, 0.5, region="us-east-1", own_metric=True)
    for minute in range(-120, 60):
        cloud.cloudwatch.cpu(HOST, START + minute * MINUTE, 0.2)
    for minute in range(-120, -60):
        cloud.cloudwatch.points[protect.OWN_NAMESPACE, HOST][START + minute * MINUTE].append(0.2)
    return cloud


@asynccontextmanager
async def back(cloud: Cloud, hosts: Hosts) -> AsyncIterator[Keeper]:
    """The service is back, and gives the host the votes that it finds, as a cluster does."""
    memory = {"namespace AWS/EC2 123456789012 us-east-1": "refused"}
    async with cloud.region(survey_interval=1e9, memory=memory) as region:

        def take(fact: Fact) -> None:
            cloud.heard.take(fact)
            if isinstance(fact, VoteBegan):
                region.keeper.want(ME, {HOST: replace(wanted()[HOST], vote_until=math.inf)}, take, ask=hosts.ask)

        region.subscribe(ME, take)
        region.keeper.want(ME, wanted(), take, ask=hosts.ask)
        yield region.keeper


@pytest.mark.idle("AWS/ refused", "daemon restarted")
@pytest.mark.parametrize("use", [{"gpu": "97"}, {"terminal": "5"}])
@virtual
async def test_a_host_in_use_is_never_told_to_have_been_idle_while_the_service_was_away(use: dict[str, str]) -> None:
    """Its vote lapsed meanwhile: an hour of idle CPU, written at once, would end it before anybody asked it."""
    cloud, hosts = away_for_hours(), Hosts()
    hosts.answers |= use

    async def slow(question: Question, hold: float) -> str:
        await asyncio.sleep(4 * MINUTE)
        return await Hosts.ask(hosts, question, hold)

    hosts.ask = slow  # type: ignore[method-assign]
    async with back(cloud, hosts):
        await asyncio.sleep(30 * MINUTE)
    written = cloud.cloudwatch.written(HOST, protect.OWN_NAMESPACE)
    assert set(written.values()) == {100.0}
    assert min(written) == START + (4 - protect.BACK) * MINUTE, "those of a vote that begins, and no earlier ones"


@pytest.mark.idle("AWS/ refused", "daemon restarted")
@virtual
async def test_an_idle_hosts_missed_minutes_are_filled_once_it_has_been_asked() -> None:
    """It is not given its whole timeout again."""
    cloud, hosts = away_for_hours(), Hosts()
    async with back(cloud, hosts):
        await asyncio.sleep(4 * MINUTE)
    written = cloud.cloudwatch.written(HOST, protect.OWN_NAMESPACE)
    assert sorted(written) == [START + MINUTE * number for number in range(-60, 5)]
    assert set(written.values()) == {0.2}


@pytest.mark.idle("AWS/ refused", "host mute and no CPU data")
@virtual
async def test_a_host_that_nobody_can_ask_is_told_to_be_idle_only_when_it_counts_as_mute() -> None:
    """For a quarter of an hour it may be in use; then its CPU is all there is."""
    cloud, hosts = away_for_hours(), Hosts()
    hosts.broken = StepError(Reason.CONNECTION_LOST, "TimeoutError", "no answer")
    async with back(cloud, hosts):
        await asyncio.sleep(14 * MINUTE)
        assert cloud.cloudwatch.written(HOST, protect.OWN_NAMESPACE) == {}
        await asyncio.sleep(6 * MINUTE)
    assert min(cloud.cloudwatch.written(HOST, protect.OWN_NAMESPACE)) == START - 60 * MINUTE
