"""The service's settings come from a file, the environment and the command line, in that order."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flambed import settings as settings_module
from flambed.errors import ClusterConfigurationError
from flambed.settings import Limit, Settings, load, schema, socket_path, state_path

CONFIG = Path(__file__).parent.parent / "config"


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(settings_module, "DEFAULT_FILE", tmp_path / "none.yaml")


def written(folder: Path, text: str) -> Path:
    """Write a settings file."""
    file = folder / "flambed.yaml"
    file.write_text(text)
    return file


def told(path: Path | None, environ: dict[str, str]) -> list[str]:
    """Return the problems of settings, as they are printed."""
    with pytest.raises(ClusterConfigurationError) as caught:
        load(path, environ)
    return [str(problem) for problem in caught.value.problems]


def test_without_anything_the_defaults_hold() -> None:
    """The defaults are those of the interface."""
    settings = load(None, {})
    assert settings == Settings()
    assert (settings.address, settings.ssh_port, settings.admin_group) == ("private", 22, "flambed-admin")
    assert (settings.ssh.deadline, settings.ssh.parallel, settings.ssh.connect_timeout, settings.ssh.keepalive) == (
        900.0,
        256,
        5.0,
        15.0,
    )
    assert (settings.survey.interval, settings.images.owners, settings.keep_gone) == (
        300.0,
        ("808129580301",),
        604_800.0,
    )
    assert (settings.idle.gpu_percent, settings.idle.max_hold, settings.idle.experiment) == (5.0, 259_200.0, "flambe")
    assert (settings.log.format, settings.log.level) == (None, "info")


def test_a_file_sets_every_kind_of_setting(tmp_path: Path) -> None:
    """Sections, durations, maps and lists are read, account ids without quotes too."""
    file = written(
        tmp_path,
        "socket: /run/x.sock\nssh: {parallel: 8, keepalive: 1m}\n"
        "events:\n  queues:\n    eu-west-1: https://sqs.eu-west-1.amazonaws.com/1/q\n"
        "images: {owners: [012345678901, amazon]}\ncreators: {alice: [a@b.c]}\n"
        "aws_account: 012345678901\nregions: [us-west-2]\n",
    )
    settings = load(file, {})
    assert settings.socket == Path("/run/x.sock")
    assert (settings.ssh.parallel, settings.ssh.keepalive, settings.ssh.deadline) == (8, 60.0, 900.0)
    assert settings.events.queues == {"eu-west-1": "https://sqs.eu-west-1.amazonaws.com/1/q"}
    assert settings.images.owners == ("012345678901", "amazon")
    assert settings.creators == {"alice": ("a@b.c",)}
    assert (settings.aws_account, settings.regions) == ("012345678901", ("us-west-2",))


def test_the_environment_comes_over_the_file_and_the_command_line_over_both(tmp_path: Path) -> None:
    """FLAMBED_A__B is the setting a.b."""
    file = written(tmp_path, "ssh_port: 1\nsocket: /file\nstate_dir: /file\nlog: {level: debug, format: json}\n")
    environ = {
        "FLAMBED_SSH_PORT": "2222",
        "FLAMBED_LOG__LEVEL": "warning",
        "FLAMBED_SOCKET": "/environment",
        "FLAMBED_STATE_DIR": "/environment",
        "FLAMBED_EVENTS__QUEUES": '{"us-east-1": "http://127.0.0.1:5000/1/q"}',
        "PATH": "/bin",
    }
    settings = load(file, environ, socket=Path("/option"))
    assert (settings.ssh_port, settings.log.level, settings.log.format) == (2222, "warning", "json")
    assert (settings.socket, settings.state_dir) == (Path("/option"), Path("/environment"))
    assert settings.events.queues == {"us-east-1": "http://127.0.0.1:5000/1/q"}


def test_the_file_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--config, else $FLAMBED_CONFIG, else the one in /etc where it exists."""
    for name, port in (("option", 1), ("environment", 2), ("etc", 3)):
        (tmp_path / name).write_text(f"ssh_port: {port}\n")
    environ = {"FLAMBED_CONFIG": str(tmp_path / "environment")}
    monkeypatch.setattr(settings_module, "DEFAULT_FILE", tmp_path / "etc")
    assert load(tmp_path / "option", environ).ssh_port == 1
    assert load(None, environ).ssh_port == 2
    assert load(None, {}).ssh_port == 3


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    """A settings file with nothing but comments is no mistake."""
    assert load(written(tmp_path, "# nothing\n"), {}) == Settings()


