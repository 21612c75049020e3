"""flambectl as people use it: real processes against a real socket, with their exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pty
import re
import signal
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flambed.access import Rules
from flambed.cli import arguments, commands, completion, outcome, reasons, show, times
from flambed.cli.client import Client
from flambed.cli.console import Console, columns_of, cut, printable, table
from flambed.cli.failure import Exit, FailureError
from flambed.control import Control
from flambed.errors import ClusterConfigurationError, ConflictError, FlambedError, NotAllowedError, Problem
from tests.fakeservice import CREATOR, PUBLIC_KEY, FakeService, instance, orphan, status

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n"
FILE = f"""\
!AWSCluster
name: demo
creator: {CREATOR}
factories_num: 2
factories_type: g5.xlarge
orchestrator_type: t3.large
key_name: demo
key: demo.pem
security_group: sg-1
subnet_id: subnet-1
"""


@dataclass
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def documents(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Ctl:
    """Runs flambectl in a folder of its own, against a fake service."""

    def __init__(self, folder: Path, service: FakeService) -> None:
        self.folder = folder
        self.service = service
        self.file = folder / "demo.yaml"
        self.key = folder / "demo.pem"
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "FLAMBED_SOCKET": str(folder / "s"),
            "PYTHONWARNINGS": "error",
            "PYTHONUTF8": "1",
        }

    async def start(self, *words: str, **more: Any) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        streams = {"stdin": asyncio.subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, **more}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", "import sys; from flambed.cli import main; sys.exit(main())", *words,
            cwd=self.folder, env=self.environ, **streams,
        )  # fmt: skip

    async def __call__(self, *words: str, **more: Any) -> Ended:
        return await ended(await self.start(*words, **more))


async def ended(process: asyncio.subprocess.Process) -> Ended:
    """Wait for the end of a process."""
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def ctl(tmp_path: Path) -> AsyncIterator[Ctl]:
    """A flambectl, a cluster file with its key, and a service with one ready cluster called `old`."""
    service = FakeService(status("old"))
    control = Control(service, rules=Rules(), emit=lambda *_, **__: None, heartbeat=0.1)
    await control.start(tmp_path / "s")
    ctl = Ctl(tmp_path, service)
    ctl.file.write_text(FILE)
    ctl.key.write_text(KEY)
    ctl.key.chmod(0o600)
    yield ctl
    await control.close()
    assert service.followers == 0


async def reader_of(process: asyncio.subprocess.Process, needle: str) -> str:
    """Return what a process printed until it has printed this."""
    assert process.stdout is not None
    seen = ""
    async with asyncio.timeout(20):
        while needle not in seen:
            part = await process.stdout.read(4096)
            assert part, f"it ended after {seen!r}"
            seen += part.decode()
    return seen


def stages(service: FakeService, *found: str, reason: str | None = None) -> list[dict[str, Any]]:
    """Return instances in these stages, the orchestrator first."""
    indices = (None, *range(len(found) - 1))
    return [instance(i, stage, reason if stage == "failed" else None) for i, stage in zip(indices, found, strict=True)]


# --- up ---


async def test_up_sends_the_file_and_the_key_and_shows_progress_until_ready(ctl: Ctl) -> None:
    """A line a change where stdout is no terminal; exit code 0; the key comes as the caller read it, its path absolute."""
    process = await ctl.start("up", "demo.yaml", "--set", "tags.project=x", "--shrink")
    seen = await reader_of(process, "requested 3")
    await ctl.service.change(instances=stages(ctl.service, "ready", "setting_up", "ready"))
    seen += await reader_of(process, "setting_up 1, ready 2")
    await ctl.service.change(phase="ready", instances=stages(ctl.service, "ready", "ready", "ready"))
    end = await ended(process)
    assert end.code == 0
    assert "demo in us-east-1 is converging (requested 3)" in seen
    assert f"1 orchestrator, 2 factories. Log in: flambectl ssh {CREATOR}/demo" in end.out
    [(name, caller, sent)] = ctl.service.calls
    assert (name, caller.uid, sent["document"], sent["key"], sent["shrink"]) == ("up", os.getuid(), FILE, KEY, True)
    assert sent["overrides"] == ("tags.project=x", f'key="{ctl.key}"')


async def test_up_with_json_ends_with_the_status_document(ctl: Ctl) -> None:
    """One status document a line, the last of them the one that decided."""
    process = await ctl.start("--json", "up", "demo.yaml")
    await reader_of(process, "requested")
    await ctl.service.change(phase="ready")
    end = await ended(process)
    assert (end.code, end.err) == (0, "")
    assert end.documents[-1]["phase"] == "ready"
    assert end.documents[-1]["instances"][0]["role"] == "Orchestrator"


@pytest.mark.parametrize("phase", ["degraded", "failed"])
async def test_up_that_does_not_end_well_names_the_host_its_command_its_output_and_what_to_do(
    ctl: Ctl, phase: str
) -> None:
    """Exit code 1, and all of that on stderr; an output can play no tricks on the terminal."""
    ctl.service.outputs = [
        {"instance": f"i-0000000000000000{number}", "name": f"demo_factory_{number - 1}", "number": 2, "attempt": 1,
         "command": "make it", "code": 7, "output": "one\n" * 30 + "no rule to \x1b]0;make\x07 it\n"}
        for number in (1, 2)
    ]  # fmt: skip
    process = await ctl.start("up", "demo.yaml")
    await reader_of(process, "requested 3")
    await ctl.service.change(
        phase=phase,
        reason="2 hosts: command 3 ended with 7",
        instances=stages(ctl.service, "ready", "failed", "failed", reason="command 3 ended with 7"),
    )
    end = await ended(process)
    assert end.code == 1
    assert f"flambectl: demo is {phase}: 2 hosts: command 3 ended with 7" in end.err
    assert (end.out + end.err).count("ended with 7") == 1, "each thing is said once"
    assert end.err.count("command 3, attempt 2: make it (exit code 7)") == 1
    assert "demo_factory_0 (i-00000000000000001), command 3" in end.err
    assert "  and 1 more host\n" in end.err
    assert "no rule to \\x1b]0;make\\x07 it" in end.err
    assert "... 21 lines before these" in end.err
    assert f"flambectl retry {CREATOR}/demo" in end.err
    assert f"flambectl down {CREATOR}/demo" in end.err


async def test_a_launch_that_left_nothing_is_to_be_mended_and_not_taken_down(ctl: Ctl) -> None:
    """There is nothing to give back, and nothing to try again but `up`."""
    process = await ctl.start("up", "demo.yaml")
    await reader_of(process, "requested 3")
    await ctl.service.change(phase="failed", reason="no such subnet", instances=stages(ctl.service, "gone", "gone"))
    end = await ended(process)
    assert end.err.splitlines() == [
        "flambectl: demo is failed: no such subnet",
        "Nothing of it is left: mend the file and run `flambectl up` again.",
    ]


async def test_up_tells_of_factories_that_are_too_many_and_of_those_given_back(ctl: Ctl) -> None:
    """Without --shrink what it would do; with it, what it did."""
    for words, left, message in (
        ((), 3, "1 orchestrator, 3 factories; 2 are wanted: `up --shrink` gives the others back. Log in: "),
        (("--shrink",), 2, "1 orchestrator, 2 factories. Log in: "),
    ):
        process = await ctl.start("up", "demo.yaml", *words)
        await reader_of(process, "requested 3")
        await ctl.service.change(phase="ready", instances=stages(ctl.service, *["ready"] * (1 + left)))
        assert message in (await ended(process)).out
    many = {**status(), "instances": [instance(i) for i in (None, 0, 1, 2)]}
    assert outcome.success(many, status(), 2, shrink=True)[0] == "Given back: demo_factory_2 (i-00000000000000003)."


async def test_interrupting_up_says_that_the_cluster_goes_on(ctl: Ctl) -> None:
    """Exit code 130, nothing is asked of the service any more."""
    process = await ctl.start("up", "demo.yaml")
    await reader_of(process, "requested 3")
    process.send_signal(signal.SIGINT)
    end = await ended(process)
    assert end.code == 130
    assert "interrupted; demo goes on coming up" in end.err
    assert "flambectl watch" in end.err
    assert [name for name, _, _ in ctl.service.calls] == ["up"]


async def test_up_detached_returns_once_the_service_has_accepted(ctl: Ctl) -> None:
    """Exit code 0 while the cluster is converging; with --json, the status document."""
    end = await ctl("up", "demo.yaml", "--detach", "--json")
    assert (end.code, end.document["phase"]) == (0, "converging")


async def test_plan_and_up_plan_show_what_would_be_done_and_change_nothing(ctl: Ctl) -> None:
    """Both print the same; a missing key is a warning, as only `up` needs it."""
    ctl.key.unlink()
    first, second = await ctl("plan", "demo.yaml"), await ctl("up", "demo.yaml", "--plan")
    assert (
        first
        == second
        == Ended(
            0,
            "demo in us-east-1\nlaunch  1 orchestrator, 2 factories\nrun the set-up commands\n"
            "end when idle  orchestrator never, factory after 1 h\n",
            f"demo.yaml:8:6: warning: key: there is no file {ctl.key}: put the private key of the EC2 key pair there; "
            "`up` will refuse this\n",
        )
    )
    assert (await ctl("plan", "demo.yaml", "--json")).document["launch"] == {"Orchestrator": 1, "Factory": 2}
    assert {name for name, _, _ in ctl.service.calls} == {"plan"}


async def test_the_service_going_away_in_the_middle_is_exit_3(tmp_path: Path) -> None:
    """The message says that the cluster goes on and how to come back to it."""
    service = FakeService(status())
    control = Control(service, rules=Rules(), emit=lambda *_, **__: None)
    await control.start(tmp_path / "s")
    process = await Ctl(tmp_path, service).start("watch", "demo")
    await reader_of(process, "ready 3")
    await control.close()
    end = await ended(process)
    assert end.code == 3
    assert "the service stopped; the cluster goes on" in end.err


# --- bad files ---


async def test_every_mistake_in_a_file_has_its_line_and_nothing_is_sent(ctl: Ctl) -> None:
    """Unknown key, wrong type, and a missing key file, at once, in the order of the file; exit code 2."""
    ctl.file.write_text(FILE.replace("factories_num: 2", "factories_num: two").replace("subnet_id: ", "subnet: "))
    ctl.key.unlink()
    end = await ctl("up", "demo.yaml")
    assert end.code == 2
    places = [line.split(" ")[0] for line in end.err.splitlines()]
    assert "demo.yaml:4:16:" in places
    assert "demo.yaml:8:6:" in places
    assert "demo.yaml:10:1:" in places
    assert [int(place.split(":")[1]) for place in places] == sorted(int(place.split(":")[1]) for place in places)
    assert ctl.service.calls == []


async def _missing(ctl: Ctl) -> None:
    ctl.key.unlink()


async def _readable(ctl: Ctl) -> None:
    ctl.key.chmod(0o640)


async def _folder(ctl: Ctl) -> None:
    ctl.key.unlink()
    ctl.key.mkdir(mode=0o700)


async def _fifo(ctl: Ctl) -> None:
    ctl.key.unlink()
    os.mkfifo(ctl.key, 0o600)


async def _public(ctl: Ctl) -> None:
    ctl.key.write_text(PUBLIC_KEY)


async def _nonsense(ctl: Ctl) -> None:
    ctl.key.write_text("hello")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_missing, "there is no file"),
        (_readable, "mode 0640): chmod 600"),
        (_folder, "is no file"),
        (_fifo, "is no file"),
        (_public, "is a public key"),
        (_nonsense, "is no private key"),
    ],
)
async def test_a_key_file_that_will_not_do_is_a_mistake_in_up_and_a_warning_in_validate(
    ctl: Ctl, spoil: Callable[[Ctl], Awaitable[None]], message: str
) -> None:
    """Located at the file's `key` line both times; exit code 2 and 0."""
    await spoil(ctl)
    up, validate = await ctl("up", "demo.yaml"), await ctl("validate", "demo.yaml")
    assert (up.code, validate.code) == (2, 0)
    assert re.search(rf"^demo\.yaml:8:6: key: .*{re.escape(message)}", up.err)
    assert re.search(rf"^demo\.yaml:8:6: warning: key: .*{re.escape(message)}", validate.err, re.MULTILINE)
    assert "; `up` will refuse this\n" in validate.err
    assert "demo is a good cluster file: 1 orchestrator, 2 factories" in validate.out
    assert ctl.service.calls == []


