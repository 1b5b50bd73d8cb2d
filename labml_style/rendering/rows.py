"""A notebook as rows: an idea in prose on the left, its code on the right.

Everything here is a pure function of the notebook. `split` finds the rows: a Markdown
cell stands beside the code cell that follows it, a docstring beside its signature, a
block of full-line comments beside the code below it. Lines move whole; positions come
from `ast` and `tokenize`, never from patterns over source text.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import itertools
import re
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .docstrings import escape_tags, from_comment, from_docstring, from_words
from .languages import cell_language, language
from .prose import Part, free, parts, slug

DIRECTIVES = ("type:", "noqa", "fmt:", "ruff:", "pragma", "mypy:", "pylint:", "isort:")
EDITORS = ("-*-", "vim:")
TASK = frozenset({"exercise", "check", "solution"})
WHOLE = TASK | {"figure", "idea", "proof"}
OUTPUT_LIMIT = 300_000
# Images that become files, and what their names end with.
IMAGES = {
    "image/svg+xml": ".svg",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
}


class NotebookError(ValueError):
    """Something in a notebook that a page must not be built from.

    Args:
        notebook: the notebook's path, as the reader of the message knows it.
        cell: number of the cell, counted from 1.
        line: number of the line in that cell, counted from 1.
        message: what is wrong and what to do.
    """

    def __init__(self, notebook: str, cell: int, line: int, message: str):
        super().__init__(f"{notebook}, cell {cell}, line {line}: {message}")


@dataclass(frozen=True)
class Definition:
    """A class, function, method, field or constant, and the row that defines it.

    Attributes:
        name: qualified name inside its module, `TextStream.position`.
        kind: `class`, `function`, `method`, `property`, `field` or `constant`.
        signature: one line for the heading and the hover card.
        first: first line in the cell, decorators included, counted from 0.
        last: line after the last.
        public: whether a heading announces it.
    """

    name: str
    kind: str
    signature: str
    first: int
    last: int
    public: bool


@dataclass
class Row:
    """One row of a page.

    Attributes:
        id: anchor, made from headings and names so that it survives edits.
        prose: Markdown of the left side, or an empty string.
        cell: index of the code cell, or None where a row has prose alone.
        prose_cell: index of the cell that the prose comes from.
        lines: the cell's lines on the right side, counted from 0.
        outputs: the cell's stored outputs, on its last row only.
        tags: the cell's tags.
        defines: what the row defines.
        heading: text of a heading that stands before the row.
        level: level of that heading, 1 to 6.
        announces: the definition that the heading announces, if it is one.
        leads: whether the prose belongs beside the definition that follows.
        hash: changes with the prose and the code.
        anchor: anchor of the heading.
        raw: whether the prose is HTML, of a raw cell.
        references: link definitions of the cell that the prose comes from.
        html: the prose as HTML; `Book.add` converts it.
        ids: anchors inside the prose, of its numbered equations and its boxes.
    """

    id: str = ""
    prose: str = ""
    cell: int | None = None
    prose_cell: int = 0
    prose_line: int = 0
    lines: list[int] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    tags: frozenset[str] = frozenset()
    defines: list[Definition] = field(default_factory=list)
    heading: str = ""
    level: int = 0
    announces: Definition | None = None
    leads: bool = False
    hash: str = ""
    anchor: str = ""
    raw: bool = False
    references: dict[str, Any] = field(default_factory=dict)
    html: str = ""
    ids: list[str] = field(default_factory=list)

    @property
    def fold(self) -> str:
        """Anchor of the folded code of a proof or a stub; else empty."""
        folded = self.cell is not None and self.tags & {"proof", "exercise"}
        return f"{self.id}--code" if folded else ""


def code_of(cell: dict[str, Any]) -> str:
    """A cell's source as one string, whichever of the two forms the file uses."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def tags_of(cell: dict[str, Any]) -> frozenset[str]:
    """The tags of a cell."""
    return frozenset(cell.get("metadata", {}).get("tags", ()))


