"""A book of notebooks: rows become pages, names become links between them."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup, Tag

from .html import convert_boxes, convert_math, figure, highlight, pane, wrapped
from .links import Index, Reference, Target, references
from .rows import (
    NotebookError,
    Row,
    code_of,
    equation_ids,
    heading_id,
    module_notebook,
    split,
    tags_of,
)

HIDDEN = frozenset({"colab-setup"})


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
        """Every id that a link may point to, in order."""
        found = []
        for row in self.rows:
            found += [heading_id(row)] if row.heading else []
            found.append(row.id)
            found += equation_ids(row.prose) + _box_ids(row)
        return found


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
        name = path.stem if path.stem != "__init__" else path.parent.name
        module = module or (f"{self.package}.{name}" if self.package else name)
        page, url = page or f"{name}.ipynb", url or f"{name}/"
        at = shown or path.as_posix()
        chapter = Chapter(name, module, at, page, url, notebook, path)
        chapter.rows = split(notebook, chapter.path)
        self.chapters[page] = chapter
        self.pages[page] = url
        targets = [
            Target(module, d, page, d.name if row.announces == d else row.id)
            for row in chapter.rows
            for d in row.defines
        ]
        cells = [code_of(c) for c in notebook["cells"] if _linked(c)]
        self.index.add(module, cells, targets)
        return chapter

    def link(self) -> None:
        """Find the references of all chapters, once all are added."""
        self.used.clear()
        for chapter in self.chapters.values():
            cells = chapter.notebook["cells"]
            places = [i for i, cell in enumerate(cells) if _linked(cell)]
            found = references(
                self.index, chapter.module, [code_of(cells[i]) for i in places]
            )
            chapter.references = dict(zip(places, found, strict=True))
            for place, items in chapter.references.items():
                for item in items:
                    if item.target.page != chapter.page:
                        key = item.target.module, item.target.definition.name
                        row = _row_of(chapter, place, item.line)
                        self.used.setdefault(key, {}).setdefault(chapter.page, row)

    def href(self, chapter: Chapter, target: Target) -> str:
        """Address of a definition, seen from a chapter."""
        if target.page == chapter.page:
            return f"#{target.anchor}"
        return f"{self._relative(chapter, self.pages[target.page])}#{target.anchor}"

    def _relative(self, chapter: Chapter, url: str) -> str:
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
        if re.match(r"[a-z]+:", href):
            return href
        where = _where(chapter, row, f"({href}")
        known = chapter.page if not path else posixpath.normpath(path)
        known = re.sub(r"^(\.\./)*(docs|notebooks)/", "", known)
        if known not in self.pages:
            message = f"link to nowhere: {href!r} is no page of this site"
            raise NotebookError(chapter.path, *where, message)
        target = self.chapters.get(known)
        there = self.anchors.get(known)
        if target is not None:
            there = {*target.anchors, *self.moved.get(target.name, {})}
        if anchor and there is not None and anchor not in there:
            message = f"link to nowhere: {href!r} has no such anchor"
            raise NotebookError(chapter.path, *where, message)
        tail = f"#{anchor}" if anchor else ""
        if known == chapter.page:
            return tail
        return self._relative(chapter, self.pages[known]) + tail

    # From rows to HTML and back.

    def split_notebook(self, chapter: Chapter) -> dict[str, Any]:
        """A notebook of prose and outputs alone, one cell for each piece of a row.

        Any tool that turns notebooks into HTML and keeps the cells' ids can render it;
        `arrange` puts the pieces into rows.
        """
        cells: list[dict[str, Any]] = []

        def markdown(name: str, text: str) -> None:
            cells.append(
                {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}
            )

        chapter.files.clear()
        for number, row in enumerate(chapter.rows):
            if row.heading and not row.announces:
                markdown(f"h{number}", f"{'#' * row.level} {row.heading}")
            if row.prose:
                markdown(f"p{number}", row.prose)
            outputs = [self._output(chapter, output) for output in row.outputs]
            if outputs:
                code: dict[str, Any] = {"cell_type": "code", "id": f"o{number}"}
                code |= {"source": "pass"}
                code |= {"metadata": {}, "execution_count": None, "outputs": outputs}
                cells.append(code)
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        return {
            "cells": cells,
            "metadata": {"kernelspec": kernel},
            "nbformat": 4,
            "nbformat_minor": 5,
        }

    def _output(self, chapter: Chapter, output: dict[str, Any]) -> dict[str, Any]:
        html = figure(output, chapter.name, chapter.files)
        if html is None:
            return output
        data = {"text/html": html}
        return {"output_type": "display_data", "data": data, "metadata": {}}

    def arrange(self, chapter: Chapter, rendered: str, tools: str = "") -> str:
        """Put the rendered pieces of a split notebook into rows.

        Args:
            chapter: the chapter.
            rendered: HTML of its split notebook.
            tools: HTML placed below the title: downloads and the like.

        Returns:
            The page's content, a `<div class="lit">`.
        """
        pieces = _pieces(rendered)
        chapter.signed.clear()
        parts: list[str] = []
        moved: dict[str, list[str]] = {}
        for old, new in self.moved.get(chapter.name, {}).items():
            moved.setdefault(new, []).append(old)
        folded = False
        for number, row in enumerate(chapter.rows):
            solution = "solution" in row.tags and row.cell is not None
            if folded and not solution:
                parts.append("</details>")
                folded = False
            if row.heading:
                parts += [_alias(a) for a in moved.get(heading_id(row), ())]
                parts.append(self._heading(chapter, row, pieces.get(f"h{number}")))
                if row.level == 1 and tools:
                    parts.append(tools)
                    tools = ""
            if solution and not folded:
                parts.append(
                    '<details class="lit-solution"><summary>Solution</summary>'
                )
                folded = True
            parts += [_alias(a) for a in moved.get(row.id, ())]
            prose = pieces.get(f"p{number}", "")
            prose = self._prose(chapter, row, prose) if prose else ""
            parts.append(self._row(chapter, row, prose, pieces.get(f"o{number}", "")))
        if folded:
            parts.append("</details>")
        parts.append(_foot(chapter.notebook))
        body = "\n".join(part for part in parts if part)
        return (
            f'<div class="lit" data-chapter="{chapter.name}">\n{_compact(body)}\n</div>'
        )

    def _linker(self, chapter: Chapter) -> Callable[[Target, str], str]:
        """Wraps a name into a link; its first on a page carries the signature."""

        def link(target: Target, inside: str) -> str:
            address = self.href(chapter, target)
            hover = ""
            name = f"{address} {re.sub('<[^>]*>', '', inside)}"
            if name not in chapter.signed:
                chapter.signed.add(name)
                hover = f' data-signature="{escape(target.definition.signature)}"'
            return f'<a class="lit-ref" href="{escape(address)}"{hover}>{inside}</a>'

        return link

    def _heading(self, chapter: Chapter, row: Row, rendered: str | None) -> str:
        anchor = escape(heading_id(row))
        mark = f'<a class="headerlink" href="#{anchor}" title="Permanent link">#</a>'
        if row.announces is None:
            text = rendered or escape(row.heading)
            return f'<h{row.level} id="{anchor}">{text}{mark}</h{row.level}>'
        item = row.announces
        kind = f'<span class="lit-kind">{item.kind}</span> '
        name = item.name.replace(".", ".<wbr>").replace("_", "_<wbr>")
        html = (
            f'<h{row.level} id="{anchor}" class="lit-def">{kind}'
            f"<code>{name}</code>{mark}</h{row.level}>"
        )
        used = self.used.get((chapter.module, item.name), {})
        if used:
            links = ", ".join(
                f'<a href="{self._relative(chapter, self.pages[page])}#{escape(at)}">'
                f"{escape(self.chapters[page].title)}</a>"
                for page, at in used.items()
            )
            html += f'\n<p class="lit-used">Used in {links}</p>'
        return html

    def _prose(self, chapter: Chapter, row: Row, html: str) -> str:
        soup = BeautifulSoup(html, "html.parser")
        for item in soup.find_all("a", class_="anchor-link"):
            item.decompose()
        convert_math(soup)
        convert_boxes(soup)
        for link in soup.find_all("a", href=True):
            link["href"] = self.resolve(chapter, row, str(link["href"]))
        for image in soup.find_all("img"):
            if not str(image.get("alt") or "").strip():
                message = "image without a text alternative: ![what it shows](file)"
                where = _where(chapter, row, str(image.get("src")))
                raise NotebookError(chapter.path, *where, message)
        for table in soup.find_all("table"):
            box = soup.new_tag("div", attrs={"class": "lit-table", "tabindex": "0"})
            table.wrap(box)
        module = self.index.modules[chapter.module]
        for code in soup.find_all("code"):
            name = code.get_text().removesuffix("()")
            if code.find_parent(["a", "pre", "summary"]) or not re.fullmatch(
                r"[\w.]+", name
            ):
                continue
            place = self.index.resolve(module, name.split("."))
            target = self.index.find(*place) if place and place[1] else None
            if target is not None and target.definition.kind not in (
                "field",
                "constant",
            ):
                link = BeautifulSoup(
                    self._linker(chapter)(target, str(code)), "html.parser"
                )
                code.replace_with(link)
        return soup.decode_contents().strip()

    def _row(self, chapter: Chapter, row: Row, prose: str, output: str) -> str:
        code = ""
        if row.cell is not None and row.lines:
            source = code_of(chapter.notebook["cells"][row.cell])
            found = chapter.references.get(row.cell, [])
            code = highlight(source, row.lines, found, self._linker(chapter))
        right = pane(code) if code else ""
        if "figure" in row.tags and output:
            fold = '<details class="lit-fold"><summary>Code of this figure</summary>'
            right = f"{_out(output)}{fold}{right}</details>"
        elif output:
            right += _out(output)
        elif row.card is not None:
            right = self._card(chapter, row)
        if not prose and not right:
            return ""
        names = ["lit-row"]
        names += [f"lit-{tag}" for tag in ("exercise", "check") if tag in row.tags]
        names += ["lit-figure-row"] if "figure" in row.tags and output else []
        names += [] if right else ["lit-wide"]
        anchor = escape(row.id)
        mark = f'<a class="lit-anchor" href="#{anchor}" '
        mark += 'aria-label="Link to this row">#</a>'
        mark = "" if row.heading else mark  # the heading above has its own
        left = f'<div class="lit-doc">{prose}{mark}</div>' if prose else ""
        right = f'\n<div class="lit-code">{right}</div>' if right else ""
        return (
            f'<div class="{" ".join(names)}" id="{anchor}" data-hash="{row.hash}">\n'
            f"{left}{right}\n</div>"
        )

    def _card(self, chapter: Chapter, row: Row) -> str:
        """The signature of the definition that a prose row introduces."""
        assert row.card is not None
        members = [
            r.announces.signature
            for r in chapter.rows
            if r.announces is not None
            and r.announces.name.startswith(row.card.name + ".")
            and not r.announces.name.endswith("__init__")
        ]
        text = wrapped(row.card.signature)
        text += "".join(f"\n    {line}" for line in members)
        inner = highlight(text)
        name = escape(row.card.name.rpartition(".")[2])
        link = f'<a class="lit-ref" href="#{escape(row.card.name)}">{name}</a>'
        inner = re.sub(rf"(?<![\w-]){name}(?![\w-])", link, inner, count=1)
        return pane(inner, " lit-card")

    def toc(self, chapter: Chapter) -> list[tuple[int, str, str]]:
        """Headings of a page: level, text, anchor; methods are left out."""
        return [
            (row.level, row.heading, heading_id(row))
            for row in chapter.rows
            if row.heading and not (row.announces and "." in row.announces.name)
        ]


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


def _linked(cell: dict[str, Any]) -> bool:
    return cell["cell_type"] == "code" and not tags_of(cell) & HIDDEN


def _where(chapter: Chapter, row: Row, text: str) -> tuple[int, int]:
    """Cell and line, counted from 1, of a text in a row's prose."""
    lines = code_of(chapter.notebook["cells"][row.prose_cell]).split("\n")
    after = range(row.prose_line, len(lines))
    line = next((i for i in after if text in lines[i]), row.prose_line)
    return row.prose_cell + 1, line + 1


