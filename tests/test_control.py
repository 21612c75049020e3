"""The control API over a real Unix socket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import grp
import gzip
import io
import json
import logging
import os
import pwd
import re
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog.testing
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import flambed.log
from flambed.access import Rules
from flambed.cli.client import Client, cluster_path
from flambed.cli.failure import FailureError
from flambed.control import Control, SocketError, answers, gate, openapi, unixsocket
from flambed.control.schemas import PHASES
from flambed.errors import (
    ClusterConfigurationError,
    ClusterError,
    ConflictError,
    FlambedError,
    NotAllowedError,
    NotKnownError,
    OverLimitError,
    Problem,
)
from tests.eventsseen import saw
from tests.fakeservice import CREATOR, FakeService, orphan, status

FILE = f"""\
name: demo
creator: {CREATOR}
factories_num: 2
factories_type: g5.xlarge
orchestrator_type: t3.large
key_name: demo
key: /home/ann/.ssh/demo
security_group: sg-1
subnet_id: subnet-1
"""
YAML = {"Content-Type": "application/yaml"}
SECRET = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n"


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, /, **fields: Any) -> None:
        saw(event)
        self.events.append((event, fields))

    def named(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == event]


class Api:
    """A running control API, its service, its log and a client."""

    def __init__(self, path: Path, service: FakeService, log: Log, http: aiohttp.ClientSession) -> None:
        self.path, self.service, self.log, self.http = path, service, log, http

    async def call(self, method: str, path: str, **arguments: Any) -> tuple[int, Any]:
        async with self.http.request(method, f"http://localhost{path}", **arguments) as response:
            assert response.content_type == "application/json"
            return response.status, await response.json()

    async def error(self, method: str, path: str, **arguments: Any) -> tuple[int, str, str]:
        code, body = await self.call(method, path, **arguments)
        assert set(body) == {"error"}
        assert set(body["error"]) == {"code", "message", "detail"}
        return code, body["error"]["code"], body["error"]["message"]


@contextlib.asynccontextmanager
async def serving(path: Path, service: FakeService) -> AsyncIterator[Path]:
    """Serve on a path, and stop in any case."""
    control = Control(service, rules=Rules(), emit=Log())
    await control.start(path)
    try:
        yield path
    finally:
        await control.close()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """An API with one ready cluster; at the end no follower, no change and no socket is left."""
    service, log, path = FakeService(status()), Log(), tmp_path / "control.sock"
    control = Control(service, rules=Rules(), emit=log, heartbeat=0.05)
    await control.start(path)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http:
        yield Api(path, service, log, http)
    await control.close()
    assert service.followers == 0
    assert not path.exists()


async def raw(path: Path, request: bytes) -> bytes:
    """Send bytes as they are; return all that comes until the server closes."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


# --- what is shown ---


async def test_the_list_has_every_cluster_without_its_instances(api: Api) -> None:
    """GET /v1/clusters is an array of status documents without `instances`."""
    assert await api.call("GET", "/v1/clusters") == (
        200,
        [{"name": "demo", "creator": CREATOR, "region": "us-east-1", "phase": "ready", "reason": None}],
    )


async def test_a_cluster_is_found_by_name_and_by_creator_and_name_in_one_segment(api: Api) -> None:
    """CREATOR%2FNAME is one segment; both ways answer the same document."""
    by_name = await api.call("GET", "/v1/clusters/demo")
    assert by_name[1]["instances"][0]["name"] == "demo_orchestrator"
    assert await api.call("GET", "/v1/clusters/ann%40example.com%2Fdemo") == by_name


async def test_a_name_of_several_clusters_is_a_conflict_and_an_unknown_one_is_not_known(api: Api) -> None:
    """409 for the ambiguous, 404 for the unknown, each with the service's own words."""
    api.service.known["bob@x", "demo"] = status(creator="bob@x")
    assert await api.error("GET", "/v1/clusters/demo") == (
        409, "conflict", "several clusters are named 'demo': write CREATOR/NAME"
    )  # fmt: skip
    code, word, message = await api.error("GET", "/v1/clusters/d%C3%A9mo%20x")
    assert (code, word) == (404, "not_known")
    assert "'démo x'" in message
    assert (await api.error("GET", "/v1/events?follow=1&cluster=nope"))[:2] == (404, "not_known")


async def test_instances_events_doctor_and_health_are_served(api: Api) -> None:
    """Each answers the service's documents; filters go through."""
    assert len((await api.call("GET", "/v1/instances?host=10.0.0.4"))[1]) == 1
    assert await api.call("GET", "/v1/instances?host=10.9.9.9") == (200, [])
    assert (await api.call("GET", "/v1/doctor"))[1][0]["check"] == "credentials"
    assert await api.call("GET", "/v1/health") == (200, {"ok": True, "version": "0.1.0", "searching": None})
    api.service.ok = False
    assert (await api.call("GET", "/v1/health"))[0] == 503


