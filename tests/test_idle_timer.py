"""The dead-man's timer of hosts, as the program that their user data brings, under the shells that hosts have."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from flambed.observed.probes import Timer
from tests.idlehost import SHELLS, IdleHost
from tests.parts import real_part

HOUR = 60  # minutes
DAY = 24 * HOUR


@pytest.fixture(params=SHELLS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> IdleHost:
    """A host that was launched with a timeout of two hours and has just booted, under each of the shells."""
    return booted(IdleHost(tmp_path, request.param))


@pytest.fixture
def dash_host(tmp_path: Path) -> IdleHost:
    """The same under one shell, for stories that take many ticks."""
    return booted(IdleHost(tmp_path, "dash"))


def most_of_a_day_passes(host: IdleHost) -> None:
    """Let 21 hours pass without a tick; the wait for idleness begins anew with the next one."""
    host.pass_time(21 * 3600)
    host.tick()


def booted(host: IdleHost) -> IdleHost:
    """Install the timer and tick once, as systemd does at the boot."""
    done = host.install()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = host.tick()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return host


# --- when a host ends --------------------------------------------------------------------------------------------


@pytest.mark.idle("dead-man's timer")
def test_a_host_that_nobody_ever_renewed_ends_after_its_timeout_to_the_minute(host: IdleHost) -> None:
    """Its two hours of idleness begin at the boot and are over when two hours without a renewal are."""
    assert host.ticks(115) is None
    assert host.ticks(5, every=1) == 5
    assert host.calls("shutdown") == ["shutdown -h now"]


@pytest.mark.idle("dead-man's timer")
def test_a_short_timeout_is_an_hour_and_waits_for_the_lease(tmp_path: Path) -> None:
    """A host is given two hours for the service to come, and never less than one of idleness."""
    host = booted(IdleHost(tmp_path, "dash", minutes=5))
    busy_until = 90
    host.cpu = 50
    host.ticks(busy_until)
    host.cpu = 0.2
    assert host.ticks(2 * HOUR) == HOUR  # at 150 minutes: an hour after it was last busy


@pytest.mark.idle("dead-man's timer")
def test_a_long_timeout_is_kept_to(tmp_path: Path) -> None:
    """The lease is over long before."""
    host = booted(IdleHost(tmp_path, "dash", minutes=5 * HOUR))
    assert host.ticks(6 * HOUR) == 5 * HOUR


@pytest.mark.idle("dead-man's timer")
def test_a_host_that_is_renewed_never_ends(dash_host: IdleHost) -> None:
    """However long it is idle, it is the service's to end."""
    for _ in range(3):
        most_of_a_day_passes(dash_host)
        assert dash_host.renew()["timer"] == "renewed"
    assert dash_host.ticks(4 * HOUR) is None
    assert dash_host.status()["idle"] == str(4 * 3600)


@pytest.mark.idle("dead-man's timer")
def test_a_host_whose_renewals_stop_ends_a_day_later(host: IdleHost) -> None:
    """When the service is away for good."""
    host.renew()
    most_of_a_day_passes(host)
    assert host.ticks(4 * HOUR) == 3 * HOUR


@pytest.mark.idle("dead-man's timer")
def test_a_hold_that_lasts_longer_than_a_day_is_kept(dash_host: IdleHost) -> None:
    """It came with the last renewal."""
    dash_host.renew(minutes=60, hold=86400 + 1800)
    most_of_a_day_passes(dash_host)
    assert dash_host.ticks(4 * HOUR) == 3 * HOUR + 30


def test_a_hold_ends_with_the_renewal_that_brings_none(host: IdleHost) -> None:
    """A release counts, too."""
    host.renew(hold=10 * 86400)
    assert int(host.status()["ends"]) == 10 * 86400
    assert int(host.renew(hold=0)["ends"]) == 86400


def test_a_renewal_brings_another_timeout_and_threshold(host: IdleHost) -> None:
    """Those of a live cluster can change."""
    host.renew(minutes=3000, percent=4)
    host.cpu = 3.9
    host.ticks(10)
    told = host.status()
    assert (told["minutes"], told["percent"], told["cpu"], told["idle"]) == ("3000", "4", "3.900", "600")
    assert int(told["ends"]) == (3000 - 10) * 60
    host.renew(minutes=3000, percent=0.5)
    host.ticks(5)
    assert host.status()["idle"] == "0"


