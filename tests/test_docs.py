"""What the documents say is so: links lead somewhere, commands exist, examples are accepted, tables are complete."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import botocore.session
import pytest
import yaml
from botocore import xform_name

from flambed import desired, settings, yamlfile
from flambed.catalogue import CATALOGUE
from flambed.cli import arguments
from flambed.cli.failure import Exit
from flambed.errors import Reason

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
OPERATING = (ROOT / "docs" / "operating.md").read_text()

each_document = pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Return the shell commands of a document, those of indented and of `sh` blocks, continued lines joined."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(\S.*)$", prose, re.MULTILINE)
    fenced = [line for block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [line.strip() for line in [*indented, *fenced]]


def anchor(heading: str) -> str:
    """Return the anchor of a heading."""
    return re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")


def rows(text: str, header: str) -> list[str]:
    """Return the first cell of each row of the table that begins with a header."""
    [table] = re.findall(rf"^\| {re.escape(header)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [line.split("|")[1].strip() for line in table.splitlines()]


@each_document
def test_links_lead_to_files_and_headings_that_exist(file: Path) -> None:
    """Every relative link resolves, to its heading where it names one."""
    for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text()):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        found = (file.parent / path).resolve() if path else file
        assert found.exists(), f"{file.name} links to {target}"
        assert found.is_relative_to(ROOT), f"{file.name} links to {target}, which is not in the repository"
        if heading:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert heading in map(anchor, headings), f"{file.name} links to {target}"


@each_document
def test_make_targets_that_are_named_exist(file: Path) -> None:
    """Every `make TARGET` is one of the Makefile's."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:`|^    )make ([a-z-]+)", file.read_text(), re.MULTILINE)
    assert set(named) <= targets


@each_document
def test_flambectl_commands_that_are_shown_are_taken(file: Path) -> None:
    """Every command line for flambectl, in a block or in backquotes, has a command and options that there are."""
    text = file.read_text()
    known = {command.name: {option.name for option in command.options} for command in arguments.COMMANDS}
    quoted = re.findall(r"`flambectl ([^`]+)`", text)
    for line in [
        *quoted,
        *(line.removeprefix("flambectl ") for line in commands(text) if line.startswith("flambectl ")),
    ]:
        name, *words = shlex.split(line, comments=True)
        assert name in known, f"{file.name} shows flambectl {line}"
        options = {word for word in words[: words.index("--") if "--" in words else None] if word.startswith("--")}
        assert options <= known[name], f"{file.name} shows flambectl {line}"


@each_document
def test_yaml_examples_are_accepted(file: Path) -> None:
    """Every YAML block is a cluster file or settings."""
    for number, block in enumerate(blocks(file.read_text(), "yaml")):
        if "factories_num:" in block:
            assert desired.parse(block, source=f"{file.name}, example {number}").name
        else:
            values = yamlfile.load(block, source=f"{file.name}, example {number}").value
            assert settings.Settings.model_validate(values) != settings.Settings()


def test_the_readme_lists_every_command_of_flambectl() -> None:
    """The table has each command once, and its options are the command's."""
    table = README[README.index("| `flambectl` |") : README.index("HOST is")]
    shown = [name.split()[0] for row in rows(README, "`flambectl`") for name in re.findall(r"`([^`]+)`", row)]
    assert sorted(shown) == sorted(command.name for command in arguments.COMMANDS)
    options = {option.name for command in arguments.COMMANDS for option in command.options}
    assert set(re.findall(r"--[a-z]+", table)) <= options


def test_the_readme_lists_every_exit_code() -> None:
    """The table has each exit code of flambectl."""
    assert [int(code) for code in rows(README, "exit code")] == sorted(Exit)


def test_the_aws_commands_of_the_readme_are_ones_of_the_aws_client() -> None:
    """Every `aws SERVICE OPERATION --option` is in the SDK's own model of the service."""
    general = {"query", "output"}
    session = botocore.session.Session()
    shown = re.findall(r"\baws ([a-z0-9]+) (?:wait )?([a-z-]+)((?:[^\n]|\\\n)*)", README)
    assert len(shown) >= 3, "the set-up of the account takes three commands"
    for service, named, rest in shown:
        waiting = session.get_waiter_model(service)
        waits = {xform_name(name, "-"): waiting.get_waiter(name).operation for name in waiting.waiter_names}
        operation = xform_name(waits[named], "-") if named in waits else named
        model = session.get_service_model(service)
        [name] = [name for name in model.operation_names if xform_name(name, "-") == operation]
        members = {xform_name(member, "-") for member in model.operation_model(name).input_shape.members}
        assert set(re.findall(r"--([a-z-]+)", rest)) <= members | general


