"""The description of the control API in OpenAPI 3.1. Pure."""

from __future__ import annotations

from importlib import metadata
from typing import Any, Final

from flambed.control.schemas import SCHEMAS, TEXT, Schema, array, record, ref
from flambed.desired import Cluster

METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of Prometheus' text format."""

_ERRORS: Final = {
    400: "A bad document; `detail` has every mistake with its line and column.",
    403: "The caller may not do that to that cluster.",
    404: "There is no such cluster or host.",
    408: "The body did not come in time.",
    409: "It contradicts what the cluster is doing or is made of, or the name is that of several.",
    413: "The body is over 1 MiB.",
    422: "The request cannot be understood.",
    500: "A mistake of the service's own.",
    503: "The service cannot do it now.",
}

_REF: Final[Schema] = {
    "name": "ref",
    "in": "path",
    "required": True,
    "description": "NAME, or CREATOR/NAME as one percent-encoded segment.",
    "schema": TEXT,
}


def _flag(name: str, description: str) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string", "enum": ["1", "0"]}}


def _query(name: str, description: str) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": TEXT}


def _operation(
    name: str,
    summary: str,
    answer: Schema,
    *parameters: Schema,
    status: int = 200,
    stream: str = "",
    body: Schema | None = None,
    errors: tuple[int, ...] = (),
    other: Schema | None = None,
    media: str = "application/json",
) -> Schema:
    content: Schema = {media: {"schema": answer}}
    if stream == "always":
        content = {}
    if stream:
        content["application/x-ndjson"] = {"schema": {"description": "Each line that is not blank.", **answer}}
    responses: Schema = {str(status): {"description": "Done." if status == 200 else "Accepted.", "content": content}}
    responses.update(other or {})
    for code in sorted({*errors, 422, 500, 503} - {int(status) for status in responses}):
        told = {"application/json": {"schema": ref("Error")}}
        responses[str(code)] = {"description": _ERRORS[code], "content": told}
    operation: Schema = {"operationId": name, "summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = body
    return operation


def _json_body(schema: Schema, *, required: bool) -> Schema:
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def _paths() -> dict[str, dict[str, Schema]]:
    host = _query("host", "An instance id, an instance name or an address.")
    one = "/v1/clusters/{ref}"
    read, change = (404, 409), (403, 404, 408, 409, 413)
    cluster_body = {"schema": ref("Cluster")}
    plan = {
        "200": {"description": "With `plan`.", "content": {"application/json": {"schema": ref("Plan")}}},
    }
    key = {
        "name": "Flambed-Key",
        "in": "header",
        "description": "Base64 of the private key file, at most 16 KiB of it. Without it the service uses the one it has.",
        "schema": {"type": "string", "format": "byte"},
    }
    sets = {
        "name": "set",
        "in": "query",
        "description": "key=value over the file; may be repeated.",
        "schema": array(TEXT),
    }
    wait = {
        "for": {"description": 'Such as "4h"; a number needs a unit.', "type": "string"},
        "why": {"type": "string", "minLength": 1, "maxLength": 500},
    }
    return {
        "/v1/clusters": {
            "get": _operation("list", "All clusters.", array(ref("Summary"))),
            "delete": _operation(
                "downAll", "Take all clusters down; for admins.", array(ref("Status")),
                _flag("all", "Must be 1."), status=202, errors=(403, 409),
            ),
        },
        one: {
            "get": _operation(
                "status", "One cluster in full.", ref("Status"), _REF,
                _flag("follow", "Its status now and at every change."), stream="on request", errors=read,
            ),
            "put": _operation(
                "up", "Bring a cluster to life, or to its new description.", ref("Status"), _REF,
                _flag("plan", "Only tell what would be done."),
                _flag("shrink", "Give hosts back that are too many."), sets, key,
                status=202, other=plan, errors=(400, *change),
                body={"required": True, "content": {"application/yaml": cluster_body, "application/json": cluster_body}},
            ),
            "delete": _operation("down", "Terminate the whole cluster.", ref("Status"), _REF, status=202, errors=change),
        },
        f"{one}/hold": {
            "post": _operation(
                "hold", "Keep idle termination off, for a while.", ref("Status"), _REF, errors=(400, *change),
                body=_json_body(record(wait), required=True),
            )
        },
        f"{one}/release": {"post": _operation("release", "End a hold.", ref("Status"), _REF, errors=change)},
        f"{one}/retry": {
            "post": _operation(
                "retry", "Run failed set-up again, from the failed command.", ref("Status"), _REF,
                status=202, errors=change, body=_json_body(record({"host": TEXT}, "host"), required=False),
            )
        },
        f"{one}/trust": {
            "post": _operation(
                "trust", "Pin the host key with this fingerprint, if the host shows it; without one: what it shows.",
                ref("HostKey"), _REF, errors=change,
                body=_json_body(record({"host": TEXT, "fingerprint": TEXT}, "fingerprint"), required=True),
            )
        },
        f"{one}/logs": {
            "get": _operation(
                "logs", "Kept output of the set-up commands.", array(ref("Output")), _REF, host, errors=(403, *read)
            )
        },
        f"{one}/why": {
            "get": _operation("why", "Why hosts live or end.", ref("Why"), _REF, host, errors=(403, *read))
        },
        f"{one}/ssh": {
            "get": _operation(
                "ssh", "How to log in to a host, by default the orchestrator.", ref("Login"), _REF, host,
                errors=(403, *read),
            )
        },
        "/v1/events": {
            "get": _operation(
                "events", "What happened.", ref("Event"), _query("cluster", "Only of this cluster."),
                _query("since", "So long ago (10m), or a time in RFC 3339."), _flag("follow", "Go on with those to come."),
                stream="always", errors=(403, *read),
            )
        },
        "/v1/instances": {
            "get": _operation(
                "instances", "Instances, with their tags, hosts and alarm.", array(ref("Found")),
                _query("creator", "Only with this creator."), _query("host", "Only with this address."),
                errors=(403,),
            )
        },
        "/v1/orphans": {
            "get": _operation(
                "orphans", "What carries this service's tags and belongs to no known cluster; for admins.",
                array(ref("Orphan")), errors=(403,),
            )
        },
        "/v1/orphans/remove": {
            "post": _operation(
                "removeOrphans", "Remove orphans that were listed, and tell what becomes of each; for admins.",
                ref("Removal"), stream="always", errors=(403, 408, 413),
                body=_json_body(record({"ids": array(TEXT)}), required=True),
            )
        },
        "/v1/doctor": {"get": _operation("doctor", "Check what the service needs.", array(ref("Check")))},
        "/v1/health": {
            "get": _operation(
                "health", "How the service itself is.", ref("Health"),
                other={
                    "503": {
                        "description": "It is not ready.",
                        "content": {"application/json": {"schema": ref("Health")}},
                    }
                },
            )
        },
        "/v1/openapi.json": {"get": _operation("openapi", "This document.", {"type": "object"})},
        "/metrics": {
            "get": _operation("metrics", "Metrics for Prometheus; docs/monitoring.md has what to alert on.", TEXT, media=METRICS)
        },
    }  # fmt: skip


def document() -> dict[str, Any]:
    """Return the whole description, as JSON types."""
    cluster = Cluster.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = cluster.pop("$defs", {})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "flambed",
            "version": metadata.version("flambed"),
            "license": {"name": "MIT", "identifier": "MIT"},
            "description": "HTTP/1.1 on a Unix socket: curl --unix-socket SOCKET http://localhost/v1/clusters. "
            "The caller is known by the socket; every answer that is not listed as a stream is one JSON document.",
        },
        "servers": [{"url": "http://localhost", "description": "Any host: the socket decides."}],
        "paths": _paths(),
        "components": {"schemas": {**SCHEMAS, "Cluster": cluster, **parts}},
    }
