"""The programs of the pretend hosts. Importing this package puts them all into `programs.PROGRAMS`."""

from flambed.lab.machine import builtin  # noqa: F401 - it registers itself
from flambed.lab.machine.commands import (  # noqa: F401 - they register themselves
    filters,
    listing,
    manipulation,
    matching,
    pretend,
    printing,
    running,
    secureshell,
    signals,
    system,
    testing,
)
