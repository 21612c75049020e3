"""The service under a real systemd: its start, its socket, a reload, a crash, a hang, its end, and its log."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.real.bastion import SETTINGS, Bastion


def test_the_operators_page_leads_to_a_running_service(bastion: Bastion) -> None:
    """Its commands, one after the other on a bare machine, end with a service that systemd and `doctor` call well."""
    assert "Active: active (running)" in bastion.page
    assert 'Status: "0 clusters"' in bastion.page
    assert bastion.machine.run("systemctl", "is-enabled", "flambed.socket", "flambed.service").stdout.split() == [
        "enabled",
        "enabled",
    ]
    assert bastion.ctl("root", "doctor").returncode == 0


def test_the_installation_can_be_put_elsewhere_for_a_package(bastion: Bastion) -> None:
    """With DESTDIR nothing names it: programs and unit speak of PREFIX alone, and everything has its place below it."""
    put = "make -C /usr/src/flambed install-service DESTDIR=/tmp/package PREFIX=/usr/lib/flambed"
    bastion.machine.sh(
        f"{put} > /dev/null; mkdir -p /usr/lib/flambed; cp -a /tmp/package/usr/lib/flambed/. /usr/lib/flambed/"
    )
    head = bastion.machine.sh("head -qn 1 /tmp/package/usr/lib/flambed/bin/{flambed,flambectl}")
    assert set(head.split()) == {"#!/usr/lib/flambed/bin/python"}
    unit = bastion.machine.sh("cat /tmp/package/usr/local/lib/systemd/system/flambed.service")
    assert "PATH=/usr/lib/flambed/bin:" in unit
    assert "/opt/flambed" not in unit
    files = bastion.machine.sh("cd /tmp/package; find etc usr/local -type f -o -type l").split()
    assert sorted(files) == [
        "etc/flambed/flambed.yaml",
        "usr/local/bin/flambectl",
        "usr/local/lib/systemd/system/flambed.service",
        "usr/local/lib/systemd/system/flambed.socket",
        "usr/local/lib/sysusers.d/flambed.conf",
        "usr/local/lib/tmpfiles.d/flambed.conf",
    ]
    assert bastion.machine.run("/usr/lib/flambed/bin/flambed", "--version").stdout.startswith("flambed ")


def test_the_installed_service_is_confined(bastion: Bastion) -> None:
    """systemd itself, asked about the loaded unit, calls its exposure 1.5 or less; it has no capability at all."""
    bastion.machine.run("systemd-analyze", "--no-pager", "security", "--threshold=15", "flambed.service")
    status = bastion.machine.run("cat", f"/proc/{bastion.main_pid}/status").stdout
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status


def test_credentials_that_root_alone_can_read_reach_the_service(bastion: Bastion) -> None:
    """The calls that AWS sees are signed with the key of the page; the file is root's, and the service has its own copy."""
    assert bastion.machine.sh("stat -c '%U %a' /etc/credstore/flambed.aws").split() == ["root", "600"]
    copy = "/run/credentials/flambed.service/flambed.aws"
    assert bastion.machine.sh(f"stat -c '%U %a' {copy}").split() == ["flambed", "400"]
    assert "AKIAEXAMPLEEXAMPLE00" in bastion.machine.run("cat", copy).stdout


def test_the_service_has_started_once_it_answers(bastion: Bastion) -> None:
    """When `systemctl restart` returns, a client is answered at once, and the status line is there."""
    for _ in range(3):
        bastion.systemctl("restart", "flambed")
        assert bastion.status == "0 clusters"
        assert bastion.ctl("bob", "list").stdout == "no clusters\n"


def test_a_client_starts_a_service_that_was_stopped(bastion: Bastion) -> None:
    """The socket is there without the service: who connects waits until it runs, and is answered by name."""
    bastion.systemctl("stop", "flambed.service")
    assert bastion.machine.show("ActiveState") == "inactive"
    assert bastion.machine.sh("stat -c '%F %a' /run/flambed/control.sock").strip() == "socket 666"
    answered = bastion.ctl("bob", "list")
    assert (answered.returncode, answered.stdout) == (0, "no clusters\n")
    assert bastion.machine.show("ActiveState") == "active"


def test_no_client_is_refused_while_the_service_restarts(bastion: Bastion) -> None:
    """Clients that ask without pause see three restarts as nothing but a wait."""
    before = bastion.machine.sh("stat -c %i /run/flambed/control.sock")
    with bastion.knocking() as told:
        for _ in range(3):
            bastion.systemctl("restart", "flambed")
    assert set(told) == {"HTTP/1.1 200 OK"}, told
    assert told.total() >= 16, "eight clients, each of whom saw the service more than once"
    assert bastion.machine.sh("stat -c %i /run/flambed/control.sock") == before, "it is the very same socket"


