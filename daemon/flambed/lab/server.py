"""The lab's process: its options, its parts and how they are put together, its beginning and its end."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moto.moto_api._internal import mock_random
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from flambed.lab import images, instance_types, world
from flambed.lab.bus import Bus
from flambed.lab.clock import Clock
from flambed.lab.cloud import Cloud
from flambed.lab.control import Control
from flambed.lab.describe import Describe
from flambed.lab.fault_kinds import SkewFault
from flambed.lab.faults import Faults
from flambed.lab.fleet import Delays, Fleet
from flambed.lab.gate import Gate
from flambed.lab.hosting import Hosting
from flambed.lab.hosts import Hosts
from flambed.lab.launches import Launches
from flambed.lab.ledger import Ledger
from flambed.lab.quotas import Quotas
from flambed.lab.strikes import Strikes
from flambed.lab.timers import Timers
from flambed.lab.watch import Watch
from flambed.lab.wsgi import Environ, Server, StartResponse


@dataclass(frozen=True)
class Options:
    """The switches of `flambed lab`."""

    port: int
    seed: int
    boot: float
    ssh_delay: float
    shutdown: float
    visible: float
    minute: float
    latency: float
    quotas: bool
    events: bool
    aws_namespace: Literal["accept", "refuse"]
    until_eof: bool


def parse(argv: Sequence[str] | None) -> Options:
    """Options from the command line."""
    parser = argparse.ArgumentParser(
        prog="flambed lab",
        description="A pretend AWS with pretend hosts on loopback addresses. Prints one JSON line when it is ready.",
    )

    def add(name: str, text: str, default: Any, **more: Any) -> None:
        parser.add_argument(name, help=f"{text} (default {default})", default=default, **more)

    seconds = {"type": _seconds, "metavar": "SECONDS"}
    add("--port", "TCP port of the endpoint; 0 takes a free one", 0, type=int)
    add("--seed", "what ids, delays and chances are drawn from", 0, type=int)
    add("--boot", "the longest time from a launch to running", 0.0, **seconds)
    add("--ssh-delay", "the longest time from running to an open SSH port", 0.2, **seconds)
    add("--shutdown", "the time from shutting-down to terminated", 0.5, **seconds)
    add("--visible", "how long a terminated instance is still described", 3600.0, **seconds)
    add("--minute", "how long one minute of CloudWatch, and of the hosts' own clocks, lasts", 60.0, **seconds)
    add("--latency", "delay of every call", 0.0, **seconds)
    add("--quotas", "AWS's request quotas", "on", choices=["on", "off"])
    add("--events", "state-change events", "on", choices=["on", "off"])
    add("--aws-namespace", "what becomes of metric data for AWS/ namespaces", "accept", choices=["accept", "refuse"])
    parser.add_argument("--until-eof", action="store_true", help="end when stdin does, as a parent's death makes it")
    arguments = vars(parser.parse_args(argv))
    return Options(**{**arguments, **{name: arguments[name] == "on" for name in ("quotas", "events")}})


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return value


def run(argv: Sequence[str] | None) -> int:
    """The lab from its command line to its end."""
    options = parse(argv)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each host has a listening socket
    try:
        return asyncio.run(_serve(options))
    except PortTakenError as error:
        print(f"flambed lab: {error}", file=sys.stderr)  # noqa: T201  # the error of a command line
        return 1


async def _serve(options: Options) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def end(code: int) -> None:
        if not ended.done():
            ended.set_result(code)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, 0)
    _end_on_bugs(loop, end)
    if options.until_eof:
        loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(sys.stdin.fileno(), 4096) else end(0))
    with tempfile.TemporaryDirectory(prefix="flambed-lab-") as folder:
        lab = assemble(options, loop)
        ssh_port = await lab.hosts.start()
        try:
            with _serving(lab.server, lab.timers):
                key, public_key = world.make_key(Path(folder))
                with lab.lock:
                    regions = {
                        name: world.build(name, public_key=public_key, endpoint=lab.server.url)
                        for name in world.REGIONS
                    }
                    world.build_role()
                info = {
                    "endpoint": lab.server.url,
                    **world.summary(regions),
                    "key": str(key),
                    "ssh_port": ssh_port,
                    "minute": options.minute,
                }
                print(json.dumps(info), flush=True)  # noqa: T201  # this line is the lab's answer
                return await ended
        finally:
            await lab.hosts.close()


class PortTakenError(Exception):
    """Somebody else listens on the port that the lab was given."""


@dataclass(frozen=True)
class Lab:
    """The parts that have a beginning and an end."""

    server: Server
    timers: Timers
    hosts: Hosts
    lock: threading.RLock


def assemble(options: Options, loop: asyncio.AbstractEventLoop) -> Lab:
    """Make the parts of the lab, know each other, and take hold of moto. Nothing runs yet."""
    mock_random.seed(options.seed)
    lock = threading.RLock()
    clock = Clock(options.minute)
    timers = Timers(lock)
    faults = Faults()
    bus = Bus(lock=lock, timers=timers, faults=faults, enabled=options.events)
    fleet: Fleet
    strikes: Strikes
    hosts = Hosts(on_poweroff=lambda i: fleet.poweroff(i), seed=options.seed, clock=clock)  # noqa: PLW0108  # made below
    hosting = Hosting(hosts, loop)
    delays = Delays(options.boot, options.ssh_delay, options.shutdown, options.visible)
    fleet = Fleet(timers=timers, bus=bus, hosting=hosting, delays=delays, seed=options.seed)
    describe = Describe(fleet=fleet, faults=faults)
    launches = Launches(fleet=fleet, faults=faults, describe=describe, launched=lambda r: strikes.launched(r))  # noqa: PLW0108  # made below
    cloud = Cloud(fleet=fleet, faults=faults, launches=launches, describe=describe, hosting=hosting)
    watch = Watch(
        clock,
        lock=lock,
        namespaces=options.aws_namespace,
        terminate=cloud.terminate,
        instance_state=cloud.instance_state,
        monitored=cloud.monitored,
        announce=bus.alarm_state,
        seed=options.seed,
    )
    strikes = Strikes(faults, fleet, hosting, watch)
    for part in (bus, cloud, watch, images, instance_types):
        part.install()
    timers.every(clock.real(60), watch.tick)
    ledger = Ledger()
    aws = Gate(
        DomainDispatcherApplication(create_backend_app),
        ledger=ledger,
        faults=faults,
        quotas=Quotas() if options.quotas else None,
        latency=options.latency,
        lock=lock,
    )
    control = Control(ledger, fleet, strikes, watch, hosting, lock)

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return (control if environ["PATH_INFO"].startswith("/lab/") else aws)(environ, start_response)

    try:
        server = Server(options.port, application, lambda: sum(fault.seconds for fault in faults.of(SkewFault)))
    except OSError as error:
        raise PortTakenError(f"cannot listen on port {options.port}: {error.strerror}; choose another --port") from None
    return Lab(server, timers, hosts, lock)


@contextmanager
def _serving(server: Server, timers: Timers) -> Iterator[None]:
    """HTTP and timers in threads of their own, while the context lasts."""
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="lab-http", daemon=True).start()
    timers.start()
    try:
        yield
    finally:
        timers.close()
        server.shutdown()
        server.server_close()


def _end_on_bugs(loop: asyncio.AbstractEventLoop, end: Callable[[int], None]) -> None:
    """A bug in a thread or a callback ends the lab with code 1, instead of leaving half of it running."""

    def in_loop(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        end(1)

    def in_thread(bug: threading.ExceptHookArgs) -> None:
        sys.excepthook(bug.exc_type, bug.exc_value or bug.exc_type(), bug.exc_traceback)
        loop.call_soon_threadsafe(end, 1)

    loop.set_exception_handler(in_loop)
    threading.excepthook = in_thread
