"""The shell of the pretend hosts does what a real one does."""

import asyncio
import logging
import random
import shlex
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flambed.lab.machine.arithmetic import ReckoningError, evaluate
from flambed.lab.machine.lexer import SourceError
from flambed.lab.machine.parser import Parser, parse
from tests.lab.machines import Bench, make_bench

CASES: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("shell_cases.yaml").read_text())


@pytest.fixture
async def bench(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Bench]:
    """A host; afterwards no process is left and no program had a bug."""
    bench = make_bench()
    yield bench
    await bench.stop()
    assert not bench.machine.processes
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("case", CASES, ids=[case["script"][:40] for case in CASES])
async def test_a_script_prints_and_returns_what_it_does_in_a_real_shell(bench: Bench, case: dict[str, Any]) -> None:
    """Status and output are those recorded from dash or bash."""
    result = await bench.run(case["script"])
    assert (result.status, result.output) == (case["status"], case["output"]), result.errors


# --- the language ---


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=4))
@settings(max_examples=60, deadline=None)
def test_quoted_arguments_arrive_as_they_were(arguments: list[str]) -> None:
    """What shlex.quote wraps, the shell unwraps, whatever it is."""

    async def echoed() -> str:
        bench = make_bench()
        return (await bench.run(f"printf '%s\\0' {shlex.join(arguments)}")).output

    assert asyncio.run(echoed()) == "".join(f"{argument}\0" for argument in arguments or [""])


@given(st.text("ab1 $`\"'\\{}()<>|&;#=!*?[]~\n-/", max_size=40))
@settings(max_examples=400, deadline=None)
def test_no_source_text_upsets_the_parser(source: str) -> None:
    """Whatever is no script is refused as such, and nothing else happens."""
    with suppress(SourceError):
        Parser(source).whole()


OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "<": lambda a, b: int(a < b),
    "==": lambda a, b: int(a == b),
    "&&": lambda a, b: int(a != 0 and b != 0),
    "||": lambda a, b: int(a != 0 or b != 0),
}
EXPRESSIONS = st.recursive(
    st.integers(0, 99).map(lambda value: (str(value), value)),
    lambda inner: st.builds(
        lambda left, operator, right: (
            f"({left[0]} {operator}{right[0]})",
            OPERATIONS[operator](left[1], right[1]),
        ),
        inner,
        st.sampled_from(sorted(OPERATIONS)),
        inner,
    ),
    max_leaves=8,
)


@given(EXPRESSIONS)
@settings(max_examples=200, deadline=None)
def test_arithmetic_is_that_of_integers(expression: tuple[str, int]) -> None:
    """Expressions have the value that they have in C."""
    source, value = expression
    assert evaluate(source, lambda _: None, lambda _, __: None) == value


@pytest.mark.parametrize("source", ["1/0", "1+", "(1", "1 2", "x y", "1 ? 2", "09", "$"])
def test_an_expression_without_a_value_is_refused(source: str) -> None:
    """Bad arithmetic raises, and does not return something."""
    with pytest.raises(ReckoningError):
        evaluate(source, lambda _: None, lambda _, __: None)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("if true; then echo", 'sh: 2: Syntax error: end of file unexpected (expecting "fi")\n'),
        ("echo a\necho )", 'sh: 2: Syntax error: ")" unexpected\n'),
        ("echo 'a", "sh: 1: Syntax error: Unterminated quoted string\n"),
        ("echo ${x/a/b}", "sh: 1: Bad substitution: ${x/a/b}\n"),
        ("fi", 'sh: 1: Syntax error: "fi" unexpected\n'),
        ("echo $((1/0))", "sh: 1: arithmetic expression: division by zero\n"),
        ("set -u; echo $nope", "sh: 1: nope: parameter not set\n"),
        (": ${nope:?is needed}", "sh: 1: nope: is needed\n"),
    ],
)
async def test_an_error_in_a_script_ends_it_with_status_2(bench: Bench, script: str, message: str) -> None:
    """The message names the shell, the line and the trouble."""
    result = await bench.run(f"{script}\necho never")
    assert (result.status, result.output, result.errors) == (2, "", message)


async def test_an_unknown_command_is_not_found(bench: Bench) -> None:
    """It is status 127, and sh says so."""
    result = await bench.run("frobnicate --now")
    assert (result.status, result.errors) == (127, "sh: 1: frobnicate: not found\n")


async def test_a_script_file_needs_to_be_executable(bench: Bench) -> None:
    """It is status 126 until chmod, and the script's own status afterwards."""
    result = await bench.run("printf '#!/bin/sh\\nexit 9\\n' > f; ./f; echo $?; chmod +x f; ./f; echo $?")
    assert (result.output, result.errors) == ("126\n9\n", "sh: 1: ./f: Permission denied\n")


async def test_endless_recursion_ends_in_an_error(bench: Bench) -> None:
    """A function that calls itself for ever is stopped, and the host lives on."""
    result = await bench.run("f() { f; }; f")
    assert result.status == 2
    assert "nested more than" in result.errors


