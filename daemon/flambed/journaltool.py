"""`flambed journal`: check, export and replay a journal, also that of a service that runs. Nothing is written.

What is shown holds no secret: facts as `journal.redacted` shows them, or as the log tells them.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from flambed import replay, settings
from flambed.desired import Cluster
from flambed.eventkind import rfc3339
from flambed.journal import AuditLine, Entry, JournalError, Reader, folded, redacted
from flambed.observed.world import World


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `journal` to the commands of `flambed`."""
    journal = commands.add_parser("journal", help="check, export or replay a journal")
    tools = journal.add_subparsers(dest="tool", required=True, metavar="WHAT")
    helps = {
        "check": "see whether all of it can be read, and what it knows",
        "export": "print its entries as NDJSON, without secrets",
        "replay": "fold it again, and print each decision with the fact that caused it",
    }
    for name, text in helps.items():
        tool = tools.add_parser(name, help=text)
        tool.add_argument("file", nargs="?", type=Path, metavar="FILE", help="the journal; else the service's own")
        tool.add_argument("--config", type=Path, metavar="FILE", help="the service's settings, as for `run`")
        tool.add_argument("--state-dir", type=_absolute, metavar="DIR", help="where the service's own journal is")
        if name != "check":
            tool.add_argument("--cluster", metavar="NAME", help="only of this cluster: NAME, CREATOR/NAME or its id")
        if name == "replay":
            tool.add_argument("--until", type=int, metavar="SEQ", help="end after the fact of this number")


def main(options: argparse.Namespace) -> int:
    """Do what was asked for; return the exit code.

    Raises:
        ClusterConfigurationError: the settings cannot be used.
        JournalError: the journal cannot be read.
    """
    config = settings.load(options.config, os.environ, state_dir=options.state_dir)
    path = options.file or settings.state_path(config, os.environ) / "journal.sqlite"
    with Reader.open(path) as reader:
        if options.tool == "check":
            problems: list[str] = []
            _say(check(reader, problems))
            return 1 if problems else 0
        names = _names(reader)
        chosen = _chosen(reader, names, options.cluster)
        if options.tool == "export":
            return _say(export(reader, chosen))
        stories = (replay.lines(reader, cluster, names[cluster], config, options.until) for cluster in chosen)
        return _say(line for story in stories for line in story)


def check(reader: Reader, problems: list[str]) -> Iterator[str]:
    """Yield what there is to say of a journal, a line for each cluster and each problem; collect the problems."""
    problems += reader.damage()
    names = _names(reader, problems)
    audited = Counter(line.cluster for line in reader.audit())
    rows = [("CLUSTER", "ID", "PHASE", "ENTRIES", "AUDIT", "OPEN INTENTS")]
    total = 0
    for cluster, name in names.items():
        world, count = World(), 0
        try:
            for start in reader.checkpoints(cluster):
                world = start.world
            for entry in reader.entries(cluster):
                world, count = folded(reader.path, world, entry), count + 1
        except JournalError as error:
            problems.append(str(error))
        total += count
        phase = world.phase if world.desired else "forgotten"
        rows.append((name, cluster, phase, str(count), str(audited[cluster]), " ".join(world.intents) or "none"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield f"{reader.path}: of the service {reader.daemon_id}; {total} entries, {sum(audited.values())} audit lines"
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for kind, count in reader.unknown().items():
        yield f"note: {count} entries of the kind {kind}, which this version does not know, are kept and left out"
    yield from (f"problem: {problem}" for problem in dict.fromkeys(problems))
    count = len(set(problems))
    yield f"{count} problem{'s' if count > 1 else ''}" if count else "all of it is in order"


def export(reader: Reader, clusters: Iterable[str]) -> Iterator[str]:
    """Yield the audit lines and entries of these clusters as JSON, one a line, in their order."""
    wanted = set(clusters)
    parts: tuple[Iterable[Entry | AuditLine], ...] = (reader.audit(), reader.entries())
    for item in heapq.merge(*parts, key=attrgetter("seq")):
        if item.cluster not in wanted:
            continue
        head = {"seq": item.seq, "cluster": item.cluster, "at": rfc3339(item.at), "cause": item.cause}
        if isinstance(item, Entry):
            rest: dict[str, Any] = {"kind": type(item.fact).__name__, "fact": redacted(item.fact)}
        else:
            rest = {"event": item.event, "told": item.told}
        yield json.dumps(head | rest, ensure_ascii=False)


def _chosen(reader: Reader, names: Mapping[str, str], ref: str | None) -> list[str]:
    """Return the ids of the clusters that a name means: it may have been used more than once.

    Raises:
        JournalError: there is none.
    """
    found = [one for one, name in names.items() if ref in (None, one, name, name.partition("/")[2])]
    if ref is not None and not found:
        known = ", ".join(sorted(set(names.values())))
        raise JournalError(reader.path, f"knows no cluster {ref!r}", f"it knows {known or 'none'}")
    return found


def _names(reader: Reader, problems: list[str] | None = None) -> dict[str, str]:
    """Return CREATOR/NAME by the clusters' ids, or the id where nothing tells it.

    Raises:
        JournalError: something cannot be read, and there is no list of problems to note it in.
    """
    found = {}
    for cluster in reader.clusters():
        found[cluster] = cluster
        try:
            for name in _named(reader, cluster):
                found[cluster] = name
        except JournalError as error:
            if problems is None:
                raise
            problems.append(str(error))
    return found


def _named(reader: Reader, cluster: str) -> Iterator[str]:
    for line in reader.audit(cluster):
        if line.identity:
            yield "/".join(line.identity)
    described = [start.world.desired for start in reader.checkpoints(cluster)]
    described += [getattr(entry.fact, "desired", None) for entry in reader.entries(cluster)]
    yield from ("/".join(one.identity) for one in described if isinstance(one, Cluster))


def _say(lines: Iterable[str]) -> int:
    try:
        for line in lines:
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # its reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush complains
        return 1
    return 0


def _absolute(text: str) -> Path:
    return Path(text).absolute()
