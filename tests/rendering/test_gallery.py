"""The gallery says what the command prints, and the command makes whole pages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from labml_style.rendering.__main__ import main

GALLERY = Path(__file__).resolve().parents[2] / "docs/gallery"


def test_the_warnings_of_the_gallery_are_those_of_the_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(GALLERY / "waves.ipynb", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["html", "waves.ipynb"]) == 0
    said = capsys.readouterr().err
    assert said.startswith("warning: ")
    assert said in (GALLERY / "index.md").read_text("utf-8")
    assert main(["html", "waves.ipynb", "--strict"]) == 1
    assert capsys.readouterr().err == said.replace("warning: ", "")


def test_a_whole_page_has_its_style(tmp_path: Path) -> None:
    notebook = GALLERY / "docstrings.ipynb"
    assert main(["html", str(notebook), "--page", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "docstrings.html").read_text("utf-8")
    soup = BeautifulSoup(text, "html.parser")
    assert text.startswith("<!doctype html>")
    assert soup.title is not None
    assert soup.title.get_text() == "Functions with NumPy docstrings"
    assert ".lit-row" in str(soup.style)
    assert soup.select_one(".lit > h1") is not None
