"""The MkDocs plugin on a small foreign site."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

from labml_style.rendering.plugin import without_tex

FIXTURES = Path(__file__).parent / "fixtures"

CONFIG = """
site_name: Stones
site_url: ""
strict: true
theme: {name: material, font: false}
nav: [index.md, stone.ipynb, other.ipynb, deviations.md, references.md]
plugins:
  - search
  - labml-style:
      modules: stones
      support: [stones/tools.py]
      bibliography: docs/references.bib
      anchors: docs/anchors.json
  - mkdocs-jupyter: {include: ["*.ipynb"], allow_errors: false}
"""

BIB = """
@article{newton1687principia,
  author = {Newton, Isaac and Bo{\\v{s}}kovi{\\'c}, Ru{\\dj}er and others},
  title = {The {Principia}}, year = {1687}, journal = {London}, eprint = {1687.00001},
}
"""

TOOLS = '''"""Tools.

More.
"""


def shake(hand: int) -> int:
    """Shake."""
    return hand
'''


MOVED = {
    "old-name": "Stone.fall",
    "old-row": "Stone.fall--row",
    "old-equation": "eq-1",
    "old-box": "deviation-the-air-is-left-out",
    "Stone": "Stone",
}


def site(folder: Path, repository: str = "", prose: str = "Again.") -> Path:
    for name in ("docs", "notebooks", "stones"):
        (folder / name).mkdir(parents=True)
    (folder / "mkdocs.yml").write_text(CONFIG)
    project = f'[project.urls]\nRepository = "{repository}"\n' if repository else ""
    (folder / "pyproject.toml").write_text(project)
    (folder / "docs/index.md").write_text(
        "# Home\n\n[stone](stone.ipynb#Stone), `<!-- deviations -->`\n"
    )
    (folder / "docs/deviations.md").write_text("# Deviations\n\n<!-- deviations -->\n")
    (folder / "docs/references.md").write_text("# References\n\n<!-- references -->\n")
    (folder / "docs/references.bib").write_text(BIB)
    moved = {"moved": {"stone": MOVED}, "published": {}}
    (folder / "docs/anchors.json").write_text(json.dumps(moved))
    (folder / "stones/tools.py").write_text(TOOLS)
    (folder / "stones/stone.py").write_text("# the module\n")
    text = (FIXTURES / "stone.ipynb").read_text()
    (folder / "notebooks/stone.ipynb").write_text(text)
    other = json.loads(text)
    source = "from stones.stone import Stone\nfrom stones.tools import shake\nshake(1)"
    source += "\n\n# Here it falls.\nStone(1.0).fall(2.0)"
    cell = {"cell_type": "code", "id": "b", "metadata": {}, "outputs": []}
    other["cells"] = [
        {
            "cell_type": "markdown",
            "id": "a",
            "metadata": {},
            "source": "# Other: a longer title\n\n"
            f"{prose} See [the fall](stone.ipynb#Stone.fall), "
            "[home](../docs/index.md), "
            "[him](../docs/references.md#newton1687principia), "
            "[the old name](stone.ipynb#old-name).",
        },
        cell | {"source": source, "execution_count": None},
    ]
    (folder / "notebooks/other.ipynb").write_text(json.dumps(other))
    return folder


def build(folder: Path, **ci: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    # Where these tests run on CI, its repository is not the one of the small site.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "CI_"))}
    return subprocess.run(
        command, cwd=folder, env=kept | ci, capture_output=True, text=True
    )


def page(folder: Path, name: str) -> BeautifulSoup:
    return BeautifulSoup(
        (folder / "site" / name / "index.html").read_text(), "html.parser"
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = site(tmp_path_factory.mktemp("stones"))
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_chapters_become_side_by_side_pages(built: Path) -> None:
    stone = page(built, "stone")
    assert len(stone.select(".lit-row .lit-code")) >= 5
    assert stone.select("style") == [] or "jp-" not in str(stone.select("style"))
    assert "cdnjs" not in str(stone)


def test_names_link_across_pages_and_back(built: Path) -> None:
    link = page(built, "other").select_one('pre > code a[href="../stone/#Stone"]')
    assert link is not None
    assert link["data-signature"] == "class Stone(mass: float)"


def test_a_class_tells_once_where_it_is_used(built: Path) -> None:
    stone = page(built, "stone")
    (used,) = stone.select(".lit-used a")
    row = used.find_parent(id="Stone--row")
    assert row is not None, "beside the class, not beside its method"
    assert used.get_text() == "Other"
    address, _, anchor = str(used["href"]).partition("#")
    assert address == "../other/"
    there = page(built, "other").find(id=anchor)
    assert there is not None
    assert "Stone(1.0).fall(2.0)" in there.get_text(), "not its import, not another row"


def test_support_modules_have_pages(built: Path) -> None:
    assert page(built, "support/tools").select_one("#shake") is not None
    other = page(built, "other")
    assert other.select_one('pre > code a[href="../support/tools/#shake"]') is not None


def test_markdown_links_are_rewritten(built: Path) -> None:
    links = {a.get_text(): a["href"] for a in page(built, "other").select(".lit-doc a")}
    assert links["the fall"] == "../stone/#Stone.fall"
    assert links["home"] in ("../", "..")
    assert links["the old name"] == "../stone/#old-name"


def test_a_moved_anchor_still_stands(built: Path) -> None:
    stone = page(built, "stone")
    following = stone.select_one("#old-name + h4")
    assert following is not None
    assert following["id"] == "Stone.fall"
    for old, new in MOVED.items():
        assert len(stone.find_all(id=old)) == 1, old
        if old not in ("old-name", new):
            (alias,) = stone.find_all(id=old)
            row = alias.find_parent(class_="lit-row")
            assert row is not None
            assert row["id"] == new or row.find(id=new) is not None


def test_downloads_are_the_files_themselves(built: Path) -> None:
    for link in page(built, "stone").select(".lit-tools a[download]"):
        name = str(link["href"])
        source = {"ipynb": "notebooks", "py": "stones"}[name.rpartition(".")[2]]
        file = built / "site/stone" / name
        assert file.read_bytes() == (built / source / name).read_bytes()


def test_buttons_that_need_an_address_are_absent_without_one(built: Path) -> None:
    names = [a.get_text() for a in page(built, "stone").select(".lit-tools a")]
    assert names == ["Notebook", "Module"]


def test_buttons_with_an_address(tmp_path: Path) -> None:
    folder = site(tmp_path / "s", "https://github.com/someone/stones")
    assert build(folder).returncode == 0
    links = {
        a.get_text(): a["href"] for a in page(folder, "stone").select(".lit-tools a")
    }
    assert links["Open in Colab"] == (
        "https://colab.research.google.com/github/someone/stones/blob/gh-pages/"
        "stone/stone.ipynb"
    )
    assert (
        links["Edit"] == "https://github.com/someone/stones/edit/main/stones/stone.py"
    )
    # Nothing says what the package is called, so nothing can install it.
    source = (folder / "notebooks/stone.ipynb").read_bytes()
    assert (folder / "site/stone/stone.ipynb").read_bytes() == source


def test_on_ci_the_built_notebook_installs_the_commit(tmp_path: Path) -> None:
    folder = site(tmp_path / "s")
    (folder / "pyproject.toml").write_text('[project]\nname = "all-stones"\n')
    stone = folder / "notebooks/stone.ipynb"
    source = json.loads(stone.read_text())
    old: dict[str, Any] = {"cell_type": "code", "id": "old", "source": "old()"}
    old |= {"metadata": {"tags": ["colab-setup"]}}
    old |= {"execution_count": 1, "outputs": []}
    stone.write_text(json.dumps(source | {"cells": [old, *source["cells"]]}))
    done = build(
        folder,
        GITHUB_SERVER_URL="https://github.com",
        GITHUB_REPOSITORY="someone/stones",
        GITHUB_SHA="c0ffee",
    )
    assert done.returncode == 0, done.stderr
    built = json.loads((folder / "site/stone/stone.ipynb").read_text())
    first = built["cells"].pop(0)
    assert built == source
    assert 'find_spec("stones") is None' in first["source"]
    url = "git+https://github.com/someone/stones@c0ffee"
    assert f'"all-stones @ {url}"' in first["source"]
    assert "find_spec" not in page(folder, "stone").get_text()


def test_links_of_a_built_notebook_lead_to_the_public_site(tmp_path: Path) -> None:
    folder = site(tmp_path / "s", "https://github.com/someone/stones")
    (folder / "stones/other.py").write_text("# the module\n")
    with (folder / "pyproject.toml").open("a") as project:
        project.write('[project]\nname = "stones"\n')
    config = folder / "mkdocs.yml"
    public = config.read_text().replace('site_url: ""', "site_url: https://x.org/s/")
    config.write_text(public)
    done = build(folder)
    assert done.returncode == 0, done.stderr
    notebook = json.loads((folder / "site/other/other.ipynb").read_text())
    prose = notebook["cells"][1]["source"]
    assert "(https://x.org/s/stone/#Stone.fall)" in prose
    assert "(https://x.org/s/references/#newton1687principia)" in prose
    assert "(../docs/index.md)" not in prose and "](stone.ipynb" not in prose


def test_an_address_that_is_none_stops_the_build(tmp_path: Path) -> None:
    done = build(site(tmp_path / "s", "somewhere"))
    assert done.returncode != 0
    assert "Repository under [project.urls] is 'somewhere'" in done.stderr
    assert "Traceback" not in done.stderr


def test_collected_pages(built: Path) -> None:
    deviations = page(built, "deviations")
    assert "The air is left out." in deviations.get_text()
    link = deviations.select_one('.lit-deviation a[href*="#deviation"]')
    assert link is not None
    anchor = str(link["href"]).partition("#")[2]
    assert page(built, "stone").find(id=anchor) is not None
    home = (built / "site/index.html").read_text()
    assert "The air is left out." not in home, "a marker inside a line is text"
    references = page(built, "references")
    assert references.find(id="newton1687principia") is not None
    assert "Ruđer Bošković" in references.get_text()


def test_search_finds_what_stands_under_a_definition(built: Path) -> None:
    index = json.loads((built / "site/search/search_index.json").read_text())
    found = {d["location"]: d["text"] for d in index["docs"]}
    assert "Metres fallen" in found["stone/#Stone.fall"]
    assert "in seconds" in found["stone/#Stone.fall"], "folded text is found too"


def test_search_shows_no_tex(built: Path) -> None:
    index = json.loads((built / "site/search/search_index.json").read_text())
    shown = " ".join(d["title"] + d["text"] for d in index["docs"])
    assert "\\(" not in shown and "\\[" not in shown and "\\tfrac" not in shown
    assert "falls for t seconds" in shown


@pytest.mark.parametrize(
    ("tex", "words"),
    [
        (r"a \(n_s\) b", "a n_s b"),
        (r"\[\frac{a}{b} &lt; \alpha_1 \tag{3}\]", "a b &lt; alpha_1"),
        (r"\(\mathrm{softmax}(x)\), \(y\)", "softmax (x), y"),
        (r"no \tag and $5", r"no \tag and $5"),
    ],
)
def test_tex_becomes_words(tex: str, words: str) -> None:
    assert without_tex(tex) == words


@pytest.mark.parametrize("printed", ["", "0 metres"])
def test_a_proof_that_prints_nothing_stops_a_strict_build(
    tmp_path: Path, printed: str
) -> None:
    folder = site(tmp_path / "s")
    path = folder / "notebooks/other.ipynb"
    notebook = json.loads(path.read_text())
    claim = {"cell_type": "markdown", "id": "c", "metadata": {}, "source": "It rests."}
    output = {"output_type": "stream", "name": "stdout", "text": printed}
    proof: dict[str, Any] = {"cell_type": "code", "id": "d"}
    proof |= {"metadata": {"tags": ["proof"]}}
    proof |= {"source": "print(0)", "execution_count": None, "outputs": [output]}
    notebook["cells"] += [claim, proof]
    path.write_text(json.dumps(notebook))
    done = build(folder)
    assert (done.returncode == 0) == bool(printed), done.stderr
    if not printed:
        assert "notebooks/other.ipynb, cell 4: a proof that" in done.stderr
    else:
        index = (folder / "site/search/search_index.json").read_text()
        assert "print(0)" in index, "the folded code of a proof is found"


@pytest.mark.parametrize(
    "target", ["stone.ipynb#gone", "../docs/references.md#einstein1905", "none.ipynb"]
)
def test_a_broken_link_stops_the_build(tmp_path: Path, target: str) -> None:
    folder = site(tmp_path / "s", prose=f"[x]({target})")
    done = build(folder)
    assert done.returncode != 0
    assert "notebooks/other.ipynb, cell 1, line 3: link to nowhere" in done.stderr


def test_a_changed_notebook_changes_the_page(built: Path) -> None:
    path = built / "notebooks/stone.ipynb"
    path.write_text(path.read_text().replace("A stone that falls", "A rock that falls"))
    assert build(built).returncode == 0
    assert "A rock that falls" in page(built, "stone").get_text()
