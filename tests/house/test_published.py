"""From a copy of the repository to a reader's notebook, for real.

A local bare repository is the origin of a clone; the clone's site is built and
published; a notebook is taken from the published branch, as Colab takes it, and runs in
a fresh environment without the package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from labml_style.rendering import notebooks

ROOT = Path(__file__).resolve().parents[2]
# The first needs no data of the package; the other reads records and kept weights.
CHAPTERS = ["streams", "compression"]


def run(
    *command: str | Path, folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done


def here() -> dict[str, str]:
    """The variables of this process, without what Python and CI say about this copy."""
    names = ("PYTHON", "GITHUB_", "CI_", "GIT_", "LABML_STYLE_SITE")
    return {k: v for k, v in os.environ.items() if not k.startswith(names)}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare repository: the working tree as one commit, and its published site."""
    if shutil.which("git") is None:
        pytest.skip("git is missing")
    base = tmp_path_factory.mktemp("published")
    folder = base / "source"
    command = ["git", "ls-files", "-z", "-c", "-o", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git working tree")
    for name in set(filter(None, listed.stdout.split("\0"))):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    first = ["init", "-q", "-b", "main"]
    for words in (first, ["add", "-A"], [*who, "commit", "-q", "-m", "All"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    origin, clone = base / "origin.git", base / "clone"
    git = ("git", "clone", "-q")
    run(*git, "--bare", folder, origin, folder=base, environment=here())
    run(*git, origin, clone, folder=base, environment=here())
    environment = here() | {"PYTHONPATH": str(clone), "NO_MKDOCS_2_WARNING": "1"}
    for module in ("mkdocs build --strict", "labml_style.rendering publish"):
        words = [sys.executable, "-m", *module.split()]
        run(*words, folder=clone, environment=environment)
    return origin


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with what Colab has: torch and a kernel, no package."""
    folder = tmp_path_factory.mktemp("colab")
    clean = here() | {"PIP_CONSTRAINT": str(ROOT / "requirements.txt")}
    run(sys.executable, "-m", "venv", folder, folder=folder, environment=clean)
    path = folder / "bin/python"
    # Colab's pip is 24.1 or newer; before that, pip knows no git address of a file.
    pip = ("-m", "pip", "install", "--quiet", "--upgrade", "pip>=24.1")
    run(path, *pip, folder=folder, environment=clean)
    # What is there from the start is borrowed from here, not fetched once more.
    [packages] = folder.glob("lib/python*/site-packages")
    for name in needed("torch", "ipykernel", "nbclient"):
        one = metadata.distribution(name)
        tops = {file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}
        for top in tops:
            if not (packages / top).exists():
                (packages / top).symlink_to(str(one.locate_file(top)))
    return path


def needed(*names: str) -> set[str]:
    """Return these distributions and all that they need here."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = canonicalize_name(left.pop())
        if name not in found:
            found.add(name)
            for line in metadata.distribution(name).requires or ():
                wanted = Requirement(line)
                if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                    left.append(wanted.name)
    return found


@pytest.mark.skipif(
    not os.environ.get("CI"), reason="environments of readers are made on CI (CI=1)"
)
@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_published_notebook_installs_the_package_and_runs(
    chapter: str, published: Path, python: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "content"
    empty.mkdir()
    name = f"{chapter}.ipynb"
    git = ("git", "show", f"gh-pages:{chapter}/{name}")
    taken = run(*git, folder=published, environment=here())
    (empty / name).write_text(taken.stdout)

    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PIP_CONSTRAINT": str(ROOT / "requirements.txt"),
        "LABML_STYLE_QUICK": "1",
    }
    # How this machine reaches the package index, and pip's downloads so far; threads as
    # the other tests have them.
    environment |= {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PIP_", "OMP_")) and name not in environment
    }
    cache = [sys.executable, "-m", "pip", "cache", "dir"]
    found = subprocess.run(cache, capture_output=True, text=True)
    environment.setdefault("PIP_CACHE_DIR", found.stdout.strip())

    absent = "import importlib.util as u; assert u.find_spec('labml_style') is None"
    if chapter == CHAPTERS[0]:
        run(python, "-c", absent, folder=empty, environment=environment)
    execute = ("-c", "from nbclient.cli import main; main()", "--inplace", name)
    run(python, *execute, folder=empty, environment=environment)

    first, *rest = nbformat.read(empty / name, as_version=4).cells
    assert notebooks.tags(first)[0] == "colab-setup" and first.execution_count == 1
    for cell in rest:
        if cell.cell_type == "code" and "skip-execution" not in notebooks.tags(cell):
            assert cell.execution_count
    where = "import labml_style as m; print(m.__file__)"
    done = run(python, "-c", where, folder=empty, environment=environment)
    assert done.stdout.startswith(str(python.parent.parent))
