"""Every chapter: its pair, its stamp, how it is imported and what it imports."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from labml_style.rendering import address, notebooks
from labml_style.rendering.colab import setup_cell

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "labml_style"
CHAPTERS = notebooks.chapters(PACKAGE)
each_chapter = pytest.mark.parametrize("module", CHAPTERS, ids=lambda path: path.stem)


def notebook_of(module: Path) -> Path:
    return ROOT / "notebooks" / f"{module.stem}.ipynb"


# --- pairs and stamps


@each_chapter
def test_notebook_is_the_modules_pair(module: Path) -> None:
    cells = nbformat.read(notebook_of(module), as_version=4).cells
    url = address.declared(ROOT)
    setup = setup_cell(address.requirement(ROOT, url), PACKAGE.name) if url else None
    wanted = notebooks.expected(module.read_text(), setup)
    found = notebooks.problems(cells, wanted)
    assert not found, f"{found}; run: make notebooks"


@each_chapter
def test_outputs_belong_to_the_code(module: Path) -> None:
    notebook = nbformat.read(notebook_of(module), as_version=4)
    made = notebook.metadata.get("labml_style", {})
    assert made.get("stamp") == notebooks.stamp(notebook.cells, PACKAGE), (
        "the code changed since the notebook was executed; run: make notebooks"
    )
    assert {"version", "python", "torch", "device", "seconds"} <= set(made)


@each_chapter
def test_every_cell_was_executed(module: Path) -> None:
    for number, cell in enumerate(nbformat.read(notebook_of(module), 4).cells, 1):
        assert "execution" not in cell.metadata, f"cell {number} has timestamps"
        if cell.cell_type == "code" and "skip-execution" not in notebooks.tags(cell):
            assert cell.execution_count, f"cell {number} was not executed"


def test_every_notebook_has_a_module() -> None:
    stems = {path.stem for path in CHAPTERS}
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == stems


@each_chapter
def test_exercise_cells_are_tagged(module: Path) -> None:
    kinds = {"exercise", "check", "solution", "figure", "active-ipynb", "colab-setup"}
    kinds |= {"skip-execution", "idea", "proof"}
    for number, cell in enumerate(notebooks.expected(module.read_text()), 1):
        tags = set(notebooks.tags(cell))
        assert tags <= kinds, f"cell {number}: unknown tags {tags - kinds}"
        if tags & {"exercise", "check", "solution", "figure", "idea", "proof"}:
            assert cell.cell_type == "markdown" or "active-ipynb" in tags, (
                f"cell {number} would run on import; tag it active-ipynb"
            )
        assert ("solution" in tags) == ("skip-execution" in tags), (
            f"cell {number}: solution and skip-execution go together"
        )


@each_chapter
def test_a_chapter_is_short(module: Path) -> None:
    lines = {"module": 0, "idea": 0}
    figures = 0
    for cell in notebooks.expected(module.read_text()):
        tags = set(notebooks.tags(cell))
        count = sum(1 for line in cell.source.splitlines() if line.strip())
        if cell.cell_type == "code" and "active-ipynb" not in tags:
            lines["module"] += count
        elif "idea" in tags:
            lines["idea"] += count
        drawn = cell.source.startswith(("report(", "plot("))
        figures += "figure" in tags or "\nreport(" in cell.source or drawn
    assert lines["module"] <= 300, f"module cells have {lines['module']} lines"
    assert 0 < lines["idea"] <= 40, f"the idea has {lines['idea']} lines"
    assert figures >= 3, f"{figures} figures"


@each_chapter
def test_a_chapter_begins_with_its_answer_and_ends_with_exercises(module: Path) -> None:
    text = module.read_text()
    places = [text.find(f"# ## {name}\n") for name in ("Exercises", "References")]
    assert -1 < places[0] < places[1], "exercises, then references"
    assert "**What you will find.**" in text[: len(text) // 4], "the answer at the top"


# --- imports at run time

IMPORT = """
import importlib, json, socket, sys

def refuse(*arguments, **options):
    raise AssertionError("a connection was opened")

socket.socket.connect = refuse
socket.getaddrinfo = refuse
for name in sys.argv[1:]:
    importlib.import_module(name)
