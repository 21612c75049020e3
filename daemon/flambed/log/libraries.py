"""What libraries say through the standard library's logging becomes lines of the log."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable


def forward_to(emit: Callable[..., None]) -> None:
    """Have warnings, and what is worse, told as `library.message`, and in no log that was configured before."""
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, Forward)] + [Forward(emit)]
    root.setLevel(logging.WARNING)


class Forward(logging.Handler):
    """Makes events of records."""

    def __init__(self, emit: Callable[..., None]) -> None:
        super().__init__(logging.WARNING)
        self._emit = emit

    def emit(self, record: logging.LogRecord) -> None:
        """Tell one record."""
        trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else None
        self._emit("library.message", logger=record.name, message=_message(record), traceback=trace)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # its arguments do not fit: that is the library's bug, not ours
        return str(record.msg)
