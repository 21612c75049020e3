"""What each command does."""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from flambed.cli import completion as completions
from flambed.cli import leftovers, login, outcome, progress, reasons, show
from flambed.cli.client import ANSWER_SECONDS, Client, cluster_path, find_socket
from flambed.cli.console import Console
from flambed.cli.failure import Exit, FailureError

Run = Callable[[argparse.Namespace, Console], int]

DOCTOR_SECONDS: Final = 180.0  # it asks AWS about everything, in each region
SETTLED: Final = frozenset({"ready", "degraded", "failed", "gone"})

# The modules that read cluster files are imported by the commands that read one: they take a tenth of a second.


def up(args: argparse.Namespace, console: Console) -> int:
    """Bring a cluster to life and show how, until it is ready or is not going to be."""
    from flambed.cli import files  # noqa: PLC0415

    if args.plan:
        return plan(args, console)
    file = files.read(args.file, args.overrides)
    cluster = file.check(key=True)
    assert file.key is not None  # or it would have been a mistake
    client = _client(args)
    first = client.request(
        "PUT",
        cluster_path(f"{cluster.creator}/{cluster.name}"),
        [*(("set", one) for one in file.overrides), *_shrink(args)],
        body=file.text.encode(),
        headers={"Content-Type": "application/yaml", "Flambed-Key": base64.b64encode(file.key).decode()},
        mistake=file.told,
    )
    if args.detach:
        _show_status(first, console, [f"Accepted. Follow it: flambectl watch {show.word(first)}"])
        return Exit.DONE
    try:
        status = progress.follow(console, client, show.reference(first), lambda one: one["phase"] in SETTLED)
    except KeyboardInterrupt:
        raise _interrupted(f"{cluster.name} goes on coming up", show.word(first), down=True) from None
    if status["phase"] == "ready":
        if not console.as_json:
            console.lines(outcome.success(first, status, cluster.factories_num, shrink=args.shrink))
        return Exit.DONE
    outcome.tell_failure(client, status, console)
    return Exit.FAILED


def plan(args: argparse.Namespace, console: Console) -> int:
    """Show what `up` would do."""
    from flambed.cli import files  # noqa: PLC0415

    file = files.read(args.file, args.overrides)
    cluster = file.check(key=False)
    client = _client(args)
    path = cluster_path(f"{cluster.creator}/{cluster.name}")
    found = client.request(
        "PUT",
        path,
        [("plan", "1"), *(("set", one) for one in file.overrides), *_shrink(args)],
        body=file.text.encode(),
        headers={"Content-Type": "application/yaml"},
        mistake=file.told,
    )
    if not console.as_json and file.key_warning is not None:
        console.error(file.located(file.key_warning, "warning: "))
    _print(found, console, show.plan(found, {} if console.as_json else _names(client, path)))
    return Exit.DONE


def validate(args: argparse.Namespace, console: Console) -> int:
    """Check a cluster file without anybody's help; what is wrong with the key file is only a warning here."""
    from flambed.cli import files  # noqa: PLC0415

    file = files.read(args.file, args.overrides)
    warnings = [*file.advice, *([file.key_warning] if file.key_warning else [])]
    if console.as_json:
        told = [
            {"kind": kind, "message": one.message, "line": one.line, "column": one.column, "field": one.field}
            for kind, problems in (("mistake", file.mistakes), ("warning", warnings))
            for one in problems
        ]
        console.document({"file": args.file, "valid": file.cluster is not None, "problems": told})
        return Exit.DONE if file.cluster is not None else Exit.USAGE
    for problem in warnings:
        console.error(file.located(problem, "warning: "))
    cluster = file.check(key=False)
    hosts = show.roles({"Orchestrator": 1, "Factory": cluster.factories_num})
    console.line(f"{args.file}: {cluster.name} is a good cluster file: {hosts}")
    return Exit.DONE


def down(args: argparse.Namespace, console: Console) -> int:
    """Terminate one cluster, or all of them, and wait until they are gone."""
    client = _client(args)
    if args.all:
        live = [one for one in client.get("/v1/clusters") if one["phase"] != "gone"]
        _confirm(args, console, f"Terminate all clusters of everybody, {len(live)} of them?", ())
        accepted = client.request("DELETE", "/v1/clusters", [("all", "1")])
    else:
        status = client.get(cluster_path(args.name))
        where = f"{show.hosts(status)} in {status['region']}"
        _confirm(
            args, console, f"Terminate {status['name']} of {status['creator']} ({where})?", (status["name"], args.name)
        )
        accepted = [client.request("DELETE", cluster_path(show.reference(status)))]
    if args.detach:
        if console.as_json:
            console.document(accepted if args.all else accepted[0])
        else:
            console.lines([f"{one['name']}: termination is under way" for one in accepted] or ["no clusters"])
        return Exit.DONE
    for one in accepted:
        _await_end(client, one, console)
    return Exit.DONE


