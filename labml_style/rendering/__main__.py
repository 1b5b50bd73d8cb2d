"""Command line: `python -m labml_style.rendering`, then one of its commands."""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from labml_style.rendering import (
    address,
    anchors,
    notebooks,
    render_notebook,
    whole_page,
)
from labml_style.rendering.colab import setup_cell
from labml_style.rendering.publish import publish

ROOT = "folder with pyproject.toml, notebooks/ and the package"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        arguments: words of the command line; those of the process by default.
    """
    parser = argparse.ArgumentParser(prog="python -m labml_style.rendering")
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser(
        "notebooks",
        help="write each chapter's notebook from its module and execute what is stale",
    )
    command.add_argument("name", nargs="*", help="chapters; all of them by default")
    command.add_argument("--check", action="store_true", help="tell what is stale")
    command.add_argument("--force", action="store_true", help="execute all the same")
    command.add_argument("--root", type=Path, default=Path(), metavar="DIR", help=ROOT)
    command.set_defaults(run=_notebooks)
    command = commands.add_parser(
        "anchors", help="add the pages' new anchors to the lock of published ones"
    )
    command.add_argument("--check", action="store_true", help="tell which are gone")
    command.add_argument("--root", type=Path, default=Path(), metavar="DIR", help=ROOT)
    command.set_defaults(run=_anchors)
    command = commands.add_parser(
        "publish", help="make the built site the one commit of a branch, and push it"
    )
    command.add_argument("--site", type=Path, default=Path("site"), metavar="DIR")
    command.add_argument("--branch", default=address.BRANCH, help="gh-pages by default")
    command.add_argument("--remote", default="origin", help="origin by default")
    command.set_defaults(run=_publish)
    command = commands.add_parser(
        "html", help="render one notebook as an HTML fragment"
    )
    command.add_argument("notebook", type=Path, help="an .ipynb or a .py file")
    command.add_argument("--package", default="", help="package whose names are linked")
    command.add_argument(
        "--strict", action="store_true", help="refuse what otherwise is a warning"
    )
    command.add_argument(
        "--page", action="store_true", help="write a whole page, with its style"
    )
    command.add_argument("--out", type=Path, default=Path(), metavar="DIR")
    command.set_defaults(run=_html)
    given = parser.parse_args(arguments)
    try:
        return int(given.run(given))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _anchors(given: argparse.Namespace) -> int:
    book, lock = anchors.project_book(given.root.absolute())
    if lock is None:
        raise ValueError(
            "mkdocs.yml: set `anchors` of the plugin labml-style to a file"
        )
    if given.check:
        lost = anchors.vanished(lock, book)
        for item in lost:
            print(f"{item} was published and is gone: send it on under `moved`")
        return int(bool(lost))
    print(f"{lock.name}: {anchors.publish(lock, book)} new")
    return 0


def _publish(given: argparse.Namespace) -> int:
    commit = publish(given.site, branch=given.branch, remote=given.remote)
    print(f"{given.remote}, branch {given.branch}: {commit}")
    return 0


def _html(given: argparse.Namespace) -> int:
    chapter = render_notebook(
        given.notebook, package=given.package, strict=given.strict
    )
    for message in chapter.problems:
        print(f"warning: {message}", file=sys.stderr)
    given.out.mkdir(parents=True, exist_ok=True)
    html = whole_page(chapter) if given.page else chapter.html
    files = chapter.files | {f"{chapter.name}.html": html.encode()}
    for name, content in files.items():
        (given.out / name).write_bytes(content)
        print(given.out / name)
    return 0


def _notebooks(given: argparse.Namespace) -> int:
    root: Path = given.root.absolute()
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    package = project["name"].replace("-", "_")
    modules = notebooks.chapters(root / package)
    known = [module.stem for module in modules]
    for name in given.name:
        if name not in known:
            raise notebooks.ChapterError(
                f"no chapter {name!r}; there are: {', '.join(known)}"
            )
    # Only what the project says: whose copy this is makes no difference to a source.
    url = address.declared(root)
    setup = setup_cell(address.requirement(root, url), package) if url else None
    found = 0
    for module in modules:
        if given.name and module.stem not in given.name:
            continue
        path = root / "notebooks" / f"{module.stem}.ipynb"
        if given.check:
            problem = notebooks.check(module, path, setup=setup)
            found += bool(problem)
            print(problem or f"{path.name}: current")
            continue
        print(f"{path.name}: ", end="", flush=True)
        print(
            notebooks.refresh(
                module,
                path,
                setup=setup,
                version=project["version"],
                force=given.force,
                secret=[f"{root}/"],
            )
        )
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