async def test_metrics_are_a_text_for_prometheus_that_everybody_may_read(api: Api) -> None:
    """The media type is the one that is described; nobody is asked who they are."""
    async with api.http.get("http://localhost/metrics") as response:
        assert (response.status, response.headers["Content-Type"]) == (200, openapi.METRICS)
        assert await response.read() == api.service.metrics()
    assert api.log.named("control.request_refused") == []


async def test_orphans_are_listed_and_their_removal_is_a_stream(api: Api) -> None:
    """Only those that are named are removed, and each line tells of one."""
    api.service.left_over = [orphan("instance", 1), orphan("volume", 2), orphan("volume", 3)]
    assert (await api.call("GET", "/v1/orphans"))[1] == api.service.left_over
    asked = {"ids": [orphan("instance", 1)["id"], orphan("volume", 2)["id"]]}
    async with api.http.post("http://localhost/v1/orphans/remove", json=asked) as response:
        lines = [json.loads(line) for line in (await response.text()).splitlines() if line]
    assert (response.status, response.content_type) == (200, "application/x-ndjson")
    assert [(one["kind"], one["outcome"]) for one in lines] == [
        ("instance", "ending"),
        ("instance", "removed"),
        ("volume", "removed"),
    ]
    code, word, message = await api.error("POST", "/v1/orphans/remove", json={"ids": "i-1"})
    assert (code, word, message) == (422, "unreadable", "'ids' must be a list of texts")


async def test_logs_why_and_ssh_tell_the_service_who_asks(api: Api) -> None:
    """All three pass the caller and the host on."""
    for name in ("logs", "why", "ssh"):
        await api.call("GET", f"/v1/clusters/demo/{name}?host=demo_factory_1")
    assert [(name, arguments) for name, _, arguments in api.service.calls] == [
        (name, {"ref": "demo", "host": "demo_factory_1"}) for name in ("logs", "why", "ssh")
    ]
    assert {caller.pid for _, caller, _ in api.service.calls} == {os.getpid()}


# --- what is changed ---


async def test_a_cluster_file_comes_in_with_its_overrides_and_key(api: Api) -> None:
    """PUT answers 202 with the status; document, `set`, `shrink` and the decoded key reach the service."""
    code, body = await api.call(
        "PUT",
        "/v1/clusters/demo?shrink=1&set=factories_num=3&set=tags.a%3Db",
        data=FILE.encode(),
        headers={**YAML, "Flambed-Key": base64.b64encode(SECRET.encode()).decode()},
    )
    assert (code, body["phase"], len(body["instances"])) == (202, "converging", 4)
    [(name, caller, arguments)] = api.service.calls
    assert name == "up"
    assert caller.uid == os.getuid()
    assert arguments == {
        "document": FILE, "ref": "demo", "overrides": ("factories_num=3", "tags.a=b"), "key": SECRET, "shrink": True
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["application/yaml", "application/json; charset=utf-8", None])
async def test_the_document_may_be_yaml_or_json_and_needs_no_content_type(api: Api, kind: str | None) -> None:
    """JSON is YAML; `curl -T` sends no Content-Type at all."""
    text = json.dumps(dict(line.split(": ") for line in FILE.splitlines()) | {"factories_num": 2})
    code, _ = await api.call(
        "PUT",
        "/v1/clusters/demo",
        data=text.encode(),
        headers={"Content-Type": kind} if kind else {},
        skip_auto_headers=() if kind else ("Content-Type",),
    )
    assert code == 202


async def test_a_plan_changes_nothing(api: Api) -> None:
    """`?plan=1` answers 200 with what would be done, and only `plan` is called."""
    code, body = await api.call("PUT", "/v1/clusters/demo?plan=1", data=FILE, headers=YAML)
    assert (code, body["launch"]) == (200, {"Orchestrator": 1, "Factory": 2})
    assert [name for name, _, _ in api.service.calls] == ["plan"]


async def test_every_mistake_in_a_document_comes_with_its_line_column_and_field(api: Api) -> None:
    """400, with one detail for each mistake, in the order of the document."""
    bad = FILE.replace("factories_num: 2", "factories_nums: 2").replace("sg-1", "xx")
    code, body = await api.call("PUT", "/v1/clusters/demo", data=bad, headers=YAML)
    assert (code, body["error"]["code"]) == (400, "bad_document")
    assert re.fullmatch("cluster file: 2 mistakes; nothing was changed", body["error"]["message"])
    places = [(one["line"], one["column"], one["field"]) for one in body["error"]["detail"]]
    assert (3, 1, "factories_nums") in places
    assert (8, 17, "security_group") in places


