"""SSH to hosts: connect, trust, run. The only place that knows asyncssh; its errors end here, as reasons.

A host is trusted by its pinned keys and by nothing else. Nothing of the machine that the service runs on takes part:
no agent, no configuration, no known_hosts, no keys out of a home folder; nothing is forwarded.
"""

from flambed.ssh.hosts import (
    Deadlines,
    Host,
    HostKeyChangedError,
    Result,
    SshError,
    Target,
    connect,
    connect_when_up,
    shown_keys,
)
from flambed.ssh.keys import check_private_key, new_host_key, public_key_of

__all__ = [
    "Deadlines",
    "Host",
    "HostKeyChangedError",
    "Result",
    "SshError",
    "Target",
    "check_private_key",
    "connect",
    "connect_when_up",
    "new_host_key",
    "public_key_of",
    "shown_keys",
]
