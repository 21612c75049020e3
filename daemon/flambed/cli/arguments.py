"""The commands of flambectl and their options: a table, the parser made of it, and what completion knows."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

SHELLS: Final = ("bash", "zsh", "fish")


@dataclass(frozen=True, slots=True)
class Argument:
    """One option or positional argument of a command, as argparse takes it."""

    name: str
    help: str
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def takes_value(self) -> bool:
        """Whether an option is followed by a value."""
        return self.name.startswith("-") and self.more.get("action") != "store_true"


@dataclass(frozen=True, slots=True)
class Command:
    """One command; `commands.RUN` has the function of the same name."""

    name: str
    help: str
    arguments: tuple[Argument, ...] = ()
    epilog: str | None = None
    rest: str = ""  # what else its usage shows

    @property
    def options(self) -> tuple[Argument, ...]:
        """The arguments that begin with a dash, the ones of all commands included."""
        return tuple(one for one in (*self.arguments, *COMMON) if one.name.startswith("-"))

    @property
    def positionals(self) -> tuple[Argument, ...]:
        """The others."""
        return tuple(one for one in self.arguments if not one.name.startswith("-"))


def _flag(name: str, text: str) -> Argument:
    return Argument(name, text, {"action": "store_true"})


COMMON: Final = (
    Argument("--socket", "the service's socket (else $FLAMBED_SOCKET, else the usual places)", {"metavar": "PATH"}),
    _flag("--json", "print JSON: one document, or one a line where it is a stream"),
)

_NAME: Final = Argument("name", "NAME, or CREATOR/NAME where several clusters have the name", {"metavar": "NAME"})
_HOST: Final = Argument(
    "host", "an instance id, an instance name or an address", {"metavar": "HOST", "nargs": "?", "default": None}
)
_FILE: Final = Argument("file", "the cluster file", {"metavar": "FILE"})
_SET: Final = Argument(
    "--set",
    "a value over the file's, such as factories_num=4 or tags.project=x; may be repeated",
    {"metavar": "KEY=VALUE", "action": "append", "default": [], "dest": "overrides"},
)
_SHRINK: Final = _flag("--shrink", "give back hosts that are too many; without it nothing is taken away")
_DETACH: Final = _flag("--detach", "return as soon as the service has accepted it")
_YES: Final = _flag("--yes", "do not ask")

COMMANDS: Final = (
    Command(
        "up",
        "bring the cluster in FILE to life, or to its new description",
        (_FILE, _SET, _DETACH, _SHRINK, _flag("--plan", "only show what would be done")),
        "A relative path of the key file is relative to the cluster file. Interrupting this never interrupts the cluster.",
    ),
    Command(
        "down",
        "terminate the whole cluster; returns when EC2 has confirmed",
        (
            Argument("name", "NAME, or CREATOR/NAME", {"metavar": "NAME", "nargs": "?", "default": None}),
            _YES,
            _DETACH,
            _flag("--all", "all clusters of everybody; for admins"),
        ),
    ),
    Command("list", "one line a cluster", (_flag("--names", "only the names, for scripts"),)),
    Command("status", "one cluster in full", (_NAME,)),
    Command("watch", "one cluster, live", (_NAME,)),
    Command("validate", "check a cluster file, without the service and without a call to AWS", (_FILE, _SET)),
    Command("plan", "show what `up` would do", (_FILE, _SET, _SHRINK)),
    Command(
        "events",
        "what happened",
        (
            Argument("name", "only of this cluster", {"metavar": "NAME", "nargs": "?", "default": None}),
            _flag("--follow", "go on with what happens"),
            Argument("--since", "so long ago (10m, 2h), or a time in RFC 3339", {"metavar": "T"}),
            _flag("--all", "also the small steps (of level debug)"),
        ),
    ),
    Command("logs", "kept output of the set-up commands", (_NAME, _HOST)),
    Command(
        "hold",
        "keep idle termination off, for a while",
        (
            _NAME,
            Argument("--for", "how long, such as 4h", {"metavar": "TIME", "required": True, "dest": "duration"}),
            Argument("--why", "what for, for those who ask", {"metavar": "TEXT", "required": True}),
        ),
    ),
    Command("release", "end a hold", (_NAME,)),
    Command("why", "why hosts are alive, failed or about to end, and when", (_NAME, _HOST)),
    Command("retry", "run failed set-up again, from the failed command", (_NAME, _HOST)),
    Command(
        "trust",
        "pin the host key that a host shows, once you have checked it",
        (
            _NAME,
            Argument("host", "an instance id, an instance name or an address", {"metavar": "HOST"}),
            Argument(
                "--fingerprint",
                "the key's fingerprint, known from elsewhere; without it you are shown the key and asked",
                {"metavar": "SHA256:..."},
            ),
        ),
        "On the host itself `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints the fingerprint.",
    ),
    Command(
        "ssh",
        "log in to a host, by default the orchestrator, with the real ssh client and the pinned host key",
        (_NAME, _HOST, Argument("--key", "another private key than the cluster file's", {"metavar": "PATH"})),
        "What follows -- is run on the host: flambectl ssh NAME HOST -- nvidia-smi",
        "[-- COMMAND]",
    ),
    Command(
        "gc",
        "remove what is left over: instances, alarms and volumes of this service that belong to no cluster; for admins",
        (_YES, _flag("--plan", "only show what there is")),
        "Lists first, and asks. Instances are ended until EC2 confirms, then alarms and volumes are deleted.",
    ),
    Command("doctor", "check credentials, permissions, queue, quotas, clock and key files; say what to do"),
    Command("version", "the versions of flambectl and of the service"),
    Command(
        "completion",
        "print the completion script of a shell",
        (Argument("shell", ", ".join(SHELLS), {"metavar": "SHELL", "choices": SHELLS}),),
        "bash: source <(flambectl completion bash). fish: flambectl completion fish | source.",
    ),
)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments as a namespace: `command`, `json`, `socket` and those of the command.

    For `ssh`, `remote` is the list of words after `--`. Bad usage ends the process with 2, as argparse does.
    """
    parser = _parser()
    _check_command(parser, argv)
    # argparse would take the words after -- for HOST.
    if "ssh" in argv and "--" in argv:
        end = list(argv).index("--")
        args = parser.parse_args(argv[:end], _defaults())
        if args.command == "ssh":
            args.remote = list(argv[end + 1 :])
            return args
    args = parser.parse_args(argv, _defaults())
    if args.command == "down" and args.name is None and not args.all:
        parser.error("down: give the NAME of a cluster, or --all")
    if args.command == "down" and args.name is not None and args.all:
        parser.error("down: give NAME or --all, not both")
    return args