def test_the_same_script_is_parsed_once() -> None:
    """Hosts are sent the same scripts over and over; the parser keeps its results."""
    assert parse("echo kept") is parse("echo kept")


# --- processes ---


async def test_a_background_job_outlives_its_shell_and_can_be_seen_and_killed(bench: Bench) -> None:
    """ps shows it under init, kill ends it."""
    started = await bench.run("sleep 60 >/dev/null 2>&1 & echo $!")
    pid = started.output.strip()
    assert (await bench.run(f"ps -o ppid=,args= -p {pid}")).output.split() == ["1", "sleep", "60"]
    assert (await bench.run(f"[ -d /proc/{pid} ] && kill {pid}")).status == 0
    assert (await bench.run(f"kill -0 {pid}")).status == 1


async def test_a_pipe_makes_a_fast_writer_wait_and_ends_it_with_its_reader(bench: Bench) -> None:
    """`yes` neither fills the memory nor goes on for ever."""
    result = await bench.run("yes | head -n 3; yes > /dev/null & sleep 0.01; kill $!; wait $!; echo $?")
    assert result.output == "y\ny\ny\n143\n"


async def test_a_loop_of_builtins_leaves_others_their_turn(bench: Bench) -> None:
    """`while :; do :; done` does not stop the event loop, and can be killed."""
    process, _, _ = bench.start("while :; do :; done")
    start = time.monotonic()
    assert (await bench.run("echo hi")).output == "hi\n"
    assert time.monotonic() - start < 2
    process.send(15)
    assert await process.wait() == 143


async def test_killing_a_shell_leaves_its_child_alone(bench: Bench) -> None:
    """As on Linux a child does not die with its parent."""
    process, output, _ = bench.start("sleep 0.1; true; (sleep 0.2; echo child) & wait; echo parent")
    await bench.until_begun("sleep 0.2")
    process.send(9)
    assert await process.wait() == 137
    await asyncio.gather(*(each.wait() for each in bench.machine.processes.values()))
    assert bytes(output.buffer) == b"child\n"


async def test_a_trap_runs_while_the_shell_waits(bench: Bench) -> None:
    """A trapped signal ends `wait` at once with 128 + its number."""
    process, output, _ = bench.start("trap 'echo got it' TERM; sleep 60 & wait $!; echo $?; kill $!")
    await bench.until_begun("sleep 60")
    process.send(15)
    await process.wait()
    assert bytes(output.buffer) == b"got it\n143\n"


async def test_a_lock_passes_on_in_the_order_of_asking_and_when_its_holder_is_killed(bench: Bench) -> None:
    """flock blocks, and a killed holder holds nothing."""
    holder, _, _ = bench.start("exec flock f sleep 60")
    await bench.until_begun("sleep 60")
    first, one, _ = bench.start("flock f echo first >> order; cat order")
    assert (await bench.run("flock -n f true")).status == 1
    assert (await bench.run("flock -w 0.05 -E 9 f true")).status == 9
    for process in list(bench.machine.processes.values()):
        if process is holder or process.argv[0] == "sleep":
            process.send(9)
    assert await first.wait() == 0
    assert bytes(one.buffer) == b"first\n"


async def test_without_close_a_lock_stays_with_what_the_command_left_behind(bench: Bench) -> None:
    """flock hands the lock down, flock -o does not."""
    assert (await bench.run("flock -o f sh -c 'sleep 9 >/dev/null 2>&1 &'; flock -n f echo free")).output == "free\n"
    assert (await bench.run("flock f sh -c 'sleep 9 >/dev/null 2>&1 &'; flock -n f echo free || echo held")).output == (
        "held\n"
    )


async def test_commands_are_logged_with_times_and_exit_codes(bench: Bench) -> None:
    """The log tells what ran, with the text of scripts; what runs has no end yet."""
    await bench.run("echo 'exit 3' > f; sh f; sleep 0.05")
    bench.start("sleep 60")
    await bench.until_begun("sleep 60")
    log = {record.text: record for record in bench.machine.log}
    assert (log["sh f"].kind, log["sh f"].script, log["sh f"].code) == ("script", "exit 3\n", 3)
    slept = log["sleep 0.05"]
    assert slept.end is not None
    assert slept.end - slept.start >= 0.05
    assert (log["sleep 60"].end, log["sleep 60"].code) == (None, None)


# --- the host ---


async def test_lab_fail_fails_as_often_as_it_is_told(bench: Bench) -> None:
    """The first N runs on the host fail, the next succeed."""
    result = await bench.run("for i in 1 2 3 4; do lab-fail 2 7; echo $?; done; lab-fail; echo $?; lab-fail; echo $?")
    numbers = [line for line in result.output.splitlines() if line.isdigit()]
    assert numbers == ["7", "7", "0", "0", "1", "0"]