def imports_alone(source: str, row: Row, language: str = "python") -> bool:
    """Whether a row has more than six lines, and nothing but imports."""
    lines = source.split("\n")
    tree = parse("\n".join(lines[number] for number in row.lines), language)
    return (
        tree is not None
        and len(row.lines) > 6
        and all(isinstance(one, ast.Import | ast.ImportFrom) for one in tree.body)
    )


def parse(source: str, language: str = "python") -> ast.Module | None:
    """A cell's syntax tree, or None if it is not Python. Magic lines become `pass`.

    Args:
        source: the cell's code.
        language: language of the kernel; see `cell_language`.
    """
    if cell_language(source, language) != "python":
        return None
    for text in (source, without_magics(source)[0]):
        try:
            with warnings.catch_warnings(action="ignore"):  # such as for "\d"
                return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


# What IPython takes and Python does not: `%magic`, `!command`, `?name`, `name?`, and
# a command whose result gets a name.
MAGIC = re.compile(r"\s*(%|!(?!=)|\?|[\w.%]+\?{1,2}\s*$)")
NAMED = re.compile(r"(\s*[\w., ]+=\s*)(%\w|!(?!=)).*")


def without_magics(source: str) -> tuple[str, list[str]]:
    """A cell's source with `pass` for each line of IPython magic, and those lines.

    A magic goes on after a backslash; those lines become empty.
    """
    lines: list[str] = []
    magics: list[str] = []
    goes_on = False
    for line in source.split("\n"):
        named = NAMED.fullmatch(line)
        if not (goes_on or named or MAGIC.match(line)):
            lines.append(line)
            continue
        text = line.strip()
        magics.append(text)
        indent = line[: len(line) - len(line.lstrip())]
        code = f"{named[1]}None" if named else f"{indent}pass"
        lines.append("" if goes_on else code)
        goes_on = text.endswith("\\")
    return "\n".join(lines), magics


# --- definitions ---------------------------------------------------------------------


def _arguments(arguments: ast.arguments, method: bool) -> str:
    shown = ast.unparse(arguments)
    return re.sub(r"^(self|cls)(, )?", "", shown) if method else shown


def _text(node: ast.AST) -> str:
    """Source of a statement; empty where it is nested too deep to be written."""
    try:
        return ast.unparse(node)
    except RecursionError:
        return ""


def _signature(node: ast.AST, kind: str) -> str:
    if isinstance(node, ast.ClassDef):
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                return f"class {node.name}({_arguments(item.args, True)})"
        fields = [ast.unparse(f) for f in node.body if isinstance(f, ast.AnnAssign)]
        return f"class {node.name}({', '.join(fields)})"
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    if kind == "property":
        return f"{node.name}{returns}"
    return f"{node.name}({_arguments(node.args, kind == 'method')}){returns}"


def first_line(node: ast.AST) -> int:
    """Index of the line where a definition starts, decorators included."""
    decorators = getattr(node, "decorator_list", [])
    return min([d.lineno for d in decorators] + [node.lineno]) - 1  # type: ignore[attr-defined]