def list_(args: argparse.Namespace, console: Console) -> int:
    """Show one line a cluster."""
    client = _client(args)
    found = client.get("/v1/clusters")
    if args.names and not console.as_json:
        names = [one["name"] for one in found]
        console.lines([one["name"] if names.count(one["name"]) == 1 else show.reference(one) for one in found])
    else:
        searching = client.get("/v1/health").get("searching")
        _print(found, console, [*show.warnings([searching]), *show.clusters(found, console)])
    return Exit.DONE


def status(args: argparse.Namespace, console: Console) -> int:
    """Show one cluster in full."""
    found = _client(args).get(cluster_path(args.name))
    _print(found, console, show.status(found, console))
    return Exit.DONE


def watch(args: argparse.Namespace, console: Console) -> int:
    """Show one cluster until it is gone or nobody watches any more."""
    progress.follow(console, _client(args), args.name, lambda one: one["phase"] == "gone", in_full=True)
    return Exit.DONE


def events(args: argparse.Namespace, console: Console) -> int:
    """Print events as they come."""
    asked = (("cluster", args.name), ("since", args.since), ("follow", "1" if args.follow else None))
    for event in _client(args).stream("/v1/events", [(name, value) for name, value in asked if value is not None]):
        if event is None:
            continue
        if console.as_json:
            console.document(event, one_line=True)
        elif args.all or event["level"] != "debug":
            console.line(show.event(event))
    if args.follow:
        raise FailureError(Exit.UNREACHABLE, "the service stopped: there are no more events")
    return Exit.DONE


def logs(args: argparse.Namespace, console: Console) -> int:
    """Print the kept output of set-up commands."""
    found = show.in_order(_client(args).get(cluster_path(args.name, "logs"), _host(args)))
    _print(found, console, [line for one in found for line in show.output(one)] or ["no output is kept"])
    return Exit.DONE


def hold(args: argparse.Namespace, console: Console) -> int:
    """Keep idle termination off."""
    try:
        found = _post(args, "hold", {"for": args.duration, "why": args.why})
    except FailureError as failure:  # the service names what it was sent, a person gave options
        message = failure.message.replace("'for'", "--for").replace("'why'", "--why")
        raise FailureError(failure.code, message, failure.details) from failure
    _show_status(found, console, [f"{found['name']} is held until {show.held(found['hold'])}"])
    return Exit.DONE


def release(args: argparse.Namespace, console: Console) -> int:
    """End a hold."""
    found = _post(args, "release", {})
    _show_status(found, console, [f"{found['name']} is not held any more"])
    return Exit.DONE


def why(args: argparse.Namespace, console: Console) -> int:
    """Print why hosts live or end."""
    found = _client(args).get(cluster_path(args.name, "why"), _host(args))
    _print(found, console, reasons.why(found, console))
    return Exit.DONE


def retry(args: argparse.Namespace, console: Console) -> int:
    """Run failed set-up again."""
    found = _post(args, "retry", {"host": args.host} if args.host else {})
    _show_status(found, console, [f"Accepted. Follow it: flambectl watch {args.name}"])
    return Exit.DONE


def trust(args: argparse.Namespace, console: Console) -> int:
    """Pin the host key of a host: the one that was named, or the one that a person confirms."""
    wanted = args.fingerprint
    if wanted is None:
        if not sys.stdin.isatty():
            raise FailureError(
                Exit.USAGE, "nobody can be asked here, as stdin is no terminal: give --fingerprint SHA256:..."
            )
        wanted = _confirmed_key(_post(args, "trust", {"host": args.host}), console)
    found = _post(args, "trust", {"host": args.host, "fingerprint": wanted})
    was = f", in the place of {' and '.join(found['pinned'])}" if found["pinned"] else ""
    _print(found, console, [f"{found['name']} ({found['instance']}): {found['trusted']} is pinned{was}"])
    return Exit.DONE


def _confirmed_key(found: Mapping[str, Any], console: Console) -> str:
    if not found["shown"]:
        raise FailureError(Exit.FAILED, f"{found['name']} shows no host key of a kind that can be pinned")
    shown = str(found["shown"][0])
    pinned = " and ".join(found["pinned"]) or "nothing"
    console.ask(
        f"{found['name']} ({found['instance']}) shows the host key {shown}; pinned is {pinned}.\n"
        "Compare it with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the host itself. "
        "Type yes to pin it: "
    )
    if sys.stdin.readline().strip() != "yes":
        raise FailureError(Exit.INTERRUPTED, "nothing was pinned")
    return shown


def ssh(args: argparse.Namespace, console: Console) -> int:
    """Log in to a host; with --json, only say how."""
    found = _client(args).get(cluster_path(args.name, "ssh"), _host(args))
    if console.as_json:
        console.document(found)
        return Exit.DONE
    return login.run(found, Path(args.key or found["key_path"]).expanduser(), args.remote, os.environ)


