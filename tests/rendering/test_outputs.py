"""Images and code of any notebook: as files that are seen, by their own lexer."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from bs4 import BeautifulSoup, Tag

from labml_style.figures import to_png
from labml_style.rendering.html import attachment, figure, highlight
from labml_style.rendering.languages import cell_language
from labml_style.rendering.prose import convert
from labml_style.rendering.rows import (
    _code_rows,
    fragments,
    imports_alone,
    parse,
    split,
)

XMLNS = 'xmlns="http://www.w3.org/2000/svg"'
# How matplotlib draws by itself: black on a white ground.
PLAIN = (
    f'<?xml version="1.0"?>\n<svg {XMLNS} width="216pt" height="144pt">'
    '<g id="figure_1">\n<g id="patch_1">\n<path d="M 0 0" style="fill: #ffffff"/></g>'
    '</g><path style="stroke: #000000"/><path style="stroke: #1f77b4"/></svg>'
)
HOUSE = f'<svg {XMLNS} width="72pt" height="36pt"><path style="fill: #0b63a5"/></svg>'


def png(width: int, height: int, more: bytes = b"") -> str:
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height)
    return base64.b64encode(head + more).decode()


def shown(
    kind: str, data: Any, *, files: dict[str, bytes] | None = None, **about: Any
) -> list[Tag]:
    """The images that an output becomes."""
    output = {"data": {kind: data}, "metadata": {kind: {"alt": "a dot"} | about}}
    html = figure(output, "x", {} if files is None else files)
    assert html is not None
    return BeautifulSoup(html, "html.parser").find_all("img")


def sizes(image: Tag) -> tuple[Any, Any]:
    return image.get("width"), image.get("height")


# --- images --------------------------------------------------------------------------


def test_a_png_has_its_own_size_unless_the_notebook_tells_another() -> None:
    data = png(400, 200)
    (image,) = shown("image/png", data)
    assert sizes(image) == ("400", "200")
    (image,) = shown("image/png", data, width=300, height=150)
    assert sizes(image) == ("300", "150")
    (image,) = shown("image/png", data, width=300)
    assert sizes(image) == ("300", None), "the browser keeps the shape"
    (image,) = shown("image/png", data, width="wide", height=None)
    assert sizes(image) == ("400", "200")
    (image,) = shown("image/png", "AAAA")
    assert sizes(image) == (None, None)


def test_only_a_published_figure_has_double_resolution() -> None:
    from matplotlib.figure import Figure

    data = base64.b64encode(to_png(Figure((2, 1)))).decode()
    (image,) = shown("image/png", data, caption="Two by one inches.")
    assert sizes(image) == ("200", "100")
    (image,) = shown("image/png", data)
    assert sizes(image) == ("400", "200")
    (image,) = shown("image/png", png(400, 200), caption="Of others.")
    assert sizes(image) == ("400", "200")


def test_the_size_of_a_whole_output_counts_too() -> None:
    output = {"data": {"image/png": png(4, 4)}, "metadata": {"width": 2, "height": 2}}
    assert 'width="2" height="2"' in str(figure(output, "x", {}))


@pytest.mark.parametrize(
    ("kind", "end"),
    [("image/jpeg", ".jpg"), ("image/gif", ".gif"), ("image/webp", ".webp")],
)
def test_photographs_become_files(kind: str, end: str) -> None:
    files: dict[str, bytes] = {}
    (image,) = shown(kind, ["/9j/4AAQ\n", "SkZJRg==\n"], files=files)
    assert files == {str(image["src"]): base64.b64decode("/9j/4AAQSkZJRg==")}
    assert str(image["src"]).endswith(end)
    assert image["alt"] == "a dot"


def test_an_image_without_words_has_an_empty_alternative() -> None:
    (image,) = shown("image/png", png(4, 4), alt=None)
    assert image["alt"] == ""


def test_a_drawing_of_others_keeps_its_colours_and_its_ground() -> None:
    files: dict[str, bytes] = {}
    (image,) = shown("image/svg+xml", PLAIN, files=files, alt="a line", caption="c")
    (drawn,) = files.values()
    for colour in (b"#ffffff", b"#000000", b"#1f77b4"):
        assert colour in drawn
    assert drawn.startswith(b"<svg")
    assert image["style"] == "background:#fff", "readable where the ground is clear"
    assert image.get("class") is None


def test_of_two_twins_one_is_seen_without_a_style_sheet() -> None:
    light, dark = shown("image/svg+xml", HOUSE)
    assert (light.has_attr("hidden"), dark.has_attr("hidden")) == (False, True)
    assert light["style"] == "background:#fff"
    (image,) = shown("image/svg+xml", f"<svg {XMLNS}><circle r='15'/></svg>")
    assert not image.has_attr("hidden"), "without colours there is no twin"


def test_a_drawing_gets_the_names_that_a_file_needs() -> None:
    files: dict[str, bytes] = {}
    shown("image/svg+xml", "<svg width='4'><use xlink:href='#a'/></svg>", files=files)
    (drawn,) = files.values()
    assert XMLNS.encode() in drawn
    assert b'xmlns:xlink="http://www.w3.org/1999/xlink"' in drawn
    before = dict(files)
    shown("image/svg+xml", drawn.decode(), files=files)
    assert set(files.values()) == set(before.values()), "what it has stays"


@pytest.mark.parametrize(
    ("opening", "size"),
    [
        ("width='1in' height='2.54cm'", ("96", "96")),
        ("width='25.4mm' height = '6pc'", ("96", "96")),
        ("width='2em' height='2ex'", ("32", "16")),
        ("width='100%' height='auto' viewBox='0,0 30,20.4'", ("30", "20")),
        ("viewBox='-1 -1 1e2 50'", ("100", "50")),
        ("viewBox='none at all'", (None, None)),
        ("width='1.2.3' height='0'", (None, None)),
        ("", (None, None)),
    ],
)
def test_sizes_of_drawings_in_any_unit(opening: str, size: tuple[Any, Any]) -> None:
    (image,) = shown("image/svg+xml", f"<svg {XMLNS} {opening}/>")
    assert sizes(image) == size


@pytest.mark.parametrize(
    "data",
    [
        {"image/svg+xml": "<svg><b>not closed</svg>"},
        {"image/svg+xml": "<svg>&nbsp;</svg>"},
        {"image/png": "A"},
        {"image/png": png(4, 4), "text/html": "<b>shown first</b>"},
        {"image/png": png(4, 4), "application/javascript": "draw()"},
        {"text/plain": "4"},
    ],
)
def test_what_cannot_be_a_file_is_left_to_jupyter(data: dict[str, str]) -> None:
    files: dict[str, bytes] = {}
    assert figure({"data": data, "metadata": {}}, "x", files) is None
    assert not files


def test_an_attachment_is_an_image_with_its_kind() -> None:
    cell = {"attachments": {"my dot.png": {"image/png": ["iVBO\n", "Rw0K"]}}}
    assert attachment(cell, "my%20dot.png") == ("image/png", b"\x89PNG\r\n")
    with pytest.raises(ValueError, match="'gone.png' is no image .* holds my dot.png"):
        attachment(cell, "gone.png")
    with pytest.raises(ValueError, match="holds none"):
        attachment({}, "gone.png")
    with pytest.raises(ValueError, match="'a' is no image"):
        attachment({"attachments": {"a": {"image/png": "A"}}}, "a")


def test_an_output_outlives_its_source() -> None:
    stream = {"output_type": "stream", "name": "stdout", "text": "kept\n"}
    (row,) = _code_rows({"source": "", "outputs": [stream]}, 0, 1)
    assert row.outputs == [stream]
    assert row.lines in ([], [0])


# --- code ----------------------------------------------------------------------------


def test_another_language_has_its_own_lexer() -> None:
    source = "B = A' * A\nend_ = 'x'"
    assert "<i>" in highlight(source).partition("\n")[0], "in Python it opens a string"
    julia = highlight(source, language="julia").split("\n")
    assert julia == ["B = A' * A", "end_ = <i>'x'</i>"]
    assert highlight("let x = 'a", language="no such thing") == "let x = 'a"


@pytest.mark.parametrize(
    ("first", "language"),
    [
        ("x = 1", "python"),
        ("%%time", "python"),
        ("%%capture --no-stderr out", "python"),
        ("%%no_such_magic", "python"),
        ("%%bash", "bash"),
        ("%%HTML", "html"),
        ("%%!", "bash"),
        ("%%script perl", "perl"),
        ("%%script --bg /bin/bash", "bash"),
        ("%%python3", "python3"),
        ("%%cython -a", "cython"),
        ("%%writefile a/b.yml", "yaml"),
        ("%%writefile -a b.py", "python3"),
        ("%%writefile notes", "text"),
        ("%%writefile", "text"),
        ("%%svg", "xml"),
    ],
)
def test_a_cell_magic_names_the_language(first: str, language: str) -> None:
    assert cell_language(f"{first}\nx") == language
    assert cell_language(f"{first}\nx", "julia") == "julia"


def test_only_python_is_read_as_python() -> None:
    source = "# Words.\nx = 1\n# More.\ny = 2"
    assert len(fragments(source)) == 2
    (piece,) = fragments(source, language="julia")
    assert (piece.prose, piece.lines) == ("", [0, 1, 2, 3])
    assert parse(source, "julia") is None
    assert parse(f"%%writefile a.py\n{source}") is None
    assert parse(f"%%time\n{source}") is not None
    imports = "\n".join(f"import a{number}" for number in range(7))
    cell = {"source": imports, "outputs": []}
    for language in ("python", "julia"):
        (row,) = _code_rows(cell, 0, 1, language)
        assert imports_alone(imports, row, language) == (language == "python")


def test_a_shell_cell_is_one_row_of_all_its_lines() -> None:
    cell = {"cell_type": "code", "source": "%%bash\n# list them\nls", "outputs": []}
    (row,) = split({"cells": [cell]})
    assert (row.prose, row.lines) == ("", [0, 1, 2])
    assert highlight("%%bash\n# list them\nls") == (
        "%%bash\n<span class=c># list them</span>\nls"
    )


@pytest.mark.parametrize(
    "magic",
    [
        "!pip install a \\\n    b",
        "%pip install a",
        "  %matplotlib inline",
        "files = !ls -l",
        "a, b = !ls",
        "best = %timeit -o f()",
        "f?",
        "f.x??",
        "?f",
    ],
)
def test_code_beside_magics_is_still_read(magic: str) -> None:
    source = f"if True:\n    x = 1\n{magic}\n# Then.\ny = x"
    if magic.startswith(" "):
        source = f"if True:\n  {magic}\n# Then.\ny = x"
    first, second = fragments(source)
    assert second.prose == "Then."
    count = source.count("\n") + 1
    assert [*first.lines, *second.lines] == [*range(count - 2), count - 1]


# --- an anchor in code ---------------------------------------------------------------


def test_a_tag_in_code_is_no_equation() -> None:
    source = "Write `\\tag{7}`:\n\n```tex\nx \\tag{7}\n```\n\n$$x \\tag{7}$$"
    assert convert(source).ids == ["eq-7"]
    assert convert("~~~\n\\tag{1}\n~~~").ids == []
