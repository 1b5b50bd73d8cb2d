"""The built site, served under a sub-path as GitHub Pages serves a project."""

import contextlib
import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
PREFIX = "/labml-style/"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the site: built once, strictly, or named by LABML_STYLE_SITE."""
    if built := os.environ.get("LABML_STYLE_SITE"):
        return Path(built).resolve()
    # The processes of one run have folders of their own in a folder that they share.
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(shared / "site.lock"):
        if not (shared / "site").exists():
            building = shared / "building"
            build(building)
            building.rename(shared / "site")
    return shared / "site"


def build(folder: Path, project: Path = ROOT) -> None:
    """Build a project's site into a folder."""
    environment = os.environ | {
        "LABML_STYLE_SITE_URL": f"http://127.0.0.1{PREFIX}",
        "NO_MKDOCS_2_WARNING": "1",
    }
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    done = subprocess.run(
        command,
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"mkdocs build --strict failed:\n{done.stderr[-4000:]}"


@pytest.fixture(scope="session")
def pages(site: Path) -> list[str]:
    """Address of every page relative to the site's root; '' is the first page."""
    found = sorted(p.parent.relative_to(site).as_posix() for p in site.rglob("*.html"))
    return sorted({"" if name == "." else f"{name}/" for name in found})


@pytest.fixture(scope="session")
def chapters(site: Path, pages: list[str]) -> list[str]:
    """The pages made from our own notebooks and modules."""
    found = [
        name
        for name in pages
        if not name.startswith("gallery/")
        and " data-chapter=" in (site / name / "index.html").read_text("utf-8")
    ]
    assert found, "no page of the site is a chapter"
    return found


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder under PREFIX, with the site's own page for what is missing."""

    def translate_path(self, path: str) -> str:
        """The file for an address; a missing one outside the sub-path."""
        if not path.startswith(PREFIX):
            return os.path.join(self.directory, "outside-the-sub-path")
        return super().translate_path("/" + path.removeprefix(PREFIX))

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """Answer 404 as GitHub Pages does, with 404.html."""
        if code != 404:
            return super().send_error(code, message, explain)
        body = Path(self.directory, "404.html").read_bytes()
        self.send_response(404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def served(site: Path) -> Iterator[str]:
    """Serve a folder and tell its address, with a closing slash."""
    handler = functools.partial(Handler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}{PREFIX}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """Address of the served site."""
    with served(site) as found:
        yield found


FORM = f"""
INHERIT: {ROOT / "mkdocs.yml"}
nav: [index.md, form.ipynb]
plugins:
  - search
  - labml-style: {{style: false}}
  - mkdocs-jupyter: {{include: ["*.ipynb"]}}
"""


@pytest.fixture(scope="session")
def form_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a small site whose chapter `form/` has every kind of cell and box."""
    folder = tmp_path_factory.mktemp("form")
    shutil.copytree(ROOT / "docs/assets", folder / "docs/assets")
    shutil.copytree(ROOT / "overrides", folder / "overrides")
    (folder / "docs/index.md").write_text("# Home\n")
    (folder / "mkdocs.yml").write_text(FORM)
    (folder / "notebooks").mkdir()
    notebook = ROOT / "tests/rendering/fixtures/form.ipynb"
    shutil.copy(notebook, folder / "notebooks/form.ipynb")
    build(folder / "site", folder)
    with served(folder / "site") as found:
        yield found
