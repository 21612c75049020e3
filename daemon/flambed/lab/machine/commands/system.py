"""id, date, uname, poweroff, systemctl, nvidia-smi: programs about the host itself."""

import asyncio
import re
import time

from flambed.lab.machine.idletimer import UNIT
from flambed.lab.machine.process import Process
from flambed.lab.machine.programs import UsageError, number, options, program

_SERVICES = {"ssh", "sshd", "cron", "systemd-journald", "systemd-logind", "cloud-init", "cloud-final", "atd"}


@program("whoami", "logname")
async def whoami(process: Process, _: list[str]) -> int:
    """Print the user's name."""
    await process.out(f"{process.user}\n")
    return 0


@program("id", "groups")
async def identity(process: Process, args: list[str]) -> int:
    """Print the user's id and name; -u -g -n -G are known."""
    found, names = options(args, "ugnGr")
    user = names[0] if names else process.user
    if user not in process.machine.users:
        raise UsageError(f"‘{user}’: no such user")  # noqa: RUF001 - as coreutils quotes
    uid = process.machine.users[user]
    if {"u", "g", "G"} & set(found) or process.argv[0] == "groups":
        await process.out(f"{user if 'n' in found or process.argv[0] == 'groups' else uid}\n")
    else:
        await process.out(f"uid={uid}({user}) gid={uid}({user}) groups={uid}({user})\n")
    return 0


@program("hostname")
async def hostname(process: Process, args: list[str]) -> int:
    """Print the host's name, with -I its address; or set the name."""
    found, names = options(args, "Iifsd")
    if names:
        process.machine.hostname = names[0]
    elif {"I", "i"} & set(found):
        await process.out(f"{process.machine.address}\n")
    else:
        await process.out(f"{process.machine.hostname}\n")
    return 0


@program("hostnamectl")
async def hostnamectl(process: Process, args: list[str]) -> int:
    """Show or set the host's name."""
    if args[:1] in (["set-hostname"], ["hostname"]) and len(args) > 1:
        process.machine.hostname = args[1]
    else:
        await process.out(f" Static hostname: {process.machine.hostname}\n")
    return 0


@program("uname")
async def uname(process: Process, args: list[str]) -> int:
    """Print what kind of system this pretends to be."""
    found, _ = options(args, "asnrvmpo")
    values = {
        "s": "Linux",
        "n": process.machine.hostname,
        "r": "6.8.0-lab",
        "v": "#1 SMP",
        "m": "x86_64",
        "o": "GNU/Linux",
    }
    wanted = values if "a" in found else {key: values[key] for key in values if key in found} or {"s": "Linux"}
    await process.out(" ".join(wanted.values()) + "\n")
    return 0


@program("nproc")
async def nproc(process: Process, _: list[str]) -> int:
    """Print a number of processors."""
    await process.out("4\n")
    return 0


@program("uptime")
async def uptime(process: Process, args: list[str]) -> int:
    """Print how long the host has been up."""
    found, _ = options(args, "ps")
    machine = process.machine
    if "s" in found:
        await process.out(time.strftime("%Y-%m-%d %H:%M:%S\n", time.gmtime(machine.booted_at)))
    else:
        minutes = int(time.time() - machine.booted_at) // 60
        users = sum(login.end is None for login in machine.logins)
        await process.out(f" up {minutes} min, {users} users, load average: {machine.load:.2f}, {machine.load:.2f}\n")
    return 0


@program("date")
async def date(process: Process, args: list[str]) -> int:
    """Print the lab's time in UTC by a format such as +%s; -d @SECONDS and %N are known."""
    found, operands = options(args, "ud:I", ["utc", "date=", "iso-8601=", "rfc-3339="])
    when = found.get("d") or found.get("date")
    now = process.machine.usage.clock.now()
    if when is not None:
        if not re.fullmatch(r"@-?\d+(\.\d+)?", when):
            raise UsageError(f"the lab's date knows only @SECONDS, not ‘{when}’")  # noqa: RUF001 - as coreutils quotes
        now = float(when[1:])
    layout = operands[0].removeprefix("+") if operands else "%a %b %e %H:%M:%S UTC %Y"
    if "I" in found:
        layout = "%Y-%m-%d"
    nanoseconds = f"{int(now % 1 * 1e9):09}"
    layout = re.sub(r"%(\d*)N", lambda m: nanoseconds[: int(m[1] or 9)], layout).replace("%s", str(int(now)))
    await process.out(time.strftime(layout, time.gmtime(now)) + "\n")
    return 0


@program("w", "who", "users", "last")
async def who(process: Process, args: list[str]) -> int:
    """Print who is logged in on a terminal."""
    now = [login for login in process.machine.logins if login.end is None and login.terminal]
    if process.argv[0] == "w" and "-h" not in args:
        await process.out(f"{len(now)} users\nUSER     TTY      FROM             LOGIN@   IDLE   JCPU   PCPU WHAT\n")
    for login in now:
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(login.start))
        await process.out(f"{login.user:8} {login.terminal:8} {when} ({login.source})\n")
    return 0


