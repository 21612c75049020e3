"""What set-up commands printed, kept in the state folder until the cluster is forgotten.

One JSON file a command and attempt: `state_dir`/outputs/CLUSTER_ID/INSTANCE/NUMBER-ATTEMPT.json, 0600.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from flambed.files import make_private, part, remove_folder, write_atomically
from flambed.tails import last_bytes, last_lines

MAX_BYTES = 64 * 1024
"""The most that is kept of one command's output; its end counts, so the beginning goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One run of one set-up command on one host, and what it printed (stdout and stderr as they came)."""

    instance: str
    number: int  # counts from 0
    attempt: int
    command: str
    code: int | None  # None: it had not ended
    text: str

    def tail(self, lines: int) -> str:
        """The last `lines` lines of the output."""
        return last_lines(self.text, lines)


class Outputs:
    """The kept output of all clusters of one service."""

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / "outputs"

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
        """Keep what a command printed, its last 64 KiB; replaces what was kept of the same number and attempt.

        Args:
            dropped: how many bytes before `text` are gone already.

        Raises:
            OSError: the state folder cannot be written.
        """
        output = Output(
            instance=instance,
            number=number,
            attempt=attempt,
            command=command,
            code=code,
            text=last_bytes(text, MAX_BYTES, dropped),
        )
        folder = make_private(self._root / part(cluster_id) / part(instance))
        write_atomically(folder / f"{number}-{attempt}.json", json.dumps(asdict(output)).encode(), durable=False)
        return output

    def read(self, cluster_id: str, instance: str | None = None) -> list[Output]:
        """All that is kept of a cluster, or of one of its hosts, by instance, number and attempt."""
        folder = self._root / part(cluster_id)
        pattern = "*/[0-9]*.json" if instance is None else f"{part(instance)}/[0-9]*.json"
        kept = [Output(**json.loads(path.read_bytes())) for path in folder.glob(pattern)]
        return sorted(kept, key=lambda output: (output.instance, output.number, output.attempt))

    def forget(self, cluster_id: str) -> None:
        """Remove all output of this cluster."""
        remove_folder(self._root / part(cluster_id))
