"""From rows to a page: pieces of HTML, arranged in two columns."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from bs4 import BeautifulSoup, Tag

from .book import Book, Chapter
from .html import attachment, figure, highlight, image_size, pane
from .links import Target
from .phone import first_image_eager
from .prose import convert, inline, plain
from .rows import TASK, NotebookError, Row, code_of, imports_alone, proved

NAME = re.compile(r"[\w.]+")
WIDGETS = "application/vnd.jupyter.widget-state+json"


def outputs_notebook(chapter: Chapter) -> dict[str, Any]:
    """A notebook of outputs alone, one cell without code for each row that has some.

    Any tool that turns notebooks into HTML and keeps the cells' ids can render it;
    `arrange` puts the outputs into their rows.

    Args:
        chapter: receives its images in `files`.
    """
    chapter.files.clear()
    cells: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "id": f"o{number}",
            "source": "",
            "metadata": {},
            "execution_count": None,
            "outputs": [_output(chapter, output) for output in row.outputs],
        }
        for number, row in enumerate(chapter.rows)
        if row.outputs
    ]
    metadata = dict(chapter.notebook["metadata"])
    if WIDGETS not in metadata.get("widgets", {}):  # as those of older formats
        metadata.pop("widgets", None)
    about = {"metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return {"cells": cells, **about}


def _output(chapter: Chapter, output: dict[str, Any]) -> dict[str, Any]:
    """An output with its images as files and its Markdown and math as HTML."""
    data = output.get("data", {})
    if {"application/javascript", "application/vnd.jupyter.widget-view+json"} & {*data}:
        return output
    html: str | None
    if "text/html" in data:  # what it opens, it closes
        html = str(BeautifulSoup("".join(data["text/html"]), "html.parser"))
    elif "text/markdown" in data:
        said = convert("".join(data["text/markdown"])).html
        soup = BeautifulSoup(said, "html.parser")
        for heading in soup.find_all(re.compile(r"^h[1-6]$")):
            heading.name = "p"
        html = str(soup)
    elif "text/latex" in data and "image/svg+xml" not in data:
        tex = "".join(data["text/latex"]).strip()
        html = convert(tex if tex.startswith(("$", "\\begin")) else f"$${tex}$$").html
    else:
        html = figure(output, chapter.name, chapter.files)
    if html is None:
        return output
    kept = {"output_type": "display_data", "metadata": {}}
    return kept | {"data": {"text/html": html}}


def arrange(book: Book, chapter: Chapter, rendered: str, tools: str = "") -> str:
    """Put prose, code and rendered outputs into rows.

    Args:
        book: the book that the chapter is part of.
        chapter: the chapter; receives its images in `files`, and in `problems` links
            that lead nowhere and images without a text alternative.
        rendered: HTML of its notebook of outputs.
        tools: HTML placed below the title: downloads and the like.

    Returns:
        The page's content, a `<div class="lit">`.

    Raises:
        NotebookError: an output is missing in `rendered`.
    """
    pieces = _pieces(rendered)
    chapter.signed.clear()
    parts: list[str] = []
    moved: dict[str, list[str]] = {}
    for old, new in book.moved.get(chapter.key, {}).items():
        moved.setdefault(new, []).extend([old] if old != new else [])
    if tools and not any(row.heading and row.level == 1 for row in chapter.rows):
        parts.append(tools)
        tools = ""
    lead = ""
    for unit in _units(chapter.rows):
        filled = []
        for number, row in unit:
            if row.outputs and f"o{number}" not in pieces:
                where = (row.cell or 0) + 1, 1
                raise NotebookError(chapter.path, *where, "its output was not rendered")
            if row.heading:
                parts += [_alias(a) for a in moved.get(row.anchor, ())]
                parts.append(_heading(book, chapter, row))
                if row.level == 1 and tools:
                    parts.append(tools)
                    tools = ""
            anchors = [a for name in (row.id, *row.ids) for a in moved.get(name, ())]
            aliases = "".join(_alias(old) for old in anchors)
            prose, code = _prose(book, chapter, row), _code(book, chapter, row)
            output = pieces.get(f"o{number}", "")
            filled.append(Filled(row, aliases, prose, code, output))
        first = filled[0]
        if first.row.leads:
            lead = _lead(first)
        elif _task(first.row):
            parts.append(_exercise(filled))
        else:
            used = _used(book, chapter, first.row)
            prose = "\n".join(filter(None, (lead, first.prose, used)))
            parts.append(_row(first, prose))
            lead = ""
    parts.append(_foot(chapter.notebook))
    parts.append(_scripts(rendered))
    body = "\n".join(part for part in parts if part)
    page = f'<div class="lit" data-chapter="{escape(chapter.name)}">\n{body}\n</div>'
    return first_image_eager(page)


class Filled(NamedTuple):
    """A row and its pieces of HTML."""

    row: Row
    aliases: str
    prose: str
    code: str
    output: str


def _task(row: Row) -> bool:
    return row.cell is not None and bool(row.tags & TASK)


def _units(rows: list[Row]) -> Iterator[list[tuple[int, Row]]]:
    """The cells of an exercise together, every other row alone."""
    unit: list[tuple[int, Row]] = []
    for number, row in enumerate(rows):
        joins = _task(row) and "exercise" not in row.tags and not row.heading
        if unit and not (joins and _task(unit[-1][1])):
            yield unit
            unit = []
        unit.append((number, row))
    if unit:
        yield unit


def _linker(
    book: Book, chapter: Chapter, mark: str = ""
) -> Callable[[Target, str], str]:
    """Wraps a name into a link; its first on a page carries the signature.

    In code every link is a name; only in prose they need a class as their mark.
    """

    def link(target: Target, inside: str) -> str:
        address = book.href(chapter, target)
        hover = ""
        name = f"{address} {re.sub('<[^>]*>', '', inside)}"
        if name not in chapter.signed:
            chapter.signed.add(name)
            hover = f' data-signature="{escape(target.definition.signature)}"'
        return f'<a{mark} href="{escape(address)}"{hover}>{inside}</a>'

    return link


def _heading(book: Book, chapter: Chapter, row: Row) -> str:
    anchor = escape(row.anchor)
    mark = f'<a class=headerlink href="#{anchor}" title=Link>#</a>'
    if row.announces is None:
        html = inline(row.heading, row.references)
        text = _links(book, chapter, row, html).decode_contents().strip()
        return f'<h{row.level} id="{anchor}">{text}{mark}</h{row.level}>'
    item = row.announces
    owner, _, name = item.name.rpartition(".")
    owner = f"<span class=lit-owner>{breakable(owner)}.</span><wbr>" if owner else ""
    kind = "method" if owner else item.kind
    return (
        f'<h{row.level} id="{anchor}" class="lit-def lit-def-{kind}">'
        f"<span class=lm-hidden>{item.kind} </span>"
        f"<code>{owner}{breakable(name)}</code>{mark}</h{row.level}>"
    )


def breakable(name: str) -> str:
    """An identifier that breaks between its words, never inside one."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[._])(?=\w)", "<wbr>", name)


