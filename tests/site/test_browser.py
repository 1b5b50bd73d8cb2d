"""The pages in a real Chromium: look, keyboard, search, math, paper.

Without Chromium these tests are skipped with one line; with
LABML_STYLE_REQUIRE_BROWSER=1 they fail instead.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
if CHROMIUM is None and os.environ.get("LABML_STYLE_REQUIRE_BROWSER") != "1":
    pytest.skip(
        "browser tests need Chromium on the PATH (Debian: apt-get install chromium)",
        allow_module_level=True,
    )

WIDTHS = (320, 390, 768, 1024, 1440, 1920)
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this file."""
    assert CHROMIUM, f"no Chromium on the PATH, tried {', '.join(NAMES)}"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=SWITCHES
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Open]:
    """Opens a page of the site in a new window."""
    with watched(browser, address) as opened:
        yield opened


@pytest.fixture
def form(browser: Browser, form_address: str) -> Iterator[Open]:
    """Opens the chapter with every kind of cell and box in a new window."""
    with watched(browser, f"{form_address}form/") as opened:
        yield opened


@contextlib.contextmanager
def watched(browser: Browser, address: str) -> Iterator[Open]:
    """Opens pages below an address; fails on an error or a foreign host.

    Every window is watched: in the end no request may have gone to another host, and
    the console must be empty of errors.
    """
    trouble: list[str] = []
    contexts: list[BrowserContext] = []
    host = urlsplit(address).netloc

    def watch(request: Any) -> None:
        url = request.url
        if urlsplit(url).netloc != host and not url.startswith(("data:", "blob:")):
            trouble.append(f"request to another host: {url}")

    def opened(
        name: str = "", width: int = 1440, height: int = 900, **more: Any
    ) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height}, **more
        )
        contexts.append(context)
        context.on("request", watch)
        page = context.new_page()
        page.on("pageerror", lambda error: trouble.append(f"{page.url}: {error}"))
        page.on(
            "console",
            lambda message: (
                trouble.append(f"{page.url}: {message.text}")
                if message.type == "error" and "status of 404" not in message.text
                else None
            ),
        )
        page.on(
            "response",
            lambda answer: (
                trouble.append(f"{answer.status} for {answer.url}")
                if answer.status >= 400 and "no-such-page" not in answer.url
                else None
            ),
        )
        page.goto(address + name)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not trouble, "\n".join(trouble)


def test_no_sideways_scroll_at_any_width(
    visit: Open, address: str, pages: list[str]
) -> None:
    page = visit()
    wide = []
    for name in [*pages, "no-such-page/"]:
        page.goto(address + name)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            over = page.evaluate(
                "document.scrollingElement.scrollWidth - document.documentElement"
                ".clientWidth"
            )
            if over > 0:
                wide.append(f"/{name} at {width} px: {over} px too wide")
    assert not wide, "\n".join(wide)


