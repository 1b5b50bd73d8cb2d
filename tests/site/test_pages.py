"""The built files, read without a browser."""

import gzip
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from bs4 import BeautifulSoup, Tag

ROOT = Path(__file__).parents[2]
PREFIX = "/labml-style/"
HOST = f"http://127.0.0.1{PREFIX}"


@cache
def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


@cache
def anchors(path: Path) -> frozenset[str]:
    return frozenset(str(tag["id"]) for tag in soup(path).find_all(id=True))


def documents(site: Path, pages: list[str]) -> dict[str, Path]:
    """Address to file, the page for what is missing included."""
    found = {HOST + name: site / name / "index.html" for name in pages}
    return found | {f"{HOST}404.html": site / "404.html"}


def test_every_internal_link_and_anchor_is_alive(site: Path, pages: list[str]) -> None:
    dead = []
    for where, path in documents(site, pages).items():
        for tag in soup(path).find_all(["a", "link", "img", "script", "source"]):
            link = tag.get("href") or tag.get("src")
            target = urlsplit(urljoin(where, str(link or "#")))
            if target.hostname != "127.0.0.1":
                continue
            inside = target.path.startswith(PREFIX)
            file = site / unquote(target.path.removeprefix(PREFIX))
            file = file / "index.html" if target.path.endswith("/") else file
            anchor = unquote(target.fragment)
            if not inside or not file.is_file():
                dead.append(f"{where}: {link} leads to no file")
            elif anchor and file.suffix == ".html" and anchor not in anchors(file):
                dead.append(f"{where}: {link} leads to no anchor")
    assert not dead, "\n".join(dead)


def test_ids_are_unique_on_their_page(site: Path, pages: list[str]) -> None:
    for where, path in documents(site, pages).items():
        count = Counter(str(tag["id"]) for tag in soup(path).find_all(id=True))
        twice = [name for name, times in count.items() if times > 1]
        assert not twice, f"{where}: {twice}"


def test_one_title_and_headings_without_gaps(site: Path, pages: list[str]) -> None:
    for where, path in documents(site, pages).items():
        found = soup(path).select("article :is(h1, h2, h3, h4, h5, h6)")
        levels = [int(tag.name[1]) for tag in found]
        assert levels[0] == 1 and levels.count(1) == 1, f"{where}: {levels}"
        jumps = [b for a, b in zip(levels, levels[1:], strict=False) if b > a + 1]
        assert not jumps, f"{where}: a heading skips a level: {levels}"


# Words that tell nobody where a link leads; a name in code may be one of them.
EMPTY = {"here", "more", "this", "start", "go", "information", "read more", "see more"}


def test_the_text_of_a_link_says_where_it_leads(site: Path, pages: list[str]) -> None:
    for where, path in documents(site, pages).items():
        for link in soup(path).select("article a[href]:not([href^='#'])"):
            text = link.get_text().strip().lower()
            code = link.find_parent("pre", lang="zxx")
            assert text not in EMPTY or code, f"{where}: {link}"


def test_nothing_is_loaded_from_another_host(site: Path, pages: list[str]) -> None:
    for where, path in documents(site, pages).items():
        for tag in soup(path).select("script[src], link[rel=stylesheet], img"):
            link = str(tag.get("href") or tag.get("src"))
            host = urlsplit(urljoin(where, link)).hostname
            assert host == "127.0.0.1", f"{where} loads {link}"
            assert not link.startswith("data:"), f"{where} holds an inlined file"
    for name in ("css/house.css", "katex/katex.min.css"):
        assert "//" not in (site / "assets" / name).read_text("utf-8"), name


def test_chapters_are_light(site: Path, chapters: list[str]) -> None:
    for name in chapters:
        packed = len(gzip.compress((site / name / "index.html").read_bytes(), 6))
        assert packed <= 45_000, f"{name}: {packed} bytes gzipped"


def test_the_look_is_light(site: Path) -> None:
    css = site / "assets/css/house.css"
    assert css.stat().st_size < 30_000
    assert "assets/css/house.css" in (site / "index.html").read_text("utf-8")


def test_search_shows_no_tex(site: Path) -> None:
    index = json.loads((site / "search/search_index.json").read_text("utf-8"))
    found = [
        entry["location"]
        for entry in index["docs"]
        if re.search(r"\\[(\[]", entry["title"] + entry["text"])
    ]
    assert not found, found


def test_a_definition_is_told_by_its_name_and_its_code(
    site: Path, chapters: list[str]
) -> None:
    for name in chapters:
        page = soup(site / name / "index.html")
        assert not page.select(".lit-card")
        for heading in page.select("h1 ~ .lit-def"):
            row = heading.find_next_sibling()
            assert isinstance(row, Tag) and row["id"] == f"{heading['id']}--row"
            code = row.select_one(".lit-code > pre")
            short = str(heading["id"]).rpartition(".")[2]
            assert code is not None and short in code.get_text(), heading["id"]