def test_names_of_the_environment_that_are_no_settings_are_left_alone() -> None:
    """The file's own name and the lab's clock are read by others, and an empty variable is none."""
    assert load(None, {"FLAMBED_CONFIG": "", "FLAMBED_LAB_MINUTE": "0.5", "FLAMBED_SSH_PORT": ""}) == Settings()


def test_an_unknown_name_of_the_environment_names_the_nearest() -> None:
    """A misspelt variable is an error and not a silence."""
    assert told(None, {"FLAMBED_SHH_PORT": "22"}) == [
        "FLAMBED_SHH_PORT: there is no such setting: did you mean 'FLAMBED_SSH_PORT'?"
    ]


def test_several_mistakes_are_told_at_once_with_their_places(tmp_path: Path) -> None:
    """The file's come with line and column, the environment's with the variable."""
    file = written(
        tmp_path,
        "adress: public\nssh_port: 70000\nssh:\n  deadline: soon\n  paralel: 3\nlog: {level: loud}\n"
        "events: {queues: {mars: x}}\nsocket: run/x\nimages: {owners: [nobody]}\nidle: {gpu_percent: true}\n"
        "keep_gone: 0\n",
    )
    assert told(file, {"FLAMBED_LOG__FORMAT": "xml", "FLAMBED_CREATORS": "[", "FLAMBED_ADDRES": "x"}) == [
        "1:1: unknown key 'adress': did you mean 'address'?",
        "2:11: ssh_port: 70000 is out of range: input should be less than or equal to 65535",
        "4:13: ssh.deadline: 'soon' is no duration: write it as 90s, 15m, 4h, 2d or 1h30m",
        "5:3: unknown key 'paralel' in 'ssh': did you mean 'parallel'?",
        "6:14: log.level: the text 'loud' is none of them: known are debug, error, info, warning",
        "7:19: events.queues.mars: 'mars' is not an AWS region, such as us-east-1",
        "7:25: events.queues.mars: 'x' is no queue URL: it begins with https://",
        "8:9: socket: 'run/x' is not absolute: begin it with /",
        "9:19: images.owners, owner 1: 'nobody' is no owner of images: write a 12-digit account id",
        "10:21: idle.gpu_percent: expected a number, found true",
        "11:12: keep_gone: 0 is out of range: input should be greater than 0",
        "FLAMBED_ADDRES: there is no such setting: did you mean 'FLAMBED_ADDRESS'?",
        "FLAMBED_CREATORS: the value opens a quote or a bracket and is no YAML: close it, or quote it all",
        "FLAMBED_LOG__FORMAT: log.format: the text 'xml' is none of them: known are console, json",
    ]


def test_mistakes_of_the_yaml_do_not_hide_those_of_the_values(tmp_path: Path) -> None:
    """A key that is given twice is told along with a value that is out of range."""
    assert told(written(tmp_path, "keep_gone: 0\nlog: {}\nlog: {}\n"), {}) == [
        "1:12: keep_gone: 0 is out of range: input should be greater than 0",
        "3:1: the key 'log' is given twice, first on line 2: keep one of them",
    ]


def test_durations_need_a_unit_and_queues_their_region() -> None:
    """What a person wrote in another form is told with the form to write."""
    assert told(None, {"FLAMBED_SSH__DEADLINE": "10", "FLAMBED_EVENTS__QUEUES": "https://sqs/1/q"}) == [
        "FLAMBED_SSH__DEADLINE: ssh.deadline: 10 has no unit: write 10h, 10m or 10s",
        (
            "FLAMBED_EVENTS__QUEUES: events.queues: 'https://sqs/1/q' does not say which region's queue it is: write "
            "{us-east-1: https://sqs.us-east-1.amazonaws.com/123456789012/flambed}"
        ),
    ]


def test_the_example_of_queues_in_the_environment_is_taken() -> None:
    """It is what the message and config/flambed.yaml show."""
    [line] = [one for one in (CONFIG / "flambed.yaml").read_text().splitlines() if "FLAMBED_EVENTS__QUEUES=" in one]
    value = line.partition("=")[2].strip("'")
    url = "https://sqs.us-east-1.amazonaws.com/123456789012/flambed"
    assert load(None, {"FLAMBED_EVENTS__QUEUES": value}).events.queues == {"us-east-1": url}


