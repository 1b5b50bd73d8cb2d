"""A page in fewer bytes is the same page."""

from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from labml_style.rendering.slim import slim

FIXTURE = Path(__file__).parent / "fixtures/stone.html"


def test_the_same_elements_attributes_and_text() -> None:
    page = FIXTURE.read_text(encoding="utf-8")
    small = slim(page)
    assert len(small) < len(page)
    before, after = (BeautifulSoup(text, "html.parser") for text in (page, small))
    for one, other in zip(before.find_all(True), after.find_all(True), strict=True):
        assert (one.name, one.attrs) == (other.name, other.attrs)
        if one.name == "pre":
            assert one.get_text() == other.get_text()
        words = ("".join(tag.get_text().split()) for tag in (one, other))
        assert next(words) == next(words)
    assert slim(small) == small


@pytest.mark.parametrize(
    ("html", "small"),
    [
        ('<p class="a b" id="c">x</p>', '<p class="a b" id=c>x</p>'),
        ('<a href="../x/">x</a>', '<a href="../x/">x</a>'),
        ('<a title="" href="#x-y">x</a>', '<a title="" href=#x-y>x</a>'),
        ('<a href="?a=b" download>x</a>', '<a href="?a=b" download>x</a>'),
        ("<a title='say \"x\"'>x</a>", "<a title='say \"x\"'>x</a>"),
        ('<a title="a -&gt; &#x27;b&#x27;">', "<a title=\"a -> 'b'\">"),
        ('<a title="&quot;&lt; &amp;">', '<a title="&quot;&lt; &amp;">'),
        ('<img alt="a > b"\n  src="x.png" />', '<img alt="a > b" src=x.png>'),
        ('<rect width="4" height="2"/>', "<rect width=4 height=2 />"),
        ('<path d="M0 0"/><g/>', '<path d="M0 0"/><g />'),
    ],
)
def test_tags(html: str, small: str) -> None:
    assert slim(html) == small


@pytest.mark.parametrize(
    ("html", "small"),
    [
        ("<div>\n  <p>a\n   b</p>\n</div>\n", "<div><p>a\nb</p></div>"),
        ("a  <b>b</b> \n <i>c</i>", "a <b>b</b>\n<i>c</i>"),
        ("<p>a</p> <!-- b --> <p>c</p>", "<p>a</p><p>c</p>"),
        ("<p>a <!-- b --> c</p>", "<p>a  c</p>"),
        ("<p>a\xa0 \xa0</p>", "<p>a\xa0 \xa0</p>"),
        ("<p> <pre>\n  a &gt; b\n\n</pre> </p>", "<p><pre>\n  a > b\n\n</pre></p>"),
    ],
)
def test_white_space(html: str, small: str) -> None:
    assert slim(html) == small


@pytest.mark.parametrize(
    ("html", "small"),
    [
        ("a -&gt; &#x27;b&#x27; &amp; c", "a -> 'b' & c"),
        ("a &amp;= b &amp;lt; c", "a &= b &amp;lt; c"),
        ("a &amp;<!-- -->lt; &lt;b", "a &amp;lt; &lt;b"),
    ],
)
def test_escapes(html: str, small: str) -> None:
    assert slim(html) == small


@pytest.mark.parametrize("name", ["script", "style", "textarea"])
def test_what_is_not_html_is_left_alone(name: str) -> None:
    raw = f'<{name} id="a">\n  if (a  &amp;&amp; "<p >")  // b\n</{name}>'
    assert slim(f"<p> {raw}") == f"<p>{raw}"