async def test_a_document_that_is_not_utf8_is_a_bad_document(api: Api) -> None:
    """The mistake is located at the first byte that is none."""
    code, body = await api.call("PUT", "/v1/clusters/demo", data=b"name: demo\ncreator: \xff\n", headers=YAML)
    assert (code, body["error"]["detail"][0]["line"], body["error"]["detail"][0]["column"]) == (400, 2, 10)


async def test_down_answers_202_with_the_status(api: Api) -> None:
    """DELETE of one cluster."""
    code, body = await api.call("DELETE", "/v1/clusters/demo")
    assert (code, body["phase"]) == (202, "stopping")


async def test_taking_all_down_is_for_admins_and_leaves_the_gone_alone(tmp_path: Path) -> None:
    """Root may, and each live cluster is taken down; a caller who is no admin is refused and nothing is touched."""
    service = FakeService(status("one"), status("two", "gone"), status("three"))
    nobody = Control(service, rules=_Nobody(), emit=Log())
    root = Control(service, rules=_Everybody(), emit=Log())
    for control, name in ((nobody, "nobody.sock"), (root, "root.sock")):
        await control.start(tmp_path / name)
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / name))) as http:
            one = Api(tmp_path / name, service, Log(), http)
            if control is nobody:
                assert (await one.error("DELETE", "/v1/clusters?all=1"))[:2] == (403, "not_allowed")
                assert service.calls == []
            else:
                code, body = await one.call("DELETE", "/v1/clusters?all=1")
                assert (code, [cluster["name"] for cluster in body]) == (202, ["one", "three"])
                assert (await one.error("DELETE", "/v1/clusters"))[:2] == (422, "unreadable")
        await control.close()


class _Nobody(Rules):
    """Rules by which nobody is an admin."""

    def is_admin(self, caller: object) -> bool:
        return False


class _Everybody(Rules):
    """Rules by which everybody is an admin."""

    def is_admin(self, caller: object) -> bool:
        return True


async def test_hold_release_retry_and_trust_pass_their_arguments_on(api: Api) -> None:
    """Durations are read here; an empty body is an empty object."""
    assert (await api.call("POST", "/v1/clusters/demo/hold", json={"for": "1h30m", "why": " a long look "}))[0] == 200
    assert (await api.call("POST", "/v1/clusters/demo/release"))[0] == 200
    assert (await api.call("POST", "/v1/clusters/demo/retry", json={"host": "demo_factory_0"}))[0] == 202
    assert (await api.call("POST", "/v1/clusters/demo/retry"))[0] == 202
    key = f"SHA256:{'b' * 43}"
    for named in ({}, {"fingerprint": key}):
        assert (await api.call("POST", "/v1/clusters/demo/trust", json={"host": "demo_factory_0", **named}))[0] == 200
    assert [(name, arguments) for name, _, arguments in api.service.calls] == [
        ("hold", {"ref": "demo", "seconds": 5400.0, "why": "a long look"}),
        ("release", {"ref": "demo"}),
        ("retry", {"ref": "demo", "host": "demo_factory_0"}),
        ("retry", {"ref": "demo", "host": None}),
        ("trust", {"ref": "demo", "host": "demo_factory_0", "fingerprint": None}),
        ("trust", {"ref": "demo", "host": "demo_factory_0", "fingerprint": key}),
    ]


async def test_a_change_is_carried_out_although_its_client_goes_away(api: Api) -> None:
    """The connection is cut while `up` waits; it ends all the same."""
    api.service.gate = asyncio.Event()
    request = asyncio.create_task(api.call("PUT", "/v1/clusters/demo", data=FILE, headers=YAML))
    await api.service.called.wait()
    request.cancel()
    await asyncio.wait([request])
    await api.call("GET", "/v1/health")  # the server has seen the connection go
    assert api.service.done == []
    api.service.gate.set()
    await api.call("GET", "/v1/health")
    assert api.service.done == ["up"]


# --- who calls ---


async def test_the_caller_is_this_process_with_its_user_and_groups(api: Api) -> None:
    """uid, gid and pid come from the kernel, names from the user database."""
    await api.call("DELETE", "/v1/clusters/demo")
    [(_, caller, _)] = api.service.calls
    assert (caller.uid, caller.gid, caller.pid) == (os.getuid(), os.getgid(), os.getpid())
    assert caller.name == pwd.getpwuid(os.getuid()).pw_name
    assert grp.getgrgid(os.getgid()).gr_name in caller.groups