async def test_a_key_path_is_relative_to_the_file_or_to_where_it_was_typed(ctl: Ctl) -> None:
    """In the file: the file's folder. In --set: the working folder. A tilde is the home folder."""
    (ctl.folder / "sub").mkdir()
    ctl.file.rename(ctl.folder / "sub" / "demo.yaml")
    assert (await ctl("up", "sub/demo.yaml")).code == 2
    for written in ("demo.pem", "~/demo.pem", str(ctl.key)):
        assert (await ctl("up", "sub/demo.yaml", "--set", f"key={written}", "--detach")).code == 0
    sent = [arguments["overrides"] for _, _, arguments in ctl.service.calls]
    assert [one[-1] for one in sent] == [f'key="{ctl.key}"', f'key="{ctl.key}"', f"key={ctl.key}"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "demo.yaml: there is no such file: check the path"),
        (b"", "demo.yaml:1:1: the file is empty"),
        (b"a: [", "this is not YAML"),
        (b"name: \xff", "demo.yaml:1:7: byte 0xff is not UTF-8"),
        (b"#" * 10_000_000, "demo.yaml:1:1: the file has 10,000,000 bytes and may have 1,048,576"),
    ],
    ids=["missing", "empty", "broken", "not UTF-8", "10 MB"],
)
async def test_a_file_that_is_none_is_told_with_its_place(ctl: Ctl, content: bytes | None, message: str) -> None:
    """Exit code 2 for `up`, `plan` and `validate` alike."""
    ctl.file.unlink()
    if content is not None:
        ctl.file.write_bytes(content)
    for command in ("up", "plan", "validate"):
        end = await ctl(command, "demo.yaml")
        assert end.code == 2
        assert message in end.err


