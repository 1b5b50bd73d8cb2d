"""Where a project's repository is, and what the pages make of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from labml_style.rendering.address import (
    Address,
    declared,
    find,
    requirement,
)

GITHUB = {
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "o/n",
    "GITHUB_SHA": "c0ffee",
    "GITHUB_REF": "refs/heads/trunk",
}
GITLAB = {
    "CI_PROJECT_URL": "https://git.example.org/group/sub/n",
    "CI_COMMIT_SHA": "c0ffee",
    "CI_DEFAULT_BRANCH": "trunk",
}


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git repository without a remote."""
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    return folder


def says(project: Path, repository: str, more: str = "") -> None:
    text = f'[project]\n{more}\n[project.urls]\nRepository = "{repository}"\n'
    (project / "pyproject.toml").write_text(text)


# --- where it comes from


def test_no_address_at_all(project: Path, tmp_path: Path) -> None:
    assert find(project, {}) is None
    assert find(tmp_path, {}) is None, "no repository, no pyproject.toml"


def test_the_project_comes_before_ci_and_ci_before_the_remote(project: Path) -> None:
    git(project, "remote", "add", "origin", "git@github.com:fork/n.git")
    assert find(project, {}) == Address("https://github.com/fork/n.git", "github")
    found = find(project, GITHUB)
    assert found == Address("https://github.com/o/n", "github", "c0ffee", "trunk")
    says(project, "https://github.com/first/n")
    # What CI says of its commit and branch is about another repository.
    assert find(project, GITHUB) == Address("https://github.com/first/n", "github")
    says(project, "https://github.com/o/n.git")
    found = find(project, GITHUB)
    assert found == Address("https://github.com/o/n.git", "github", "c0ffee", "trunk")


def test_gitlab_tells_it_too(project: Path) -> None:
    found = find(project, GITLAB)
    assert found is not None and found.commit == "c0ffee"
    start = "https://git.example.org/group/sub/n/-/edit/trunk"
    assert found.edit("a b.py") == f"{start}/a%20b.py"
    assert found.colab("a/a.ipynb") == ""


def test_a_pull_request_names_no_branch(project: Path) -> None:
    found = find(project, GITHUB | {"GITHUB_REF": "refs/pull/3/merge"})
    assert found is not None and found.branch == "main"


@pytest.mark.parametrize(
    ("remote", "url"),
    [
        ("git@github.com:o/n.git", "https://github.com/o/n.git"),
        ("github.com:o/n", "https://github.com/o/n"),
        ("ssh://git@github.com/o/n.git", "https://github.com/o/n.git"),
        ("ssh://git@github.com:22/o/n.git/", "https://github.com/o/n.git"),
        ("git://GitHub.com/o/n.git", "https://github.com/o/n.git"),
        ("https://github.com/o/n.git", "https://github.com/o/n.git"),
        ("https://github.com/o/n/", "https://github.com/o/n"),
        ("https://me:secret@github.com/o/n.git", "https://github.com/o/n.git"),
        ("https://secret@github.com/o/n", "https://github.com/o/n"),
        ("http://me:secret@localhost:3000/o/n", "http://localhost:3000/o/n"),
        ("file:///srv/n.git", "file:///srv/n.git"),
        ("/srv/my n.git", "file:///srv/my%20n.git"),
        ("ext::helper", None),
        ("alias:o/n.git", None),  # a name of one machine
    ],
)
def test_a_remote_as_others_can_use_it(
    project: Path, remote: str, url: str | None
) -> None:
    git(project, "config", "remote.origin.url", remote)
    found = find(project, {})
    assert (found and found.url) == url


def test_a_remote_beside_the_project(project: Path) -> None:
    git(project, "remote", "add", "origin", "../n.git")
    found = find(project, {})
    assert found is not None
    assert found.url == (project.parent / "n.git").resolve().as_uri()
    assert (found.edit("a.py"), found.colab("a/a.ipynb")) == ("", "")


def test_the_folder_in_the_repository_and_its_main_branch(project: Path) -> None:
    git(project, "remote", "add", "origin", "https://github.com/o/n.git")
    head = "refs/remotes/origin/HEAD"
    git(project, "symbolic-ref", head, "refs/remotes/origin/master")
    (project / "docs").mkdir()
    found = find(project / "docs", {})
    assert found is not None
    assert found.edit("a.py") == "https://github.com/o/n/edit/master/docs/a.py"


@pytest.mark.parametrize("text", ["stones", "../stones", "mailto:me", "x::y"])
def test_an_address_that_is_none_is_refused(project: Path, text: str) -> None:
    says(project, text)
    with pytest.raises(ValueError, match=f"Repository .*'{text}'; expected an address"):
        declared(project)


def test_a_project_file_that_cannot_be_read_is_named(project: Path) -> None:
    (project / "pyproject.toml").write_text("[project\n")
    with pytest.raises(ValueError, match=r"pyproject\.toml is no TOML: "):
        find(project, {})


# --- what follows


def test_links_of_a_repository_on_github() -> None:
    found = Address("https://github.com/o/n.git", "github")
    assert found.edit("a/b.py") == "https://github.com/o/n/edit/main/a/b.py"
    assert found.colab("a/a.ipynb") == (
        "https://colab.research.google.com/github/o/n/blob/gh-pages/a/a.ipynb"
    )


def test_a_host_that_is_not_known_gives_no_links(project: Path) -> None:
    says(project, "https://example.org/o/n")
    found = find(project, {})
    assert found == Address("https://example.org/o/n")
    assert (found.edit("a.py"), found.colab("a/a.ipynb")) == ("", "")


def test_what_pip_installs(project: Path) -> None:
    url = "https://github.com/o/n"
    assert requirement(project, url) == ""
    says(project, url, 'name = "my-stones"')
    assert requirement(project, url) == f"my-stones @ git+{url}"
    more = 'name = "my-stones"\noptional-dependencies = {lab = []}'
    says(project, url, more)
    wanted = requirement(project, url, "c0ffee", "docs/")
    assert wanted == f"my-stones[lab] @ git+{url}@c0ffee#subdirectory=docs"