def gc(args: argparse.Namespace, console: Console) -> int:
    """Remove what is left over, after showing it; 1 where something could not be removed."""
    client = _client(args, answer=DOCTOR_SECONDS)
    found = client.get("/v1/orphans")
    if args.plan or not console.as_json:
        _print(found, console, leftovers.listed(found, console))
    ripe = [one["id"] for one in found if one["removable"]]
    if args.plan or not ripe:
        return Exit.DONE
    question = f"Remove {leftovers.count([one for one in found if one['removable']])}?"
    _confirm(args, console, question, (), "removed")
    refused = False
    try:
        for told in client.stream("/v1/orphans/remove", body=json.dumps({"ids": ripe}).encode()):
            if told is None:
                continue
            refused = refused or told["outcome"] == "refused"
            if console.as_json:
                console.document(told, one_line=True)
            else:
                console.line(leftovers.told(told))
    except KeyboardInterrupt:
        advice = ["See what is left: flambectl gc --plan"]
        raise FailureError(Exit.INTERRUPTED, "interrupted; what was asked to end does so", advice) from None
    return Exit.FAILED if refused else Exit.DONE


def doctor(args: argparse.Namespace, console: Console) -> int:
    """Print what the service found; 1 where something is not as it must be."""
    found = _client(args, answer=DOCTOR_SECONDS).get("/v1/doctor")
    _print(found, console, show.checks(found, console))
    return Exit.FAILED if any(one["ok"] is False for one in found) else Exit.DONE


def version(args: argparse.Namespace, console: Console) -> int:
    """Print the versions of this program and, where it can be reached, of the service."""
    from importlib import metadata  # noqa: PLC0415 - it takes longer than everything else here

    versions: dict[str, str | None] = {"flambectl": metadata.version("flambed"), "flambed": None}
    try:
        versions["flambed"] = _client(args).get("/v1/health").get("version")
    except FailureError as failure:
        if failure.code is not Exit.UNREACHABLE:
            raise
    _print(versions, console, [f"{name} {number or '(not reached)'}" for name, number in versions.items()])
    return Exit.DONE


def completion(args: argparse.Namespace, console: Console) -> int:
    """Print the completion script of a shell."""
    script = completions.script(args.shell)
    _print({"shell": args.shell, "script": script}, console, script.splitlines())
    return Exit.DONE


RUN: Final[Mapping[str, Run]] = {
    "up": up, "down": down, "list": list_, "status": status, "watch": watch, "validate": validate, "plan": plan,
    "events": events, "logs": logs, "hold": hold, "release": release, "why": why, "retry": retry,
    "trust": trust, "ssh": ssh,
    "gc": gc, "doctor": doctor, "version": version, "completion": completion,
}  # fmt: skip
"""The function of each command in `arguments.COMMANDS`."""


def _client(args: argparse.Namespace, *, answer: float = ANSWER_SECONDS) -> Client:
    return Client(find_socket(args.socket, os.environ), answer=answer)


def _host(args: argparse.Namespace) -> list[tuple[str, str]]:
    return [("host", args.host)] if args.host else []


def _shrink(args: argparse.Namespace) -> list[tuple[str, str]]:
    return [("shrink", "1")] if args.shrink else []


def _post(args: argparse.Namespace, what: str, body: Mapping[str, Any]) -> Any:
    return _client(args).request(
        "POST",
        cluster_path(args.name, what),
        body=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )


def _print(document: Any, console: Console, lines: list[str]) -> None:
    if console.as_json:
        console.document(document)
    else:
        console.lines(lines)


def _show_status(status: Any, console: Console, lines: list[str]) -> None:
    """Print a status as the one line of a stream that `up --json` is, or what to say to a person."""
    if console.as_json:
        console.document(status, one_line=True)
    else:
        console.lines(lines)


def _names(client: Client, path: str) -> dict[str, str]:
    """Return the names of a cluster's instances by id; none where the service does not know the cluster yet."""
    try:
        return {one["id"]: one["name"] for one in client.get(path)["instances"]}
    except FailureError as failure:
        if failure.code is not Exit.NOT_KNOWN:
            raise
        return {}


def _confirm(
    args: argparse.Namespace, console: Console, question: str, names: tuple[str, ...], done: str = "terminated"
) -> None:
    """Ask a person whether that shall be done; without one, --yes is needed."""
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise FailureError(Exit.USAGE, "nobody can be asked here, as stdin is no terminal: give --yes to have it done")
    console.ask(f"{question} Type {'its name or ' if names else ''}y: ")
    answer = sys.stdin.readline().strip()
    if answer not in {"y", "Y", "yes", *names}:
        raise FailureError(Exit.INTERRUPTED, f"nothing was {done}")


def _await_end(client: Client, cluster: Mapping[str, Any], console: Console) -> None:
    ref = show.reference(cluster)
    try:
        progress.follow(console, client, ref, lambda one: one["phase"] == "gone")
    except KeyboardInterrupt:
        raise _interrupted(f"{cluster['name']} goes on being terminated", show.word(cluster)) from None


def _interrupted(what: str, name: str, *, down: bool = False) -> FailureError:
    lines = [f"Follow it: flambectl watch {name}", *([f"Give it back: flambectl down {name}"] if down else [])]
    return FailureError(Exit.INTERRUPTED, f"interrupted; {what}", lines)
