"""Notebooks and sites of others: each once failed, and here is what is right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup, Tag
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import PluginError

from labml_style.rendering import Chapter, NotebookError, render_notebook
from labml_style.rendering.__main__ import main

CASES = Path(__file__).parent / "cases"
NOTEBOOKS = sorted(path.name for path in CASES.glob("*.ipynb"))
SITES = sorted(path.name for path in CASES.iterdir() if path.is_dir())


def page(name: str) -> BeautifulSoup:
    return BeautifulSoup(render_notebook(CASES / name).html, "html.parser")


def one(soup: BeautifulSoup | Tag, selector: str) -> Tag:
    (found,) = soup.select(selector)
    return found


def texts(soup: BeautifulSoup, selector: str) -> list[str]:
    return [item.get_text() for item in soup.select(selector)]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_of_others_is_rendered_and_not_destroyed(name: str) -> None:
    chapter = render_notebook(CASES / name)
    soup = BeautifulSoup(chapter.html, "html.parser")
    assert len(soup.select("body, html")) == 0
    assert len([child for child in soup.children if isinstance(child, Tag)]) == 1
    cells = json.loads((CASES / name).read_text("utf-8-sig"))["cells"]
    code = [c["source"] for c in cells if c["cell_type"] == "code" and c["source"]]
    shown = soup.get_text()
    for line in "\n".join(code).split("\n"):
        plain = line.strip().lstrip("# ").strip("\"'")
        assert plain in shown or "Parameters" in "".join(code), plain


def test_angle_brackets_of_comments_and_docstrings_are_text() -> None:
    soup = page("c01-angle-brackets.ipynb")
    said = " ".join(texts(soup, ".lit-doc"))
    assert "<mask> or <pad>" in said
    assert "Read <path> line by line." in said


def test_numpy_docstrings_make_no_headings() -> None:
    soup = page("c03-numpy-docstring.ipynb")
    assert texts(soup, "h1, h2, h3, h4") == [
        *("Stones#", "function cut#", "function mill#")
    ]
    ids = [str(tag["id"]) for tag in soup.find_all(id=True)]
    assert len(ids) == len(set(ids))
    example = [text for text in texts(soup, ".lit-doc pre") if "cut(3)" in text]
    assert len(example) == 1
    assert "Its size." in soup.get_text()


def test_a_variable_leads_to_its_last_binding_before_the_use() -> None:
    soup = page("c04-variable-bound-again.ipynb")
    rows = [row for row in soup.select(".lit-row") if row.select(".lit-code")]
    first, use, again, loop = rows
    links = [str(a["href"]) for a in use.select("pre a") if a.get_text() == "size"]
    assert links == [f"#{first['id']}"]
    assert not [a for a in loop.select("pre a") if a.get_text() == "size"]


def test_a_shell_cell_is_one_row() -> None:
    soup = page("c05-shell-cell.ipynb")
    assert texts(soup, ".lit-code pre") == ["%%bash\n# list them\nls"]


def test_other_kernels_are_not_read_as_python() -> None:
    pane = one(page("c08-julia.ipynb"), ".lit-code pre")
    strings = [i.get_text() for i in pane.select("i")]
    assert strings in ([], ["'x'"]), "the first apostrophe transposes"


def test_a_module_keeps_what_stands_before_and_beside_its_docstring() -> None:
    soup = page("c09-licence.py")
    shown = soup.get_text()
    for text in ("#!/usr/bin/env python", "Licence: free.", "import os"):
        assert text in shown
    assert "Tools for long stones" in " ".join(one(soup, "h1").get_text().split())


def test_a_syntax_error_is_one_line_that_names_the_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["html", str(CASES / "c11-syntax.py"), "--out", str(tmp_path)]
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "c11-syntax.py" in line and "line 1" in line


def test_a_byte_order_mark_is_no_content() -> None:
    assert texts(page("c12-bom.ipynb"), ".lit-code pre") == ["x = 1"]


def test_formulas_as_jupyter_takes_them() -> None:
    two = texts(page("m01-two-displays.ipynb"), ".arithmatex")
    assert two == [r"\[a = b\]", r"\[c = d\]"]
    (lines,) = texts(page("m02-environment.ipynb"), ".arithmatex")
    assert lines.startswith(r"\[\begin{align}") and r"c &= d" in lines
    between = texts(page("m04-dollar-before-digit.ipynb"), ".arithmatex")
    assert between == [r"\(\times\)"]
    output = texts(page("o10-bare-latex.ipynb"), ".lit-out .arithmatex")
    assert output == [r"\[\begin{equation}a+b\end{equation}\]"]


def test_headings_inside_html_stay_there() -> None:
    fold = one(page("m06-details.ipynb"), "details")
    assert "Reason" in fold.get_text() and "secret" in fold.get_text()
    assert "after" not in fold.get_text()
    box = one(page("m07-div.ipynb"), "div.alert")
    assert "Note" in box.get_text() and "boxed" in box.get_text()
    soup = page("m09-heading-in-pre.ipynb")
    assert one(soup, ".lit-doc pre").get_text().strip() == "# plain text\nkept"
    assert len(soup.select("h1")) == 1


def test_underlined_headings_are_headings() -> None:
    chapter = render_notebook(CASES / "m11-underlined-headings.ipynb")
    assert [row.heading for row in chapter.rows if row.heading] == ["Stones", "More"]
    soup = BeautifulSoup(chapter.html, "html.parser")
    assert one(soup, "h2 a.headerlink")["href"] == "#more"


def test_an_image_without_alternative_is_a_warning() -> None:
    chapter = render_notebook(CASES / "m12-empty-alt-passes.ipynb")
    (problem,) = chapter.problems
    assert "m12-empty-alt-passes.ipynb, cell 1, line 3: image without" in problem
    assert one(BeautifulSoup(chapter.html, "html.parser"), "img")["alt"] == ""
    with pytest.raises(ValueError, match="image without a text alternative"):
        render_notebook(CASES / "m12-empty-alt-passes.ipynb", strict=True)


def test_a_tag_inside_code_is_code() -> None:
    soup = page("m14-tag-in-code.ipynb")
    assert one(soup, ".arithmatex")["id"] == "eq-7"
    assert r"x \tag{7}" in one(soup, ".highlight").get_text()


def test_raw_cells_are_on_the_page() -> None:
    chapter = render_notebook(CASES / "m15-raw-cell.ipynb")
    soup = BeautifulSoup(chapter.html, "html.parser")
    assert "raw words" in texts(soup, "p")
    assert "plain words" in soup.get_text()
    assert len(chapter.problems) == 2


def files(chapter: Chapter, suffix: str) -> list[str]:
    return [name for name in chapter.files if name.endswith(suffix)]


def shown_images(chapter: Chapter) -> list[Tag]:
    soup = BeautifulSoup(chapter.html, "html.parser")
    for image in soup.select("img"):
        assert unquote(str(image["src"]).partition("#")[0]) in chapter.files
    return soup.select("img")


def test_pngs_have_their_own_size_and_jpegs_are_files() -> None:
    (image,) = shown_images(render_notebook(CASES / "o02-png-size.ipynb"))
    assert image["width"] == "400"
    assert files(render_notebook(CASES / "o12-jpeg.ipynb"), ".jpeg") or files(
        render_notebook(CASES / "o12-jpeg.ipynb"), ".jpg"
    )


def test_a_drawing_of_others_is_a_file_of_its_own() -> None:
    chapter = render_notebook(CASES / "o04-svg-without-namespace.ipynb")
    for name in files(chapter, ".svg"):
        assert b'xmlns="http://www.w3.org/2000/svg"' in chapter.files[name]
    assert files(chapter, ".svg")


def test_outputs_without_source_are_kept() -> None:
    assert "kept" in page("o05-output-without-source.ipynb").get_text()


def test_a_widget_has_its_view_and_its_state() -> None:
    chapter = render_notebook(CASES / "o07-widget.ipynb")
    soup = BeautifulSoup(chapter.html, "html.parser")
    view = one(soup, 'script[type="application/vnd.jupyter.widget-view+json"]')
    assert "m1" in view.get_text()
    assert view.parent is not None and view.parent.get("class") == ["jupyter-widgets"]
    state = one(soup, 'script[type="application/vnd.jupyter.widget-state+json"]')
    assert "IntSliderModel" in state.get_text()
    assert "a widget" in chapter.problems[0]


def test_a_script_finds_its_output() -> None:
    soup = page("o08-javascript.ipynb")
    script = one(soup, ".lit-out script")
    assert "element.textContent = 'hi'" in script.get_text()
    assert script.parent is not None
    assert str(script.parent["id"]) in script.get_text()


def test_links_and_images_as_jupyter_writes_them() -> None:
    remote = render_notebook(CASES / "r01-remote-image.ipynb")
    assert 'src="https://example.org/a.png"' in remote.html
    assert "another host" in remote.problems[0]
    (blank,) = shown_images(render_notebook(CASES / "r03-blank-in-image-name.ipynb"))
    assert str(blank["src"]).startswith("my%20dot-")
    sibling = render_notebook(CASES / "r04-sibling-notebook.ipynb")
    assert 'href="m03-padded-dollars.ipynb"' in sibling.html
    jupyter = render_notebook(CASES / "r06-jupyter-anchor.ipynb")
    assert 'href="#big-part"' in jupyter.html
    own = render_notebook(CASES / "r07-own-anchor.ipynb")
    assert 'href="#here"' in own.html and 'id="here"' in own.html
    assert not own.problems
    attached = render_notebook(CASES / "r11-attachment.ipynb")
    (image,) = shown_images(attached)
    assert attached.files[str(image["src"])].startswith(b"\x89PNG")


def test_what_stands_twice_gets_an_anchor_of_its_own() -> None:
    twice = page("r08-function-twice.ipynb")
    assert [h["id"] for h in twice.select("h2, h3")] == ["scale", "scale-2"]
    emoji = one(page("r10-emoji-heading.ipynb"), "h1")
    assert emoji["id"]


def test_a_stored_traceback_is_shown() -> None:
    chapter = render_notebook(CASES / "r12-error-output.ipynb")
    assert "ZeroDivisionError: division by zero" in chapter.html
    assert "the cell failed with ZeroDivisionError" in chapter.problems[0]


# --- sites ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Each site, built in a folder of its own."""
    root = tmp_path_factory.mktemp("sites")
    for name in SITES:
        folder = root / name
        shutil.copytree(CASES / name, folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            config = load_config(str(folder / "mkdocs.yml"))
            config.plugins.on_startup(command="build", dirty=False)
            build(config)
    yield root


def html(sites: Path, name: str, file: str = "stone/index.html") -> BeautifulSoup:
    return BeautifulSoup((sites / name / "site" / file).read_text(), "html.parser")


def test_words_in_a_head_are_escaped(sites: Path) -> None:
    soup = html(sites, "p01-quote-in-first-words")
    about = one(soup, 'meta[name="description"]')
    assert about["content"] == 'A 5" chisel is enough.'
    assert one(soup, "article h1") and soup.select("nav")
    assert 'A 5" chisel is enough.' in one(soup, "article").get_text()


def test_a_page_of_others_is_left_alone(sites: Path) -> None:
    image = one(html(sites, "p03-spaces-around-equals", "index.html"), "article img")
    assert (image["src"], image["alt"]) == ("a.svg", "a stone")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("p05-no-directory-urls", "stone.html"),
        ("p06-index-notebook", "index.html"),
        ("p16-no-h1", "stone/index.html"),
    ],
)
def test_files_lie_where_a_page_seeks_them(sites: Path, name: str, file: str) -> None:
    soup = html(sites, name, file)
    folder = (sites / name / "site" / file).parent
    for image in soup.select("article img"):
        assert (folder / str(image["src"])).is_file()
    download = one(soup, ".lit-tools a[download]")
    assert (folder / str(download["href"])).is_file()