def test_a_service_that_is_killed_is_back_and_says_so(bastion: Bastion) -> None:
    """SIGKILL: systemd starts it again, its log tells of it, and who asks meanwhile waits."""
    first = bastion.main_pid
    with bastion.machine.journal() as until:
        bastion.kill("KILL")
        answered = bastion.ctl("bob", "list")
        told = until("service.ended_badly")
    assert answered.returncode == 0, answered
    assert told["result"] == "signal"
    assert bastion.main_pid != first
    assert bastion.machine.show("NRestarts") == "1"


def test_a_service_that_hangs_is_restarted_by_the_watchdog(bastion: Bastion) -> None:
    """A loop that does not turn feeds nobody: systemd ends it, the journal shows where it was, and the next start tells."""
    bastion.drop_in("test", "Service", WatchdogSec="2s")
    bastion.systemctl("daemon-reload")
    bastion.systemctl("restart", "flambed")
    first = bastion.main_pid
    with bastion.machine.journal() as until:
        bastion.kill("STOP")
        told = until("service.ended_badly")
    assert told["result"] == "watchdog"
    assert bastion.ctl("bob", "list").returncode == 0
    traced = bastion.machine.run("journalctl", "--no-pager", "-o", "cat", f"_PID={first}").stdout
    assert "Fatal Python error: Aborted" in traced
    assert "in serve" in traced or "in run_forever" in traced


def test_a_loop_that_is_blocked_in_a_live_process_is_restarted_and_who_waits_is_answered(bastion: Bastion) -> None:
    """The loop reads a file that never comes, as on a disk that hangs; only the request that met it is lost."""
    file = bastion.file("alice", "stuck", creator="alice", setup_cmds=["echo kept"])
    assert bastion.ctl("alice", "up", file).returncode == 0
    bastion.drop_in("test", "Service", WatchdogSec="2s")
    bastion.systemctl("daemon-reload")
    bastion.systemctl("restart", "flambed")
    first = bastion.main_pid
    [kept] = bastion.machine.sh("ls -d /var/lib/flambed/outputs/*/i-* | head -n 1").split()
    with (
        bastion.machine.journal() as until,
        bastion.machine.hung_file(f"{kept}/9-0.json", "flambed") as reached,
        bastion.asking("alice", "logs", "stuck") as unlucky,
    ):
        reached()
        state = bastion.machine.run("ps", "-o", "stat=", "-p", str(first)).stdout
        with bastion.asking("bob", "list") as patient:
            told = until("service.ended_badly")
            listed, said = patient.communicate(timeout=60)
        _, lost = unlucky.communicate(timeout=60)
    assert state.startswith("S"), "it was alive, and waited"
    assert told["result"] == "watchdog"
    assert (patient.returncode, said) == (0, "")
    assert "stuck" in listed
    assert unlucky.returncode == 3, lost
    assert bastion.main_pid != first
    assert bastion.ctl("alice", "logs", "stuck").returncode == 0
    traced = bastion.machine.run("journalctl", "--no-pager", "-o", "cat", f"_PID={first}").stdout
    assert "Fatal Python error: Aborted" in traced
    assert "outputs.py" in traced, "the journal shows what the loop was at"


def test_a_service_that_turns_is_left_alone_by_the_watchdog(bastion: Bastion) -> None:
    """Fed at half its interval: five intervals later it is the same process."""
    bastion.drop_in("test", "Service", WatchdogSec="1s")
    bastion.systemctl("daemon-reload")
    bastion.systemctl("restart", "flambed")
    first = bastion.main_pid
    bastion.machine.run("timeout", "5", "tail", "--pid", str(first), "-f", "/dev/null", check=False)
    assert bastion.main_pid == first


def test_a_reload_applies_what_it_can_and_names_the_rest(bastion: Bastion) -> None:
    """log.level and the admin group change under the running service; the port needs a restart; bad settings change nothing."""
    first = bastion.main_pid
    settings = bastion.machine.read(SETTINGS)
    changed = settings.replace("admin_group: flambed-admin", "admin_group: bob").replace(
        "gpu_percent: 5", "gpu_percent: 6"
    )
    assert bastion.ctl("bob", "gc", "--plan").returncode == 4
    with bastion.machine.journal() as until:
        bastion.machine.write(SETTINGS, changed)
        bastion.systemctl("reload", "flambed")
        told = until("service.reloaded")
        assert told["changed"] == {"admin_group": "flambed-admin -> bob"}
        assert told["restart"] == ["idle.gpu_percent"]
        assert bastion.ctl("bob", "gc", "--plan").returncode == 0
        assert bastion.status == "0 clusters; a restart is needed for idle.gpu_percent"

        bastion.machine.write(SETTINGS, changed + "\nnonsense: 1\n")
        bastion.systemctl("reload", "flambed")
        assert "nonsense" in until("service.reload_refused")["message"]
        assert bastion.ctl("bob", "gc", "--plan").returncode == 0, "what applied goes on to apply"
    assert bastion.main_pid == first
    assert bastion.machine.show("ActiveState") == "active"