def _compact(html: str) -> str:
    """Drop the quotes around attribute values that need none."""

    def tag(found: re.Match[str]) -> str:
        return re.sub(r'="([\w.#/-]+)"(?=[ >])', r"=\1", found[0])

    return re.sub(r"<[a-z][^<>]*>", tag, html)


def _alias(anchor: str) -> str:
    return f'<span class="lit-moved" id="{escape(anchor)}"></span>'


def _row_of(chapter: Chapter, cell: int, line: int) -> str:
    rows = [r for r in chapter.rows if r.cell == cell]
    return next((r.id for r in rows if line in r.lines), rows[-1].id if rows else "")


def _box_ids(row: Row) -> list[str]:
    if not re.search(r"^> ", row.prose, re.MULTILINE):
        return []
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    soup = BeautifulSoup(markdown2html_mistune(row.prose), "html.parser")
    convert_math(soup)
    convert_boxes(soup)
    return [str(box["id"]) for box in soup.find_all("aside", id=True)]


def boxes(chapter: Chapter, kind: str) -> list[tuple[str, str]]:
    """The boxes of a chapter: anchor and Markdown.

    Args:
        chapter: the chapter.
        kind: `deviation` or `pitfall`.
    """
    found = []
    for row in chapter.rows:
        quotes = re.findall(r"(?:^>.*\n?)+", row.prose, re.MULTILINE)
        ids = _box_ids(row) if quotes else []
        texts = [re.sub(r"^> ?", "", quote, flags=re.MULTILINE) for quote in quotes]
        named = [t for t in texts if re.match(r"\s*\*\*(Deviation|Pitfall)", t)]
        for anchor, text in zip(ids, named, strict=True):
            if anchor.startswith(kind):
                found.append((anchor, text.strip()))
    return found