# Code has thousands of marked words in a few colours: of each kind 25 are looked at.
# Where colours alone are, the same goes for the text of everything of one kind, and the
# pages of one scheme share a count. What has another colour, ground or size is another
# kind. What holds no text of its own stays: it holds others.
THIN = """([colours, seen]) => {
  const name = e => e.tagName + e.getAttribute("class"), ground = e => {
    const own = getComputedStyle(e).backgroundColor, clear = "rgba(0, 0, 0, 0)";
    return own === clear && e.parentElement ? ground(e.parentElement) : own;
  }, kind = e => {
    const { color, fontSize, fontWeight } = getComputedStyle(e);
    const look = [color, fontSize, fontWeight, ground(e)];
    return [name(e), name(e.parentElement), ...look].join(" ");
  }, text = e => [...e.childNodes].filter(n => n.nodeType === 3 && n.data.trim()),
  thin = (chosen, drop) => {
    const all = [...document.querySelectorAll(chosen)].filter(e => text(e).length);
    const kinds = all.map(kind);
    all.forEach((e, i) => {
      if ((seen[kinds[i]] = (seen[kinds[i]] || 0) + 1) > 25) drop(e);
    });
  };
  thin("pre a, pre b, pre i, pre span", e => e.replaceWith(...e.childNodes));
  if (colours) thin("main *:not(pre, pre *)", e => text(e).forEach(n => n.remove()));
  for (const e of document.querySelectorAll("pre")) e.normalize();
  for (const e of document.querySelectorAll("details")) e.open = true;
  return seen;
}"""
CONTRAST = ["color-contrast", "link-in-text-block"]
COLOURS: dict[str, Any] = {"runOnly": {"type": "rule", "values": CONTRAST}}
OTHERS: dict[str, Any] = {"rules": dict.fromkeys(CONTRAST, {"enabled": False})}


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1440), ("dark", 1440), ("light", 390)]
)
def test_axe_finds_nothing(
    visit: Open,
    address: str,
    pages: list[str],
    chapters: list[str],
    scheme: str,
    width: int,
) -> None:
    # The dark pages differ by their colours alone, the narrow ones by their frame.
    looks = [(False, OTHERS), (True, COLOURS)][scheme == "dark" :]
    counts: dict[bool, dict[str, int]] = {True: {}, False: {}}
    names = pages if width > 390 else ["", chapters[0]]
    page = visit(width=width, color_scheme=scheme)
    found = []
    for name in [*names, "no-such-page/"]:
        page.goto(address + name)
        expected = "slate" if scheme == "dark" else "default"
        assert page.get_attribute("body", "data-md-color-scheme") == expected
        for colours, rules in looks:
            counts[colours] = page.evaluate(THIN, [colours, counts[colours]])
            options = {"resultTypes": ["violations"], **rules}
            for violation in Axe().run(page, options=options).response["violations"]:
                for node in violation["nodes"][:3]:
                    found.append(f"/{name}: {violation['id']}: {node['html'][:150]}")
    assert not found, "\n".join(found)


def _search(page: Page, words: str) -> list[str]:
    page.locator(".md-search__input").press_sequentially(words)
    page.wait_for_selector(".md-search-result__link", state="attached")
    page.wait_for_function(
        "!/initial/i.test(document.querySelector('.md-search-result__meta').innerText)"
    )
    links = page.locator(".md-search-result__link")
    return [str(link.get_attribute("href")) for link in links.all()]


def test_search_for_an_identifier_lands_under_its_heading(visit: Open) -> None:
    page = visit()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "query"
    found = _search(page, "TextStream")
    place = [url.rpartition("#")[2] for url in found].index("TextStream")
    assert place < 4, f"TextStream is result {place + 1}: {found}"
    link = page.locator(".md-search-result__link").nth(place)
    if not link.is_visible():
        page.locator(".md-search-result__more > summary").first.click()
    link.click()
    page.wait_for_url("**/streams/**#TextStream")
    assert page.locator("#TextStream").evaluate("e => e.matches('h2, h3, h4')")
    top = page.locator("#TextStream").bounding_box()
    bar = page.locator(".md-header").bounding_box()
    assert top and bar and bar["height"] <= top["y"] < 450


def test_search_for_a_phrase_lands_under_its_heading(visit: Open) -> None:
    page = visit("streams/")
    heading, words = page.evaluate(
        """() => {
          for (const heading of document.querySelectorAll(".lit > h2[id]")) {
            const text = heading.nextElementSibling?.querySelector(".lit-doc > p")
            if (!text || text.querySelector("code, .arithmatex, a")) continue
            const words = text.textContent.trim().split(/\\s+/)
            const plain = words.filter(word => /^[a-z]{4,}$/i.test(word))
            if (plain.length > 5) return [heading.id, plain.slice(0, 5).join(" ")]
          }
        }"""
    )
    page.goto(page.url.split("streams/")[0])
    page.locator(".md-search__input").focus()
    found = _search(page, words)
    assert any(url.endswith(f"#{heading}") for url in found[:6]), (words, found)


def _loaded(page: Page) -> list[str]:
    page.wait_for_load_state("networkidle")
    names = page.evaluate("performance.getEntriesByType('resource').map(e => e.name)")
    return [str(name).rpartition("/")[2] for name in names]


def _typeset_all(page: Page) -> None:
    for name in ("beforeprint", "afterprint"):
        page.evaluate("name => dispatchEvent(new Event(name))", name)
    page.wait_for_load_state("networkidle")


FORMULA = ".lit-row:not(.lit-task) .arithmatex"
SET = f"{FORMULA}:has(.katex-html)"
# Whether all is set that is within a screen of the view.
NEAR_IS_SET = """() => document.readyState === "complete"
  && [...document.querySelectorAll(".arithmatex")].every(formula => {
    const { top, bottom } = formula.getBoundingClientRect()
    return !formula.checkVisibility() || formula.querySelector(".katex-html")
      || bottom < -innerHeight || top > 2 * innerHeight
  })"""


