"""User data carries the host key that is pinned and the idle timer, beside all that the user wants at first boot."""

from __future__ import annotations

import base64
import bisect
import email
import gzip
import random
from collections.abc import Callable
from email.message import Message

import asyncssh
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flambed import userdata
from flambed.errors import ClusterConfigurationError
from flambed.userdata import IdleTimer

PRIVATE = "\n".join(
    ["-----BEGIN OPENSSH PRIVATE KEY-----", *["b3BlbnNzaC1r" * 5] * 5, "-----END OPENSSH PRIVATE KEY-----", ""]
)
PUBLIC = "ssh-ed25519 " + "A" * 68


TIMER = IdleTimer(90, 0.5)


def build(user_data: str | None, timer: IdleTimer | None = None) -> bytes:
    """Build user data with the key of these tests."""
    return userdata.build(host_key_private=PRIVATE, host_key_public=PUBLIC, user_data=user_data, timer=timer)


def parts(raw: bytes) -> list[Message]:
    """Return the parts as cloud-init walks them."""
    message = email.message_from_bytes(gzip.decompress(raw))
    return [part for part in message.walk() if part.get_content_maintype() != "multipart"]


def content(part: Message) -> str:
    """Return the decoded content of a part."""
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode()


def host_key(text: str) -> dict[str, object]:
    """Return what a cloud-config says, checking that it is one."""
    assert text.startswith("#cloud-config\n")
    loaded = yaml.safe_load(text)
    assert isinstance(loaded, dict)
    return loaded


OURS = {"ssh_deletekeys": True, "ssh_keys": {"ed25519_private": PRIVATE, "ed25519_public": PUBLIC}}


def timer_of(part: Message) -> str:
    """Return the program in the part of the idle timer."""
    assert part.get_content_type() == "text/cloud-boothook"
    return content(part)


def new_key() -> tuple[str, str]:
    """Return a host key as the service makes them: (private, public)."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    return key.export_private_key("openssh").decode(), key.export_public_key("openssh").decode()


def test_without_user_data_it_is_one_cloud_config_with_the_host_key() -> None:
    """The key arrives exactly, and keys of the image are deleted."""
    assert host_key(gzip.decompress(build(None)).decode()) == OURS


def test_the_idle_timer_comes_first_and_the_host_key_last() -> None:
    """It is no cloud-config, whose lists would replace the user's, and it knows its numbers."""
    timer, ours = parts(build(None, TIMER))
    assert timer_of(timer) == TIMER.script
    assert "set -- install 90 0.500\n" in TIMER.script
    assert host_key(content(ours)) == OURS


@pytest.mark.parametrize("timer", [None, TIMER], ids=["without a timer", "with a timer"])
@pytest.mark.parametrize(
    ("user_data", "kind"),
    [
        ("#!/bin/bash\necho hi\n", "text/x-shellscript"),
        ("#cloud-config\npackages: [htop]\n", "text/cloud-config"),
        ("#cloud-config-archive\n- type: text/x-shellscript\n  content: x\n", "text/cloud-config-archive"),
        ("#cloud-config-jsonp\n[]\n", "text/cloud-config-jsonp"),
        ("#cloud-boothook\n#!/bin/sh\necho early\n", "text/cloud-boothook"),
        ("#include\nhttps://example.org/x\n", "text/x-include-url"),
        ("#include-once\nhttps://example.org/x\n", "text/x-include-once-url"),
        ("#part-handler\ndef list_types(): return []\n", "text/part-handler"),
        ("## template: jinja\n#cloud-config\nhostname: '{{ v1.region }}'\n", "text/jinja2"),
        ("\n\n#!/bin/sh\nno newline at the end", "text/x-shellscript"),
        ("#!/bin/sh\necho 'grüße'\n", "text/x-shellscript"),
    ],
)
def test_every_kind_of_user_data_stands_beside_the_host_key(user_data: str, kind: str, timer: IdleTimer | None) -> None:
    """The user's own is of the right type and unchanged; the host key comes last, so that nothing replaces it."""
    *before, theirs, ours = parts(build(user_data, timer))
    assert [timer_of(part) for part in before] == ([timer.script] if timer else [])
    assert theirs.get_content_type() == kind
    assert content(theirs) == user_data.lstrip()
    assert ours.get_content_type() == "text/cloud-config"
    assert host_key(content(ours)) == OURS