async def test_validate_needs_no_service_and_tells_all_as_json(ctl: Ctl) -> None:
    """Mistakes and warnings with their kinds and places; 2 where it is not valid."""
    ctl.environ["FLAMBED_SOCKET"] = "/nowhere"
    good = await ctl("validate", "demo.yaml", "--json")
    assert (good.code, good.document["valid"]) == (0, True)
    assert {one["kind"] for one in good.document["problems"]} == {"warning"}
    bad = await ctl("validate", "demo.yaml", "--json", "--set", "factories_num=-1")
    assert (bad.code, bad.document["valid"]) == (2, False)
    assert "factories_num" in str(bad.document["problems"])


async def test_mistakes_that_only_the_service_finds_carry_the_files_name(ctl: Ctl) -> None:
    """The service's line and column behind the name of the file; where it has none, those of the field."""
    ctl.service.raises = ClusterConfigurationError(
        [Problem("no such subnet", 10, 12, "subnet_id"), Problem("key: it has a passphrase", field="key")]
    )
    end = await ctl("up", "demo.yaml")
    assert (end.code, end.err) == (2, "demo.yaml:10:12: no such subnet\ndemo.yaml:8:6: key: it has a passphrase\n")


# --- down ---


async def test_down_waits_until_everything_is_gone(ctl: Ctl) -> None:
    """It returns 0 when the phase is `gone`, and not before."""
    process = await ctl.start("down", "old", "--yes")
    await reader_of(process, "stopping")
    assert process.returncode is None
    await ctl.service.change(phase="gone", instances=[])
    assert (await ended(process)).code == 0


async def test_down_of_what_is_gone_is_done(ctl: Ctl) -> None:
    """Nothing to wait for."""
    await ctl.service.change(phase="gone", instances=[])
    assert (await ctl("down", "old", "--yes")).code == 0


async def test_down_without_a_terminal_needs_yes(ctl: Ctl) -> None:
    """Exit code 2, and nothing is asked of the service but the status."""
    end = await ctl("down", "old")
    assert end.code == 2
    assert "--yes" in end.err
    assert ctl.service.calls == []


@pytest.mark.parametrize(
    ("answer", "code", "called"), [("y", 0, True), ("old", 0, True), ("n", 130, False), ("", 130, False)]
)
async def test_down_asks_a_person_on_a_terminal(ctl: Ctl, answer: str, code: int, called: bool) -> None:
    """The name or y goes on; anything else leaves the cluster alone."""
    async with terminal(ctl, "down", "old", "--detach") as (process, seen, master):
        await seen("Type its name or y: ")
        os.write(master, f"{answer}\n".encode())
        assert await process.wait() == code
    assert bool(ctl.service.calls) is called


async def test_the_question_of_down_leaves_stdout_to_the_answer(ctl: Ctl) -> None:
    """With --json stdout is one document, also where a person was asked."""
    master, slave = pty.openpty()
    process = await ctl.start("down", "old", "--detach", "--json", stdin=slave)
    os.close(slave)
    os.write(master, b"y\n")
    end = await ended(process)
    os.close(master)
    assert (end.code, end.document["phase"]) == (0, "stopping")
    assert end.out.startswith("{")
    assert end.err.endswith("Type its name or y: ")


async def test_down_all_and_down_without_a_name(ctl: Ctl) -> None:
    """--all takes every cluster down, for root; neither and both are bad usage."""
    assert (await ctl("down")).code == 2
    both = await ctl("down", "old", "--all")
    assert (both.code, "give NAME or --all, not both" in both.err) == (2, True)
    end = await ctl("down", "--all", "--yes", "--detach", "--json")
    if os.getuid() == 0:
        assert (end.code, [one["phase"] for one in end.document]) == (0, ["stopping"])
    else:
        assert end.code == 4


# --- looking ---


async def test_list_and_status_are_tables_for_people_and_documents_for_programs(ctl: Ctl) -> None:
    """Aligned columns without the empty ones; Unicode names; the same as JSON."""
    ctl.service.known["bób@x", "żółw"] = status("żółw", "failed", creator="bób@x")
    listed = await ctl("list")
    assert listed.out.splitlines() == [
        "NAME  CREATOR          REGION     PHASE",
        "old   ann@example.com  us-east-1  ready",
        "żółw  bób@x            us-east-1  failed",
    ]
    assert (await ctl("list", "--names")).out == "old\nżółw\n"
    assert [one["name"] for one in (await ctl("list", "--json")).document] == ["old", "żółw"]
    shown = await ctl("status", "żółw")
    assert "żółw in us-east-1 is failed" in shown.out
    assert "żółw_factory_1" in shown.out
    assert (await ctl("status", "bób@x/żółw", "--json")).document["creator"] == "bób@x"


