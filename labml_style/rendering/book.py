"""The chapters of a site: reading them, indexing their names, checking their links."""

from __future__ import annotations

import ast
import json
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from .html import rendered_boxes
from .index import Cell, Index, Module, Target
from .links import Reference, references
from .rows import (
    Definition,
    NotebookError,
    Row,
    code_of,
    equation_ids,
    heading_id,
    module_notebook,
    parse,
    proved,
    split,
    tags_of,
)


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
    rows: list[Row] = field(default_factory=list)
    references: dict[int, list[Reference]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    signed: set[str] = field(default_factory=set)
    html: str = ""

    @property
    def title(self) -> str:
        """Text of the first heading."""
        return next((row.heading for row in self.rows if row.heading), self.name)

    @cached_property
    def anchors(self) -> list[str]:
        """Every id that a link may point to, in order; folds go with their rows."""
        found = []
        for row in self.rows:
            found += [heading_id(row)] if row.heading else []
            found += [row.id, *inner_ids(row)]
        return found

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
        pages: source path -> address of the other pages of the site, so that links to
            them can be checked.
        moved: old anchor -> new anchor per page name, so that old links still work.
    """

    def __init__(
        self,
        package: str,
        pages: dict[str, str] | None = None,
        moved: dict[str, dict[str, str]] | None = None,
    ):
        self.package = package
        self.pages = dict(pages or {})
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
    ) -> Chapter:
        """Read a notebook or a plain module.

        Args:
            path: an `.ipynb` or a `.py` file.
            page: source path in the site; the file's name by default.
            url: address of the page; the stem and a slash by default.
            module: dotted module name; the package and the stem by default.
            shown: how error messages call the file; its path by default.

        Returns:
            The chapter, with its rows.

        Raises:
            NotebookError: the notebook must not become a page; see `split`.
        """
        text = path.read_text(encoding="utf-8")
        notebook = (
            json.loads(text) if path.suffix == ".ipynb" else module_notebook(text)
        )
        init = path.stem == "__init__"
        name = path.parent.name if init else path.stem
        module = module or (f"{self.package}.{name}" if self.package else name)
        page, url = page or f"{name}.ipynb", url or f"{name}/"
        at = shown or path.as_posix()
        chapter = Chapter(name, module, at, page, url, notebook, path)
        chapter.rows = split(notebook, chapter.path)
        _check_unique(chapter)
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
            if _linked(cell):
                cells.append(Cell(code_of(cell), tags_of(cell), targets))
        self.code[page] = self.index.add(module, cells, init)
        return chapter

    def link(self) -> None:
        """Find the references of all chapters, once all are added."""
        self.used.clear()
        for chapter in self.chapters.values():
            cells = chapter.notebook["cells"]
            places = [i for i, cell in enumerate(cells) if _linked(cell)]
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
        """Address of a page, seen from a chapter."""
        url = self.pages[page]
        end = "/" if url.endswith("/") or not url else ""
        path = posixpath.relpath(url or ".", chapter.url or ".")
        return "./" if path == "." else path + end

    def resolve(self, chapter: Chapter, row: Row, href: str) -> str:
        """Address on the site of a link in a chapter's Markdown.

        Args:
            chapter: where the link stands.
            row: the row it stands in.
            href: the link as written: `#anchor`, `other.ipynb#anchor`,
                `../docs/page.md#anchor` or an address with a scheme.

        Raises:
            NotebookError: the link leads nowhere.
        """
        path, _, anchor = href.partition("#")
        if re.match(r"(?i)[a-z][a-z0-9+.-]*:|//", href):
            return href
        where = chapter.where(row, href)
        known = chapter.page if not path else posixpath.normpath(path)
        known = re.sub(r"^(\.\./)*(docs|notebooks)/", "", known)
        if known not in self.pages:
            message = f"link to nowhere: {href!r} is no page of this site"
            raise NotebookError(chapter.path, *where, message)
        target = self.chapters.get(known)
        there = self.anchors.get(known)
        if target is not None:
            there = {*target.anchors, *self.moved.get(target.key, {})}
            there |= {row.fold for row in target.rows}
        if anchor and there is not None and anchor not in there:
            message = f"link to nowhere: {href!r} has no such anchor"
            raise NotebookError(chapter.path, *where, message)
        tail = f"#{anchor}" if anchor else ""
        if known == chapter.page and chapter.url == self.pages[known]:
            return tail
        return self.relative(chapter, known) + tail

    def seen_from(self, chapter: Chapter, url: str) -> Chapter:
        """The same chapter, its links written for a page at another address."""
        return replace(chapter, url=url, signed=set())


def read_book(
    root: Path,
    *,
    notebooks: str = "notebooks",
    package: str = "",
    support: Sequence[str] = (),
    order: Sequence[str] = (),
    pages: dict[str, str] | None = None,
    moved: dict[str, dict[str, str]] | None = None,
) -> Book:
    """Read all notebooks of a project and link their names.

    Args:
        root: the project's folder.
        notebooks: folder of the notebooks in it.
        package: package they are paired with.
        support: plain modules or packages that get a page below `support/`.
        order: file names in reading order; notebooks that it lacks follow by name.
        pages: source path -> address of the site's other pages.
        moved: old anchor -> new anchor, per page name.

    Raises:
        NotebookError: a notebook must not become a page; see `split`.
    """
    book = Book(package, pages, moved)
    place = {name: number for number, name in enumerate(order)}
    found = (root / notebooks).glob("*.ipynb")
    for path in sorted(found, key=lambda p: (place.get(p.name, len(place)), p.name)):
        book.add(path, shown=path.relative_to(root).as_posix())
    for item in support:
        path = root / item
        path = path / "__init__.py" if path.is_dir() else path
        local = path.relative_to(root)
        init = path.name == "__init__.py"
        dotted = local.parent if init else local.with_suffix("")
        book.add(
            path,
            page=f"support/{dotted.name}.ipynb",
            url=f"support/{dotted.name}/",
            module=".".join(dotted.parts),
            shown=local.as_posix(),
        )
    book.link()
    return book


def inner_ids(row: Row) -> list[str]:
    """Anchors inside a row's prose: of its numbered equations and its boxes."""
    return equation_ids(row.prose) + [str(b["id"]) for b in rendered_boxes(row.prose)]


def _place(row: Row, definition: Definition) -> str:
    return definition.name if row.announces == definition else row.fold or row.id


def _linked(cell: dict[str, Any]) -> bool:
    return cell["cell_type"] == "code" and "colab-setup" not in tags_of(cell)


def _check_unique(chapter: Chapter) -> None:
    """Refuse two equations or boxes with one anchor, or one that a heading has."""
    seen = {heading_id(row) for row in chapter.rows if row.heading}
    for row in chapter.rows:
        for anchor in inner_ids(row):
            if anchor in seen:
                where = row.prose_cell + 1, row.prose_line + 1
                message = f"anchor {anchor!r} stands twice; rename the tag or the box"
                raise NotebookError(chapter.path, *where, message)
            seen.add(anchor)


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
