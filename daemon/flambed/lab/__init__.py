"""The lab: a pretend AWS with pretend hosts, for the demo, the tests and the benchmarks.

A process of its own that imports nothing of flambed: moto's server for the breadth of the API, and in front of
it, or in its place, what the real service does. `flambed lab --help` lists the switches; flambed.lab.control tells
what can be read, flambed.lab.faults what can be made to go wrong.

Where the lab bends the truth:

- Addresses. Instances live in VPCs inside 127.0.0.0/8, so that a host can listen on its private address. The
  public address and the public DNS name of a running instance are that same loopback address; nothing resolves
  the private DNS name. All hosts answer SSH on one unprivileged port (`ssh_port`) instead of 22. Security groups
  and routes are kept and not enforced. There is no default VPC.
- Connecting. On AWS a connection to a host that boots times out at first, and is refused later. A loopback address
  cannot be silent, so here it is refused from the start. The host fault `mute` is the nearest to a time-out: the
  connection opens, and then nothing is said.
- Time. Boot, SSH and shutdown delays are drawn from the seed by image, type and order of launch, and are shorter
  than AWS's. With --minute, CloudWatch's time and the hosts' own clocks (date, /proc/uptime, the idle timer that
  their user data installs) run faster than the clock on the wall; nothing else does.
- Permissions. Any credentials are accepted and everything is allowed; there is one account, 123456789012.
- Client tokens are remembered for 24 hours after the last of their instances ended (AWS does not say how long).
- Instance types are offered in every zone; CPU, memory and GPUs are only described.
- An alarm with an EC2 action is refused for an instance in any state but `running`: AWS does not say for which.
- Quotas are AWS's published token buckets. All Describe calls of EC2 share one bucket per region, all other
  changes another. Only EC2 and CloudWatch have any.
- Tags of an instance vanish the moment it is terminated, and it is described for an hour after that.
- Termination protection spares all named instances of the protected one's zone; those of other zones end.
- State-change events arrive within milliseconds, once and in order, unless a fault says otherwise.
- EventBridge sends whole events: input transformers are kept and not applied.
- A queue keeps a message from a long poll whose client is gone; AWS may lose sight of it for its visibility time.
- Volumes are created and attached at once. Snapshots hold nothing. Kernels, ramdisks and launch templates of
  RunInstances are ignored.
- The console output of a host that has not booted is empty.
- Everything that CloudWatch bends is told in flambed.lab.watch, everything about hosts in flambed.lab.hosts.

With the same seed and the same order of calls the same ids and delays come out. Calls that arrive at the same
time are taken in the order in which the threads got the lock.
"""

from __future__ import annotations

import os
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the lab until SIGTERM or SIGINT; the exit code. `argv` without the program's name, default sys.argv."""
    os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"  # moto reads it while it is imported
    from flambed.lab.server import run  # noqa: PLC0415  # so that flambed.lab alone loads no moto

    return run(argv)