def test_a_formula_is_set_when_it_comes_near(visit: Open) -> None:
    page = visit("transformer_xl/", width=390, height=800)
    first = page.locator(FORMULA).first
    top = first.evaluate("formula => formula.getBoundingClientRect().top")
    assert top > 1600, "this chapter begins without formulas"
    assert not [name for name in _loaded(page) if "atex" in name]
    assert "\\(" in first.inner_text()
    page.evaluate("top => scrollTo(0, top - 1500)", top)  # near, not yet in view
    page.wait_for_selector(SET, state="attached")
    page.wait_for_function(NEAR_IS_SET)
    assert {"katex.min.js", "katex.min.css"} <= set(_loaded(page))
    assert page.locator(SET).count() < page.locator(FORMULA).count()


@pytest.mark.parametrize("holds", [True, False], ids=["holds", "as-in-Safari"])
def test_a_jump_lands_right_though_formulas_are_set(visit: Open, holds: bool) -> None:
    page = visit(width=390, height=800)
    home = page.url
    if not holds:
        page.route(
            "**/house.css",
            lambda route: route.fulfill(
                body=route.fetch().text() + "html { overflow-anchor: none }",
                content_type="text/css",
            ),
        )
    for name in ("compression/", "relative_attention/"):
        page.goto(home + name)
        anchors = page.evaluate(
            "[...document.querySelectorAll('.lit > h2[id]')].map(e => e.id)"
        )
        for anchor in anchors[:-2]:  # the end of the page comes before the last
            page.goto("about:blank")
            page.goto(f"{home}{name}#{anchor}")
            page.wait_for_function(NEAR_IS_SET)
            top = page.locator(f"[id='{anchor}']").evaluate(
                "place => place.getBoundingClientRect().top"
            )
            assert 52 <= top <= 92, f"/{name}#{anchor} stands at {top:.0f} px"


def test_paper_has_every_formula(visit: Open) -> None:
    page = visit("transformer_xl/")
    assert not page.locator(".katex").count()
    assert page.pdf().startswith(b"%PDF")
    math = page.locator(".arithmatex")
    assert math.count() == page.locator(".arithmatex:has(.katex-html)").count()
    page.reload()
    page.locator(FORMULA).first.scroll_into_view_if_needed()
    page.wait_for_function(NEAR_IS_SET)
    page.pdf()
    assert math.count() == page.locator(".arithmatex:has(.katex-html)").count()


def test_the_search_is_loaded_when_it_begins(visit: Open) -> None:
    page = visit("streams/")
    assert not [name for name in _loaded(page) if "bundle" in name or "search" in name]
    page.keyboard.press("/")
    assert _search(page, "TextStream")
    assert [name for name in _loaded(page) if name.startswith("bundle.")]
    assert page.locator(".md-search__input").input_value() == "TextStream"


def test_math_is_drawn_and_spoken(visit: Open, address: str, pages: list[str]) -> None:
    page = visit()
    seen = 0
    for name in pages:
        page.goto(address + name)
        _typeset_all(page)
        # A folded hint is spoken when it is unfolded.
        page.evaluate(
            "document.querySelectorAll('details').forEach(d => d.open = true)"
        )
        math = page.locator(".arithmatex")
        if not math.count():
            continue
        seen += 1
        drawn = page.locator(".arithmatex:has(.katex-html):has(math)")
        assert drawn.count() == math.count(), f"/{name}: math that is not drawn"
        assert not page.locator(".katex-error").count()
        session = page.context.new_cdp_session(page)
        root = session.send("DOM.getDocument", {"depth": 0})["root"]["nodeId"]
        spoken = 0
        for role in ("math", "MathMLMath"):
            asked = {"nodeId": root, "role": role}
            tree = session.send("Accessibility.queryAXTree", asked)["nodes"]
            spoken += sum(not node["ignored"] for node in tree)
        assert spoken >= math.count(), f"/{name}: {spoken} of {math.count()} spoken"
    assert seen


