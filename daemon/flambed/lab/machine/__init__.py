"""A pretend Linux host: files in memory, processes as asyncio tasks, and a POSIX shell with the usual programs.

Nothing here reaches the files, processes or programs of the machine that the lab runs on. What it bends: everybody
may read, write and kill everything; times are UTC; memory and CPU are not modelled; hosts reach no network.
"""
