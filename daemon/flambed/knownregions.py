"""The regions in which this service has had clusters, in a file beside its journal: whoever loses the journal looks there.

Without it nobody would look into a region that is neither the default one nor has a queue.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from flambed.errors import FlambedError
from flambed.files import write_atomically

FILE: Final = "regions"
"""Its name in the state folder: one region a line."""

_NAME: Final = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}")


class KnownRegions:
    """The file of one state folder."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE
        self._kept: frozenset[str] | None = None  # None until it was read

    def read(self) -> frozenset[str]:
        """Return the regions that are kept; none where there is no such file.

        Raises:
            FlambedError: it cannot be read.
        """
        if self._kept is None:
            try:
                text = self._path.read_text(errors="replace") if self._path.exists() else ""
            except OSError as error:
                raise FlambedError(
                    f"{self._path} cannot be read ({error.strerror}): have it belong to the service"
                ) from error
            self._kept = frozenset(line for line in text.splitlines() if _NAME.fullmatch(line))
        return self._kept

    def keep(self, region: str) -> None:
        """Keep a region with the others, durably.

        Raises:
            OSError: it cannot be written; the next `keep` tries again.
        """
        if region not in (known := self.read()):
            names = known | {region}
            write_atomically(self._path, "".join(f"{name}\n" for name in sorted(names)).encode(), durable=True)
            self._kept = names