async def test_list_warns_while_clusters_may_not_be_known_yet(ctl: Ctl) -> None:
    """Also where it knows none; programs read that from the service's health."""
    ctl.service.known.clear()
    ctl.service.searching = "the journal is new"
    assert (await ctl("list")).out == "warning: the journal is new\nno clusters\n"
    assert (await ctl("list", "--json")).document == []


async def test_protection_that_is_not_known_is_no_no(ctl: Ctl) -> None:
    """As of the hosts of a cluster whose record was lost."""
    for one in ctl.service.known["ann@example.com", "old"]["instances"]:
        one |= {"protected": None, "protection": {"alarm": False, "timer": False}}
    shown = await ctl("status", "old")
    [header, *rows] = shown.out.splitlines()[3:]
    assert {row[header.index("PROTECTED")] for row in rows} == {"?"}


async def test_output_is_plain_where_the_locale_is_not_unicode(ctl: Ctl) -> None:
    """What cannot be shown is shown as an escape, and nothing breaks."""
    ctl.service.known["x", "żółw"] = status("żółw", creator="x")
    ctl.environ |= {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    end = await ctl("status", "żółw")
    assert (end.code, "\\u017c" in end.out) == (0, True)


async def test_watch_shows_changes_until_the_cluster_is_gone(ctl: Ctl) -> None:
    """It is no failure that a cluster ends."""
    process = await ctl.start("watch", "old", "--json")
    await reader_of(process, '"ready"')
    await ctl.service.change(phase="gone")
    end = await ended(process)
    assert (end.code, end.documents[-1]["phase"]) == (0, "gone")


async def test_interrupting_watch_is_130(ctl: Ctl) -> None:
    """Without a traceback."""
    process = await ctl.start("watch", "old")
    await reader_of(process, "ready 3")
    process.send_signal(signal.SIGINT)
    end = await ended(process)
    assert (end.code, end.err) == (130, "flambectl: interrupted\n")


async def test_events_are_lines_and_follow_goes_on(ctl: Ctl) -> None:
    """Time, name and fields for people; NDJSON for programs."""
    await ctl.service.happen("instance.running", cluster="old", instance="i-1", note="two words")
    end = await ctl("events", "--since", "10m")
    assert end.out == "2026-01-31T09:00:00.000Z  instance.running  cluster=old instance=i-1 note='two words'\n"
    assert ctl.service.calls[-1][2]["since"] is not None
    process = await ctl.start("events", "old", "--follow", "--json")
    await reader_of(process, "instance.running")
    await ctl.service.happen("instance.ready", cluster="old")
    await reader_of(process, "instance.ready")
    process.send_signal(signal.SIGINT)
    assert (await ended(process)).code == 130


async def test_events_leave_small_steps_to_those_who_ask_and_show_values_as_people_write_them(ctl: Ctl) -> None:
    """--all and --json have those of level debug as well; no list or mapping looks like a program's."""
    await ctl.service.happen("step.begun", level="debug")
    await ctl.service.happen("plan.made", hosts=["i-1", "i-2"], launch={"Factory": 2}, forced=True, none=[])
    end = await ctl("events")
    assert end.out == ("2026-01-31T09:00:00.000Z  plan.made  hosts=i-1,i-2 launch=Factory:2 forced=yes none=none\n")
    assert "step.begun" in (await ctl("events", "--all")).out
    assert [one["event"] for one in (await ctl("events", "--json")).documents] == ["step.begun", "plan.made"]


async def test_a_reader_that_goes_away_ends_it_quietly(ctl: Ctl) -> None:
    """`flambectl events --follow | head -1`: no traceback, and no 0 that would claim the end was reached."""
    await ctl.service.happen("instance.running", cluster="old")
    read, write = os.pipe()
    process = await ctl.start("events", "--follow", stdout=write)
    os.close(write)
    await ctl.service.happen("instance.ready", cluster="old")
    assert await asyncio.to_thread(os.read, read, 1)
    os.close(read)
    for number in range(3):
        await ctl.service.happen("instance.ready", cluster="old", number=number)
    end_err = await ended_without_out(process)
    assert (process.returncode, end_err) == (130, "")


async def ended_without_out(process: asyncio.subprocess.Process) -> str:
    """Wait for a process whose stdout is not ours; return its stderr."""
    async with asyncio.timeout(20):
        _, err = await process.communicate()
    return err.decode()


async def test_logs_why_hold_release_and_retry(ctl: Ctl) -> None:
    """Each prints for people and, with --json, the service's document."""
    ctl.service.outputs = [
        {
            "instance": "i-1",
            "name": "old_factory_0",
            "number": 0,
            "attempt": 2,
            "command": "sleep 1",
            "code": None,
            "output": "",
        }
    ]
    assert (await ctl("logs", "old")).out == "old_factory_0 (i-1), command 1, attempt 3: sleep 1 (still running)\n"
    assert (await ctl("logs", "old", "nope")).out == "no output is kept\n"
    assert "alive: its set-up runs" in (await ctl("why", "old", "old_orchestrator")).out
    assert len((await ctl("why", "old", "--json")).document["hosts"]) == 3
    held = (await ctl("hold", "old", "--for", "4h", "--why", "a demo")).out
    assert re.fullmatch(r"old is held until (\d{4}-\d\d-\d\d )?\d\d:\d\d \(4 h\): a demo\n", held)
    assert (await ctl("release", "old", "--json")).document["name"] == "old"
    assert (await ctl("retry", "old", "old_factory_0")).code == 0
    assert ctl.service.calls[-1][2] == {"ref": "old", "host": "old_factory_0"}
    assert (await ctl("hold", "old", "--for", "100h", "--why", "x")).code == 2
    assert (await ctl("hold", "old", "--for", "soon", "--why", "x")).code == 2
    bare = await ctl("hold", "old", "--for", "4", "--why", "x")
    assert (bare.code, bare.err) == (2, "flambectl: --for: '4' has no unit: write 4h, 4m or 4s\n")
    assert "--why must be one line" in (await ctl("hold", "old", "--for", "4h", "--why", "")).err


async def test_a_host_key_is_pinned_by_its_fingerprint_and_never_blindly(ctl: Ctl) -> None:
    """A script has to name it; who is asked has to type yes. Both keys are told."""
    old, new = f"SHA256:{'a' * 43}", f"SHA256:{'b' * 43}"
    named = await ctl("trust", "old", "old_factory_0", "--fingerprint", new)
    assert (named.code, named.out, named.err) == (
        0,
        f"old_factory_0 (i-1): {new} is pinned, in the place of {old}\n",
        "",
    )
    assert ctl.service.calls[-1][2] == {"ref": "old", "host": "old_factory_0", "fingerprint": new}
    before = len(ctl.service.calls)
    blind = await ctl("trust", "old", "old_factory_0")
    assert (blind.code, "--fingerprint" in blind.err, len(ctl.service.calls)) == (2, True, before)


@pytest.mark.parametrize(("answer", "code", "trusted"), [(b"y\n", 130, 0), (b"yes\n", 0, 1)])
async def test_who_is_asked_sees_both_host_keys_and_has_to_type_yes(
    ctl: Ctl, answer: bytes, code: int, trusted: int
) -> None:
    """Anything else pins nothing."""
    master, slave = pty.openpty()
    process = await ctl.start("trust", "old", "old_factory_0", stdin=slave)
    os.close(slave)
    os.write(master, answer)
    end = await ended(process)
    os.close(master)
    assert end.code == code
    assert f"shows the host key SHA256:{'b' * 43}; pinned is SHA256:{'a' * 43}" in end.out + end.err
    assert sum(call[2].get("fingerprint") is not None for call in ctl.service.calls) == trusted


async def test_logs_of_all_hosts_come_in_the_order_of_the_table(ctl: Ctl) -> None:
    """The orchestrator first, factory 2 before factory 10, each host's commands in their order."""
    ctl.service.outputs = [
        {"instance": f"i-{name}", "name": f"old_{name}", "number": number, "command": "x", "code": 0, "output": ""}
        for name in ("factory_10", "factory_2", "orchestrator")
        for number in (0, 1)
    ]
    lines = (await ctl("logs", "old")).out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"old_{name} (i-{name}), command {number}"
        for name in ("orchestrator", "factory_2", "factory_10")
        for number in (1, 2)
    ]


