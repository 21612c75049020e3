"""Every event that the log can hold. Adding one is one entry here; docs/events.md is made from it.

An event with a `fact` is told by the loop for every fact of that kind that it journals; the fields are taken from the
fact, so what is not named here is not logged: no set-up command, no user data, no tag, no key. The others are the
service's own and are told where they happen, with `Log.emit`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from flambed.eventkind import (
    EventKind,
    Field,
    Level,
    flag,
    named_texts,
    named_wholes,
    number,
    text,
    texts,
    time,
    trace,
    whole,
)
from flambed.hostkey import fingerprint
from flambed.observed import facts
from flambed.observed.facts import Fact

_BY: Final = whole("the uid of the caller")
_REGION: Final = text("the AWS region")
_REASON: Final = text("why, in flambed's words, for example throttled or no_capacity")
_CODE: Final = text("why, in the word of AWS or of the SSH library")
_MESSAGE: Final = text("the whole message")
_FAILURE: Final = {"reason": _REASON, "code": _CODE, "message": _MESSAGE}
_CRASH: Final = {
    "error": text("the exception, its type and message"),
    "traceback": trace("where it happened", optional=True),
}
_DIGEST: Final = text("what stands for its content: another digest, another content")
_COMMAND: Final = {
    "number": whole("which set-up command, counting from 0"),
    "attempt": whole("which attempt"),
}


def _ids(fact: Any) -> list[str]:
    return [seen.id for seen in fact.instances]


def _stage(stage: str, level: Level, doc: str) -> EventKind:
    fields: dict[str, Field] = {
        "role": text("Orchestrator or Factory", optional=True),
        "name": text("the instance's name", optional=True),
        "was": text("the stage before", optional=True),
        "reason": text("why", optional=True),
    }
    return EventKind(f"instance.{stage}", level, doc, fields)


_KINDS: Final = (
    # --- what people asked for
    EventKind(
        "cluster.up_requested", "info", "Somebody described the cluster as it shall be.",
        {
            "name": text("the cluster's name", "desired.name"),
            "creator": text("its creator", "desired.creator"),
            "region": _REGION,
            "factories": whole("how many factories are wanted", "desired.factories_num"),
            "owner": whole("the uid that owns the cluster"),
            "by": _BY,
            "may_adopt": flag("whether instances may be taken over that this service did not launch"),
            "shrink": flag("whether surplus factories are to be terminated"),
        },
        facts.UpRequested,
    ),
    EventKind("cluster.down_requested", "info", "Somebody gave the cluster back.", {"by": _BY}, facts.DownRequested),
    EventKind(
        "cluster.retry_requested", "info", "Somebody wants failed hosts tried again.",
        {"by": _BY, "instances": texts("which ones; none named: all that failed")},
        facts.RetryRequested,
    ),
    EventKind(
        "cluster.hold_placed", "info", "Somebody keeps idle termination off for a while.",
        {"by": _BY, "until": time("when the hold ends by itself"), "why": text("the reason that was given")},
        facts.HoldPlaced,
    ),
    EventKind(
        "cluster.events_lost", "info", "No events of this cluster's region can be read: its instances are looked at instead.",
        fact=facts.EventsLost,
    ),
    EventKind("cluster.events_resumed", "info", "The events of its region can be read again.", fact=facts.EventsResumed),
    EventKind("cluster.hold_released", "info", "Somebody ended the hold.", {"by": _BY}, facts.HoldReleased),
    EventKind(
        "cluster.found", "warning", "A cluster of ours was found by its tags: its record was lost. Nothing is done to it until somebody runs `up` or `down`.",
        {
            "name": text("the cluster's name", "desired.name"),
            "creator": text("its creator", "desired.creator"),
            "region": _REGION,
            "owner": whole("the uid that its tags name as its owner; -1: they do not"),
            "instances": texts("those that were found", _ids),
        },
        facts.ClusterFound,
    ),
    # --- clusters as a whole
    EventKind("cluster.resumed", "info", "The service came up and goes on with this cluster.", fact=facts.ServiceStarted),
    EventKind(
        "cluster.phase_changed", "info", "The cluster as a whole is in another phase, or in it for another reason.",
        {
            "phase": text("converging, ready, degraded, failed, stopping or gone"),
            "reason": text("why", optional=True),
        },
        facts.PhaseChanged,
    ),
    EventKind(
        "cluster.surveyed", "debug", "All instances with the cluster's tags were looked up.",
        {
            "states": named_wholes(
                "how many are in each state of EC2", lambda fact: Counter(seen.state for seen in fact.instances)
            ),
            "began": time("when the look began"),
        },
        facts.ClusterSurveyed,
    ),
    # --- actions
    EventKind(
        "action.began", "debug", "Actions were started.",
        {"actions": texts("each with what it is about", lambda fact: [f"{key.kind} {key.subject}".rstrip() for key in fact.keys])},
        facts.ActionsBegan,
    ),
    EventKind(
        "action.ended", "debug", "An action did what it was for.",
        {"subject": text("the instance, client token or role that it was about", "key.subject")},
        facts.ActionEnded,
    ),
    EventKind(
        "action.failed", "warning", "An action did not do what it was for; it is tried again where that can help.",
        {"subject": text("the instance, client token or role that it was about", "key.subject"), **_FAILURE},
        facts.ActionFailed,
    ),
    # --- launching
    EventKind(
        "launch.prepared", "info", "The images and instance types of a launch are known, and fit.",
        {
            "images": named_texts("by role", lambda fact: {spec.role: spec.image.id for spec in fact.specs}),
            "types": named_texts("by role", lambda fact: {spec.role: spec.type for spec in fact.specs}),
        },
        facts.LaunchPrepared,
    ),
    EventKind(
        "launch.intended", "info", "A call of RunInstances was written down and is about to be made.",
        {
            "token": text("the client token of the call"),
            "role": text("Orchestrator or Factory", "spec.role"),
            "count": whole("how many instances are asked for", "spec.count"),
            "type": text("their type", "spec.type"),
            "image": text("their image", "spec.image.id"),
        },
        facts.LaunchIntended,
    ),
    EventKind(
        "launch.answered", "info", "RunInstances created instances, maybe fewer than were asked for.",
        {"token": text("the client token of the call"), "instances": texts("their ids", _ids)},
        facts.LaunchAnswered,
    ),
    EventKind(
        "launch.abandoned", "warning", "A call of RunInstances is not made again; it created nothing.",
        {"token": text("the client token of the call"), "why": text("the reason")},
        facts.LaunchAbandoned,
    ),
    EventKind(
        "launch.rolled_back", "error", "A launch has failed for good; what it created is given back.",
        {"why": text("the reason")},
        facts.LaunchRolledBack,
    ),
    # --- instances
    EventKind(
        "instance.state_notified", "info", "EC2 sent word that an instance changed its state.",
        {"state": text("EC2's word for the state")},
        facts.StateNotified,
    ),
    EventKind(
        "instance.interruption_notified", "warning", "EC2 is going to take a spot instance back, or would like to.",
        {"notice": text("what EC2 is going to do", "action")},
        facts.InterruptionNotified,
    ),
    EventKind(
        "instance.described", "info", "EC2 was asked how instances are.",
        {
            "states": named_texts("EC2's word by id", lambda fact: {seen.id: seen.state for seen in fact.instances}),
            "reasons": named_texts(
                "EC2's reason by id, where it gave one",
                lambda fact: {seen.id: seen.why for seen in fact.instances if seen.why is not None},
            ),
            "missing": texts("the ids that EC2 does not know"),
        },
        facts.InstancesDescribed,
    ),
    EventKind(
        "instance.tagged", "debug", "An instance and its volumes carry their tags and name.", {"digest": _DIGEST},
        facts.InstanceTagged,
    ),
    EventKind(
        "instance.termination_accepted", "info", "EC2 took the request to terminate instances; they are not gone yet.",
        {"instances": texts("their ids")},
        facts.TerminationAccepted,
    ),
    EventKind(
        "instance.termination_overdue", "error",
        "An instance that is to end does not: it bills on. It is asked again and again; see why, and end it by hand.",
        {"since": time("when it was first asked to"), "why": text("what stands in its way, as far as is known")},
        facts.TerminationOverdue,
    ),
    EventKind(
        "instance.vote_began", "info", "A look at the host itself found it in use: nothing ends it for idleness.",
        {"vote": text("what is in use: gpu, terminal or experiment")}, facts.VoteBegan,
    ),
    EventKind(
        "instance.vote_ended", "info", "That use ended, or was not seen again in time.",
        {"vote": text("what was in use: gpu, terminal or experiment"), "why": text("how it ended")}, facts.VoteEnded,
    ),
    EventKind(
        "instance.timer_seen", "info", "The host's own idle timer told its state.",
        {
            "state": text("renewed, off or absent"),
            "minutes": whole("the timeout that it acknowledged, minutes", optional=True),
        },
        facts.TimerSeen,
    ),
    EventKind(
        "instance.mute", "warning", "A host does not answer probes any more; nobody knows whether it is in use.",
        {"since": time("since when"), "why": text("what became of the last probe")}, facts.HostMute,
    ),
    EventKind(
        "instance.probe_failed", "warning",
        "Two probes of a host in a row failed; uses that are known count for 15 minutes, after which it is mute.",
        {"since": time("since when"), "why": text("what became of the last probe")},
    ),
    EventKind(
        "instance.probe_recovered", "info", "A host answers probes again before it was mute.",
        {"failures": whole("how many failed in a row")},
    ),
    EventKind(
        "instance.signal_unknown", "warning",
        "A host answered twice in a row without one of its signals, which proves neither use nor idleness.",
        {"signal": text("timer, gpu, terminal, experiment or uptime"), "why": text("the host's own words")},
    ),
    EventKind(
        "instance.signal_known", "info", "A host tells that signal again.",
        {"signal": text("timer, gpu, terminal, experiment or uptime")},
    ),
    EventKind("instance.heard", "info", "A host that was mute answers probes again.", fact=facts.HostHeard),
    EventKind(
        "instance.judged", "info", "A host that its alarm should have ended was examined. Due: the service ends it.",
        {
            "finding": text("due, not_due or unknown"),
            "why": text("the reasons"),
            "last_busy": time("the last busy minute that was read", optional=True),
        },
        facts.Judged,
    ),
    EventKind(
        "volume.removed", "info", "Volumes of instances that ended do not exist any more.",
        {"volumes": texts("their ids"), "deleted": texts("those that had outlived their instance, and were deleted")},
        facts.VolumesRemoved,
    ),
    EventKind(
        "volume.left", "info", "Volumes outlive their instance because they are to; nothing deletes them any more.",
        {"volumes": texts("their ids")},
        facts.VolumesLeft,
    ),
    EventKind(
        "instance.start_accepted", "info", "EC2 took the request to start stopped instances.",
        {"instances": texts("their ids")},
        facts.StartAccepted,
    ),
    _stage("requested", "info", "An instance was asked for."),
    _stage("pending", "info", "An instance exists and boots."),
    _stage("running", "info", "An instance runs; its protection is put in place, and its host is connected to."),
    _stage("reachable", "info", "A host let us in over SSH."),
    _stage("setting_up", "info", "The set-up commands of a host run."),
    _stage("ready", "info", "A host is set up."),
    _stage("failed", "warning", "A host cannot be used; `flambectl why` says more, `flambectl retry` tries it again."),
    _stage("stopping", "info", "An instance is being terminated, or stops by itself."),
    _stage("gone", "info", "An instance is terminated."),
    # --- hosts and their set-up
    EventKind(
        "host.key_learned", "info", "A host's public key is known from a source that vouches for it.",
        {
            "source": text("console; replaced: the host made it in the place of the one out of its user data"),
            "key": text("its fingerprint", lambda fact: fingerprint(fact.public_key)),
        },
        facts.HostKeyLearned,
    ),
    EventKind(
        "host.key_made", "debug", "A host has made itself a key, and may show it from now on.",
        {"key": text("its fingerprint", lambda fact: fingerprint(fact.public_key))},
        facts.HostKeyMade,
    ),
    EventKind(
        "host.key_kept", "warning",
        "A host goes on with the host key out of its user data, which everybody on it can read: it cannot be given its own.",
        {"why": text("the reason")},
        facts.HostKeyKept,
    ),
    EventKind(
        "host.key_refused", "error",
        "A host shows another host key than the pinned one. It is not logged in to until `flambectl trust` says otherwise.",
        {
            "pinned": texts("the fingerprints of the keys that it may show", lambda fact: [fingerprint(key) for key in fact.pinned]),
            "shown": text(
                "the fingerprint of the one that it shows; null: one of another kind",
                lambda fact: None if fact.shown is None else fingerprint(fact.shown), optional=True,
            ),
        },
        facts.HostKeyRefused,
    ),
    EventKind(
        "host.key_trusted", "warning", "Somebody has checked a host's key, and had it pinned.",
        {
            "by": _BY,
            "key": text("its fingerprint", lambda fact: fingerprint(fact.public_key)),
            "was": text(
                "the fingerprint of the one that was pinned before",
                lambda fact: None if fact.was is None else fingerprint(fact.was), optional=True,
            ),
        },
        facts.HostKeyTrusted,
    ),
    EventKind("host.reached", "info", "The first login to a host over SSH.", fact=facts.HostReached),
    EventKind(
        "host.informed", "debug", "A host has the cluster's description.", {"digest": _DIGEST}, facts.HostInformed
    ),
    EventKind(
        "host.given_up", "warning", "A host could not be set up by its deadline; `flambectl retry` tries it again.",
        {"reason": _REASON, "message": _MESSAGE},
        facts.HostGivenUp,
    ),
    EventKind("host.became_busy", "info", "A host's CPU went over its threshold.", fact=facts.BecameBusy),
    EventKind(
        "host.became_idle", "info", "A host's CPU fell under its threshold.",
        {"since": time("its last busy minute", optional=True)},
        facts.BecameIdle,
    ),
    EventKind(
        "host.acquainted", "debug", "A host has its part of the orchestrator's way to the factories over SSH.",
        {"digest": _DIGEST}, facts.HostAcquainted,
    ),
    EventKind(
        "setup.command_started", "info", "A set-up command runs on a host, or was found running.", _COMMAND,
        facts.CommandStarted,
    ),
    EventKind(
        "setup.command_ended", "info", "A set-up command ended; `flambectl logs` shows what it printed.",
        {**_COMMAND, "code": whole("its exit code")},
        facts.CommandEnded,
    ),
    EventKind("setup.done", "info", "All set-up commands of a host ended well.", {"digest": _DIGEST}, facts.SetupDone),
    # --- protection
    EventKind(
        "protection.alarm_armed", "info", "CloudWatch acknowledged the alarm that ends an idle instance.",
        {"digest": _DIGEST},
        facts.AlarmArmed,
    ),
    EventKind(
        "protection.alarm_lacking", "warning", "The alarm of an instance could not be put, or was changed by others.",
        _FAILURE,
        facts.AlarmLacking,
    ),
    EventKind(
        "instance.alarm_fired_in_use", "error", "An alarm ended an instance that was not due: in set-up, or in use.",
        {"why": text("CloudWatch's own words")},
        facts.AlarmFired,
    ),
    EventKind("protection.alarm_removed", "info", "An instance has no alarm any more.", fact=facts.AlarmRemoved),
    EventKind(
        "protection.points_seeded", "info", "Fake CPU points of an instance can be read: its alarm's clock starts anew.",
        {"policy": text("the digest of the policy that they stand for")},
        facts.PointsSeeded,
    ),
    EventKind(
        "protection.lacking", "warning", "Nothing would end this instance if it were idle, and something should.",
        {"seconds": number("for how long"), "message": _MESSAGE},
    ),
    EventKind(
        "protection.namespace_refused", "warning",
        "CloudWatch takes no points under AWS/: alarms watch Flambed/EC2, and need the service to end an instance.",
        {"region": _REGION, "code": _CODE, "message": _MESSAGE},
    ),
    EventKind(
        "protection.points_failed", "warning", "Points that hold alarms off could not be written; it is tried again.",
        {"region": _REGION, "instances": whole("how many instances they are for"), **_FAILURE},
    ),
    # --- regions and AWS
    EventKind(
        "region.opened", "info", "The service begins to work in a region.",
        {"region": _REGION, "queue": flag("whether a queue brings its events; else Describe calls do")},
    ),
    EventKind(
        "region.queue_unreachable", "warning", "The queue cannot be read: changes are noticed later, by Describe calls.",
        {"region": _REGION, "code": _CODE, "message": _MESSAGE},
    ),
    EventKind("region.queue_recovered", "info", "The queue can be read again.", {"region": _REGION}),
    EventKind(
        "region.message_unreadable", "warning", "A message of the queue is no event, and was deleted.",
        {"region": _REGION, "error": text("what is wrong with it"), "body": text("how it begins")},
    ),
    EventKind(
        "region.message_unknown", "debug", "An event of the queue is of a kind that concerns no cluster.",
        {"region": _REGION, "source": text("who sent it"), "kind": text("its detail-type")},
    ),
    EventKind(
        "region.survey_failed", "warning", "What exists in a region could not be looked up; it is tried again.",
        {"region": _REGION, "code": _CODE, "message": _MESSAGE},
    ),
    EventKind(
        "region.survey_done", "debug", "What exists in a region was looked up.",
        {"region": _REGION, "instances": whole("how many were seen"), "clusters": whole("of how many clusters")},
    ),
    EventKind(
        "orphan.found", "warning",
        "Something of ours belongs to no cluster that is known, and bills: see `flambectl gc --plan`.",
        {
            "region": _REGION,
            "kind": text("instance, alarm or volume"),
            "id": text("its id, of an alarm its name"),
            "cluster_id": text("the id of the cluster that its tags name"),
        },
    ),
    EventKind(
        "orphan.removed", "info", "Something that belonged to no cluster was removed, as was asked for.",
        {"region": _REGION, "kind": text("instance, alarm or volume"), "id": text("its id, of an alarm its name")},
    ),
    EventKind(
        "aws.throttled", "warning", "AWS refused a call because there were too many; it is made again, later.",
        {"region": _REGION, "call": text("its name, as RunInstances")},
    ),
    EventKind(
        "aws.call_failed", "debug", "A call to AWS failed.",
        {"region": _REGION, "call": text("its name, as RunInstances"), **_FAILURE},
    ),
    EventKind(
        "aws.other_account", "error",
        "The credentials belong to another account than the one worked in so far: no call is made until that is mended.",
        {
            "account": text("the number of the account that they belong to"),
            "expected": text("the number of the account that they should belong to"),
            "message": _MESSAGE,
        },
    ),
    EventKind(
        "region.not_kept", "warning", "A region could not be written down: without the journal nobody would look there.",
        {"region": _REGION, "error": text("why it could not be written")},
    ),
    EventKind(
        "cluster.unclear", "warning", "Instances of ours were found whose record was lost, and their tags do not make a cluster.",
        {"region": _REGION, "message": _MESSAGE},
    ),
    EventKind(
        "daemon.other_seen", "warning", "Another service has instances in this account and region; they are left alone.",
        {
            "region": _REGION,
            "daemon": text("the id of that service"),
            "instances": whole("how many instances of it are alive"),
            "clusters": texts("which clusters they belong to, as CREATOR/NAME"),
        },
    ),
    EventKind(
        "queue.shared", "error",
        "Another service reads this queue, and each takes the other's events: give each a queue and a state folder of its own.",
        {
            "region": _REGION,
            "daemon": text("the id of that service; the same as ours: it runs on a copy of our state folder"),
            "host": text("the machine that it runs on"),
            "seconds": number("how long ago it said so"),
        },
    ),
    EventKind("queue.own_again", "info", "Nobody else reads this queue any more.", {"region": _REGION}),
    EventKind(
        "queue.not_marked", "info", "The queue cannot be marked as ours, so another service that reads it would not be noticed.",
        {"region": _REGION, "code": _CODE, "message": _MESSAGE},
    ),
    # --- the service itself
    EventKind(
        "service.started", "info", "The service is up.",
        {"version": text("flambed's version"), "state_dir": text("where its state is kept")},
    ),
    EventKind(
        "service.configured", "info", "These settings apply.",
        {"source": text("the settings file; null: built-in defaults", optional=True),
         "settings": named_texts("each setting by its dotted name")},
    ),
    EventKind(
        "service.ended_badly", "warning",
        "The service had ended by itself before this start, as systemd tells: watchdog means that its loop was stuck, and where "
        "it was stuck stands in the system's journal just before.",
        {"result": text("systemd's word: watchdog, core-dump, signal, exit-code, timeout, oom-kill")},
    ),
    EventKind(
        "service.reloaded", "info", "The settings were read again.",
        {
            "changed": named_texts("what applies from now on: the setting, and its old and its new value"),
            "restart": texts("settings that were changed and apply only after a restart"),
        },
    ),
    EventKind(
        "service.reload_refused", "error", "The settings were read again and are wrong: the old ones go on to apply.",
        {"message": _MESSAGE},
    ),
    EventKind("service.stopping", "info", "The service was asked to stop; clusters go on.", {"why": text("who asked")}),
    EventKind("service.stopped", "info", "The service ended in order."),
    EventKind("control.listening", "info", "The control socket is open.", {"path": text("where it is")}),
    EventKind(
        "control.crowded", "warning", "A user has as many connections to the control socket as one may have: no more are let in.",
        {"uid": whole("the user's"), "connections": whole("how many are open")},
    ),
    EventKind(
        "control.request_refused", "info", "A request on the control socket was refused.",
        {
            "uid": whole("the caller's", optional=True),
            "method": text("HTTP method"),
            "path": text("HTTP path"),
            "status": whole("HTTP status"),
            "code": text("the code of the answer"),
            "message": _MESSAGE,
        },
    ),
    EventKind(
        "control.request_failed", "error", "A request on the control socket met a bug of flambed's: please report it.",
        {"method": text("HTTP method"), "path": text("HTTP path"), **_CRASH},
    ),
    EventKind(
        "journal.opened", "info", "The journal is open.",
        {"path": text("where it is"), "daemon_id": text("the random id of this service")},
    ),
    EventKind(
        "journal.replayed", "info", "The journal was read back.",
        {
            "entries": whole("how many facts"),
            "clusters": whole("of how many clusters"),
            "seconds": number("how long it took"),
            "unknown": named_wholes("facts of kinds that only a newer version knows: kept, and not acted on"),
        },
    ),
    EventKind(
        "journal.read_only", "error",
        "The journal cannot be written: the service begins nothing until it can; protection that stands goes on.",
        {"message": _MESSAGE},
    ),
    EventKind(
        "journal.writable", "info", "The journal can be written again; all that happened meanwhile is on disk.",
    ),
    EventKind(
        "journal.lost", "error",
        "The service ended before the journal could be written again: what people asked for among this is lost, and has to "
        "be asked for again.",
        {
            "facts": whole("how many"),
            "clusters": named_texts("how many of which kind, by CREATOR/NAME, or the id of a cluster without one"),
        },
    ),
    EventKind(
        "journal.compacted", "info", "What was old in the journal was folded into checkpoints.",
        {"clusters": whole("of how many clusters")},
    ),
    EventKind(
        "journal.not_compacted", "warning", "The journal could not be made smaller; it is whole, and it is tried again.",
        {"message": _MESSAGE},
    ),
    EventKind(
        "loop.crashed", "error", "A cluster's loop met a bug of flambed's: please report it. It is started again.", _CRASH
    ),
    EventKind(
        "step.crashed", "error", "A step met a bug of flambed's: please report it. It is tried again.",
        {"step": text("which one"), "pause": number("seconds until then", optional=True), **_CRASH},
    ),
    EventKind(
        "library.message", "warning", "A library had something to say.",
        {
            "logger": text("which one"),
            "message": _MESSAGE,
            "traceback": trace("where it happened", optional=True),
        },
    ),
    EventKind(
        "log.undeclared", "warning", "The log was given something that its catalogue does not declare: please report it.",
        {"of": text("the event"), "problems": texts("what was wrong")},
    ),
)  # fmt: skip

CATALOGUE: Final[Mapping[str, EventKind]] = {kind.name: kind for kind in _KINDS}
"""Every kind of event, by its name."""

_OF_FACT: Final[Mapping[type[Fact], EventKind]] = {kind.fact: kind for kind in _KINDS if kind.fact is not None}


def event_of(fact: Fact) -> tuple[str, dict[str, object]]:
    """Return the name of the event that tells a fact, and its own fields, not cleaned yet (see `EventKind.clean`)."""
    kind = _OF_FACT[type(fact)]
    return kind.name, kind.taken(fact)


def ids_of(fact: Fact) -> dict[str, str | None]:
    """Return the instance and the kind of action that a fact is about, where it is about one."""
    key: facts.Key | None = getattr(fact, "key", None)
    subject = key.subject if key is not None and key.subject.startswith("i-") else None
    return {"instance": getattr(fact, "instance", subject), "action": key.kind if key is not None else None}