def test_an_empty_list_of_owners_is_refused(tmp_path: Path) -> None:
    """Without an owner no image could be trusted, so nothing could be launched."""
    assert told(written(tmp_path, "images: {owners: []}\n"), {}) == [
        "1:18: images.owners: no owner means no image: name one, or leave the setting out"
    ]


def test_limits_are_told_by_user_and_a_wrong_one_by_its_place(tmp_path: Path) -> None:
    """What a line leaves out is no limit; every mistake is told at once."""
    file = tmp_path / "flambed.yaml"
    file.write_text("limits: {default: {instances: 3, types: [g5.*]}, ann: {}}\n")
    assert load(file, {}).limits == {"default": Limit(instances=3, types=("g5.*",)), "ann": Limit()}
    file.write_text("limits:\n  ann: {instances: -1}\n  bob: {cpus: 2}\n")
    with pytest.raises(ClusterConfigurationError) as caught:
        load(file, {})
    assert [(one.line, one.field) for one in caught.value.problems] == [
        (2, "limits.ann.instances"),
        (3, "limits.bob.cpus"),
    ]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The error carries the file's name and the system's reason."""
    with pytest.raises(ClusterConfigurationError) as caught:
        load(tmp_path / "missing.yaml", {})
    assert str(caught.value) == f"{tmp_path}/missing.yaml: the settings file cannot be read: No such file or directory"


def test_settings_are_a_regular_file_or_nothing(tmp_path: Path) -> None:
    """Opening a pipe waits for whoever writes to it: at a reload the whole service would."""
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for wrong in (pipe, Path("/dev/zero")):
        [problem] = told(wrong, {})
        assert problem == "the settings file cannot be read: it is no regular file"
    assert load(Path(os.devnull), {}) == Settings()


@pytest.mark.parametrize(
    ("given", "environ", "path"),
    [
        (Path("/set"), {"STATE_DIRECTORY": "/systemd", "HOME": "/home/a"}, "/set"),
        (None, {"STATE_DIRECTORY": "/systemd:/other", "HOME": "/home/a"}, "/systemd"),
        (None, {"HOME": "/home/a"}, "/home/a/.local/state/flambed"),
    ],
)
def test_the_state_folder_is_looked_for_in_order(given: Path | None, environ: dict[str, str], path: str) -> None:
    """The setting, else what systemd says, else the user's own."""
    assert state_path(Settings(state_dir=given), environ) == Path(path)


def test_without_a_home_the_state_folder_must_be_named() -> None:
    """The message says which setting to give."""
    with pytest.raises(ClusterConfigurationError, match="give --state-dir, or the setting state_dir"):
        state_path(Settings(), {})


@pytest.mark.parametrize(
    ("given", "environ", "uid", "path"),
    [
        (Path("/set.sock"), {"XDG_RUNTIME_DIR": "/run/user/1"}, 0, "/set.sock"),
        (None, {"XDG_RUNTIME_DIR": "/run/user/0"}, 0, "/run/flambed/control.sock"),
        (None, {"XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/home/a"}, 7, "/run/user/7/flambed/control.sock"),
        (None, {"HOME": "/home/a"}, 7, "/home/a/.local/state/flambed/control.sock"),
    ],
)
def test_the_socket_is_opened_by_setting_and_by_user(
    given: Path | None, environ: dict[str, str], uid: int, path: str
) -> None:
    """The setting, else the system's as root, else the session's, else the state folder."""
    assert socket_path(Settings(socket=given), environ, uid) == Path(path)


def test_the_commented_settings_file_says_the_defaults() -> None:
    """config/flambed.yaml names every setting, and what it says is what holds without it."""
    file = CONFIG / "flambed.yaml"
    assert load(file, {}) == Settings()
    text = file.read_text()
    for name, field in Settings.model_fields.items():
        assert f"\n{name}:" in text or f"\n# {name}:" in text
        for inner in getattr(field.annotation, "model_fields", {}):
            assert f"\n  {inner}:" in text or f"\n  # {inner}:" in text


def test_the_schema_file_of_the_settings_is_current() -> None:
    """config/settings.schema.json is what `flambed schema settings` prints."""
    assert json.loads((CONFIG / "settings.schema.json").read_text()) == schema()