def test_long_lists_are_folded_and_users_named_once(
    site: Path, chapters: list[str]
) -> None:
    for name in chapters:
        page = soup(site / name / "index.html")
        labels = [tag.get_text() for tag in page.select(".lit-doc > p > strong")]
        assert not {"Arguments", "Attributes", "Returns", "Raises"} & set(labels)
        for note in page.select(".lit-used"):
            row = note.find_parent(class_="lit-row")
            assert row is not None
            assert "." not in str(row["id"]), f"{name}: beside a method {row['id']}"


def test_only_the_first_figure_is_fetched_at_once(
    site: Path, pages: list[str], chapters: list[str]
) -> None:
    for where, path in documents(site, pages).items():
        images = soup(path).select("article img")
        for image in images:
            assert image.get("width") and image.get("height"), f"{where}: {image}"
        eager = [image for image in images if image.get("loading") != "lazy"]
        first = images[:2] if where.removeprefix(HOST) in chapters else []
        if "/gallery/" in where:  # of others, where an image has no twin
            first = images[:1]
        assert eager == first, f"{where}: {len(eager)} images are eager"


def test_nothing_but_one_stylesheet_stops_the_first_paint(
    site: Path, pages: list[str]
) -> None:
    for where, path in documents(site, pages).items():
        loaded = soup(path).select("link[rel=stylesheet], script[src]:not([defer])")
        names = [str(tag.get("href") or tag.get("src")) for tag in loaded]
        assert [name.rpartition("/")[2] for name in names] == ["house.css"], where


@pytest.mark.parametrize("name", ["css/house.css", "js/house.js"])
def test_what_is_written_by_hand_is_served_smaller(site: Path, name: str) -> None:
    served = (site / "assets" / name).stat().st_size
    assert served < 0.9 * (ROOT / "docs/assets" / name).stat().st_size


def test_only_chapters_that_stand_are_links(site: Path, pages: list[str]) -> None:
    home = soup(site / "index.html")
    for drawing in home.select("svg.lm-tree"):
        linked = {str(tag["href"]) for tag in drawing.select("a[href]")}
        assert "streams/" in linked
        assert linked <= set(pages)
        assert drawing.select("g.lm-later") or len(linked) > 5
    listed = home.select(".lm-chapters li")
    later = home.select(".lm-chapters .lm-later")
    assert len(listed) - len(later) == len(home.select(".lm-chapters li > a"))
    assert f"of {len(listed)} chapters" in home.get_text() or not later


def test_the_page_for_what_is_missing_helps(site: Path, chapters: list[str]) -> None:
    page = soup(site / "404.html")
    linked = {str(tag["href"]) for tag in page.select("article a")}
    top = [name for name in chapters if name.count("/") == 1]
    assert {f"{PREFIX}{name}" for name in top} <= linked
    assert page.select("input.md-search__input")


def test_collected_pages_are_filled(site: Path) -> None:
    for name in ("deviations", "references"):
        text = (site / name / "index.html").read_text("utf-8")
        assert f"<!-- {name} -->" not in text, f"{name} is not filled"
    references = soup(site / "references/index.html").get_text()
    assert "Attentive Language Models" in references
    assert "{" not in soup(site / "references/index.html").select("article")[0].text


@pytest.mark.parametrize("folder", ["overrides", "partials"])
def test_templates_stay_out_of_the_site(site: Path, folder: str) -> None:
    assert not list(site.rglob(folder))


def test_the_sample_on_the_first_page_prints_what_it_shows() -> None:
    text = (ROOT / "docs/index.md").read_text()
    _, cut, call = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    space: dict[str, object] = {}
    exec(cut, space)
    shown = BeautifulSoup(text, "html.parser").select_one(".lit-out pre")
    assert shown is not None
    assert shown.get_text() == repr(eval(call, space))


def test_the_first_lines_of_the_first_page_run_and_cost_what_it_says() -> None:
    text = (ROOT / "docs/index.md").read_text()
    source = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    assert source.count("\n") <= 12
    space: dict[str, Any] = {}
    exec(source, space)
    assert list(space["text"].shape) == [1, 19 + 200]
    config, memory = space["config"], None
    for _ in range(3):
        memory = space["model"](space["text"][:, :64], memory).memory
    assert memory is not None
    bytes_said = config.layers * config.memory_length * config.d_model * 4
    assert memory.nbytes == bytes_said == 64 * 1024


WORDS = """
slot, lane, segment, memory, state, stop-gradient, border, split, attend, evaluate,
reach, span, usage, arm, preset, record, filled, part, residual, compression-rate,
temporal-range, segment-level-recurrence, memory-tokens, lossless-objective,
lossy-objective
"""


def test_the_glossary_explains_every_word_once(site: Path) -> None:
    page = soup(site / "glossary/index.html")
    for word in WORDS.replace(",", " ").split():
        (anchor,) = page.select(f"article [id={word}]")
        assert anchor.name == "h3", word
        meaning = anchor.find_next_sibling()
        assert isinstance(meaning, Tag) and meaning.name == "p"
        assert 4 < len(meaning.get_text().split()) < 50, word
