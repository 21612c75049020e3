"""The script that runs set-up commands on hosts, under the shells that hosts have."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from flambed.steps.acquaint import ACQUAINT
from flambed.steps.link import INFORM
from flambed.steps.setup import RUNNER
from tests.parts import real_part
from tests.sshserver import Gate, end_processes, eventually, kill_runner, processes_of

KEY = "k" * 64


class Machine:
    """A home folder, and one shell that is `sh` there."""

    def __init__(self, folder: Path, shell: str) -> None:
        self.home = folder / "home folder"  # a blank, as some have
        self.home.mkdir()
        programs = folder / "bin"
        programs.mkdir()
        (programs / "sh").symlink_to(real_part(shell, shell))
        self._sh = str(programs / "sh")
        self.started: list[subprocess.Popen[bytes]] = []
        self._env = {"HOME": str(self.home), "PATH": f"{programs}:{os.environ['PATH']}"}

    def start(self, script: str, *args: str, full_disk: bool = False) -> subprocess.Popen[bytes]:
        """Start a script the way it is started over SSH; on a full disk no file can grow."""
        limit = [self._sh, "-c", 'ulimit -f 0; exec "$@"', "limited"] if full_disk else []
        pipe = subprocess.PIPE
        command = [*limit, self._sh, "-c", script, "flambed", *args]
        process = subprocess.Popen(command, env=self._env, cwd="/", stdin=pipe, stdout=pipe, stderr=pipe)
        self.started.append(process)
        return process

    def begin(self, command: str, key: str = KEY, full_disk: bool = False) -> subprocess.Popen[bytes]:
        """Start the runner and give it the whole command."""
        data = command.encode()
        process = self.start(RUNNER, key, str(len(data)), full_disk=full_disk)
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin as stdin:  # it may end without reading
            stdin.write(data)
        process.stdin = None
        return process

    def run(self, command: str, key: str = KEY, full_disk: bool = False) -> tuple[int, str, str]:
        """Run a command to its end: (exit code of the runner, stdout, stderr)."""
        return ended(self.begin(command, key, full_disk))

    def setup(self, *names: str) -> Path:
        """A path in the runner's folder on the host."""
        return self.home.joinpath(".flambed", "setup", *names)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    """Wait for a runner's end: (exit code, stdout, stderr)."""
    stdout, stderr = process.communicate(timeout=20)
    return process.returncode, stdout.decode(), stderr.decode()


@pytest.fixture(params=["dash", "bash", "busybox", "sh"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """A machine with each of the shells; whatever still runs there is ended, and that is a failure."""
    real_part("flock", "util-linux")
    machine = Machine(tmp_path, request.param)
    yield machine
    try:
        eventually(lambda: not processes_of(machine.home), "all processes of the test have ended")
    finally:
        end_processes(machine.home)
        for process in machine.started:
            process.communicate(timeout=20)


@pytest.fixture
def gate(machine: Machine) -> Iterator[Gate]:
    """A gate on the machine."""
    gate = Gate(machine.home)
    yield gate
    gate.close()


def test_a_command_runs_in_the_home_folder_and_its_code_and_output_are_reported(machine: Machine) -> None:
    """Stdout and stderr come in one stream, in their order, after a line that tells code and size."""
    code, stdout, stderr = machine.run("pwd; echo to stderr >&2; exit 7")
    text = f"{machine.home}\nto stderr\n"
    assert (code, stdout, stderr) == (0, f"flambed-exit {KEY} 7 {len(text)}\n{text}", "")


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ('echo "it\'s" \'a "quote"\' $((1 + 1)) `echo tick` \\\\', 'it\'s a "quote" 2 tick \\\n'),
        ("echo one\n\n# a comment\necho two", "one\ntwo\n"),
        ("cat <<'END'\n$HOME\nEND", "$HOME\n"),
        ("printf '%s\\n' 'naïve ‽ 日本'", "naïve ‽ 日本\n"),
        ("-n() { echo odd; }; -n", None),
        ("", ""),
        ("cat", ""),
        ("printf no-newline", "no-newline"),
        ("echo flambed-exit 0 0", "flambed-exit 0 0\n"),
    ],
    ids=["quotes", "lines", "here-document", "unicode", "a leading dash", "empty", "stdin", "no newline", "mimicry"],
)
def test_a_command_may_be_any_text(machine: Machine, command: str, output: str | None) -> None:
    """What the user wrote reaches sh unchanged; stdin is closed."""
    code, stdout, _ = machine.run(command)
    assert code == 0
    assert (machine.setup(KEY, "command")).read_text() == command
    if output is not None:
        assert stdout.partition("\n")[2] == output


def test_a_command_has_the_users_umask_while_what_flambed_keeps_is_private(machine: Machine) -> None:
    """Set-up makes files that others can read, as by hand, and strangers cannot read what commands print."""
    machine.run('umask; : >"$HOME/made"')
    assert (machine.home / "made").stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert machine.setup().stat().st_mode & 0o777 == 0o700


