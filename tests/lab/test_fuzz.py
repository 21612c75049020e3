"""Thousands of requests that nobody would send: no answer is a 500, none is another than documented, and nothing leaks.

The requests are made up out of the service's own OpenAPI document, and out of cluster files with one thing changed. How many
there are is in FUZZ (10,000 were sent at once; CI sends fewer).
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from tests.lab.labproc import start_lab
from tests.lab.serviceproc import Service, start_service

REQUESTS: Final = int(os.environ.get("FUZZ", "300"))
QUIET: Final = settings(
    deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True, print_blob=False
)
MOST_FILES, MOST_KIB = 8, 16_384
"""Descriptors and memory by which the service may grow meanwhile: connections that are just being closed, and caches."""

_ODD: Final = [json.dumps(word).encode() for word in ("", "\0", "../..", "9" * 400, "${x}", "\u202e")] + [
    b"&a [*a]", b"!!python/object:os.system x", b"<<: *x", b"1e999", b"-0", b"0x7fffffffffffffff", b"\t", b"\xff\xfe", b"{", b"? ",
]  # fmt: skip


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """A service that has a cluster, so that there is something to be hit."""
    with start_lab("--boot", "0.1", "--ssh-delay", "0", "--quotas", "off") as lab, start_service(lab) as running:
        running.up(running.file(factories_num=1))
        yield running


@contextmanager
def over_tcp(path: Path) -> Iterator[str]:
    """A loopback port that leads to a Unix socket, for a client that knows of no other; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def carry(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):  # either side has gone
                while data := source.recv(65536):
                    target.sendall(data)
            with suppress(OSError):
                target.shutdown(socket.SHUT_WR)

        def serve(client: socket.socket) -> None:
            with client, socket.socket(socket.AF_UNIX) as server:
                server.connect(str(path))
                back = threading.Thread(target=carry, args=(server, client))
                back.start()
                carry(client, server)
                back.join()

        def accept() -> None:
            with suppress(OSError):  # it was closed: the end
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=serve, args=(client,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def held(service: Service) -> tuple[int, int]:
    """How many descriptors the service has open, and its memory in KiB."""
    folder = Path(f"/proc/{service.pid}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return len(list((folder / "fd").iterdir())), int(status["VmRSS"].split()[0])


@pytest.mark.timeout(0 if REQUESTS > 2000 else 240)
def test_no_request_out_of_the_openapi_document_is_a_bug(service: Service) -> None:
    """Fitting and unfitting ones, for every path and method: each answer is one that the document tells of."""
    schema = schemathesis.openapi.from_dict(service.api("GET", "/v1/openapi.json").document)
    operations: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr] # no Err
    answers: Counter[int] = Counter()
    with over_tcp(service.socket) as url:
        assail(operations[0], schemathesis.GenerationMode.POSITIVE, url, answers, 20)
        before = held(service)
        for operation in operations:
            for mode in schemathesis.GenerationMode:
                assail(operation, mode, url, answers, max(1, REQUESTS // len(operations) // 2))
    after = held(service)
    sys.stdout.write(f"{answers.total()} requests: {dict(sorted(answers.items()))}; {before} before, {after} after\n")
    assert after[0] <= before[0] + MOST_FILES
    assert after[1] <= before[1] + MOST_KIB


def assail(operation: Any, mode: Any, url: str, answers: Counter[int], count: int) -> None:
    """Send as many requests of one operation, and look at each answer."""

    @settings(QUIET, max_examples=count)
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        if case.query:
            case.query.pop("follow", None)  # its answer has no end
        response = case.call(base_url=url, timeout=20)
        answers[response.status_code] += 1
        assert response.status_code != 500, response.text
        assert str(response.status_code) in {*operation.responses.status_codes, "404", "405"}, response.text
        assert response.status_code < 400 or response.json()["error"]["code"], response.text

    with suppress(Unsatisfiable):  # what takes no parameters cannot be asked wrongly
        send()


@pytest.mark.timeout(0 if REQUESTS > 2000 else 240)
def test_no_cluster_file_with_one_thing_changed_is_a_bug(service: Service) -> None:
    """Bytes swapped, cut out and put in: each is refused with the place named, or planned."""
    file = Path(service.file(name="d", setup_cmds=["prepare --fast"], tags={"team": "vision"})).read_bytes()
    answers: Counter[int] = Counter()

    @settings(QUIET, max_examples=REQUESTS)
    @given(at=st.integers(0, len(file)), gone=st.integers(0, 9), new=st.binary(max_size=6) | st.sampled_from(_ODD))
    def send(at: int, gone: int, new: bytes) -> None:
        changed = file[:at] + new + file[at + gone :]
        answer = service.api("PUT", "/v1/clusters/d?plan=1", changed, key=True)
        answers[answer.status] += 1
        assert answer.status in {200, 400, 403, 409, 413, 422, 503}, (changed, answer)
        if answer.status == 400:
            assert all("message" in problem for problem in answer.document["error"]["detail"]), answer

    before = held(service)
    send()
    after = held(service)
    sys.stdout.write(f"{answers.total()} files: {dict(sorted(answers.items()))}; {before} before, {after} after\n")
    assert answers[400] > REQUESTS / 20, "hardly any file was a bad one"
    assert after[0] <= before[0] + MOST_FILES
    assert after[1] <= before[1] + MOST_KIB