def _used(book: Book, chapter: Chapter, row: Row) -> str:
    """Where else a class or function is used; said once, not for each method.

    A page is named by its title up to a colon, as such lists grow with each chapter.
    """
    if row.announces is None or "." in row.announces.name:
        return ""
    links = ", ".join(
        f'<a href="{book.relative(chapter, page)}#{escape(at)}">'
        f"{escape(book.chapters[page].title.partition(':')[0])}</a>"
        for page, at in book.used_in(chapter, row.announces.name).items()
    )
    return f"<p class=lit-used>Used in {links}</p>" if links else ""


def _links(book: Book, chapter: Chapter, row: Row, html: str) -> BeautifulSoup:
    """Prose with its links written for the site and its images as files."""
    soup = BeautifulSoup(html, "html.parser")
    for link in soup.find_all("a", href=True):
        link["href"] = book.resolve(chapter, row, str(link["href"]))
    for image in soup.find_all("img"):
        source = str(image.get("src") or "")
        if not str(image.get("alt") or "").strip():
            message = "image without a text alternative: ![what it shows](file)"
            book.report(chapter, row, source, message)
            image["alt"] = ""
        content = _image(book, chapter, row, source)
        if content is not None:
            name = PurePosixPath(unquote(source).removeprefix("attachment:")).name
            stem, _, suffix = name.rpartition(".")
            digest = hashlib.sha256(content).hexdigest()[:10]
            name = f"{stem}-{digest}.{suffix}"
            chapter.files[name] = content
            image["src"] = quote(name)
            width, height = image_size(name, content)
            if width and height and not {"width", "height", "style"} & {*image.attrs}:
                image["width"], image["height"] = str(width), str(height)
        image["loading"] = "lazy"
    return soup


