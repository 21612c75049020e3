"""The id of this service, in a file beside its journal: who loses the one still has the other.

Instances carry it in their tag `flambed:daemon`; without it nothing would tell that they are ours (see `recovery`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from flambed.errors import FlambedError
from flambed.files import write_atomically

FILE: Final = "daemon-id"
"""Its name in the state folder. The first line is the id; the others are ids that this folder had before, as when an old
journal was put back after a new one had been begun."""

_ID: Final = re.compile(r"[0-9a-f]{16}")


def is_one(text: str) -> bool:
    """Whether text is a service's id."""
    return _ID.fullmatch(text) is not None


def read(state_dir: Path) -> tuple[str, ...]:
    """Return the ids that are kept in a state folder, the present one first; none where there is no such file.

    Raises:
        FlambedError: it cannot be read.
    """
    path = state_dir / FILE
    try:
        text = path.read_text(errors="replace") if path.exists() else ""
    except OSError as error:
        raise FlambedError(f"{path} cannot be read ({error.strerror}): have it belong to the service") from error
    return tuple(line for line in text.splitlines() if is_one(line))


def keep(state_dir: Path, present: str, kept: tuple[str, ...]) -> tuple[str, ...]:
    """Keep the id that the journal has, with those that were kept before; return these others.

    Raises:
        FlambedError: it cannot be written.
    """
    earlier = tuple(one for one in kept if one != present)
    if kept != (present, *earlier):
        path = state_dir / FILE
        try:
            write_atomically(path, "".join(f"{one}\n" for one in (present, *earlier)).encode(), durable=True)
        except OSError as error:
            raise FlambedError(f"{path} cannot be written ({error.strerror}): see to its disk and folder") from error
    return earlier