def test_readable_without_javascript(visit: Open, chapters: list[str]) -> None:
    for scheme in ("light", "dark"):
        page = visit(chapters[0], java_script_enabled=False, color_scheme=scheme)
        assert page.locator(".lit-doc p").first.is_visible()
        assert page.locator(".lit-code > pre").first.is_visible()
        assert page.locator(".lm-nav a").first.is_visible()
        figures = page.locator(".lit-figure").all()
        assert figures
        for figure in figures:
            shown = figure.locator(f".lit-{scheme}, img:only-of-type")
            assert shown.first.is_visible()
            assert figure.locator("img:visible").count() == 1
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(255, 255, 255)") == (scheme == "light")
        math = page.locator(".arithmatex").first
        assert "\\" in math.inner_text()
    page = visit(chapters[0], width=390, java_script_enabled=False)
    assert page.locator(".lm-nav a").first.is_visible()


def test_colours_switch_and_stay(visit: Open) -> None:
    page = visit(color_scheme="light")

    def ground() -> Any:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    button = "[data-md-component=palette] label:not([hidden])"
    assert ground() == "rgb(255, 255, 255)"
    page.locator(button).click()  # from the system's choice to light
    assert ground() == "rgb(255, 255, 255)"
    page.locator(button).click()
    assert ground() == "rgb(20, 22, 26)"
    page.reload()
    assert ground() == "rgb(20, 22, 26)"
    page.goto(page.url + "notation/")
    assert ground() == "rgb(20, 22, 26)"
    page.locator("[name=__palette]:checked").focus()
    page.keyboard.press("ArrowRight")
    assert ground() == "rgb(255, 255, 255)"


def test_figures_follow_the_colours(visit: Open, chapters: list[str]) -> None:
    for scheme, other in (("light", "dark"), ("dark", "light")):
        page = visit(chapters[0], color_scheme=scheme)
        assert page.locator(f".lit-figure .lit-{scheme}").first.is_visible()
        assert not page.locator(f".lit-figure .lit-{other}:visible").count()


def test_signature_card_on_focus_and_hover(visit: Open, chapters: list[str]) -> None:
    page = visit(chapters[0])
    link = page.locator(".lit-row pre > code a[data-signature]:visible").first
    card = page.locator("[role=tooltip]")
    assert not card.is_visible()
    link.focus()
    assert card.is_visible()
    assert card.inner_text().strip() == link.get_attribute("data-signature")
    assert link.get_attribute("aria-describedby") == card.get_attribute("id")
    page.keyboard.press("Escape")
    assert not card.is_visible()
    link.evaluate("link => link.blur()")
    unsigned = page.evaluate(
        """() => [...document.querySelectorAll(".lit-ref, pre > code a")].filter(link =>
          !link.dataset.signature).map(link => link.outerHTML)"""
    )
    assert not unsigned, f"names without a signature: {unsigned[:3]}"
    link.hover()
    assert card.is_visible()
    card.hover()
    page.wait_for_timeout(400)
    assert card.is_visible(), "the card leaves while the pointer is on it"
    page.mouse.move(2, 2)
    card.wait_for(state="hidden", timeout=2000)


def test_keyboard_reaches_everything_and_focus_shows(
    visit: Open, address: str, pages: list[str]
) -> None:
    page = visit()
    state = """() => {
      const element = document.activeElement
      const style = getComputedStyle(
        element.name === "__palette" ? element.nextElementSibling : element)
      const box = element.getBoundingClientRect()
      return {names: [...element.classList, element.name, element.tagName],
        ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0,
        contents: Boolean(element.closest(".lm-nav")),
        svg: Boolean(element.closest("svg")), x: box.x, y: box.y, href: element.href}
    }"""
    for name in [*pages, "no-such-page/"]:
        page.goto(address + name)
        page.keyboard.press("Tab")
        first = page.evaluate(state)
        assert "lm-skip" in first["names"], first
        assert first["ring"] and first["y"] >= 0, first
    page.goto(address)
    names: list[str] = []
    for _ in range(30):
        page.keyboard.press("Tab")
        now = page.evaluate(state)
        if "BODY" in now["names"]:
            break
        names += now["names"] + ["contents"] * now["contents"]
        assert now["ring"] or now["svg"], f"no visible focus on {now}"
    assert {"lm-skip", "lm-name", "md-search__input", "md-option"} <= set(names)
    assert "contents" in names
    page.goto(address)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("Boolean(document.activeElement.closest('#content'))")


