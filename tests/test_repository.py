"""The repository as a whole: what it depends on, and that its log is documented."""

from __future__ import annotations

import ast
import configparser
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from flambed import log
from flambed.catalogue import CATALOGUE

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def imported(*folders: Path) -> dict[str, set[str]]:
    """Top-level module -> the files below these folders that import it; the standard library and our own left out."""
    found: dict[str, set[str]] = {}
    for file in (file for folder in folders for file in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"flambed", "tests"}:
                found.setdefault(name, set()).add(str(file.relative_to(ROOT)))
    return found


def normal(name: str) -> str:
    """A distribution's name as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(group: list[str]) -> set[str]:
    """The distributions that a list of requirements names."""
    return {normal(re.split(r"[\s<>=!~\[;]", requirement)[0]) for requirement in group}


def lacking(modules: dict[str, set[str]], distributions: set[str]) -> dict[str, set[str]]:
    """The imported modules that none of these distributions brings."""
    brought_by = metadata.packages_distributions()
    return {
        module: files
        for module, files in modules.items()
        if not {normal(name) for name in brought_by.get(module, ())} & distributions
    }


@pytest.mark.seed("C08")
def test_the_service_imports_what_it_declares_and_moto_is_the_labs_alone() -> None:
    """A bastion that installs flambed without the extra has all that `flambed run` and `flambectl` import."""
    service = declared(PROJECT["project"]["dependencies"])
    assert service >= {"aioboto3", "asyncssh", "structlog", "pyyaml"}
    # aioboto3's and pydantic's own, each pinned by it to one version
    service |= {"aiobotocore", "boto3", "botocore", "pydantic-core"}
    daemon = ROOT / "daemon" / "flambed"
    outside_the_lab = {
        module: files - {file for file in files if file.startswith("daemon/flambed/lab/")}
        for module, files in imported(daemon).items()
    }
    assert lacking({module: files for module, files in outside_the_lab.items() if files}, service) == {}

    lab = service | declared(PROJECT["project"]["optional-dependencies"]["lab"])
    lab |= {"werkzeug", "cryptography"}  # of flask, of asyncssh
    assert lacking(imported(daemon), lab) == {}
    groups = PROJECT["dependency-groups"]
    dev = declared(groups["build"] + [one for one in groups["dev"] if one != {"include-group": "build"}])
    assert lacking(imported(ROOT / "tests"), lab | dev) == {}


def test_the_lab_imports_nothing_of_flambed_but_itself() -> None:
    """Wherever the import stands, also in a function: else it would be no independent witness."""
    found = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in (ROOT / "daemon" / "flambed" / "lab").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        for name in of_flambed(node)
        if name != "flambed.lab" and not name.startswith("flambed.lab.")
    }
    assert found == set()


def of_flambed(node: ast.AST) -> list[str]:
    """The modules of flambed that a node imports; a relative import is told as such."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level:
        names = [f"flambed (relative, {node.module})"]
    elif isinstance(node, ast.ImportFrom) and node.module == "flambed":
        names = [f"flambed.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
    else:
        names = []
    return [name for name in names if name.partition(".")[0].partition(" ")[0] == "flambed"]


@pytest.mark.parametrize(
    ("contract", "may"),
    [
        ("sdk", {"aws", "observed", "steps", "keeper", "region", "demo", "lab"}),
        ("asyncssh", {"ssh", "lab"}),
        ("sqlite", {"journal"}),
        ("aiohttp", {"control"}),
    ],
)
def test_a_contract_on_who_may_import_names_everybody_else(contract: str, may: set[str]) -> None:
    """A new module has to be written into .importlinter, or it could import what it may not."""
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    listed = contracts[f"importlinter:contract:{contract}"]["source_modules"].split()
    package = ROOT / "daemon" / "flambed"
    modules = {path.parent.name for path in package.glob("*/__init__.py")} | {
        path.stem for path in package.glob("*.py")
    }
    assert set(listed) == {f"flambed.{name}" for name in modules - may - {"__init__"}}


@pytest.mark.seed("C07")
def test_every_event_is_documented_and_the_page_is_the_catalogues() -> None:
    """docs/events.md is what `make schemas` writes, and has a row for each event."""
    page = (ROOT / "docs" / "events.md").read_text()
    assert page == log.markdown(), "run: make schemas"
    for name, kind in CATALOGUE.items():
        assert f"| `{name}` | {kind.level} | {kind.doc} |" in page
