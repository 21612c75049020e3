"""lab-fail and lab-flaky, which exist only here; and package managers and languages that pretend to work.

lab-fail [N] [CODE]   fails the first N times (1) on this host with CODE (1), counted per N and CODE; then succeeds
lab-flaky P [CODE]    fails with probability P, drawn from the lab's seed and the instance's id
"""

from flambed.lab.machine.process import Process
from flambed.lab.machine.programs import UsageError, number, program

_METADATA = "http://169.254.169.254/latest/"


@program("lab-fail")
async def lab_fail(process: Process, args: list[str]) -> int:
    """Fail the first N times."""
    times = int(number(args[0], "number") if args else 1)
    code = int(number(args[1], "number") if len(args) > 1 else 1)
    counter = f"lab-fail {times} {code}"
    process.machine.counters[counter] += 1
    count = process.machine.counters[counter]
    if count > times:
        await process.out(f"lab-fail: attempt {count} succeeds\n")
        return 0
    await process.err(f"lab-fail: attempt {count} of {times} that fail\n")
    return code


@program("lab-flaky")
async def lab_flaky(process: Process, args: list[str]) -> int:
    """Fail now and then."""
    if not args:
        raise UsageError("usage: lab-flaky PROBABILITY [CODE]", 2)
    if process.machine.random.random() >= number(args[0], "probability"):
        return 0
    await process.err("lab-flaky: not this time\n")
    return int(number(args[1], "number")) if len(args) > 1 else 1


@program("apt-get", "apt", "apt-key", "add-apt-repository", "dpkg", "snap", "yum", "dnf", "conda", "mamba")
async def package_manager(process: Process, args: list[str]) -> int:
    """Pretend to install."""
    await process.out(f"lab: pretending {' '.join([process.argv[0], *args])}\n")
    return 0


@program("pip", "pip3", "git", "docker", "make", "npm", "tar", "unzip", "rsync", "wget", "aws", "ssh", "scp", "ray")
async def tool(process: Process, args: list[str]) -> int:
    """Pretend to work."""
    await process.out(f"lab: pretending {' '.join([process.argv[0], *args])}\n")
    return 0


@program("python3", "python", "perl", "node", "useradd", "usermod", "groupadd", "crontab", "logger")
async def language(process: Process, args: list[str]) -> int:
    """Pretend to run; a program on standard input is read to its end."""
    if args in ([], ["-"]):
        await process.read_all()
    await process.out(f"lab: pretending {' '.join([process.argv[0], *args])}\n")
    return 0


@program("curl")
async def curl(process: Process, args: list[str]) -> int:
    """Ask the instance's metadata for its id, address and host name; reach nothing else (status 7)."""
    url = next((arg for arg in args if arg.startswith("http")), "")
    machine = process.machine
    known = {
        "api/token": "lab-token",
        "meta-data/instance-id": machine.instance_id,
        "meta-data/local-ipv4": machine.address,
        "meta-data/local-hostname": machine.hostname,
    }
    path = url.removeprefix(_METADATA)
    if url.startswith(_METADATA) and path in known:
        await process.out(known[path])
        return 0
    await process.err(f"curl: (7) Failed to connect to {url}: the lab's hosts reach nothing\n")
    return 7
