"""The control endpoint, for tests and people: what the lab saw, what there is, and what should go wrong.

GET    /lab/calls[?since=N]      the ledger: index, time, region, service, action, params, status, error, duration, struck,
                                user_agent
GET    /lab/instances[?hosts=0]  each instance; without hosts=0 with the view of its host (files, commands, ...)
GET    /lab/instances/ID         one of them
GET    /lab/alarms               CloudWatch's alarms with their state and history
GET    /lab/faults, POST, DELETE see flambed.lab.faults
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from flambed.lab.fault_kinds import BadFaultError
from flambed.lab.fleet import Fleet, Record
from flambed.lab.hosting import Hosting
from flambed.lab.ledger import Ledger
from flambed.lab.strikes import Strikes
from flambed.lab.watch import Watch
from flambed.lab.wsgi import Environ, StartResponse


class _NotFoundError(Exception):
    pass


@dataclass
class Control:
    """The WSGI application under /lab/."""

    ledger: Ledger
    fleet: Fleet
    strikes: Strikes
    watch: Watch
    hosting: Hosting
    lock: threading.RLock

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer with JSON; errors as {"error": "..."}."""
        try:
            status, answer = "200 OK", self._route(environ)
        except _NotFoundError as error:
            status, answer = "404 Not Found", {"error": str(error)}
        except (BadFaultError, json.JSONDecodeError) as error:
            status, answer = "400 Bad Request", {"error": str(error)}
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]

    def _route(self, environ: Environ) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"].removeprefix("/lab/")
        query = parse_qs(environ["QUERY_STRING"])
        routes: dict[tuple[str, str], Callable[[], Any]] = {
            ("GET", "calls"): lambda: self.ledger.since(int(query.get("since", ["0"])[0])),
            ("GET", "instances"): lambda: self._instances(query.get("hosts", ["1"])[0] != "0"),
            ("GET", "alarms"): self.watch.alarms_json,
            ("GET", "faults"): self._faults,
            ("POST", "faults"): lambda: self._post(json.loads(environ["wsgi.input"].read())),
            ("DELETE", "faults"): self._clear,
        }
        with self.lock:
            if route := routes.get((method, path)):
                return route()
            record = self.fleet.records.get(path.removeprefix("instances/"))
            if record is not None and method == "GET":
                return self._instance(record, host=True)
        raise _NotFoundError(f"there is no {method} /lab/{path}; see flambed.lab.control")

    def _faults(self) -> list[dict[str, Any]]:
        return [fault.as_json() for fault in self.strikes.faults.active()]

    def _post(self, order: Any) -> list[dict[str, Any]]:
        self.strikes.post(order)
        return self._faults()

    def _clear(self) -> list[dict[str, Any]]:
        self.strikes.clear()
        return self._faults()

    def _instances(self, hosts: bool) -> list[dict[str, Any]]:
        return [self._instance(record, host=hosts) for record in self.fleet.records.values()]

    def _instance(self, record: Record, *, host: bool) -> dict[str, Any]:
        instance = record.instance
        return {
            "id": record.id,
            "region": record.region,
            "type": instance.instance_type,
            "image": instance.image_id,
            "state": record.state,
            "reason": instance.state_reason.code or None,
            "address": record.address,
            "client_token": instance.client_token,
            "tags": {tag["key"]: tag["value"] for tag in instance.get_tags()},
            "last_tags": record.tags,  # those that it had before it ended
            "boot_delay": record.boot,
            "ssh_delay": record.ssh,
            "running_since": record.running_since,
            "ssh_since": record.ssh_since,
            "ending_since": record.ending_since,
            "cpu": self.strikes.cpu.get(record.id),  # as a fault has set it
            "gpus": record.gpus,
            "host": self.hosting.view(record.id) if host else None,
        }