async def test_a_process_of_another_user_is_another_caller(api: Api) -> None:
    """A client that runs under another uid, one without a user name, is seen as that uid: the mode of the socket lets it in."""
    if os.getuid() != 0:  # only root can become somebody else: an ordinary user is checked to be itself
        await api.call("DELETE", "/v1/clusters/demo")
        assert api.service.calls[0][1].uid == os.getuid()
        return
    for folder in (parent for parent in api.path.parents if parent.name.startswith(("pytest-", "popen-", "test_"))):
        folder.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "-X", "DELETE", "--unix-socket", str(api.path), "http://localhost/v1/clusters/demo",
        user=54_321, group=54_321, extra_groups=[], stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await process.communicate()
    assert process.returncode == 0
    [(_, caller, _)] = api.service.calls
    assert (caller.uid, caller.name, caller.groups) == (54_321, "54321", frozenset())


# --- errors ---


async def test_every_event_of_the_api_fits_the_catalogue(tmp_path: Path) -> None:
    """A strict log takes what is logged when it listens, refuses and meets a bug."""
    service = FakeService(status())
    control = Control(service, rules=Rules(), emit=flambed.log.Log(strict=True).emit)
    with structlog.testing.capture_logs() as logged:
        await control.start(tmp_path / "s")
        for error in (ConflictError("no"), ZeroDivisionError("boom")):
            service.raises = error
            with contextlib.suppress(FailureError):
                await asyncio.to_thread(Client(tmp_path / "s").request, "DELETE", "/v1/clusters/demo")
        await control.close()
    assert [line["event"] for line in logged] == [
        "control.listening", "control.request_refused", "control.request_failed"
    ]  # fmt: skip
    assert "ZeroDivisionError: boom" in logged[-1]["traceback"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotAllowedError("bob may not"), (403, "not_allowed", "bob may not")),
        (OverLimitError("ann may not", [Problem("5 is the limit", field="limits.ann.vcpus")]), (403, "not_allowed", "ann may not: 5 is the limit; ask for less, or have an admin change the settings")),
        (NotKnownError("no such host"), (404, "not_known", "no such host")),
        (ConflictError("it is stopping"), (409, "conflict", "it is stopping")),
        (ClusterError("not now"), (409, "conflict", "not now")),
        (FlambedError("the journal is full"), (503, "unavailable", "the journal is full")),
        (ClusterConfigurationError([Problem("too long")], "hold"), (400, "bad_document", "hold: too long; nothing was changed")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)  # fmt: skip
async def test_what_the_service_raises_becomes_its_status_and_code(
    api: Api, error: FlambedError, expected: tuple[int, str, str]
) -> None:
    """Every error of the house has one line in the table, and is logged as refused."""
    api.service.raises = error
    assert await api.error("DELETE", "/v1/clusters/demo") == expected
    assert [fields["code"] for fields in api.log.named("control.request_refused")] == [expected[1]]


async def test_a_bug_is_a_500_that_names_the_event_in_the_log_and_spares_the_next_request(api: Api) -> None:
    """The client learns nothing of the inside; the log has the exception."""
    api.service.raises = ZeroDivisionError("a secret thing")
    code, word, message = await api.error("DELETE", "/v1/clusters/demo")
    assert (code, word) == (500, "bug")
    assert "secret" not in message
    assert api.log.named("control.request_failed")[0]["error"] == "ZeroDivisionError('a secret thing')"
    assert (await api.call("DELETE", "/v1/clusters/demo"))[0] == 202


