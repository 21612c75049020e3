"""The ledger: what was asked of the lab's AWS, call by call."""

from __future__ import annotations

import gzip
import io
import json
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

from flambed.lab.refusal import Protocol
from flambed.lab.wsgi import Environ

SECRETS: Final = {"UserData", "PublicKeyMaterial", "Password", "SecretString"}
"""Parameters of which the ledger keeps the length only."""


@dataclass
class Call:
    """One request to AWS as the lab saw it."""

    index: int
    time: float  # UNIX seconds, real time
    region: str
    service: str  # ec2, cloudwatch, sqs, events, ssm, iam, ...
    action: str  # RunInstances, ...
    params: dict[str, Any]  # nested as in the SDK's wire names; no user data, no secrets
    protocol: Protocol
    size: int  # bytes of the body as it was sent, compressed or not
    user_agent: str  # what the client calls itself
    status: int | None = None  # HTTP status; None: still running, or the connection was reset
    error: str | None = None  # AWS's error code
    duration: float | None = None  # real seconds
    struck: list[int] = field(default_factory=list)  # ids of the faults that did something to it


class Ledger:
    """All calls in the order they came."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._lock = threading.Lock()

    def enter(self, environ: Environ) -> Call:
        """Record the request in `environ`, whose body is left readable (and uncompressed)."""
        body = environ["wsgi.input"].read()
        size = len(body)
        if environ.pop("HTTP_CONTENT_ENCODING", "") == "gzip":
            body = gzip.decompress(body)
            environ["CONTENT_LENGTH"] = str(len(body))
        environ["wsgi.input"] = io.BytesIO(body)
        service, region = _scope(environ.get("HTTP_AUTHORIZATION", ""))
        protocol: Protocol = "ec2" if service == "ec2" else "query"
        if target := environ.get("HTTP_X_AMZ_TARGET"):
            protocol, action, params = "json", target.rpartition(".")[2], _summary(json.loads(body or b"{}"))
        else:
            flat = dict(parse_qsl((body or environ["QUERY_STRING"].encode()).decode(), keep_blank_values=True))
            action = flat.pop("Action", f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
            flat.pop("Version", None)
            params = _summary(_nested(flat))
        with self._lock:
            agent = environ.get("HTTP_USER_AGENT", "")
            call = Call(len(self._calls), time.time(), region, service, action, params, protocol, size, agent)
            self._calls.append(call)
        return call

    def since(self, index: int) -> list[dict[str, Any]]:
        """The calls from `index` on, as JSON."""
        with self._lock:
            calls = self._calls[index:]
        return [{k: v for k, v in asdict(call).items() if k not in {"protocol", "size"}} for call in calls]


def _scope(authorization: str) -> tuple[str, str]:
    """(service, region) out of a signature's credential scope: KEY/DATE/REGION/SERVICE/aws4_request."""
    credential = authorization.partition("Credential=")[2].split(",")[0].split("/")
    if len(credential) != 5:
        return "unsigned", "us-east-1"
    return {"monitoring": "cloudwatch"}.get(credential[3], credential[3]), credential[2]


def _nested(flat: dict[str, str]) -> dict[str, Any]:
    """{"Tag.1.Key": "a"} -> {"Tag": [{"Key": "a"}]}: the query protocol's numbered lists undone."""
    root: dict[str, Any] = {}
    for name, value in flat.items():
        node = root
        *path, last = name.split(".")
        for part in path:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):  # "A" and "A.1" in one request: keep the first
                break
            node = child
        else:
            node[last] = value
    return {name: _lists(value) for name, value in root.items()}


def _lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if set(node) == {"member"}:  # AWS's query protocol proper wraps list items once more
        return _lists(node["member"])
    if node and all(key.isdigit() for key in node):
        return [_lists(node[key]) for key in sorted(node, key=int)]
    return {key: _lists(value) for key, value in node.items()}


def _summary(value: Any) -> Any:
    """`value` without secrets, long texts cut, and no more than 50 structures of a list."""
    if isinstance(value, dict):
        return {k: f"<{len(str(v))} characters>" if k in SECRETS else _summary(v) for k, v in value.items()}
    if isinstance(value, list):
        if len(value) > 50 and isinstance(value[0], dict):
            return [*(_summary(item) for item in value[:50]), f"<{len(value) - 50} more>"]
        return [_summary(item) for item in value]
    if isinstance(value, str) and len(value) > 1024:
        return f"{value[:1024]}<{len(value) - 1024} more characters>"
    return value
