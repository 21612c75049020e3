"""The log is the monitor: one JSON object a line, every event out of the catalogue, never a secret.

What is not declared in `catalogue` cannot be logged. Lines and the events of the control API are one document: a line
that tells a fact has its number under `fact`, so the `cause` of a line can be looked up in either. `line` says what a line
is, `log` writes it, `repeats` counts what comes again and again, `rendering` says how it looks and where it goes,
`libraries` makes lines of what libraries say, `reference` tells of all that for programs and for people.
"""

from flambed.log.line import COMMON, REPEATED, of_audit, to_event, to_line
from flambed.log.log import Format, Log, configure
from flambed.log.reference import markdown, schema

__all__ = [
    "COMMON",
    "REPEATED",
    "Format",
    "Log",
    "configure",
    "markdown",
    "of_audit",
    "schema",
    "to_event",
    "to_line",
]