def test_family_tree_by_keyboard(visit: Open) -> None:
    page = visit()
    link = page.locator("svg.lm-wide a").first
    page.locator("#the-family-of-models .headerlink").focus()
    page.keyboard.press("Tab")
    assert link.evaluate("link => link === document.activeElement")
    stroke = link.locator(".lm-hit").evaluate("e => getComputedStyle(e).stroke")
    assert stroke != "none", "the focused model has no ring"
    page.keyboard.press("Enter")
    page.wait_for_url("**/streams/")


def test_contents_and_search_on_a_phone(visit: Open) -> None:
    page = visit(width=390, height=800)
    links = page.locator(".lm-nav a").first
    assert not links.is_visible()
    menu = page.locator(".lm-menu")
    menu.focus()
    page.keyboard.press("Enter")
    assert links.is_visible() and menu.get_attribute("aria-expanded") == "true"
    page.keyboard.press("Escape")
    assert not links.is_visible() and menu.get_attribute("aria-expanded") == "false"
    find = page.locator(".lm-find")
    find.focus()
    page.keyboard.press("Enter")
    assert page.locator(".md-search__input").is_visible()
    assert _search(page, "TextStream")
    box = page.locator(".md-search__output").bounding_box()
    assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.keyboard.press("Escape")
    assert not page.locator(".md-search__input").is_visible()


def test_rows_are_aligned_and_no_column_is_empty(
    visit: Open, address: str, chapters: list[str]
) -> None:
    page = visit()
    for name in ["", *chapters]:
        page.goto(address + name)
        page.evaluate(
            "for (const d of document.querySelectorAll('details')) d.open = 1"
        )
        rows = page.evaluate(
            """() => [...document.querySelectorAll(".lit-row")].map(row => {
              const [doc, code] = [".lit-doc", ".lit-code"].map(
                part => row.querySelector(part))
              const [a, b] = [doc, code].map(part => part?.getBoundingClientRect())
              const right = code && (code.textContent.trim() !== ""
                || code.querySelector("img, svg, table") !== null)
              const head = row.previousElementSibling
              const named = head?.matches(".lit-def") && doc
              return {id: row.id, name: named ? 28 : 0, right,
                wide: row.classList.contains("lit-wide"),
                off: a && b ? b.top - a.top : 0, gap: a && b ? b.left - a.right : 9,
                share: b ? b.width / row.getBoundingClientRect().width : 0,
                end: b ? row.getBoundingClientRect().right - b.right : 0}
            })"""
        )
        assert rows, f"/{name} has no row"
        for row in rows:
            row["off"] += row["name"]
            where = f"/{name}#{row['id']}"
            assert row["wide"] != bool(row["right"]), f"{where}: an empty column"
            assert abs(row["off"]) <= 1, f"{where}: prose and code start {row['off']}"
            assert row["gap"] > 8, f"{where}: prose and code overlap"
            assert abs(row["end"]) <= 1, f"{where}: code is not in the right column"
            if row["right"]:
                assert 0.55 < row["share"] < 0.65, f"{where}: {row['share']} for code"


def test_code_stays_in_view_while_its_prose_scrolls(
    visit: Open, chapters: list[str]
) -> None:
    page = visit(chapters[0])
    both = ".lit-row:has(> .lit-doc):has(> .lit-code > pre)"
    row = page.locator(both).first
    row.locator(".lit-doc").evaluate(
        "doc => doc.append(Object.assign(document.createElement('p'),"
        " {textContent: 'Long prose. '.repeat(900)}))"
    )
    row.evaluate("row => scrollTo(0, row.getBoundingClientRect().top + scrollY + 900)")
    bar = page.locator(".md-header").bounding_box()
    pane = row.locator(".lit-code > pre").first.bounding_box()
    assert bar and pane
    assert 0 <= pane["y"] - bar["height"] < 40, f"the code stands at {pane['y']} px"


def test_code_scrolls_in_its_own_box(visit: Open, chapters: list[str]) -> None:
    page = visit(chapters[0], width=390)
    code = page.locator(".lit-code > pre").first
    code.evaluate("pre => pre.append('wide '.repeat(80))")
    assert code.evaluate("pre => pre.scrollWidth > pre.clientWidth")
    over = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
    assert over <= 0
    order = page.locator(".lit-row:not(.lit-wide)").first.evaluate(
        "row => row.querySelector('.lit-code').getBoundingClientRect().top"
        " - row.querySelector('.lit-doc').getBoundingClientRect().bottom"
    )
    assert order >= 0, "on a phone the code follows its prose"


