"""At least 95 % of our own names are links: counted while the chapters run.

Each chapter is executed with every name and attribute wrapped in a probe that looks at
the object it denotes. Functions, classes and methods that `labml_style` defines count;
instances do not: a variable is defined by its assignment, not by its class. Nor does a
variable that holds a class or a function under another name than its own.
"""

from __future__ import annotations
import __future__

import ast
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labml_style.rendering.anchors import project_book
from labml_style.rendering.book import Chapter
from labml_style.rendering.rows import code_of, tags_of

ROOT = Path(__file__).parents[2]
OURS = (type, types.FunctionType, types.MethodType)
SKIPPED = {"colab-setup", "skip-execution", "exercise", "check", "solution"}

Place = tuple[int, int, int]


def ours(value: Any) -> bool:
    module = getattr(value, "__module__", None) or ""
    return isinstance(value, OURS) and module.split(".")[0] == "labml_style"


class Probe(ast.NodeTransformer):
    """Wraps what is read, outside annotations, into `__probe__(place, x)`."""

    def __init__(self, cell: int, source: str):
        self.cell = cell
        self.lines = source.split("\n")
        self.annotations: list[ast.expr] = []

    def place(self, node: ast.expr) -> tuple[int, int]:
        """Line and first column of a name, or of an attribute's own name."""
        if isinstance(node, ast.Name):
            text = self.lines[node.lineno - 1].encode()[: node.col_offset]
            return node.lineno - 1, len(text.decode())
        assert isinstance(node, ast.Attribute)
        line = (node.end_lineno or node.lineno) - 1
        text = self.lines[line].encode()[: node.end_col_offset]
        return line, len(text.decode()) - len(node.attr)

    def wrap(self, node: ast.expr) -> ast.expr:
        line, column = self.place(node)
        self.generic_visit(node)
        name = node.id if isinstance(node, ast.Name) else ""
        where = [ast.Constant(x) for x in (self.cell, line, column, name)]
        call = ast.Call(ast.Name("__probe__", ast.Load()), [*where, node], [])
        return ast.copy_location(call, node)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.wrap(node) if isinstance(node.ctx, ast.Load) else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.ctx, ast.Load):
            return self.wrap(node)
        self.generic_visit(node)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        self.annotations += [node.annotation] if node.annotation else []
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        self.annotations.append(node.annotation)
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        if node.returns is not None:
            self.annotations.append(node.returns)
            returns, node.returns = node.returns, None
            self.generic_visit(node)
            node.returns = returns
        else:
            self.generic_visit(node)
        return node

    def visit_match_case(self, node: ast.match_case) -> ast.match_case:
        return node


def run(chapter: Chapter, monkeypatch: pytest.MonkeyPatch) -> set[Place]:
    """Execute a chapter; the places whose object is ours: cell, line, column."""
    seen: set[Place] = set()
    # A dataclass looks its module up by name. It is another one than the chapter's own,
    # which the lab imports.
    name = f"{chapter.module}_run"
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    space: dict[str, Any] = module.__dict__
    later: list[tuple[int, Probe]] = []
    flags = __future__.annotations.compiler_flag

    aliases = {
        alias.asname
        for cell in chapter.notebook["cells"]
        if cell["cell_type"] == "code" and not tags_of(cell) & SKIPPED
        for node in ast.walk(ast.parse(code_of(cell)))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def look(cell: int, line: int, column: int, name: str, value: Any) -> Any:
        known = name in aliases or name in ("", getattr(value, "__name__", ""))
        if ours(value) and known:
            seen.add((cell, line, column))
        return value

    space["__probe__"] = look
    for number, cell in enumerate(chapter.notebook["cells"]):
        if cell["cell_type"] != "code" or tags_of(cell) & SKIPPED:
            continue
        probe = Probe(number, code_of(cell))
        tree = ast.fix_missing_locations(probe.visit(ast.parse(code_of(cell))))
        exec(compile(tree, f"cell {number}", "exec", flags), space)
        later.append((number, probe))
    for number, probe in later:
        for annotation in probe.annotations:
            for node in ast.walk(annotation):
                if isinstance(node, ast.Name | ast.Attribute):
                    try:
                        value = eval(ast.unparse(node), space)
                    except NameError:
                        continue
                    if ours(value):
                        seen.add((number, *probe.place(node)))
    return seen


def chapters() -> Iterator[Any]:
    book, _ = project_book(ROOT)
    for chapter in book.chapters.values():
        if chapter.source.parent == ROOT / "notebooks":
            yield pytest.param(chapter, id=chapter.name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("chapter", list(chapters()))
def test_names_of_ours_are_links(
    chapter: Chapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("LABML_STYLE_QUICK", "1")
    monkeypatch.chdir(tmp_path)
    seen = run(chapter, monkeypatch)
    linked = {
        (cell, reference.line, reference.column)
        for cell, found in chapter.references.items()
        for reference in found
    }
    lost = sorted(seen - linked)
    text = [
        f"cell {cell + 1}, line {line + 1}: "
        + code_of(chapter.notebook["cells"][cell]).split("\n")[line][column:][:30]
        for cell, line, column in lost
    ]
    share = 1 - len(lost) / len(seen)
    print(f"{chapter.name}: {share:.1%} of {len(seen)} names resolve")
    assert len(seen) > 50
    assert share >= 0.95, "\n".join(text)
