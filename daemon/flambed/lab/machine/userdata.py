"""User data as cloud-init reads it: a cloud-config, a script, or a MIME archive of several of them.

A boothook runs at each boot, before anything else. Of cloud-config these keys mean something here: ssh_keys,
ssh_deletekeys, ssh_authorized_keys, users, write_files, bootcmd, runcmd, hostname, merge_how and merge_type. Where
several parts have a key the later wins, unless it asks to append lists.
"""

import base64
import binascii
import email
import gzip
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

_SIGNS = {
    "#cloud-config": "text/cloud-config",
    "#cloud-boothook": "text/cloud-boothook",
    "#!": "text/x-shellscript",
}


@dataclass(frozen=True)
class WriteFile:
    """A file to be written at the first boot."""

    path: str
    content: bytes
    mode: int
    owner: str
    append: bool


@dataclass(frozen=True)
class UserData:
    """What a host is to do at its first boot; `problems` are what was wrong with the data, for the console."""

    host_keys: tuple[str, ...] = ()  # private keys, PEM
    authorized_keys: tuple[str, ...] = ()  # of the default user
    users: tuple[tuple[str, tuple[str, ...]], ...] = ()  # further users and their authorized keys
    files: tuple[WriteFile, ...] = ()
    boothooks: tuple[str, ...] = ()  # scripts for every boot, before SSH
    boot_commands: str = ""  # a script for every boot
    run_commands: str = ""  # a script for the first boot
    scripts: tuple[str, ...] = ()  # further scripts for the first boot, as they are
    hostname: str | None = None
    problems: tuple[str, ...] = field(default=())


def parse_user_data(data: bytes | None) -> UserData:
    """Read user data. Bad parts are left out and told of in `problems`, as cloud-init does."""
    config: dict[str, Any] = {}
    scripts: list[str] = []
    boothooks: list[str] = []
    problems: list[str] = []
    for kind, text, merge in _parts(data or b"", problems):
        if kind == "text/x-shellscript":
            scripts.append(text)
            continue
        if kind == "text/cloud-boothook":
            boothooks.append(text.removeprefix("#cloud-boothook").lstrip())
            continue
        if kind != "text/cloud-config":
            problems.append(f"Unhandled non-multipart ({kind}) userdata: '{text[:24]!r}...'")
            continue
        try:
            part = yaml.safe_load(text) or {}
        except (yaml.YAMLError, ValueError) as error:
            problems.append(f"Failed loading yaml blob. {error}")
            continue
        if not isinstance(part, dict):
            problems.append(f"Yaml blob is a {type(part).__name__}, not a mapping")
            continue
        _merge(config, part, append="append" in f"{merge} {part.get('merge_how', '')} {part.get('merge_type', '')}")
    return replace(_read(config, scripts, problems), boothooks=tuple(boothooks))


def _parts(data: bytes, problems: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the type, the text and the merge header of each part."""
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            problems.append(f"user data is not gzip after all: {error}")
            return
    if not data.strip():
        return
    head = data[:4096].lower()
    if not (head.startswith((b"content-type:", b"mime-version:"))):
        text = data.decode(errors="replace")
        yield _kind(text, "text/plain"), text, ""
        return
    for part in email.message_from_bytes(data).walk():
        payload = part.get_payload(decode=True)
        if isinstance(payload, bytes):
            text = payload.decode(errors="replace")
            merge = part.get("X-Merge-Type") or part.get("Merge-Type") or ""
            yield _kind(text, part.get_content_type()), text, merge


def _kind(text: str, declared: str) -> str:
    if declared in _SIGNS.values():
        return declared
    return next((kind for sign, kind in _SIGNS.items() if text.startswith(sign)), declared)


def _merge(config: dict[str, Any], part: dict[str, Any], *, append: bool) -> None:
    for key, value in part.items():
        old = config.get(key)
        if append and isinstance(old, list) and isinstance(value, list):
            config[key] = [*old, *value]
        elif isinstance(old, dict) and isinstance(value, dict):
            config[key] = {**old, **value}
        else:
            config[key] = value


def _read(config: dict[str, Any], scripts: list[str], problems: list[str]) -> UserData:
    keys = config.get("ssh_keys")
    keys = keys if isinstance(keys, dict) else {}
    users: list[tuple[str, tuple[str, ...]]] = []
    for user in _list(config.get("users")):
        if isinstance(user, dict) and "name" in user:
            given = _list(user.get("ssh_authorized_keys") or user.get("ssh-authorized-keys"))
            users.append((str(user["name"]), tuple(map(str, given))))
        elif isinstance(user, str) and user != "default":
            users.append((user, ()))
    files: list[WriteFile] = []
    for entry in _list(config.get("write_files")):
        try:
            files.append(_file(entry))
        except (KeyError, TypeError, ValueError, AttributeError, OSError, EOFError) as error:
            problems.append(f"write_files: {entry!r}: {type(error).__name__}: {error}")
    return UserData(
        host_keys=tuple(str(key) for name, key in keys.items() if str(name).endswith("_private")),
        authorized_keys=tuple(map(str, _list(config.get("ssh_authorized_keys")))),
        users=tuple(users),
        files=tuple(files),
        boot_commands=_script(_list(config.get("bootcmd"))),
        run_commands=_script(_list(config.get("runcmd"))),
        scripts=tuple(scripts),
        hostname=str(config["hostname"]) if config.get("hostname") else None,
        problems=tuple(problems),
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _file(entry: dict[str, Any]) -> WriteFile:
    content = str(entry.get("content") or "").encode()
    encoding = str(entry.get("encoding") or "")
    if "b64" in encoding or "base64" in encoding:
        try:
            content = base64.b64decode(b"".join(content.split()), validate=True)
        except binascii.Error as error:
            raise ValueError(error) from None
    if encoding.startswith(("gz", "gzip")):
        content = gzip.decompress(content)
    permissions = entry.get("permissions", 0o644)
    return WriteFile(
        path=str(entry["path"]),
        content=content,
        mode=int(permissions, 8) if isinstance(permissions, str) else int(permissions),
        owner=str(entry.get("owner") or "root").split(":")[0],
        append=bool(entry.get("append")),
    )


def _script(commands: list[Any]) -> str:
    """Return the script that cloud-init makes of a list of command lines and argument lists."""
    if not commands:
        return ""
    lines = [shlex.join(map(str, each)) if isinstance(each, list) else str(each) for each in commands]
    return "#!/bin/sh\n" + "".join(f"{line}\n" for line in lines)