def _image(book: Book, chapter: Chapter, row: Row, source: str) -> bytes | None:
    """Content of an image that lies beside the notebook or is attached to a cell."""
    if source.startswith("attachment:"):
        cell = chapter.notebook["cells"][row.prose_cell]
        try:
            return attachment(cell, source.removeprefix("attachment:"))[1]
        except ValueError as error:
            book.report(chapter, row, source, str(error))
            return None
    path = chapter.folder / unquote(source).partition("?")[0]
    if ":" not in source and not source.startswith("//") and path.is_file():
        return path.read_bytes()
    what = "is on another host" if "//" in source else "is no file"
    message = f"image {source[:60]!r} {what}; put it beside the notebook"
    book.report(chapter, row, source, message)
    return None


def _prose(book: Book, chapter: Chapter, row: Row) -> str:
    if not row.html:
        return ""
    soup = _links(book, chapter, row, row.html)
    _wrap_tables(soup)
    module = book.code[chapter.page]
    link = _linker(book, chapter, " class=lit-ref")
    for code in soup.find_all("code"):
        name = code.get_text().removesuffix("()")
        if code.find_parent(["a", "pre", "summary"]) or not NAME.fullmatch(name):
            continue
        target = book.index.find(module, name)
        if target and target.definition.kind not in ("field", "constant"):
            code.replace_with(BeautifulSoup(link(target, str(code)), "html.parser"))
    return soup.decode_contents().strip()


def _wrap_tables(soup: BeautifulSoup | Tag) -> None:
    maker = BeautifulSoup("", "html.parser")
    for table in soup.find_all("table"):
        table.wrap(maker.new_tag("div", attrs={"class": "lit-table", "tabindex": "0"}))


def _code(book: Book, chapter: Chapter, row: Row) -> str:
    """The pane of a row's code, or nothing."""
    if row.cell is None or not row.lines:
        return ""
    source = code_of(chapter.notebook["cells"][row.cell])
    found = chapter.references.get(row.cell, [])
    spoken = chapter.language
    code = highlight(source, row.lines, found, _linker(book, chapter), spoken)
    if not code:
        return ""
    alone = imports_alone(source, row, spoken)
    return _fold("Imports", pane(code)) if alone else pane(code)


def _fold(summary: str, content: str, kind: str = "lit-fold", anchor: str = "") -> str:
    anchor = f' id="{escape(anchor)}"' if anchor else ""
    summary = f"<summary>{summary}</summary>"
    return f'<details class="{kind}"{anchor}>{summary}{content}</details>'


def _row(filled: Filled, prose: str) -> str:
    """A row: prose left, code and its output right."""
    row, code, output = filled.row, filled.code, filled.output
    names = ["lit-row"]
    right = code + (_out(output) if output else "")
    if "proof" in row.tags and code:
        names.append("lit-proof")
        tick = "<span class=lit-tick role=img aria-label=Holds>✓</span>"
        shown = _out((tick if proved(row) else "") + output) if output else ""
        right = shown + _fold("Code of this proof", code, anchor=row.fold)
    elif "figure" in row.tags and output:
        names.append("lit-figure-row")
        right = _out(output) + _fold("Code of this figure", code)
    elif "idea" in row.tags and code:
        names.append("lit-idea")
        right = f"<p class=lit-label>The idea</p>{right}"
    above, prose, below = _across(prose)
    if not above and not prose and not right:
        return ""
    if not prose and not right:  # a box that stands alone
        above, prose = "", above
    names += [] if right else ["lit-wide"]
    left = f"<div class=lit-doc>{prose}{_mark(row)}</div>" if prose else ""
    right = f"\n<div class=lit-code>{right}</div>" if right else ""
    return f"{above}{_opened(filled, names)}\n{left}{right}\n</div>{below}"


