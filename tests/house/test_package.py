"""The package, its versions, what is said about it, and what CI runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
README = (ROOT / "README.md").read_text()


def files() -> list[Path]:
    """Every file that git tracks or would track."""
    command = ["git", "ls-files", "-z", "-c", "-o", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is no git working tree")
    found = {ROOT / name for name in done.stdout.split("\0") if name}
    return sorted(path for path in found if path.is_file())


def test_no_tracked_file_is_a_link() -> None:
    # `.venv` of another copy, say: there it names itself, and nothing can be set up.
    command = ["git", "ls-files", "--stage"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    links = [line for line in done.stdout.splitlines() if line.startswith("120000")]
    assert links == []


# --- requirements


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in found}


def test_requirements_are_exact_and_portable() -> None:
    for name, pin in pins().items():
        [specifier] = pin.specifier
        assert specifier.operator == "==", f"{name} is not pinned"
        assert "*" not in specifier.version and "+" not in specifier.version, name
        assert pin.url is None, f"{name} has an address of its own"
        assert not name.startswith("nvidia-"), f"{name} belongs to one kind of machine"
    assert str(pins()["torch"].specifier) == "==2.13.0"
    assert {"jupyter", "setuptools"} <= set(pins())


def test_requirements_lie_within_the_ranges() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    for line in [*sum(extras.values(), []), *PROJECT["build-system"]["requires"]]:
        wanted = Requirement(line)
        name = canonicalize_name(wanted.name)
        if name == "labml-style":
            assert wanted.extras <= set(extras)
            continue
        [pin] = pins()[name].specifier
        assert wanted.specifier.contains(pin.version), f"{line}, pinned {pin}"


def test_a_cpu_build_of_torch_brings_no_gpu_packages() -> None:
    command = [sys.executable, "-m", "pip", "list", "--format=freeze"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    build = re.search(r"^torch==(.*)$", done.stdout, re.MULTILINE)
    assert build, "torch is not installed"
    if build[1].endswith("+cpu"):
        assert "nvidia-" not in done.stdout


def test_extras_are_what_the_house_promises() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    assert project["requires-python"] == ">=3.11"
    assert project["dependencies"] == []
    assert "torch>=2.6" in extras["models"]
    assert not any(line.startswith("torch") for line in extras["site"])
    assert set(extras) == {"models", "hf", "site", "lab", "dev"}


# --- the wheel


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the two files of a release; LABML_STYLE_DIST names a made one."""
    if made := os.environ.get("LABML_STYLE_DIST"):
        return (ROOT / made).resolve()
    # Built from a copy, so that the working tree stays clean.
    source = tmp_path_factory.mktemp("source")
    names = ("labml_style/", "tests/", "benchmarks/", "pyproject", "README", "LICENSE")
    for path in files():
        place = path.relative_to(ROOT).as_posix()
        if place.startswith(names):
            (source / place).parent.mkdir(parents=True, exist_ok=True)
            (source / place).write_bytes(path.read_bytes())
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation"]
    done = subprocess.run(
        [*command, "--outdir", str(out), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    """The wheel; it was built from the source distribution, which has all it needs."""
    version = PROJECT["project"]["version"]
    names = {path.name for path in dist.iterdir()}
    made = f"labml_style-{version}-py3-none-any.whl"
    assert names == {made, f"labml_style-{version}.tar.gz"}
    return dist / made


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment that holds the wheel alone."""
    folder = tmp_path_factory.mktemp("fresh")
    command = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(command, check=True)
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    alone = ["--no-deps", "--no-index", "--ignore-installed"]
    subprocess.run([*pip, *alone, str(wheel)], check=True)
    return python


# What the package needs is lent to that environment from here.
LENT = next(path for path in sys.path if path.endswith("site-packages"))


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    version = PROJECT["project"]["version"]
    assert tops == {"labml_style", f"labml_style-{version}.dist-info"}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in files()
        if path.is_relative_to(ROOT / "labml_style")
    }
    held = {name for name in names if name.startswith("labml_style/")}
    assert held == wanted
    assert {"labml_style/py.typed", "labml_style/figures/house.mplstyle"} <= held


def test_wheel_names_version_licence_and_entry_point(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    [metadata] = [name for name in archive.namelist() if name.endswith("/METADATA")]
    text = archive.read(metadata).decode()
    for line in (
        f"Version: {PROJECT['project']['version']}",
        "License-Expression: MIT",
        "Requires-Python: >=3.11",
        "Provides-Extra: models",
    ):
        assert f"\n{line}\n" in text
    folder = metadata.removesuffix("METADATA")
    assert archive.read(folder + "licenses/LICENSE").startswith(b"MIT License")
    assert b"labml-style = labml_style." in archive.read(folder + "entry_points.txt")


RENDER = """
import sys, site
sys.modules["torch"] = None
import labml_style
assert labml_style.__file__.startswith(sys.prefix), labml_style.__file__
assert labml_style.__version__ == sys.argv[2], labml_style.__version__
assert "torch" in sys.modules and "numpy" not in sys.modules
sys.path.append(sys.argv[1])
import labml_style.rendering.plugin
assert labml_style.rendering.plugin.__file__.startswith(sys.prefix)
"""


def test_wheel_works_without_torch(fresh: Path, tmp_path: Path) -> None:
    command = [fresh, "-I", "-c", RENDER, LENT, PROJECT["project"]["version"]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def outside(fresh: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs words of a command line with the wheel, in an empty folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GITHUB_")}
    # No `.pth` counts in a folder named there, so it lends no editable installation.
    kept |= {"PYTHONPATH": LENT, "JUPYTER_PATH": f"{sys.prefix}/share/jupyter"}
    kept["NO_MKDOCS_2_WARNING"] = "1"

    def run(*words: str) -> str:
        done = subprocess.run(
            [fresh, *words],
            cwd=tmp_path,
            env=kept,
            capture_output=True,
            text=True,
            errors="replace",  # an untrained model writes any bytes
        )
        assert done.returncode == 0, f"{words}\n{done.stderr}"
        return done.stdout

    return run


KEPT = """
import sys
import matplotlib
import labml_style
from labml_style import figures
from labml_style.lab import results
assert labml_style.__file__.startswith(sys.prefix), labml_style.__file__
assert results.trained("copy") is not None
assert results.load("copy")
labml_style.save(model, "model.safetensors")
"""


@pytest.mark.slow
def test_readme_holds_for_the_wheel(outside: Callable[..., str]) -> None:
    [code] = blocks("python")
    assert len(code.strip().splitlines()) <= 12
    said = outside("-c", code + KEPT)
    assert said.endswith("[4, 64, 256] 128 slots 262144 bytes\n")
    [python, *words] = shlex.split(found_in_readme("python -m labml_style.generation"))
    assert python == "python" and "ROMEO:" in outside(*words)
    [python, *words] = shlex.split(found_in_readme("python -m labml_style.lab"))
    assert "copy" in outside(*words)


@pytest.mark.slow
def test_wheel_renders_notebooks_of_others(
    outside: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# Home\n")
    (tmp_path / "mkdocs.yml").write_text(SITE)
    notebook = ROOT / "tests/rendering/fixtures/stone.ipynb"
    (tmp_path / "notebooks/stone.ipynb").write_bytes(notebook.read_bytes())
    html = ("html", "notebooks/stone.ipynb", "--out", "out")
    assert "stone.html" in outside("-m", "labml_style.rendering", *html)
    outside("-m", "mkdocs", "build", "--strict")
    for page in ("out/stone.html", "site/stone/index.html"):
        assert 'class="lit-row' in (tmp_path / page).read_text(), page


SITE = """
site_name: Stones
theme: {name: material, font: false}
nav: [index.md, stone.ipynb]
plugins: [search, labml-style, mkdocs-jupyter: {include: ["*.ipynb"]}]
"""


# --- what is said about it


def test_citation_agrees_with_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = PROJECT["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"] == "MIT"
    assert citation["authors"] == project["authors"]
    assert citation["cff-version"] == "1.2.0" and citation["title"]
    version, date = newest()
    assert version == project["version"]
    if date == "Unreleased":
        assert "date-released" not in citation
    else:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", date)
        assert citation["date-released"].isoformat() == date


def newest() -> tuple[str, str]:
    """The first version of the changelog, and its date."""
    text = (ROOT / "CHANGELOG.md").read_text()
    found = re.search(r"^## \[([^]]+)\] - (.+)$", text, re.MULTILINE)
    assert found, "the changelog has no version"
    return found[1], found[2]


@pytest.mark.skipif(
    os.environ.get("GITHUB_REF_TYPE") != "tag", reason="this is no release"
)
def test_a_release_has_the_tag_of_its_version_and_a_date() -> None:
    version = PROJECT["project"]["version"]
    assert os.environ["GITHUB_REF_NAME"] == f"v{version}"
    assert newest()[1] != "Unreleased", "CHANGELOG.md and CITATION.cff need the date"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def found_in_readme(start: str) -> str:
    """The command in the text that begins so."""
    [command] = re.findall(rf"`({re.escape(start)}[^`]*)`", README)
    return str(command)


def test_readme_names_existing_files_and_targets() -> None:
    for target in re.findall(r"(?:^|`)make ([a-z]+)", README, re.M):
        assert target in targets(), f"make {target}"
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path


# --- what CI runs


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))


def test_make_has_the_promised_targets() -> None:
    promised = {"site", "publish", "serve", "test", "notebooks", "bench", "dist"}
    assert promised | {"clean"} <= targets()


def test_ci_runs_the_readmes_test_command() -> None:
    run = ROOT / ".ci/run"
    lines = run.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines
    assert lines[-1] == "make test"
    assert lines[-1] in blocks("console")[0].splitlines()
    assert run.stat().st_mode & 0o111, ".ci/run is not executable"
    assert "export LABML_STYLE_REQUIRE_BROWSER=1" in lines
    assert subprocess.run(["bash", "-n", str(run)]).returncode == 0


WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_what_exists(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    runs = [step["run"] for step in steps if "run" in step]
    used = [step["uses"] for step in steps if "run" not in step]
    assert all(re.search(r"@(release/)?v\d", action) for action in used)
    called = [target for run in runs for target in re.findall(r"\bmake (\w+)", run)]
    assert set(called) <= targets()
    for run in runs:
        assert run.startswith(("make ", "git config ")) or (ROOT / run).is_file(), run
    for job in workflow["jobs"].values():
        for entry in job.get("strategy", {}).get("matrix", {}).get("include", ()):
            assert (ROOT / entry["requirements"]).is_file()


def test_the_matrix_has_the_oldest_and_the_newest() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    include = workflow["jobs"]["test"]["strategy"]["matrix"]["include"]
    pythons = {entry["name"]: entry["python"] for entry in include}
    needed = PROJECT["project"]["requires-python"]
    assert pythons["oldest"] == needed.removeprefix(">=")
    assert tuple(map(int, pythons["newest"].split("."))) > (3, 12)
    [torch] = re.findall(r"^torch.*$", (ROOT / ".ci/oldest.txt").read_text(), re.M)
    [lowest] = [
        Requirement(line).specifier
        for line in PROJECT["project"]["optional-dependencies"]["models"]
        if line.startswith("torch")
    ]
    oldest = torch.removeprefix("torch==")
    assert lowest.contains(oldest) and str(lowest) == ">=" + oldest.removesuffix(".0")


# --- what no file may hold


def test_no_file_names_a_folder_of_one_machine() -> None:
    # In two pieces, so that this file may pass its own test.
    folders = {"/" + "work/", "/" + "root/", "/" + "tmp/bash", f"{ROOT}/"}
    if Path.home() != Path("/"):
        folders.add(f"{Path.home()}/")
    found = []
    for path in files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path.name}: {folder}" for folder in folders if folder in text]
    assert found == []


def test_git_ignores_nothing_that_is_ours() -> None:
    command = ["git", "ls-files", "-c", "-o", "-i", "--exclude-standard", "--"]
    folders = ["tests", "labml_style", "notebooks", "docs", "overrides", "benchmarks"]
    done = subprocess.run(
        [*command, *folders], cwd=ROOT, capture_output=True, text=True
    )
    made = ("__pycache__/", ".ipynb_checkpoints/")
    lost = [
        line for line in done.stdout.splitlines() if not any(m in line for m in made)
    ]
    assert lost == []
