"""Cluster files and key files, read as the caller: the service never reads a path that somebody names."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from flambed import desired, validation, yamlfile
from flambed.cli.failure import Exit, FailureError
from flambed.desired import Cluster
from flambed.errors import ClusterConfigurationError, Problem

MOST_KEY_BYTES: Final = 16_384


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """A cluster file that could be read, whatever is wrong with it.

    Attributes:
        path: as the user wrote it.
        text: what is in it.
        overrides: the `--set` values, and the key's absolute path where the file has a relative one: then the service
            can tell `flambectl ssh` where the key is, from whatever folder that is called.
        cluster: what it describes; None where it has mistakes.
        mistakes: in the order of the file.
        key: the contents of the private key; None where there is something wrong with it.
        key_mistake: what that is.
        advice: what is worth saying and no mistake.
        document: where everything in it stands; None where that cannot be told.
    """

    path: str
    text: str
    overrides: tuple[str, ...]
    cluster: Cluster | None
    mistakes: tuple[Problem, ...]
    key: bytes | None
    key_mistake: Problem | None
    advice: tuple[Problem, ...]
    document: yamlfile.Document | None = None

    def located(self, problem: Problem, kind: str = "") -> str:
        """Return `FILE:LINE:COL: message`."""
        place = f":{problem.line}:{problem.column}" if problem.line is not None else ""
        return f"{self.path}{place}: {kind}{problem.message}"

    @property
    def key_warning(self) -> Problem | None:
        """What is wrong with the key file, where only `up` needs it."""
        found = self.key_mistake
        return replace(found, message=f"{found.message}; `up` will refuse this") if found is not None else None

    def told(self, mistake: Mapping[str, Any]) -> str:
        """Return a mistake that the service found as a line; one without a place gets that of its field."""
        problem = Problem(*(mistake[part] for part in ("message", "line", "column", "field")))
        return self.located(_placed(problem, self.document) if self.document is not None else problem)

    def check(self, *, key: bool) -> Cluster:
        """Return the cluster.

        Raises:
            FailureError: there are mistakes, one line each; with `key`, what is wrong with the key file is one.
        """
        found = [*self.mistakes]
        if key and self.key_mistake is not None:
            found.append(self.key_mistake)
        if found or self.cluster is None:
            raise FailureError(Exit.USAGE, "", [self.located(problem) for problem in yamlfile.in_order(found)])
        return self.cluster


def read(path: str, overrides: Sequence[str]) -> ClusterFile:
    """Read a cluster file, and the key file that it names.

    Raises:
        FailureError: the file itself cannot be read.
    """
    try:
        text = yamlfile.decode(_bytes(Path(path)), path)
    except ClusterConfigurationError as error:
        return ClusterFile(path, "", tuple(overrides), None, error.problems, None, None, ())
    cluster = None
    mistakes: tuple[Problem, ...] = ()
    advice: tuple[Problem, ...] = ()
    try:
        cluster = desired.parse(text, source=path, overrides=overrides)
    except ClusterConfigurationError as error:
        mistakes = error.problems
    document = _document(text, path, overrides)
    written = document.value.get("key") if document is not None else None
    if document is None or not isinstance(written, str) or not written:
        return ClusterFile(path, text, tuple(overrides), cluster, mistakes, None, None, (), document)
    if cluster is not None:
        advice = tuple(_placed(problem, document) for problem in desired.warnings(cluster))
    place = document.values["key",]
    # What stands in a file is relative to the file, what stands on a command line to where that was typed.
    key_path = _absolute(written, Path.cwd() if place.override else Path(path).absolute().parent)
    sent = tuple(overrides) if str(key_path) == written else (*overrides, f"key={json.dumps(str(key_path))}")
    try:
        key, mistake = key_bytes(key_path), None
    except ValueError as error:
        key, mistake = None, place.problem(f"key: {error}", "key")
    return ClusterFile(path, text, sent, cluster, mistakes, key, mistake, advice, document)


def key_bytes(path: Path) -> bytes:
    """Return the contents of a private key file.

    Raises:
        ValueError: it is missing, no file, not readable, readable by others, or no private key; the message says what
            to do.
    """
    try:
        # Not blocking: a FIFO would wait for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}: put the private key of the EC2 key pair there") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError(f"{path} is no file: name the private key of the EC2 key pair")
        if mode & 0o077:
            raise ValueError(f"others may read {path} (mode {stat.S_IMODE(mode):04o}): chmod 600 {path}")
        raw = os.read(descriptor, MOST_KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if raw.startswith((b"ssh-", b"ecdsa-")):
        raise ValueError(f"{path} is a public key: name the private one, mostly the same path without .pub")
    if len(raw) > MOST_KEY_BYTES or b"PRIVATE KEY-----" not in raw:
        raise ValueError(f"{path} is no private key: it has no line -----BEGIN ... PRIVATE KEY-----")
    return raw


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(yamlfile.MOST_BYTES + 1)
            size = max(len(raw), os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise _unread(
            path, "there is no such file: check the path, or begin with an example from config/clusters"
        ) from None
    except IsADirectoryError:
        raise _unread(path, "this is a folder: name the cluster file in it") from None
    except PermissionError:
        raise _unread(path, f"you may not read this file: have its owner run chmod +r {path}") from None
    except OSError as error:
        raise _unread(path, f"the file cannot be read: {error.strerror}") from error
    if size > yamlfile.MOST_BYTES:
        message = f"the file has {size:,} bytes and may have {yamlfile.MOST_BYTES:,}: is it the right one?"
        raise FailureError(Exit.USAGE, "", [f"{path}:1:1: {message}"])
    return raw


def _unread(path: Path, message: str) -> FailureError:
    return FailureError(Exit.USAGE, "", [f"{path}: {message}"])


def _document(text: str, path: str, overrides: Sequence[str]) -> yamlfile.Document | None:
    """Return the file with the places of its values; None where it is no mapping, which `parse` has told."""
    try:
        document = yamlfile.load(text, source=path, root_tags=("!AWSCluster",), mendable=[])
    except ClusterConfigurationError:
        return None
    validation.override(document, overrides)
    return document


def _placed(problem: Problem, document: yamlfile.Document) -> Problem:
    place = document.values.get(tuple(problem.field.split("."))) if problem.line is None and problem.field else None
    return place.problem(problem.message, problem.field) if place is not None else problem


def _absolute(written: str, base: Path) -> Path:
    try:
        return base / Path(written).expanduser()
    except RuntimeError:  # ~somebody who does not exist: the path is missing as it is written
        return base / written
