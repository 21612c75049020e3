"""Live many lives, or one again: see `python -m tests.simulation --help`."""

# ruff: noqa: T201 - a program that prints

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation import runner
from tests.simulation.life import live

TELLS_EVERY = 10.0
"""Seconds between two lines of progress."""


def main(argv: list[str]) -> int:
    """Return 0 where no promise was broken, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="live this life alone, and print its story")
    parser.add_argument("--last", type=int, help="of a story, print only so many lines, the last")
    parser.add_argument("--lives", type=int, default=3000, help="how many lives (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=runner.cores(), help="processes (default: one a core)")
    asked = parser.parse_args(argv)
    if asked.seed is not None:
        outcome = live(asked.seed)
        print(outcome.told(asked.last))
        return 1 if outcome.violations else 0
    return _many(asked.first, asked.lives, asked.jobs)


def _many(first: int, count: int, jobs: int) -> int:
    began = told = time.monotonic()
    done = crashes = 0
    hours = 0.0
    phases: Counter[str] = Counter()
    failed: list[runner.Summary] = []
    print(f"{count} lives from seed {first} on, in {jobs} processes", flush=True)
    for summary in runner.lives(first, count, jobs):
        done, crashes, hours = done + 1, crashes + summary.crashes, hours + summary.seconds / 3600
        phases[summary.rested] += 1
        if summary.violations:
            failed.append(summary)
            print(f"seed {summary.seed}: {'; '.join(summary.violations)}", flush=True)
        now = time.monotonic()
        if now - told >= TELLS_EVERY:
            told = now
            print(
                f"{done:6} lives, {done / (now - began):.1f} a second, {crashes} crashes, {len(failed)} failed",
                flush=True,
            )
    took = time.monotonic() - began
    print(
        f"{done} lives in {took:.0f} s ({done / took:.1f} a second): {crashes} crashes, {hours:.0f} hours lived, "
        f"rested {dict(phases.most_common())}, {len(failed)} broke a promise"
    )
    if not failed:
        return 0
    worst = min(failed, key=lambda summary: summary.seed)
    print(live(worst.seed).told())
    others = sorted(summary.seed for summary in failed)
    print(f"All that failed: {' '.join(map(str, others))}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
