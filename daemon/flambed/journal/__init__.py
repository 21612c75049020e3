"""The journal: facts and intents, written to disk before they are acted on, and read back at the start.

One SQLite file, and the only package that knows so: `file` opens it, `journal` writes and reads it.
"""

from flambed.journal.file import JournalError
from flambed.journal.journal import Entry, Journal, Memory

__all__ = ["Entry", "Journal", "JournalError", "Memory"]
