"""What the tests against real parts share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.parts import real_part, real_root
from tests.real.hosts import RealHost, real_host


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Callable[..., RealHost]]:
    """Makes hosts, each with its own sshd; at the end none is left."""
    real_root("network namespaces")
    for program, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("sshd", "openssh-server")):
        real_part(program, package)
    tmp_path.chmod(0o755)
    with ExitStack() as stack:
        yield lambda **how: stack.enter_context(real_host(tmp_path, **how))
