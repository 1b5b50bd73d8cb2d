"""Pages: a foreign notebook against golden output, math, boxes, figures, links."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

from labml_style.figures.palette import LIGHT_TO_DARK
from labml_style.rendering import Chapter, NotebookError, render_notebook
from labml_style.rendering.html import convert_math, figure, highlight, wrapped

FIXTURES = Path(__file__).parent / "fixtures"


def render(tmp_path: Path, *cells: dict[str, Any]) -> Chapter:
    for number, cell in enumerate(cells):
        cell.setdefault("metadata", {})
        cell["id"] = f"c{number}"
        if cell["cell_type"] == "code":
            cell.setdefault("outputs", [])
            cell.setdefault("execution_count", None)
    path = tmp_path / "x.ipynb"
    kernel = {"kernelspec": {"name": "p", "display_name": "p", "language": "python"}}
    content = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(content))
    return render_notebook(path)


def markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "source": text}


def test_golden() -> None:
    """Rendering a foreign notebook gives, byte for byte, what was reviewed.

    After a wanted change, LABML_STYLE_GOLDEN=1 writes it anew.
    """
    golden = FIXTURES / "stone.html"
    html = render_notebook(FIXTURES / "stone.ipynb").html + "\n"
    if os.environ.get("LABML_STYLE_GOLDEN"):
        golden.write_text(html)
    assert html == golden.read_text()


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from labml_style.rendering import render_notebook
html = render_notebook(sys.argv[1]).html
loaded = [m for m in sys.modules if m.startswith("labml_style.")]
print(len(html) > 1000, sorted({m.split(".")[1] for m in loaded}))
"""


def test_renders_without_torch_and_without_any_chapter() -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(FIXTURES / "stone.ipynb")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True ['figures', 'rendering']"


def test_math_is_wrapped_and_code_is_left_alone() -> None:
    html = (
        "<p>Costs $5 and $6, but <code>$x$</code> and $a_1 &lt; b$.</p>"
        "<p>$$\ny = 1 \\tag{2}\n$$</p>"
    )
    soup = BeautifulSoup(html, "html.parser")
    convert_math(soup)
    assert [s.get_text() for s in soup.select("span.arithmatex")] == [r"\(a_1 < b\)"]
    display = soup.select_one("div.arithmatex")
    assert display is not None
    assert display["id"] == "eq-2"
    assert display.get_text() == "\\[y = 1 \\tag{2}\\]"
    assert "<code>$x$</code>" in str(soup)
    assert "Costs $5 and $6" in str(soup)


def test_a_fragment_keeps_the_colours_of_its_whole_cell() -> None:
    source = 's = """\nif x:\n"""\nif y:\n    pass'
    assert highlight(source, [1]) == "<i>if x:</i>"
    assert highlight(source, [3]).startswith("<b>if</b>")


def test_boxes_and_their_anchors(tmp_path: Path) -> None:
    page = render(tmp_path, markdown("# T\n\n> **Pitfall.** Rows drift apart."))
    box = BeautifulSoup(page.html, "html.parser").select_one("aside.lit-pitfall")
    assert box is not None
    assert box["id"] == "pitfall-rows-drift-apart"
    assert "pitfall-rows-drift-apart" in page.anchors


SVG = (
    '<svg width="72pt" height="36pt" viewBox="0 0 72 36"><g id="patch_1">'
    '<path d="M 0 0" style="fill: #ffffff"/></g>'
    '<path style="fill: #0b63a5"/><g style="fill: #ffffff">text</g></svg>'
)


def test_a_figure_becomes_two_files() -> None:
    files: dict[str, bytes] = {}
    about = {"image/svg+xml": {"alt": 'A "bar"', "caption": "One < two"}}
    html = figure({"data": {"image/svg+xml": SVG}, "metadata": about}, "x", files)
    assert html is not None
    assert "data:" not in html
    soup = BeautifulSoup(html, "html.parser")
    light, dark = soup.find_all("img")
    assert (light["width"], light["height"]) == ("96", "48")
    assert light["alt"] == 'A "bar"'
    assert light["loading"] == "lazy"
    drawn = {
        mode: files[str(i["src"])].decode()
        for mode, i in zip("ld", (light, dark), strict=True)
    }
    assert "fill: none" in drawn["l"]
    assert "#0b63a5" in drawn["l"]
    assert LIGHT_TO_DARK["#0b63a5"] in drawn["d"]
    assert "#0b63a5" not in drawn["d"]
    assert soup.figcaption is not None
    assert soup.figcaption.get_text() == "One < two"


def test_a_png_is_shown_at_half_its_pixels() -> None:
    head = (
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
        + (200).to_bytes(4, "big")
        + (100).to_bytes(4, "big")
    )
    data = {"image/png": base64.b64encode(head).decode()}
    html = figure({"data": data, "metadata": {"image/png": {"alt": "a"}}}, "x", {})
    assert html is not None
    assert 'width="100" height="50"' in html


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# T\n\nSee [x](gone.ipynb).", "x.ipynb, cell 1, line 3: link to nowhere"),
        ("# T\n\n[x](#no)", "x.ipynb, cell 1, line 3: link to nowhere"),
        ("# T\n\n![](a.png)", "x.ipynb, cell 1, line 3: image without a text alt"),
    ],
)
def test_refusals_name_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(NotebookError) as error:
        render(tmp_path, markdown(text))
    assert message in str(error.value)


def test_no_column_is_empty_where_an_idea_is_introduced(tmp_path: Path) -> None:
    source = 'class A:\n    """A."""\n    def m(self, x: int) -> int:\n        """M."""'
    page = render(
        tmp_path,
        markdown("# T\n\nIdea."),
        {"cell_type": "code", "source": source},
        markdown("Alone."),
    )
    soup = BeautifulSoup(page.html, "html.parser")
    card = soup.select_one(".lit-row .lit-card")
    assert card is not None
    assert card.get_text() == "class A()\n    m(x: int) -> int"
    for row in soup.select(".lit-row"):
        wide = "lit-wide" in row["class"]
        assert wide == (row.select_one(".lit-code") is None)


def test_a_solution_is_folded(tmp_path: Path) -> None:
    tags = {"tags": ["solution", "skip-execution", "active-ipynb"]}
    page = render(
        tmp_path,
        markdown("# T"),
        {"cell_type": "code", "source": "a = 1", "metadata": tags},
        {"cell_type": "code", "source": "b = 1"},
    )
    soup = BeautifulSoup(page.html, "html.parser")
    inside = soup.select("details.lit-solution .lit-row")
    assert [r.get_text(" ", strip=True) for r in inside] == ["a = 1"]


def test_long_signatures_are_wrapped() -> None:
    text = "f(alpha: dict[str, int], beta: tuple[int, int] = (1, 2), gamma: str = 'x')"
    assert wrapped(text).split("\n") == [
        "f(",
        "    alpha: dict[str, int],",
        "    beta: tuple[int, int] = (1, 2),",
        "    gamma: str = 'x',",
        ")",
    ]