def definitions(tree: ast.Module, headings: bool = True) -> Iterator[Definition]:
    """All that a cell defines at its top level and in its classes, in order.

    Args:
        tree: syntax tree of the cell.
        headings: whether public definitions are announced by a heading.
    """

    announced: set[str] = set()  # an overload or a setter repeats a name

    def visit(body: list[ast.stmt], prefix: str) -> Iterator[Definition]:
        for node in body:
            last = node.end_lineno or node.lineno
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                kind = "class" if isinstance(node, ast.ClassDef) else "function"
                if prefix and kind == "function":
                    marks = {ast.unparse(d).split(".")[-1] for d in node.decorator_list}
                    prop = marks & {"property", "cached_property"}
                    kind = "property" if prop else "method"
                name = prefix + node.name
                private = any(re.match(r"_(?!_)", part) for part in name.split("."))
                documented = not prefix or ast.get_docstring(node) is not None
                public = headings and not private and documented
                public = public and name not in announced
                announced.update([name] if public else [])
                try:
                    shown = _signature(node, kind)
                except RecursionError:  # a default value that is nested too deep
                    shown = name
                yield Definition(name, kind, shown, first_line(node), last, public)
                if isinstance(node, ast.ClassDef):
                    yield from visit(node.body, name + ".")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = (
                    node.targets if isinstance(node, ast.Assign) else [node.target]
                )
                for target in targets:
                    if isinstance(target, ast.Name):
                        name, start = prefix + target.id, node.lineno - 1
                        kind = "field" if prefix else "constant"
                        text = _text(node)
                        text = text if len(text) < 90 else text[:87] + "..."
                        yield Definition(name, kind, text, start, last, False)

    yield from visit(tree.body, "")


# --- fragments of a code cell --------------------------------------------------------


@dataclass
class Fragment:
    """Lines of a code cell that belong together, and the prose found among them."""

    prose: str = ""
    line: int = 0
    lines: list[int] = field(default_factory=list)
    definition: Definition | None = None


def _comment_blocks(source: str) -> dict[int, int]:
    """Blocks of full-line comments: first line -> line after the last."""
    found, depth = [], 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.OP:
                depth += (token.string in "([{") - (token.string in ")]}")
            elif token.type == tokenize.COMMENT and depth == 0:
                text = token.string[1:]
                directive = text.strip().startswith(DIRECTIVES + EDITORS)
                full = token.line.strip() == token.string
                if full and text[:1] in ("", " ") and not directive:
                    found.append((token.start[0] - 1, token.start[1]))
    except (tokenize.TokenError, SyntaxError, IndentationError):
        return {}
    blocks: dict[int, int] = {}
    previous, column, start = -2, -1, -1
    for line, indent in found:
        if line != previous + 1 or indent != column:
            start = line
        blocks[start] = line + 1
        previous, column = line, indent
    return blocks


def _documented(tree: ast.Module, source: str) -> Iterator[tuple[int, int, str, Any]]:
    """Docstrings on lines of their own: first line, after last, text, definition."""
    lines = source.split("\n")
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                text, last = first.value.value, first.end_lineno or first.lineno
                rest = lines[last - 1].encode()[first.end_col_offset :]
                if isinstance(text, str) and first.lineno > node.lineno:
                    if not rest.strip():
                        yield first.lineno - 1, last, text, node