async def test_doctor_is_1_where_something_is_wrong(ctl: Ctl) -> None:
    """Each check is a line, what to do below it."""
    good = await ctl("doctor")
    assert (good.code, good.out.splitlines()[0]) == (0, "ok    credentials: account 123456789012")
    ctl.service.ok = False
    bad = await ctl("doctor")
    assert bad.code == 1
    assert "FAIL  queue: us-east-1\n      create it" in bad.out


async def test_gc_lists_asks_and_tells_what_became_of_each(ctl: Ctl) -> None:
    """Without a terminal it needs --yes; what has to wait is listed and not asked for; --plan only lists."""
    waiting = orphan("volume", 3, "seen once; it has to be seen again, in 5 min")
    ctl.service.left_over = [waiting, orphan("instance", 1), orphan("alarm", 2)]
    plan = await ctl("gc", "--plan")
    assert plan.code == 0
    assert [line.split()[:2] for line in plan.out.splitlines()[1:]] == [
        [one["kind"], one["id"]] for one in (orphan("instance", 1), orphan("alarm", 2), waiting)
    ]
    assert plan.out.splitlines()[-1].endswith("seen once; it has to be seen again, in 5 min")
    assert (await ctl("gc", "--plan", "--json")).document == ctl.service.left_over
    alone = await ctl("gc")
    assert (alone.code, "nobody can be asked here" in alone.err) == (2, True)
    assert [name for name, _, _ in ctl.service.calls if name == "remove_orphans"] == []

    end = await ctl("gc", "--yes")
    assert (end.code, end.out.splitlines()[-3:]) == (
        0,
        [
            "i-00000000000000001 is ending",
            "i-00000000000000001 terminated",
            "alarm-00000000000000002 deleted",
        ],
    )
    [(_, _, arguments)] = [call for call in ctl.service.calls if call[0] == "remove_orphans"]
    assert arguments["ids"] == ("i-00000000000000001", "alarm-00000000000000002")


async def test_gc_that_is_told_no_removes_nothing(ctl: Ctl) -> None:
    """Not everything that it removes would be terminated."""
    ctl.service.left_over = [orphan("alarm", 2)]
    master, slave = pty.openpty()
    process = await ctl.start("gc", stdin=slave)
    os.close(slave)
    os.write(master, b"n\n")
    end = await ended(process)
    os.close(master)
    assert (end.code, end.err.endswith("nothing was removed\n")) == (130, True)
    assert [name for name, _, _ in ctl.service.calls if name == "remove_orphans"] == []


async def test_gc_is_1_where_something_could_not_be_removed(ctl: Ctl) -> None:
    """With --json each outcome is a line, and nothing else."""
    ctl.service.left_over = [orphan("instance", 1, state="protected")]
    end = await ctl("gc", "--yes", "--json")
    assert (end.code, [json.loads(line)["outcome"] for line in end.out.splitlines()]) == (1, ["refused"])
    assert (await ctl("gc", "--yes")).out.endswith("i-00000000000000001 was not removed: it is protected\n")
    ctl.service.left_over = []
    nothing = await ctl("gc")
    assert (nothing.code, nothing.out) == (0, "nothing is left over\n")


async def test_version_tells_both_versions_with_and_without_a_service(ctl: Ctl) -> None:
    """Exit code 0 both times."""
    assert (await ctl("version", "--json")).document["flambed"] == "0.1.0"
    ctl.environ["FLAMBED_SOCKET"] = "/nowhere"
    end = await ctl("version")
    assert (end.code, "flambed (not reached)" in end.out) == (0, True)


# --- exit codes and the socket ---


