"""The documents that the control API gives and takes, as JSON Schema. Pure."""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

PHASES: Final = ("converging", "ready", "degraded", "failed", "stopping", "gone")
STAGES: Final = (
    "requested", "pending", "running", "reachable", "setting_up", "ready", "failed", "stopping", "gone"
)  # fmt: skip

TEXT: Final[Schema] = {"type": "string"}
TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}
NUMBER: Final[Schema] = {"type": "integer"}
NUMBER_OR_NULL: Final[Schema] = {"type": ["integer", "null"]}
YES_NO: Final[Schema] = {"type": "boolean"}
TIME_OR_NULL: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}


def record(properties: Schema, *optional: str, description: str = "") -> Schema:
    """Return the schema of an object; what is not optional is always there, and more may be."""
    schema = {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }
    return {"description": description, **schema} if description else schema


def array(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _by_role(value: Schema) -> Schema:
    return record({"Orchestrator": value, "Factory": value})


_SUMMARY: Final[Schema] = {
    "name": TEXT,
    "creator": TEXT,
    "region": TEXT,
    "phase": {"type": "string", "enum": list(PHASES)},
    "reason": {"description": "Why it is in this phase; null where that needs no saying.", **TEXT_OR_NULL},
    "read_only": {
        "description": "Why the service begins nothing, and what to do: its journal cannot be written. null while it can.",
        **TEXT_OR_NULL,
    },
}

_INSTANCE: Final[Schema] = {
    "id": {"description": "EC2's id; null while it is only requested.", **TEXT_OR_NULL},
    "role": {"type": "string", "enum": ["Orchestrator", "Factory"]},
    "index": {"description": "Which factory, counting from 0; null for the orchestrator.", **NUMBER_OR_NULL},
    "name": TEXT_OR_NULL,
    "type": TEXT,
    "stage": {"type": "string", "enum": list(STAGES)},
    "public_host": TEXT_OR_NULL,
    "private_host": TEXT_OR_NULL,
    "protected": {
        "description": "An armed alarm, a timer seen running, or a timeout of -1 stands for it. null where that is not "
        "known, as of a cluster whose record was lost.",
        "type": ["boolean", "null"],
    },
    "protection": record({"alarm": YES_NO, "timer": YES_NO}),
    "terminates_at": {
        "description": "Its end if nothing more happens; null while a vote keeps it alive.", **TIME_OR_NULL
    },
    "reason": TEXT_OR_NULL,
}  # fmt: skip

SCHEMAS: Final[dict[str, Schema]] = {
    "Summary": record(_SUMMARY, "read_only", description="One cluster, without its instances."),
    "Status": record({**_SUMMARY, "instances": array(ref("Instance"))}, "read_only", description="One cluster in full."),
    "Instance": record(_INSTANCE, "protection", description="One instance of a cluster."),
    "Plan": record(
        {
            "name": TEXT,
            "region": TEXT,
            "launch": {"description": "How many instances of which role.", **_by_role(NUMBER)},
            "keep": {"description": "Instances that stay.", **array(TEXT)},
            "retire": {"description": "Instances that would be terminated.", **array(TEXT)},
            "surplus": {"description": "Factories that are too many, and stay without `shrink`.", **array(TEXT)},
            "start": {"description": "Stopped instances that would be started.", **array(TEXT)},
            "adopt": {"description": "Instances that somebody else launched.", **array(TEXT)},
            "setup": {"description": "Whether set-up commands would run.", **YES_NO},
            "alarms": {"description": "Idle minutes by role; null for never.", **_by_role(NUMBER_OR_NULL)},
        },
        description="What `up` would do.",
    ),
    "Output": record(
        {
            "instance": TEXT,
            "name": TEXT_OR_NULL,
            "number": {"description": "Which set-up command, counting from 0.", **NUMBER},
            "attempt": NUMBER,
            "command": TEXT,
            "code": {"description": "Its exit code; null while it runs.", **NUMBER_OR_NULL},
            "output": {"description": "The last 64 KiB of what it wrote.", **TEXT},
        },
        description="The kept output of one set-up command on one host.",
    ),
    "Why": record(
        {
            "name": TEXT,
            "creator": TEXT,
            "phase": _SUMMARY["phase"],
            "reason": TEXT_OR_NULL,
            "hosts": array(
                record(
                    {
                        "instance": TEXT_OR_NULL,
                        "name": TEXT_OR_NULL,
                        "stage": _INSTANCE["stage"],
                        "summary": {"description": "One sentence for a person.", **TEXT},
                        "terminates_at": TIME_OR_NULL,
                        "signals": array(
                            record({"signal": TEXT, "value": TEXT, "at": TIME_OR_NULL}, "at")
                        ),
                    },
                    "signals",
                )
            ),
        },
        description="Why hosts are alive, failed or about to end.",
    ),
    "Login": record(
        {
            "instance": TEXT,
            "name": TEXT_OR_NULL,
            "address": TEXT,
            "port": NUMBER,
            "username": TEXT,
            "host_keys": {"description": "The pinned public keys, in OpenSSH format.", **array(TEXT)},
            "key_path": {"description": "`key` of the cluster file: a path on the owner's machine.", **TEXT},
        },
        description="How to log in to a host. Never a private key.",
    ),
    "HostKey": record(
        {
            "instance": TEXT,
            "name": TEXT,
            "pinned": {"description": "Fingerprints of the keys that it might show before.", **array(TEXT)},
            "shown": {"description": "Fingerprints of the keys that it shows; nothing vouches for them.", **array(TEXT)},
            "trusted": {"description": "The fingerprint of the key that is pinned now; null: none was named.", **TEXT_OR_NULL},
        },
        description="What key a host shows, and which one is pinned.",
    ),
    "Event": {
        **record(
            {
                "timestamp": {"type": "string", "format": "date-time"},
                "level": TEXT,
                "event": {"description": "A dotted name out of the catalogue.", **TEXT},
                "cluster": TEXT_OR_NULL,
                "instance": TEXT_OR_NULL,
                "action": TEXT_OR_NULL,
                "cause": {"description": "The id of the fact that led to it.", "type": ["integer", "string", "null"]},
            },
            "level", "cluster", "instance", "action", "cause",
            description="One event, with fields of its own beside these (`flambed schema events`).",
        ),
        "additionalProperties": True,
    },
    "Found": record(
        {
            "id": TEXT,
            "region": TEXT,
            "name": TEXT_OR_NULL,
            "type": TEXT,
            "state": {"description": "EC2's word for it.", **TEXT},
            "role": TEXT_OR_NULL,
            "cluster": TEXT_OR_NULL,
            "creator": TEXT_OR_NULL,
            "public_host": TEXT_OR_NULL,
            "private_host": TEXT_OR_NULL,
            "tags": {"type": "object", "additionalProperties": TEXT},
            "alarm": {"description": "Whether it has an alarm that ends it.", **YES_NO},
        },
        description="One instance, wherever it belongs.",
    ),
    "Orphan": record(
        {
            "kind": {"type": "string", "enum": ["instance", "alarm", "volume"]},
            "id": {"description": "EC2's id; of an alarm its name.", **TEXT},
            "region": TEXT,
            "state": {"description": "AWS's word for it.", **TEXT},
            "name": {"description": "Its tag Name.", **TEXT_OR_NULL},
            "cluster": {"description": "Its tag Cluster-Name.", **TEXT_OR_NULL},
            "creator": TEXT_OR_NULL,
            "cluster_id": {"description": "The id of the cluster that its tags name.", **TEXT_OR_NULL},
            "created_at": TIME_OR_NULL,
            "removable": {"description": "Seen twice, and older than the grace time.", **YES_NO},
            "reason": {"description": "Why it is not removable yet.", **TEXT_OR_NULL},
        },
        description="Something of this service's that belongs to no cluster that is known.",
    ),
    "Removal": record(
        {
            "kind": {"type": ["string", "null"], "enum": ["instance", "alarm", "volume", None]},
            "id": TEXT,
            "region": TEXT_OR_NULL,
            "outcome": {
                "description": "An instance is `ending` until EC2 says that it is terminated.",
                "type": "string",
                "enum": ["ending", "removed", "refused"],
            },
            "reason": {"description": "Why it was refused.", **TEXT_OR_NULL},
        },
        description="What became of an orphan that was to be removed.",
    ),
    "Check": record(
        {
            "check": TEXT,
            "ok": {"description": "null: it could not be found out.", "type": ["boolean", "null"]},
            "message": TEXT,
            "advice": TEXT_OR_NULL,
        },
        "advice",
        description="One thing that the service needs, and how it is.",
    ),
    "Health": {
        **record(
            {
                "ok": YES_NO,
                "version": TEXT,
                "searching": {
                    "description": "Why clusters that run may not be known yet: the journal was lost. null once they are.",
                    **TEXT_OR_NULL,
                },
            },
            "version", "searching",
            description="How the service itself is.",
        ),
        "additionalProperties": True,
    },
    "Error": record(
        {
            "error": record(
                {
                    "code": TEXT,
                    "message": TEXT,
                    "detail": array(
                        record(
                            {
                                "message": TEXT,
                                "line": NUMBER_OR_NULL,
                                "column": NUMBER_OR_NULL,
                                "field": TEXT_OR_NULL,
                            }
                        )
                    ),
                }
            )
        },
        description="What went wrong, to what, and what to do.",
    ),
}  # fmt: skip