def test_options_of_mkdocs_jupyter_keep_their_meaning(sites: Path) -> None:
    executed = html(sites, "p08-execute")
    assert texts(executed, ".lit-out pre") == ["42\n"]
    hidden = one(html(sites, "p09-hidden-input"), "article")
    assert "mine" not in hidden.get_text() and "done" in hidden.get_text()
    scripts = html(sites, "p10-require").select("article script[src]")
    assert any("require" in str(script["src"]) for script in scripts)


def test_more_options_of_mkdocs_jupyter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "site"
    shutil.copytree(CASES / "p16-no-h1", folder)
    options = "{include: ['*.ipynb'], toc_depth: 1, include_source: true, theme: dark, "
    options += "custom_mathjax_url: 'https://example.org/m.js', show_input: false}"
    path = folder / "mkdocs.yml"
    path.write_text(path.read_text().replace("{include: ['*.ipynb']}", options))
    monkeypatch.chdir(folder)
    config = load_config(str(path))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    page = BeautifulSoup((folder / "site/stone/index.html").read_text(), "html.parser")
    assert page.select('script[src="https://example.org/m.js"]')
    assert not page.select('nav a[href="#only-a-second-level-heading"]')
    assert not page.select(".lit-code pre") and page.select_one(".lit-doc")
    written = (folder / "site/stone/stone.ipynb").read_text()
    assert written == (folder / "nbs/stone.ipynb").read_text(), "not the copy"
    assert "theme has no effect on rows" in caplog.text