def _opened(filled: Filled, names: list[str]) -> str:
    anchor, kind = escape(filled.row.id), " ".join(names)
    row_tag = f'<div class="{kind}" id="{anchor}" data-hash={filled.row.hash}>'
    return row_tag + filled.aliases


def _mark(row: Row) -> str:
    """The address of a row that has no heading above with its own."""
    if row.heading:
        return ""
    return f'<a class=lit-anchor href="#{escape(row.id)}" aria-label="This row">#</a>'


def _lead(filled: Filled) -> str:
    """Prose that stands beside the definition that follows it."""
    anchor = escape(filled.row.id)
    return f'<div class=lit-lead id="{anchor}">{filled.aliases}{filled.prose}</div>'


def _across(prose: str) -> tuple[str, str, str]:
    """Prose without the boxes that lie across both columns: above, rest, below."""
    if "lit-across" not in prose:
        return "", prose, ""
    soup = BeautifulSoup(prose, "html.parser")
    above, below = "", ""
    for box in soup.find_all("aside", class_="lit-across"):
        first = not any(str(node).strip() for node in box.previous_siblings)
        box.extract()
        above, below = (above + str(box), below) if first else (above, below + str(box))
    return above, soup.decode_contents().strip(), below


def _exercise(unit: list[Filled]) -> str:
    """A task beside its row of folds: hint, stub, check and solution."""
    first = unit[0]
    folds, task = [], ""
    for filled in unit:
        row = filled.row
        kind = next(k for k in ("exercise", "check", "solution") if k in row.tags)
        prose = filled.prose
        if kind == "exercise":
            soup = BeautifulSoup(prose, "html.parser")
            for hint in soup.find_all("details", recursive=False):
                folds.append(str(hint.extract()))
            task, prose = soup.decode_contents().strip(), ""
        content = prose + filled.code
        content += _out(filled.output) if filled.output else ""
        name = "Stub" if kind == "exercise" else kind.capitalize()
        anchor = row.fold if filled is first else row.id
        if filled is not first:
            content = filled.aliases + content
        folds.append(_fold(name, content, f"lit-fold lit-{kind}", anchor))
    left = f"<div class=lit-doc>{task}{_mark(first.row)}</div>\n" if task else ""
    return (
        f"{_opened(first, ['lit-row', 'lit-task'])}\n{left}"
        f"<div class=lit-code><div class=lit-folds>{''.join(folds)}</div></div>\n</div>"
    )


def toc(chapter: Chapter) -> list[tuple[int, str, str]]:
    """Headings of a page: level, text, anchor; methods are left out."""
    return [
        (row.level, plain(inline(row.heading, row.references)), row.anchor)
        for row in chapter.rows
        if row.heading and not (row.announces and "." in row.announces.name)
    ]


def boxes(book: Book, chapter: Chapter, kind: str, url: str) -> list[tuple[str, str]]:
    """The boxes of a chapter, for a page that collects them.

    Args:
        book: the book that the chapter is part of.
        chapter: the chapter.
        kind: `deviation` or `pitfall`.
        url: address of the collecting page, for the links inside.

    Returns:
        For each box the address of its place in the chapter, and its HTML.
    """
    there = book.seen_from(chapter, url)
    found = []
    for row in chapter.rows:
        if not any(name.startswith(f"{kind}-") for name in row.ids):
            continue
        soup = _links(book, there, row, row.html)
        for box in soup.select(f"aside.lit-{kind}"):
            address = f"{book.relative(there, chapter.page)}#{box['id']}"
            found.append((address, box.decode_contents().strip()))
    return found