@pytest.mark.parametrize(
    ("method", "path", "arguments", "expected"),
    [
        ("GET", "/v2", {}, (404, "not_found", "no such path")),
        ("GET", "/v1/clusters/a/b", {}, (404, "not_found", "no such path")),
        ("PATCH", "/v1/clusters/demo", {}, (405, "method_not_allowed", "does not take this method")),
        ("GET", "/v1/clusters?color=red", {}, (422, "unreadable", "no parameter 'color': it takes none")),
        ("PUT", "/v1/clusters/demo?shirnk=1", {"data": FILE, "headers": YAML}, (422, "unreadable", "no parameter 'shirnk'")),
        ("PUT", "/v1/clusters/demo?plan=maybe", {"data": FILE, "headers": YAML}, (422, "unreadable", "'plan' is 'maybe'")),
        ("PUT", "/v1/clusters/demo?plan=1&plan=0", {"data": FILE, "headers": YAML}, (422, "unreadable", "given 2 times")),
        ("PUT", "/v1/clusters/demo", {"headers": YAML}, (422, "unreadable", "the body is empty")),
        ("PUT", "/v1/clusters/demo", {"data": FILE, "headers": {"Content-Type": "text/html"}}, (422, "unreadable", "'text/html'")),
        ("PUT", "/v1/clusters/demo", {"data": FILE, "headers": {**YAML, "Flambed-Key": "%%%"}}, (422, "unreadable", "Flambed-Key")),
        ("PUT", "/v1/clusters/demo", {"data": FILE, "headers": {**YAML, "Flambed-Key": "QUJD" * 5500}}, (422, "unreadable", "16,500 bytes")),
        ("PUT", "/v1/clusters/demo", {"data": io.BytesIO(b"#" * ((1 << 20) + 1)), "headers": YAML}, (413, "request_entity_too_large", "larger than 1,048,576")),
        ("POST", "/v1/clusters/demo/hold", {"data": "{"}, (422, "unreadable", "not JSON")),
        ("POST", "/v1/clusters/demo/hold", {"data": "[" * 100_000}, (422, "unreadable", "not JSON")),
        ("POST", "/v1/clusters/demo/hold", {"json": []}, (422, "unreadable", "no JSON object")),
        ("POST", "/v1/clusters/demo/hold", {"json": {"why": "x"}}, (422, "unreadable", "lacks 'for'")),
        ("POST", "/v1/clusters/demo/hold", {"json": {"for": "soon", "why": "x"}}, (422, "unreadable", "no duration")),
        ("POST", "/v1/clusters/demo/hold", {"json": {"for": "4", "why": "x"}}, (422, "unreadable", "'for': '4' has no unit")),
        ("POST", "/v1/clusters/demo/hold", {"json": {"for": 4, "why": "x"}}, (422, "unreadable", "'for': 4 has no unit")),
        ("POST", "/v1/clusters/demo/hold", {"json": {"for": ["4h"], "why": "x"}}, (422, "unreadable", "must be a duration")),
        ("POST", "/v1/clusters/demo/hold", {"json": {"for": "1h", "why": "a\nb"}}, (422, "unreadable", "printable")),
        ("POST", "/v1/clusters/demo/hold", {"data": '{"for": "1h", "why": "\\ud800"}'}, (422, "unreadable", "printable")),
        ("POST", "/v1/clusters/demo/retry", {"json": {"hots": "x"}}, (422, "unreadable", "'hots' that means nothing: it takes host")),
        ("POST", "/v1/clusters/demo/trust", {}, (422, "unreadable", "lacks 'host'")),
        ("POST", "/v1/clusters/demo/trust", {"json": {"host": "x", "fingerprint": "b" * 43}}, (422, "unreadable", "SHA256")),
        ("GET", "/v1/events?since=yesterday", {}, (422, "unreadable", "'yesterday' is no time")),
        ("GET", "/v1/events?since=2026-01-31T09:00:00", {}, (422, "unreadable", "with its offset")),
    ],
)  # fmt: skip
async def test_a_request_that_cannot_be_understood_is_refused_by_name(
    api: Api, method: str, path: str, arguments: dict[str, Any], expected: tuple[int, str, str]
) -> None:
    """Status, code and message say what is wrong; nothing reaches the service."""
    code, word, message = await api.error(method, path, **arguments)
    assert (code, word) == expected[:2]
    assert expected[2] in message
    assert api.service.calls == []