def _check_command(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Refuse an unknown command with the one that was meant; argparse would list all of them."""
    known = [command.name for command in COMMANDS]
    words = iter(argv)
    for word in words:
        if word in {one.name for one in COMMON if one.takes_value}:
            next(words, None)
        elif not word.startswith("-"):
            if word not in known:
                from flambed.wording import nearest  # noqa: PLC0415 - only here, and it takes its time

                parser.error(f"there is no command {word!r}: {nearest(word, known)}")
            return


def _defaults() -> argparse.Namespace:
    # In the namespace and not in the parsers: a subparser's own default would undo what stood before the command.
    return argparse.Namespace(json=False, socket=None, remote=[])


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    for argument in COMMON:
        common.add_argument(argument.name, help=argument.help, **argument.more)
    parser = argparse.ArgumentParser(
        prog="flambectl",
        description="Brings GPU clusters on AWS to life, watches over them, and gives them back.",
        epilog="Exit codes: 0 done, 1 the cluster failed, 2 bad usage or bad file, 3 no service, 4 not permitted, "
        "5 no such cluster or host, 130 interrupted.",
        parents=[common],
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = subparsers.add_parser(
            command.name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            epilog=command.epilog,
            parents=[common],
            allow_abbrev=False,
        )
        for argument in command.arguments:
            sub.add_argument(argument.name, help=argument.help, **argument.more)
        if command.rest:
            sub.usage = f"{sub.format_usage().removeprefix('usage: ').rstrip()} {command.rest}"
    return parser
