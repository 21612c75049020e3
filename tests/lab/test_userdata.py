"""User data is read as cloud-init reads it."""

import base64
import gzip
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flambed.lab.machine.userdata import UserData, WriteFile, parse_user_data


def archive(*parts: tuple[str, str], merge: str = "") -> bytes:
    """Return a MIME archive of (text, subtype) parts."""
    whole = MIMEMultipart()
    for text, subtype in parts:
        part = MIMEText(text, subtype)
        if merge:
            part["X-Merge-Type"] = merge
        whole.attach(part)
    return whole.as_bytes()


def test_no_user_data_asks_for_nothing() -> None:
    """None and emptiness are the same."""
    assert parse_user_data(None) == parse_user_data(b" \n") == UserData()


def test_a_cloud_config_is_read_in_full() -> None:
    """Keys, users, files and commands arrive in the order they were given in."""
    document = {
        "ssh_keys": {"ed25519_private": "PRIVATE", "ed25519_public": "PUBLIC"},
        "ssh_authorized_keys": ["ssh-ed25519 A"],
        "users": ["default", {"name": "ann", "ssh_authorized_keys": ["ssh-ed25519 B"]}],
        "write_files": [
            {"path": "/a", "content": "text", "permissions": "0600", "owner": "ann:ann"},
            {"path": "/b", "content": base64.b64encode(b"\0\1").decode(), "encoding": "b64", "append": True},
        ],
        "bootcmd": ["echo boot"],
        "runcmd": ["echo one; echo two", ["echo", "a  b", "$x"]],
        "hostname": "box",
    }
    assert parse_user_data(b"#cloud-config\n" + yaml.safe_dump(document).encode()) == UserData(
        host_keys=("PRIVATE",),
        authorized_keys=("ssh-ed25519 A",),
        users=(("ann", ("ssh-ed25519 B",)),),
        files=(
            WriteFile("/a", b"text", 0o600, "ann", append=False),
            WriteFile("/b", b"\0\1", 0o644, "root", append=True),
        ),
        boot_commands="#!/bin/sh\necho boot\n",
        run_commands="#!/bin/sh\necho one; echo two\necho 'a  b' '$x'\n",
        hostname="box",
    )


def test_a_script_is_kept_as_it_is() -> None:
    """User data that begins with #! is a script, zipped or not."""
    script = "#!/bin/bash\necho hi\n"
    assert parse_user_data(script.encode()) == UserData(scripts=(script,))
    assert parse_user_data(gzip.compress(script.encode())) == UserData(scripts=(script,))


def test_an_archive_holds_several_parts() -> None:
    """Configs are merged, the later key wins, scripts are kept in order."""
    data = archive(
        ("#cloud-config\nruncmd: [one]\nhostname: a\n", "cloud-config"),
        ("#!/bin/sh\necho 1\n", "x-shellscript"),
        ("#cloud-config\nruncmd: [two]\n", "cloud-config"),
        ("#!/bin/sh\necho 2\n", "x-shellscript"),
    )
    read = parse_user_data(data)
    assert (read.run_commands, read.hostname) == ("#!/bin/sh\ntwo\n", "a")
    assert read.scripts == ("#!/bin/sh\necho 1\n", "#!/bin/sh\necho 2\n")


def test_boothooks_are_kept_apart_from_scripts() -> None:
    """By their type or by how they begin."""
    data = archive(("#!/bin/sh\necho 1\n", "cloud-boothook"), ("#!/bin/sh\necho 2\n", "x-shellscript"))
    assert parse_user_data(data) == UserData(boothooks=("#!/bin/sh\necho 1\n",), scripts=("#!/bin/sh\necho 2\n",))
    alone = "#cloud-boothook\n#!/bin/sh\necho 1\n"
    assert parse_user_data(alone.encode()) == UserData(boothooks=("#!/bin/sh\necho 1\n",))


def test_lists_are_appended_where_a_part_asks_for_it() -> None:
    """The merge header and the merge_how key both count."""
    one, two = "#cloud-config\nruncmd: [one]\n", "#cloud-config\nruncmd: [two]\n"
    by_header = archive((one, "cloud-config"), (two, "cloud-config"), merge="list(append)+dict()")
    by_key = archive((one, "cloud-config"), (f"{two}merge_how: list(append)\n", "cloud-config"))
    assert parse_user_data(by_header).run_commands == "#!/bin/sh\none\ntwo\n"
    assert parse_user_data(by_key).run_commands == "#!/bin/sh\none\ntwo\n"


def test_what_is_wrong_is_told_and_the_rest_is_done() -> None:
    """A file without a path, a bad base64 and bad YAML leave the other parts standing."""
    files = "write_files:\n- {content: x}\n- {path: /p, content: '&', encoding: b64}\n- {path: /q, content: y}\n"
    data = archive(
        (f"#cloud-config\n{files}", "cloud-config"), ("#cloud-config\na: [", "cloud-config"), ("hm", "plain")
    )
    read = parse_user_data(data)
    assert [file.path for file in read.files] == ["/q"]
    assert len(read.problems) == 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["ssh_keys", "ssh_authorized_keys", "users", "write_files", "bootcmd", "runcmd", "hostname", "merge_how"]


@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5))
@settings(max_examples=150, deadline=None)
def test_no_cloud_config_upsets_the_reader(document: dict[str, object]) -> None:
    """Whatever the values are, something is read, and scripts are text."""
    read = parse_user_data(b"#cloud-config\n" + yaml.safe_dump(document).encode())
    assert isinstance(read.run_commands, str)


@given(st.binary(max_size=60))
@settings(max_examples=150, deadline=None)
def test_no_bytes_upset_the_reader(data: bytes) -> None:
    """User data is any 16 KiB that somebody chose to give."""
    assert isinstance(parse_user_data(data), UserData)
