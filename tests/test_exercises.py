"""Every exercise: the stub is unsolved, the solution passes, a wrong answer fails."""

from __future__ import annotations

import ast
import importlib
import runpy
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest

from labml_style.exercises import attempt

ROOT = Path(__file__).parents[1]
ROLES = ("exercise", "check", "solution")


class Exercise(NamedTuple):
    """Three cells of a notebook, by the name that the stub defines."""

    chapter: str
    name: str
    stub: str
    check: str
    solution: str


def exercises(path: Path) -> list[Exercise]:
    """Read a notebook's exercises, and refuse a notebook where one lacks a part."""
    found: list[tuple[str, str]] = []
    for cell in nbformat.read(path, 4).cells:
        tags = cell.metadata.get("tags", ())
        for role in ROLES:
            if role in tags:
                assert "active-ipynb" in tags, f"{path.name}: {role} in the module"
                found.append((role, cell.source))
        if "solution" in tags:
            assert "skip-execution" in tags, f"{path.name}: a solution would run"
    roles = tuple(role for role, _ in found)
    assert roles == ROLES * (len(roles) // 3), f"{path.name}: cells come as {roles}"
    groups = [
        [source for _, source in found[i : i + 3]] for i in range(0, len(found), 3)
    ]
    return [Exercise(path.stem, defined(group[0]), *group) for group in groups]


def defined(source: str) -> str:
    """Return the one name that a stub defines."""
    names = [
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    assert len(names) == 1, f"a stub defines one name, not {names}"
    return names[0]


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXERCISES = [exercise for path in NOTEBOOKS for exercise in exercises(path)]
each = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.name)


def wrong_answers(chapter: str) -> dict[str, str]:
    """Return the wrong answers of a chapter, by exercise."""
    path = ROOT / "tests" / "wrong_answers" / f"{chapter}.py"
    answers: dict[str, str] = runpy.run_path(str(path))["ANSWERS"]
    return answers


def run(exercise: Exercise, answer: str) -> None:
    """Run an answer and its check with the names of the chapter's module."""
    import math

    module = importlib.import_module(f"labml_style.{exercise.chapter}")
    names: dict[str, Any] = {**vars(module), "attempt": attempt, "math": math}
    exec(compile(answer, f"<{exercise.name}>", "exec"), names)
    exec(compile(exercise.check, f"<check of {exercise.name}>", "exec"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_chapter_has_exercises_and_a_wrong_answer_to_each(path: Path) -> None:
    names = [exercise.name for exercise in exercises(path)]
    assert 3 <= len(names) <= 6
    assert sorted(names) == sorted(wrong_answers(path.stem))


@each
def test_a_stub_is_not_solved(
    exercise: Exercise, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "raise NotImplementedError" in exercise.stub
    run(exercise, exercise.stub)
    assert capsys.readouterr().out == "not solved yet\n"


@each
def test_the_solution_passes(
    exercise: Exercise, capsys: pytest.CaptureFixture[str]
) -> None:
    run(exercise, exercise.solution)
    assert capsys.readouterr().out == "solved\n"


@each
def test_a_wrong_answer_fails(exercise: Exercise) -> None:
    with pytest.raises(AssertionError):
        run(exercise, wrong_answers(exercise.chapter)[exercise.name])


@pytest.mark.parametrize("error", [AssertionError, TypeError, KeyboardInterrupt])
def test_attempt_lets_other_errors_through(error: type[BaseException]) -> None:
    with pytest.raises(error):
        with attempt():
            raise error


def test_a_missing_part_is_refused(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook()
    for role in ("exercise", "check"):
        cell = nbformat.v4.new_code_cell("def f(): ...")
        cell.metadata["tags"] = ["active-ipynb", role]
        notebook.cells.append(cell)
    nbformat.write(notebook, tmp_path / "some.ipynb")
    with pytest.raises(AssertionError, match="cells come as"):
        exercises(tmp_path / "some.ipynb")
