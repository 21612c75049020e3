"""`doctor`: what it says of the state folder and its disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flambed import doctor
from flambed.settings import Settings


class Usage(NamedTuple):
    """What `shutil.disk_usage` returns, bytes."""

    total: int
    used: int
    free: int


async def state_folder(path: Path, *, read_only: str | None = None) -> dict[str, Any]:
    """Return the check of a state folder."""
    found = await doctor.examine(Settings(), [], path, "1f0c6ab1d5b3e977", read_only=read_only)
    [check] = [one for one in found if one["check"] == "state folder"]
    return check


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A state folder as it should be."""
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
def exposed(path: Path) -> None:
    """Let others read the state folder."""
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("total", "free", "ok"),
    [
        (1_000_000_000, 100_000_000, True),
        (1_000_000_000, 99_000_000, None),
        (10_000_000_000, 499_000_000, None),
        (10_000_000_000, 501_000_000, True),
        (0, 0, None),
    ],
)
async def test_little_room_is_a_warning_with_what_to_do(
    path: Path, monkeypatch: pytest.MonkeyPatch, total: int, free: int, ok: bool | None
) -> None:
    """Under 100 MB, or under 5 %, whichever comes first."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(total, total - free, free))
    check = await state_folder(path)
    assert check["ok"] is ok
    assert f"{free // 1_000_000} MB (" in check["message"]
    assert (check["advice"] or "").startswith("make room there" if ok is None else "")


async def test_a_service_that_is_read_only_has_a_state_folder_that_fails(path: Path) -> None:
    """With why, and that a restart would make it worse."""
    check = await state_folder(path, read_only="the journal cannot be written")
    assert (check["ok"], check["message"]) == (False, "the journal cannot be written")
    assert "do not restart it before" in check["advice"]


async def test_a_folder_that_others_may_read_fails_whatever_room_there_is(
    path: Path, exposed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds private keys: that is told first."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 0))
    check = await state_folder(path)
    assert (check["ok"], f"chmod 700 {path}" in check["advice"]) == (False, True)
