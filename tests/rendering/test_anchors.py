"""The lock of published anchors: links that worked once keep working."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labml_style.rendering.__main__ import main
from labml_style.rendering.anchors import (
    project_book,
    publish,
    read_moved,
    unlisted,
    vanished,
)
from labml_style.rendering.book import Book

ROOT = Path(__file__).parents[2]
FIXTURES = Path(__file__).parent / "fixtures"


def stone() -> Book:
    book = Book("")
    book.add(FIXTURES / "stone.ipynb")
    return book


def test_publishing_lists_every_anchor_once(tmp_path: Path) -> None:
    lock = tmp_path / "anchors.json"
    assert publish(lock, stone()) > 5
    assert publish(lock, stone()) == 0
    assert vanished(lock, stone()) == unlisted(lock, stone()) == []
    listed = json.loads(lock.read_text())["published"]["stone"]
    assert {"Stone.fall", "eq-1", "deviation-the-air-is-left-out"} <= set(listed)


def test_a_lost_anchor_is_noticed_until_it_is_moved(tmp_path: Path) -> None:
    lock = tmp_path / "anchors.json"
    publish(lock, stone())
    content = json.loads(lock.read_text())
    content["published"]["stone"].append("old")
    lock.write_text(json.dumps(content))
    assert vanished(lock, stone()) == ["stone#old"]
    content["moved"] = {"stone": {"old": "Stone.fall"}}
    lock.write_text(json.dumps(content))
    assert vanished(lock, stone()) == []
    assert read_moved(lock) == content["moved"]
    content["moved"] = {"stone": {"old": "gone too"}}
    lock.write_text(json.dumps(content))
    assert vanished(lock, stone()) == ["stone#old"]


def test_a_lost_row_leads_to_its_section(tmp_path: Path) -> None:
    lock = tmp_path / "anchors.json"
    publish(lock, stone())
    content = json.loads(lock.read_text())
    content["published"]["stone"] += ["Stone--gone", "nowhere--gone"]
    lock.write_text(json.dumps(content))
    assert vanished(lock, stone()) == ["stone#nowhere--gone"]
    content["moved"] = {"stone": {"nowhere": "Stone.fall"}}
    lock.write_text(json.dumps(content))
    assert vanished(lock, stone()) == []


def test_no_published_anchor_of_this_site_is_gone_and_all_are_listed() -> None:
    book, lock = project_book(ROOT)
    assert lock is not None
    assert vanished(lock, book) == [], "send them on under `moved` in the lock"
    assert unlisted(lock, book) == [], "run `make notebooks`"


def test_the_command_renders_a_notebook(tmp_path: Path) -> None:
    assert main(["html", str(FIXTURES / "stone.ipynb"), "--out", str(tmp_path)]) == 0
    page = (tmp_path / "stone.html").read_text()
    assert page + "\n" == (FIXTURES / "stone.html").read_text()


def test_the_command_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["html", str(tmp_path / "no.ipynb")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no.ipynb" in error
