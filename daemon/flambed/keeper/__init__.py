"""The keeper of alarms and points: makes true which protection each host of a region should have (idle protection).

Every cluster's loop says what it wants, as a table; `Keeper` remembers it, one `Guard` a host, and three workers make it
true: `alarms` puts, checks and deletes alarms, `points` writes fake CPU points, `readings` reads the real CPU. They work
for all clusters at once, for CloudWatch counts calls and takes a thousand points in one.
"""

from flambed.keeper.keeper import Keeper

__all__ = ["Keeper"]
