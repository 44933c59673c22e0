"""The promises of the README, the metadata and the names of the package."""

import re
from importlib.metadata import entry_points, metadata
from pathlib import Path
from types import ModuleType

import pytest

import pgqrs

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_all_is_sorted():
    assert list(pgqrs.__all__) == sorted(pgqrs.__all__)


def test_all_lists_every_public_name():
    public = {
        name for name, value in vars(pgqrs).items() if name[0] != "_" and not isinstance(value, ModuleType)
    } - {"annotations"}
    assert {name for name in pgqrs.__all__ if name[0] != "_"} == public


def test_every_public_name_has_a_docstring():
    assert [name for name in pgqrs.__all__ if name[0] != "_" and not getattr(pgqrs, name).__doc__] == []


def test_readme_shows_the_quickstart():
    assert f"```python\n{(ROOT / 'examples' / 'quickstart.py').read_text()}```" in README


@pytest.mark.parametrize("target", ["demo", "test"])
def test_commands_of_the_readme_exist(target):
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_ci_runs_the_command_of_the_readme():
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("exec ")]
    assert commands == ["exec make test </dev/null"]


def test_metadata():
    about = metadata("pgqrs")
    assert about["Requires-Python"] == ">=3.11"
    assert about["License-Expression"] == "Apache-2.0"
    extras = ["cli", "cryptography", "dashboard", "embedded", "orjson", "otel", "prometheus", "pydantic"]
    assert about.get_all("Provides-Extra") == extras
    assert [point.value for point in entry_points(group="console_scripts", name="pgqrs")] == ["pgqrs.cli:main"]


def test_version_is_in_the_changelog():
    assert f"## [{metadata('pgqrs')['Version']}]" in (ROOT / "CHANGELOG.md").read_text()
