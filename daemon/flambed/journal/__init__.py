"""The journal: facts and intents, written to disk before they are acted on, and read back at the start.

One SQLite file, and the only package that knows so: `file` opens it, `records` says what it holds, `journal` writes and
reads it, `health` says whether that goes on, `compaction` keeps it small, `reader` looks into anybody's, `redaction` says
what of it may be shown.
"""

from flambed.journal.compaction import AUDIT, folded
from flambed.journal.file import JournalError
from flambed.journal.health import Health, ReadOnlyError, unwritable
from flambed.journal.journal import Journal, Memory
from flambed.journal.reader import Reader
from flambed.journal.records import AuditLine, Checkpoint, Entry, Page
from flambed.journal.redaction import redacted

__all__ = [
    "AUDIT",
    "AuditLine",
    "Checkpoint",
    "Entry",
    "Health",
    "Journal",
    "JournalError",
    "Memory",
    "Page",
    "ReadOnlyError",
    "Reader",
    "folded",
    "redacted",
    "unwritable",
]