def _pieces(rendered: str) -> dict[str, str]:
    """Inner HTML of each cell of a rendered split notebook, by cell id."""
    start = rendered.find('<div class="jupyter-wrapper">')
    soup = BeautifulSoup(rendered[max(start, 0) :].split("<style>")[0], "html.parser")
    found: dict[str, str] = {}
    for cell in soup.find_all(id=re.compile(r"^cell-id=")):
        name = str(cell["id"]).removeprefix("cell-id=")
        body = cell.find(class_="jp-RenderedMarkdown")
        if name.startswith("h") and body is not None:
            heading = body.find(re.compile(r"^h[1-6]$"))
            if isinstance(heading, Tag):
                for link in heading.find_all("a", class_="anchor-link"):
                    link.decompose()
                inner = BeautifulSoup(heading.decode_contents(), "html.parser")
                convert_math(inner)
                found[name] = inner.decode_contents().strip()
        elif name.startswith("p") and body is not None:
            found[name] = body.decode_contents().strip()
        elif name.startswith("o"):
            outputs = []
            for item in cell.find_all(class_="jp-OutputArea-output"):
                for text in item.find_all("pre"):
                    text["tabindex"] = "0"
                for table in item.find_all("table"):
                    table.wrap(
                        soup.new_tag(
                            "div", attrs={"class": "lit-table", "tabindex": "0"}
                        )
                    )
                outputs.append(item.decode_contents().strip())
            found[name] = "\n".join(outputs)
    return found