@pytest.mark.parametrize(
    ("error", "code"),
    [(NotAllowedError("bob may not"), 4), (ConflictError("it is stopping"), 1), (FlambedError("the disk is full"), 3), (KeyError("x"), 1)],
    ids=["403", "409", "503", "500"],
)  # fmt: skip
async def test_what_the_service_refuses_has_its_exit_code(ctl: Ctl, error: Exception, code: int) -> None:
    """One line on stderr, nothing on stdout."""
    ctl.service.raises = error
    end = await ctl("release", "old")
    assert (end.code, end.out) == (code, "")
    assert end.err.startswith("flambectl: ")
    assert end.err.count("\n") == 1


@pytest.mark.parametrize("command", ["status", "watch", "why", "logs", "ssh", "release", "retry", "events"])
async def test_a_cluster_that_nobody_knows_is_5(ctl: Ctl, command: str) -> None:
    """For every command that takes a name."""
    end = await ctl(command, "nope")
    assert (end.code, "'nope'" in end.err) == (5, True)


async def test_a_service_that_cannot_be_reached_is_3_and_says_what_to_do(ctl: Ctl, tmp_path: Path) -> None:
    """A named socket that is missing, one that nobody listens on, and none at all in the usual places."""
    missing = await ctl("list", "--socket", str(tmp_path / "no"))
    assert (missing.code, "start the service" in missing.err) == (3, True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    refused = await ctl("--socket", str(tmp_path / "dead"), "list")
    assert (refused.code, "nobody listens there" in refused.err) == (3, True)
    too_long = await ctl("--socket", "x" * 200, "list")
    assert (too_long.code, "too long" in too_long.err) == (3, True)


def test_a_service_that_takes_the_connection_and_says_nothing_is_3(tmp_path: Path) -> None:
    """Neither a request nor a stream waits for ever."""
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        deaf.listen()
        client = Client(tmp_path / "deaf", answer=0.05, quiet=0.05)
        with pytest.raises(FailureError, match="took the connection but does not answer") as request:
            client.get("/v1/clusters")
        with pytest.raises(FailureError, match="took the connection but does not answer") as stream:
            next(client.stream("/v1/events"))
    assert request.value.code is stream.value.code is Exit.UNREACHABLE


async def test_the_socket_is_found_in_the_order_of_the_interface(ctl: Ctl) -> None:
    """The option before the variable, the variable before the user's runtime folder."""
    runtime = ctl.folder / "run"
    (runtime / "flambed").mkdir(parents=True)
    (runtime / "flambed" / "control.sock").symlink_to(ctl.folder / "s")
    del ctl.environ["FLAMBED_SOCKET"]
    ctl.environ["XDG_RUNTIME_DIR"] = str(runtime)
    assert (await ctl("list")).code == 0
    ctl.environ["FLAMBED_SOCKET"] = "/nowhere"
    assert (await ctl("list")).code == 3
    assert (await ctl("list", "--socket", str(ctl.folder / "s"))).code == 0


@pytest.mark.parametrize(
    "words", [[], ["fly"], ["up"], ["status"], ["hold", "old"], ["list", "--colour"], ["completion", "tcsh"]]
)
async def test_bad_usage_is_2(ctl: Ctl, words: list[str]) -> None:
    """As argparse says it."""
    assert (await ctl(*words)).code == 2


async def test_a_slip_in_a_command_names_the_one_that_was_meant(ctl: Ctl) -> None:
    """Instead of a list of all of them; the value of an option before it is no command."""
    end = await ctl("--socket", "x", "--json", "stauts", "old")
    assert end.err.splitlines()[-1] == "flambectl: error: there is no command 'stauts': did you mean 'status'?"


async def test_the_help_of_ssh_shows_what_may_follow(ctl: Ctl) -> None:
    """The words after -- are no argument that argparse knows."""
    assert "NAME [HOST] [-- COMMAND]" in " ".join((await ctl("ssh", "--help")).out.split())


async def test_flambectl_imports_none_of_the_services_libraries(ctl: Ctl) -> None:
    """`list` imports no asyncio either, and pydantic only where a file is read."""
    program = (
        "import sys; from flambed.cli import main; main(['list']);"
        "print(sorted({'aioboto3', 'asyncssh', 'aiohttp', 'asyncio', 'pydantic', 'yaml', 'structlog'} & set(sys.modules)))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=ctl.environ, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.decode().splitlines()[-1] == "[]"


# --- ssh ---


@pytest.fixture
def ssh_stub(ctl: Ctl) -> None:
    """An ssh in the PATH that writes down its arguments and its known hosts, and ends with 42."""
    folder = ctl.folder / "bin"
    folder.mkdir()
    stub = folder / "ssh"
    stub.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {ctl.folder}/argv\n'
        f'for word; do case $word in UserKnownHostsFile=*) cat "${{word#*=}}" > {ctl.folder}/known;; esac; done\nexit 42\n'
    )
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    ctl.environ["PATH"] = f"{folder}:{ctl.environ['PATH']}"
    (ctl.folder / ".ssh").mkdir()
    (ctl.folder / ".ssh" / "demo").write_text(KEY)


@pytest.mark.usefixtures("ssh_stub")
async def test_ssh_becomes_the_real_client_with_the_pinned_key(ctl: Ctl) -> None:
    """Address, port, user, key and known host; the words after -- go to the host; the exit code is ssh's."""
    end = await ctl("ssh", "old", "old_factory_1", "--", "nvidia-smi", "-L", "--json")
    assert end.code == 42
    argv = (ctl.folder / "argv").read_text().splitlines()
    assert argv[-5:] == ["--", "10.0.0.6", "nvidia-smi", "-L", "--json"]
    assert argv[:4] == ["-i", str(ctl.folder / ".ssh" / "demo"), "-p", "22"]
    assert {"StrictHostKeyChecking=yes", "IdentitiesOnly=yes", "HostKeyAlias=i-00000000000000002", "ubuntu"} <= set(
        argv
    )
    assert (ctl.folder / "known").read_text() == f"i-00000000000000002 {PUBLIC_KEY}\n"


@pytest.mark.usefixtures("ssh_stub")
async def test_ssh_without_a_host_is_the_orchestrator_and_json_only_tells(ctl: Ctl) -> None:
    """--json prints how to log in and runs nothing."""
    assert (await ctl("ssh", "old")).code == 42
    assert (ctl.folder / "argv").read_text().splitlines()[-1] == "10.0.0.4"
    (ctl.folder / "argv").unlink()
    end = await ctl("ssh", "old", "--json")
    assert (end.code, end.document["host_keys"]) == (0, [PUBLIC_KEY])
    assert not (ctl.folder / "argv").exists()


async def test_the_real_ssh_client_takes_the_command_line(ctl: Ctl) -> None:
    """OpenSSH itself parses every option; it fails only at the address, where nobody listens."""
    for one in ctl.service.known.values():
        one["instances"][0]["private_host"] = "127.0.0.1:1"
    end = await ctl("ssh", "old", "--key", str(ctl.key))
    assert end.code == 255
    assert "127.0.0.1:1" in end.err
    assert "option" not in end.err.lower()


async def test_a_key_that_the_caller_cannot_read_and_a_missing_client_are_told(ctl: Ctl) -> None:
    """2 and 1, with what to do."""
    end = await ctl("ssh", "old", "--key", "/no/such/key")
    assert (end.code, "give another with --key" in end.err) == (2, True)
    ctl.environ["PATH"] = str(ctl.folder)
    assert (await ctl("ssh", "old", "--key", str(ctl.key))).code == 1


# --- the terminal ---


@contextlib.asynccontextmanager
async def terminal(
    ctl: Ctl, *words: str, **environ: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Callable[[str], Awaitable[str]], int]]:
    """Run flambectl on a pseudo-terminal of 60 columns; yield the process, a reader until a text, and the master end."""
    master, slave = pty.openpty()
    ctl.environ |= {"TERM": "xterm", "COLUMNS": "60", "LINES": "10", **environ}
    process = await ctl.start(*words, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), open(os.dup(master), "rb", buffering=0)  # noqa: ASYNC230, PTH123, SIM115
    )  # fmt: skip

    async def seen(needle: str) -> str:
        text = ""
        async with asyncio.timeout(20):
            while needle not in text:
                text += (await reader.read(4096)).decode(errors="replace")
        return text

    try:
        yield process, seen, master
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        transport.close()
        os.close(master)