def test_a_finished_command_is_reported_again_and_not_run_again(machine: Machine) -> None:
    """The same key is the same run."""
    first = machine.run('echo ran | tee -a "$HOME/count"; exit 3')
    assert machine.run('echo ran | tee -a "$HOME/count"; exit 3') == first
    assert (machine.home / "count").read_text() == "ran\n"


def test_another_key_is_another_run(machine: Machine) -> None:
    """A retry runs the command anew."""
    for key in ("first", "second"):
        assert machine.run('echo ran | tee -a "$HOME/count"', key)[0] == 0
    assert (machine.home / "count").read_text() == "ran\nran\n"


def test_a_second_caller_waits_for_the_running_command_and_gets_its_result(machine: Machine, gate: Gate) -> None:
    """Attaching never runs a command twice."""
    command = f'echo ran >>"$HOME/count"; {gate.command}; echo done; exit 4'
    first = machine.begin(command)
    gate.wait()
    second = machine.begin(command)
    eventually(lambda: len(processes_of(machine.home, "flock")) == 2, "the second caller waits for the lock")
    gate.let_go()
    assert ended(first) == ended(second) == (0, f"flambed-exit {KEY} 4 5\ndone\n", "")
    assert (machine.home / "count").read_text() == "ran\n"


def test_no_two_commands_run_at_once_on_a_host(machine: Machine, gate: Gate) -> None:
    """A retry after a time-out waits for the attempt that still runs."""
    first = machine.begin(f'{gate.command}; echo first >>"$HOME/order"', "first")
    gate.wait()
    second = machine.begin('echo second >>"$HOME/order"', "second")
    eventually(lambda: len(processes_of(machine.home, "flock")) == 2, "the second command waits for the lock")
    assert not (machine.home / "order").exists()
    gate.let_go()
    assert ended(first)[0] == ended(second)[0] == 0
    assert (machine.home / "order").read_text() == "first\nsecond\n"


def test_a_command_goes_on_when_its_caller_is_gone(machine: Machine, gate: Gate) -> None:
    """A dropped connection leaves it alone, and whoever comes next gets the result."""
    command = f'echo ran >>"$HOME/count"; {gate.command}; echo survived'
    caller = machine.begin(command)
    gate.wait()
    caller.kill()
    ended(caller)
    gate.let_go()
    assert machine.run(command) == (0, f"flambed-exit {KEY} 0 9\nsurvived\n", "")
    assert (machine.home / "count").read_text() == "ran\n"


def test_a_command_that_was_killed_in_the_middle_runs_again(machine: Machine, gate: Gate) -> None:
    """Without an exit code it has not ended, as after a reboot."""
    command = f'echo ran >>"$HOME/count"; {gate.command}; echo done'
    caller = machine.begin(command)
    gate.wait()
    kill_runner(machine.home)
    code, stdout, stderr = ended(caller)
    assert (code, stdout) == (121, "")
    assert "no exit code" in stderr
    gate.let_go()
    assert machine.run(command)[:2] == (0, f"flambed-exit {KEY} 0 5\ndone\n")
    assert (machine.home / "count").read_text() == "ran\nran\n"


@pytest.mark.parametrize("emptied", [("exit",), ("command", "exit")])
def test_files_that_a_power_cut_emptied_count_for_nothing(machine: Machine, emptied: tuple[str, ...]) -> None:
    """The command is stored anew and runs again; an empty one would end well."""
    machine.setup(KEY).mkdir(parents=True)
    for name in emptied:
        machine.setup(KEY, name).touch()
    assert machine.run("echo done; exit 6") == (0, f"flambed-exit {KEY} 6 5\ndone\n", "")


def test_a_service_that_a_command_leaves_behind_does_not_hold_up_the_next(machine: Machine) -> None:
    """It has neither the lock nor our end of the output."""
    code, stdout, _ = machine.run('sleep 60 >/dev/null & echo $! >"$HOME/service"')
    assert (code, stdout) == (0, f"flambed-exit {KEY} 0 0\n")
    assert machine.run("echo next", "next")[:2] == (0, "flambed-exit next 0 5\nnext\n")
    service = int((machine.home / "service").read_text())
    os.kill(service, signal.SIGKILL)
    eventually(lambda: service not in processes_of(machine.home), "the service ended")


def test_of_much_output_the_end_is_reported_and_all_is_counted(machine: Machine) -> None:
    """The last 64 KiB, and the size of the whole."""
    _, stdout, _ = machine.run(
        "i=0; while [ $i -lt 3000 ]; do echo '0123456789012345678901234567890'$i; i=$((i+1)); done"
    )
    head, _, text = stdout.partition("\n")
    size = machine.setup(KEY, "output").stat().st_size
    assert head == f"flambed-exit {KEY} 0 {size}"
    assert (len(text), size > 65536) == (65536, True)
    assert text.endswith("2999\n")


