"""The MkDocs plugin `labml-style`: chapters in, side-by-side pages out.

It writes a copy of each notebook with its outputs alone to a cache folder and hands it
to mkdocs-jupyter; when the HTML comes back, `arrange` puts it into rows.
Configuration:

```yaml
plugins:
  - search
  - labml-style:
      notebooks: notebooks            # folder of the .ipynb files
      modules: labml_style            # package they are paired with, or empty
      support: [labml_style/figures]  # plain modules to show below support/
      bibliography: docs/references.bib
      strict: true                    # refuse what otherwise is a warning
      accepted: [docs/gallery]        # where this is known, and neither
      style: false                    # the site has a style of its own for rows
  - mkdocs-jupyter: {include: ["*.ipynb"], allow_errors: false}
```
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import sys
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin

from bs4 import BeautifulSoup
from markdown.extensions.toc import slugify  # type: ignore[import-untyped]
from mkdocs.config import config_options as option
from mkdocs.config.base import Config
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import BasePlugin, event_priority, get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.structure.toc import get_toc

from .address import find, requirement
from .anchors import read_moved
from .bibliography import references_markdown
from .book import Chapter, folder_names, read_book
from .colab import built, setup_cell
from .page import arrange, boxes, breakable, outputs_notebook, toc
from .prepare import matches, prepared, write_text
from .prose import plain
from .rows import NotebookError

# mkdocs-jupyter imports jsonschema, and that imports this package where it is present,
# for a format no notebook uses. It compiles 39 grammars at import, which takes longer
# than building a site.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

log = get_plugin_logger("labml-style")

STYLE = "assets/labml-style/rows.css"


class LabmlStyleConfig(Config):
    """Options of the plugin; paths are relative to the configuration file."""

    notebooks = option.Type((str, list), default="notebooks")
    modules = option.Type(str, default="")
    support = option.ListOfItems(option.Type(str), default=[])
    bibliography = option.Type(str, default="")
    anchors = option.Type(str, default="")
    cache = option.Type(str, default=".cache/labml-style")
    strict = option.Type(bool, default=False)
    accepted = option.ListOfItems(option.Type(str), default=[])
    style = option.Type(bool, default=True)


class LabmlStylePlugin(BasePlugin[LabmlStyleConfig]):
    """Side-by-side pages for notebooks."""

    def on_config(self, config: MkDocsConfig) -> MkDocsConfig:
        """Find the project's folders and addresses."""
        self.root = Path(config.config_file_path or "mkdocs.yml").resolve().parent
        try:
            self.address = find(self.root)
            self.setup = self._setup()
        except ValueError as error:
            raise PluginError(str(error)) from error
        self.branch = config.remote_branch
        folders = folder_names(self.config.notebooks)
        for folder in folders:
            if not (self.root / folder).is_dir():
                message = f"notebooks: {folder!r} is no folder; name that of the .ipynb"
                raise PluginError(f"{message} files, as seen from mkdocs.yml")
        config.watch += [str(self.root / folder) for folder in folders]
        if self.config.style:
            config.extra_css.insert(0, STYLE)
        jupyter = config.plugins.get("mkdocs-jupyter")
        if jupyter is None:
            raise PluginError("labml-style needs the plugin mkdocs-jupyter beside it")
        self.jupyter: Any = jupyter.config
        self.jupyter["include_source"] = False  # the notebook is there in any case
        for name in ("theme", "highlight_extra_classes"):
            if self.jupyter[name]:
                log.warning(f"mkdocs-jupyter: {name} has no effect on rows; remove it")
        return config

    def _setup(self) -> dict[str, Any] | None:
        """The cell that installs the package of the chapters, for readers elsewhere."""
        at = self.address
        if at is None or not self.config.modules:
            return None
        wanted = requirement(self.root, at.url, at.commit, at.folder)
        return setup_cell(wanted, self.config.modules) if wanted else None

    @event_priority(100)
    def on_files(self, files: Files, config: MkDocsConfig) -> Files:
        """Read every chapter and register its copy, before mkdocs-jupyter."""
        options = self.jupyter
        cache = self.root / self.config.cache

        def file(page: str) -> File:
            return File(page, str(cache), config.site_dir, config.use_directory_urls)

        def address(page: str) -> str:  # a page's, which MkDocs gives to Markdown
            return file(f"{page.removesuffix('.ipynb')}.md").url

        def wanted(path: Path) -> bool:
            built = path.is_relative_to(config.site_dir)
            return not built and matches(path, options)

        lock = self.root / self.config.anchors if self.config.anchors else None
        try:
            self.book = read_book(
                self.root,
                notebooks=self.config.notebooks,
                package=self.config.modules,
                support=self.config.support,
                order=list(_nav_titles(config.nav)),
                docs=os.path.relpath(config.docs_dir, self.root),
                pages={f.src_uri: f.url for f in files},
                moved=read_moved(lock),
                address=address,
                wanted=wanted,
                prepare=lambda notebook, path: prepared(notebook, path, options, cache),
            )
        except NotebookError as error:
            raise PluginError(str(error)) from error
        for chapter in self.book.chapters.values():
            for message in chapter.unproved:
                log.warning(message)  # which a strict build does not pass
        for page_file in files.documentation_pages():
            marked = page_file.src_uri.endswith(".md")
            text = page_file.content_string if marked else ""
            cited = "<!-- references -->" in text.split("\n")
            keys = self._references() if cited else ""
            self.book.anchors[page_file.src_uri] = _anchors(text) | _anchors(keys)
        for page, chapter in self.book.chapters.items():
            part = cache / page
            outputs = outputs_notebook(chapter)
            text = json.dumps(outputs, ensure_ascii=False)
            if not part.exists() or part.read_text(encoding="utf-8") != text:
                write_text(part, text)
            before = files.get_file_from_path(page)
            if before is not None:
                files.remove(before)
            files.append(file(page))
        if self.config.style:
            style = Path(__file__).with_name("rows.css")
            files.append(File.generated(config, STYLE, abs_src_path=str(style)))
        return files

    def on_page_markdown(
        self, markdown: str, page: Page, config: MkDocsConfig, files: Files
    ) -> str:
        """Fill the pages that are collected: deviations and references."""
        lines = markdown.split("\n")
        for number, line in enumerate(lines):  # a mark is a line of its own
            if line == "<!-- deviations -->":
                lines[number] = self._deviations(page.url)
            elif line == "<!-- references -->":
                lines[number] = self._references()
        return "\n".join(lines)

    def _references(self) -> str:
        if not self.config.bibliography:
            return ""
        path = self.root / self.config.bibliography
        try:
            return references_markdown(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise PluginError(str(error)) from error

    def _deviations(self, url: str) -> str:
        parts = []
        for chapter in self.book.chapters.values():
            found = boxes(self.book, chapter, "deviation", url)
            if found:
                parts.append(f"## {chapter.title}\n")
            for address, html in found:
                link = f'<p><a href="{escape(address)}">In the chapter</a></p>'
                parts.append(f'<div class="lit-box lit-deviation">{html}{link}</div>\n')
        return "\n".join(parts) or "No chapter states a deviation yet."

    def on_page_content(
        self, html: str, page: Page, config: MkDocsConfig, files: Files
    ) -> str:
        """Arrange what mkdocs-jupyter rendered."""
        chapter = self.book.chapters.get(page.file.src_uri)
        if chapter is None:
            return html
        try:
            content = arrange(self.book, chapter, html, self._tools(chapter))
        except NotebookError as error:
            raise PluginError(str(error)) from error
        titles = _nav_titles(config.nav)
        page.title = titles.get(chapter.page) or escape(chapter.title)
        page.meta.setdefault("description", escape(_description(chapter)))
        page.meta.setdefault("chapter", chapter.name)
        if chapter.page.startswith("support/"):  # a search finds the chapters first
            page.meta.setdefault("search", {"boost": 0.3})
        deep = self.jupyter["toc_depth"]
        page.toc = get_toc(_tokens([one for one in toc(chapter) if one[0] <= deep]))
        mathjax = self.jupyter["custom_mathjax_url"]
        if mathjax:
            content += f'\n<script defer src="{escape(mathjax)}"></script>'
        for message in self._problems(chapter):
            if not self.config.strict:
                log.warning(message)
        return content

    def _problems(self, chapter: Chapter) -> list[str]:
        accepted = [self.root / folder for folder in self.config.accepted]
        known = any(chapter.source.is_relative_to(folder) for folder in accepted)
        return [] if known else chapter.problems

    def on_env(
        self, env: Any, /, *, config: MkDocsConfig, files: Files
    ) -> Any:
        """Refuse, in strict mode, what the pages must not be built from."""
        chapters = self.book.chapters.values()
        problems = [message for one in chapters for message in self._problems(one)]
        if self.config.strict and problems:
            raise PluginError("\n".join(problems))
        return env

    def _tools(self, chapter: Chapter) -> str:
        source = chapter.source
        links = []
        if source.suffix == ".ipynb":
            links.append((quote(f"{chapter.name}.ipynb"), "Notebook", " download"))
        if self._module(chapter).exists():
            links.append((f"{self._module(chapter).name}", "Module", " download"))
        if self.address is not None:
            folder = unquote(posixpath.dirname(chapter.url))
            path = posixpath.normpath(posixpath.join(folder, f"{chapter.name}.ipynb"))
            colab = self.address.colab(path, self.branch)
            if colab and source.suffix == ".ipynb":
                links.append((colab, "Open in Colab", ""))
            module = self._module(chapter)
            edited = module if module.exists() else source
            edit = self.address.edit(edited.relative_to(self.root).as_posix())
            if edit:
                links.append((edit, "Edit", ""))
        items = "".join(
            f'<a href="{escape(href)}"{more}>{text}</a>' for href, text, more in links
        )
        return (
            f'<nav class="lit-tools" aria-label="This chapter">{items}</nav>'
            if items
            else ""
        )

    def _module(self, chapter: Chapter) -> Path:
        source = chapter.source
        if source.suffix == ".py":
            return source
        return self.root / self.config.modules.replace(".", "/") / f"{chapter.name}.py"

    def on_post_page(self, output: str, page: Page, config: MkDocsConfig) -> str:
        """Write a chapter's files beside its page."""
        chapter = self.book.chapters.get(page.file.src_uri)
        if chapter is not None:
            folder = Path(page.file.abs_dest_path).parent
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in chapter.files.items():
                (folder / name).write_bytes(content)
            module = self._module(chapter)
            for source in {chapter.source, module}:
                needs = source.suffix == ".ipynb" and module.exists()
                if needs and self.setup is not None:
                    text = source.read_text(encoding="utf-8")
                    text = built(text, self.setup, self._public(chapter, config))
                    (folder / source.name).write_text(text, encoding="utf-8")
                elif source.exists():
                    (folder / source.name).write_bytes(source.read_bytes())
        return output

    def _public(self, chapter: Chapter, config: MkDocsConfig) -> Callable[[str], str]:
        """Addresses for a notebook that is opened elsewhere, where the site has one."""

        def address(link: str) -> str:
            path, mark, anchor = link.partition("#")
            page = self.book.page_of(chapter, path) if path else chapter.page
            if not config.site_url or page not in self.book.pages:
                return link
            return urljoin(config.site_url, self.book.pages[page]) + mark + anchor

        return address

    @event_priority(-100)
    def on_post_build(self, config: MkDocsConfig) -> None:
        """Take TeX out of the search index, once the search plugin has written it."""
        path = Path(config.site_dir) / "search" / "search_index.json"
        if path.exists():
            index = json.loads(path.read_text(encoding="utf-8"))
            for entry in index["docs"]:
                for part in ("title", "text"):
                    entry[part] = without_tex(entry[part])
            text = json.dumps(index, ensure_ascii=False, separators=(",", ":"))
            path.write_text(text, encoding="utf-8")


def without_tex(text: str) -> str:
    r"""Text of the search index with readable words for `\(...\)` and `\[...\]`.

    Names stay, commands and braces go: `\(n_s\)` is `n_s`, and `\(\frac{a}{b}\)` is
    `a b`.

    Args:
        text: HTML of an entry; a formula's characters are escaped there.
    """

    def readable(found: re.Match[str]) -> str:
        tex = re.sub(r"\\(?:begin|end|tag)\*?\{[^}]*\}", " ", found[1] or found[2])
        tex = re.sub(GREEK, r"\1", tex)
        tex = re.sub(r"\\[a-zA-Z]+|\\.|[{}]|&amp;", " ", tex)
        return " ".join(tex.split())

    return re.sub(r"\\\((.+?)\\\)|\\\[(.+?)\\\]", readable, text, flags=re.DOTALL)


GREEK = re.compile(
    r"\\(alpha|beta|gamma|delta|epsilon|theta|lambda|mu|pi|rho|sigma|tau|phi|psi|omega"
    r"|Delta|Sigma|Omega)(?![a-zA-Z])"
)


def _anchors(markdown: str) -> set[str]:
    """Anchors of a hand-written page: its headings and its explicit ids."""
    headings = re.findall(r"^#+ +(.+?)(?: *\{[^}]*\})?$", markdown, re.MULTILINE)
    explicit = re.findall(r'(?:\bid="|\{[^}]*#)([\w.-]+)', markdown)
    return {slugify(text, "-") for text in headings} | set(explicit)


def _nav_titles(nav: Any) -> dict[str, str]:
    """The pages of `nav` in order: source path -> title, empty where it gives none."""
    found: dict[str, str] = {}
    for item in nav if isinstance(nav, list) else ():
        for title, value in item.items() if isinstance(item, dict) else (("", item),):
            found |= _nav_titles(value) if isinstance(value, list) else {value: title}
    return found


def _description(chapter: Chapter) -> str:
    """The first paragraph of a page, as text."""
    found = next((row.html for row in chapter.rows if row.html), "")
    first = BeautifulSoup(found, "html.parser").find(["p", "li", "td"])
    return (plain(str(first)) if first else chapter.title)[:300]


def _tokens(toc: list[tuple[int, str, str]]) -> list[Any]:
    """Nested tokens as MkDocs takes them from a flat list of headings."""
    top: list[Any] = []
    stack: list[tuple[int, list[Any]]] = [(0, top)]
    for level, text, anchor in toc:
        while stack[-1][0] >= level:
            stack.pop()
        children: list[Any] = []
        name = re.sub(r"\w{12,}", lambda word: breakable(word[0]), escape(text))
        token = {"level": level, "id": anchor, "name": name, "html": name}
        token |= {"data-toc-label": "", "children": children}
        stack[-1][1].append(token)
        stack.append((level, children))
    return top
