"""Real parts that some tests need: a shell, OpenSSH's client, systemd's tools."""

from __future__ import annotations

import os
import shutil

import pytest


def real_part(program: str, package: str) -> str:
    """Return the path of a program that a test is about.

    Where it is missing the test fails in CI, which installs it; elsewhere it is left out, and pytest's summary says why.
    """
    found = shutil.which(program)
    if found is None and os.environ.get("CI"):
        pytest.fail(f"{program} is missing: .ci/run has to install Debian's package {package}")
    if found is None:
        pytest.skip(f"left out: this machine has no {program} (Debian's package {package})")
    return found


def real_root(what: str) -> None:
    """Go on as root, whom a test needs for `what`; elsewhere as with a missing part."""
    if os.geteuid() == 0:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{what} need root: CI has to run this test as root")
    pytest.skip(f"left out: {what} need root")