@pytest.mark.idle("dead-man's timer", "-1")
def test_minus_one_switches_it_off_until_the_next_renewal(host: IdleHost) -> None:
    """It says so, and outlives a reboot."""
    told = host.renew(minutes=-1)
    assert (told["timer"], told["ends"]) == ("off", "never")
    host.boot()
    booted(host)
    assert host.ticks(2 * HOUR + 30) is None
    assert (host.status()["timer"], host.status()["idle"]) == ("off", str(9000))
    assert host.renew(minutes=60)["timer"] == "renewed"


# --- what keeps a host -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cpu", "idle"), [(0, "600"), (0.49, "600"), (0.5, "0"), (100, "0")])
def test_the_cpu_keeps_a_host_from_its_threshold_on(host: IdleHost, cpu: float, idle: str) -> None:
    """As the alarm has it, below means below."""
    host.cpu = cpu
    host.ticks(10)
    assert host.status()["idle"] == idle


def test_one_busy_minute_begins_the_wait_anew(host: IdleHost) -> None:
    """Idleness is without interruption."""
    host.ticks(60)
    host.cpu = 1
    host.ticks(1, every=1)
    host.cpu = 0.2
    host.ticks(10)
    assert host.status()["idle"] == "600"


@pytest.mark.idle("dead-man's timer")
def test_a_gpu_keeps_a_host_whose_cpu_does_nothing(host: IdleHost) -> None:
    """The busiest of several counts; 5 % is idle, 6 % is not."""
    host.cpu = 0
    host.gpus(0, 6)
    assert host.ticks(2 * HOUR + 10) is None
    host.gpus(5, 0)
    host.ticks(10)
    assert host.status()["idle"] == "600"


@pytest.mark.idle("dead-man's timer")
def test_typing_keeps_a_host_and_a_forgotten_terminal_does_not(host: IdleHost) -> None:
    """A person counts for half an hour after each input; a session that is only open for none."""
    now = 2_000_000.0
    host.terminal("pts/0", at=now)

    def types() -> None:
        nonlocal now
        now += 290
        host.terminal("pts/0", at=now)

    assert host.ticks(2 * HOUR + 10, meanwhile=types) is None
    assert (host.status()["terminal"], host.status()["idle"]) == ("0", "0")
    host.ticks(40)
    assert (host.status()["terminal"], host.status()["idle"]) == (str(40 * 60), str(15 * 60))


def test_what_programs_print_is_no_input(host: IdleHost) -> None:
    """It changes another time of the terminal, and the access time of /dev/pts/ptmx."""
    host.terminal("pts/0", at=1_000_000)  # that it was opened counts, for half an hour
    clock = iter(range(1, 1000))
    host.ticks(5)
    host.ticks(35, meanwhile=lambda: host.terminal("pts/ptmx", at=2_000_000 + next(clock)))
    assert (host.status()["terminal"], host.status()["idle"]) == (str(35 * 60), "600")


def test_a_console_counts_when_somebody_types_there(host: IdleHost) -> None:
    """EC2's serial console is a terminal, too."""
    host.ticks(60)
    host.terminal("ttyS0", at=1_000_060)
    host.ticks(5)
    assert host.status()["terminal"] == "0"


# --- what cannot be told is use ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nvidia_smi",
    ["exit 9", "echo '[N/A]'", "true", "echo 3; echo '[Not Supported]'", "exec sleep 1000"],
    ids=["fails", "does not tell", "says nothing", "tells of one GPU only", "hangs"],
)
def test_a_gpu_that_cannot_be_asked_keeps_a_host(dash_host: IdleHost, nvidia_smi: str) -> None:
    """Unknown is never idle; a program that hangs is given up."""
    dash_host.program("nvidia-smi", nvidia_smi)
    (dash_host.bin / "sleep").symlink_to(real_part("sleep", "coreutils"))
    patient = real_part("timeout", "coreutils")
    dash_host.program("timeout", f'shift; exec {patient} 0.1 "$@"')
    dash_host.ticks(10)
    told = dash_host.status()
    assert (told["gpu"], told["idle"]) == ("failed nvidia-smi does not tell", "0")


def test_a_machine_without_a_gpu_is_not_kept_by_a_driver_that_finds_none(host: IdleHost) -> None:
    """Images for GPUs are launched on other machines, too: there nvidia-smi only fails."""
    host.program("nvidia-smi", "exit 9")
    device = host.root / "sys/bus/pci/devices/0000:00:04.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x1d0f\n")
    host.ticks(5)
    assert host.status()["gpu"] == "none"
    (device / "vendor").write_text("0x10de\n")
    host.ticks(5)
    assert host.status()["gpu"] == "failed nvidia-smi does not tell"


