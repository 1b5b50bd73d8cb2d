"""The built site as a branch of its own: one commit, no history, nothing else moves."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from .address import BRANCH

__all__ = ["publish"]


def publish(site: Path, branch: str = BRANCH, remote: str = "origin") -> str:
    """Make a folder the only commit of a branch of a remote, whatever is there.

    The commit is made beside the branches of the repository in the current folder: its
    working tree, its index and its own branches stay as they are.

    Args:
        site: folder of the built site.
        branch: the branch that is replaced.
        remote: name or address of the remote.

    Returns:
        The commit.

    Raises:
        ValueError: there is no site, the branch is the remote's main one, or git fails.
    """
    if not (site / "index.html").is_file():
        raise ValueError(f"{site}: no index.html is there; build the site first")
    if f"ref: refs/heads/{branch}\t" in _git("ls-remote", "--symref", remote, "HEAD"):
        raise ValueError(
            f"--branch {branch}: {remote} has its sources there, and they would be "
            f"lost; name a branch for the site alone, such as {BRANCH}"
        )
    (site / ".nojekyll").touch()  # GitHub serves the files as they are
    with tempfile.TemporaryDirectory() as folder:
        aside = {
            "GIT_DIR": _git("rev-parse", "--absolute-git-dir"),
            "GIT_WORK_TREE": str(site.absolute()),
            "GIT_INDEX_FILE": f"{folder}/index",
        }
        _git("-c", "core.autocrlf=false", "add", "--all", "--force", ".", **aside)
        tree = _git("write-tree", **aside)
    who = ("-c", "user.name=labml-style", "-c", "user.email=labml-style@localhost")
    message = f"Site, built from {_git('rev-parse', '--short', 'HEAD')}"
    commit = _git(*who, "commit-tree", tree, "-m", message)
    _git("push", "--quiet", "--force", remote, f"{commit}:refs/heads/{branch}")
    return commit


def _git(*words: str, **environment: str) -> str:
    """What git says on stdout."""
    done = subprocess.run(
        ["git", *words],
        cwd=environment.get("GIT_WORK_TREE"),
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise ValueError(f"the site is not published: git {words[0]} failed, see above")
    return done.stdout.strip()
