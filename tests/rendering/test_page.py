"""Pages: a foreign notebook against golden output, math, boxes, figures, links."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup, Tag

from labml_style.figures.palette import LIGHT_TO_DARK
from labml_style.rendering import Chapter, NotebookError, render_notebook
from labml_style.rendering.html import _lexed, figure, highlight

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
    return render_notebook(path, strict=True)


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
    '<svg width="72pt" height="36pt" viewBox="0 0 72 36"><g id="figure_1">\n'
    '<g id="patch_1">\n<path d="M 0 0" style="fill: #ffffff"/></g></g>'
    '<g id="patch_3"><path d="M 1 1" style="fill: #ffffff"/></g>'
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
    assert drawn["l"].count("fill: none") == 1, "the ground alone is made transparent"
    assert "#0b63a5" in drawn["l"]
    assert LIGHT_TO_DARK["#0b63a5"] in drawn["d"]
    assert "#0b63a5" not in drawn["d"]
    assert soup.figcaption is not None
    assert soup.figcaption.get_text() == "One < two"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# T\n\nSee [x](gone.ipynb).", "x.ipynb, cell 1, line 3: link to nowhere"),
        ("# T\n\n[x](#no)", "x.ipynb, cell 1, line 3: link to nowhere"),
        ("# T\n\n![](a.png)", "x.ipynb, cell 1, line 3: image without a text alt"),
        ("# T\n\nOne\n[a](b.md)", "x.ipynb, cell 1, line 4: link to nowhere"),
    ],
)
def test_refusals_name_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        render(tmp_path, markdown(text))
    assert message in str(error.value)


def code(source: str, *tags: str, printed: str = "") -> dict[str, Any]:
    outputs = [{"output_type": "stream", "name": "stdout", "text": printed}]
    metadata = {"tags": list(tags)}
    cell = {"cell_type": "code", "source": source, "metadata": metadata}
    return cell | {"outputs": outputs if printed else []}


def parsed(tmp_path: Path, *cells: dict[str, Any]) -> BeautifulSoup:
    return BeautifulSoup(render(tmp_path, *cells).html, "html.parser")


def one(soup: BeautifulSoup | Tag, selector: str) -> Tag:
    (found,) = soup.select(selector)
    return found


def test_prose_stands_beside_the_definition_it_introduces(tmp_path: Path) -> None:
    source = (
        'class A:\n    """Words."""\n    def m(self, x: int) -> int:\n        """M."""'
    )
    soup = parsed(tmp_path, markdown("# T\n\nIdea."), code(source), markdown("Alone."))
    row = one(soup, "#A--row")
    assert one(row, ".lit-doc").get_text().split() == ["Idea.", "Words."]
    assert one(row, ".lit-lead")["id"] == "idea"
    assert row.select_one(".lit-code") is not None
    heading = row.find_previous_sibling()
    assert isinstance(heading, Tag) and heading["id"] == "A"
    assert soup.get_text().count("class A") == 2, "the heading and the code, no card"
    for row in soup.select(".lit-row"):
        wide = "lit-wide" in row["class"]
        assert wide == (row.select_one(".lit-code") is None)


def test_a_method_is_named_after_its_class_and_breaks_between_words(
    tmp_path: Path,
) -> None:
    source = 'class TallStone:\n    """S."""\n    def fall_far(self):\n        """M."""'
    soup = parsed(tmp_path, markdown("# T"), code(source))
    method = soup.find(id="TallStone.fall_far")
    assert isinstance(method, Tag)
    assert "lit-def-method" in method["class"]
    assert one(method, ".lit-owner").get_text() == "TallStone."
    assert "fall_<wbr/>far" in str(method) and "Tall<wbr/>Stone" in str(method)
    assert "lit-def-class" in one(soup, "#TallStone")["class"]


def test_the_idea_is_one_open_block_with_a_label(tmp_path: Path) -> None:
    source = 'def f():\n    """Words."""\n\n\n# Then.\nf()'
    cell = code(source, "active-ipynb", "idea")
    soup = parsed(tmp_path, markdown("# T\n\nWhy."), cell, code("f()"))
    row = one(soup, ".lit-idea")
    assert one(row, ".lit-doc").get_text().strip() == "Why."
    assert one(row, "pre").get_text() == source, "all of it, comments included"
    assert one(soup, ".lit-label").find_parent(class_="lit-idea") is row
    assert not soup.select("details")


def test_a_proof_shows_claim_tick_and_line_and_folds_its_code(tmp_path: Path) -> None:
    cell = code(
        "# Why.\nassert 1 < 2\nprint(1)", "active-ipynb", "proof", printed="1\n"
    )
    page = render(tmp_path, markdown("# T\n\n## H\n\nOne is less."), cell)
    row = one(BeautifulSoup(page.html, "html.parser"), ".lit-proof")
    assert one(row, ".lit-doc").get_text().strip() == "One is less."
    fold = one(row, "details")
    assert not fold.has_attr("open")
    assert "assert 1 < 2" in fold.get_text() and "# Why." in fold.get_text()
    assert one(row, ".lit-tick").find_parent("details") is None
    printed = row.find("pre")
    assert isinstance(printed, Tag)
    assert printed.get_text().strip() == "1" and printed.find_parent("details") is None
    assert page.unproved == []


FAILED = {"output_type": "error", "ename": "E", "evalue": "", "traceback": ["E"]}
WARNED = {"output_type": "stream", "name": "stderr", "text": "a warning"}
PRINTED = {"output_type": "stream", "name": "stdout", "text": "1\n"}


@pytest.mark.parametrize(
    "outputs",
    [[], [WARNED], [PRINTED, FAILED], [PRINTED | {"text": " \n"}]],
    ids=["nothing", "a warning", "an error", "white space"],
)
def test_what_is_not_proved_has_no_tick(
    tmp_path: Path, outputs: list[dict[str, Any]]
) -> None:
    cell = code("1 / 0", "proof", "raises-exception") | {"outputs": outputs}
    page = render(tmp_path, markdown("# T\n\nTrue."), cell)
    assert "lit-tick" not in page.html and "✓" not in page.html
    assert page.unproved == [
        f"{page.path}, cell 2: a proof that failed or printed nothing"
    ]


def test_a_proof_needs_a_claim(tmp_path: Path) -> None:
    page = render(tmp_path, markdown("# T"), code("print(1)", "proof", printed="1"))
    (message,) = page.unproved
    assert message.endswith("cell 2: a proof without the claim in Markdown before it")


HINT = "<details><summary>Hint</summary>\n\nThink of $x$.\n\n</details>"


def test_an_exercise_is_a_task_and_a_row_of_folds(tmp_path: Path) -> None:
    page = render(
        tmp_path,
        markdown(f"# T\n\nText.\n\n## One\n\nAdd.\n\n{HINT}"),
        code("def f(): raise NotImplementedError", "exercise"),
        code("f()", "check", printed="not solved yet\n"),
        markdown("It adds."),
        code("def f(): return 1", "solution"),
        markdown("## Two\n\nAgain."),
        code("def g(): raise NotImplementedError", "exercise"),
    )
    soup = BeautifulSoup(page.html, "html.parser")
    first, second = soup.select(".lit-task")
    assert one(first, ".lit-doc").get_text().strip() == "Add."
    folds = first.select(".lit-folds > details")
    assert [f.summary and f.summary.get_text() for f in folds] == [
        *("Hint", "Stub", "Check", "Solution")
    ]
    assert not any(f.has_attr("open") for f in folds)
    assert "not solved yet" in folds[2].get_text()
    assert "It adds." in folds[3].get_text()
    assert len(second.select("details")) == 1
    for anchor in page.anchors:
        assert soup.find(id=anchor) is not None, anchor


def test_a_solution_is_folded(tmp_path: Path) -> None:
    cells = [code("a = 1", "solution", "skip-execution"), code("b = 1")]
    soup = parsed(tmp_path, markdown("# T"), *cells)
    inside = soup.select("details.lit-solution pre")
    assert [pre.get_text() for pre in inside] == ["a = 1"]


FIND = "> **What you will find.**\n>\n> - One.\n> - [Two](#t)."
USE = (
    "> **Use it.** So:\n>\n> - a list\n>\n> ```console\n> $ pip install x\n> # y\n> ```"
)


def test_boxes_lie_across_both_columns(tmp_path: Path) -> None:
    text = f"# T\n\n{FIND}\n\nPromise.\n\n{USE}"
    page = render(tmp_path, markdown(text), code("1"))
    soup = BeautifulSoup(page.html, "html.parser")
    above, row, below = soup.select("h1 ~ *")[:3]
    assert above["id"] == "what-you-will-find" and below["id"] == "use-it"
    assert {"lit-box", "lit-across"} <= set(above["class"]) & set(below["class"])
    assert len(above.select("li")) == 2
    assert one(row, ".lit-doc").get_text().strip() == "Promise."
    assert {"what-you-will-find", "use-it"} <= set(page.anchors)
    assert one(below, "pre").get_text() == "$ pip install x\n# y\n"
    assert one(below, "ul").get_text().strip() == "a list"
    alone = one(parsed(tmp_path, markdown(f"# T\n\n{FIND}")), ".lit-row")
    assert "lit-wide" in alone["class"] and one(alone, "aside.lit-across")


def test_a_box_and_a_heading_do_not_share_an_anchor(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'use-it' stands twice"):
        render(tmp_path, markdown(f"# T\n\n## Use it\n\n{USE}"))


def test_style_in_an_output_does_not_cut_the_page(tmp_path: Path) -> None:
    data = {"text/html": "<style>.a{}</style><b>bold</b>"}
    output = {"output_type": "display_data", "data": data, "metadata": {}}
    page = render(
        tmp_path,
        markdown("# T"),
        {"cell_type": "code", "source": "a", "outputs": [output]},
        markdown("## Next\n\nStill here."),
    )
    assert "<b>bold</b>" in page.html
    assert "Still here." in page.html


def test_an_output_that_was_not_rendered_is_noticed(tmp_path: Path) -> None:
    page = render(tmp_path, markdown("# T"), code("1", printed="1"))
    with pytest.raises(NotebookError, match="cell 2, line 1: its output was not"):
        render_notebook(page.source, to_html=lambda _: "")


def test_all_problems_of_a_notebook_are_told_at_once(tmp_path: Path) -> None:
    text = "# T\n\n[x](gone.ipynb) ![](a.png)\n\n## T"
    with pytest.raises(ValueError) as error:
        render(tmp_path, markdown(text), code("'"), code("1"))
    found = str(error.value).split("\n")
    assert [line.partition(": ")[2].split()[0] for line in found] == [
        *("heading", "link", "image", "image")
    ]


def test_escaped_dollars_are_no_math(tmp_path: Path) -> None:
    text = "# T\n\n" + r"Put \$HOME/bin:\$PATH, `\$x`, $\text{\$} < 1$."
    soup = BeautifulSoup(render(tmp_path, markdown(text)).html, "html.parser")
    assert "$HOME/bin:$PATH" in soup.get_text()
    assert soup.code is not None
    assert soup.code.get_text() == r"\$x"
    found = [m.get_text() for m in soup.select(".arithmatex")]
    assert found == [r"\(\text{\$} < 1\)"]


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("> **Deviation.** Yes.", 1),
        ("> __Pitfalls__ too.", 1),
        ("- item\n\n    > **Deviation.** In a list.", 1),
        ("> A quote of a **Deviation** is none.", 0),
        ("> A paragraph.\n>\n> **Deviation.** Late.", 0),
        ("```\n> **Deviation.** In a fence.\n```", 0),
    ],
)
def test_a_box_begins_with_its_name(tmp_path: Path, text: str, boxes: int) -> None:
    page = render(tmp_path, markdown(f"# T\n\n{text}"))
    soup = BeautifulSoup(page.html, "html.parser")
    found = [str(box["id"]) for box in soup.select("aside.lit-box")]
    assert len(found) == boxes
    assert set(found) <= set(page.anchors)


def test_no_id_stands_twice(tmp_path: Path) -> None:
    text = "# T\n\nResults are good\n\n## Results are good\n\nNote"
    more = [markdown(t) for t in ("Note", "Note", "Note 2", "> **Pitfall.** One.")]
    page = render(tmp_path, markdown(text), *more)
    ids = [t["id"] for t in BeautifulSoup(page.html, "html.parser").find_all(id=True)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "text",
    [
        "$$a \\tag{1}$$\n\n$$b \\tag{1}$$",
        "> **Pitfall.** Same words.\n\ntext\n\n> **Pitfall.** Same words.",
    ],
)
def test_anchors_that_stand_twice_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="stands twice"):
        render(tmp_path, markdown(f"# T\n\n{text}"))


def test_links_in_headings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="link to nowhere"):
        render(tmp_path, markdown("# T\n\n## See [other](nope.ipynb)"))


def test_images_in_prose_have_their_size(tmp_path: Path) -> None:
    (tmp_path / "a.svg").write_text('<svg viewBox="0 0 30 20"></svg>')
    (tmp_path / "b.gif").write_bytes(b"GIF89a")
    text = '# T\n\n![a](a.svg) <img src="a.svg" alt="b" width="7"> ![c](b.gif)'
    soup = BeautifulSoup(render(tmp_path, markdown(text)).html, "html.parser")
    sizes = [(i.get("width"), i.get("height")) for i in soup.select("img")]
    assert sizes == [("30", "20"), ("7", None), (None, None)]


def test_images_in_prose_become_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"png")
    page = render(tmp_path, markdown("# T\n\n![a bar](a.png)"))
    (name,) = page.files
    assert name in page.html
    with pytest.raises(ValueError, match="is no file; put it beside"):
        render(tmp_path, markdown("# T\n\n![a bar](gone.png)"))


def test_text_that_looks_like_attributes_is_left_alone(tmp_path: Path) -> None:
    page = render(tmp_path, markdown('# T\n\nSay `x = <a b="c">` and a="b" > c.'))
    text = BeautifulSoup(page.html, "html.parser").get_text()
    assert 'x = <a b="c">' in text
    assert 'a="b" > c.' in text


@pytest.mark.parametrize(
    ("head", "size"),
    [
        ('<svg viewBox="0 0 30 20">', 'width="30" height="20"'),
        ('<svg stroke-width="2" width="100" height="50">', 'width="100" height="50"'),
        ('<svg width="100%" viewBox="0 0 3 2">', 'width="3" height="2"'),
        ("<svg>", 'alt="a" loading'),
    ],
)
def test_sizes_of_drawings(head: str, size: str) -> None:
    data = {"image/svg+xml": f"{head}</svg>"}
    html = figure({"data": data, "metadata": {"image/svg+xml": {"alt": "a"}}}, "x", {})
    assert html is not None
    assert size in html


def test_formulas_of_outputs_are_wrapped(tmp_path: Path) -> None:
    data = {"text/markdown": "# Big\n\n$x^2$"}
    output = {"output_type": "display_data", "data": data, "metadata": {}}
    page = render(
        tmp_path,
        markdown("# T"),
        {"cell_type": "code", "source": "a", "outputs": [output]},
    )
    soup = BeautifulSoup(page.html, "html.parser")
    assert soup.select_one(".lit-out .arithmatex") is not None
    assert len(soup.find_all("h1")) == 1


def test_a_check_links_to_the_stub_and_a_name_to_what_it_means_there(
    tmp_path: Path,
) -> None:
    page = render(
        tmp_path,
        markdown("# T\n\nWords on `f`."),
        code('def f():\n    """Public."""'),
        code("def f(): return 2", "active-ipynb"),
        code("def g(): raise NotImplementedError", "active-ipynb", "exercise"),
        code("f(), g()", "active-ipynb", "check"),
        code("def g(): return 1", "active-ipynb", "solution"),
    )
    soup = BeautifulSoup(page.html, "html.parser")
    links = soup.select(".lit-check pre > code a")
    assert [a["href"] for a in links] == ["#f-2", "#g--code"]
    assert [a["href"] for a in soup.select("a.lit-ref")] == ["#f"]  # in prose
    stub = page.html.partition('id="g--code"')[2]
    assert stub.startswith("><summary>Stub")


def test_a_long_module_is_lexed_once() -> None:
    source = "\n".join(f"x{i} = {i}  # {i}" for i in range(2000))
    highlight(source, [0])
    before = _lexed.cache_info().misses
    for line in range(2000):
        highlight(source, [line])
    assert _lexed.cache_info().misses == before


def test_a_row_of_imports_alone_is_folded(tmp_path: Path) -> None:
    names = "\n".join(f"import a{number}" for number in range(7))
    more = f"{names}\nx = 1"
    for source, folded in ((names, True), (more, False), ("import a", False)):
        cell = {"cell_type": "code", "source": source, "outputs": []}
        html = render(tmp_path, cell | {"execution_count": 1}).html
        assert ("<summary>Imports</summary>" in html) == folded