@pytest.mark.parametrize("stat", [None, "cpu  1 2 x 4 5\n", ""], ids=["missing", "garbled", "empty"])
def test_a_cpu_that_cannot_be_read_keeps_a_host(host: IdleHost, stat: str | None) -> None:
    """The wait begins anew, and the next readings count again."""
    host.ticks(30)
    path = host.root / "proc/stat"
    host.pass_time(60)
    path.unlink()
    if stat is not None:
        path.write_text(stat)
    host.tick()
    told = host.status()
    assert (told["cpu"], told["idle"]) == ("failed", "0")
    host.ticks(10)
    assert host.status()["idle"] == "300"


def test_terminals_that_cannot_be_looked_at_keep_a_host(dash_host: IdleHost) -> None:
    """Without a stat there is no telling whether somebody types."""
    dash_host.program("stat", "exit 1")
    dash_host.ticks(10)
    assert (dash_host.status()["terminal"], dash_host.status()["idle"]) == ("failed stat does not tell", "0")


def test_a_terminal_that_closes_while_it_is_looked_at_is_no_failure(dash_host: IdleHost) -> None:
    """What is left is told all the same; that it closed counts as its last use."""
    dash_host.ticks(5)
    dash_host.program("stat", f"echo 1000000:{dash_host.root}/dev/tty2; exit 1")
    dash_host.ticks(5)
    assert dash_host.status()["terminal"] == "0"


def test_a_lease_that_was_cut_off_ends_nothing_until_it_is_renewed(host: IdleHost) -> None:
    """It may have said "never"."""
    host.renew()
    lease = host.root / "var/lib/cloud/instance/flambed/lease"
    lease.write_text(lease.read_text()[:7])
    assert host.ticks(2 * HOUR + 10) is None
    assert host.status() == {"timer": "failed there is no lease that can be read"}
    assert host.renew()["timer"] == "renewed"


def test_samples_that_were_cut_off_begin_the_wait_anew(host: IdleHost) -> None:
    """They are no reason to end a host, nor to keep it for ever."""
    host.ticks(60)
    samples = host.root / "run/flambed/samples"
    samples.write_text(samples.read_text()[:9])
    host.tick()
    assert (host.status()["timer"], host.status()["idle"]) == ("on", "0")


def test_a_timer_that_stopped_says_so_and_begins_anew(host: IdleHost) -> None:
    """What happened in between nobody has seen: the host was suspended, or systemd could not start it."""
    host.ticks(60)
    host.pass_time(400)
    assert host.status()["timer"] == "failed it has not looked at the host for five minutes"
    assert host.renew()["timer"] == "failed it has not looked at the host for five minutes"
    host.tick()
    told = host.status()
    assert (told["timer"], told["idle"]) == ("on", "0")


# --- clocks, disks and company -----------------------------------------------------------------------------------


def test_a_reboot_begins_all_waits_anew_and_gives_a_day_if_it_was_ever_renewed(dash_host: IdleHost) -> None:
    """Uptime means nothing after it; who was renewed before is renewed again when the service finds it."""
    dash_host.ticks(60)
    dash_host.renew(minutes=60)
    dash_host.boot()
    booted(dash_host)
    assert (dash_host.status()["idle"], dash_host.status()["ends"]) == ("0", str(DAY * 60 - 30))
    most_of_a_day_passes(dash_host)
    assert dash_host.ticks(4 * HOUR) == 3 * HOUR


def test_a_reboot_of_a_host_that_was_never_renewed_gives_it_two_hours(host: IdleHost) -> None:
    """As the first boot did."""
    host.ticks(100)
    host.boot()
    booted(host)
    assert int(host.status()["ends"]) == 2 * 3600 - 30 + 30


def test_the_wall_clock_plays_no_part(host: IdleHost) -> None:
    """It may be set while the host runs: the timer does not even ask for it."""
    (host.bin / "date").unlink()
    host.terminal("pts/0", at=4_000_000_000)  # typed before the clock was set back
    host.ticks(5)
    host.terminal("pts/0", at=1_000)  # typed after it was set back too far
    host.ticks(5)
    assert host.status()["terminal"] == "0"
    assert host.ticks(35) is None
    assert (host.status()["terminal"], host.status()["idle"]) == (str(35 * 60), "600")


