"""The probe of a host: its script under the shells that hosts have, and what is made of its answer."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambed.observed import probes
from flambed.observed.probes import Probe, ProbeError, Timer, Unknown
from tests.idlehost import SHELLS, IdleHost
from tests.parts import real_part


@pytest.fixture(params=SHELLS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> IdleHost:
    """A host without a timer, as one that was adopted, up for a day."""
    host = IdleHost(tmp_path, request.param)
    host.boot(up=86_400)
    return host


@pytest.fixture
def dash_host(tmp_path: Path) -> IdleHost:
    """The same under the one shell in which any program can be made up."""
    host = IdleHost(tmp_path, "dash")
    host.boot(up=86_400)
    return host


def with_timer(host: IdleHost) -> IdleHost:
    """Let the timer tick twice, so that it knows the CPU."""
    assert host.install().returncode == 0
    host.tick()
    host.pass_time(60)
    host.tick()
    return host


# --- the script --------------------------------------------------------------------------------------------------


def test_a_host_without_a_timer_is_looked_at_as_it_is_now(host: IdleHost) -> None:
    """Nothing is missing that a plain host does not have."""
    assert host.probe() == Probe(timer=Timer.ABSENT, gpu=None, terminal=None, experiment=False, uptime=86_400)


def test_a_timer_is_renewed_and_tells_what_it_saw(host: IdleHost) -> None:
    """The GPU's maximum since the last probe, and the last input by uptime."""
    host.gpus(88)
    with_timer(host)
    host.terminal("pts/0", at=time.time())
    host.gpus(1)
    host.ticks(1, every=1)
    host.pass_time(20)
    seen = host.probe(minutes=90, percent=4, hold=7200)
    assert seen == Probe(timer=Timer.RENEWED, gpu=88, terminal=20, experiment=False, uptime=int(host.up))
    told = host.status()
    assert [told[key] for key in ("minutes", "percent", "hold", "renewed")] == ["90", "4", "7200", "0"]
    host.ticks(1, every=1)
    assert host.probe().gpu == 1


def test_a_timer_is_switched_off(host: IdleHost) -> None:
    """The answer tells it from one that was renewed."""
    with_timer(host)
    assert host.probe(minutes=-1).timer is Timer.OFF
    assert host.probe(minutes=60).timer is Timer.RENEWED


def test_a_timer_that_does_not_tick_is_told_of_and_the_host_is_looked_at_all_the_same(host: IdleHost) -> None:
    """What it saw long ago says nothing."""
    host.gpus(88)
    with_timer(host)
    host.gpus(7)
    host.pass_time(1000)
    seen = host.probe()
    assert seen.timer == Unknown("it has not looked at the host for five minutes")
    assert seen.gpu == 7


def test_a_login_user_renews_by_sudo(dash_host: IdleHost) -> None:
    """It is never asked for a password."""
    with_timer(dash_host)
    dash_host.program("id", "echo 1000")
    dash_host.program("sudo", '[ "$1" = -n ] || exit 3\nshift\nexec "$@"')
    assert dash_host.probe().timer is Timer.RENEWED


@pytest.mark.parametrize("sudo", ["exit 1", "echo a password is required >&2; exit 1", None])
def test_a_login_user_without_sudo_still_sees_the_host(dash_host: IdleHost, sudo: str | None) -> None:
    """The timer was not renewed, and the answer says so."""
    dash_host.gpus(12)
    with_timer(dash_host)
    dash_host.program("id", "echo 1000")
    if sudo:
        dash_host.program("sudo", sudo)
    seen = dash_host.probe()
    assert isinstance(seen.timer, Unknown)
    assert "does sudo ask for a password?" in seen.timer.why
    assert seen.gpu == 12
    assert dash_host.status()["renewed"] == "never"


def test_the_busiest_gpu_counts(host: IdleHost) -> None:
    """Whatever the order."""
    host.gpus(3, 97, 0)
    assert host.probe().gpu == 97
    host.gpus(0)
    assert host.probe().gpu == 0


@pytest.mark.parametrize(
    ("nvidia_smi", "why"),
    [
        ("exit 9", "nvidia-smi ends with 9"),
        ("echo '[N/A]'", "nvidia-smi does not tell"),
        ("true", "nvidia-smi says nothing"),
        ("exec sleep 1000", "nvidia-smi ends with 124"),
    ],
)
def test_a_gpu_that_cannot_be_asked_is_unknown(dash_host: IdleHost, nvidia_smi: str, why: str) -> None:
    """It is neither busy nor idle."""
    dash_host.program("nvidia-smi", nvidia_smi)
    (dash_host.bin / "sleep").symlink_to(real_part("sleep", "coreutils"))
    dash_host.program("timeout", f'shift; exec {real_part("timeout", "coreutils")} 0.1 "$@"')
    assert dash_host.probe().gpu == Unknown(why)


