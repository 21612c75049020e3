"""What outlives a crash on the service's own machine: the committed journal, the keys, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flambed.codec import decode, encode
from flambed.errors import Reason, StepError
from flambed.journal import Checkpoint, Entry, Health, Journal, JournalError
from flambed.journal.journal import Memory
from flambed.keys import KeyPair, KeyStore
from flambed.observed.facts import ActionsBegan, Fact, Key, LaunchIntended
from flambed.outputs import Output, Outputs

PATH = Path("journal.sqlite")


@dataclass(slots=True)
class Disk:
    """The files of the state folder."""

    rows: list[tuple[int, str, int | None, str, str]] = field(default_factory=list)  # seq, cluster, cause, kind, JSON
    creators: dict[str, int] = field(default_factory=dict)
    memory: dict[str, str] = field(default_factory=dict)
    secrets: dict[tuple[str, str], bytes] = field(default_factory=dict)
    keys_made: int = 0
    seq: int = 0
    intents: set[str] = field(default_factory=set)  # the tokens of all LaunchIntended that were ever committed
    begun: set[Key] = field(default_factory=set)  # the keys of all ActionsBegan that were ever committed
    copy: Disk | None = None
    lost: bool = False  # at least once
    opened: bool = False  # there is a journal

    def back_up(self) -> None:
        """Keep a copy of the state folder as it is now."""
        self.copy = Disk(
            list(self.rows), dict(self.creators), dict(self.memory), dict(self.secrets), self.keys_made, self.seq
        )

    def lose(self, *, put_back: bool) -> None:
        """Lose the state folder; the copy takes its place, if there is one and it is wanted."""
        self.lost, self.opened = True, put_back and self.copy is not None
        now = self.copy if put_back and self.copy is not None else Disk(keys_made=self.keys_made)
        self.rows, self.creators, self.memory = list(now.rows), dict(now.creators), dict(now.memory)
        self.secrets, self.seq = dict(now.secrets), now.seq


class Killed(BaseException):
    """The process was killed between two facts."""


class MemoryJournal(Journal):
    """A journal as the service sees it, on a `Disk`: what was appended and not committed is lost with the process."""

    def __init__(
        self,
        disk: Disk,
        *,
        alive: Callable[[], bool],
        full: Callable[[], bool],
        point: Callable[[str], Any],
        kill_here: Callable[[str], bool],
        latency: Callable[[], float],
    ) -> None:
        self.path = PATH
        self.new, disk.opened = not disk.opened, True
        self.commits = 0
        self.daemon_id = "d1"
        self.unknown: Counter[str] = Counter()
        self._disk = disk
        self._alive, self._full, self._point, self._kill_here, self._latency = alive, full, point, kill_here, latency
        self.health = Health(self.commit)
        self._seq = disk.seq
        self._creators = dict(disk.creators)
        self._waiting: list[Callable[[], object]] = []
        self.memory = Memory(dict(disk.memory), self._remember, lambda name: self._later(disk.memory.pop, name, None))

    async def close(self) -> None:
        await self.health.close()
        await self.commit()

    def append(self, cluster: str, facts: Iterable[Fact], *, cause: int | None = None) -> tuple[Entry, ...]:
        entries = []
        for fact in facts:
            if not self._alive() or self._kill_here(f"before {type(fact).__name__} is noted"):
                raise Killed
            kind, text = encode(fact)
            self._seq += 1
            self._later(self._row, (self._seq, cluster, cause, kind, text), fact)
            entries.append(Entry(self._seq, cluster, cause, fact))
        return tuple(entries)

    async def commit(self) -> None:
        group = len(self._waiting)
        if not group:
            return
        await self._point("before a commit")
        await asyncio.sleep(self._latency())
        if self._full():
            error = JournalError(PATH, "cannot be written (database or disk is full)", "make room on its disk")
            self.health.failed(error)
            raise error
        await self._point("in a commit")
        for write in self._waiting[:group]:
            write()
        del self._waiting[:group]
        self.commits += 1
        self.health.wrote()
        await self._point("after a commit")

    def claim(self, creator: str, uid: int) -> int:
        if creator not in self._creators:
            self._creators[creator] = uid
            self._later(self._disk.creators.__setitem__, creator, uid)
        return self._creators[creator]

    def forget(self, cluster: str) -> None:
        rows = self._disk.rows
        self._later(lambda: rows.__setitem__(slice(None), [row for row in rows if row[1] != cluster]))

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        return ()

    async def compact(self, now: float) -> int:
        return 0  # it is about the file, and has tests of its own

    def load(self) -> Iterator[Entry]:
        for seq, cluster, cause, kind, text in self._disk.rows:
            yield Entry(seq, cluster, cause, decode(kind, text))

    def _row(self, row: tuple[int, str, int | None, str, str], fact: Fact) -> None:
        self._disk.rows.append(row)
        self._disk.seq = row[0]
        if isinstance(fact, LaunchIntended):
            self._disk.intents.add(fact.token)
        elif isinstance(fact, ActionsBegan):
            self._disk.begun.update(fact.keys)

    def _remember(self, name: str, value: str) -> None:
        self._later(self._disk.memory.__setitem__, name, value)

    def _later(self, write: Callable[..., object], *args: object) -> None:
        self._waiting.append(lambda: write(*args))


class MemoryKeys(KeyStore):
    """The secrets of the clusters, on a `Disk`."""

    def __init__(self, disk: Disk, alive: Callable[[], bool]) -> None:
        self._disk = disk
        self._alive = alive

    def keep_login_key(self, cluster_id: str, private: str) -> None:
        self._keep(cluster_id, "login", private.encode())

    def has_login_key(self, cluster_id: str) -> bool:
        return (cluster_id, "login") in self._disk.secrets

    def login_key(self, cluster_id: str) -> str:
        return self._kept(cluster_id, "login").decode()

    def host_key(self, cluster_id: str) -> KeyPair:
        if (cluster_id, "host") not in self._disk.secrets:
            self._disk.keys_made += 1
            self._keep(cluster_id, "host", str(self._disk.keys_made).encode())
        number = self._kept(cluster_id, "host").decode()
        return KeyPair(f"private half {number} of {cluster_id}", f"ssh-ed25519 {cluster_id}-{number}")

    def peer_key(self, cluster_id: str) -> KeyPair:
        self._keep(cluster_id, "peer", b"made")
        return KeyPair(f"private half of {cluster_id}", f"ssh-ed25519 {cluster_id}-peer")

    def kept_host_key(self, cluster_id: str) -> str | None:
        return self.host_key(cluster_id).public if (cluster_id, "host") in self._disk.secrets else None

    def keep_user_data(self, cluster_id: str, user_data: bytes) -> str:
        digest = hashlib.sha256(user_data).hexdigest()
        self._keep(cluster_id, digest, user_data)
        return digest

    def user_data(self, cluster_id: str, digest: str) -> bytes:
        return self._kept(cluster_id, digest)

    def forget(self, cluster_id: str) -> None:
        if self._alive():
            for key in [key for key in self._disk.secrets if key[0] == cluster_id]:
                del self._disk.secrets[key]

    def _keep(self, cluster_id: str, name: str, what: bytes) -> None:
        if self._alive():
            self._disk.secrets[cluster_id, name] = what

    def _kept(self, cluster_id: str, name: str) -> bytes:
        try:
            return self._disk.secrets[cluster_id, name]
        except KeyError:
            raise StepError(Reason.BAD_REQUEST, "missing file", f"{name} of {cluster_id} is not kept") from None


class MemoryOutputs(Outputs):
    """The output of set-up commands, which nobody reads here."""

    def __init__(self) -> None:
        pass

    def write(
        self,
        cluster_id: str,
        instance: str,
        number: int,
        attempt: int,
        *,
        command: str,
        code: int | None,
        text: str,
        dropped: int = 0,
    ) -> Output:
        return Output(instance=instance, number=number, attempt=attempt, command=command, code=code, text=text)

    def forget(self, cluster_id: str) -> None:
        pass
