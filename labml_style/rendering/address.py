"""Where a project's repository is, and what follows: links and installation.

`find` asks `[project.urls] Repository` of pyproject.toml, then the environment of
GitHub's or GitLab's CI, then `git remote`. Credentials in an address are left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

__all__ = ["BRANCH", "Address", "declared", "find", "requirement"]

BRANCH = "gh-pages"
"""The branch that holds the built site; MkDocs has the same default."""

EDIT = {"github": "edit", "gitlab": "-/edit"}
"""How a host's address of its editor begins, by a part of the host's name."""


class Address(NamedTuple):
    """A repository.

    Attributes:
        url: what `git clone` takes: `https://...`, or `file://...` for a folder.
        kind: `"github"`, `"gitlab"`, or empty where the host's pages are not known.
        commit: the commit that is built, where CI says that the repository has it.
        branch: the branch whose files are edited.
        folder: where the project lies in the repository: empty, or `docs/`.
    """

    url: str
    kind: str = ""
    commit: str = ""
    branch: str = "main"
    folder: str = ""

    @property
    def web(self) -> str:
        """Address of the repository's first page."""
        return self.url.removesuffix(".git")

    def edit(self, path: str) -> str:
        """Where a file is edited; empty where the host's pages are not known.

        Args:
            path: the file, relative to the project.
        """
        if self.kind not in EDIT:
            return ""
        place = quote(f"{self.branch}/{self.folder}{path}")
        return f"{self.web}/{EDIT[self.kind]}/{place}"

    def colab(self, path: str, branch: str = BRANCH) -> str:
        """Where Colab opens a notebook; empty unless the repository is on github.com.

        Args:
            path: the notebook, relative to the root of the branch.
            branch: the branch that holds it.
        """
        found = re.fullmatch(r"https?://github\.com/([^/]+/[^/]+)", self.web)
        if not found:
            return ""
        start = "https://colab.research.google.com/github"
        return f"{start}/{found[1]}/blob/{quote(f'{branch}/{path}')}"


def find(root: Path, environment: Mapping[str, str] = os.environ) -> Address | None:
    """The address of a project's repository, or None where nothing tells it.

    Args:
        root: the project's folder.
        environment: variables of the process.

    Raises:
        ValueError: pyproject.toml cannot be read, or names something else.
    """
    ci, kind, commit, branch = _of_ci(environment)
    url = declared(root) or ci
    url = url or _normal(_git(root, "remote", "get-url", "origin"), root)
    if not url:
        return None
    if url.removesuffix(".git") != ci:  # what CI says is not about this repository
        kind = commit = branch = ""
    host = urlsplit(url).netloc
    kind = next((name for name in EDIT if name in host), kind)
    head = _git(root, "symbolic-ref", "--short", "refs/remotes/origin/HEAD")
    branch = branch or head.removeprefix("origin/") or "main"
    return Address(url, kind, commit, branch, _git(root, "rev-parse", "--show-prefix"))


def declared(root: Path) -> str:
    """The address under `[project.urls] Repository`, or an empty string.

    Args:
        root: the project's folder.

    Raises:
        ValueError: pyproject.toml cannot be read, or names something else.
    """
    urls = _project(root).get("urls", {})
    text = next((urls[key] for key in urls if key.lower() == "repository"), "")
    url = _normal(text, root) if ":" in text else ""
    if text and not url:
        raise ValueError(
            f"pyproject.toml: Repository under [project.urls] is {text!r}; expected an "
            "address such as https://github.com/OWNER/NAME, or no such line"
        )
    return url


def requirement(root: Path, url: str, commit: str = "", folder: str = "") -> str:
    """What pip installs from a repository, or an empty string if it is no package.

    That is the package with its extra `lab`, where it has one.

    Args:
        root: the project's folder.
        url: address of the repository.
        commit: the commit to install; the newest one by default.
        folder: where the project lies in the repository.
    """
    project = _project(root)
    if "name" not in project:
        return ""
    extra = "[lab]" if "lab" in project.get("optional-dependencies", {}) else ""
    place = f"git+{url}{commit and f'@{commit}'}"
    inside = f"#subdirectory={folder.rstrip('/')}" if folder else ""
    return f"{project['name']}{extra} @ {place}{inside}"


def _project(root: Path) -> dict[str, Any]:
    path = root / "pyproject.toml"
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return dict(tomllib.loads(text).get("project", {}))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"pyproject.toml is no TOML: {error}; mend it") from error


def _of_ci(environment: Mapping[str, str]) -> tuple[str, str, str, str]:
    """Address, kind, commit and branch, as GitHub's or GitLab's CI tells them."""
    get = environment.get
    if get("GITHUB_SERVER_URL") and get("GITHUB_REPOSITORY"):
        url = f"{get('GITHUB_SERVER_URL')}/{get('GITHUB_REPOSITORY')}"
        branch = get("GITHUB_REF", "")
        branch = branch.removeprefix("refs/heads/") if "/heads/" in branch else ""
        return url, "github", get("GITHUB_SHA", ""), branch
    url, branch = get("CI_PROJECT_URL", ""), get("CI_DEFAULT_BRANCH", "")
    return url, "gitlab", get("CI_COMMIT_SHA", ""), branch


def _git(root: Path, *words: str) -> str:
    """What git says, or an empty string if it fails or is missing."""
    command = ["git", "-C", str(root), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _normal(text: str, root: Path) -> str:
    """An address as others can use it, without credentials; empty if they cannot."""
    text = text.strip()
    if not text:
        return ""
    short = re.fullmatch(r"(?:[^/:]+@)?([^/:@]+):(?!//)/*(.+)", text)  # git@host:a/b
    parts = urlsplit(f"ssh://{short[1]}/{short[2]}" if short else text)
    host, path = parts.netloc.rpartition("@")[2].lower(), parts.path.rstrip("/")
    if parts.scheme in ("http", "https"):
        return f"{parts.scheme}://{host}{path}"
    if parts.scheme in ("ssh", "git", "git+ssh"):
        host = host.partition(":")[0]  # a port of ssh is not one of https
        return f"https://{host}{path}" if "." in host else ""
    if parts.scheme == "file":
        return f"file://{path}"
    return "" if parts.scheme else (root / text).resolve().as_uri()
