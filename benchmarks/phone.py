"""How fast the pages are on a phone, by Lighthouse.

    python benchmarks/phone.py             # one chapter
    python benchmarks/phone.py --all       # all, and four more pages, in 20 minutes
    python benchmarks/phone.py streams/ claims/ --runs 5 --site site

The site is built, served gzipped as GitHub Pages serves it, and each page is loaded by
Lighthouse as a middling phone on a slow connection would load it. Printed are the
medians of the runs: the four scores, and what the first of them is made of. Two rows of
one page can be compared only where the machine did nothing else: Lighthouse multiplies
the times that it measures by four.

Node and Chromium are needed. Lighthouse is taken from the PATH, else by `npx`, which
downloads it.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
OTHERS = ["", "choosing/", "claims/", "results/"]
SCORES = {
    "performance": "speed",
    "accessibility": "access",
    "best-practices": "practice",
    "seo": "search",
}
TIMES = {
    "first-contentful-paint": "FCP",
    "largest-contentful-paint": "LCP",
    "speed-index": "SI",
    "total-blocking-time": "TBT",
    "cumulative-layout-shift": "CLS",
}
TEXT = {".html", ".css", ".js", ".json", ".svg", ".py", ".ipynb", ".xml"}


@cache
def packed(path: Path) -> bytes:
    """A file's content, gzipped."""
    return gzip.compress(path.read_bytes(), 6)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves text gzipped, keeps connections, lets files be cached."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with a file, or the index of a folder."""
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        if not path.is_file():
            return self.send_error(404)
        zipped = path.suffix in TEXT
        body = packed(path) if zipped else path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "public, max-age=600")
        if zipped:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def served(site: Path) -> Iterator[str]:
    """Serve a folder and tell its address, with a closing slash."""
    handler = partial(Handler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def lighthouse(address: str) -> dict[str, Any]:
    """One run's report.

    Raises:
        SystemExit: Lighthouse failed; its last lines are told.
    """
    found = shutil.which("lighthouse")
    command = [found] if found else ["npx", "--yes", "lighthouse"]
    command += [
        address,
        "--quiet",
        "--output=json",
        f"--only-categories={','.join(SCORES)}",
        "--chrome-flags=--headless=new --no-sandbox",
    ]
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    environment = os.environ | ({"CHROME_PATH": chromium} if chromium else {})
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"Lighthouse failed for {address}:\n{done.stderr[-2000:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def failed(report: dict[str, Any]) -> Iterator[str]:
    """The audits of the other three scores that cost points."""
    for name in list(SCORES)[1:]:
        for reference in report["categories"][name]["auditRefs"]:
            score = report["audits"][reference["id"]]["score"]
            if reference["weight"] and score is not None and score < 1:
                yield reference["id"]


def measure(address: str, name: str, runs: int) -> str:
    """The line of one page."""
    reports = [lighthouse(address + name) for _ in range(runs)]
    line = f"{name or 'home':26}"
    for score, title in SCORES.items():
        found = median(100 * report["categories"][score]["score"] for report in reports)
        line += f"{found:{len(title) + 2}.0f}"
    for audit in TIMES:
        found = median(report["audits"][audit]["numericValue"] for report in reports)
        line += f"{found:8.3f}" if audit.endswith("shift") else f"{found:8.0f}"
    speeds = [f"{100 * r['categories']['performance']['score']:.0f}" for r in reports]
    wrong = sorted({audit for report in reports for audit in failed(report)})
    return f"{line}   ({', '.join(speeds)}) {' '.join(wrong)}".rstrip()


def main() -> None:
    """Build, serve, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pages", nargs="*", help="addresses below the site's root")
    parser.add_argument("--all", action="store_true", help="every chapter, and others")
    parser.add_argument("--runs", type=int, default=3, help="3 unless told")
    parser.add_argument("--site", type=Path, help="a built site; else it is built")
    asked = parser.parse_args()
    if not shutil.which("npx") or not shutil.which("chromium"):
        print("phone: Node and Chromium are needed; nothing was measured")
        return
    with tempfile.TemporaryDirectory() as folder:
        site = asked.site or Path(folder, "site")
        if not asked.site:
            build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"]
            subprocess.run([*build, "--site-dir", str(site)], cwd=ROOT, check=True)
        chapters = sorted((ROOT / "notebooks").glob("*.ipynb"))
        pages = asked.pages or ["transformer_xl/"]
        if asked.all:
            pages = [*OTHERS, *(f"{path.stem}/" for path in chapters)]
        titles = [*SCORES.values(), *(f"{title:>6}" for title in TIMES.values())]
        print(f"{'':26}" + "".join(f"  {title}" for title in titles), flush=True)
        with served(site) as address:
            for name in pages:
                print(measure(address, name, asked.runs), flush=True)


if __name__ == "__main__":
    main()