async def test_lab_flaky_repeats_itself_by_the_seed() -> None:
    """The same seed gives the same failures, another seed others; none at 0 and only failures at 1."""
    script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do lab-flaky 0.5; printf $?; done"
    one, again, other = [(await make_bench(seed).run(script)).output for seed in (1, 1, 2)]
    assert one == again
    assert one != other
    assert {"0", "1"} == set(one)
    assert (await make_bench().run("lab-flaky 0; printf $?; lab-flaky 1; printf $?")).output == "01"


async def test_a_shutdown_can_be_scheduled_seen_and_taken_back(bench: Bench) -> None:
    """It is written where systemd writes it, and nothing happens after -c."""
    scheduled = "/run/systemd/shutdown/scheduled"
    assert (await bench.run(f"shutdown -h +5; grep MODE {scheduled}")).output == "MODE=poweroff\n"
    assert bench.machine.shutdown_at is not None
    assert 290 < bench.machine.shutdown_at - time.time() <= 300
    assert (await bench.run(f"shutdown -c; ls {scheduled}")).status == 2
    assert bench.machine.view()["shutdown_at"] is None
    assert bench.poweroffs == []


@pytest.mark.parametrize(
    "script", ["poweroff", "shutdown -h now", "sudo shutdown -P now", "shutdown +0", "systemctl poweroff"]
)
async def test_a_host_can_switch_itself_off(bench: Bench, script: str) -> None:
    """Every way of saying it is heard."""
    await bench.run(script)
    await asyncio.sleep(0)
    assert bench.poweroffs == ["off"]


async def test_a_host_has_nvidia_smi_if_it_has_gpus(bench: Bench) -> None:
    """Without GPUs the command is not found; with them it prints how busy each is."""
    query = "nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits"
    assert (await bench.run(query)).status == 127
    bench.machine.set_gpus([0, 87])
    assert (await bench.run(query)).output == "0\n87\n"
    bench.machine.set_gpus([])
    assert (await bench.run(query)).status == 127


async def test_what_the_kernel_tells_is_in_proc(bench: Bench) -> None:
    """Uptime grows, the boot id is one, the load is what was set."""
    bench.machine.load = 1.5
    result = await bench.run("cat /proc/sys/kernel/random/boot_id; cut -d' ' -f1 /proc/loadavg; cat /proc/$$/comm")
    assert result.output == f"{bench.machine.boot_id}\n1.50\nsh\n"
    early, late = [float((await bench.run("sleep 0.05; cat /proc/uptime")).output.split()[0]) for _ in range(2)]
    assert 0 <= early < late


async def test_a_new_boot_has_a_new_id_and_an_empty_tmp_but_the_same_home(bench: Bench) -> None:
    """Stopping and starting is not starting afresh."""
    before = bench.machine.boot_id
    await bench.run("touch /tmp/x /run/y ~/z")
    await bench.stop()
    bench.machine.power_on()
    assert bench.machine.boot_id != before
    assert (await bench.run("ls /tmp /run; ls ~")).output.split() == ["/tmp:", "/run:", "z"]


async def test_sudo_runs_as_root_and_env_is_what_was_exported(bench: Bench) -> None:
    """Users, homes and the environment are those of a real host."""
    result = await bench.run(
        "whoami; sudo -n sh -c 'whoami; echo $HOME $SUDO_USER'; x=1; export y=2; env | grep '^[xy]='"
    )
    assert result.output == "ubuntu\nroot\n/root ubuntu\ny=2\n"


async def test_binary_input_passes_through_unchanged(bench: Bench) -> None:
    """A megabyte of anything arrives in a file as it was sent, and comes out again."""
    data = random.Random(1).randbytes(1 << 20)
    process, output, _ = bench.start("cat > f; wc -c < f; cat f | cat", data)
    assert await process.wait() == 0
    assert bytes(output.buffer) == b"1048576\n" + data


@pytest.mark.parametrize(
    "script", ["cat /nope", "cd /nope", "mkdir /a/b", "rm nope", "mv nope x", "grep x nope", "test 1 -eq x", "kill x",
               "sleep soon", "head -n x /dev/null", "expr 1 / 0", "base64 -d", "sed y/a/b/ /dev/null", "date -d tomorrow",
               "chmod rwx /tmp", "timeout", "flock", "env nope", "find / -frob", "cp /tmp x", "printf %y", "nvidia-smi",
               "[ a -eq ]", "[[ a =~ ( ]]", "mkdir", "ln -s", "shutdown tomorrow", "seq x", "cut x", "tr", "pgrep nope",
               "sudo -u nobody x", "set -e; ls /nope; true", "while read x; do :; done < /nope", ". /nope", "shift 3"],
)  # fmt: skip
async def test_misuse_is_an_error_message_and_not_a_bug(bench: Bench, script: str) -> None:
    """Wrong arguments fail with a message; the fixture sees to it that nothing worse happened."""
    result = await bench.run(script, b"&&&")
    assert result.status not in {0, 70}
    assert result.errors or "pgrep" in script
