r"""Markdown as Jupyter takes it: one converter for all prose of a page.

Markdown cells, docstrings, comments and Markdown outputs go through `convert`. Beside
CommonMark it knows tables, definition and task lists, bare addresses, and math: `$a$`,
`$$a$$`, `\\(a\\)`, `\\[a\\]` and `\begin{align} a \end{align}` become
`<span class="arithmatex">\(a\)</span>` and `<div class="arithmatex">\[a\]</div>`, for
KaTeX or MathJax. Blockquotes that begin with the bold name of a box become boxes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape
from typing import Any

from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from mdit_py_plugins.deflist import deflist_plugin
from mdit_py_plugins.gfm_autolink import gfm_autolink_plugin
from mdit_py_plugins.tasklists import tasklists_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

# A heading inside one of these is a part of it; anywhere else it starts a section.
CONTAINERS = ("aside", "blockquote", "details", "div", "figure", "pre", "table")
TAG = re.compile(rf"<(/?)({'|'.join(CONTAINERS)})\b", re.IGNORECASE)
DISPLAY = re.compile(
    r"\$\$(.+?)\$\$|\\\\\[(.+?)\\\\\]|(\\begin\{([a-zA-Z]+\*?)\}.+?\\end\{\4\})",
    re.DOTALL,
)
INLINE = re.compile(
    r"\$(?!\$)((?:\\.|[^\\$])+)\$|\\\\\((.+?)\\\\\)",
    re.DOTALL,
)
MONEY = re.compile(r"\d.*\s", re.DOTALL)  # between `$5 and $`
BOX = re.compile(
    r"\s*<p><strong>(?:(deviation|pitfall)s?\b|(what you will find|use it)\b)",
    re.IGNORECASE,
)


@dataclass
class Prose:
    """Converted prose.

    Attributes:
        html: the HTML.
        ids: anchors of its numbered equations and its boxes, in order.
        twice: those of them that had been taken.
    """

    html: str
    ids: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)


def slug(text: str, words: int = 12) -> str:
    """An anchor from a heading: lower case, letters and digits, joined by hyphens."""
    text = re.sub(r"<[^>]+>|\$[^$]*\$", " ", text)
    return "-".join(re.findall(r"\w+", text.lower())[:words])


def free(name: str, taken: set[str]) -> str:
    """Take an anchor: `name`, or `name-2` and so on where it is taken.

    Args:
        name: the anchor wanted.
        taken: the anchors of the page so far; the new one is added.
    """
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}-{count}"
    taken.add(found)
    return found


def plain(html: str) -> str:
    """The text of a piece of HTML, formulas as TeX without their marks."""
    text = BeautifulSoup(html, "html.parser").get_text()
    return " ".join(re.sub(r"\\[()\[\]]", "", text).split())


# --- the converter -------------------------------------------------------------------


def _content(found: re.Match[str]) -> str:
    return next(group for group in found.groups() if group).strip()


def _display(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A formula that begins a line and ends one is a block of its own."""
    if state.is_code_block(start):
        return False
    first = state.src[state.bMarks[start] + state.tShift[start] :][:7]
    if not first.startswith(("$$", "\\\\[", "\\begin{")):
        return False
    text = state.getLines(start, end, state.blkIndent, False).lstrip()
    found = DISPLAY.match(text)
    if found is None or text[found.end() :].partition("\n")[0].strip():
        return False
    if not silent:
        token = state.push("display", "", 0)
        token.block, token.content = True, _content(found)
        state.line = start + found[0].count("\n") + 1
        token.map = [start, state.line]
    return True


def _formula(state: StateInline, silent: bool) -> bool:
    """A formula among words; `$5 and $6` is money."""
    display = DISPLAY.match(state.src, state.pos)
    found = display or INLINE.match(state.src, state.pos)
    if found is None or found[0].count("`") % 2:
        return False
    content = _content(found)
    if not content or (not display and MONEY.fullmatch(found[1] or "")):
        return False
    if not silent:
        token = state.push("display_among_words" if display else "formula", "", 0)
        token.content = content
    state.pos = found.end()
    return True


class _Renderer(RendererHTML):
    """HTML of tokens; `env` holds the page's anchors and those found here."""

    def formula(self, tokens: Sequence[Token], at: int, *_: Any) -> str:
        inside = escape(tokens[at].content, quote=False)
        return rf'<span class="arithmatex">\({inside}\)</span>'

    def display(
        self, tokens: Sequence[Token], at: int, options: Any, env: Any
    ) -> str:
        block = tokens[at].type == "display"
        tag, more = ("div", ' tabindex="0"') if block else ("span", "")
        number = re.search(r"\\tag\*?\{([^}]*)\}", tokens[at].content)
        if number:
            anchor = _anchor(env, "eq-" + (slug(number[1]) or number[1]))
            more += f' id="{escape(anchor)}"'
        inside = escape(tokens[at].content, quote=False)
        end = "\n" if block else ""
        return rf'<{tag} class="arithmatex"{more}>\[{inside}\]</{tag}>{end}'

    display_among_words = display

    def fence(self, tokens: Sequence[Token], at: int, *_: Any) -> str:
        name = (tokens[at].info.split() or [""])[0].strip("{}.")
        if name == "mermaid":
            inside = escape(tokens[at].content, quote=False)
            return f'<pre class="mermaid"><code>{inside}</code></pre>\n'
        try:
            lexer = get_lexer_by_name(name)
        except ClassNotFound:
            inside = escape(tokens[at].content, quote=False)
            return f"<pre><code>{inside}</code></pre>\n"
        return str(highlight(tokens[at].content, lexer, HtmlFormatter()))


