"""The tool behind `make notebooks`, on chapters of three cells."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import nbformat
import pytest

from labml_style.rendering import notebooks
from labml_style.rendering.__main__ import main
from labml_style.rendering.colab import setup_cell

FIRST = '''\
# %% [markdown]
# # First

# %%
"""What it is."""

import math


def double(x: float) -> float:
    """Twice x."""
    return 2 * x  # plainly


# %% tags=["active-ipynb"]
# # shown in the notebook
# print(double(math.pi))
'''
SECOND = """\
# %% [markdown]
# # Second

# %%
from toy.first import double

# %% tags=["active-ipynb"]
# corpus = type("Corpus", (), {"name": "pebbles"})
# print(double(2), end="")
# print("!")
"""
SETUP = setup_cell("toy[lab] @ git+https://example.org/toy", "toy")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    package = tmp_path / "toy"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "first.py").write_text(FIRST)
    (package / "second.py").write_text(SECOND)
    text = '[project]\nname = "toy"\nversion = "1.2.3"\n'
    (tmp_path / "pyproject.toml").write_text(text)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def mark(project: Path, name: str) -> str:
    module = project / "toy" / f"{name}.py"
    return notebooks.stamp(notebooks.expected(module.read_text()), module.parent)


# --- the pair


def test_expected_cells_are_the_modules() -> None:
    cells = notebooks.expected(FIRST)
    assert [cell.cell_type for cell in cells] == ["markdown", "code", "code"]
    assert cells[0].source == "# First"
    assert cells[1].source.endswith("return 2 * x  # plainly")
    assert cells[2].source == "# shown in the notebook\nprint(double(math.pi))"
    assert notebooks.tags(cells[2]) == ["active-ipynb"]


def test_ids_depend_on_the_cell_alone() -> None:
    ids = [cell.id for cell in notebooks.expected(FIRST)]
    assert ids == [cell.id for cell in notebooks.expected(FIRST)]
    changed = [cell.id for cell in notebooks.expected(FIRST.replace("# First", "# 1"))]
    assert changed[0] != ids[0] and changed[1:] == ids[1:]
    twice = notebooks.expected("# %%\nx = 1\n\n# %%\nx = 1\n")
    assert twice[0].source == twice[1].source and twice[0].id != twice[1].id


@pytest.mark.parametrize("name", ["cell_type", "source", "metadata", "id"])
def test_a_difference_is_named(name: str) -> None:
    cells = notebooks.expected(FIRST)
    assert not notebooks.problems(notebooks.expected(FIRST), cells)
    cells[1][name] = {"tags": ["figure"]} if name == "metadata" else "raw"
    assert f"cell 2: {name}, line 1 is" in notebooks.problems(
        cells, notebooks.expected(FIRST)
    )


def test_a_missing_cell_is_named() -> None:
    cells = notebooks.expected(FIRST)
    assert notebooks.problems(cells[:2], cells) == "2 cells; the module has 3"


# --- the first cell


def test_first_cell_only_where_there_is_an_address() -> None:
    assert not any("pip" in cell.source for cell in notebooks.expected(FIRST))
    cells = notebooks.expected(FIRST, SETUP)
    assert notebooks.tags(cells[0]) == ["colab-setup", "active-ipynb"]
    assert '"toy[lab] @ git+https://example.org/toy"' in cells[0].source
    assert cells[0].id == SETUP["id"]
    assert [c.source for c in cells[1:]] == [
        c.source for c in notebooks.expected(FIRST)
    ]


def test_first_cell_of_the_module_gives_way() -> None:
    old = '# %% tags=["colab-setup", "active-ipynb"]\n# old()\n\n'
    cells = notebooks.expected(old + FIRST, SETUP)
    assert [cell.source for cell in cells] == [
        cell.source for cell in notebooks.expected(FIRST, SETUP)
    ]


def test_first_cell_has_no_effect_where_the_package_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("subprocess.run", refuse)
    there = setup_cell("toy @ git+file:///toy", "labml_style.streams")
    exec(there["source"], {})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AssertionError, match="a process was started"):
        exec(SETUP["source"], {})


def test_first_cell_reports_what_pip_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failed:
        returncode = 1
        stderr = "no such place"

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: Failed)
    with pytest.raises(RuntimeError, match="no such place"):
        exec(SETUP["source"], {})


@pytest.mark.parametrize("declared", [True, False])
def test_a_source_has_the_first_cell_where_the_project_says_its_address(
    project: Path, capsys: pytest.CaptureFixture[str], declared: bool
) -> None:
    # The copy's own origin makes no difference.
    origin = ["remote", "add", "origin", "https://github.com/someone/else"]
    for words in (["init", "-q"], origin):
        subprocess.run(["git", *words], cwd=project, check=True)
    if declared:
        urls = '[project.urls]\nRepository = "https://example.org/toy"\n'
        lab = '[project.optional-dependencies]\nlab = ["torch"]\n'
        edit(project / "pyproject.toml", '1.2.3"\n', f'1.2.3"\n{urls}{lab}')
    setup = SETUP if declared else None
    for name in ("first", "second"):
        module = project / "toy" / f"{name}.py"
        cells = notebooks.expected(module.read_text(), setup)
        stored = nbformat.v4.new_notebook(cells=cells)
        made = {"stamp": notebooks.stamp(cells, module.parent)}
        stored.metadata["labml_style"] = made
        notebooks.write(project / "notebooks" / f"{name}.ipynb", stored)
    status = main(["notebooks", "--check", "--root", str(project)])
    assert (status, capsys.readouterr().out) == (
        0,
        "first.ipynb: current\nsecond.ipynb: current\n",
    )


# --- the stamp


def test_a_comment_upstream_leaves_the_stamp(project: Path) -> None:
    before = mark(project, "second")
    edit(project / "toy/first.py", "# plainly", "# and that is all")
    edit(project / "toy/first.py", "Twice x.", "Two times x.")
    edit(project / "toy/first.py", "# # First", "# # The first")
    edit(project / "toy/first.py", "2 * x", "(2*x)")
    assert mark(project, "second") == before


def test_code_upstream_changes_the_stamp(project: Path) -> None:
    before = mark(project, "second")
    edit(project / "toy/first.py", "2 * x", "3 * x")
    assert mark(project, "second") != before


def test_own_code_changes_the_stamp_and_own_prose_does_not(project: Path) -> None:
    before = mark(project, "second")
    edit(project / "toy/second.py", "# # Second", "# # Another title")
    edit(project / "toy/second.py", 'print("!")', 'print("!")  # loudly')
    assert mark(project, "second") == before
    edit(project / "toy/second.py", 'print("!")', 'print("?")')
    assert mark(project, "second") != before


def test_the_address_leaves_the_stamp(project: Path) -> None:
    module = project / "toy/first.py"
    with_address = notebooks.expected(module.read_text(), SETUP)
    assert notebooks.stamp(with_address, module.parent) == mark(project, "first")


@pytest.mark.parametrize(
    "line",
    [
        "from toy.parts import deep",
        "from toy.parts.deep import depth",
        "import toy.parts.deep as d",
        "def f():\n    from toy.parts import deep",
        'feed_forward = "toy.parts.deep:depth"',
    ],
)
def test_stamp_sees_sub_packages_however_they_are_imported(
    project: Path, line: str
) -> None:
    parts = project / "toy/parts"
    parts.mkdir()
    (parts / "__init__.py").write_text("")
    (parts / "deep.py").write_text("from .deeper import depth\n")
    (parts / "deeper.py").write_text("depth = 1\n")
    (project / "toy/first.py").write_text(f"# %%\n{line}\n")
    names = notebooks.used_modules([line], project / "toy")
    assert sorted(names) == ["toy", "toy.parts", "toy.parts.deep", "toy.parts.deeper"]
    before = mark(project, "first")
    edit(parts / "deeper.py", "1", "2")
    assert mark(project, "first") != before


def test_stamp_sees_a_file_that_a_module_names(project: Path) -> None:
    (project / "toy/paint.py").write_text('STYLE = "house.style"\n')
    (project / "toy/house.style").write_text("colour: blue")
    edit(project / "toy/first.py", "import math", "import math\nimport toy.paint")
    before = mark(project, "first")
    edit(project / "toy/house.style", "blue", "green")
    assert mark(project, "first") != before


def test_stamp_sees_a_record_that_a_cell_names(project: Path) -> None:
    edit(project / "toy/second.py", 'print("!")', 'print("pebble-toss@cpu")')
    without = mark(project, "second")
    records = project / "toy/lab/records"
    records.mkdir(parents=True)
    (records / "other@cpu.json").write_text("1")
    assert mark(project, "second") == without
    (records / "pebble-toss@cpu.json").write_text("1")
    before = mark(project, "second")
    (records / "pebble-toss@cpu.json").write_text("2")
    assert len({without, before, mark(project, "second")}) == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("%time f(1)", "%time f(2)"),
        ("if x:\n    !ls a", "if x:\n    !ls b"),
        ("return", "return None"),
        ("not python a", "not python b"),
        ("'shown'", "'shown too'"),
        ("x = 'a'", "x = 'b'"),
        ("x: int = 1", "x: float = 1"),
        ("f'{x}'", "f'{x!r}'"),
        ("def f(): return None", "def f(): return"),
    ],
)
def test_different_code_has_different_forms(one: str, other: str) -> None:
    assert notebooks.normal_form(one) != notebooks.normal_form(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = (1)  # one"),
        ("x = 1\n'a note'\ny = 2", "x = 1\ny = 2"),
        ("def f():\n    'doc'\n    return 1", "def f():\n    return 1"),
        ("f(a,\n  b)", "f(a, b)"),
        ("class C:\n    'doc'", "class C:\n    'other'"),
    ],
)
def test_same_code_has_one_form(one: str, other: str) -> None:
    assert notebooks.normal_form(one) == notebooks.normal_form(other)


def test_the_form_is_the_same_for_every_python() -> None:
    code = "@a\nclass C(B):\n    x: int = 1\n\n    def f(self, *b): return f'{b!r}'"
    form = notebooks.normal_form(code)
    assert notebooks.digest(form)[:12] == "a925e409f903"


# --- order


def test_chapters_come_after_what_they_import(project: Path) -> None:
    (project / "toy/a_late.py").write_text("from toy import second\n")
    names = [path.stem for path in notebooks.chapters(project / "toy")]
    assert names == ["first", "second", "a_late"]


def test_a_circle_of_chapters_is_refused(project: Path) -> None:
    edit(project / "toy/first.py", "import math", "import toy.second")
    with pytest.raises(notebooks.ChapterError, match="first -> second -> first"):
        notebooks.chapters(project / "toy")


def test_a_part_named_by_a_string_may_be_of_a_later_chapter(project: Path) -> None:
    edit(project / "toy/first.py", "import math", "import math\nP = 'toy.second:P'")
    names = [path.stem for path in notebooks.chapters(project / "toy")]
    assert names == ["first", "second"]


# --- outputs


def stream(text: str, name: str = "stdout") -> nbformat.NotebookNode:
    return nbformat.v4.new_output("stream", text=text, name=name)


def code(*outputs: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [nbformat.v4.new_code_cell("f()", outputs=list(outputs))]


def test_streams_are_joined_and_timestamps_go() -> None:
    cells = code(stream("a"), stream("b\n"), stream("c", "stderr"), stream("d"))
    cells[0].metadata["execution"] = {"iopub.status.busy": "now"}
    notebooks.clean(cells, "n.ipynb", [])
    assert [o.text for o in cells[0].outputs] == ["ab\n", "c", "d"]
    assert "execution" not in cells[0].metadata


def test_of_an_overwritten_line_the_last_state_stays() -> None:
    cells = code(stream("\r 10 %\r 5"), stream("0 %\r100 %\r\nend\n"))
    notebooks.clean(cells, "n.ipynb", [])
    assert cells[0].outputs[0].text == "100 %\nend\n"


@pytest.mark.parametrize(
    "text", ["see /home/me/x", "<f at 0x7f0a1b2c3d4e>"], ids=["path", "address"]
)
def test_what_belongs_to_one_machine_is_refused(text: str) -> None:
    cells = [nbformat.v4.new_markdown_cell("x"), *code(stream(text))]
    with pytest.raises(notebooks.ChapterError, match=r"n\.ipynb, cell 2: "):
        notebooks.clean(cells, "n.ipynb", ["/home/me/"])


# --- the command


@pytest.mark.slow
def test_command_executes_what_is_stale_and_only_that(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(project))
    monkeypatch.setenv("LABML_STYLE_QUICK", "1")
    command = ["notebooks", "--root", str(project)]

    def said(*more: str, status: int = 0) -> str:
        assert main([*command, *more]) == status
        return capsys.readouterr().out.strip()

    assert "second.ipynb is missing" in said("--check", status=1)
    assert said() == "first.ipynb: executed\nsecond.ipynb: executed"
    assert said() == "first.ipynb: current\nsecond.ipynb: current"

    path = project / "notebooks/second.ipynb"
    stored = json.loads(path.read_text())
    made = stored["metadata"]["labml_style"]
    assert made["version"] == "1.2.3" and made["corpus"] == "pebbles"
    assert made["device"] and made["python"] and made["seconds"] > 0
    assert "torch" not in made
    assert made["stamp"] == mark(project, "second")
    assert stored["cells"][-1]["outputs"][0]["text"] == ["4!\n"]
    assert len(stored["cells"]) == 3

    # Prose changes the notebook and leaves the outputs.
    edit(project / "toy/second.py", "# # Second", "# # Another title")
    assert "second.ipynb differs from second.py, cell 1" in said("--check", status=1)
    assert said() == "first.ipynb: current\nsecond.ipynb: synchronised"
    again = json.loads(path.read_text())
    assert again["metadata"] == stored["metadata"]
    assert again["cells"][1:] == stored["cells"][1:]

    # Code upstream stales both.
    edit(project / "toy/first.py", "2 * x", "3 * x")
    assert "second.ipynb has outputs of other code" in said("--check", status=1)
    assert said("second") == "second.ipynb: executed"
    assert json.loads(path.read_text())["cells"][-1]["outputs"][0]["text"] == ["6!\n"]

    # A cell that raises is named, and what was stored stays.
    text = path.read_text()
    edit(project / "toy/second.py", 'print("!")', "print(1 / 0)")
    assert main([*command, "second"]) == 1
    assert "second.ipynb, cell 3: " in (error := capsys.readouterr().err)
    assert "ZeroDivisionError" in error
    assert path.read_text() == text
    names = {item.name for item in path.parent.iterdir()}
    assert names == {"first.ipynb", "second.ipynb"}


def test_an_unknown_chapter_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["notebooks", "third", "--root", str(project)]) == 1
    assert "no chapter 'third'; there are: first, second" in capsys.readouterr().err


def test_a_percent_sign_inside_a_string_is_no_magic() -> None:
    one, two = 'x = """\n%a\n"""', 'x = """\n%b\n"""'
    assert notebooks.normal_form(one) != notebooks.normal_form(two)
