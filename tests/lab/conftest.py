"""One lab for all tests of a session that need no special one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

from tests.lab.labproc import LabProcess, start_lab
from tests.lab.serviceproc import Service, start_service

# Only root can be somebody else; what access decides is tested for everybody in tests/test_access.py.
collect_ignore = [] if os.geteuid() == 0 else ["test_access_in_lab.py"]


@pytest.fixture(scope="session", autouse=True)
def _temporary_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put the folders of labs and services into pytest's own, which it clears away even after a run that was killed."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.getbasetemp())
        patch.setenv("TMPDIR", folder)  # for the labs, which are processes of their own
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="session")
def _session_lab() -> Iterator[LabProcess]:
    with start_lab("--quotas", "off", "--shutdown", "0.1", "--ssh-delay", "0.05") as lab:
        yield lab


@pytest.fixture
def lab(_session_lab: LabProcess) -> Iterator[LabProcess]:
    """A lab without boot delay and quotas, shared by the session's tests; no faults and no live instances."""
    yield _session_lab
    _session_lab.clear_faults()
    for region in _session_lab.info["regions"]:
        alive = [
            i["id"]
            for i in _session_lab.instances(hosts=False)
            if i["region"] == region and i["state"] not in {"shutting-down", "terminated"}
        ]
        if alive:
            ec2 = _session_lab.boto("ec2", region)
            for instance_id in alive:
                ec2.modify_instance_attribute(InstanceId=instance_id, DisableApiTermination={"Value": False})
            ec2.terminate_instances(InstanceIds=alive)
            _session_lab.until_state(alive, "terminated")


@pytest.fixture(scope="module")
def _module_service(_session_lab: LabProcess) -> Iterator[Service]:
    with start_service(_session_lab) as service:
        yield service


@pytest.fixture
def service(lab: LabProcess, _module_service: Service) -> Iterator[Service]:
    """A service against the shared lab, shared by a module's tests; it runs, and its log is empty."""
    if not _module_service.runs:
        _module_service.start()
    yield _module_service
    _module_service.check()
