"""A service in memory for the tests of the control API and of flambectl: it keeps to the Protocol and records its calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from flambed.access import Caller
from flambed.desired import parse
from flambed.errors import ClusterConfigurationError, ConflictError, NotKnownError, Problem

CREATOR = "ann@example.com"
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGx3JZ1yXwqk5gm1lHOVVX1rNpWTwjCzUj3XrWe0mYpH"


def instance(
    index: int | None, stage: str = "ready", reason: str | None = None, cluster: str = "demo"
) -> dict[str, Any]:
    """Return an instance as a status document has it."""
    number = 0 if index is None else index + 1
    return {
        "id": f"i-{number:017x}",
        "role": "Orchestrator" if index is None else "Factory",
        "index": index,
        "name": f"{cluster}_orchestrator" if index is None else f"{cluster}_factory_{index}",
        "type": "t3.large" if index is None else "g5.xlarge",
        "stage": stage,
        "public_host": None,
        "private_host": f"10.0.0.{number + 4}",
        "protected": True,
        "protection": {"alarm": True, "timer": False},
        "terminates_at": None,
        "reason": reason,
    }


def status(name: str = "demo", phase: str = "ready", *, creator: str = CREATOR, factories: int = 2) -> dict[str, Any]:
    """Return a status document."""
    return {
        "name": name,
        "creator": creator,
        "region": "us-east-1",
        "phase": phase,
        "reason": None,
        "instances": [instance(index, cluster=name) for index in (None, *range(factories))],
    }


def orphan(kind: str, number: int, reason: str | None = None, state: str = "running") -> dict[str, Any]:
    """Return something that is left over."""
    prefix = {"instance": "i", "volume": "vol", "alarm": "alarm"}[kind]
    return {
        "kind": kind,
        "id": f"{prefix}-{number:017x}",
        "region": "us-east-1",
        "state": state,
        "name": f"demo_factory_{number}" if kind != "alarm" else None,
        "cluster": "demo" if kind != "alarm" else None,
        "creator": CREATOR if kind != "alarm" else None,
        "cluster_id": "c1",
        "created_at": "2026-01-31T09:00:00.000Z",
        "removable": reason is None,
        "reason": reason,
    }


class FakeService:
    """Keeps clusters by (creator, name); `calls` are the changes that were asked for, with their caller."""

    def __init__(self, *clusters: dict[str, Any]) -> None:
        self.known = {(cluster["creator"], cluster["name"]): cluster for cluster in clusters}
        self.calls: list[tuple[str, Caller, dict[str, Any]]] = []
        self.raises: BaseException | None = None  # by the next call that takes a caller
        self.gate: asyncio.Event | None = None  # what `up` waits for before it is done
        self.done: list[str] = []  # changes that were carried out to their end
        self.followers = 0
        self.called = asyncio.Event()  # somebody asked for a change
        self.alone = asyncio.Event()  # the last follower is gone
        self.ok = True
        self.searching: str | None = None
        self.happened: list[dict[str, Any]] = []
        self.outputs: list[dict[str, Any]] = []
        self.left_over: list[dict[str, Any]] = []
        self._changed = asyncio.Condition()

    # --- what a test does ---

    async def change(self, **values: Any) -> None:
        """Change the status of every cluster, and tell its followers."""
        async with self._changed:
            for cluster in self.known.values():
                cluster.update(values)
            self._changed.notify_all()

    async def happen(self, event: str, level: str = "info", **fields: Any) -> None:
        """Add an event, and tell its followers."""
        async with self._changed:
            self.happened.append({"timestamp": "2026-01-31T09:00:00.000Z", "level": level, "event": event, **fields})
            self._changed.notify_all()

    def _called(self, name: str, caller: Caller, **arguments: Any) -> None:
        self.calls.append((name, caller, arguments))
        self.called.set()
        if self.raises is not None:
            error, self.raises = self.raises, None
            raise error

    def _find(self, ref: str) -> dict[str, Any]:
        found = [cluster for (creator, name), cluster in self.known.items() if ref in {name, f"{creator}/{name}"}]
        if not found:
            raise NotKnownError(f"there is no cluster {ref!r}: `flambectl list` shows those there are")
        if len(found) > 1:
            raise ConflictError(f"several clusters are named {ref!r}: write CREATOR/NAME")
        return found[0]

    def _left(self) -> None:
        self.followers -= 1
        if not self.followers:
            self.alone.set()

    # --- what the service does ---

    def clusters(self) -> list[dict[str, Any]]:
        return [{key: value for key, value in one.items() if key != "instances"} for one in self.known.values()]

    def status(self, ref: str) -> dict[str, Any]:
        return self._find(ref)

    async def follow(self, ref: str) -> AsyncIterator[dict[str, Any]]:
        self.followers += 1
        try:
            while True:
                yield dict(self._find(ref))
                async with self._changed:
                    await self._changed.wait()
        finally:
            self._left()

    async def up(
        self, caller: Caller, document: str, *, ref: str, overrides: Sequence[str], key: str | None, shrink: bool
    ) -> dict[str, Any]:
        self._called("up", caller, document=document, ref=ref, overrides=tuple(overrides), key=key, shrink=shrink)
        if self.gate is not None:
            await self.gate.wait()
        cluster = parse(document, source="cluster file", overrides=overrides)
        if cluster.name != ref.rpartition("/")[2]:
            raise ClusterConfigurationError(
                [Problem(f"name: it is {cluster.name!r}, and the address says {ref!r}", 1, 1)]
            )
        known = status(cluster.name, "converging", creator=cluster.creator, factories=cluster.factories_num)
        for one in known["instances"]:
            one["stage"] = "requested"
        self.known[cluster.identity] = known
        self.done.append("up")
        return known

    async def plan(
        self, caller: Caller, document: str, *, ref: str, overrides: Sequence[str], shrink: bool
    ) -> dict[str, Any]:
        self._called("plan", caller, document=document, ref=ref, overrides=tuple(overrides), shrink=shrink)
        cluster = parse(document, source="cluster file", overrides=overrides)
        return {
            "name": cluster.name,
            "region": "us-east-1",
            "launch": {"Orchestrator": 1, "Factory": cluster.factories_num},
            "keep": [],
            "retire": [],
            "surplus": [],
            "start": [],
            "adopt": [],
            "setup": True,
            "alarms": {"Orchestrator": None, "Factory": 60},
        }

    async def down(self, caller: Caller, ref: str) -> dict[str, Any]:
        self._called("down", caller, ref=ref)
        cluster = self._find(ref)
        if cluster["phase"] != "gone":
            cluster["phase"] = "stopping"
        self.done.append("down")
        return cluster

    async def hold(self, caller: Caller, ref: str, *, seconds: float, why: str) -> dict[str, Any]:
        self._called("hold", caller, ref=ref, seconds=seconds, why=why)
        if seconds > 72 * 3600:
            raise ClusterConfigurationError([Problem("a hold may last 72h at most (idle.max_hold)")], "hold")
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        cluster = self._find(ref)
        cluster["hold"] = {
            "until": until.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "why": why,
            "by": caller.uid,
        }
        return cluster

    async def release(self, caller: Caller, ref: str) -> dict[str, Any]:
        self._called("release", caller, ref=ref)
        return self._find(ref)

    async def retry(self, caller: Caller, ref: str, host: str | None) -> dict[str, Any]:
        self._called("retry", caller, ref=ref, host=host)
        return self._find(ref)

    async def trust(self, caller: Caller, ref: str, host: str, fingerprint: str | None) -> dict[str, Any]:
        self._called("trust", caller, ref=ref, host=host, fingerprint=fingerprint)
        self._find(ref)
        return {
            "instance": "i-1",
            "name": host,
            "pinned": [f"SHA256:{'a' * 43}"],
            "shown": [f"SHA256:{'b' * 43}"],
            "trusted": fingerprint,
        }

    def logs(self, caller: Caller, ref: str, host: str | None) -> list[dict[str, Any]]:
        self._called("logs", caller, ref=ref, host=host)
        self._find(ref)
        return [output for output in self.outputs if host in {None, output["instance"], output["name"]}]

    async def why(self, caller: Caller, ref: str, host: str | None) -> dict[str, Any]:
        self._called("why", caller, ref=ref, host=host)
        cluster = self._find(ref)
        return {
            **{key: cluster[key] for key in ("name", "creator", "phase", "reason")},
            "hosts": [
                {
                    "instance": one["id"],
                    "name": one["name"],
                    "stage": one["stage"],
                    "summary": "alive: its set-up runs",
                    "terminates_at": None,
                    "signals": [{"signal": "cpu", "value": "0.2 %", "at": "2026-01-31T09:00:00Z"}],
                }
                for one in cluster["instances"]
                if host in {None, one["id"], one["name"], one["private_host"]}
            ],
        }

    def ssh(self, caller: Caller, ref: str, host: str | None) -> dict[str, Any]:
        self._called("ssh", caller, ref=ref, host=host)
        one = next((one for one in self._find(ref)["instances"] if host in {None, one["id"], one["name"]}), None)
        if one is None:
            raise NotKnownError(f"{ref} has no host {host!r}")
        return {
            "instance": one["id"],
            "name": one["name"],
            "address": one["private_host"],
            "port": 22,
            "username": "ubuntu",
            "host_keys": [PUBLIC_KEY],
            "key_path": "~/.ssh/demo",
        }

    def events(
        self, caller: Caller, *, ref: str | None, since: float | None, follow: bool
    ) -> AsyncIterator[dict[str, Any]]:
        self._called("events", caller, ref=ref, since=since, follow=follow)
        if ref is not None:
            self._find(ref)
        return self._events(ref, follow=follow)

    async def _events(self, ref: str | None, *, follow: bool) -> AsyncIterator[dict[str, Any]]:
        sent = 0
        self.followers += 1
        try:
            while True:
                for event in self.happened[sent:]:
                    sent += 1
                    if ref is None or event.get("cluster") == ref:
                        yield event
                if not follow:
                    return
                async with self._changed:
                    while len(self.happened) == sent:
                        await self._changed.wait()
        finally:
            self._left()

    async def instances(self, caller: Caller, *, creator: str | None, host: str | None) -> list[dict[str, Any]]:
        self._called("instances", caller, creator=creator, host=host)
        return [
            {
                "id": one["id"],
                "region": cluster["region"],
                "name": one["name"],
                "type": one["type"],
                "state": "running",
                "role": one["role"],
                "cluster": cluster["name"],
                "creator": cluster["creator"],
                "public_host": one["public_host"],
                "private_host": one["private_host"],
                "tags": {"creator": cluster["creator"]},
                "alarm": False,
            }
            for cluster in self.known.values()
            for one in cluster["instances"]
            if creator in {None, cluster["creator"]} and host in {None, one["private_host"]}
        ]

    async def orphans(self, caller: Caller) -> list[dict[str, Any]]:
        self._called("orphans", caller)
        return self.left_over

    def remove_orphans(self, caller: Caller, ids: Collection[str]) -> AsyncIterator[dict[str, Any]]:
        self._called("remove_orphans", caller, ids=tuple(ids))
        return self._remove_orphans(ids)

    async def _remove_orphans(self, ids: Collection[str]) -> AsyncIterator[dict[str, Any]]:
        for one in [one for one in self.left_over if one["id"] in ids]:
            about = {key: one[key] for key in ("kind", "id", "region")}
            protected = one["state"] == "protected"
            if one["kind"] == "instance" and not protected:
                yield {**about, "outcome": "ending", "reason": None}
            yield {
                **about,
                "outcome": "refused" if protected else "removed",
                "reason": "it is protected" if protected else None,
            }

    async def doctor(self, caller: Caller) -> list[dict[str, Any]]:
        return [
            {"check": "credentials", "ok": True, "message": "account 123456789012", "advice": None},
            {"check": "queue", "ok": self.ok, "message": "us-east-1", "advice": None if self.ok else "create it"},
            {"check": "quotas", "ok": None, "message": "servicequotas may not be read", "advice": "allow it"},
        ]

    def metrics(self) -> bytes:
        return b"# HELP flambed_clusters Clusters by phase.\n"

    def health(self) -> dict[str, Any]:
        return {"ok": self.ok, "version": "0.1.0", "searching": self.searching}