def _out(html: str) -> str:
    return f'<div class="lit-out">{html}</div>'


def _foot(notebook: dict[str, Any]) -> str:
    about = notebook.get("metadata", {}).get("labml_style")
    if not about:
        return ""
    parts = [f"Executed with version {about['version']}"]
    if about.get("torch"):
        parts.append(f"torch {about['torch']}")
    if about.get("python"):
        parts.append(f"Python {about['python']}")
    if about.get("device"):
        parts.append(f"on {about['device']}")
    text = ", ".join(parts) + f", in {float(about['seconds']):.0f} seconds."
    return f'<footer class="lit-foot">{escape(text)}</footer>'


def notebook_html(path: str) -> str:
    """HTML of a notebook file, by mkdocs-jupyter's own conversion."""
    from mkdocs_jupyter.convert import nb2html

    return str(nb2html(path, allow_errors=False))


def render_notebook(
    path: str | Path,
    *,
    package: str = "",
    to_html: Callable[[str], str] = notebook_html,
) -> Chapter:
    """Render one notebook, without MkDocs and without torch.

    Args:
        path: an `.ipynb` or a plain `.py` file.
        package: package whose names are linked, if the notebook is paired with one.
        to_html: turns a notebook file into HTML that keeps the cells' ids.

    Returns:
        The chapter: `chapter.html` is the fragment, `chapter.files` its images.

    Raises:
        NotebookError: the notebook must not become a page; see `split`.
    """
    import tempfile

    book = Book(package)
    chapter = book.add(Path(path))
    book.link()
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "split.ipynb"
        part.write_text(json.dumps(book.split_notebook(chapter)), encoding="utf-8")
        chapter.html = book.arrange(chapter, to_html(str(part)))
    return chapter