def test_a_command_that_was_cut_off_on_its_way_is_never_run(machine: Machine) -> None:
    """Half of a command could do anything."""
    process = machine.start(RUNNER, KEY, "100")
    stdout, stderr = process.communicate(b'touch "$HOME/half"', timeout=20)
    assert (process.returncode, stdout) == (120, b"")
    assert b"could not be stored" in stderr
    assert not (machine.home / "half").exists()
    assert machine.run("echo whole")[:2] == (0, f"flambed-exit {KEY} 0 6\nwhole\n")


def test_a_home_that_takes_no_folder_is_a_clear_error(machine: Machine) -> None:
    """The runner says what it could not make."""
    (machine.home / ".flambed").write_text("in the way")
    code, stdout, stderr = machine.run("echo never")
    assert (code, stdout) == (120, "")
    assert "~/.flambed/setup cannot be made" in stderr


def test_a_disk_that_takes_no_command_is_a_clear_error(machine: Machine) -> None:
    """Nothing is run, and nothing half is left."""
    code, _, stderr = machine.run("echo never", full_disk=True)
    assert code == 120
    assert "is the disk full" in stderr
    assert list(machine.setup(KEY).iterdir()) == []


def test_a_disk_that_takes_no_exit_code_is_a_clear_error(machine: Machine) -> None:
    """A command whose end could not be written down has not ended well."""
    machine.setup(KEY).mkdir(parents=True)
    machine.setup(KEY, "command").write_text("exit 0")
    code, stdout, stderr = machine.run("exit 0", full_disk=True)
    assert (code, stdout) == (121, "")
    assert "no exit code" in stderr


def test_the_description_is_stored_whole_and_readable(machine: Machine) -> None:
    """~/.flambed/cluster.json, for every user of the host, replaced in one step."""
    for text in ('{"old": "héros"}', "{}"):
        process = machine.start(INFORM, str(len(text.encode())), "cluster.json", "644")
        assert process.communicate(text.encode(), timeout=20) == (b"", b"")
        assert process.returncode == 0
        stored = machine.home / ".flambed" / "cluster.json"
        assert stored.read_text() == text
        assert stored.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in stored.parent.iterdir()] == ["cluster.json"]


def test_half_a_description_is_not_stored(machine: Machine) -> None:
    """What was there stays."""
    process = machine.start(INFORM, "10", "cluster.json", "644")
    _, stderr = process.communicate(b"{", timeout=20)
    assert process.returncode == 120
    assert b"cluster.json cannot be written" in stderr
    assert list((machine.home / ".flambed").iterdir()) == []


def test_a_private_file_is_never_readable_for_others(machine: Machine) -> None:
    """Its folder is closed to them, too."""
    process = machine.start(INFORM, "6", "ssh/id_ed25519", "600")
    assert process.communicate(b"secret", timeout=20) == (b"", b"")
    stored = machine.home / ".flambed" / "ssh" / "id_ed25519"
    assert stored.read_text() == "secret"
    assert [path.stat().st_mode & 0o777 for path in (stored, stored.parent)] == [0o600, 0o700]


def test_a_key_is_let_in_beside_those_that_are(machine: Machine) -> None:
    """Once, on a line of its own, even where the last one had no end; a fresh user has no file yet."""
    keys = machine.home / ".ssh" / "authorized_keys"
    for before in (None, "ssh-rsa AAAA one", "ssh-rsa AAAA one\nssh-ed25519 AAAAB\n"):
        if before is not None:
            keys.write_text(before)
        for _ in range(2):
            assert ended(machine.start(ACQUAINT, "authorize", "ssh-ed25519 AAAA"))[0] == 0
        kept = before.splitlines() if before else []
        assert keys.read_text().splitlines() == [*kept, "ssh-ed25519 AAAA"]
    assert keys.parent.stat().st_mode & 0o777 == 0o700


def test_the_users_ssh_configuration_stays_and_ours_comes_first(machine: Machine) -> None:
    """Also where there was none; twice is once."""
    config = machine.home / ".ssh" / "config"
    for before in ("", "Host x\n  User y\n"):
        if before:
            config.write_text(before)
        for _ in range(2):
            assert ended(machine.start(ACQUAINT, "include"))[0] == 0
        assert config.read_text() == f"Include ~/.flambed/ssh/config\n{before}"
    assert [path.name for path in config.parent.iterdir()] == ["config"]


def test_ssh_files_that_cannot_be_written_are_told(machine: Machine) -> None:
    """The step fails, and says where."""
    (machine.home / ".ssh").write_text("no folder")
    code, _, stderr = ended(machine.start(ACQUAINT, "include"))
    assert (code, "~/.ssh cannot be written" in stderr) == (120, True)


def _umask() -> int:
    umask = os.umask(0o022)
    os.umask(umask)
    return umask