def _anchor(env: Any, name: str) -> str:
    if name in env["taken"]:
        env["twice"].append(name)
    anchor = free(name, env["taken"])
    env["ids"].append(anchor)
    return anchor


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": True}, renderer_cls=_Renderer)
    parser.enable(["table", "strikethrough"])
    parser.use(deflist_plugin).use(gfm_autolink_plugin)
    parser.use(tasklists_plugin, label=True)
    ends = ["paragraph", "reference", "blockquote", "list"]
    parser.block.ruler.before("fence", "display", _display, {"alt": ends})
    parser.inline.ruler.before("escape", "formula", _formula)
    return parser


def convert(
    markdown: str,
    taken: set[str] | None = None,
    references: dict[str, Any] | None = None,
) -> Prose:
    """Markdown as HTML.

    Args:
        markdown: the text.
        taken: anchors of the page so far; those of numbered equations and of boxes are
            added.
        references: link definitions, `[name]: address`, that stand elsewhere.
    """
    prose = Prose("")
    env = {"taken": set() if taken is None else taken, "ids": prose.ids}
    env |= {"twice": prose.twice, "references": dict(references or {})}
    prose.html = _boxes(_parser().render(markdown, env), env).strip()
    return prose


def inline(markdown: str, references: dict[str, Any] | None = None) -> str:
    """Markdown of one line, such as a heading, as HTML."""
    env: dict[str, Any] = {"taken": set(), "ids": [], "twice": []}
    env["references"] = dict(references or {})
    return str(_parser().renderInline(markdown, env)).strip()


def _boxes(html: str, env: Any) -> str:
    """Turn blockquotes that begin with the bold name of a box into boxes.

    **Deviation.** and **Pitfall.** stand in the column; **What you will find.** and
    **Use it.** lie across both columns.
    """
    if not BOX.search(html):
        return html
    soup = BeautifulSoup(html, "html.parser")
    for quote in soup.find_all("blockquote"):
        kind = BOX.match(quote.decode_contents())
        if kind is None:
            continue
        quote.name = "aside"
        if kind[2]:
            quote["id"] = _anchor(env, slug(kind[2]))
            quote["class"] = ["lit-box", "lit-across", f"lit-{slug(kind[2])}"]
        else:
            name = kind[1].lower()
            words = quote.get_text().split(maxsplit=1)
            quote["id"] = _anchor(env, f"{name}-{slug(words[-1], 5)}")
            quote["class"] = ["lit-box", f"lit-{name}"]
    return str(soup)


# --- headings ------------------------------------------------------------------------


@dataclass
class Part:
    """A heading, or the prose between headings, of a Markdown cell.

    Attributes:
        text: its Markdown; of a heading, without its marks.
        line: its first line in the cell, counted from 0.
        level: 1 to 6 for a heading, 0 for prose.
    """

    text: str
    line: int
    level: int = 0


def parts(source: str) -> tuple[list[Part], dict[str, Any]]:
    """Cut Markdown at its headings; those inside code, lists or boxes stay.

    Args:
        source: the text of a Markdown cell.

    Returns:
        Headings and prose in order, and the cell's link definitions.
    """
    lines = source.split("\n")
    env: dict[str, Any] = {}
    tokens = _parser().parse(source, env)
    # As in Jupyter, `#Heading` needs no space.
    close = [
        number
        for token in tokens
        if token.type == "paragraph_open" and token.map
        for number in range(*token.map)
        if re.match(r" {0,3}#{1,6}[^#\s]", lines[number])
    ]
    if close:
        for number in close:
            lines[number] = re.sub(r"^ *(#{1,6})(?!#)", r"\1 ", lines[number])
        return parts("\n".join(lines))
    inside = set(_inside(tokens))
    found: list[Part] = []
    start = 0

    def prose(end: int) -> Iterator[Part]:
        held = [n for n in range(start, end) if lines[n].strip()]
        if held:
            yield Part("\n".join(lines[start:end]).strip("\n"), held[0])

    for place, token in enumerate(tokens):
        if token.type != "heading_open" or token.level or not token.map:
            continue
        if token.map[0] in inside or not tokens[place + 1].content.strip():
            continue
        found += prose(token.map[0])
        text = " ".join(tokens[place + 1].content.split("\n"))
        found.append(Part(text, token.map[0], int(token.tag[1])))
        start = token.map[1]
    found += prose(len(lines))
    return found, env.get("references", {})


def _inside(tokens: Sequence[Token]) -> Iterator[int]:
    """Lines that stand inside an HTML element that its cell closes."""
    opened: list[tuple[str, int]] = []
    for token in tokens:
        texts = [token.content] if token.type == "html_block" else []
        texts += [t.content for t in token.children or () if t.type == "html_inline"]
        for found in (tag for text in texts for tag in TAG.finditer(text)):
            name, (first, last) = found[2].lower(), token.map or [0, 0]
            if not found[1]:
                opened.append((name, first))
                continue
            while opened and opened[-1][0] != name:
                opened.pop()
            if opened:
                yield from range(opened.pop()[1], last)