def test_a_chapter_prints(visit: Open, chapters: list[str], tmp_path: Path) -> None:
    page = visit(chapters[0], color_scheme="dark")
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    page.emulate_media(media="print")
    for part in (".md-header", ".lm-side", ".lm-turn", ".lit-tools"):
        assert not page.locator(part).first.is_visible(), f"{part} is printed"
    assert page.locator(".lit-doc p").first.is_visible()
    look = page.locator(".lit-code > pre").first.evaluate(
        "pre => [getComputedStyle(pre).whiteSpace, getComputedStyle(pre).color,"
        " getComputedStyle(document.documentElement).colorScheme]"
    )
    assert look[0] == "pre-wrap", "code must wrap on paper"
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)", f"paper is {ground}"
    assert page.locator(".lit-figure .lit-light").first.is_visible()
    assert not page.locator(".lit-figure .lit-dark:visible").count()


def test_a_fold_opens_on_paper(visit: Open, chapters: list[str]) -> None:
    page = visit(chapters[0])
    folds = page.locator(".lit details")
    assert folds.count(), "a chapter has folded code"
    assert not folds.first.evaluate("fold => fold.open")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert folds.first.evaluate("fold => fold.open")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not folds.first.evaluate("fold => fold.open")


def test_motion_and_forced_colours(visit: Open, chapters: list[str]) -> None:
    page = visit(chapters[0], forced_colors="active", reduced_motion="reduce")
    assert page.locator(".lit-code > pre").first.is_visible()
    border = page.locator(".lit-code > pre").first.evaluate(
        "pre => getComputedStyle(pre).borderTopStyle"
    )
    assert border == "solid", "without colours the code needs a frame"
    moving = page.evaluate(
        """() => [...document.querySelectorAll("body *")].filter(element =>
          parseFloat(getComputedStyle(element).transitionDuration) > 0).length"""
    )
    assert moving == 0, f"{moving} elements move"


def test_the_contents_bar_marks_the_place(visit: Open, chapters: list[str]) -> None:
    page = visit(chapters[0])
    links = page.locator(".lm-toc > li > a")
    assert links.count() > 3
    link = links.nth(links.count() - 2)
    link.click()
    active = page.locator(".md-nav__link--active")
    page.wait_for_function(
        "name => document.querySelector('.md-nav__link--active')?.innerText === name",
        arg=link.inner_text(),
        timeout=3000,
    )
    assert active.count() == 1


def test_a_chapter_is_read_in_fifteen_screens(
    visit: Open, address: str, chapters: list[str]
) -> None:
    page = visit(height=1000)
    for name in chapters:
        if name.startswith("support/"):
            continue
        page.goto(address + name)
        _typeset_all(page)
        height, idea = page.evaluate(
            """() => ["article", ".lit-idea"].map(name =>
              document.querySelector(name)?.getBoundingClientRect()).map((box, idea) =>
                box && (idea ? box.top + scrollY : box.height))"""
        )
        assert height <= 15_000, f"/{name} takes {height / 1000:.1f} screens"
        assert idea is not None, f"/{name} has no idea cell"
        assert idea < 3000, f"/{name}: the idea stands at {idea:.0f} px"


def test_a_link_opens_the_fold_it_leads_into(form: Open) -> None:
    page = form()
    folds = page.locator(".lit-proof details")
    closed = "f => f.open = false"
    anchor = folds.first.get_attribute("id")
    link = page.locator(f'.lit-box a[href="#{anchor}"]')
    for _ in range(2):  # the second time the address stays the same
        assert not folds.first.evaluate("f => f.open")
        link.click()
        page.wait_for_function(
            "!document.querySelector('.lit-proof details').matches(':not([open])')"
        )
        top = folds.first.bounding_box()
        assert top and 0 < top["y"] < 900
        folds.first.evaluate(closed)
        page.evaluate("scrollTo(0, 0)")
    page.evaluate("location.hash = 'exercises'")
    assert not folds.first.evaluate("f => f.open")
    page.go_back()
    page.wait_for_function("document.querySelector('.lit-proof details').open")
    second = folds.nth(1).get_attribute("id")
    page.goto(page.url.partition("#")[0] + "?x#" + str(second))
    assert folds.nth(1).evaluate("f => f.open") and not folds.first.evaluate(
        "f => f.open"
    )
    page.locator(".lit-folds summary", has_text="Check").click()
    page.locator(".lit-check pre a").first.click()
    assert page.locator(".lit-exercise").evaluate("f => f.open"), (
        "a name leads to the stub"
    )