sys.stderr.write(json.dumps(sorted(sys.modules)))
"""
HEAVY = ("matplotlib", "torch._dynamo", "IPython", "labml_style.lab")


def import_alone(*names: str, blocked: str = "") -> list[str]:
    """Import modules in a fresh process; return the names of all that are loaded."""
    block = f"import sys; sys.modules[{blocked!r}] = None\n" if blocked else ""
    command = [sys.executable, "-c", block + IMPORT, *names]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    loaded: list[str] = json.loads(done.stderr)
    return loaded


@each_chapter
def test_importing_a_chapter_is_quiet_and_light(module: Path) -> None:
    loaded = import_alone(f"labml_style.{module.stem}")
    assert not [name for name in HEAVY if name in loaded]


def test_the_renderer_needs_no_torch() -> None:
    stems = {path.stem for path in (PACKAGE / "rendering").glob("*.py")}
    names = [f"labml_style.rendering.{stem}" for stem in sorted(stems - {"__init__"})]
    loaded = set(import_alone(*names, blocked="torch"))
    assert set(names) <= loaded
    assert not {f"labml_style.{path.stem}" for path in CHAPTERS} & loaded
    assert "matplotlib" not in loaded


def test_a_blocked_torch_would_be_missed() -> None:
    with pytest.raises(AssertionError, match="torch"):
        import_alone("labml_style.streams", blocked="torch")


def test_figures_and_exercises_load_no_matplotlib() -> None:
    names = [f"labml_style.{n}" for n in ("figures", "figures.palette", "exercises")]
    loaded = import_alone(*names)
    assert "matplotlib" not in loaded and "torch" not in loaded


# --- imports in the source


class Lenient(yaml.SafeLoader):
    """Reads mkdocs.yml and leaves its tags alone."""


Lenient.add_multi_constructor("", lambda loader, suffix, node: None)


def reading_order() -> list[str]:
    """The chapters of the site's navigation, in order."""
    found: list[str] = []

    def visit(item: Any) -> None:
        if isinstance(item, str):
            if item.endswith(".ipynb") and "/" not in item:
                found.append(Path(item).stem)
        else:
            for part in item.values() if isinstance(item, dict) else item:
                visit(part)

    visit(yaml.load((ROOT / "mkdocs.yml").read_text(), Lenient)["nav"])
    return found


def top_level(source: str) -> str:
    """The statements of a module that run on import."""
    tree = ast.parse(source)
    tree.body = [
        node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    return ast.unparse(tree)


def wrong_imports(files: dict[str, str], order: list[str]) -> list[str]:
    """Imports against the direction, as `a imports b`, for sources by dotted name."""
    wrong = []
    for name, source in files.items():
        above = name.removesuffix(".__init__").rpartition(".")[0]
        package = name.removesuffix(".__init__") if "__init__" in name else above
        used = notebooks.imported(source, "labml_style", package, strings=False)
        parts = {part.split(".")[1] for part in used if "." in part}
        kind = name.split(".")[1] if "." in name else ""
        tree = ast.walk(ast.parse(source))
        outside = {
            alias.name.split(".")[0]
            for node in tree
            if isinstance(node, ast.Import)
            for alias in node.names
        } | {
            (node.module or "").split(".")[0]
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.ImportFrom) and not node.level
        }
        banned = outside & {"benchmarks", "tests"}
        if kind in order:
            at_import = notebooks.imported(top_level(source), "labml_style", package)
            lab = {p for p in at_import if p.split(".")[1:2] == ["lab"]}
            later = set(order[order.index(kind) + 1 :])
            banned |= (parts & later) | ({"rendering"} & parts) | lab
        if kind == "rendering":
            allowed = {"rendering", "figures", "__version__"}
            banned |= (parts & {*order, "lab", "exercises"}) | (outside & {"torch"})
            banned |= parts - allowed
        if kind == "contract":
            banned |= parts - {"contract"}
        if kind == "lab":
            banned |= parts & {"rendering"}
        wrong += [f"{name} imports {other}" for other in sorted(banned)]
    return wrong


def test_imports_point_one_way() -> None:
    files = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        files[name] = path.read_text()
    assert wrong_imports(files, reading_order()) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("labml_style.one", "from labml_style.two import x"),
        ("labml_style.one", "def f():\n    from labml_style import two"),
        ("labml_style.one", "from labml_style.rendering import rows"),
        ("labml_style.one", "from labml_style.lab import runner"),
        ("labml_style.one", "import benchmarks.speed"),
        ("labml_style.rendering.rows", "import torch"),
        ("labml_style.rendering.rows", "from ..one import x"),
        ("labml_style.rendering.rows", "from labml_style.lab import runner"),
        ("labml_style.lab.runner", "from labml_style import rendering"),
        ("labml_style.contract.model", "from labml_style.one import x"),
        ("labml_style.figures", "from tests import conftest"),
    ],
)
def test_an_import_against_the_direction_is_found(name: str, source: str) -> None:
    assert wrong_imports({name: source}, ["one", "two"])


def test_imports_along_the_direction_are_free() -> None:
    files = {
        "labml_style.two": "from labml_style.one import x",
        "labml_style.one": "def f():\n    from labml_style.lab import runner\n"
        "part = 'labml_style.two:Part'",
        "labml_style.lab.runner": "from labml_style import one, two",
        "labml_style.rendering.rows": "from labml_style.figures.palette import INK",
    }
    assert wrong_imports(files, ["one", "two"]) == []


def test_the_navigation_holds_every_chapter() -> None:
    assert sorted(reading_order()) == sorted(path.stem for path in CHAPTERS)
