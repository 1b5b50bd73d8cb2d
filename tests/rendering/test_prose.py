"""Markdown as Jupyter takes it: math, boxes, and where a cell is cut."""

from __future__ import annotations

import pytest
from bs4 import BeautifulSoup

from labml_style.rendering.prose import convert, free, inline, parts, plain


def formulas(markdown: str) -> list[str]:
    soup = BeautifulSoup(convert(markdown).html, "html.parser")
    return [item.get_text() for item in soup.select(".arithmatex")]


@pytest.mark.parametrize(
    ("markdown", "found"),
    [
        ("$a_1 < b$", [r"\(a_1 < b\)"]),
        ("$ a $", [r"\(a\)"]),
        ("A 3$\\times$3 grid", [r"\(\times\)"]),
        ("$$a$$\n$$b$$", [r"\[a\]", r"\[b\]"]),
        ("Words $$a$$ go on.", [r"\[a\]"]),
        ("Words\n$$\na\n- b\n= c\n$$\nmore", ["\\[a\n- b\n= c\\]"]),
        ("$$\na\n\nb\n$$", ["\\[a\n\nb\\]"]),
        ("1. One\n\n   $$\n   a\n   $$", [r"\[a\]"]),
        ("> $$\n> a\n> $$", [r"\[a\]"]),
        (r"So \\(a_1 b_1\\) and" "\n" r"\\[c\\]", [r"\(a_1 b_1\)", r"\[c\]"]),
        (r"\begin{cases}a\end{cases}", [r"\[\begin{cases}a\end{cases}\]"]),
        ("| $a$ |\n|---|\n| $b$ |", [r"\(a\)", r"\(b\)"]),
        ("Costs $5 and $6", []),
        ("Costs $5, see `$x`", []),
        ("`$x$`", []),
        ("    $$x$$", []),
        ("```\n$$x$$\n```", []),
        (r"Put \$HOME and \$PATH", []),
        (r"$\text{\$} < 1$", [r"\(\text{\$} < 1\)"]),
        ("$$", []),
        ("a $$ b", []),
    ],
)
def test_formulas(markdown: str, found: list[str]) -> None:
    assert formulas(markdown) == found


def test_a_display_takes_the_focus_and_its_number_is_an_anchor() -> None:
    prose = convert("$$\ny = 1 \\tag{2}\n$$\n\n```\n\\tag{3}\n```")
    assert prose.ids == ["eq-2"]
    assert prose.html.startswith(
        '<div class="arithmatex" tabindex="0" id="eq-2">\\[y = 1 \\tag{2}\\]</div>'
    )


def test_anchors_that_are_taken_get_a_number_and_are_told() -> None:
    prose = convert("$$a \\tag{1}$$\n\n$$b \\tag{1}$$", taken := {"eq-1"})
    assert prose.ids == ["eq-1-2", "eq-1-3"]
    assert prose.twice == ["eq-1", "eq-1"]
    assert free("eq-1", taken) == "eq-1-4"


def headings(markdown: str) -> list[tuple[int, str]]:
    return [(part.level, part.text) for part in parts(markdown)[0] if part.level]


@pytest.mark.parametrize(
    ("markdown", "found"),
    [
        ("# A\ntext\n## B ##", [(1, "A"), (2, "B")]),
        ("A\n===\n\nB\n---", [(1, "A"), (2, "B")]),
        ("#A\ntext\n##B", [(1, "A"), (2, "B")]),
        ("text\n\n    # code", []),
        ("~~~\n# code\n~~~", []),
        ("- item\n  # in a list", []),
        ("> # in a quote", []),
        ("<div>\n\n# inside\n\n</div>\n\n# after", [(1, "after")]),
        ("<div>\n\n# of a div that stays open", [(1, "of a div that stays open")]),
        ("<details>\n<div>\n\n# a\n\n</details>\n\n# b", [(1, "b")]),
        ("<!--\n# hidden\n-->", []),
        ("# ", []),
    ],
)
def test_headings(markdown: str, found: list[tuple[int, str]]) -> None:
    assert headings(markdown) == found


def test_nothing_is_lost_between_headings() -> None:
    text = "before\n\n# A\n\nafter [b]\n\nC\n---\n[b]: http://x.org\n\nlast"
    found, references = parts(text)
    assert [part.text for part in found] == [
        *("before", "A", "after [b]", "C", "[b]: http://x.org\n\nlast")
    ]
    assert [part.line for part in found] == [0, 2, 4, 6, 8]
    assert 'href="http://x.org"' in convert("after [b]", None, references).html


def test_a_heading_is_one_line_of_markdown() -> None:
    html = inline("Why `a_b` *so* $x_1$?")
    assert html == (
        "Why <code>a_b</code> <em>so</em> "
        '<span class="arithmatex">\\(x_1\\)</span>?'
    )
    assert plain(html) == "Why a_b so x_1?"


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("- [x] done", 'type="checkbox"'),
        ("~~gone~~", "<s>gone</s>"),
        ("See https://example.org/a.", 'href="https://example.org/a"'),
        ("Term\n: what it means", "<dd>what it means</dd>"),
        ("```python\nx = 1\n```", '<div class="highlight">'),
        ("```nonsense\nx = 1\n```", "<pre><code>x = 1\n</code></pre>"),
        ("<b>bold</b> & <i>more", "<b>bold</b> &amp; <i>more"),
    ],
)
def test_what_jupyter_knows(markdown: str, html: str) -> None:
    assert html in convert(markdown).html