def test_a_link_opens_every_fold_around_it(form: Open) -> None:
    page = form()
    page.evaluate(
        """document.querySelector(".lit-proof details").insertAdjacentHTML("beforeend",
          "<details><summary>Inner</summary><p id=deep>Deep.</p></details>");
        document.querySelector("h1").innerHTML += "<a class=deep href=#deep>x</a>" """
    )
    page.locator("a.deep").click()
    page.evaluate(  # as in a browser that opens no fold by itself
        "document.querySelectorAll('details').forEach(d => d.open = false);"
        "dispatchEvent(new HashChangeEvent('hashchange'))"
    )
    page.wait_for_function("document.getElementById('deep').checkVisibility()")


def test_what_is_folded_can_be_read_without_javascript(form: Open) -> None:
    page = form(java_script_enabled=False)
    code = page.locator(".lit-proof details pre").first
    assert page.locator(".lit-proof .lit-out pre").first.is_visible()
    assert page.locator(".lit-tick").first.is_visible()
    assert not code.is_visible()
    summary = page.locator(".lit-proof summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert code.is_visible()


def test_search_finds_folded_code(form: Open) -> None:
    page = form()
    page.keyboard.press("/")
    assert any("#is-it-right" in url for url in _search(page, "measured"))


@pytest.mark.parametrize("width", [320, 390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_form_of_a_chapter(form: Open, width: int, scheme: str) -> None:
    page = form(width=width, color_scheme=scheme)
    folds = page.locator(".lit-folds > details")
    tops = folds.evaluate_all("all => all.map(f => f.getBoundingClientRect().top)")
    assert len(tops) == 4
    assert len(set(tops)) == 1 or width == 320, "the folds of an exercise are one row"
    for box in ("#what-you-will-find", "#use-it"):
        wide = page.locator(box).evaluate(
            "b => b.offsetWidth / b.closest('.lit').offsetWidth"
        )
        assert wide > 0.99, f"{box} lies across both columns"
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    over = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
    assert over <= 0
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response
    assert not found["violations"], [v["id"] for v in found["violations"]]


def test_links_in_code_are_plain_until_they_are_reached(form: Open) -> None:
    page = form()
    link = page.locator("pre > code a").first
    look = """a => [a, a.closest("code")].map(e => getComputedStyle(e).color)
      .concat(getComputedStyle(a).textDecorationLine)"""
    colour, around, line = link.evaluate(look)
    assert colour == around and line == "none"
    for reach in (link.hover, link.focus):
        page.keyboard.press("Tab")
        reach()
        colour, around, line = link.evaluate(look)
        assert colour != around and line == "underline"
        page.mouse.move(1, 1)


def test_headings_figures_and_titles(
    visit: Open, address: str, chapters: list[str]
) -> None:
    page = visit()
    for name in chapters:
        page.goto(address + name)
        narrow = page.evaluate(
            """() => [...document.querySelectorAll(".lit-figure img")].filter(i =>
              i.checkVisibility()
              && i.offsetWidth < i.closest(".lit-code").offsetWidth - 1).length"""
        )
        assert not narrow, f"/{name}: {narrow} figures are narrower than their column"
        sizes = page.evaluate(
            """() => ["class", "method"].map(kind => {
              const heading = document.querySelector(`.lit-def-${kind}`)
              return heading && parseFloat(getComputedStyle(heading).fontSize)})"""
        )
        assert None in sizes or sizes[0] > 1.2 * sizes[1]
        cut = page.evaluate(
            """() => [...document.querySelectorAll(".lm-nav a")].filter(link =>
              getComputedStyle(link).overflowWrap !== "normal"
              || link.scrollWidth > link.clientWidth).map(link => link.textContent)"""
        )
        assert not cut, f"/{name}: {cut}"
