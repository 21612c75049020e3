"""Each cell of the operator's table of who may do what, tried by a user of the bastion, under the shipped unit."""

from __future__ import annotations

import json
import re

import pytest

from tests.real.bastion import PAGE, Bastion

COLUMNS = {"owner": "alice", "admin": "carol", "root": "root", "others": "bob"}

WORDS = {
    "list": ["list"],
    "status NAME": ["status", "shared"],
    "doctor": ["doctor"],
    "up FILE": ["up", "FILE"],
    "plan FILE": ["plan", "FILE"],
    "logs NAME": ["logs", "shared"],
    "why NAME": ["why", "shared"],
    "events NAME": ["events", "shared"],
    "ssh NAME": ["ssh", "shared", "--", "true"],
    "hold NAME": ["hold", "shared", "--for", "1h", "--why", "mine"],
    "release NAME": ["release", "shared"],
    "retry NAME": ["retry", "shared"],
    "down NAME": ["down", "shared", "--yes"],
    "down --all": ["down", "--all", "--yes"],
    "gc": ["gc", "--plan"],
}

DONE = {
    "retry NAME": {1},  # it is theirs, and there is nothing to retry
    "ssh NAME": {0, 255},  # they are told the way; the key is in its owner's home
}
"""The exit codes of who may, where that is not 0."""


def table() -> dict[str, dict[str, str]]:
    """Return the table of docs/operating.md: command -> column -> yes or no."""
    [head, rows] = re.findall(r"^\| `flambectl` \|(.*)\|\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)[0]
    columns = [name.strip() for name in head.split("|")]
    cells = [[cell.strip() for cell in row.strip("|\n").split("|")] for row in rows.splitlines()]
    return {name.strip("`"): dict(zip(columns, said, strict=True)) for name, *said in cells}


def test_the_table_has_the_cells_that_are_tried() -> None:
    """No command and no column is left out; each cell says yes or no."""
    assert table().keys() == WORDS.keys()
    for cells in table().values():
        assert cells.keys() == COLUMNS.keys()
        assert set(cells.values()) <= {"yes", "no"}


@pytest.mark.parametrize("column", COLUMNS)
def test_everybody_may_do_what_the_table_says_and_nothing_else(bastion: Bastion, column: str) -> None:
    """Alice owns the cluster; each user is a uid of their own, with a key that is theirs alone, mode 0600."""
    user = COLUMNS[column]
    assert bastion.ctl("alice", "up", bastion.file("alice", "shared", creator="alice")).returncode == 0
    assert json.loads(bastion.ctl("bob", "status", "shared", "--json").stdout)["owner"] == uid(bastion, "alice")
    file = bastion.file(user, "shared", creator="alice")
    home = "/root" if user == "root" else f"/home/{user}"
    assert bastion.machine.sh(f"stat -c '%U %a' {home}/key").split() == [user, "600"]
    for command, cells in table().items():
        if cells[column] == "yes" and command == "down --all":
            assert bastion.ctl("alice", "up", bastion.file("alice", "shared", creator="alice")).returncode == 0
        done = bastion.ctl(user, *[file if word == "FILE" else word for word in WORDS[command]])
        if cells[column] == "yes":
            assert done.returncode in DONE.get(command, {0}), (command, done)
            assert "may not" not in done.stderr
        else:
            assert done.returncode == 4, (command, done)
            assert "may not" in done.stderr
    if column == "others":
        assert json.loads(bastion.ctl("bob", "status", "shared", "--json").stdout)["phase"] == "ready"


def test_the_key_that_the_service_keeps_is_readable_by_nobody_else(bastion: Bastion) -> None:
    """No user can list the state folder or read what is in it; the service's files are its own, mode 0600."""
    assert bastion.ctl("alice", "up", bastion.file("alice", "kept", creator="alice")).returncode == 0
    files = bastion.machine.sh("find /var/lib/flambed -type f -printf '%u %m\n'").splitlines()
    assert files
    assert set(files) == {"flambed 600"}
    for user in ("alice", "bob", "carol"):
        looked = bastion.machine.run(
            "setpriv", f"--reuid={user}", "--init-groups", f"--regid={user}", "ls", "/var/lib/flambed", check=False
        )
        assert looked.returncode != 0


def uid(bastion: Bastion, user: str) -> int:
    """Return a user's uid on the bastion."""
    return int(bastion.machine.run("id", "-u", user).stdout)