async def test_a_body_without_a_length_is_cut_off_at_the_limit(api: Api) -> None:
    """A chunked body of 2 MiB is refused as well."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(32):
            yield b"#" * 65_536

    assert (await api.error("PUT", "/v1/clusters/demo", data=chunks(), headers=YAML))[0] == 413


async def test_a_small_body_that_unpacks_to_a_large_one_is_cut_off(api: Api) -> None:
    """64 MiB of zeros in 64 KB of gzip: the limit is on what comes out."""
    body = io.BytesIO(gzip.compress(bytes(1 << 26)))
    assert (await api.error("PUT", "/v1/clusters/demo", data=body, headers={**YAML, "Content-Encoding": "gzip"}))[
        0
    ] == 413


async def test_a_body_that_does_not_come_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that announces a body and stays silent gets a 408."""
    monkeypatch.setattr("flambed.control.requests.READ_SECONDS", 0.05)
    reader, writer = await asyncio.open_unix_connection(str(api.path))
    writer.write(
        b"PUT /v1/clusters/demo HTTP/1.1\r\nHost: x\r\nContent-Type: text/yaml\r\nContent-Length: 9\r\n\r\nname"
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.close()
    await writer.wait_closed()


async def test_a_key_is_in_no_log_whatever_happens_to_its_request(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a bug, nor a refusal, nor a header that is too long for the parser brings the key into a log."""
    caplog.set_level(logging.DEBUG)
    encoded = base64.b64encode(SECRET.encode()).decode()
    for error in (ZeroDivisionError("boom"), ConflictError("no")):
        api.service.raises = error
        await api.error("PUT", "/v1/clusters/demo", data=FILE, headers={**YAML, "Flambed-Key": encoded})
    answer = await raw(
        api.path, b"PUT /v1/clusters/demo HTTP/1.1\r\nFlambed-Key: " + encoded.encode() * 500 + b"\r\n\r\n"
    )
    assert b" 400 Bad Request" in answer.splitlines()[0]
    logged = caplog.text + repr(api.log.events)
    assert "refused a malformed request" in logged
    assert encoded[:40] not in logged
    assert "c2VjcmV0" not in logged


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(min_size=1, max_size=300))
def test_no_bytes_at_all_bring_the_server_down(tmp_path: Path, garbage: bytes) -> None:
    """After any bytes on one connection the next one is served."""

    async def life() -> None:
        async with serving(tmp_path / "s", FakeService()) as path:
            _, writer = await asyncio.open_unix_connection(str(path))
            writer.write(garbage)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            answer = await raw(path, b"GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")

    asyncio.run(life())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=40), body=st.binary(max_size=40))
def test_no_query_and_no_body_is_a_bug(tmp_path: Path, query: str, body: bytes) -> None:
    """Whatever is sent to `hold`, the answer is 200, 400 or 422, and never 500."""

    async def life() -> None:
        async with (
            serving(tmp_path / "s", FakeService(status())) as path,
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http,
            http.post(
                "http://localhost/v1/clusters/demo/hold", params={query: query} if query else {}, data=body
            ) as response,
        ):
            assert response.status in {200, 400, 422}

    asyncio.run(life())


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ref=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda ref: ref.strip("."))
)
@example(ref="ann@x/a%2Fb")
def test_every_name_reaches_the_service_as_flambectl_sent_it(tmp_path: Path, ref: str) -> None:
    """Slashes, percent signs, blanks, Unicode: one segment, encoded by the client and decoded here."""

    async def life() -> None:
        async with serving(tmp_path / "s", FakeService(status())) as path:
            with pytest.raises(FailureError, match="there is no cluster") as refused:
                await asyncio.to_thread(Client(path).get, cluster_path(ref))
        assert refused.value.message.startswith(f"there is no cluster {ref!r}")

    asyncio.run(life())


# --- streams ---


async def test_a_follower_gets_the_status_now_and_at_every_change(api: Api) -> None:
    """NDJSON, a document a line."""
    async with api.http.get("http://localhost/v1/clusters/demo?follow=1") as response:
        assert (response.status, response.content_type) == (200, "application/x-ndjson"), api.log.events
        assert json.loads(await _line(response))["phase"] == "ready"
        await api.service.change(phase="degraded")
        assert json.loads(await _line(response))["phase"] == "degraded"


async def test_a_quiet_stream_sends_blank_lines(api: Api) -> None:
    """So that each side learns that the other is there."""
    async with api.http.get("http://localhost/v1/clusters/demo?follow=1") as response:
        assert json.loads(await _line(response))["phase"] == "ready"
        assert await response.content.readline() == b"\n"


async def test_a_follower_that_goes_away_is_forgotten_at_once(api: Api) -> None:
    """Its generator in the service is closed, without waiting for a heartbeat to fail."""
    response = await api.http.get("http://localhost/v1/clusters/demo?follow=1")
    await _line(response)
    assert api.service.followers == 1
    response.close()
    async with asyncio.timeout(5):
        await api.service.alone.wait()


async def test_a_follower_that_takes_nothing_is_dropped(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that stays connected and does not read is cut off after a while."""
    monkeypatch.setattr("flambed.control.answers.WRITE_SECONDS", 0.1)
    reader, writer = await asyncio.open_unix_connection(str(api.path), limit=1)
    writer.write(b"GET /v1/clusters/demo?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readexactly(1)
    async with asyncio.timeout(10):
        while api.service.followers:
            await api.service.change(reason="x" * 200_000)
            await asyncio.sleep(0.01)
    writer.close()


async def test_an_error_in_the_middle_of_a_stream_is_its_last_line(api: Api) -> None:
    """The cluster is forgotten while it is followed: the stream says so and ends well."""
    async with api.http.get("http://localhost/v1/clusters/demo?follow=1") as response:
        await _line(response)
        api.service.known.clear()
        await api.service.change()
        assert json.loads(await _line(response))["error"]["code"] == "not_known"
        assert await response.content.read() == b""


async def test_events_come_from_a_moment_on_and_go_on_with_follow(api: Api) -> None:
    """`since` takes RFC 3339; a stream that does not follow ends."""
    await api.service.happen("instance.running", cluster="demo")
    await api.service.happen("instance.running", cluster="other")
    async with api.http.get("http://localhost/v1/events?cluster=demo&since=2026-01-31T10:00:00%2B01:00") as response:
        assert [json.loads(line)["cluster"] for line in (await response.read()).splitlines()] == ["demo"]
    assert api.service.calls[-1][2]["since"] == 1769850000.0
    async with api.http.get("http://localhost/v1/events?follow=1") as response:
        assert [json.loads(await _line(response))["cluster"] for _ in range(2)] == ["demo", "other"]
        await api.service.happen("instance.ready")
        assert json.loads(await _line(response))["event"] == "instance.ready"


async def test_stopping_the_service_ends_its_streams_well(tmp_path: Path) -> None:
    """A follower sees the end of its stream, not a broken connection, and soon."""
    service, path = FakeService(status()), tmp_path / "s"
    control = Control(service, rules=Rules(), emit=Log())
    await control.start(path)
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http,
        http.get("http://localhost/v1/clusters/demo?follow=1") as response,
    ):
        await _line(response)
        async with asyncio.timeout(3):
            await control.close()
        assert await response.content.read() == b""
    assert service.followers == 0


async def _line(response: aiohttp.ClientResponse) -> bytes:
    """Return the next line that is not blank."""
    while (line := await response.content.readline()) == b"\n":
        pass
    return line


# --- the socket ---


async def test_the_socket_is_open_to_everybody_and_stale_ones_are_replaced(tmp_path: Path) -> None:
    """Mode 0666, whatever the umask; a leftover of a crash is no obstacle; missing folders are made."""
    path = tmp_path / "run" / "control.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    control = Control(FakeService(), rules=Rules(), emit=Log())
    await control.start(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    await control.close()


async def test_a_socket_that_somebody_listens_on_is_not_stolen(api: Api) -> None:
    """A second service is refused with a message that says what to do, and the first goes on."""
    with pytest.raises(SocketError, match=r"another service listens on .*control\.sock: stop it"):
        await Control(FakeService(), rules=Rules(), emit=Log()).start(api.path)
    assert (await api.call("GET", "/v1/health"))[0] == 200


def test_a_file_in_the_way_and_a_path_that_is_too_long_are_refused(tmp_path: Path) -> None:
    """Nothing is removed, and the message names the path."""
    (tmp_path / "file").write_text("precious")
    with pytest.raises(SocketError, match="something else has that name"):
        unixsocket.listen(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(SocketError, match="AF_UNIX path too long; give another one"):
        unixsocket.listen(tmp_path / ("x" * 120))


async def test_an_inherited_socket_is_served_and_not_removed(tmp_path: Path) -> None:
    """As systemd passes it on; the file belongs to systemd."""
    path = tmp_path / "s"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    control = Control(FakeService(), rules=Rules(), emit=Log())
    await control.start(server.detach())
    assert b" 200 " in await raw(path, b"GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await control.close()
    assert path.exists()


async def test_who_was_let_in_before_a_stop_is_answered_and_who_comes_after_waits_for_the_next_service(
    tmp_path: Path,
) -> None:
    """A connection that has not asked yet is served to its end; one that comes now is the next service's, and not lost."""
    path = tmp_path / "s"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    request = b"GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    first, second = (Control(FakeService(), rules=Rules(), emit=Log()) for _ in range(2))
    await first.start(os.dup(server.fileno()))
    assert b" 200 " in await raw(path, request)
    reader, writer = await asyncio.open_unix_connection(path)
    await raw(path, request)  # the one before it has been accepted by then
    closing = asyncio.create_task(first.close())
    await asyncio.sleep(0)
    late = asyncio.create_task(raw(path, request))
    await asyncio.sleep(0)
    writer.write(request)
    assert b" 200 " in await reader.readline()
    writer.close()
    await closing
    assert not late.done()
    await second.start(os.dup(server.fileno()))
    assert b" 200 " in await late
    await second.close()
    server.close()


async def test_a_user_has_so_many_connections_and_no_more(api: Api) -> None:
    """One that is too many is told so and closed, the log tells it once, and there is room again when others end."""
    request = b"GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    crowd = [await asyncio.open_unix_connection(api.path) for _ in range(gate.MOST_OF_A_USER)]
    for _ in range(3):
        answer = await raw(api.path, b"")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"256 connections open" in answer
    assert len(api.log.named("control.crowded")) == 1
    for _, writer in crowd:
        writer.close()
        await writer.wait_closed()
    assert b" 200 " in await raw(api.path, request)


def test_users_are_counted_apart() -> None:
    """What one has open is nothing to another."""
    told: list[tuple[int, int]] = []
    door = gate.Gate(lambda uid, count: told.append((uid, count)), most=2)
    assert [door.enter(1) for _ in range(3)] == [True, True, False]
    assert door.enter(2)
    door.leave(1)
    assert [door.enter(1) for _ in range(3)] == [True, False, False]
    assert told == [(1, 2), (1, 2)]


def test_a_descriptor_that_is_no_unix_socket_is_refused() -> None:
    """A file and a TCP socket are both told apart, and stay open: they are not ours."""
    with pytest.raises(SocketError, match="is no socket"), Path("/dev/null").open() as file:
        unixsocket.inherited(file.fileno())
    with socket.socket() as tcp:
        with pytest.raises(SocketError, match="is no Unix stream socket"):
            unixsocket.inherited(tcp.fileno())
        assert tcp.getsockname()


# --- the description ---


def test_the_description_has_exactly_the_paths_that_are_served() -> None:
    """Every route is described and everything described is routed."""

    async def routes() -> set[tuple[str, str]]:
        return {(m.lower(), p) for m, p, _ in Control(FakeService(), rules=Rules(), emit=Log()).routes()}

    described = {(m, p) for p, operations in openapi.document()["paths"].items() for m in operations}
    assert described == asyncio.run(routes())


def test_every_error_of_the_table_is_described_where_it_can_come() -> None:
    """400 and 403 where documents come in, 422, 500 and 503 everywhere."""
    paths = openapi.document()["paths"]
    for operations in paths.values():
        for operation in operations.values():
            assert {"422", "500", "503"} <= set(operation["responses"])
    assert {"202", "200", "400", "403", "404", "408", "409", "413"} <= set(
        paths["/v1/clusters/{ref}"]["put"]["responses"]
    )
    assert {status for _, status, _ in answers.ANSWERS} == {400, 403, 404, 409, 422, 503}


async def test_the_answers_are_as_described(api: Api) -> None:
    """Each GET, each change and an error are held against their schemas; every reference in the description leads somewhere."""
    _, described = await api.call("GET", "/v1/openapi.json")
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)):
        assert name in described["components"]["schemas"]
    await api.service.happen("instance.running", cluster="demo")
    api.service.outputs = [
        {"instance": "i-1", "name": "x", "number": 0, "attempt": 1, "command": "true", "code": 0, "output": ""}
    ]
    calls: list[tuple[str, str, dict[str, Any]]] = [
        (method, path, {})
        for path, operations in described["paths"].items()
        for method in operations
        if method == "get" and path not in ("/v1/events", "/metrics")  # a stream, and a text
    ]
    one = "/v1/clusters/{ref}"
    calls += [
        ("put", one, {"data": FILE, "headers": YAML}),
        ("post", f"{one}/hold", {"json": {"for": "60s", "why": "x"}}),
        ("post", f"{one}/trust", {"json": {"host": "demo_factory_0"}}),
    ]
    calls += [("post", f"{one}/release", {}), ("post", f"{one}/retry", {}), ("delete", one, {})]
    for method, path, arguments in calls:
        code, body = await api.call(method.upper(), path.replace("{ref}", "demo"), **arguments)
        answer = described["paths"][path][method]["responses"][str(code)]["content"]["application/json"]["schema"]
        assert list(_mismatches(answer, body, described)) == []
    code, body = await api.call("GET", "/v1/clusters/nope")
    assert list(_mismatches({"$ref": "#/components/schemas/Error"}, body, described)) == []
    async with api.http.get("http://localhost/v1/events") as response:
        event = json.loads(await response.content.readline())
    assert list(_mismatches({"$ref": "#/components/schemas/Event"}, event, described)) == []
    assert list(_mismatches({"$ref": "#/components/schemas/Status"}, {**status(), "phase": "odd"}, described)) == [
        f"phase: 'odd' is none of {list(PHASES)}"
    ]


_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list, "null": type(None)
}  # fmt: skip


def _mismatches(schema: dict[str, Any], value: Any, root: dict[str, Any], at: str = "") -> Any:
    """Yield where a value is not as its schema says, as far as the description uses JSON Schema."""
    if "$ref" in schema:
        yield from _mismatches(root["components"]["schemas"][schema["$ref"].rpartition("/")[2]], value, root, at)
        return
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not any(isinstance(value, _TYPES[kind]) for kind in kinds):
        yield f"{at}: {value!r} is no {kinds}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    if isinstance(value, dict):
        for name in schema.get("required", []):
            if name not in value:
                yield f"{at}.{name} is missing"
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                yield from _mismatches(inner, value[name], root, f"{at}.{name}".lstrip("."))
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _mismatches(schema["items"], item, root, f"{at}[{index}]")
