"""The lock of published anchors: a link that worked once keeps working.

`docs/anchors.json` lists, for each page, the ids that readers may have linked. A
section or a definition that disappears needs a line in `moved`, old id to new one; the
page then carries both. A row, `section--words`, may go: its links lead to the section.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .book import Book, read_book
from .prepare import write_text


def read_moved(path: Path | None) -> dict[str, dict[str, str]]:
    """Old anchor -> new anchor for each page name, from a lock file.

    Args:
        path: the lock; an absent one moves nothing.
    """
    if path is None or not path.exists():
        return {}
    moved: dict[str, dict[str, str]] = json.loads(path.read_text("utf-8"))["moved"]
    return moved


def project_book(root: Path) -> tuple[Book, Path | None]:
    """The book of a MkDocs project and its lock, as its `mkdocs.yml` says.

    Args:
        root: folder of `mkdocs.yml`.
    """
    from mkdocs.config import load_config

    options = load_config(str(root / "mkdocs.yml")).plugins["labml-style"].config
    book = read_book(
        root,
        notebooks=options["notebooks"],
        package=options["modules"],
        support=options["support"],
    )
    return book, root / options["anchors"] if options["anchors"] else None


def vanished(path: Path, book: Book) -> list[str]:
    """What a lock promises and a book lacks, as `page#anchor`.

    Args:
        path: the lock.
        book: the pages as they stand.
    """
    lock = json.loads(path.read_text("utf-8"))
    here = {chapter.key: set(chapter.anchors) for chapter in book.chapters.values()}
    lost = []
    for page, anchors in lock["published"].items():
        moved, stand = lock["moved"].get(page, {}), here.get(page, set())
        carried = stand | {old for old, new in moved.items() if new in stand}
        lost += [f"{page}#{a}" for a in anchors if not _leads_somewhere(a, carried)]
    return lost


def _leads_somewhere(anchor: str, carried: set[str]) -> bool:
    section, row, _ = anchor.partition("--")
    if anchor in carried or not row:
        return anchor in carried
    return any(one == section or one.startswith(f"{section}-") for one in carried)


def unlisted(path: Path, book: Book) -> list[str]:
    """What a book has and a lock does not list, as `page#anchor`.

    Args:
        path: the lock.
        book: the pages as they stand.
    """
    known = json.loads(path.read_text("utf-8"))["published"] if path.exists() else {}
    return [
        f"{chapter.key}#{anchor}"
        for chapter in book.chapters.values()
        for anchor in chapter.anchors
        if anchor not in known.get(chapter.key, ())
    ]


def publish(path: Path, book: Book) -> int:
    """Add a book's new anchors to a lock; nothing is ever removed.

    Args:
        path: the lock, written to a temporary name and renamed.
        book: the pages as they stand.

    Returns:
        How many anchors are new.
    """
    lock: dict[str, dict[str, Any]] = {"moved": {}, "published": {}}
    if path.exists():
        lock = json.loads(path.read_text("utf-8"))
    new = unlisted(path, book)
    for item in new:
        page, _, anchor = item.partition("#")
        lock["published"].setdefault(page, []).append(anchor)
    text = json.dumps(lock, indent=1, ensure_ascii=False) + "\n"
    write_text(path, text)
    return len(new)
