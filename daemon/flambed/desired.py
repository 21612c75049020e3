"""What a person wants: a cluster file as a frozen `Cluster`. Pure: text in, values out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from flambed import fields, validation, yamlfile
from flambed.durations import Duration
from flambed.errors import Problem

PURPOSE: Final = "flambe"
OUR_TAGS: Final = fields.OUR_TAGS


class Role(StrEnum):
    """What an instance is in its cluster; the value of its `Role` tag."""

    ORCHESTRATOR = "Orchestrator"
    FACTORY = "Factory"


class Launch(BaseModel):
    """How a launch is judged."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    deadline: Duration = Field(
        default=900.0,
        gt=0,
        description="How long missing instances are asked for again before the launch counts as failed.",
    )
    minimum: fields.Minimum = Field(
        default=1,
        description="The least factories worth keeping: a whole number of them, or a share such as 80% or 0.8.",
    )


class Setup(BaseModel):
    """How the set-up commands are run."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    timeout: Duration = Field(default=14_400.0, gt=0, description="How long one set-up command may take on one host.")


class Cluster(BaseModel):
    """One cluster as its file describes it. Fields up to `setup_cmds` are Flambé's own, under its names."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, title="A flambed cluster")

    name: fields.ClusterName = Field(
        description="The name of the cluster, unique for its creator: letters, digits, '-', '_' and '.'."
    )
    creator: fields.Creator = Field(
        description="Who the cluster belongs to, for example an e-mail address; becomes the `creator` tag."
    )
    region_name: fields.Region | None = Field(
        default=None, description="The AWS region. Without it: the locally configured one, else us-east-1."
    )
    factories_num: fields.FactoriesNum = Field(description="How many factory instances (not workers) to launch.")
    factories_type: fields.InstanceType = Field(
        description="The instance type of the factories, for example g5.xlarge."
    )
    orchestrator_type: fields.InstanceType = Field(
        description="The instance type of the orchestrator, for example t3.large; it needs no GPU."
    )
    key_name: fields.KeyName = Field(description="The name of the EC2 key pair that the hosts are launched with.")
    key: fields.KeyPath = Field(
        description="The path of the key pair's private key, on the machine where flambectl runs; mode 0600."
    )
    security_group: fields.SecurityGroup = Field(
        description="The id of the security group of every host; it must admit SSH from where flambed runs."
    )
    subnet_id: fields.SubnetId = Field(description="The id of the subnet that every host is launched in.")
    volume_type: Literal["gp2", "gp3", "io1", "io2"] = Field(
        default="gp2", description="The type of every host's root volume; io1 and io2 get 5000 IOPS."
    )
    volume_size: fields.VolumeSize = Field(
        default=100, validate_default=True, description="The size of every host's root volume, in GiB."
    )
    username: fields.Username = Field(default="ubuntu", description="The user to log in as, on every host.")
    tags: fields.Tags = Field(
        default_factory=dict, description="Tags for every instance and its volumes, beside flambed's own."
    )
    orchestrator_ami: fields.Image | None = Field(
        default=None,
        description="The image of the orchestrator: an id, or ssm:/aws/service/... for a current public one. "
        "Without it: Flambé's own image.",
    )
    factory_ami: fields.Image | None = Field(
        default=None,
        description="The image of the factories: an id, or ssm:/aws/service/... for a current public one. "
        "Without it: Flambé's own image.",
    )
    dedicated: bool = Field(default=False, description="Whether the hosts run on hardware of their own, at a premium.")
    orchestrator_timeout: fields.Hours = Field(
        default=-1,
        description="After how many idle hours the orchestrator is terminated: -1 never, 0 as soon as the experiment is over.",
    )
    factories_timeout: fields.Hours = Field(
        default=1,
        validate_default=True,
        description="After how many idle hours a factory is terminated: -1 never, 0 as soon as the experiment is over. "
        "Factories may not outlive the orchestrator.",
    )
    setup_cmds: fields.Commands = Field(
        default=(),
        description="Shell commands that prepare every host, in order. They must be safe to run twice and ask nothing.",
    )
    iam_instance_profile: fields.InstanceProfile | None = Field(
        default=None, description="The IAM instance profile of every host: its name or its ARN."
    )
    user_data: fields.UserData | None = Field(
        default=None,
        description="User data for cloud-init, run at first boot: a script, #cloud-config or MIME. No secrets: every process "
        "on a host can read it.",
    )
    volume_encrypted: bool = Field(default=True, description="Whether the root volumes are encrypted.")
    launch: Launch = Field(default_factory=Launch, description="How a launch is judged.")
    setup: Setup = Field(default_factory=Setup, description="How the set-up commands are run.")

    @field_validator("volume_size")
    @classmethod
    def _fits_its_type(cls, size: int, info: ValidationInfo) -> int:
        kind = info.data.get("volume_type")
        if kind is not None and (reason := fields.volume_problem(kind, size)):
            raise PydanticCustomError("volume", "{reason}", {"reason": reason, "at": "volume_type"})
        return size

    @field_validator("factories_timeout")
    @classmethod
    def _ends_with_the_orchestrator(cls, factories: float, info: ValidationInfo) -> float:
        orchestrator = info.data.get("orchestrator_timeout", -1)
        if orchestrator != -1 and (factories == -1 or factories > orchestrator):
            reason = (
                f"factories may not outlive the orchestrator: theirs is {factories:g} h{' (never)' if factories == -1 else ''}, "
                f"orchestrator_timeout is {orchestrator:g} h; lower the one or raise the other (-1 is never)"
            )
            raise PydanticCustomError("timeouts", "{reason}", {"reason": reason, "at": "orchestrator_timeout"})
        return factories

    @field_validator("launch")
    @classmethod
    def _can_be_reached(cls, launch: Launch, info: ValidationInfo) -> Launch:
        count = info.data.get("factories_num")
        if isinstance(launch.minimum, int) and count is not None and launch.minimum > count:
            reason = f"{launch.minimum} factories are more than the {count} asked for (factories_num)"
            raise PydanticCustomError("minimum", "{reason}", {"reason": reason, "at": "launch.minimum"})
        return launch

    @property
    def identity(self) -> tuple[str, str]:
        """What makes a cluster this one: its creator and its name."""
        return (self.creator, self.name)

    @property
    def user_tags(self) -> dict[str, str]:
        """The tags of the file alone, without flambed's own."""
        return dict(self.tags)

    @property
    def iops(self) -> int | None:
        """The provisioned IOPS of a root volume, or None where the type has its own (S07)."""
        return fields.IOPS if self.volume_type in {"io1", "io2"} else None

    @property
    def minimum_factories(self) -> int:
        """The least factories worth keeping, as a number of instances: `launch.minimum`, shares rounded up."""
        return fields.minimum_of(self.launch.minimum, self.factories_num)

    def type_of(self, role: Role) -> str:
        """Return the instance type of a role."""
        return self.orchestrator_type if role is Role.ORCHESTRATOR else self.factories_type

    def ami_of(self, role: Role) -> str | None:
        """Return the image of a role as the file names it, or None for the default image (S12)."""
        return self.orchestrator_ami if role is Role.ORCHESTRATOR else self.factory_ami

    def count_of(self, role: Role) -> int:
        """Return how many instances of a role are wanted; there is one orchestrator."""
        return 1 if role is Role.ORCHESTRATOR else self.factories_num

    def timeout_minutes(self, role: Role) -> int | None:
        """Return the minutes of idleness after which a role ends: None for never, 5 for "as soon as it is over" (S36)."""
        hours = self.orchestrator_timeout if role is Role.ORCHESTRATOR else self.factories_timeout
        if hours == -1:
            return None
        # Rounded first: 4.15 h are 249.00000000000003 minutes to a float.
        return math.ceil(round(hours * 60, 6)) or 5

    def instance_name(self, role: Role, index: int | None = None) -> str:
        """Return an instance's `Name` tag: `<name>_orchestrator`, or `<name>_factory_<index>` counting from 0 (S22)."""
        if role is Role.ORCHESTRATOR:
            return f"{self.name}_orchestrator"
        if index is None:
            raise ValueError("a factory's name needs its index")
        return f"{self.name}_factory_{index}"

    def machine_fields(self) -> dict[str, Any]:
        """Return the fields that cannot change on a running machine: another value needs new instances."""
        return {name: getattr(self, name) for name in MACHINE_FIELDS}


