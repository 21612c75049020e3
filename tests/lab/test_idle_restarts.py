"""A service that dies and starts again, all the time: no host in use is ended because of it, and no idle one lives longer.

An ordinary run lasts an hour of the lab; `make idle-soak` lives through 200 host-hours, ten hours with twenty hosts in use.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.lab.idling import BEFORE, WITHIN, Idling, Use, idling

SOAK = bool(os.environ.get("IDLE_SOAK"))

MINUTE = 1.0 if SOAK else 0.5
"""Real seconds: a start takes one or two minutes of the lab then, and a vote has points for five."""

MINUTES = 640 if SOAK else 55
EACH = 5 if SOAK else 2
"""Hosts of each kind of use; there are four kinds."""

LIFE = 20.0 if SOAK else 10.0
"""Minutes that the service lives at most: after a start it asks all hosts, and one machine that plays them all takes long."""

T = 60 if SOAK else 20
"""Minutes of the timeout."""


def restarts(it: Idling, until: float, dice: random.Random) -> list[str]:
    """Kill or stop the service and start it again, up to a minute of the lab; return how it was ended each time."""
    ends = []
    while it.now() < until:
        it.service.prepare()
        it.rest(dice.uniform(0.0, LIFE))
        ends.append(dice.choice(["kill", "stop"]))
        (it.service.kill if ends[-1] == "kill" else it.service.stop)()
        it.service.start()
    return ends


@pytest.mark.timeout(1200)
@pytest.mark.idle("daemon restarted", "votes", "AWS/ accepted")
@pytest.mark.parametrize("namespace", ["accept", "refuse"] if SOAK else ["accept"])
def test_hosts_in_use_outlive_a_service_that_restarts_again_and_again_and_idle_ones_end_in_time(namespace: str) -> None:
    """By CPU, by GPU with the CPU at nothing, by a person who types, by a hold; when the CPU's ends, T counts from there."""
    dice = random.Random(5)
    kinds: tuple[Use, ...] = ("cpu", "gpu", "typing")
    with idling(MINUTE, namespace=namespace) as it:
        number = len(kinds) * EACH + 2
        names = it.up(factories_num=number, factories_type="g4dn.xlarge", factories_timeout=T / 60)
        idle_from = it.now()
        hosts = [names[f"factory_{index}"] for index in range(number)]
        uses = {kind: [hosts.pop() for _ in range(EACH)] for kind in kinds}
        for kind, instances in uses.items():
            it.use(kind, *instances)
        held = it.up("held", factories_num=EACH, factories_timeout=T / 60)
        assert it.service.ctl("hold", "held", "--for", "24h", "--why", "a night without anybody").code == 0
        it.service.until_logged("instance.vote_began", count=2 * EACH)
        in_use = {held[f"factory_{index}"] for index in range(EACH)}.union(*uses.values())

        metric = {"AWS/EC2" if namespace == "accept" else "Flambed/EC2"}
        number += EACH
        # Alarms go at three a second, real ones, also on this clock.
        it.lab.until(lambda: [a["Namespace"] for a in it.lab.alarms()] == [*metric] * number, within=60.0)

        began = it.now()
        ends = restarts(it, began + MINUTES - T - WITHIN, dice)
        assert not in_use & it.ended().keys()
        finished = {host: it.use("nothing", host) for host in uses["cpu"][:1]}
        in_use -= finished.keys()
        ends += restarts(it, began + MINUTES, dice)
        assert not in_use & it.ended().keys()
        assert set(ends) == {"kill", "stop"}
        assert len(it.service.log("service.started")) == len(ends) + 1

        ended = it.until_ended([*hosts, *finished], it.now())
        # They became ready before `up` was over; a metric that had to be changed was seeded, which begins their time anew.
        assert all(idle_from + T - 5 <= ended[host] <= began + T + WITHIN for host in hosts), (idle_from, began, ended)
        took = {host: ended[host] - at for host, at in finished.items()}
        assert all(T - BEFORE <= minutes <= T + WITHIN for minutes in took.values()), took
        busy = {line["instance"] for line in it.service.log("host.became_busy")}
        assert not busy & {held[f"factory_{index}"] for index in range(EACH)}, "points of ours are no CPU of theirs"
        assert {alarm["Namespace"] for alarm in it.lab.alarms()} == metric
        if SOAK:
            hours = len(in_use) * (it.now() - began) / 60
            waited = sorted(round(ended[host] - idle_from) for host in hosts)
            print(  # noqa: T201 - what the run is for
                f"\nAWS/ {namespace}d: {len(ends)} restarts, {hours:.0f} host-hours in use, nobody ended; "
                f"T is {T}, idle hosts ended after {waited} minutes, one that ceased to be busy after {took}"
            )
