"""Many lives over all cores: each process lives some seeds at a time, and tells what became of each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.simulation.life import live

Plant = Callable[[], contextlib.AbstractContextManager[None]]

AT_ONCE = 5
"""Seeds that a process takes at a time."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a life comes to; its story is told again by its seed."""

    seed: int
    violations: tuple[str, ...]
    rested: str
    crashes: int
    seconds: float  # of virtual time


def cores() -> int:
    """Return how many processes can work at once."""
    return len(os.sched_getaffinity(0))


def lives(first: int, count: int, jobs: int, plant: Plant | None = None) -> Iterator[Summary]:
    """Live `count` seeds from `first` on, in `jobs` processes; yield each life as it ends.

    Args:
        first: the first seed.
        count: how many seeds.
        jobs: how many processes; with 1 they are lived in this one.
        plant: puts a bug in its place while a life is lived. A function of a module, so that a process can be given it.

    Closing the iterator ends the processes.
    """
    work = [(seed, plant) for seed in range(first, first + count)]
    if jobs == 1:
        yield from map(_live, work)
        return
    # Spawned: a fork would inherit the locks of threads that the tests before may have left.
    with multiprocessing.get_context("spawn").Pool(min(jobs, count)) as pool:
        yield from pool.imap_unordered(_live, work, chunksize=AT_ONCE)


def _live(work: tuple[int, Plant | None]) -> Summary:
    seed, plant = work
    try:
        with plant() if plant is not None else contextlib.nullcontext():
            outcome = live(seed)
    except Exception as error:
        error.add_note(f"in the life of seed {seed}: python -m tests.simulation {seed}")
        raise
    return Summary(outcome.seed, outcome.violations, outcome.rested, outcome.crashes, outcome.seconds)