# --- the end of the host ---


@program("poweroff", "halt")
async def poweroff(process: Process, _: list[str]) -> int:
    """Switch the host off."""
    process.machine.on_poweroff()
    return 0


@program("reboot")
async def reboot(process: Process, _: list[str]) -> int:
    """Boot the host anew."""
    process.machine.on_reboot()
    return 0


@program("shutdown")
async def shutdown(process: Process, args: list[str]) -> int:
    """Switch the host off (-h, -P) or boot it anew (-r), now or in +N minutes of real time; -c takes it back."""
    found, operands = options(args, "hPHrck", ["no-wall", "poweroff", "reboot", "halt"])
    machine = process.machine
    end = machine.on_reboot if {"r", "reboot"} & set(found) else machine.on_poweroff
    if "c" in found:
        machine.cancel_shutdown()
        return 0
    when = operands[0] if operands else "+1"
    if when == "now":
        end()
        return 0
    if not re.fullmatch(r"\+?\d+", when):
        raise UsageError(f"the lab's shutdown knows now and +MINUTES, not {when}")
    machine.schedule_shutdown(60 * number(when, "time"), end)
    await process.err(f"Shutdown scheduled in {when.lstrip('+')} minutes, use 'shutdown -c' to cancel.\n")
    return 0


# --- services and devices ---


@program("systemctl", "service")
async def systemctl(process: Process, args: list[str]) -> int:
    """Tell about a few services that are always up; switch the host off; accept everything else."""
    found, operands = options(args, "qna", ["quiet", "now", "no-block", "user", "no-pager", "value", "property="])
    verb, units = (operands[0], operands[1:]) if operands else ("list-units", [])
    machine = process.machine
    match verb:
        case "poweroff" | "halt":
            machine.on_poweroff()
        case "reboot":
            machine.on_reboot()
        case "is-active" | "is-enabled" | "status":
            up = [unit.removesuffix(".service") in _SERVICES | machine.services for unit in units]
            words = ("active", "inactive") if verb != "is-enabled" else ("enabled", "disabled")
            if not {"q", "quiet"} & set(found):
                await process.out("".join(f"{words[0] if one else words[1]}\n" for one in up))
            return 0 if all(up) else 1 if verb == "is-enabled" else 3
        case "is-system-running":
            await process.out("running\n")
        case "start" | "restart" | "enable":
            machine.services |= {unit.removesuffix(".service") for unit in units}
            if UNIT in units:
                machine.idle_timer.start()
            if verb == "restart":
                _reload(process, units)
        case "reload" | "try-reload-or-restart" | "reload-or-restart":
            _reload(process, units)
        case "stop" | "disable":
            machine.services -= {unit.removesuffix(".service") for unit in units}
            if UNIT in units:
                machine.idle_timer.stop()
        case _:
            pass
    return 0


def _reload(process: Process, units: list[str]) -> None:
    if {"ssh", "sshd"} & {unit.removesuffix(".service") for unit in units}:
        process.machine.reload_sshd()


@program("cloud-init")
async def cloud_init(process: Process, args: list[str]) -> int:
    """Tell whether the first boot's work is done (status), and wait for it (status --wait)."""
    machine = process.machine
    if args[:1] != ["status"]:
        await process.out("/usr/bin/cloud-init 24.4-lab\n")
        return 0
    if {"--wait", "-w"} & set(args):
        await machine.set_up.wait()
    await process.out(f"status: {'done' if machine.set_up.is_set() else 'running'}\n")
    return 0


@program("nvidia-smi")
async def nvidia_smi(process: Process, args: list[str]) -> int:
    """Print how busy the pretend GPUs are; --query-gpu of index, name and utilization.gpu, and -L are known."""
    gpus = process.machine.gpus
    if not process.machine.driver_works:
        await process.out(
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
            "driver is installed and running.\n\n"
        )
        return 9
    if args == ["-L"]:
        await process.out("".join(f"GPU {index}: Lab GPU (UUID: GPU-{index})\n" for index in range(len(gpus))))
        return 0
    found, _ = options(args, "i:", ["query-gpu=", "format=", "query-compute-apps=", "id="])
    if "query-compute-apps" in found:
        return 0
    layout = found.get("format", "csv").split(",")
    unit = "" if "nounits" in layout else " %"
    fields = [field.strip() for field in found.get("query-gpu", "index,name,utilization.gpu").split(",")]
    if "noheader" not in layout:
        await process.out(", ".join(fields) + "\n")
    for index, busy in enumerate(gpus):
        values = {"index": str(index), "name": "Lab GPU", "utilization.gpu": f"{busy}{unit}", "count": str(len(gpus))}
        await process.out(", ".join(values.get(field, "[N/A]") for field in fields) + "\n")
    return 0


@program("free", "top", "dmesg", "journalctl", "lscpu", "ip", "ss", "loginctl")
async def nothing_to_report(process: Process, args: list[str]) -> int:  # noqa: ARG001
    """Print nothing: there is nothing to be seen on a pretend host."""
    await asyncio.sleep(0)
    return 0