def _alias(anchor: str) -> str:
    return f'<span class=lit-moved id="{escape(anchor)}"></span>'


def _wrapped(rendered: str) -> tuple[str, str]:
    """What mkdocs-jupyter wraps as the notebook, and what stands around it."""
    start = max(rendered.find('<div class="jupyter-wrapper">'), 0)
    end = rendered.rfind("<!-- jupyter-wrapper -->")
    end = end if end > 0 else len(rendered)
    return rendered[start:end], rendered[:start] + rendered[end:]


def _pieces(rendered: str) -> dict[str, str]:
    """The HTML of each cell's outputs, by cell id."""
    body, _ = _wrapped(rendered)
    found: dict[str, str] = {}
    for cell in BeautifulSoup(body, "html.parser").find_all(id=re.compile("^cell-id=")):
        outputs = [_shown(o) for o in cell.find_all(class_="jp-OutputArea-output")]
        found[str(cell["id"]).removeprefix("cell-id=")] = "\n".join(outputs)
    return found


def _shown(output: Tag) -> str:
    """One output's HTML, its text focusable."""
    for text in output.find_all("pre"):
        text["tabindex"] = "0"
    _wrap_tables(output)
    html = output.decode_contents().strip()
    if not output.get("id"):
        return html
    names = {"jupyter-widgets"} & {*(output.get("class") or ())}  # a script seeks it
    mark = ' class="jupyter-widgets"' if names else ""
    return f'<div id="{escape(str(output["id"]))}"{mark}>{html}</div>'


def _scripts(rendered: str) -> str:
    """What RequireJS and widgets need, where mkdocs-jupyter put it on the page."""
    _, around = _wrapped(rendered)
    found = re.findall(r"<script\b.*?</script>", around, re.DOTALL)
    marks = ("widget-state+json", "addWidgetsRenderer", "/require")
    return "\n".join(one for one in found if any(mark in one for mark in marks))


def _out(html: str) -> str:
    return f"<div class=lit-out>{html}</div>"


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
    return f"<footer class=lit-foot>{escape(text)}</footer>"


def notebook_html(path: str) -> str:
    """HTML of a notebook file, by mkdocs-jupyter's own conversion."""
    from mkdocs_jupyter.convert import nb2html

    return str(nb2html(path, allow_errors=False))


def render_notebook(
    path: str | Path,
    *,
    package: str = "",
    strict: bool = False,
    to_html: Callable[[str], str] = notebook_html,
) -> Chapter:
    """Render one notebook, without MkDocs and without torch.

    Args:
        path: an `.ipynb` or a plain `.py` file.
        package: package whose names are linked, if the notebook is paired with one.
        strict: refuse what `Chapter.problems` names.
        to_html: turns a notebook file into HTML that keeps the cells' ids.

    Returns:
        The chapter: `chapter.html` is the fragment, `chapter.files` its images, and
        `chapter.problems` says what a reader may miss.

    Raises:
        NotebookError: the file is no notebook.
        ValueError: with `strict`, all problems, a line each.
    """
    book = Book(package)
    chapter = book.add(Path(path))
    book.link()
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "outputs.ipynb"
        text = json.dumps(outputs_notebook(chapter))
        part.write_text(text, encoding="utf-8")
        chapter.html = arrange(book, chapter, to_html(str(part)))
    if strict and chapter.problems:
        raise ValueError("\n".join(chapter.problems))
    return chapter


def whole_page(chapter: Chapter) -> str:
    """A rendered notebook as a page of its own, with its style.

    Args:
        chapter: what `render_notebook` returned.
    """
    style = Path(__file__).with_name("rows.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(chapter.title)}</title>\n<style>\n{style}{PLAIN}</style>\n"
        f"{chapter.html}\n</html>\n"
    )


PLAIN = """
:root { color-scheme: light dark; }
body { max-width: 90rem; margin: 0 auto; padding: 1rem 1.5rem; }
body { font: 1rem/1.5 system-ui, sans-serif; }
code, pre { font: 0.875rem/1.5 ui-monospace, monospace; }
"""
