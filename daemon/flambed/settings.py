"""The service's own settings: a file, the environment over it, the command line over both.

A setting `a.b` is `FLAMBED_A__B` in the environment.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from flambed import daemonid, fields, validation, yamlfile
from flambed.durations import Duration
from flambed.errors import ClusterConfigurationError, Problem
from flambed.wording import nearest, shown
from flambed.yamlfile import Document
from flambed.yamltree import Place

DEFAULT_FILE: Final = Path("/etc/flambed/flambed.yaml")
SYSTEM_SOCKET: Final = Path("/run/flambed/control.sock")

_PREFIX: Final = "FLAMBED_"
_NO_SETTINGS: Final = frozenset({"FLAMBED_CONFIG", "FLAMBED_LAB_MINUTE"})


def _absolute(path: Path) -> Path:
    if not path.is_absolute() or "\0" in str(path):
        raise fields.refuse("path", f"{str(path)!r} is not absolute: begin it with /")
    return path


def _url(text: str) -> str:
    if not text.startswith(("https://", "http://")) or " " in text:
        raise fields.refuse("url", f"{shown(text)} is no queue URL: it begins with https://")
    return text


def _by_region(value: object) -> object:
    if not isinstance(value, dict):
        raise fields.refuse(
            "queues",
            f"{shown(value)} does not say which region's queue it is: write "
            "{us-east-1: https://sqs.us-east-1.amazonaws.com/123456789012/flambed}",
        )
    return value


def _owner(text: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) == 12) and text not in {
        "self",
        "amazon",
        "aws-marketplace",
    }:
        raise fields.refuse("owner", f"{shown(text)} is no owner of images: write a 12-digit account id")
    return text


def _account(text: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) == 12):
        raise fields.refuse("account", f"{shown(text)} is no AWS account: write its 12 digits")
    return text


def _some(owners: tuple[str, ...]) -> tuple[str, ...]:
    if not owners:
        raise fields.refuse("owner", "no owner means no image: name one, or leave the setting out")
    return owners


def _daemon_id(text: str) -> str:
    if not daemonid.is_one(text):
        raise fields.refuse("daemon", f"{shown(text)} is no service's id: it has 16 characters out of 0-9 and a-f")
    return text


AbsolutePath = Annotated[
    Path, Field(strict=False), AfterValidator(_absolute), WithJsonSchema({"type": "string", "pattern": "^/"})
]
Owner = Annotated[str, AfterValidator(_owner), WithJsonSchema({"type": ["string", "integer"]})]

AccountNumber = Annotated[str, AfterValidator(_account), WithJsonSchema({"type": ["string", "integer"]})]
TypeGlob = Annotated[str, Field(pattern=r"^[a-z0-9.*?-]{1,64}$")]
DaemonId = Annotated[str, AfterValidator(_daemon_id), WithJsonSchema({"type": "string", "pattern": "^[0-9a-f]{16}$"})]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Ssh(_Section):
    """How hosts are connected to."""

    deadline: Duration = Field(
        default=900.0, gt=0, description="A host that runs and cannot be reached for so long has failed."
    )
    parallel: int = Field(default=256, ge=1, le=4096, description="How many hosts are connected to at the same time.")
    connect_timeout: Duration = Field(default=5.0, gt=0, description="How long one attempt to connect may take.")
    keepalive: Duration = Field(default=15.0, gt=0, description="How often an idle connection is checked.")


class Events(_Section):
    """Where EC2's state changes come from."""

    queues: Annotated[dict[fields.Region, Annotated[str, AfterValidator(_url)]], BeforeValidator(_by_region)] = Field(
        default_factory=dict,
        description="The SQS queue of each region, by region. A region without one is surveyed instead, which is slower.",
    )


class Survey(_Section):
    """The slow look at everything, which corrects lost events."""

    interval: Duration = Field(default=300.0, gt=0, description="How often all instances are looked at.")


class Gc(_Section):
    """What is taken for left over (`flambectl gc`)."""

    grace: Duration = Field(
        default=3600.0, gt=0, description="What belongs to no known cluster is left alone until it is so old."
    )


class Images(_Section):
    """Which images are trusted."""

    owners: Annotated[tuple[Owner, ...], Field(strict=False), AfterValidator(_some)] = Field(
        default=("808129580301",), description="The accounts whose images are considered; the default is Flambé's own."
    )


