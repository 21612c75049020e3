"""The gate before moto: ledger, latency, faults, sizes and quotas, in that order, then the lab's one lock."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from flambed.lab.fault_kinds import KillFault, OutageFault
from flambed.lab.faults import Faults, Verdict
from flambed.lab.ledger import Call, Ledger
from flambed.lab.quotas import Quotas
from flambed.lab.refusal import error_body
from flambed.lab.wsgi import Application, ConnectionLostError, Environ, StartResponse, client_left

OUTAGE: Final = ("Unavailable", "The server is overloaded and can't handle the request.", 503)

RESET: Final = ("reset", "", 0)
"""Stands for an answer that is none: the connection is reset."""

LARGEST: Final = {"PutMetricData": 1_048_576}
"""Bytes of a request's body that its service takes, as it was sent (PutMetricData's: its API reference)."""


@dataclass
class Gate:
    """WSGI middleware. `application` runs under `lock`: moto is not thread-safe."""

    application: Application
    ledger: Ledger
    faults: Faults
    quotas: Quotas | None
    latency: float
    lock: threading.RLock

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one call to AWS."""
        call = self.ledger.enter(environ)
        began = time.monotonic()
        try:
            return self._answer(call, environ, start_response)
        finally:
            call.duration = time.monotonic() - began

    def _answer(self, call: Call, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        verdict = self.faults.judge(call)
        if delay := self.latency + verdict.latency:
            time.sleep(delay)  # what is simulated is the wait itself; each connection has its thread
        _kill(call, verdict.kill, "before")
        if verdict.outage:
            return self._out_of_reach(call, verdict.outage, start_response)
        if refusal := self._refusal(call, verdict):
            return _error(call, *refusal, start_response)
        head: list[Any] = []
        try:
            with self.lock:
                body = b"".join(self.application(environ, lambda *args: head.append(args)))
        except NotImplementedError as error:
            return _error(
                call, "InvalidAction", f"{call.action}: the lab's AWS cannot do this: {error}", 400, start_response
            )
        _kill(call, verdict.kill, "after")
        if outage := self.faults.outage(call):  # it began meanwhile, as it may during a long poll
            call.struck.append(outage.id)
            return self._out_of_reach(call, outage, start_response)
        if (fault := verdict.error) and fault.when == "after":
            return _error(call, fault.code, fault.message, fault.status, start_response)
        status, headers, *_ = head[-1]
        call.status = int(status.split()[0])
        if call.status >= 400:
            call.error = _error_code(call, body)
        start_response(status, headers)
        return [body]

    def _out_of_reach(self, call: Call, outage: OutageFault, start_response: StartResponse) -> Iterable[bytes]:
        while outage.mode == "silence" and self.faults.outage(call) is outage and not client_left():
            time.sleep(0.05)  # the silence is what is simulated
        return _error(call, *(OUTAGE if outage.mode == "503" else RESET), start_response)

    def _refusal(self, call: Call, verdict: Verdict) -> tuple[str, str, int] | None:
        if (fault := verdict.error) and fault.when == "before":
            return fault.code, fault.message, fault.status
        if call.size > (most := LARGEST.get(call.action, call.size)):
            return "RequestEntityTooLarge", f"Request size {call.size} exceeded {most} bytes", 413
        if self.quotas is None:
            return _dry_run(call)
        with self.lock:
            return self.quotas.refuse(call) or _dry_run(call)


def _kill(call: Call, fault: KillFault | None, when: str) -> None:
    """Kill the fault's process, if this is its moment; one that ended before by itself is not struck."""
    if fault is None or fault.when != when:
        return
    call.struck.append(fault.id)
    try:
        os.kill(fault.pid, signal.SIGKILL)
    except ProcessLookupError:
        call.struck.remove(fault.id)


def _dry_run(call: Call) -> tuple[str, str, int] | None:
    """The answer to a dry run, but for RunInstances, which checks its parameters as well (see `launches`)."""
    if call.service == "ec2" and call.action != "RunInstances" and str(call.params.get("DryRun")).lower() == "true":
        return "DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412
    return None


def _error(call: Call, code: str, message: str, status: int, start_response: StartResponse) -> Iterable[bytes]:
    call.error = code
    if code == "reset":
        raise ConnectionLostError
    call.status = status
    content_type, body = error_body(call.protocol, code, message, status)
    start_response(f"{status} {HTTPStatus(status).phrase}", [("Content-Type", content_type)])
    return [body]


def _error_code(call: Call, body: bytes) -> str:
    """AWS's error code out of an answer that moto made."""
    text = body.decode(errors="replace")
    before, after = ('"__type": "', '"') if call.protocol == "json" else ("<Code>", "</Code>")
    found = text.partition(before)[2].partition(after)[0]
    return found.rpartition("#")[2] or "unknown"
