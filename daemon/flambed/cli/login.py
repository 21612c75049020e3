"""The real ssh client, with the pinned host key and nothing else that it would trust."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from flambed.cli.failure import Exit, FailureError


def command(login: Mapping[str, Any], key: Path, known_hosts: Path, remote: Sequence[str]) -> list[str]:
    """Return the words of an ssh command.

    Options on the command line come before the user's own configuration, which may still say how to get to the host.
    """
    return [
        "ssh",
        "-i", str(key),
        "-p", str(login["port"]),
        "-o", "IdentitiesOnly=yes",
        "-o", "StrictHostKeyChecking=yes",
        "-o", f"UserKnownHostsFile={_quoted(known_hosts)}",
        "-o", "GlobalKnownHostsFile=/dev/null",
        "-o", f"HostKeyAlias={login['instance']}",
        "-o", "CheckHostIP=no",
        "-o", "UpdateHostKeys=no",
        "-l", login["username"],
        "--",
        login["address"],
        *remote,
    ]  # fmt: skip


def run(login: Mapping[str, Any], key: Path, remote: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Become the ssh client.

    Raises:
        FailureError: there is no ssh client, the host's key is not known yet, or the login key cannot be read.
    """
    program = shutil.which("ssh", path=environ.get("PATH"))
    if program is None:
        raise FailureError(Exit.FAILED, "there is no ssh client here: install OpenSSH's (openssh-client)")
    if not login["host_keys"]:
        raise FailureError(
            Exit.FAILED,
            f"the host key of {login['instance']} is not known yet, and is never accepted blindly: try again once the "
            "host is reachable (flambectl status)",
        )
    if not os.access(key, os.R_OK):
        raise FailureError(Exit.USAGE, f"the private key {key} cannot be read by you here: give another with --key")
    words = command(login, key, pin(login, environ), remote)
    os.execve(program, words, dict(environ))  # noqa: S606 - to become ssh is the purpose; no shell is involved


def pin(login: Mapping[str, Any], environ: Mapping[str, str]) -> Path:
    """Write the pinned keys of a host where only the caller can, and return the path.

    The file stays: ssh reads it after this program has become ssh. There is one an instance, in the folder that ends
    with the login session, or else in the user's cache.
    """
    base = environ.get("XDG_RUNTIME_DIR") or environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "flambed" / "known_hosts"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / Path(login["instance"]).name
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text("".join(f"{login['instance']} {key}\n" for key in login["host_keys"]), encoding="ascii")
    fresh.replace(path)
    return path


def _quoted(path: Path) -> str:
    """Return a path as ssh's options take it: quoted where it has blanks, its own signs spelled out."""
    text = str(path).replace("%", "%%")
    return f'"{text}"' if " " in text else text