def test_the_parts_of_a_multipart_message_are_kept_with_their_headers() -> None:
    """A user's own MIME message is opened, nested ones too, and each part keeps its type, name and way of merging."""
    user_data = (
        'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="A"\n\n'
        "--A\nContent-Type: text/cloud-config\nMerge-Type: list(append)+dict(recurse_list)\n"
        'Content-Disposition: attachment; filename="a.yaml"\n\n#cloud-config\nruncmd: [ls]\n'
        '--A\nContent-Type: multipart/mixed; boundary="B"\n\n--B\nContent-Type: text/x-shellscript\n\n#!/bin/sh\necho é\n--B--\n'
        "--A--\n"
    )
    assert gzip.decompress(
        build(user_data, TIMER)
    ).isascii()  # cloud-init garbles other bytes of a part without an encoding
    timer, config, script, ours = parts(build(user_data, TIMER))
    assert timer_of(timer) == TIMER.script
    assert config["Merge-Type"] == "list(append)+dict(recurse_list)"
    assert config.get_filename() == "a.yaml"
    assert content(config) == "#cloud-config\nruncmd: [ls]"
    assert script.get_content_type() == "text/x-shellscript"
    assert content(script) == "#!/bin/sh\necho é"
    assert host_key(content(ours)) == OURS


def test_the_same_arguments_give_the_same_bytes() -> None:
    """A launch that is replayed with its client token must carry the same parameters."""
    assert build("#!/bin/sh\n") == build("#!/bin/sh\n")
    assert build("#!/bin/sh\n") != build("#!/bin/bash\n")
    assert build(None, TIMER) == build(None, IdleTimer(90, 0.5)) != build(None, IdleTimer(91, 0.5))


def test_what_was_built_is_user_data_again_once_the_key_is_out() -> None:
    """The message that is built is of a kind that is taken."""
    again = gzip.decompress(build("#!/bin/sh\necho 1\n")).decode().replace("ssh_", "other_")
    assert [part.get_content_type() for part in parts(build(again))] == [
        "text/x-shellscript",
        "text/cloud-config",
        "text/cloud-config",
    ]


@pytest.mark.parametrize("key", ["ssh_keys", "ssh_deletekeys"])
@pytest.mark.parametrize(
    "shape",
    [
        "#cloud-config\n{key}: x\n",
        '#cloud-config\n"{key}": x\n',
        '#cloud-config\n{{"{key}": 1}}\n',
        "## template: jinja\n#cloud-config\n{key}: x\n",
        "Content-Type: text/cloud-config\nMIME-Version: 1.0\n\n{key}: x\n",
        'Content-Type: multipart/mixed; boundary="A"\n\n--A\nContent-Type: text/plain\n\n#cloud-config\n{key}: x\n--A--\n',
    ],
)
def test_user_data_that_sets_the_host_key_itself_is_refused(shape: str, key: str) -> None:
    """Whatever it is wrapped in, the message names the key and says to leave it out."""
    text = shape.format(key=key)
    [reason] = userdata.problems(text)
    assert (
        reason
        == f"the user data sets '{key}', but flambed sets the host's key itself, to know the host again: leave it out"
    )
    with pytest.raises(ClusterConfigurationError, match=key) as caught:
        build(text)
    assert caught.value.problems[0].field == "user_data"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the user data is empty"),
        (" \n", "the user data is empty"),
        ("echo hi", "cloud-init would ignore what begins with 'echo hi'"),
        ("#!/bin/sh\n\0", "a character that text cannot carry"),
        ("#!/bin/sh\n\ud800", "a character that text cannot carry"),
        ("#cloud-config\na: [\n", "the cloud-config in the user data cannot be read: 3:1: this is not YAML"),
        ("#cloud-config\n- a\n", "cannot be read: 2:1: expected keys and values"),
        ('Content-Type: multipart/mixed; boundary="A"\n\nnothing\n', "has no parts"),
        ("Content-Type: text/plain\n\nhello\n", "cloud-init would ignore what begins with 'hello'"),
    ],
)
def test_user_data_that_cannot_work_is_refused_with_the_reason(text: str, reason: str) -> None:
    """What cloud-init would ignore or choke on is said before anything is launched."""
    [told] = userdata.problems(text)
    assert reason in told