@pytest.mark.parametrize("stem", ["a b#c", "ü 100%", "x.y"])
def test_odd_names_have_pages_images_and_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stem: str
) -> None:
    folder = tmp_path / "site"
    shutil.copytree(CASES / "p05-no-directory-urls", folder)
    (folder / "nbs/stone.ipynb").rename(folder / f"nbs/{stem}.ipynb")
    monkeypatch.chdir(folder)
    config = load_config(str(folder / "mkdocs.yml"))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    text = (folder / f"site/{stem}.html").read_text()
    page = BeautifulSoup(text, "html.parser")
    names = [one(page, "article img")["src"], one(page, ".lit-tools a")["href"]]
    for name in map(str, names):
        assert "#" not in name and (folder / "site" / unquote(name)).is_file(), name


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    shutil.copytree(CASES / "p16-no-h1", folder)
    (folder / "nbs").rename(folder / "elsewhere")
    config = load_config(str(folder / "mkdocs.yml"))
    with pytest.raises(PluginError, match="notebooks: 'nbs' is no folder"):
        config.plugins.on_config(config)


def test_notebooks_in_folders_have_pages(sites: Path) -> None:
    assert one(html(sites, "p12-subfolder", "deep/pebble/index.html"), "article h1")


def test_links_go_by_the_folder_of_the_pages(sites: Path) -> None:
    link = one(html(sites, "p13-docs-dir"), ".lit-doc a[href]")
    assert link["href"] == "../guide/"


def test_old_formats_are_brought_up_to_date(sites: Path) -> None:
    assert "Old" in one(html(sites, "p14-format-3", "old/index.html"), "h1").get_text()


def test_one_image_is_seen_without_a_style_of_ours(sites: Path) -> None:
    soup = html(sites, "p18-two-images-elsewhere")
    styles = soup.select('link[rel="stylesheet"]')
    assert len(soup.select("figure img")) == 1 or any(
        "labml-style" in str(style["href"]) for style in styles
    )


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}', "[]"])
def test_what_is_no_notebook_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.ipynb"
    path.write_text(text)
    with pytest.raises(NotebookError, match="x.ipynb"):
        render_notebook(path)
