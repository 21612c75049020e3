"""What the control API serves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, Protocol

from flambed.access import Caller


class Service(Protocol):
    """What the API serves. `ref` is NAME or CREATOR/NAME; `host` is an instance id, an instance name or an address.

    Whatever takes a `Caller` checks what it may do and raises `NotAllowedError`; whatever takes a `ref` or a `host`
    raises `NotKnownError`, and `ConflictError` for a NAME that several clusters have. A `FlambedError` of another kind
    means that the service cannot do it now. Documents have the shapes of `openapi`.
    """

    def clusters(self) -> list[dict[str, Any]]:
        """Return the status documents of all clusters, without their instances."""

    def status(self, ref: str) -> dict[str, Any]:
        """Return the status document of one cluster."""

    def follow(self, ref: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the status document now, and again whenever it changes."""

    async def up(
        self, caller: Caller, document: str, *, ref: str, overrides: Sequence[str], key: str | None, shrink: bool
    ) -> dict[str, Any]:
        """Accept a cluster file; the status that it returns is of the time after that: no longer `ready`, unless it is.

        Args:
            caller: who asks.
            document: the cluster file, YAML or JSON.
            ref: the name that the document must have.
            overrides: `key=value` settings that come over it.
            key: the text of the private key; None keeps the one that the service has.
            shrink: whether hosts that are too many may be given back.
        """

    async def plan(
        self, caller: Caller, document: str, *, ref: str, overrides: Sequence[str], shrink: bool
    ) -> dict[str, Any]:
        """Return what `up` would do, without doing it."""

    async def down(self, caller: Caller, ref: str) -> dict[str, Any]:
        """Give a cluster back; the status that it returns is `stopping` or `gone`."""

    async def hold(self, caller: Caller, ref: str, *, seconds: float, why: str) -> dict[str, Any]:
        """Keep idle termination off for so long; return the status."""

    async def release(self, caller: Caller, ref: str) -> dict[str, Any]:
        """End a hold; return the status."""

    async def retry(self, caller: Caller, ref: str, host: str | None) -> dict[str, Any]:
        """Run the set-up of failed hosts again; return the status."""

    async def trust(self, caller: Caller, ref: str, host: str, fingerprint: str | None) -> dict[str, Any]:
        """Pin the host key with this fingerprint, if the host shows it; without one only tell what it shows."""

    def logs(self, caller: Caller, ref: str, host: str | None) -> list[dict[str, Any]]:
        """Return the kept output of set-up commands."""

    async def why(self, caller: Caller, ref: str, host: str | None) -> dict[str, Any]:
        """Return why hosts are alive, failed or about to end."""

    def ssh(self, caller: Caller, ref: str, host: str | None) -> dict[str, Any]:
        """Return how to log in to a host; without `host`: the orchestrator."""

    def events(
        self, caller: Caller, *, ref: str | None, since: float | None, follow: bool
    ) -> AsyncIterator[dict[str, Any]]:
        """Return an iterator of events, the oldest first; what it raises, it raises at the call.

        Args:
            caller: who asks; what belongs to others is left out.
            ref: only of this cluster.
            since: UNIX seconds; only of later ones.
            follow: whether to go on with those to come.
        """

    async def instances(self, caller: Caller, *, creator: str | None, host: str | None) -> list[dict[str, Any]]:
        """Return instances with their tags, hosts and alarm."""

    async def orphans(self, caller: Caller) -> list[dict[str, Any]]:
        """Return what carries this service's tags and belongs to no cluster that is known; for admins."""

    def remove_orphans(self, caller: Caller, ids: Collection[str]) -> AsyncIterator[dict[str, Any]]:
        """Remove those of these orphans that still are some; for admins. What it raises, it raises at the call.

        Returns:
            An iterator that tells what becomes of each, and ends when nothing more is to be done.
        """

    async def doctor(self, caller: Caller) -> list[dict[str, Any]]:
        """Check everything that the service needs."""

    def health(self) -> dict[str, Any]:
        """Return how the service itself is; `ok` tells whether it can take requests."""

    def metrics(self) -> bytes:
        """Return the service's metrics in Prometheus' text format."""
