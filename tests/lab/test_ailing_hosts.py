"""Hosts on which something is missing or broken: probe and timer say what they cannot do, and idle ones end all the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.idling import WITHIN, Idling, idling

MINUTE = 0.4  # real seconds
T = 60
"""Minutes of the timeout: a signal that is not known is told of at the second probe, five minutes after the first."""


@pytest.fixture(scope="module")
def it() -> Iterator[Idling]:
    """A service and a lab for all that does not end anybody."""
    with idling(MINUTE) as opened:
        yield opened


def ail(it: Idling, instance: str, kind: str, **fault: str) -> None:
    """Break something on a host."""
    it.lab.fault({"kind": kind, "instance": instance, **fault})


def told(it: Idling, name: str, instance: str) -> dict[str, str]:
    """What `flambectl why` is answered about a host, by signal."""
    [host] = it.service.api("GET", f"/v1/clusters/{name}/why?host={instance}").document["hosts"]
    return {signal["signal"]: str(signal["value"]) for signal in host["signals"]}


def unknown(it: Idling, instance: str, signal: str) -> str:
    """Wait until the log tells that a host cannot tell a signal; why."""
    [line] = it.service.until_logged("instance.signal_unknown", instance=instance, signal=signal)
    assert line["level"] == "warning"
    return str(line["why"])


@pytest.mark.idle("votes", "dead-man's timer")
def test_hosts_that_lack_something_say_so_and_end_when_they_are_idle_all_the_same() -> None:
    """No GPU behind an image for GPUs, a broken driver, no stat, a full disk, a read-only root: none of it is use."""
    with idling(MINUTE) as it:
        plain = it.up("plain", factories_num=2, factories_type="t3.large", factories_timeout=T / 60)
        image, stat = plain["factory_0"], plain["factory_1"]
        ready = it.now()
        driven = it.up("gpu", factories_num=3, factories_type="g4dn.xlarge", factories_timeout=T / 60)
        driver, full, read_only = (driven[f"factory_{number}"] for number in range(3))
        idle = it.now()
        ail(it, image, "driver")
        ail(it, driver, "driver")
        it.use("forgotten", stat)
        ail(it, stat, "lack", program="stat")
        ail(it, full, "disk", state="full")
        ail(it, read_only, "disk", state="read_only")

        assert unknown(it, driver, "gpu") == "nvidia-smi does not tell", "as its timer, which looked, says"
        assert unknown(it, stat, "terminal") == "stat does not tell"
        assert told(it, "gpu", driver)["gpu"] == "not known: nvidia-smi does not tell"
        assert told(it, "plain", stat)["terminal"] == "not known: stat does not tell"
        assert told(it, "plain", image)["gpu"] == "none"
        for instance in (full, read_only):
            assert "renewal" not in told(it, "gpu", instance)
            files = it.lab.instance(instance)["host"]["files"]
            assert "/run/flambed/lease" in files, "kept in memory, where the disk takes nothing"
        quiet = {line["instance"] for line in it.service.log("instance.signal_unknown")}
        assert quiet == {driver, stat}

        ended = it.until_ended([image, stat, driver, full, read_only], idle + T + WITHIN)
        assert {
            instance: at for instance, at in ended.items() if not ready + T - WITHIN <= at <= idle + T + WITHIN
        } == {}
        assert {it.ended_by(instance) for instance in ended} == {"alarm"}
        assert it.service.log("instance.probe_failed", "instance.mute") == []


@pytest.mark.idle("-1", "timeout changed on a live cluster")
def test_a_timeout_of_never_that_a_full_disk_does_not_keep_is_told_until_the_timer_has_it(it: Idling) -> None:
    """It has to outlive a reboot, so that memory is not enough: `why` and the log say what is in the way, and its end."""
    names = it.up("never", factories_num=1, factories_timeout=T / 60)
    host = names["factory_0"]
    it.service.until_logged("instance.timer_seen", instance=host, state="renewed")
    ail(it, host, "disk", state="full")
    it.up("never", factories_num=1, factories_timeout=-1)
    assert "the lease cannot be stored" in unknown(it, host, "timer")
    assert "the lease cannot be stored" in told(it, "never", host)["renewal"]
    assert "renewal: fails: the lease cannot be stored" in it.service.ctl("why", "never", host).stdout
    it.lab.clear_faults()
    it.service.until_logged("instance.timer_seen", instance=host, state="off")
    it.service.until_logged("instance.signal_known", instance=host, signal="timer")
    assert it.lab.instance(host)["state"] == "running"
    assert "renewal" not in told(it, "never", host)


@pytest.mark.idle("votes", "host mute and no CPU data")
def test_a_probe_that_fails_is_told_long_before_its_host_is_mute_and_so_is_its_end(it: Idling) -> None:
    """No shell that would run it: `why` says so from the first time on, the log at the second, and neither says more."""
    names = it.up("failing", factories_num=2, factories_timeout=8)
    short, mute = names["factory_0"], names["factory_1"]
    for host in (short, mute):
        it.service.until_logged("instance.timer_seen", instance=host)
        ail(it, host, "lack", program="sh")
    [failed] = it.service.until_logged("instance.probe_failed", instance=short)
    assert (failed["level"], failed["cluster"]) == ("warning", "failing")
    assert "the probe ended with 127" in failed["why"]
    assert "the probe ended with 127" in told(it, "failing", short)["probe"]
    assert it.service.log("instance.mute") == []
    it.lab.clear_faults()
    ail(it, mute, "lack", program="sh")
    [recovered] = it.service.until_logged("instance.probe_recovered", instance=short)
    assert recovered["failures"] >= 2
    assert "probe" not in told(it, "failing", short)

    it.service.until_logged("instance.mute", instance=mute)
    it.lab.clear_faults()
    it.service.until_logged("instance.heard", instance=mute)
    for event in ("instance.probe_failed", "instance.mute", "instance.heard"):
        assert len([line for line in it.service.log(event) if line["instance"] == mute]) == 1, event
    assert not it.ended()
