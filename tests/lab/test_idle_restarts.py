"""A service that dies and starts again, all the time: no host in use is ended because of it, and no idle one lives longer.

An ordinary run is a short one; `make idle-soak` lives through 200 host-hours, ten hours with twenty hosts in use.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.lab.idling import BEFORE, WITHIN, Idling, Use, idling

SOAK = float(os.environ.get("IDLE_SOAK", "0"))
"""Minutes of the lab; 0: an ordinary run."""

MINUTES = SOAK or 110.0
EACH = 5 if SOAK else 2
"""Hosts of each kind of use."""

T = 30 if SOAK else 20
"""Minutes of the timeout."""

PROBED = 5.0
"""Minutes that may pass before a probe sees that a use has ended."""

MINUTE = 0.25  # real seconds


def restarts(it: Idling, until: float, dice: random.Random) -> list[str]:
    """Kill or stop the service and start it again, up to a minute of the lab; return how it was ended each time."""
    ends = []
    while it.now() < until:
        it.service.prepare()
        it.rest(dice.uniform(0.0, 6.0))
        ends.append(dice.choice(["kill", "stop"]))
        (it.service.kill if ends[-1] == "kill" else it.service.stop)()
        it.service.start()
    return ends


@pytest.mark.timeout(600)
@pytest.mark.idle("daemon restarted", "votes", "AWS/ accepted", "AWS/ refused")
@pytest.mark.parametrize("namespace", ["accept", "refuse"])
def test_hosts_in_use_outlive_a_service_that_restarts_again_and_again_and_idle_ones_end_in_time(namespace: str) -> None:
    """By CPU, by GPU with the CPU at nothing, by a person who types, by a hold; whatever use ends, the host ends T later."""
    dice = random.Random(5)
    kinds: tuple[Use, ...] = ("cpu", "gpu", "typing")
    with idling(MINUTE, namespace=namespace) as it:
        names = it.up(factories_num=len(kinds) * EACH + 2, factories_type="g4dn.xlarge", factories_timeout=T / 60)
        hosts = [names[f"factory_{number}"] for number in range(len(kinds) * EACH + 2)]
        uses = {kind: [hosts.pop() for _ in range(EACH)] for kind in kinds}
        for kind, instances in uses.items():
            it.use(kind, *instances)
        began = it.now()
        held = [i for n, i in it.up("held", factories_num=EACH, factories_timeout=T / 60).items() if "factory" in n]
        assert it.service.ctl("hold", "held", "--for", "24h", "--why", "a night without anybody").code == 0

        ends = restarts(it, began + MINUTES / 2, dice)
        for instance, at in it.until_ended(hosts, it.now()).items():
            assert T - BEFORE - 5 <= at - began <= T + WITHIN, instance
        in_use = {*held, *(i for instances in uses.values() for i in instances)}
        assert not in_use & it.ended().keys()

        finished = {it.use("nothing", instances[0]): instances[0] for instances in uses.values()}
        in_use -= set(finished.values())
        ends += restarts(it, began + MINUTES, dice)
        ended = it.ended()
        print(
            namespace,
            len(ends),
            MINUTES,
            {i: (at - began) for i, at in ended.items()},
            {i: ended.get(i, 0) - at for at, i in finished.items()},
        )
        for at, instance in finished.items():
            assert T - BEFORE <= ended[instance] - at <= T + PROBED + WITHIN
        assert not in_use & ended.keys()
        assert set(ends) == {"kill", "stop"}
        assert len(it.service.log("service.started")) == len(ends) + 1