def test_without_timeout_programs_are_called_all_the_same(dash_host: IdleHost) -> None:
    """Hosts that lack it are few; the service's own deadline stands above."""
    (dash_host.bin / "timeout").unlink()
    dash_host.gpus(5)
    assert dash_host.probe().gpu == 5
    with_timer(dash_host)
    assert dash_host.probe().timer is Timer.RENEWED


def test_the_last_input_at_any_terminal_counts(host: IdleHost) -> None:
    """A forgotten tmux has one of long ago."""
    now = time.time()
    host.terminal("pts/0", at=now - 5000)
    host.terminal("pts/7", at=now - 300)
    seen = host.probe().terminal
    assert isinstance(seen, int)
    assert 300 <= seen < 330


def test_what_was_touched_in_the_future_is_of_before_the_clock_was_set_back(host: IdleHost) -> None:
    """Else a wrong clock would keep the host until it is right again."""
    host.terminal("pts/0", at=time.time() + 86_400)
    assert host.probe().terminal is None


def test_consoles_that_nobody_touched_since_the_boot_do_not_count(host: IdleHost) -> None:
    """The kernel makes them with the time of the boot; one where somebody typed does count."""
    now = time.time()
    host.boot(up=1000)
    for name in ("tty", "tty1", "ttyS0"):
        host.terminal(name, at=now - 990)
    assert host.probe().terminal is None
    host.terminal("ttyS0", at=now - 100)
    seen = host.probe().terminal
    assert isinstance(seen, int)
    assert 100 <= seen < 130


def test_terminals_that_cannot_be_looked_at_are_unknown(dash_host: IdleHost) -> None:
    """Without a stat."""
    (dash_host.bin / "stat").unlink()
    assert dash_host.probe().terminal == Unknown("stat does not tell")


@pytest.mark.parametrize(
    ("argv", "comm"),
    [
        (["flambe", "run.yaml"], None),
        (["/opt/venv/bin/flambe", "run.yaml"], None),
        (["/usr/bin/python3", "/usr/local/bin/flambe", "run.yaml"], "flambe"),  # by its #! line
        (["/usr/bin/python3", "/usr/local/bin/flambe", "run.yaml"], None),
        (["python3.11", "-u", "-X", "dev", "-m", "flambe", "run.yaml"], None),
        (["bash", "-x", "./flambe"], None),
    ],
)
def test_the_experiment_is_found_however_it_was_started(host: IdleHost, argv: list[str], comm: str | None) -> None:
    """By itself, by its #! line, by an interpreter, as a module."""
    host.process(4711, *argv, comm=comm)
    assert host.probe(experiment="flambe").experiment is True


@pytest.mark.parametrize(
    "argv",
    [
        ["vim", "flambe"],
        ["tail", "-f", "/home/ubuntu/flambe"],
        ["python3", "train.py", "flambe"],
        ["sh", "-c", "flambe"],
        ["python3", "-c", "flambe"],
        ["flambed"],
        ["python3", "/x/flambe.py"],
        ["bash"],
        [],
    ],
    ids=shlex.join,
)
def test_what_only_mentions_the_experiment_is_not_it(host: IdleHost, argv: list[str]) -> None:
    """An editor, an argument, a command line in a shell (the shell's child is the program), another name."""
    host.process(4711, *argv, comm="kthreadd" if not argv else None)
    assert host.probe(experiment="flambe").experiment is False


def test_the_probe_does_not_find_itself() -> None:
    """On the machine that runs this test: its own command line has the name in it, and nothing else runs it."""
    command = probes.command(minutes=60, percent=0.5, hold=0, experiment="no-such-experiment")
    with os.popen(command) as answer:
        assert probes.parse(answer.read()).experiment is False


def test_long_names_are_compared_as_far_as_the_kernel_keeps_them(host: IdleHost) -> None:
    """Fifteen characters."""
    host.process(4711, "/usr/bin/a-rather-long-experiment")
    assert host.probe(experiment="a-rather-long-experiment").experiment is True


def test_no_experiment_is_looked_for_where_none_is_named(host: IdleHost) -> None:
    """A host that is no orchestrator."""
    assert host.probe(experiment="").experiment is False


def test_hidden_processes_are_unknown(host: IdleHost) -> None:
    """Where /proc shows everybody only their own."""
    (host.root / "proc/1/comm").unlink()
    assert host.probe().experiment == Unknown("the processes of others are hidden")


def test_a_host_without_proc_says_so(host: IdleHost) -> None:
    """Every line is there all the same."""
    (host.root / "proc/uptime").unlink()
    assert host.probe().uptime == Unknown("/proc cannot be read")
    assert host.probe().timer is Timer.ABSENT