async def test_on_a_terminal_up_redraws_one_block_within_its_width(ctl: Ctl) -> None:
    """Colours, cursor movement, an elapsed time that goes on by itself; no line is wider than the terminal."""
    async with terminal(ctl, "up", "demo.yaml") as (process, seen, _):
        text = await seen("requested 3")
        text += await seen("\x1b[2A")  # it is drawn again although nothing changed
        await ctl.service.change(
            phase="degraded",
            reason="x" * 100,
            instances=stages(ctl.service, "ready", "ready", "failed", reason="y" * 100),
        )
        text += await seen("flambectl: demo is")
        assert await process.wait() == 1
    assert "\x1b[33mconverging\x1b[0m" in text
    drawn = re.split(r"\r?\n|\x1b\[2K|\x1b\[\d*[AJ]|\r", text.partition("flambectl: demo is")[0])
    assert max(columns_of(line) for line in drawn) <= 60


async def test_no_color_keeps_the_terminal_plain_and_dumb_terminals_get_lines(ctl: Ctl) -> None:
    """NO_COLOR takes the colours, TERM=dumb the redrawing as well."""
    async with terminal(ctl, "watch", "old", NO_COLOR="1") as (_, seen, _):
        assert "\x1b[3" not in await seen("old_factory_1")
    async with terminal(ctl, "watch", "old", TERM="dumb", NO_COLOR="") as (_, seen, _):
        assert "\x1b" not in await seen("ready 3")


async def test_a_long_status_fits_the_height_of_the_terminal(ctl: Ctl) -> None:
    """What has no room is counted."""
    await ctl.service.change(instances=[instance(i) for i in (None, *range(40))])
    async with terminal(ctl, "watch", "old") as (_, seen, _):
        text = await seen("more")
    assert "... 37 more" in text
    assert text.count("\n") <= 9


# --- pure parts ---


def test_many_failures_and_long_reasons_stay_readable() -> None:
    """The first five hosts are told, the others counted; a reason is cut in a line and whole in the document."""
    cluster = {**status(factories=0), "instances": [instance(i, "failed", "x" * 1000) for i in range(9)]}
    lines = show.failures(cluster)
    assert (len(lines), lines[-1]) == (6, "and 4 more")
    assert max(map(len, lines)) == 300


def test_what_others_wrote_plays_no_tricks_on_the_terminal() -> None:
    """Escape sequences and direction marks are spelled out."""
    assert printable("a\x1b[2Jb\u202ec\td") == "a\\x1b[2Jb\\u202ec d"


def test_columns_are_counted_as_the_terminal_counts_them() -> None:
    """Wide letters take two, combining marks and colours none; cutting keeps to it."""
    assert columns_of("表\u0301\x1b[31mx\x1b[0m") == 3
    assert cut("表表表", 5) == "表表…"
    assert cut("\x1b[31mabcdef\x1b[0m", 3) == "\x1b[31mab…\x1b[0m"
    assert table(("A", "B", "C"), [("表", "", "x")], None) == ["A   C", "表  x"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (660, "11 min"), (7500, "2 h 5 min"), (90_000, "1 d 1 h")],
)
def test_spans_are_told_in_the_two_largest_units(seconds: float, text: str) -> None:
    """As people say them."""
    assert times.span(seconds) == text


NOW = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)


@pytest.fixture
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The local clock shows UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_in_utc")
def test_times_are_told_by_the_local_clock_and_by_how_far_away_they_are() -> None:
    """Another day's has its date; a moment that has passed since it was asked for does not show."""
    assert times.told("it ends at 2026-01-31T12:59:58.123Z.", NOW) == "it ends at 12:59 (in 4 h)."
    assert times.clock("2026-02-01T00:00:00Z", NOW) == "2026-02-01 00:00"
    assert times.away("2026-01-31T08:59:50Z", NOW) == "10 s ago"
    hold = {"until": "2026-01-31T12:59:59.900Z", "why": "run 12"}
    assert show.held(hold, NOW) == "12:59 (4 h): run 12"