def test_a_tick_in_the_middle_of_a_renewal_is_no_input_in_the_future(host: IdleHost) -> None:
    """The renewal looked at the clock, then the tick wrote its samples, then the renewal read them."""
    host.terminal("pts/0", at=1_000_060)
    host.pass_time(60)
    host.tick()
    host.pass_time(-2)
    seen = host.probe()
    assert (seen.timer, seen.terminal) == (Timer.RENEWED, 0)
    assert host.status()["idle"] == "0"


def test_two_ticks_at_once_are_one(host: IdleHost) -> None:
    """A person may call it beside systemd; the second has nothing to add."""
    host.ticks(30)
    host.pass_time(60)
    argv = [str(host.bin / "sh"), str(host.timer), "tick"]
    env = {"PATH": str(host.bin), "FLAMBED_ROOT": str(host.root)}
    both = [subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "12"]
    assert [(process.communicate(timeout=20), process.returncode) for process in both] == [(("", ""), 0)] * 2
    host.pass_time(10)
    host.tick()
    told = host.status()
    assert (told["idle"], told["sampled"], told["cpu"]) == (str(31 * 60 + 10), "10", "0.200")
    assert list((host.root / "run/flambed").glob("*.[0-9]*")) == []


def test_a_lease_is_kept_in_memory_where_the_disk_takes_none(host: IdleHost) -> None:
    """It is renewed there, and moves to the disk when that is writable again; -1 must outlive a reboot."""
    folder = host.root / "var/lib/cloud/instance/flambed"
    kept = folder.rename(folder.with_name("kept"))
    folder.touch()  # nothing can be written into what is no folder; root may write everywhere else
    assert host.renew()["timer"] == "renewed"
    assert host.status()["renewed"] == "0"
    assert host.renew(minutes=-1) == {"timer": "failed the lease cannot be stored: is the disk full or read-only?"}
    assert host.status()["timer"] == "off", "it holds until the reboot all the same"
    folder.unlink()
    kept.rename(folder)
    assert host.renew(minutes=60)["timer"] == "renewed"
    assert not (host.root / "run/flambed/lease").exists()


@pytest.mark.idle("dead-man's timer")
def test_nothing_ends_where_nothing_can_be_written(host: IdleHost) -> None:
    """A host that cannot keep what it saw does not know how long it has been idle."""
    limited = f'trap "" XFSZ; ulimit -f 0; exec "{host.bin}/sh" "{host.timer}" "$@"'
    host.ticks(10)
    host.pass_time(60)
    ticked = host.run("tick", script=limited)
    assert (ticked.returncode, ticked.stdout) == (1, f"timer=failed {host.root}/run/flambed cannot be written\n")
    renewed = host.run("renew", "60", "0.5", "0", script=limited)
    assert renewed.returncode == 1
    assert renewed.stdout == "timer=failed the lease cannot be stored: is the disk full or read-only?\n"
    assert list(host.root.rglob("*.[0-9][0-9]*")) == [], "nothing half written is left"
    assert host.status()["idle"] == "660", "what was kept before is whole"


def test_whoever_is_logged_in_is_warned_minutes_before_the_end(host: IdleHost) -> None:
    """There is time to type something."""
    wall = host.root / "wall"
    host.ticks(110)
    assert not wall.exists()
    host.pass_time(5 * 60)
    said = host.tick().stdout
    assert said == "flambed: idle, and nobody has renewed the lease: the host ends in 300 s, unless it is used\n"
    assert wall.read_text() == (
        "flambed: this host is idle and ends in 300 seconds; whoever types something keeps it\n"
    )
    host.terminal("tty1", at=1_500_000)
    assert host.ticks(10) is None


def test_it_says_why_it_ends_the_host_and_tries_again_where_it_cannot(host: IdleHost) -> None:
    """systemd may refuse a shutdown while another job is under way."""
    host.program("shutdown", f'echo shutdown >>"{host.root}/calls"; exit 1')
    host.ticks(115)
    (host.root / "calls").unlink()
    for call in (1, 2):
        host.pass_time(300)
        said = host.tick().stdout
        assert re.fullmatch(
            r"flambed: idle for 12\d minutes, and the lease ended \d minutes ago: the host ends\n", said
        )
        assert (len(host.calls("shutdown")), host.calls("systemctl")) == (call, ["systemctl poweroff"] * call)


# --- what it is told and tells -----------------------------------------------------------------------------------


