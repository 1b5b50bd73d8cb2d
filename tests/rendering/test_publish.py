"""The built site as a branch: what arrives, and what stays as it was."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from labml_style.rendering.__main__ import main


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    command = ["git", *who, *words]
    done = subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a bare one as its origin, a built site and work under way."""
    git(tmp_path, "init", "-q", "--bare", "-b", "main", "origin.git")
    git(tmp_path, "clone", "-q", "origin.git", "project")
    folder = tmp_path / "project"
    (folder / ".gitignore").write_text("site/\n")
    (folder / ".git/info/exclude").write_text("*.log\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "First")
    git(folder, "push", "-q", "origin", "HEAD:main")
    (folder / "staged").touch()
    git(folder, "add", "staged")
    (folder / "new").touch()
    (folder / "site/a b").mkdir(parents=True)
    (folder / "site/index.html").write_bytes(b"one\r\n")
    (folder / "site/a b/ä.log").write_text("ignored elsewhere")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")  # nobody is named there
    return folder


def test_the_branch_is_the_site_and_nothing_else_moves(project: Path) -> None:
    before = git(project, "status", "--short", "--branch"), git(project, "branch")
    for text in (b"one\r\n", b"two\r\n"):
        (project / "site/index.html").write_bytes(text)
        assert main(["publish"]) == 0
    after = git(project, "status", "--short", "--branch"), git(project, "branch")
    assert after == before
    git(project.parent, "clone", "-q", "-b", "gh-pages", "origin.git", "copy")
    copy = project.parent / "copy"
    assert git(copy, "rev-list", "--count", "HEAD") == "1"
    names = {
        path.relative_to(copy).as_posix()
        for path in copy.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(copy).parts
    }
    assert names == {"index.html", "a b/ä.log", ".nojekyll"}
    assert (copy / "index.html").read_bytes() == b"two\r\n"


def test_without_a_site_nothing_is_pushed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "site/index.html").unlink()
    assert main(["publish"]) == 1
    assert "site: no index.html is there; build the site" in capsys.readouterr().err
    assert "gh-pages" not in git(project, "ls-remote", "origin")


def test_the_branch_of_the_sources_is_not_overwritten(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = git(project, "ls-remote", "origin")
    assert main(["publish", "--branch", "main"]) == 1
    assert "--branch main: origin has its sources there" in capsys.readouterr().err
    assert git(project, "ls-remote", "origin") == before


def test_a_remote_that_is_missing_is_one_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", "--remote", "nowhere"]) == 1
    said = capsys.readouterr().err
    assert said == "the site is not published: git ls-remote failed, see above\n"
