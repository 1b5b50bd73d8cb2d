"""Chapters kept in pairs: a module in percent format and the notebook that runs it.

The module is the source of truth. `expected` derives the notebook's cells from it and
from nothing else, `stamp` tells whether the stored outputs still belong to the code,
and `refresh` executes what is stale. `python -m labml_style.rendering notebooks` does
this for every chapter.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode

from labml_style.rendering.rows import without_magics

__all__ = [
    "ChapterError",
    "chapters",
    "check",
    "clean",
    "expected",
    "normal_form",
    "problems",
    "refresh",
    "stamp",
    "used_modules",
    "write",
]

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
KEY = "labml_style"
"""Where a notebook's metadata holds its stamp and how it was executed."""

PROBE = """
import json, platform, sys
_torch = sys.modules.get("torch")
_gpu = _torch is not None and _torch.cuda.is_available()
print(json.dumps({
    "python": platform.python_version(),
    "torch": _torch and str(_torch.__version__),
    "device": _torch.cuda.get_device_name() if _gpu else "cpu",
    "corpus": getattr(globals().get("corpus"), "name", None),
}))
"""
"""Runs after the last cell and tells where the notebook ran; it is not stored."""


class ChapterError(ValueError):
    """A chapter that cannot be stored; the message names notebook, cell and remedy."""


# --- the pair ------------------------------------------------------------------------


def expected(module: str, setup: dict[str, Any] | None = None) -> list[NotebookNode]:
    """The cells that a module's notebook must have, without outputs.

    Each cell's id is a hash of its type and source: the same module gives the same
    notebook, and an edit changes the ids of the edited cells alone.

    Args:
        module: text of a module in percent format.
        setup: the first cell, from `colab.setup_cell`, or None.
    """
    cells = [
        cell
        for cell in jupytext.reads(module, fmt="py:percent").cells
        if "colab-setup" not in tags(cell)
    ]
    if setup is not None:
        cells.insert(0, nbformat.from_dict(setup))
    seen: dict[str, int] = {}
    for cell in cells:
        key = f"{cell.cell_type}\0{cell.source}"
        count = seen[key] = seen.get(key, 0) + 1
        cell.id = digest(key if count == 1 else f"{key}\0{count}")[:12]
    return cells


def tags(cell: NotebookNode) -> list[str]:
    """A cell's tags."""
    return list(cell.metadata.get("tags", ()))


def problems(cells: Sequence[NotebookNode], wanted: Sequence[NotebookNode]) -> str:
    """How a notebook's cells differ from the expected ones, or an empty string.

    Args:
        cells: what the notebook has.
        wanted: what `expected` derives from the module.
    """
    for number, (cell, want) in enumerate(zip(cells, wanted, strict=False), 1):
        for name in ("cell_type", "source", "metadata", "id"):
            ours, theirs = cell.get(name), want.get(name)
            if ours == theirs:
                continue
            lines = zip_longest(str(ours).split("\n"), str(theirs).split("\n"))
            line, one, other = next(
                (n, *pair) for n, pair in enumerate(lines, 1) if pair[0] != pair[1]
            )
            return (
                f"cell {number}: {name}, line {line} is {one!r}; "
                f"the module has {other!r}"
            )
    if len(cells) != len(wanted):
        return f"{len(cells)} cells; the module has {len(wanted)}"
    return ""


# --- the stamp -----------------------------------------------------------------------