def test_the_files_that_contributing_names_exist() -> None:
    """Every path in backquotes is a file or a folder; short ones are below daemon/flambed."""
    named = re.findall(r"`([\w./]+(?:/|\.(?:py|sh|md|yaml|json|toml|lock)))`", CONTRIBUTING)
    assert len(named) > 50
    missing = [path for path in named if not (ROOT / path).exists() and not (ROOT / "daemon/flambed" / path).exists()]
    assert missing == []


def test_the_names_that_contributing_sends_people_to_are_in_the_files_that_it_names() -> None:
    """Where a row says `NAME` in a file, the file has that name."""
    said = re.findall(r"`([A-Za-z_]+)`(?: and `[A-Z]+`)? (?:of|in) `(daemon/[\w./]+\.py)`", CONTRIBUTING)
    assert len(said) >= 8
    assert [(name, path) for name, path in said if not re.search(rf"\b{name}\b", (ROOT / path).read_text())] == []


def test_the_page_on_cluster_files_has_every_field_as_the_schema_has_it() -> None:
    """docs/cluster-file.md names each field with its default and its description."""
    schema = desired.schema()
    wanted = []
    for name, field in schema["properties"].items():
        inner = schema["$defs"].get(name.title())
        if inner is None:
            wanted.append(_row(name, field, required=name in schema["required"]))
        else:
            wanted += [_row(f"{name}.{part}", one, required=False) for part, one in inner["properties"].items()]
    page = (ROOT / "docs" / "cluster-file.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("| `")] == wanted
    assert re.findall(r"`([a-z_]+)`", page[page.index("That is so") :]) == list(desired.MACHINE_FIELDS)


def _row(name: str, field: dict[str, object], *, required: bool) -> str:
    default = field.get("default")
    value = yaml.safe_dump(default).splitlines()[0] if default not in (None, [], {}) else None
    shown = "required" if required else f"`{value}`" if value else "none"
    return f"| `{name}` | {shown} | {field['description']} |"


def test_the_events_and_reasons_that_operators_are_told_of_exist() -> None:
    """docs/operating.md names events of the catalogue, and reasons that the log can give."""
    named = set(re.findall(r"`((?:protection|cluster|service|loop|step|journal)\.[a-z_]+)`", OPERATING))
    assert named - {"journal.sqlite"}
    assert named - {"journal.sqlite"} <= CATALOGUE.keys()
    assert {Reason.NO_CAPACITY.value, Reason.QUOTA.value} <= set(
        re.findall(r"^\| `([a-z_]+)` \|", OPERATING, re.MULTILINE)
    )


@pytest.mark.seed("C08")
def test_the_packages_that_were_asked_for_are_declared_and_locked() -> None:
    """Each is a dependency in pyproject.toml, and the lock file pins it with hashes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    service = project["project"]["dependencies"] + groups["build"]
    tests = project["project"]["optional-dependencies"]["lab"] + [one for one in groups["dev"] if isinstance(one, str)]
    names = {re.split(r"[^A-Za-z0-9-]", requirement)[0].lower() for requirement in service + tests}
    assert {"aioboto3", "asyncssh", "structlog", "pyyaml", "moto", "pytest-asyncio"} <= names
    assert names <= locked("requirements.lock").keys()
    needed = {re.split(r"[^A-Za-z0-9-]", requirement)[0].lower() for requirement in service}
    assert needed <= locked("config/service.lock").keys()


def test_the_service_is_installed_from_what_the_tests_were_run_with() -> None:
    """The bastion's lock file is a part of the other, version by version and hash by hash."""
    everything, service = locked("requirements.lock"), locked("config/service.lock")
    assert service.items() <= everything.items()
    assert not {"moto", "pytest", "flask"} & service.keys()


def locked(name: str) -> dict[str, tuple[str, ...]]:
    """The packages of a lock file: by name the version, and the hashes."""
    found: dict[str, tuple[str, ...]] = {}
    for entry in re.split(r"^(?=\S)", (ROOT / name).read_text(), flags=re.MULTILINE):
        if pinned := re.match(r"([a-z0-9-]+)==(\S+) \\\n    --hash=", entry):
            found[pinned[1]] = (pinned[2], *re.findall(r"--hash=(\S+)", entry))
    return found


@pytest.mark.seed("C09")
def test_the_top_level_is_as_it_was_asked_for() -> None:
    """The files and folders that the source document names are there, and the package is importable from daemon/."""
    for name in ("pyproject.toml", "daemon", "config", "tests", "systemd", "README.md"):
        assert (ROOT / name).exists(), name
    assert Path(settings.__file__).is_relative_to(ROOT / "daemon" / "flambed")


def test_the_changelog_speaks_of_this_version() -> None:
    """The version of pyproject.toml is in it, released or on its way."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert version in (ROOT / "CHANGELOG.md").read_text()


@each_document
def test_documents_name_no_place_of_one_machine(file: Path) -> None:
    """No home folder but an example's, no temporary folder, no trace of what documents were written on."""
    assert re.findall(r"/(?:root|work|tmp)/\S*", file.read_text()) == []
