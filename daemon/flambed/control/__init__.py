"""The control API: HTTP/1.1 and JSON on a Unix socket. It submits what people ask for and shows what is.

    service     what the API serves, as a Protocol
    server      the paths, and the life of the server
    gate        who is let in
    requests    reading: queries, bodies, keys, callers
    answers     writing: documents, streams, errors
    schemas     the documents                                                                    pure
    openapi     the paths                                                                        pure
    unixsocket  opening the socket, and knowing who is at its other end

Nothing is decided here. A request becomes a call of the `Service`, together with the `Caller` that the kernel vouches
for; what the service raises becomes an answer by the table `answers.ANSWERS`.
"""

from flambed.control.answers import Emit
from flambed.control.server import Control
from flambed.control.service import Service
from flambed.control.unixsocket import SocketError

__all__ = ["Control", "Emit", "Service", "SocketError"]