def test_a_script_that_mentions_the_keys_is_no_cloud_config() -> None:
    """Only configuration is looked into."""
    assert userdata.problems("#!/bin/sh\nssh_keys: \n") == ()


def noise(size: int) -> str:
    """Return text that cannot be compressed by more than base64 can."""
    return base64.b64encode(random.Random(1).randbytes(size)).decode()[:size]


def largest(fits: Callable[[str], bool]) -> int:
    """Return how much noise fits."""

    def too_large(size: int) -> bool:
        try:
            return not fits("#!" + noise(size))
        except ClusterConfigurationError:
            return True

    return bisect.bisect_left(range(userdata.LIMIT), True, key=too_large) - 1


def test_the_limit_counts_everything_compressed_and_before_base64() -> None:
    """The user data may fill what the host key and the timer leave."""
    most = largest(lambda text: len(build(text, TIMER)) > 0)
    assert userdata.LIMIT - 8 <= len(build("#!" + noise(most), TIMER)) <= userdata.LIMIT
    with pytest.raises(ClusterConfigurationError, match="with the host's key and its idle timer, compressed, and EC2"):
        build("#!" + noise(most + 8), TIMER)


def test_text_of_sixteen_thousand_bytes_fits_beside_the_idle_timer() -> None:
    """What people write by hand compresses; more than EC2 takes as it is, is refused whatever it compresses to."""
    script = "#!/bin/sh\n" + "".join(f"echo step {n} >>/var/log/steps\n" for n in range(1_000))[:16_374]
    assert userdata.problems(script) == ()
    assert len(build(script, TIMER)) < 8_000
    [reason] = userdata.problems(script + "x")
    assert reason.startswith("the user data has 16385 bytes, and 16384 are the most: move what is large to a bucket")


def test_the_key_and_the_idle_timer_need_five_thousand_bytes() -> None:
    """Whoever makes the timer longer takes the room from everybody's user data."""
    assert len(build(None, TIMER)) < 5_000


def test_a_file_is_refused_for_its_size_before_there_is_a_key() -> None:
    """What passes the check of the file can be built with a real key, and any timer."""
    most = largest(lambda text: not userdata.problems(text))
    key, public = new_key()
    for timer in (None, TIMER, IdleTimer(60, 4), IdleTimer(9_876_543, 12.345), IdleTimer(8_640, 0.618)):
        for n in range(4):
            userdata.build(
                host_key_private=key, host_key_public=public, user_data="#!" + noise(most + n - 3), timer=timer
            )
    assert "EC2 takes 16384" in userdata.problems("#!" + noise(most + 8))[0]
    assert "16384 are the most" in userdata.problems("#!" + "x" * 10_000_000)[0]


@given(
    st.text()
    | st.builds(
        lambda head, body: f"{head}\n{body}",
        st.sampled_from(
            [
                "#cloud-config",
                "## template: jinja",
                "Content-Type: text/cloud-config",
                'Content-Type: multipart/mixed; boundary="A"\n\n--A',
                "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=A\n\n--A\nContent-Transfer-Encoding: base64\n",
                "Content-Type: message/rfc822\n",
            ]
        ),
        st.text() | st.text("ab:=?-A\n\r\t;é\"'/"),
    )
)
@settings(deadline=None, max_examples=500)
def test_no_text_does_anything_but_be_built_or_be_refused(text: str) -> None:
    """Whatever the text, there are reasons against it, or user data whose last part is the host key."""
    if userdata.problems(text):
        return
    built = parts(build(text, TIMER))
    assert timer_of(built[0]) == TIMER.script
    assert host_key(content(built[-1])) == OURS