def test_bad_settings_end_the_start_and_mended_ones_begin_it(bastion: Bastion) -> None:
    """systemd does not try again what cannot go well; after that a start is a start."""
    settings = bastion.machine.read(SETTINGS)
    bastion.machine.write(SETTINGS, "nonsense: 1\n")
    assert bastion.systemctl("restart", "flambed", check=False) != 0
    assert bastion.machine.show("ExecMainStatus") == "2"
    assert bastion.machine.show("NRestarts") == "0"
    assert "nonsense" in bastion.machine.log()
    bastion.machine.write(SETTINGS, settings)
    bastion.systemctl("start", "flambed")
    assert bastion.ctl("bob", "list").returncode == 0


def test_stopping_awaits_a_launch_that_is_under_way_and_touches_no_cluster(bastion: Bastion) -> None:
    """RunInstances takes 4 s; stopped in the middle of it, the service writes its answer down, and never calls it again."""
    before = len(bastion.calls("RunInstances"))
    bastion.fault({"kind": "latency", "seconds": 4.0, "action": "RunInstances"})
    file = bastion.file("alice", "drained", creator="alice")
    with bastion.machine.journal() as until:
        assert bastion.ctl("alice", "up", file, "--detach").returncode == 0
        until("launch.intended")
        bastion.systemctl("stop", "flambed.service")
        until("service.stopped")
        bastion.systemctl("start", "flambed.service")
        assert until("cluster.phase_changed")
    done = bastion.ctl("alice", "up", file)
    assert done.returncode == 0, done
    assert bastion.status == "1 cluster: 1 ready"
    instances = json.loads(bastion.ctl("alice", "status", "drained", "--json").stdout)["instances"]
    assert len(bastion.calls("RunInstances")) == before + 2, "one for the orchestrator, one for the factory"
    bastion.systemctl("restart", "flambed")
    after = json.loads(bastion.ctl("alice", "status", "drained", "--json").stdout)["instances"]
    assert [i["id"] for i in after] == [i["id"] for i in instances]


def test_the_systems_journal_can_be_asked_for_the_logs_fields(bastion: Bastion) -> None:
    """Events are entries with fields and priorities of their own, and as JSON they are what the log always is."""
    bastion.systemctl("restart", "flambed")
    asked = ["journalctl", "--no-pager", "-o", "json", "-u", "flambed", "FLAMBED_EVENT=service.started", "-n", "1"]
    entry = json.loads(bastion.machine.run(*asked).stdout)
    assert json.loads(entry["MESSAGE"])["event"] == "service.started"
    assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"]) == ("6", "flambed")
    assert "FLAMBED_CLUSTER" not in entry, "what is null is left out"
    file = bastion.file("alice", "told", creator="alice")
    assert bastion.ctl("alice", "up", file).returncode == 0
    asked = ["journalctl", "--no-pager", "-o", "json", "FLAMBED_CLUSTER=told", "FLAMBED_EVENT=instance.ready"]
    entries = [json.loads(line) for line in bastion.machine.run(*asked).stdout.splitlines()]
    assert len(entries) == 2, "an orchestrator and a factory"
    for entry in entries:
        line = json.loads(entry["MESSAGE"])
        assert (line["cause"], line["instance"]) == (int(entry["FLAMBED_CAUSE"]), entry["FLAMBED_INSTANCE"])


@pytest.mark.parametrize("how", ["idle", "never reading"])
def test_a_thousand_connections_that_do_nothing_stop_nobody_else(bastion: Bastion, how: str) -> None:
    """They say nothing, or ask for a stream and read none of it: others are answered, and their user is told what is wrong."""
    first = bastion.main_pid
    assert bastion.ctl("bob", "up", bastion.file("bob", "watched", creator="bob")).returncode == 0
    stream = "GET /v1/events?follow=1 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"
    script = f"""
import socket, sys
crowd = []
for _ in range(1000):
    one = socket.socket(socket.AF_UNIX)
    one.connect("/run/flambed/control.sock")
    try:
        one.sendall(b"{stream if how == "never reading" else ""}")
    except BrokenPipeError:  # it was one too many
        pass
    crowd.append(one)
print("open", flush=True)
sys.stdin.read()
"""
    become = ("setpriv", "--reuid=bob", "--regid=bob", "--init-groups")
    words = bastion.machine.command(*become, "python3", "-c", script)
    with bastion.machine.journal() as until, subprocess.Popen(words, stdin=-1, stdout=-1, text=True) as crowd:
        assert crowd.stdout is not None, "it was asked for"
        assert crowd.stdout.readline() == "open\n"
        assert until("control.crowded")["connections"] == 256
        assert bastion.ctl("alice", "up", bastion.file("alice", "beside", creator="alice")).returncode == 0
        refused = bastion.ctl("bob", "list")
        assert (refused.returncode, "has 256 connections open" in refused.stderr) == (3, True)
        crowd.communicate("")
    assert bastion.ctl("bob", "list").returncode == 0
    assert bastion.main_pid == first
