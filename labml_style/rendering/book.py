"""The chapters of a site: reading them, indexing their names, checking their links."""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .index import Cell, Index, Module, Target
from .languages import language
from .links import Reference, references
from .prose import convert, inline, plain
from .reading import read
from .rows import (
    Definition,
    Report,
    Row,
    code_of,
    parse,
    proved,
    split,
    tags_of,
)

ID = re.compile(r"""<[^>]+\b(?:id|name)=["']?([^"'\s>]+)""")


@dataclass
class Chapter:
    """A notebook on its way to a page.

    Attributes:
        name: file stem, `streams`.
        module: dotted name of the module it is paired with.
        path: where it was read, as error messages call it.
        page: source path of the page in the site, `streams.ipynb`.
        url: address of the page relative to the site's root, `streams/`.
        notebook: its content in format 4.
        source: the file itself.
        folder: the folder that its links start from.
        problems: what a strict page is not built from, one message each.
        rows: its rows.
        references: for each code cell's index the names it links.
        files: images to write beside the page, filled by `split_notebook`.
        signed: addresses whose signature the page already carries.
        html: the page, filled by `render_notebook`.
    """

    name: str
    module: str
    path: str
    page: str
    url: str
    notebook: dict[str, Any]
    source: Path = Path()
    folder: Path = Path()
    problems: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    references: dict[int, list[Reference]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    signed: set[str] = field(default_factory=set)
    html: str = ""

    @cached_property
    def language(self) -> str:
        """The language of its kernel."""
        return language(self.notebook)

    @property
    def title(self) -> str:
        """Text of the first heading, or the file's name."""
        found = next((row for row in self.rows if row.heading), None)
        text = plain(inline(found.heading, found.references)) if found else ""
        return text or self.name

    @cached_property
    def anchors(self) -> list[str]:
        """Every id that a link may point to, in order; folds go with their rows."""
        found = []
        for row in self.rows:
            found += [row.anchor] if row.heading else []
            found += [row.id, *row.ids]
        return found

    @cached_property
    def targets(self) -> dict[str, str]:
        """What a link may call an anchor -> the anchor.

        Beside the anchors these are Jupyter's own spelling of headings, `#Big-Part`,
        the folds of proofs, and ids in the prose.
        """
        found: dict[str, str] = {}
        for row in self.rows:
            heading = inline(row.heading, row.references) if row.heading else ""
            ids = ID.findall(row.html + heading)
            found |= {name: name for name in [*ids, row.fold] if name}
            if heading:
                found.setdefault(re.sub(r"\s", "-", plain(heading)), row.anchor)
        return found | {name: name for name in self.anchors}

    @property
    def unproved(self) -> list[str]:
        """What is wrong with its proofs, one message each."""
        found = []
        for row in self.rows:
            if "proof" in row.tags and row.cell is not None:
                where = f"{self.path}, cell {row.cell + 1}: a proof"
                if not row.prose:
                    found.append(f"{where} without the claim in Markdown before it")
                if not proved(row):
                    found.append(f"{where} that failed or printed nothing")
        return found

    @property
    def key(self) -> str:
        """What the lock of anchors calls the page: `streams`, `support/figures`."""
        return self.page.removesuffix(".ipynb")

    def where(self, row: Row, text: str) -> tuple[int, int]:
        """Cell and line, counted from 1, of a text in a row's prose."""
        lines = code_of(self.notebook["cells"][row.prose_cell]).split("\n")
        after = range(row.prose_line, len(lines))
        line = next((i for i in after if text in lines[i]), row.prose_line)
        return row.prose_cell + 1, line + 1


class Book:
    """The chapters of a site, in reading order, and the index of their definitions.

    Args:
        package: name of the package that the notebooks are paired with; names imported
            from it are linked.
        pages: source path -> address of the other files of the site, so that links to
            them can be checked; without it there is no site, and a link to a file that
            is there stays as it is.
        moved: old anchor -> new anchor per page name, so that old links still work.
        folders: where source paths start: folders of the site's files.
    """

    def __init__(
        self,
        package: str,
        pages: dict[str, str] | None = None,
        moved: dict[str, dict[str, str]] | None = None,
        folders: Sequence[Path] = (),
    ):
        self.package = package
        self.site = pages is not None
        self.pages = dict(pages or {})
        self.folders = [folder.resolve() for folder in folders]
        self.moved = dict(moved or {})
        self.anchors: dict[str, set[str]] = {}  # of hand-written pages, where known
        self.chapters: dict[str, Chapter] = {}
        self.index = Index(package)
        self.code: dict[str, Module] = {}  # page -> its code, as the index knows it
        self.used: dict[tuple[str, str], dict[str, str]] = {}

    def add(
        self,
        path: Path,
        *,
        page: str = "",
        url: str = "",
        module: str = "",
        shown: str = "",
        folder: Path | None = None,
        prepare: Callable[[dict[str, Any], Path], dict[str, Any]] | None = None,
    ) -> Chapter:
        """Read a notebook or a plain module.

        Args:
            path: an `.ipynb` or a `.py` file.
            page: source path in the site; the file's name by default.
            url: address of the page; the stem and a slash by default.
            module: dotted module name; the package and the stem by default.
            shown: how messages call the file; its path by default.
            folder: where its links start; its own folder by default.
            prepare: changes the notebook before it is cut into rows.

        Returns:
            The chapter, with its rows and with its `problems`.

        Raises:
            NotebookError: the file is no notebook.
        """
        notebook = read(path, shown)
        if prepare is not None:
            notebook = prepare(notebook, path)
        init = path.stem == "__init__"
        name = path.parent.name if init else path.stem
        module = module or (f"{self.package}.{name}" if self.package else name)
        page, url = page or f"{name}.ipynb", url or f"{name}/"
        at = shown or path.as_posix()
        chapter = Chapter(name, module, at, page, url, notebook, path)
        chapter.folder = (folder or path.parent).resolve()
        chapter.rows = split(notebook, chapter.path, chapter.problems)
        _convert(chapter)
        self.chapters[page] = chapter
        self.pages[page] = url

        cells = []
        for number, cell in enumerate(notebook["cells"]):
            targets = tuple(
                Target(module, d, page, _place(row, d))
                for row in chapter.rows
                if row.cell == number
                for d in row.defines
            )
            if _linked(chapter, cell):
                cells.append(Cell(code_of(cell), tags_of(cell), targets))
        self.code[page] = self.index.add(module, cells, init)
        return chapter

    def link(self) -> None:
        """Find the references of all chapters, once all are added."""
        self.used.clear()
        for chapter in self.chapters.values():
            cells = chapter.notebook["cells"]
            places = [i for i, cell in enumerate(cells) if _linked(chapter, cell)]
            found = references(self.index, self.code[chapter.page])
            chapter.references = dict(zip(places, found, strict=True))
            uses = [
                (item.line in _imported(code_of(cells[place])), place, item)
                for place, items in chapter.references.items()
                for item in items
                if item.target.page != chapter.page
            ]
            # An import is a use only where there is no other.
            for _, place, item in sorted(uses, key=lambda use: use[0]):
                key = item.target.module, item.target.definition.name
                row = _row_of(chapter, place, item.line)
                self.used.setdefault(key, {}).setdefault(chapter.page, row)

    def used_in(self, chapter: Chapter, name: str) -> dict[str, str]:
        """Where a definition or a member of it is used: page -> row, in reading order.

        Args:
            chapter: where it is defined.
            name: its qualified name.
        """
        found: dict[str, str] = {}
        for (module, used), rows in self.used.items():
            if module == chapter.module and f"{used}.".startswith(f"{name}."):
                found = rows | found if used != name else found | rows
        return {page: found[page] for page in self.chapters if page in found}

    def href(self, chapter: Chapter, target: Target) -> str:
        """Address of a definition, seen from a chapter."""
        if target.page == chapter.page:
            return f"#{target.anchor}"
        return f"{self.relative(chapter, target.page)}#{target.anchor}"

    def relative(self, chapter: Chapter, page: str) -> str:
        """Address of a page or a file, seen from a chapter."""
        url = self.pages[page]
        end = "/" if url.endswith("/") or not url else ""
        path = posixpath.relpath(url or ".", posixpath.dirname(chapter.url) or ".")
        return "./" if path == "." else path + end

    def resolve(self, chapter: Chapter, row: Row, href: str) -> str:
        """Address on the site of a link in a chapter's Markdown.

        A link to nowhere is one of the chapter's `problems`, and stays as it is.

        Args:
            chapter: where the link stands.
            row: the row it stands in.
            href: the link as written: `#anchor`, `other.ipynb#anchor`,
                `../docs/page.md#anchor` or an address with a scheme.
        """
        path, _, anchor = href.partition("#")
        if re.match(r"(?i)[a-z][a-z0-9+.-]*:|//", href):
            return href
        known = self.page_of(chapter, path) if path else chapter.page
        if known not in self.pages:
            if self.site or not (chapter.folder / unquote(path)).exists():
                message = f"link to nowhere: {href!r} is no page of this site"
                self.report(chapter, row, href, message)
            return href
        target = self.chapters.get(known)
        there = {name: name for name in self.anchors.get(known, ())}
        if target is not None:
            moved = self.moved.get(target.key, {})
            there = target.targets | {name: name for name in moved}
        if anchor and unquote(anchor) in there:
            anchor = there[unquote(anchor)]
        elif anchor and (target is not None or known in self.anchors):
            message = f"link to nowhere: {href!r} has no such anchor"
            self.report(chapter, row, href, message)
        tail = f"#{anchor}" if anchor else ""
        if known == chapter.page and chapter.url == self.pages[known]:
            return tail
        return self.relative(chapter, known) + tail

    def page_of(self, chapter: Chapter, path: str) -> str:
        """The source path that a chapter's link leads to.

        Args:
            chapter: where the link stands.
            path: the link as written, without its anchor.
        """
        path = unquote(path)
        target = (chapter.folder / path).resolve()
        for folder in self.folders:
            if target.is_relative_to(folder):
                found = target.relative_to(folder).as_posix()
                if found in self.pages:
                    return found
        return posixpath.normpath(path)

    def report(self, chapter: Chapter, row: Row, text: str, message: str) -> None:
        """Add to a chapter's problems, at the place of a text in a row's prose."""
        cell, line = chapter.where(row, text)
        Report(chapter.path, chapter.problems)(cell - 1, line - 1, message)

    def seen_from(self, chapter: Chapter, url: str) -> Chapter:
        """The same chapter, its links written for a page at another address."""
        return replace(chapter, url=url, signed=set())


def read_book(
    root: Path,
    *,
    notebooks: str | Sequence[str] = "notebooks",
    package: str = "",
    support: Sequence[str] = (),
    order: Sequence[str] = (),
    docs: str = "docs",
    pages: dict[str, str] | None = None,
    moved: dict[str, dict[str, str]] | None = None,
    address: Callable[[str], str] = lambda page: f"{page.removesuffix('.ipynb')}/",
    wanted: Callable[[Path], bool] = lambda path: True,
    prepare: Callable[[dict[str, Any], Path], dict[str, Any]] | None = None,
) -> Book:
    """Read all notebooks of a project and link their names.

    Args:
        root: the project's folder.
        notebooks: folder of the notebooks in it, or several; folders below are read.
        package: package they are paired with.
        support: plain modules or packages that get a page below `support/`.
        order: source paths in reading order; notebooks that it lacks follow by name.
        docs: folder of the hand-written pages; notebooks may lie in it.
        pages: source path -> address of the site's other files.
        moved: old anchor -> new anchor, per page name.
        address: address of a page from its source path.
        wanted: which notebooks become pages.
        prepare: changes a notebook before it is cut into rows.

    Raises:
        NotebookError: a file is no notebook.
    """
    folders = [root / one for one in folder_names(notebooks)]
    book = Book(package, pages or {}, moved, [root / docs, *folders])
    found: dict[str, Path] = {}
    for folder in folders:
        start = root / docs if folder.is_relative_to(root / docs) else folder
        for path in folder.rglob("*.ipynb"):
            below = path.relative_to(folder).parts
            if not any(part.startswith(".") for part in below):
                found[path.relative_to(start).as_posix()] = path
    place = {name: number for number, name in enumerate(order)}
    for page in sorted(found, key=lambda p: (place.get(p, len(place)), p)):
        path = found[page]
        if wanted(path):
            stem = page.removesuffix(".ipynb").replace("/", ".")
            book.add(
                path,
                page=page,
                url=address(page),
                module=f"{package}.{path.stem}" if package else stem,
                shown=path.relative_to(root).as_posix(),
                prepare=prepare,
            )
    for item in support:
        path = root / item
        path = path / "__init__.py" if path.is_dir() else path
        local = path.relative_to(root)
        init = path.name == "__init__.py"
        dotted = local.parent if init else local.with_suffix("")
        page = f"support/{dotted.name}.ipynb"
        book.add(
            path,
            page=page,
            url=address(page),
            module=".".join(dotted.parts),
            shown=local.as_posix(),
            folder=folders[0],
        )
    book.link()
    return book


def folder_names(given: str | Sequence[str]) -> list[str]:
    """The folders that an option names, which may be one."""
    return [given] if isinstance(given, str) else list(given)


def _convert(chapter: Chapter) -> None:
    """Turn the rows' prose into HTML; no anchor stands twice."""
    taken = {name for row in chapter.rows for name in (row.anchor, row.id)}
    for row in chapter.rows:
        if row.raw:
            row.html = row.prose
            continue
        prose = convert(row.prose, taken, row.references)
        row.html, row.ids = prose.html, prose.ids
        for anchor in prose.twice:
            message = f"anchor {anchor!r} stands twice; rename the tag or the box"
            where = row.prose_cell, row.prose_line
            Report(chapter.path, chapter.problems)(*where, message)


def _place(row: Row, definition: Definition) -> str:
    return row.anchor if row.announces == definition else row.fold or row.id


def _linked(chapter: Chapter, cell: dict[str, Any]) -> bool:
    """Whether names of a cell become links."""
    code = cell["cell_type"] == "code" and chapter.language == "python"
    return code and "colab-setup" not in tags_of(cell)




@lru_cache(maxsize=1024)
def _imported(source: str) -> frozenset[int]:
    """Lines of a cell that are import statements, counted from 0."""
    tree = parse(source)
    return frozenset(
        line - 1
        for node in (ast.walk(tree) if tree else ())
        if isinstance(node, ast.Import | ast.ImportFrom)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    )


def _row_of(chapter: Chapter, cell: int, line: int) -> str:
    rows = [r for r in chapter.rows if r.cell == cell]
    return next((r.id for r in rows if line in r.lines), rows[-1].id if rows else "")