def test_it_tells_the_highest_use_of_the_gpu_since_it_was_last_renewed(host: IdleHost) -> None:
    """A renewal shows what was up to then, and begins the next maximum."""
    for percent in (3, 97, 0):
        host.gpus(percent)
        host.ticks(1, every=1)
    assert host.status()["gpu"] == "97"
    host.pass_time(5)
    assert host.renew()["gpu"] == "97"
    host.ticks(1, every=1)
    assert host.renew()["gpu"] == "0"


def test_a_failed_look_at_the_gpu_outweighs_idle_ones_and_not_busy_ones(host: IdleHost) -> None:
    """What may have been busy was not seen to be idle."""
    host.gpus(3)
    host.ticks(1, every=1)
    host.program("nvidia-smi", "exit 9")
    host.ticks(1, every=1)
    host.gpus(4)
    host.ticks(1, every=1)
    assert host.status()["gpu"] == "failed nvidia-smi does not tell"
    host.gpus(6)
    host.ticks(1, every=1)
    assert host.status()["gpu"] == "6"


def test_status_tells_everything_that_decides(host: IdleHost) -> None:
    """One line a fact, for the probe and for people."""
    host.gpus(1)
    host.ticks(10)
    host.renew(minutes=90, percent=4, hold=60)
    host.pass_time(7)
    assert host.status() == {
        "timer": "on",
        "minutes": "90",
        "percent": "4",
        "hold": "60",
        "renewed": "7",
        "sampled": "7",
        "cpu": "0.200",
        "gpu": "1",
        "terminal": "none",
        "idle": "607",
        "ends": str(86400 - 7),
    }


@pytest.mark.parametrize(
    "lease",
    [("", "1", "0"), ("-2", "1", "0"), ("1.5", "1", "0"), ("60", ".5", "0"), ("60", "1e-3", "0"), ("60", "1", "-5"),
     ("60; reboot", "1", "0"),
        ("08", "1", "0"),
        ("60", "08", "0"),
        ("60", "1", "08"), ("60",)],
)  # fmt: skip
def test_a_lease_that_makes_no_sense_is_refused_and_the_old_one_stands(host: IdleHost, lease: tuple[str, ...]) -> None:
    """Nothing of it reaches a file."""
    before = host.status()
    done = host.run(str(host.timer), "renew", *lease)
    assert (done.returncode, done.stdout.partition(" ")[0]) == (1, "timer=failed")
    assert host.status() == before


def test_another_boot_installs_it_again_and_keeps_the_lease(host: IdleHost) -> None:
    """cloud-init runs it at every boot; what it was renewed with counts, not what it was launched with."""
    host.renew(minutes=777)
    for _ in range(2):
        booted(host)
        assert host.status()["minutes"] == "777"


def test_nothing_but_the_lease_is_left_on_the_disk(host: IdleHost) -> None:
    """An image that is made of the host must not end the instances that are launched from it."""
    host.ticks(5)
    host.renew()
    kept = [
        path.relative_to(host.root)
        for path in host.root.rglob("*")
        if path.is_file() and "flambed" in str(path.relative_to(host.root))
    ]
    assert {str(path) for path in kept if path.parts[0] != "run"} == {"var/lib/cloud/instance/flambed/lease"}


def test_a_host_without_systemd_says_that_it_has_no_timer(tmp_path: Path) -> None:
    """cloud-init logs the failure, and the probe finds no tick."""
    host = IdleHost(tmp_path, "dash")
    host.program("systemctl", "exit 1")
    done = host.install()
    assert (done.returncode, done.stdout) == (1, "timer=failed systemd does not start it\n")
    assert host.status()["timer"] == "failed it has not looked at the host for five minutes"


def test_its_units_are_what_systemd_takes(dash_host: IdleHost) -> None:
    """systemd-analyze exits 0 for unknown keys, so it must also be silent."""
    units = sorted((dash_host.root / "run/systemd/system").iterdir())
    assert [unit.name for unit in units] == ["flambed-idle.service", "flambed-idle.timer"]
    verify = [real_part("systemd-analyze", "systemd"), "verify", "--man=no", *map(str, units)]
    done = subprocess.run(verify, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_command_is_refused(host: IdleHost) -> None:
    """It says where to read."""
    done = host.run(str(host.timer), "end")
    assert (done.returncode, done.stdout) == (
        1,
        "timer=failed usage: idle-timer install|tick|renew|status; see its first lines\n",
    )
