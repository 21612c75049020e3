"""An answer of AWS that is an error, in each of the protocols that the lab's services speak."""

from __future__ import annotations

import json
from typing import Final, Literal
from uuid import uuid4
from xml.sax.saxutils import escape

from moto.ec2.exceptions import EC2ClientError

Protocol = Literal["ec2", "query", "json"]

_EC2: Final = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message>'
    "</Error></Errors><RequestID>{request}</RequestID></Response>"
)
_QUERY: Final = (
    "<ErrorResponse><Error><Type>{type}</Type><Code>{code}</Code><Message>{message}</Message></Error>"
    "<RequestId>{request}</RequestId></ErrorResponse>"
)


class Refusal(EC2ClientError):  # noqa: N818  # a word of its own
    """EC2 says no: an error code of AWS, a message and an HTTP status (400 for the client's mistakes)."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(code, message)
        self.status = status


def error_body(protocol: Protocol, code: str, message: str, status: int) -> tuple[str, bytes]:
    """(content type, body) of an error, as the SDK's parser for `protocol` reads it."""
    if protocol == "json":
        return "application/x-amz-json-1.0", json.dumps({"__type": code, "message": message}).encode()
    template = _EC2 if protocol == "ec2" else _QUERY
    fault = "Receiver" if status >= 500 else "Sender"
    text = template.format(code=escape(code), message=escape(message), type=fault, request=uuid4())
    return "text/xml", text.encode()