MACHINE_FIELDS: Final = (
    "factories_type",
    "orchestrator_type",
    "key_name",
    "security_group",
    "subnet_id",
    "volume_type",
    "volume_size",
    "volume_encrypted",
    "orchestrator_ami",
    "factory_ami",
    "dedicated",
    "iam_instance_profile",
    "user_data",
)
"""What `Cluster.machine_fields` holds."""

_TAG: Final = "!AWSCluster"
_GPU_FAMILIES: Final = re.compile(r"(?:p[0-9]|g[0-9])[a-z0-9-]*\.")


def parse(text: str | bytes, *, source: str = "<file>", overrides: Sequence[str] = ()) -> Cluster:
    """Read a cluster file: YAML, with or without Flambé's `!AWSCluster` tag, or JSON.

    Args:
        text: the file; bytes must be UTF-8.
        source: its name, for the error.
        overrides: `key=value` settings that come over it (`launch.deadline=5m`, `tags.project=x`); a value is a YAML scalar.

    Raises:
        ClusterConfigurationError: it is no cluster; it carries every problem, each with its line and column.
    """
    text = yamlfile.decode(text, source) if isinstance(text, bytes) else text
    problems: list[Problem] = []
    document = yamlfile.load(text, source=source, root_tags=(_TAG,), mendable=problems)
    problems += validation.override(document, overrides)
    tags = document.value.get("tags")
    if isinstance(tags, dict):
        # A tag is text: `version: 1.10` stays 1.10.
        for key, value in tags.items():
            if isinstance(value, bool | int | float):
                tags[key] = document.written[("tags", key)]
    for name in _NOTHING_MEANS_DEFAULT:
        if name in document.value and document.value[name] is None:
            del document.value[name]
    return validation.validate(Cluster, document, source=source, earlier=problems)


# Flambé's own defaults for these are None, and its users write them out as an empty value.
_NOTHING_MEANS_DEFAULT: Final = ("tags", "setup_cmds")


def warnings(cluster: Cluster) -> tuple[Problem, ...]:
    """Return what is worth saying about a cluster and is no mistake."""
    found = []
    if _GPU_FAMILIES.match(cluster.orchestrator_type):
        message = f"orchestrator_type: {cluster.orchestrator_type} has GPUs, which an orchestrator does not use"
        found.append(Problem(message, field="orchestrator_type"))
    if cluster.orchestrator_timeout == -1:
        message = "orchestrator_timeout: -1 means that the orchestrator runs, and costs, until `flambectl down`"
        found.append(Problem(message, field="orchestrator_timeout"))
    if cluster.factories_timeout == -1:
        message = "factories_timeout: -1 means that the factories run, and cost, until `flambectl down`"
        found.append(Problem(message, field="factories_timeout"))
    if not cluster.volume_encrypted:
        message = "volume_encrypted: false leaves what the experiment writes readable on AWS's disks"
        found.append(Problem(message, field="volume_encrypted"))
    return tuple(found)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a cluster file, with which an editor completes, explains and checks it."""
    return validation.json_schema(Cluster)