def test_a_full_disk_or_a_read_only_one_is_no_trouble_to_the_probe(host: IdleHost) -> None:
    """It writes nothing of its own."""
    with_timer(host)
    limited = f'trap "" XFSZ; ulimit -f 0; exec "{host.bin}/sh" -c "$@"'
    done = host.run(probes.PROBE, "flambed", "60", "0.5", "0", "flambe", script=limited)
    assert done.stderr == ""
    seen = probes.parse(done.stdout)
    assert seen.timer == Unknown("the lease cannot be stored: is the disk full or read-only?")
    assert (seen.gpu, seen.experiment) == (None, False)


# --- the answer --------------------------------------------------------------------------------------------------

LINES = ["timer renewed", "gpu 97", "terminal 12", "experiment running", "uptime 4711"]


def answer(*lines: str, begin: str = "flambed-probe\n", end: str = "end\n") -> str:
    """An answer with these lines in the place of those of LINES that say the same."""
    told = {line.split()[0]: line for line in [*LINES, *lines]}
    return begin + "".join(f"{line}\n" for line in told.values()) + end


def test_an_answer_is_read() -> None:
    """Each line has its place in the Probe."""
    expected = Probe(timer=Timer.RENEWED, gpu=97, terminal=12, experiment=True, uptime=4711)
    assert probes.parse(answer()) == expected
    assert probes.parse("Welcome!\nflambed-probe\n" + answer(begin="Welcome to a shell\nflambed-probe\n")) == expected
    idle = answer("timer off", "gpu none", "terminal none", "experiment none", "uptime 0")
    assert probes.parse(idle) == Probe(timer=Timer.OFF, gpu=None, terminal=None, experiment=False, uptime=0)


@pytest.mark.parametrize("signal", ["timer", "gpu", "terminal", "experiment", "uptime"])
def test_what_failed_on_the_host_is_unknown_with_its_words(signal: str) -> None:
    """Each signal by itself."""
    assert getattr(probes.parse(answer(f"{signal} failed for some reason")), signal) == Unknown("for some reason")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "does not begin with 'flambed-probe'"),
        ("sh: not found\n", "does not begin with 'flambed-probe'"),
        (answer(end=""), "was cut off after line 6"),
        ("flambed-probe\nend\n", "lacks timer, gpu, terminal, experiment, uptime"),
        (answer(end="gpu 3\nend\n"), "line 7 of the host's answer, 'gpu 3', is none of"),
        (answer(end="what\nend\n"), "line 7 of the host's answer, 'what', is none of"),
        (answer("timer maybe"), "the line 'timer maybe'"),
        (answer("gpu 9.5"), "the line 'gpu 9.5'"),
        (answer("gpu -1"), "the line 'gpu -1'"),
        (answer("terminal ³"), "the line 'terminal ³'"),
        (answer("experiment yes"), "the line 'experiment yes'"),
        (answer("uptime none"), "the line 'uptime none'"),
        (answer("gpu failed"), "the line 'gpu failed'"),
        (answer("uptime " + "9" * 5000), "of the host's answer cannot be read"),
    ],
)
def test_an_answer_that_is_none_is_an_error_that_names_the_line(text: str, why: str) -> None:
    """It is no verdict about the host."""
    with pytest.raises(ProbeError) as caught:
        probes.parse(text)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 300


@given(
    st.text() | st.lists(st.sampled_from([*LINES, "flambed-probe", "end", "gpu none", "gpu failed x"])).map("\n".join)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing else is ever raised."""
    try:
        assert isinstance(probes.parse(text), Probe)
    except ProbeError as error:
        assert str(error)  # noqa: PT017 - either is right


@given(st.integers(0, len(answer()) - 2))
def test_a_cut_answer_is_refused(length: int) -> None:
    """Wherever it was cut."""
    with pytest.raises(ProbeError):
        probes.parse(answer()[:length])


@pytest.mark.parametrize(
    ("percent", "text"),
    [(0.5, "0.5"), (4.0, "4"), (4, "4"), (0, "0"), (0.00001, "0"), (100, "100"), (12.3456, "12.346")],
)
def test_percents_are_written_as_the_timer_reads_them(percent: float, text: str) -> None:
    """Without an exponent, at a thousandth."""
    assert probes.decimal(percent) == text


def test_the_command_line_carries_the_lease() -> None:
    """It is one line for whatever shell the user logs in to."""
    words = shlex.split(probes.command(minutes=None, percent=0.5, hold=12.4, experiment=None))
    assert words == ["sh", "-c", probes.PROBE, "flambed", "-1", "0.5", "12", ""]
    words = shlex.split(probes.command(minutes=90, percent=4.0, hold=-3, experiment="it's"))
    assert words[3:] == ["flambed", "90", "4", "0", "it's"]
