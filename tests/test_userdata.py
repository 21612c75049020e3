"""User data carries the host key that is pinned, beside everything that the user wants at first boot."""

from __future__ import annotations

import email
from email.message import Message

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flambed import userdata
from flambed.errors import ClusterConfigurationError

PRIVATE = "\n".join(
    ["-----BEGIN OPENSSH PRIVATE KEY-----", *["b3BlbnNzaC1r" * 5] * 5, "-----END OPENSSH PRIVATE KEY-----", ""]
)
PUBLIC = "ssh-ed25519 " + "A" * 68


def build(user_data: str | None) -> bytes:
    """Build user data with the key of these tests."""
    return userdata.build(host_key_private=PRIVATE, host_key_public=PUBLIC, user_data=user_data)


def parts(raw: bytes) -> list[Message]:
    """Return the parts as cloud-init walks them."""
    message = email.message_from_bytes(raw)
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


def test_without_user_data_it_is_one_cloud_config_with_the_host_key() -> None:
    """The key arrives exactly, and keys of the image are deleted."""
    assert host_key(build(None).decode()) == OURS


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
def test_every_kind_of_user_data_stands_beside_the_host_key(user_data: str, kind: str) -> None:
    """The user's own comes first, of the right type and unchanged; the host key comes last, so that nothing replaces it."""
    theirs, ours = parts(build(user_data))
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
    assert build(user_data).isascii()  # cloud-init garbles other bytes of a part without an encoding
    config, script, ours = parts(build(user_data))
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


def test_what_was_built_is_user_data_again_once_the_key_is_out() -> None:
    """The message that is built is of a kind that is taken."""
    again = build("#!/bin/sh\necho 1\n").decode().replace("ssh_", "other_")
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


def test_the_limit_counts_everything_before_base64() -> None:
    """The user data may fill what the host key leaves, to the byte."""
    fixed = len(build("#!/bin/sh\n"))
    room = userdata.LIMIT - fixed
    assert len(build("#!/bin/sh\n" + "x" * room)) == userdata.LIMIT
    with pytest.raises(
        ClusterConfigurationError, match="the user data has 16385 bytes with the host's key, and EC2 takes 16384"
    ):
        build("#!/bin/sh\n" + "x" * (room + 1))


def test_a_file_is_refused_for_its_size_before_there_is_a_key() -> None:
    """What passes the check of the file can be built with a real key."""
    most = max(size for size in range(15_000, userdata.LIMIT) if not userdata.problems("#!" + "x" * (size - 2)))
    assert len(build("#!" + "x" * (most - 2))) <= userdata.LIMIT
    assert "EC2 takes 16384" in userdata.problems("#!" + "x" * most)[0]
    assert "EC2 takes 16384" in userdata.problems("#!" + "x" * 10_000_000)[0]


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
    assert host_key(content(parts(build(text))[-1])) == OURS