@pytest.mark.usefixtures("_in_utc")
def test_why_tells_hosts_in_the_same_situation_together_and_each_thing_once() -> None:
    """A vote with its end, an end that the summary has is not told again, names where there are few."""

    def host(index: int, summary: str, end: str | None, *signals: tuple[str, str, str | None]) -> dict[str, Any]:
        told = [dict(zip(("signal", "value", "at"), one, strict=True)) for one in signals]
        name = f"demo_factory_{index}"
        return {"instance": f"i-{index}", "name": name, "stage": "ready", "summary": f"{name} {summary}",
                "terminates_at": end, "signals": told}  # fmt: skip

    late = "2026-01-31T13:00:00.000Z"
    vote = ("vote: hold", "somebody holds the cluster", late)
    found = {
        "name": "demo",
        "phase": "ready",
        "reason": None,
        "hosts": [
            *(host(i, f"is kept because somebody holds the cluster (until {late}).", None, vote) for i in range(4)),
            host(4, "ends at 2026-01-31T10:00:00.000Z.", "2026-01-31T10:00:00.000Z"),
            host(5, "has no alarm yet.", late, vote, ("alarm", "not put yet", "2026-01-31T08:00:00Z")),
        ],
    }
    console = Console(io.StringIO(), io.StringIO(), {}, as_json=False)
    assert reasons.why(found, console, NOW) == [
        "demo is ready",
        "4 hosts (demo_factory_0, demo_factory_1, demo_factory_2, ...), ready",
        "  each is kept because somebody holds the cluster (until 13:00 (in 4 h)).",
        "demo_factory_4 (i-4), ready",
        "  demo_factory_4 ends at 10:00 (in 1 h).",
        "demo_factory_5 (i-5), ready",
        "  demo_factory_5 has no alarm yet.",
        "  ends at 13:00 (in 4 h), if nothing more happens",
        "  kept until 13:00 (in 4 h): somebody holds the cluster",
        "  alarm: not put yet, 1 h ago",
    ]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (None, "NAME ID TYPE STAGE PRIVATE PUBLIC PROTECTED ENDS REASON"),
        (130, "NAME TYPE STAGE PRIVATE PUBLIC PROTECTED ENDS REASON"),
        (110, "NAME TYPE STAGE PRIVATE PROTECTED ENDS REASON"),
        (100, "NAME STAGE PRIVATE PROTECTED ENDS REASON"),
        (90, "NAME STAGE PROTECTED ENDS REASON"),
        (80, "NAME STAGE ENDS REASON"),
        (60, "NAME STAGE ENDS REASON"),
    ],
)
def test_a_narrow_terminal_does_without_the_least_important_columns(width: int | None, expected: str) -> None:
    """Stage, end and reason are never left out; the reason is cut last."""
    header = ("NAME", "ID", "TYPE", "STAGE", "PRIVATE", "PUBLIC", "PROTECTED", "ENDS", "REASON")
    row = ("demo_factory_0", "i-00000000000000001", "g5.xlarge", "setting_up 1/2", "10.0.0.5", "203.0.113.5", "alarm",
           "in 3 h 59 min", "y" * 100)  # fmt: skip
    lines = table(header, [row], width, show.SPARE)
    assert lines[0].split() == expected.split()
    assert width is None or max(columns_of(line) for line in lines) <= width


def test_the_command_that_runs_counts() -> None:
    """The first of two is 1/2, and the last one 2/2."""
    setups = [{"done": done, "of": 2, "running": done} for done in (0, 1)]
    cluster = {**status(), "instances": [{**instance(i, "setting_up"), "setup": one} for i, one in enumerate(setups)]}
    lines = show.status(cluster, Console(io.StringIO(), io.StringIO(), {}, as_json=False))
    assert [re.findall(r"setting_up \d/\d", line) for line in lines[-2:]] == [["setting_up 1/2"], ["setting_up 2/2"]]


def test_a_plan_without_changes_says_so() -> None:
    """What is kept is no change."""
    empty: dict[str, Any] = {"retire": [], "surplus": ["i-2"], "start": [], "adopt": [], "setup": False}
    found = {
        "name": "demo",
        "region": "r",
        "launch": {"Factory": 0},
        "keep": ["i-1"],
        "alarms": {"Factory": 5, "Orchestrator": 120},
        **empty,
    }
    assert show.plan(found, {"i-1": "demo_factory_0"}) == [
        "demo in r", "nothing to do", "keep  demo_factory_0 (i-1)", "too many, kept without --shrink  i-2",
        "end when idle  factory after 5 min, orchestrator after 2 h",
    ]  # fmt: skip


def test_every_command_of_the_table_has_its_function() -> None:
    """And no function is without a command."""
    assert {command.name for command in arguments.COMMANDS} == set(commands.RUN)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["flambectl", "st"], {"status"}),
        (["flambectl", "up", "--de"], {"--detach"}),
        (["flambectl", "--socket", "up", "down", "--"], {"--yes", "--detach", "--all", "--socket", "--json"}),
        (["flambectl", "status", "ol"], {"old"}),
        (["flambectl", "completion", "b"], {"bash"}),
    ],
)
async def test_bash_completes_commands_options_and_clusters(ctl: Ctl, line: list[str], expected: set[str]) -> None:
    """The generated script in a real bash, with a flambectl that lists one cluster."""
    script = (await ctl("completion", "bash")).out
    words = " ".join(f"'{word}'" for word in line)
    test = (
        f"flambectl() {{ echo old; }}\n{script}\nCOMP_WORDS=({words}); COMP_CWORD={len(line) - 1}\n"
        '_flambectl\nprintf "%s\\n" "${COMPREPLY[@]}"'
    )
    process = await asyncio.create_subprocess_exec("bash", "-uc", test, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert (process.returncode, set(out.decode().split())) == (0, expected)


def test_zsh_and_fish_get_every_command_and_option() -> None:
    """zsh runs the bash script in its own emulation; fish has a line for each."""
    assert completion.script("zsh").startswith("#compdef flambectl\n")
    fish = completion.script("fish")
    for command in arguments.COMMANDS:
        assert f"-a {command.name} -d" in fish
        for option in command.options:
            assert f"__fish_seen_subcommand_from {command.name}' -l {option.name[2:]}" in fish
