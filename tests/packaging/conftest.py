"""The wheel and the sdist, built once, and clean environments to try them in."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Artifacts:
    wheel: Path
    sdist: Path


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own, used from a folder that is not the checkout."""

    folder: Path
    cwd: Path

    def run(self, command: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment with next to no environment variables."""
        return subprocess.run(
            [str(self.folder / "bin" / command), *arguments],
            cwd=self.cwd,
            env={"PATH": os.defpath, "HOME": str(self.cwd), "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=check,
            timeout=100,
        )

    def python(self, code: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a snippet."""
        return self.run("python", "-c", code, check=check)


def uv(*arguments: str | Path) -> None:
    """Run uv, from this interpreter's environment or from the PATH."""
    beside = Path(sys.executable).with_name("uv")
    program = str(beside) if beside.exists() else shutil.which("uv")
    assert program, "the packaging tests need uv (`pip install uv`)"
    done = subprocess.run([program, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def environment(folder: Path, requirement: str) -> Environment:
    """Return a new virtual environment with nothing but the requirement installed."""
    uv("venv", "--python", sys.executable, folder / "env")
    uv("pip", "install", "--python", folder / "env" / "bin" / "python", requirement)
    (folder / "elsewhere").mkdir()
    return Environment(folder / "env", folder / "elsewhere")


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    """The sdist, and the wheel that is built out of it."""
    out = tmp_path_factory.mktemp("dist")
    uv("build", "--out-dir", out)
    (wheel,) = out.glob("*.whl")
    (sdist,) = out.glob("*.tar.gz")
    return Artifacts(wheel, sdist)


@pytest.fixture(scope="session")
def bare(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel, without extras."""
    return environment(tmp_path_factory.mktemp("bare"), f"pgqrs @ {artifacts.wheel.as_uri()}")


@pytest.fixture(scope="session")
def embedded(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and its extra `embedded`."""
    return environment(tmp_path_factory.mktemp("embedded"), f"pgqrs[embedded] @ {artifacts.wheel.as_uri()}")


@pytest.fixture(scope="session")
def from_sdist(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with what the sdist builds."""
    return environment(tmp_path_factory.mktemp("sdist"), f"pgqrs @ {artifacts.sdist.as_uri()}")
