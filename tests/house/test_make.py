"""How the Makefile sets up `.venv`: with a Python that only pretends."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PYTHON = """#!/bin/sh
# Pretends to be Python: notes what it is asked, and makes an environment of itself.
here=$(cd "$(dirname "$0")" && pwd)
echo "$(basename "$0") $*" >> "$HERE/log"
case "$*" in
  *version_info*) exit "${TOO_OLD:-0}" ;;
  "-m venv .venv")
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
    cp "$0" .venv/bin/mkdocs ;;
  *--requirement*) exit "${BROKEN:-0}" ;;
esac
"""


class Folder:
    """A folder with the Makefile and a Python that pretends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copy(ROOT / "Makefile", path)
        (path / "pyproject.toml").touch()
        (path / "requirements.txt").write_text("numpy==2.0\ntorch==2.13.0\n")
        (path / "other.txt").write_text("torch==2.6.0\n")
        (path / "pretender").write_text(PYTHON)
        (path / "pretender").chmod(0o755)

    def make(self, *words: str, **environment: str) -> tuple[int, str, list[str]]:
        """Run make; return its status, what it said, and what Python was asked."""
        log = self.path / "log"
        log.write_text("")
        names = {"HOME", "PATH"}
        clean = {k: v for k, v in os.environ.items() if k in names}
        done = subprocess.run(
            ["make", "PYTHON=./pretender", *words],
            cwd=self.path,
            env=clean | {"HERE": str(self.path)} | environment,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr, log.read_text().splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_first_run_sets_up_and_the_second_starts_at_once(folder: Folder) -> None:
    status, said, asked = folder.make("site")
    assert status == 0, said
    assert "python -m pip install --quiet torch==2.13.0" in asked
    torch, rest = (
        next(i for i, line in enumerate(asked) if word in line)
        for word in ("torch==", "--requirement requirements.txt")
    )
    assert torch < rest
    assert asked[-2].endswith("--no-deps --no-build-isolation --editable .")
    assert asked[-1] == "mkdocs build --strict"
    assert f"open {folder.path}/site/index.html" in said
    assert folder.make("site")[2] == ["mkdocs build --strict"]


def test_new_requirements_are_installed(folder: Folder) -> None:
    folder.make("site")
    later = (folder.path / "requirements.txt").stat().st_mtime + 10
    for name in ("requirements.txt", "pyproject.toml"):
        os.utime(folder.path / name, (later, later))
        asked = folder.make("site")[2]
        assert any("--requirement" in line for line in asked), name
        os.utime(folder.path / name, (0, 0))


def test_other_requirements_are_installed(folder: Folder) -> None:
    folder.make("site")
    asked = folder.make("site", "REQUIREMENTS=other.txt")[2]
    assert "python -m pip install --quiet torch==2.6.0" in asked
    assert folder.make("site", "REQUIREMENTS=other.txt")[2] == ["mkdocs build --strict"]
    assert any("--requirement" in line for line in folder.make("site")[2])


def test_an_interrupted_set_up_starts_afresh(folder: Folder) -> None:
    status, _, asked = folder.make("site", BROKEN="1")
    assert status != 0 and "mkdocs build --strict" not in asked
    half = folder.path / ".venv/half"
    half.touch()
    assert folder.make("site")[0] == 0
    assert not half.exists()


def test_an_old_python_is_refused_with_the_way_out(folder: Folder) -> None:
    status, said, asked = folder.make("site", TOO_OLD="1")
    assert status != 0 and len(asked) == 1
    assert "Python 3.11 or newer is needed" in said
    assert "make site PYTHON=/path/to/python3.11" in said
    assert not (folder.path / ".venv").exists()


def test_two_targets_at_once_set_up_once(folder: Folder) -> None:
    status, said, asked = folder.make("-j4", "site", "notebooks")
    assert status == 0, said
    assert sum("-m venv" in line for line in asked) == 1


def test_tests_end_with_pytest(folder: Folder) -> None:
    status, said, _ = folder.make("-n", "test")
    assert status == 0
    assert "Quick mode" in said
    last = said[said.index("LABML_STYLE_QUICK=1") :]
    assert "-m pytest" in last and last.endswith("--nbmake tests notebooks\n")
    assert "ruff check ." in said and "mypy" in said


def test_clean_keeps_the_environment(folder: Folder) -> None:
    folder.make("site")
    for name in ("site", "labml_style", "tests"):
        (folder.path / name).mkdir()
    assert folder.make("clean")[0] == 0
    assert not (folder.path / "site").exists()
    assert (folder.path / ".venv").exists()
