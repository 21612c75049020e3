"""The service, from its settings to its end: build, run, stop."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final

from flambed import __version__, daemonid, desired, journaltool, log, settings, systemd
from flambed.aws import Aws
from flambed.bench import Bench
from flambed.clock import Clock
from flambed.control import Control, SocketError
from flambed.errors import ClusterConfigurationError, FlambedError
from flambed.fleet import MADE_ANEW, Fleet
from flambed.journal import Journal
from flambed.keys import KeyStore
from flambed.knownregions import KnownRegions
from flambed.outputs import Outputs
from flambed.service import Service
from flambed.settings import Settings
from flambed.supervision import Supervised
from flambed.systemd import Manager
from flambed.tasks import end, supervise

LAST_END: Final = "last-end"
"""The file of the state folder in which the unit's ExecStopPost= says how the service ended."""


async def serve(config: Settings, source: Path | None, read: Callable[[], Settings]) -> None:
    """Run the service until it is told to stop.

    Args:
        config: the settings.
        source: the file that they come from.
        read: reads them again, at a SIGHUP.
    """
    manager = Manager(os.environ)
    systemd.use_credentials(os.environ)
    emit = log.configure(config.log.format, config.log.level)
    emit.emit("service.configured", source=str(source) if source else None, settings=settings.flat(config))
    state = settings.state_path(config, os.environ)
    if (result := systemd.earlier_end(state / LAST_END)) is not None:
        emit.emit("service.ended_badly", result=result)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as open_:
        open_.callback(emit.flush)
        _run(open_, emit.count, emit, "repeated lines")
        if manager.watchdog is not None:
            _run(open_, partial(manager.feed, manager.watchdog), emit, "watchdog")
        manager.status("reading the journal")
        kept = daemonid.read(state)
        journal = Journal.open(state / "journal.sqlite", daemon_id=kept[0] if kept else None)
        open_.push_async_callback(journal.close)
        emit.emit("journal.opened", path=str(journal.path), daemon_id=journal.daemon_id)
        earlier = daemonid.keep(state, journal.daemon_id, kept)
        clock = Clock.from_environ(os.environ)
        if journal.new and (kept or config.predecessors):
            journal.memory[MADE_ANEW] = str(clock.now())
        aws = Aws()
        open_.push_async_callback(aws.close)
        bench = Bench(
            settings=config,
            daemon=journal.daemon_id,
            memory=journal.memory,
            keys=KeyStore(state),
            outputs=Outputs(state),
            ssh_slots=asyncio.Semaphore(config.ssh.parallel),
            predecessors=frozenset({*config.predecessors, *earlier}),
        )
        fleet = Fleet(aws=aws, bench=bench, journal=journal, clock=clock, log=emit, known_regions=KnownRegions(state))
        open_.push_async_callback(fleet.close)
        await fleet.start()
        service = Service(fleet, bench=bench, journal=journal, clock=fleet.clock)
        control = Control(service, rules=bench.access, emit=emit.emit)
        open_.push_async_callback(control.close)
        await control.start(_where(manager, config))
        supervised = Supervised(
            manager, bench=bench, fleet=fleet, journal=journal, control=control, log=emit, read=read
        )
        _run(open_, fleet.run, emit, "forgetting")
        emit.emit("service.started", version=__version__, state_dir=str(state))
        manager.ready(supervised.status)
        _run(open_, supervised.tell, emit, "status")
        # Where there is a terminal, a hang-up means that it is gone, and a service that nobody sees any more should end.
        loop.add_signal_handler(signal.SIGHUP, stop.set if sys.stdin.isatty() else supervised.reload)
        await stop.wait()
        emit.emit("service.stopping", why="signal")
        manager.stopping("stopping: what is under way is awaited, clusters go on")
    emit.emit("service.stopped")


def _run(until: AsyncExitStack, work: Callable[[], Awaitable[None]], emit: log.Log, name: str) -> None:
    """Run what should never end, until a stack is left."""

    def crashed(error: BaseException, _pause: float) -> None:
        emit.emit("loop.crashed", error=f"{name}: {error!r}", traceback=error)

    until.push_async_callback(end, asyncio.create_task(supervise(work, crashed), name=name))


def _where(manager: Manager, config: Settings) -> Path | int:
    """Return where the control socket is: the descriptor that systemd passed on, else a path.

    Raises:
        SocketError: systemd passed on several.
    """
    if len(manager.descriptors) > 1:
        raise SocketError(
            f"systemd passed on {len(manager.descriptors)} sockets: flambed.socket needs one ListenStream"
        )
    return manager.descriptors[0] if manager.descriptors else settings.socket_path(config, os.environ, os.geteuid())


def main(argv: Sequence[str] | None = None) -> int:
    """Run `flambed`; return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["lab"]:
        return _lab(arguments[1:])
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "schema":
        if options.of is None:
            parser.error("schema: choose cluster, settings or events")
        return _schema(options.of)
    try:
        if options.command == "journal":
            return journaltool.main(options)
        read = partial(settings.load, options.config, os.environ, socket=options.socket, state_dir=options.state_dir)
        config = read()
        faulthandler.enable()  # systemd's watchdog sends SIGABRT: the log tells where the loop is stuck
        asyncio.run(serve(config, settings.file_of(options.config, os.environ), read))
    except ClusterConfigurationError as error:
        print(f"flambed: {error}", file=sys.stderr)  # noqa: T201 - there is no log yet
        return 2
    except FlambedError as error:
        print(f"flambed: {error}", file=sys.stderr)  # noqa: T201 - the service cannot run, and this is why
        return 1
    return 0


def _schema(of: str) -> int:
    shown = {"cluster": desired.schema, "settings": settings.schema, "events": log.schema}[of]
    try:
        print(json.dumps(shown(), indent=2, ensure_ascii=False), flush=True)  # noqa: T201 - that is what was asked for
    except BrokenPipeError:  # its reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush complains
        return 1
    return 0


def _lab(arguments: list[str]) -> int:
    from flambed import lab  # noqa: PLC0415 - an extra that a bastion does not install

    try:
        return lab.main(arguments)
    except ModuleNotFoundError as error:
        print(f"flambed: the lab needs {error.name}: pip install 'flambed[lab]'", file=sys.stderr)  # noqa: T201
        return 2


def _absolute(text: str) -> Path:
    return Path(text).absolute()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flambed", description="The service. `flambectl` speaks to it.")
    parser.add_argument("--version", action="version", version=f"flambed {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run the service in the foreground")
    run.add_argument(
        "--config", type=Path, metavar="FILE", help="settings; else $FLAMBED_CONFIG, else /etc/flambed/flambed.yaml"
    )
    run.add_argument("--state-dir", type=_absolute, metavar="DIR", help="where keys and journal are kept")
    run.add_argument("--socket", type=_absolute, metavar="PATH", help="where the control socket is opened")
    journaltool.add_parser(commands)
    commands.add_parser("lab", help="run a pretend AWS with pretend hosts", add_help=False)
    schema = commands.add_parser("schema", help="print a JSON Schema")
    schema.add_argument(
        "of", nargs="?", choices=("cluster", "settings", "events"), metavar="WHAT", help="cluster, settings or events"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