class Idle(_Section):
    """What counts as idle, beside the timeouts of a cluster."""

    gpu_percent: float = Field(default=5.0, ge=0, le=100, description="A GPU is in use above this utilisation.")
    max_hold: Duration = Field(default=259_200.0, gt=0, description="The longest that `flambectl hold` may ask for.")
    experiment: str = Field(
        default="flambe",
        pattern=r"^[A-Za-z0-9._+-]+$",
        description="The program on the orchestrator that is the experiment.",
    )


class Limit(_Section):
    """How much of AWS a user may have, over all clusters of theirs; what is left out is not limited."""

    instances: int | None = Field(default=None, ge=0, description="How many machines.")
    vcpus: int | None = Field(default=None, ge=0, description="How many virtual CPUs in all machines together.")
    types: Annotated[tuple[TypeGlob, ...], Field(strict=False)] | None = Field(
        default=None, description="Which instance types; * stands for any text, as in g5.*."
    )
    regions: Annotated[tuple[fields.Region, ...], Field(strict=False)] | None = Field(
        default=None, description="Which regions."
    )
    subnets: Annotated[tuple[fields.SubnetId, ...], Field(strict=False)] | None = Field(
        default=None, description="Which subnets."
    )


class Log(_Section):
    """How the log is written."""

    format: Literal["json", "console"] | None = Field(
        default=None, description="Without it: console on a terminal, else json."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least level written.")


class Settings(_Section):
    """The settings of the service."""

    model_config = ConfigDict(title="flambed's settings")

    socket: AbsolutePath | None = Field(
        default=None,
        description="The control socket. Without it: /run/flambed/control.sock as root, else "
        "$XDG_RUNTIME_DIR/flambed/control.sock, else control.sock in the state folder.",
    )
    state_dir: AbsolutePath | None = Field(
        default=None, description="The state folder. Without it: $STATE_DIRECTORY, else ~/.local/state/flambed."
    )
    address: Literal["private", "public"] = Field(
        default="private", description="Which address of a host to connect to; on a bastion the private one."
    )
    ssh_port: int = Field(default=22, ge=1, le=65_535, description="The port that hosts answer SSH on.")
    ssh: Ssh = Field(default_factory=Ssh, description="How hosts are connected to.")
    events: Events = Field(default_factory=Events, description="Where EC2's state changes come from.")
    survey: Survey = Field(default_factory=Survey, description="The slow look that corrects lost events.")
    gc: Gc = Field(default_factory=Gc, description="What is taken for left over.")
    images: Images = Field(default_factory=Images, description="Which images are trusted.")
    idle: Idle = Field(default_factory=Idle, description="What counts as idle.")
    log: Log = Field(default_factory=Log, description="How the log is written.")
    admin_group: str = Field(
        default="flambed-admin", min_length=1, description="The group whose members may act on every cluster."
    )
    creators: dict[str, Annotated[tuple[fields.Creator, ...], Field(strict=False)]] = Field(
        default_factory=dict,
        description="Which creators a user may use, by user name; a creator not named here belongs to the first who uses it.",
    )
    limits: dict[str, Limit] = Field(
        default_factory=dict,
        description="How much of AWS each user may have, by user name; `default` is for all who are not named, but for "
        "admins. The line of a user counts as a whole, nothing of `default` with it.",
    )
    aws_account: Annotated[AccountNumber, Field(strict=False)] | None = Field(
        default=None,
        description="The AWS account to work in. Without it: the first one that the service has worked in. For the day on "
        "which it moves to another.",
    )
    regions: Annotated[tuple[fields.Region, ...], Field(strict=False)] = Field(
        default=(),
        description="Regions to look for clusters in, beside the default one, those with a queue and those in which this "
        "service has had clusters. For the day on which a state folder was lost.",
    )
    predecessors: Annotated[tuple[DaemonId, ...], Field(strict=False)] = Field(
        default=(),
        description="The ids of services whose clusters this one takes over: the tag flambed:daemon of their instances. "
        "For the day on which a state folder was lost.",
    )
    keep_gone: Duration = Field(
        default=604_800.0, gt=0, description="How long a cluster that is gone still answers `status`."
    )


def load(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    socket: Path | None = None,
    state_dir: Path | None = None,
) -> Settings:
    """Read the settings.

    Args:
        path: the file of `--config`; without it `$FLAMBED_CONFIG`, else /etc/flambed/flambed.yaml where it exists.
        environ: the environment.
        socket: the path of `--socket`, over everything else.
        state_dir: the path of `--state-dir`, over everything else.

    Raises:
        ClusterConfigurationError: a named file cannot be read, or settings are wrong; it carries every problem.
    """
    file = file_of(path, environ)
    source = str(file) if file is not None else "settings"
    problems: list[Problem] = []
    document = _read(file, source, problems) if file is not None else Document({}, Place(None, None))
    problems += _environment(document, environ)
    for name, given in {"socket": socket, "state_dir": state_dir}.items():
        if given is not None:
            document.put([name], str(given), Place(None, None, f"--{name.replace('_', '-')}"))
    _ids_as_written(document)
    return validation.validate(Settings, document, source=source, earlier=problems)


def file_of(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the settings file that `load` reads: the given one, else `$FLAMBED_CONFIG`, else the system's, if it exists."""
    if path is not None:
        return path
    if environ.get("FLAMBED_CONFIG"):
        return Path(environ["FLAMBED_CONFIG"])
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def flat(settings: Settings) -> dict[str, str]:
    """Return each setting as text, by its dotted name; none of them is a secret."""
    return dict(_flat(settings.model_dump(mode="json"), ()))


def _flat(value: object, above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(inner, (*above, str(name)))
    else:
        yield ".".join(above), str(value)


def state_path(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Return the state folder: the setting, else `$STATE_DIRECTORY`, else `~/.local/state/flambed`.

    Raises:
        ClusterConfigurationError: there is no setting and the environment names neither.
    """
    if settings.state_dir is not None:
        return settings.state_dir
    if folders := environ.get("STATE_DIRECTORY"):
        return Path(folders.split(":")[0])  # systemd lists all of a unit's
    if home := environ.get("HOME"):
        return Path(home) / ".local" / "state" / "flambed"
    message = "there is no state folder, as HOME is not set: give --state-dir, or the setting state_dir"
    raise ClusterConfigurationError([Problem(message, field="state_dir")], "settings")


def socket_path(settings: Settings, environ: Mapping[str, str], uid: int) -> Path:
    """Return where the service opens its socket: the setting, else by who it is (see `Settings.socket`)."""
    if settings.socket is not None:
        return settings.socket
    if uid == 0:
        return SYSTEM_SOCKET
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "flambed" / "control.sock"
    return state_path(settings, environ) / "control.sock"


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a settings file."""
    return validation.json_schema(Settings)


def _read(file: Path, source: str, problems: list[Problem]) -> Document:
    try:
        raw = _bytes_of(file)
    except OSError as error:
        problem = Problem(f"the settings file cannot be read: {error.strerror}")
        raise ClusterConfigurationError([problem], source) from error
    return yamlfile.load(yamlfile.decode(raw, source), source=source, empty=True, mendable=problems)


def _bytes_of(file: Path) -> bytes:
    """Return what is in a regular file, or nothing for /dev/null. A reload reads in the event loop: a pipe would stop it."""
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode) and not os.path.samestat(status, os.stat(os.devnull)):  # noqa: PTH116
            raise OSError(errno.EINVAL, "it is no regular file")
        return opened.read()


def _environment(document: Document, environ: Mapping[str, str]) -> list[Problem]:
    known = dict(_names(Settings))
    problems = []
    for name in sorted(environ):
        if not name.startswith(_PREFIX) or name in _NO_SETTINGS or not environ[name]:
            continue
        place = Place(None, None, name)
        keys = known.get(name)
        if keys is None:
            hint = nearest(name, known)
            problems.append(place.problem(f"there is no such setting: {hint}", name))
            continue
        problems += validation.put(document, keys, environ[name], place)
    return problems


def _names(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, field in model.model_fields.items():
        keys = (*above, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _names(field.annotation, keys)
        else:
            yield _PREFIX + "__".join(keys).upper(), keys


def _ids_as_written(document: Document) -> None:
    """Let ids be written without quotes: they are text, of which a leading 0 is a part, and no 12e4 is a number."""
    images = document.value.get("images")
    owners = images.get("owners") if isinstance(images, dict) else None
    account = document.value.get("aws_account")
    if isinstance(account, int | float) and not isinstance(account, bool):
        document.value["aws_account"] = document.written.get(("aws_account",), str(account))
    for ids, path in ((owners, ("images", "owners")), (document.value.get("predecessors"), ("predecessors",))):
        if isinstance(ids, list):
            for index, one in enumerate(ids):
                if isinstance(one, int | float) and not isinstance(one, bool):
                    ids[index] = document.written.get((*path, index), str(one))