def fragments(
    source: str, headings: bool = True, language: str = "python"
) -> list[Fragment]:
    """Cut a code cell into fragments by whole lines.

    A definition starts a fragment and takes its docstring, a method only if it has one,
    so that `__init__` stands beside the words of its class; a block of full-line
    comments starts one and takes the code below it, a definition included; so does the
    first statement after a definition at the top level. A cell that is not Python is
    one fragment.

    Args:
        source: the cell's code.
        headings: whether public definitions are announced by a heading.
        language: language of the kernel.
    """
    lines = source.split("\n")
    tree = parse(source, language)
    if tree is None:
        return [Fragment(lines=list(range(len(lines))))]
    blocks = _comment_blocks(source)
    known = {
        d.first: d
        for d in definitions(tree, headings)
        if d.kind not in ("field", "constant")
    }
    found = list(_documented(tree, source))
    docs = {first: (end, text) for first, end, text, _ in found}
    documented = {first_line(node) for *_, node in found}
    top = {line for line, d in known.items() if "." not in d.name}
    starts = top | documented | set(blocks)
    for before, node in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(before, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            starts.add(first_line(node))
    result = [Fragment()]
    line = 0
    while line < len(lines):
        here = result[-1]
        if line in starts:
            waiting = here.prose and not any(lines[i].strip() for i in here.lines)
            if not (waiting and line not in blocks):
                here = Fragment(line=line)
                result.append(here)
            if line in known:
                here.definition = known[line]
        if line in blocks:
            end = blocks[line]
            said = [x.strip()[1:].removeprefix(" ") for x in lines[line:end]]
            here.prose, here.line = from_comment(said), line
            line = blocks[line]
        elif line in docs:
            end, text = docs[line]
            here.prose = (here.prose + "\n\n" + from_docstring(text)).strip()
            here.line = here.line or line
            line = end
            if line < len(lines) and not lines[line].strip():
                line += 1
        else:
            here.lines.append(line)
            line += 1
    for item in result:
        while item.lines and not lines[item.lines[-1]].strip():
            item.lines.pop()
        while item.lines and not lines[item.lines[0]].strip():
            item.lines.pop(0)
    return [item for item in result if item.lines or item.prose] or [Fragment()]


# --- rows ----------------------------------------------------------------------------


def split(
    notebook: dict[str, Any],
    name: str = "notebook",
    problems: list[str] | None = None,
) -> list[Row]:
    """The rows of a notebook.

    Args:
        notebook: a notebook in format 4, as `nbformat` or `json` reads it.
        name: how messages call it.
        problems: receives what a strict page is not built from, one message each; the
            rows are made all the same. Without it the first one is raised.

    Returns:
        Rows in reading order; a heading stands before the row that carries it.

    Raises:
        NotebookError: a heading twice, a docstring with a backslash that is not raw, an
            output over 300 kB, an image without a text alternative, an attached image,
            a raw cell, a widget, or a cell that failed.
    """
    report = Report(name, problems)
    spoken = language(notebook)
    rows: list[Row] = []
    level = 0
    pending: Row | None = None  # prose or heading of a Markdown cell, waiting for code
    cells = notebook["cells"]
    for index, cell in enumerate(cells):
        source, tags = code_of(cell), tags_of(cell)
        empty = not source.strip() and not cell.get("outputs")
        if "colab-setup" in tags or empty:
            continue
        if cell["cell_type"] == "markdown":
            if cell.get("attachments"):
                message = "attached image; put it in a file beside the notebook"
                report(index, 0, message)
            found, references = parts(source)
            for part in found:
                if part.level:
                    if pending is not None:
                        rows.append(pending)
                    level = part.level
                    pending = _of(part, index, references)
                elif pending is not None and not pending.prose:
                    pending.prose, pending.references = part.text, references
                else:
                    if pending is not None:
                        rows.append(pending)
                    pending = _of(part, index, references)
                pending.tags = tags
            continue
        if cell["cell_type"] == "raw":
            kind = cell.get("metadata", {}).get("raw_mimetype", "") or ""
            shown = kind in ("", "text/html")
            report(index, 0, "raw cell" if shown else f"raw cell of {kind} is left out")
            if shown:
                rows += [pending] if pending is not None else []
                pending = None
                rows.append(Row(prose=source, prose_cell=index, raw=True))
            continue
        if cell["cell_type"] != "code":
            report(index, 0, f"cell of type {cell['cell_type']!r} is left out")
            continue
        _check_code(cell, index, report, spoken)
        new = _code_rows(cell, index, level, spoken)
        if pending is not None:
            first = new[0]
            if first.announces is None:
                first.heading, first.level = pending.heading, pending.level
                first.prose = "\n\n".join(p for p in (pending.prose, first.prose) if p)
                first.references = pending.references
                first.prose_cell, first.prose_line = (
                    pending.prose_cell,
                    pending.prose_line,
                )
            else:
                pending.leads = bool(pending.prose)
                rows.append(pending)
            pending = None
        rows += new
    if pending is not None:
        rows.append(pending)
    _name(rows, cells, report)
    return rows


class Report:
    """Takes what a strict page is not built from.

    Args:
        name: how messages call the notebook.
        problems: receives the messages; without it the first one is raised.
    """

    def __init__(self, name: str, problems: list[str] | None):
        self.name, self.problems = name, problems

    def __call__(self, cell: int, line: int, message: str) -> None:
        """Take one message about a cell and a line of it, counted from 0.

        Raises:
            NotebookError: no list collects the messages.
        """
        error = NotebookError(self.name, cell + 1, line + 1, message)
        if self.problems is None:
            raise error
        self.problems.append(str(error))


def _of(part: Part, cell: int, references: dict[str, Any]) -> Row:
    row = Row(prose_cell=cell, prose_line=part.line, references=references)
    if part.level:
        row.heading, row.level = part.text, part.level
    else:
        row.prose = part.text
    return row


def _code_rows(
    cell: dict[str, Any], index: int, level: int, language: str = "python"
) -> list[Row]:
    """The rows of one code cell."""
    source, tags = code_of(cell), tags_of(cell)
    if cell.get("metadata", {}).get("transient", {}).get("remove_source"):
        row = Row(cell=index, prose_cell=index, tags=tags)
        row.outputs = list(cell.get("outputs", ()))
        return [row]
    headings = not tags & (WHOLE | {"active-ipynb"})
    count = source.count("\n") + 1
    whole = tags & WHOLE
    pieces = (
        [Fragment(lines=list(range(count)))]
        if whole
        else fragments(source, headings, language)
    )
    tree = parse(source, language)
    known = list(definitions(tree, headings)) if tree else []
    rows = []
    for piece in pieces:
        row = Row(prose=piece.prose, cell=index, prose_cell=index, lines=piece.lines)
        row.prose_line, row.tags = piece.line, tags
        held = set(piece.lines)
        row.defines = [
            d for d in known if d.first in held and (headings or d.kind != "constant")
        ]
        if piece.definition and piece.definition.public:
            row.announces = piece.definition
            row.heading = piece.definition.name
            row.level = min(max(level, 1) + 1 + piece.definition.name.count("."), 6)
        rows.append(row)
    rows[-1].outputs = list(cell.get("outputs", ()))
    return rows


def _name(rows: list[Row], cells: list[dict[str, Any]], report: Report) -> None:
    """Give every heading and row its anchor and its hash."""
    taken: set[str] = set()
    for row in rows:
        if row.heading:
            anchor = row.heading if row.announces else slug(row.heading)
            if anchor in taken or not anchor:
                what = "stands twice" if anchor else "has no letters to link to"
                message = f"heading {row.heading!r} {what}; rename it"
                report(row.prose_cell, row.prose_line, message)
            row.anchor = free(anchor or "section", taken)
    current = ""
    for row in rows:
        if row.heading:
            current = row.anchor if row.level > 1 else ""
        code = code_of(cells[row.cell]).split("\n") if row.cell is not None else []
        shown = "\n".join(code[i] for i in row.lines)
        public = [d for d in row.defines if d.kind not in ("field", "constant")]
        if row.announces:
            base = f"{row.anchor}--row"
        elif public:
            base = public[0].name
        else:
            stem = "-".join(current.split("-")[:4])
            words = slug(row.prose, 4) or slug(shown, 3) or "row"
            base = f"{stem}--{words}" if current else words
            if re.match(r"(eq|deviation|pitfall)-|(what-you-will-find|use-it)$", base):
                base = f"row-{base}"  # those belong to equations and boxes
        row.id = free(base, taken)
        row.hash = hashlib.sha256(f"{row.prose}\0{shown}".encode()).hexdigest()[:8]


def proved(row: Row) -> bool:
    """Whether a proof ran to its end and printed what it found."""
    failed = any(output.get("output_type") == "error" for output in row.outputs)
    printed = "".join(
        "".join(output.get("text", ""))
        for output in row.outputs
        if output.get("output_type") == "stream" and output.get("name") == "stdout"
    )
    return bool(printed.strip()) and not failed


# --- checks --------------------------------------------------------------------------


def _check_code(
    cell: dict[str, Any], index: int, report: Report, language: str
) -> None:
    tags = tags_of(cell)
    source = code_of(cell)
    tree = parse(source, language)
    last = source.count("\n")
    for first, end, _, node in _documented(tree, source) if tree else ():
        text = "\n".join(source.split("\n")[first:end]).strip()
        if "\\" in text and not re.match(r"[rR]", text):
            message = f'docstring of {node.name} has a backslash: write r"""..."""'
            report(index, first, message)
    for output in cell.get("outputs", ()):
        data, about = output.get("data", {}), output.get("metadata", {})
        size = sum(len(str(value)) for value in data.values())
        size += len("".join([*output.get("text", ""), *output.get("traceback", ())]))
        image = next((kind for kind in data if kind.startswith("image/")), "")
        html = "".join(data.get("text/html", ""))
        if size > OUTPUT_LIMIT:
            limit = f"the limit is {OUTPUT_LIMIT:,}"
            report(index, last, f"output of {size:,} bytes; {limit}")
        if "application/vnd.jupyter.widget-view+json" in data:
            report(index, last, "a widget, which other hosts draw; show a figure")
        elif re.search(r"<img[^>]*\bsrc=.?data:", html):
            message = "image inside HTML; publish it with show(figure, alt=...)"
            report(index, last, message)
        elif not html and image and image not in IMAGES:
            kinds = " or ".join(IMAGES)
            report(index, last, f"output of {image}; publish it as {kinds}")
        elif not html and image and not about.get(image, {}).get("alt"):
            message = "image without a text alternative; give it one with figures.show"
            report(index, last, message)
        if output.get("output_type") == "error" and "raises-exception" not in tags:
            message = f"the cell failed with {output.get('ename')}; execute it again"
            report(index, last, message)


def _cell(kind: str, source: str, *tags: str) -> dict[str, Any]:
    cell = {"cell_type": kind, "metadata": {"tags": [*tags]}, "source": source}
    return cell | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def module_notebook(source: str) -> dict[str, Any]:
    """A plain module as a notebook of one code cell, its docstring before it.

    In the docstring, prose is Markdown, and an indented example in Python is a demo.
    What stands above the docstring stands above the code.

    Args:
        source: text of a Python file.

    Raises:
        SyntaxError: the file is no Python.
    """
    cells: list[dict[str, Any]] = []
    tree = ast.parse(source)
    lines = source.split("\n")
    text = ast.get_docstring(tree)
    if text is not None:
        node = tree.body[0]
        end = node.end_lineno or 1
        behind = lines[end - 1].encode()[node.end_col_offset :].decode().lstrip("; ")
        above = "\n".join(lines[: node.lineno - 1]).strip()
        title, _, rest = text.partition("\n\n")
        title = " ".join(title.split())
        sentence = re.match(r"(.+?\.) (.+)", title)
        if len(title) > 120 and sentence:  # too long for a title
            title, rest = sentence[1], f"{sentence[2]}\n\n{rest}"
        prose = f"# {escape_tags(title).rstrip('.')}"
        for indented, found in itertools.groupby(
            rest.strip().split("\n\n"), lambda part: part.startswith("    ")
        ):
            block = "\n\n".join(found)
            example = inspect.cleandoc(block) if indented else ""
            if example and parse(example):
                cells.append(_cell("markdown", prose))
                cells.append(_cell("code", example, "active-ipynb"))
                prose = ""
            else:
                prose += f"\n\n{from_words(block)}"
        cells += [_cell("markdown", prose.strip())] if prose else []
        parts = [above, "\n".join([behind, *lines[end:]]).strip("\n")]
        lines = "\n\n".join(filter(None, parts)).split("\n")
    cells.append(_cell("code", "\n".join(lines).strip("\n")))
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


__all__ = [
    "Definition",
    "Fragment",
    "NotebookError",
    "Row",
    "definitions",
    "fragments",
    "from_docstring",
    "module_notebook",
    "proved",
    "split",
]