def digest(text: str) -> str:
    """SHA-256 of a text, as hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def normal_form(source: str) -> str:
    """Code without what does not run: comments, layout and docstrings are gone.

    A syntax tree as `ast.dump` prints it, except that empty fields are left out, which
    `ast.dump` does from Python 3.13 on only: every Python gives the same text. Lines of
    IPython magic stand before the tree; what does not parse stands for itself.

    Args:
        source: a module, or a code cell.
    """
    magics: list[str] = []
    try:
        tree = ast.parse(source)
    except SyntaxError:
        text, magics = without_magics(source)
        try:
            tree = ast.parse(text)
        except SyntaxError:
            return source
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body:
            # A string that ends a cell is shown; any other is a docstring or a note.
            shown = body[-1:] if node is tree else []
            body[:] = [line for line in body[:-1] if not _is_text(line)] + (
                shown or [line for line in body[-1:] if not _is_text(line)]
            )
    return "\n".join([*magics, _dump(tree)])


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is a string alone: a docstring, or a note under a name."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _dump(node: Any) -> str:
    if isinstance(node, ast.AST):
        parts = (f"{name}={_dump(value)}" for name, value in ast.iter_fields(node))
        kept = (part for part in parts if not part.endswith(("=None", "=[]")))
        return f"{type(node).__name__}({', '.join(kept)})"
    if isinstance(node, list):
        return f"[{', '.join(map(_dump, node))}]"
    return repr(node)


def imported(
    source: str, package: str, name: str = "", *, strings: bool = True
) -> set[str]:
    """Names under `package` that a source may import, modules and members alike.

    Args:
        source: a module, or a code cell.
        package: the top package.
        name: the importing package, for relative imports.
        strings: count import strings, `"package.module:Name"`, too: a config may name
            its parts so, and a default may be a part of a later chapter.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = name.split(".")
                above = above[: len(above) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif strings and isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = re.fullmatch(r"(\w+(?:\.\w+)+)(?::\w+)?", node.value)
            if match:
                found.add(match[1])
    return {name for name in found if name.split(".")[0] == package}


def locate(root: Path, name: str) -> tuple[str, Path] | None:
    """The package name and the file behind a dotted name, or None if it is no module.

    Args:
        root: folder of the top package.
        name: dotted name, the top package first.
    """
    path = root.joinpath(*name.split(".")[1:])
    if (path / "__init__.py").is_file():
        return name, path / "__init__.py"
    if name.count(".") and path.with_suffix(".py").is_file():
        return name.rpartition(".")[0], path.with_suffix(".py")
    return None


def used_modules(sources: Iterable[str], root: Path) -> dict[str, Path]:
    """Modules of the package that sources import, directly or through one another.

    Args:
        sources: code of cells.
        root: folder of the top package.

    Returns:
        Files by dotted name; importing `a.b.c` uses `a` and `a.b` as well.
    """
    used: dict[str, Path] = {}
    waiting = [name for text in sources for name in imported(text, root.name)]
    while waiting:
        name = waiting.pop()
        parts = name.split(".")
        waiting += [".".join(parts[:n]) for n in range(1, len(parts))]
        found = locate(root, name)
        if found is None or name in used:
            continue
        used[name] = found[1]
        waiting += imported(found[1].read_text(), root.name, found[0])
    return used


def _files(source: str, folder: Path) -> Iterator[Path]:
    """Files beside a module that it names in a string, such as a style file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"[\w@-]+(\.\w+)+", node.value):
                path = folder / node.value
                if path.is_file() and path.suffix != ".py":
                    yield path


def stamp(cells: Iterable[NotebookNode], root: Path) -> str:
    """A hash over everything of ours that a notebook's outputs depend on.

    That is its code cells, the modules of the package they import, directly or through
    one another, the files that those name, and the lab's records that the cells name.
    Comments, layout, docstrings and Markdown do not count, nor does the first cell.

    Args:
        cells: the notebook's cells.
        root: folder of the top package.
    """
    code = [
        cell.source
        for cell in cells
        if cell.cell_type == "code" and "colab-setup" not in tags(cell)
    ]
    parts = [normal_form(source) for source in code]
    for name, path in sorted(used_modules(code, root).items()):
        source = path.read_text()
        parts += [name, normal_form(source)]
        for file in sorted(set(_files(source, path.parent))):
            parts += [file.name, hashlib.sha256(file.read_bytes()).hexdigest()]
    named = {name for source in code for name in re.findall(r"\w[\w-]*@\w+", source)}
    for name in sorted(named):
        record = root / "lab" / "records" / f"{name}.json"
        if record.is_file():
            parts += [name, hashlib.sha256(record.read_bytes()).hexdigest()]
    return digest("\0".join(parts))[:16]


# --- order ---------------------------------------------------------------------------


def chapters(root: Path) -> list[Path]:
    """The chapters' modules, each after those it imports; otherwise by name.

    Args:
        root: folder of the top package; a file directly in it is a chapter.

    Raises:
        ChapterError: chapters import each other in a circle.
    """
    files = {p.stem: p for p in sorted(root.glob("*.py")) if p.stem != "__init__"}
    ordered: dict[str, Path] = {}

    def add(stem: str, above: tuple[str, ...]) -> None:
        if stem in above:
            circle = " -> ".join([*above[above.index(stem) :], stem])
            raise ChapterError(f"chapters import each other in a circle: {circle}")
        if stem not in ordered:
            source = files[stem].read_text()
            names = imported(source, root.name, root.name, strings=False)
            needed = {name.split(".")[1] for name in names if "." in name}
            for other in sorted(needed & (files.keys() - {stem})):
                add(other, (*above, stem))
            ordered[stem] = files[stem]

    for stem in files:
        add(stem, ())
    return list(ordered.values())


# --- execution -----------------------------------------------------------------------


def clean(cells: Sequence[NotebookNode], notebook: str, secret: Iterable[str]) -> None:
    """Take out of executed cells what differs from run to run, in place.

    Neighbouring pieces of one stream become one; of a line that was overwritten, as
    progress bars do, the last state stays. Execution timestamps go.

    Args:
        cells: executed cells.
        notebook: its name, for messages.
        secret: texts that no output may hold, such as paths of this machine.

    Raises:
        ChapterError: an output holds a path of this machine or a memory address.
    """
    for number, cell in enumerate(cells, 1):
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        outputs: list[NotebookNode] = []
        for output in cell.outputs:
            output.pop("transient", None)
            last = outputs[-1] if outputs else None
            if (
                last is not None
                and output.output_type == last.output_type == "stream"
                and output.name == last.name
            ):
                last.text += output.text
            else:
                outputs.append(output)
        for output in outputs:
            if output.output_type == "stream":
                lines = output.text.split("\n")
                kept = [line.rstrip("\r").rpartition("\r")[2] for line in lines]
                output.text = "\n".join(kept)
        cell.outputs = outputs
        text = json.dumps(outputs, ensure_ascii=False)
        for path in secret:
            if path in text:
                raise ChapterError(
                    f"{notebook}, cell {number}: the output holds {path!r}, a path of "
                    "this machine; print a name instead"
                )
        match = re.search(r" at 0x[0-9a-f]{6,}", text)
        if match:
            raise ChapterError(
                f"{notebook}, cell {number}: the output holds {match[0].strip()!r}, a "
                "memory address that changes with every run; print something else"
            )


def machine_paths(*more: Path) -> list[str]:
    """Folders of this machine that no stored output may name."""
    folders = [Path.home(), Path(tempfile.gettempdir()), Path(sys.prefix), *more]
    data = os.environ.get("LABML_STYLE_DATA")
    if data:
        folders.append(Path(data))
    return sorted({f"{folder.absolute()}/" for folder in folders} - {"//"})


def execute(notebook: NotebookNode, name: str, timeout: int = 900) -> dict[str, Any]:
    """Run a notebook in full, in an empty folder, and store its outputs in place.

    Args:
        notebook: the notebook.
        name: its name, for messages.
        timeout: seconds that one cell may take.

    Returns:
        Python, torch, device, corpus and seconds of the run.

    Raises:
        ChapterError: a cell raised, or took too long.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    environment = {k: v for k, v in os.environ.items() if k != "LABML_STYLE_QUICK"}
    environment["PYTHONHASHSEED"] = "0"
    if "LABML_STYLE_DATA" in environment:
        data = Path(environment["LABML_STYLE_DATA"]).absolute()
        environment["LABML_STYLE_DATA"] = str(data)
    notebook.cells.append(nbformat.v4.new_code_cell(PROBE))
    try:
        with tempfile.TemporaryDirectory() as folder:
            environment["IPYTHONDIR"] = folder
            NotebookClient(
                notebook,
                timeout=timeout,
                kernel_name=KERNEL["name"],
                record_timing=False,
                extra_arguments=["--IPKernelApp.log_level=40"],
                resources={"metadata": {"path": folder}},
            ).execute(env=environment)
    except (CellExecutionError, CellTimeoutError) as error:
        ran = [n for n, c in enumerate(notebook.cells, 1) if c.get("execution_count")]
        cell = max(ran, default=1)
        raise ChapterError(f"{name}, cell {cell}: {error}") from error
    text = "".join(output.get("text", "") for output in notebook.cells.pop().outputs)
    run = json.loads(text.splitlines()[-1])
    return {key: value for key, value in run.items() if value is not None}


def write(path: Path, notebook: NotebookNode) -> None:
    """Write a notebook under a temporary name, then rename it: it is whole or absent.

    Args:
        path: where it belongs.
        notebook: what to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = nbformat.writes(notebook, version=4).rstrip("\n") + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _stored(path: Path) -> NotebookNode | None:
    if not path.is_file():
        return None
    return nbformat.read(path, as_version=4)


def _carry(cells: Sequence[NotebookNode], old: Sequence[NotebookNode]) -> None:
    """Give cells the outputs of the old ones; their code is the same, in order."""

    def code(cells: Sequence[NotebookNode]) -> list[NotebookNode]:
        found = [cell for cell in cells if cell.cell_type == "code"]
        return [cell for cell in found if "colab-setup" not in tags(cell)]

    for cell, before in zip(code(cells), code(old), strict=True):
        cell.outputs = copy.deepcopy(before.outputs)
        cell.execution_count = before.execution_count


def refresh(
    module: Path,
    path: Path,
    *,
    setup: dict[str, Any] | None = None,
    version: str = "",
    force: bool = False,
    secret: Iterable[str] = (),
) -> str:
    """Bring a notebook up to date with its module, and execute it if its stamp is old.

    Args:
        module: the chapter's module; the folder it lies in is the package.
        path: the notebook.
        setup: the first cell, from `colab.setup_cell`, or None.
        version: the package's version, stored beside the outputs.
        force: execute although the stamp is current.
        secret: texts that no output may hold, besides paths of this machine.

    Returns:
        `"current"`, `"synchronised"` (text has changed, outputs stand) or `"executed"`.

    Raises:
        ChapterError: a cell raised, or an output cannot be stored.
    """
    cells = expected(module.read_text(), setup)
    mark = stamp(cells, module.parent)
    old = _stored(path)
    made = old.metadata.get(KEY, {}) if old is not None else {}
    notebook = nbformat.v4.new_notebook(cells=cells)
    if old is not None and made.get("stamp") == mark and not force:
        if not problems(old.cells, cells):
            return "current"
        _carry(cells, old.cells)
        result = "synchronised"
    else:
        start = time.perf_counter()
        run = execute(notebook, path.name)
        run["seconds"] = round(time.perf_counter() - start, 1)
        clean(cells, path.name, [*machine_paths(), *secret])
        made = {"stamp": mark, "version": version, **run}
        result = "executed"
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}, KEY: made}
    )
    write(path, notebook)
    return result


def check(module: Path, path: Path, *, setup: dict[str, Any] | None = None) -> str:
    """What `refresh` would have to mend, or an empty string.

    Args:
        module: the chapter's module.
        path: the notebook.
        setup: the first cell, from `colab.setup_cell`, or None.
    """
    cells = expected(module.read_text(), setup)
    old = _stored(path)
    if old is None:
        return f"{path.name} is missing; run: make notebooks"
    found = problems(old.cells, cells)
    if found:
        return f"{path.name} differs from {module.name}, {found}; run: make notebooks"
    if old.metadata.get(KEY, {}).get("stamp") != stamp(cells, module.parent):
        return f"{path.name} has outputs of other code; run: make notebooks"
    return ""
