"""Two services in one account are told apart; two on one queue notice it, and miss nothing of their own."""

from __future__ import annotations

import shutil

from tests.lab.labproc import LabProcess
from tests.lab.serviceproc import Service, start_service


def daemon_of(service: Service) -> str:
    """The id of a service."""
    return str(service.log("journal.opened")[-1]["daemon_id"])


def test_two_services_in_one_account_name_each_other_and_leave_each_other_alone(lab: LabProcess) -> None:
    """One line of the log, a hint of `doctor`, a list in `health`: that is legitimate, and nobody's instances are touched."""
    with (
        start_service(lab, survey__interval="1s") as one,
        start_service(lab, survey__interval="1s", events__queues={}) as two,
    ):
        mine = one.up(one.file("mine", factories_num=1))
        theirs = two.up(two.file("theirs", factories_num=1))
        for service, other, name in ((one, two, "theirs"), (two, one, "mine")):
            [told] = service.until_logged("daemon.other_seen", daemon=daemon_of(other))
            assert (told["region"], told["clusters"]) == (lab.info["region"], [f"you@example.com/{name}"])
            health = service.api("GET", "/v1/health")
            assert (health.status, health.document["ok"]) == (200, True)
            assert daemon_of(other) in {each["daemon"] for each in health.document["others"]}
            checks = {check["check"]: check for check in service.ctl("doctor", "--json").document}
            assert "predecessors" in checks[f"{lab.info['region']}: service {daemon_of(other)}"]["advice"]
            assert checks["service id"]["message"] == daemon_of(service)
        one.down("mine")
        alive = {i["id"] for i in lab.instances(hosts=False) if i["state"] == "running"}
        assert alive >= {i["id"] for i in theirs["instances"]}
        assert not alive & {i["id"] for i in mine["instances"]}
        two.down("theirs")
        assert len(one.log("daemon.other_seen")) == len({line["daemon"] for line in one.log("daemon.other_seen")})
        assert one.log("queue.shared") == [], "the other one reads no queue"


def test_two_services_on_one_queue_say_so_and_bring_their_clusters_up(lab: LabProcess) -> None:
    """Each takes the other's events, so both look at their instances instead; when one stops the other is well again."""
    with start_service(lab, survey__interval="1s") as one:
        with start_service(lab, survey__interval="1s") as two:
            for service, other in ((one, two), (two, one)):
                [told] = service.until_logged("queue.shared", region=lab.info["region"])
                assert told["daemon"] == daemon_of(other)
                health = service.api("GET", "/v1/health")
                assert (health.status, health.document["ok"]) == (503, False)
                assert "give each a queue of its own" in health.document["message"]
                checks = {check["check"]: check["ok"] for check in service.ctl("doctor", "--json").document}
                assert checks[f"{lab.info['region']}: events"] is False
            one.up(one.file("one", factories_num=1))
            two.up(two.file("two", factories_num=1))
            two.down("two")
        for region in lab.info["regions"]:
            one.until_logged("queue.own_again", region=region)
        assert one.api("GET", "/v1/health").status == 200
        one.down("one")


def test_a_copy_of_the_state_folder_that_runs_beside_the_first_is_noticed(lab: LabProcess) -> None:
    """Both have one id; the words say that it is a copy. A restart of the first is never taken for one."""
    with start_service(lab, survey__interval="1s", log__level="debug") as first:
        for end in (first.kill, first.stop):
            end()
            first.start()
        first.until_logged("region.survey_done", count=6)
        assert first.log("queue.shared") == []
        with start_service(lab, survey__interval="1s", started=False) as copy:
            shutil.rmtree(copy.state, ignore_errors=True)
            shutil.copytree(first.state, copy.state)
            copy.start()
            [told] = first.until_logged("queue.shared", region=lab.info["region"])
            assert told["daemon"] == daemon_of(first) == daemon_of(copy)
            assert "a copy of this state folder" in first.api("GET", "/v1/health").document["message"]
