"""A pretend Linux host: files in memory, processes as asyncio tasks, and a POSIX shell with the usual programs.

Nothing here reaches the files, processes or programs of the machine that the lab runs on. What it bends: everybody
may read, write and kill everything; times are UTC, and those of files are real where the host's clock is the lab's; of
CPU and memory there are only the counters of /proc/stat; hosts reach no network.
"""
