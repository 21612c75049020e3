"""Two users and root at one service, as processes of their own: who may do what, by the kernel's word."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.labproc import LabProcess
from tests.lab.serviceproc import CREATOR, Ended, Service, start_service

ALICE, BOB = 64_001, 64_002
"""Uids that no user of this machine has."""


@dataclass(frozen=True)
class User:
    """Somebody with a folder and a key of their own."""

    uid: int
    service: Service

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.service.folder / str(self.uid)

    def __call__(self, *words: str) -> Ended:
        """Run flambectl as them."""
        return self.service.ctl_as(self.uid, self.folder, *words)

    def file(self, name: str = "c", *, creator: str) -> str:
        """A cluster file of theirs, with their own copy of the key."""
        made = self.service.file(name, creator=creator, key=str(self.folder / "key"), factories_num=1)
        path = self.folder / f"{name}.yaml"
        path.write_text(Path(made).read_text())
        os.chown(path, self.uid, self.uid)
        return str(path)


def user(service: Service, uid: int) -> User:
    """Give a uid a folder with the private key in it, which nobody else can read."""
    service.folder.chmod(0o711)
    made = User(uid, service)
    made.folder.mkdir(mode=0o700)
    key = made.folder / "key"
    key.write_bytes(Path(service.lab.info["key"]).read_bytes())
    key.chmod(0o600)
    for path in (made.folder, key):
        os.chown(path, uid, uid)
    return made


@pytest.fixture
def service(lab: LabProcess) -> Iterator[Service]:
    """A service of the test's own: nobody has used a creator yet, and other users can reach its folder."""
    with start_service(lab, parent=Path("/tmp")) as service:
        yield service


@pytest.fixture
def alice(service: Service) -> User:
    """One user."""
    return user(service, ALICE)


@pytest.fixture
def bob(service: Service) -> User:
    """Another one."""
    return user(service, BOB)


@pytest.mark.seed("S04", "S06")
def test_a_cluster_belongs_to_who_brought_it_up(service: Service, alice: User, bob: User) -> None:
    """Others may list it and see its status; only its owner and root may read its output, log in or take it down."""
    assert alice("up", alice.file(creator="alice")).code == 0
    assert service.status()["owner"] == ALICE
    kept = [path for path in service.state.rglob("*") if path.is_file()]
    assert {path.stat().st_uid for path in kept} == {0}, "the service keeps the key, and not where Alice can change it"

    assert "c" in bob("list").stdout
    assert bob("status", "c").code == 0
    for words in (
        ["down", "c", "--yes"], ["logs", "c"], ["why", "c"], ["ssh", "c", "--", "true"], ["events", "c"], ["retry", "c"],
        ["hold", "c", "--for", "1h", "--why", "mine"], ["release", "c"], ["down", "--all", "--yes"],
    ):  # fmt: skip
        refused = bob(*words)
        assert refused.code == 4, (words, refused)
        assert "may not" in refused.stderr
    assert service.status()["phase"] == "ready"

    refused = bob("up", bob.file(creator="alice"))
    assert refused.code == 4, refused
    assert bob("up", bob.file(creator="bob")).code == 0, "a name is free for every creator"
    assert alice("logs", "alice/c").code == 0
    assert service.ctl("logs", "alice/c").code == 0, "root may"
    assert alice("down", "alice/c", "--yes").code == 0
    assert service.ctl("down", "bob/c", "--yes").code == 0


@pytest.mark.seed("S19", "S06")
def test_a_stranger_may_not_adopt_what_carries_a_creators_tags(lab: LabProcess, service: Service, bob: User) -> None:
    """Tags can be written by anybody into a file: Bob is refused, nothing is touched, and root may adopt."""
    tags = {"creator": CREATOR, "Purpose": "flambe", "Cluster-Name": "c", "Role": "Orchestrator", "Name": "c_orch"}
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    [instance] = lab.launch(
        role="Orchestrator",
        TagSpecifications=[{"ResourceType": kind, "Tags": listed} for kind in ("instance", "volume")],
    )
    lab.until_state([instance], "running")
    refused = bob("up", bob.file(creator=CREATOR))
    assert refused.code == 4, refused
    assert instance in refused.stderr
    assert lab.instance(instance)["tags"] == tags
    adopted = service.up(service.file(factories_num=1))
    assert instance in {i["id"] for i in adopted["instances"]}
    service.down()


def test_a_user_gets_no_more_than_the_limits_say_and_root_does(lab: LabProcess) -> None:
    """Over all of the user's clusters: exit code 4 with each limit, and nothing is launched; so `up --plan`, too."""
    limits = {"default": {"instances": 3, "vcpus": 11, "types": ["t3.*", "g4dn.xlarge"]}}
    with start_service(lab, parent=Path("/tmp"), limits=limits) as service:
        alice = user(service, ALICE)
        assert alice("up", alice.file("c", creator="alice")).code == 0
        launched = len(lab.calls(action="RunInstances"))
        for words in ([], ["--plan"]):
            refused = alice("up", alice.file("d", creator="alice"), *words)
            assert refused.code == 4, refused
            assert "limits.default.instances is 3, and with d there would be 4" in refused.stderr
            assert "limits.default.vcpus is 11, and with d there would be 12" in refused.stderr
        refused = alice("up", alice.file("c", creator="alice"), "--set", "factories_num=3")
        assert refused.code == 4, refused
        assert "with c there would be 4" in refused.stderr
        refused = alice("up", alice.file("d", creator="alice"), "--set", "factories_type=g5.xlarge")
        assert "limits.default.types is t3.*, g4dn.xlarge, and g5.xlarge is asked for" in refused.stderr
        assert len(lab.calls(action="RunInstances")) == launched
        assert service.ctl("status", "d").code == 5, "nothing of it was written down"
        assert service.up(service.file("r", factories_num=3))["phase"] == "ready", "root is no user with a limit"
        assert alice("down", "c", "--yes").code == 0
        assert alice("up", alice.file("d", creator="alice")).code == 0, "what was given back does not count"
        assert service.ctl("down", "--all", "--yes").code == 0


def test_others_see_that_a_command_failed_and_neither_the_command_nor_its_output(
    service: Service, alice: User, bob: User
) -> None:
    """What is in a command or its output may be a secret: others see the number and the exit code."""
    path = Path(alice.file(creator="alice"))
    path.write_text(f'{path.read_text()}setup_cmds: ["echo tok-4711; exit 7"]\n')
    failed = alice("up", str(path))
    assert failed.code == 1, failed
    assert "tok-4711" in failed.stderr
    for words in (["status", "c"], ["status", "c", "--json"], ["list", "--json"]):
        shown = bob(*words)
        assert shown.code == 0, shown
        assert "tok-4711" not in shown.stdout
    assert "ended with 7" in bob("status", "c").stdout
    assert "tok-4711" not in str(service.log()), "and the log is everybody's who reads the system's"
    assert alice("down", "c", "--yes").code == 0
