"""Downloads against a real server on this machine: resumed, refused, kept aside."""

from __future__ import annotations

import errno
import hashlib
import io
import subprocess
import sys
import threading
import time
import urllib.error
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from labml_style.lab import download
from labml_style.lab.download import FILES, PublishedFile, fetch, locate, verify

CONTENT = bytes(range(256)) * 3000


class Server:
    """Serves one content under every path, and misbehaves on request.

    Attributes:
        content: what is served.
        ranges: honour the Range header.
        stop_after: send this many bytes of the next answer, then hang up.
        pause: seconds before an answer.
        drip: seconds between the pieces of an answer; 0 sends it whole.
        piece: bytes of a piece.
        refuse: say of every request, ranged or not, that it lies beyond the end.
        asked: the Range header of every request.
    """

    def __init__(self) -> None:
        self.content = CONTENT
        self.ranges = True
        self.stop_after: int | None = None
        self.pause = 0.0
        self.drip = 0.0
        self.piece = 1000
        self.refuse = False
        self.asked: list[str | None] = []
        serving = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                serving.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        serve = self.http.serve_forever
        threading.Thread(target=serve, args=(0.02,), daemon=True).start()

    def url(self, name: str = "file.bin") -> str:
        return f"http://127.0.0.1:{self.http.server_port}/{name}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.asked.append(asked)
        time.sleep(self.pause)
        start, size = 0, len(self.content)
        if self.refuse or asked and self.ranges:
            start = int((asked or "0").removeprefix("bytes=").removesuffix("-"))
            if self.refuse or start >= size:
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{size}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(size - start))
        request.end_headers()
        stop, self.stop_after = self.stop_after, None
        end = size if stop is None else start + stop
        drip, piece = self.drip, self.piece if self.drip else size
        try:
            for at in range(start, end, piece):
                request.wfile.write(self.content[at : min(at + piece, end)])
                time.sleep(drip)
        except ConnectionError:
            pass  # given up


@pytest.fixture
def server() -> Iterator[Server]:
    serving = Server()
    yield serving
    serving.http.shutdown()
    serving.http.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty cache, and no folder of the reader's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LABML_STYLE_DATA", raising=False)
    return tmp_path / "cache" / "labml-style"


def published(url: str = "", content: bytes = CONTENT) -> PublishedFile:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return PublishedFile("file.bin", len(content), digest, content[:4], url)


def names(folder: Path) -> list[str]:
    """List a folder, apart from the empty lock files: they stay."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_download_leaves_the_file_and_nothing_else(
    server: Server, tmp_path: Path
) -> None:
    path = fetch(server.url(), tmp_path / "new" / "file.bin", progress=False)
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["file.bin"]


def test_a_file_address_works_and_leaves_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    path = fetch(source.as_uri(), tmp_path / "to" / "file.bin", progress=False)
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["file.bin"]


def test_an_interrupted_download_goes_on_where_it_stopped(
    server: Server, tmp_path: Path
) -> None:
    server.stop_after = 100_000
    with pytest.raises(OSError, match="100,000 of 768,000"):
        fetch(server.url(), tmp_path / "file.bin", progress=False)
    assert names(tmp_path) == ["file.bin.part"]
    server.stop_after = 50_000
    with pytest.raises(OSError, match="150,000 of 768,000"):
        fetch(server.url(), tmp_path / "file.bin", progress=False)
    path = fetch(server.url(), tmp_path / "file.bin", progress=False)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]
    assert names(tmp_path) == ["file.bin"]


def test_a_server_without_ranges_is_read_from_the_start(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "file.bin.part").write_bytes(b"old" * 9)
    server.ranges = False
    path = fetch(server.url(), tmp_path / "file.bin", progress=False)
    assert path.read_bytes() == CONTENT
    assert server.asked == ["bytes=27-"]


def test_a_whole_part_is_taken_as_it_is(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    path = fetch(server.url(), tmp_path / "file.bin", progress=False)
    assert path.read_bytes() == CONTENT
    assert server.asked == ["bytes=768000-"]


def test_a_part_longer_than_the_file_is_fetched_again(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"more")
    path = fetch(server.url(), tmp_path / "file.bin", progress=False)
    assert path.read_bytes() == CONTENT
    assert server.asked == ["bytes=768004-", None]


def test_a_refused_download_is_kept_aside(server: Server, cache: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(ValueError, match="has sha256 .*kept as"):
        locate(published(server.url()))
    assert names(cache) == ["file.bin.rejected"]
    server.content = CONTENT
    assert locate(published(server.url())).read_bytes() == CONTENT
    assert names(cache) == ["file.bin", "file.bin.rejected"]


def test_a_part_of_another_file_is_refused_after_resuming(
    server: Server, cache: Path
) -> None:
    cache.mkdir(parents=True)
    (cache / "file.bin.part").write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match="starts with"):
        locate(published(server.url()))
    assert names(cache) == ["file.bin.rejected"]
    assert locate(published(server.url())).read_bytes() == CONTENT


def test_time_runs_out(server: Server, tmp_path: Path) -> None:
    server.pause = 3.0
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        fetch(server.url(), tmp_path / "file.bin", seconds=0.2, progress=False)
    assert time.monotonic() - began < 2
    assert not (tmp_path / "file.bin").exists()


def test_a_slow_line_makes_progress_within_a_short_time(
    server: Server, tmp_path: Path
) -> None:
    server.drip = 0.02
    with pytest.raises(TimeoutError):
        fetch(server.url(), tmp_path / "file.bin", seconds=0.4, progress=False)
    have = (tmp_path / "file.bin.part").stat().st_size
    assert 0 < have < 65_536
    server.drip = 0
    path = fetch(server.url(), tmp_path / "file.bin", seconds=5, progress=False)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={have}-"]


def test_a_download_that_was_given_up_writes_nothing_more(
    server: Server, cache: Path
) -> None:
    cache.mkdir(parents=True)
    (cache / "file.bin.part").write_bytes(CONTENT[:1000])
    server.drip, server.piece = 0.8, 40_000
    with pytest.raises(FileNotFoundError, match="did not arrive"):
        locate(published(server.url()), seconds=0.1)
    server.drip = 0
    path = locate(published(server.url()), seconds=5)
    time.sleep(1)  # the second piece of the first answer arrives
    assert path.read_bytes() == CONTENT
    assert names(cache) == ["file.bin"]


@pytest.mark.parametrize("member", ["", "folder/a"])
def test_of_two_processes_one_downloads_and_one_waits(
    member: str, server: Server, cache: Path
) -> None:
    content = hashlib.shake_128(b"noise").digest(20_000)
    server.content = archive(a=content) if member else content
    server.drip = 0.05
    wanted = published(server.url("one.zip"), content)._replace(member=member)
    code = f"from labml_style.lab.download import *; locate({wanted!r})"
    root = Path(download.__file__).parents[2]
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, cwd=root) for _ in range(2)]
    assert [process.wait(15) for process in both] == [0, 0]
    assert (cache / "file.bin").read_bytes() == content
    assert names(cache) == ["file.bin"]
    assert server.asked == [None]


def test_waiting_for_another_process_ends_in_time(
    server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "file.bin"
    with download._alone(path, None):
        with pytest.raises(TimeoutError, match="another process"):
            fetch(server.url(), path, seconds=0.2, progress=False)
    assert server.asked == []
    assert fetch(server.url(), path, seconds=5).read_bytes() == CONTENT


def test_without_locks_a_download_works(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "fcntl", None)
    assert fetch(server.url(), tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_file_that_is_there_is_fetched_again_only_if_refused(
    server: Server, tmp_path: Path
) -> None:
    def check(path: Path) -> None:
        verify(path, published())

    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT)
    assert fetch(server.url(), path, check=check) == path
    assert server.asked == []
    path.write_bytes(b"other")
    with pytest.warns(UserWarning, match="has 5 bytes.*file.bin.rejected"):
        assert fetch(server.url(), path, check=check).read_bytes() == CONTENT


def test_a_range_refused_without_a_part_names_the_answer(
    server: Server, cache: Path
) -> None:
    server.refuse = True
    with pytest.raises(urllib.error.HTTPError, match="416"):
        fetch(server.url(), cache / "file.bin", progress=False)
    with pytest.raises(FileNotFoundError, match="cannot be fetched: .*416"):
        locate(published(server.url()))
    assert names(cache) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CONTENT[:-5], "has 767,995 bytes; file.bin has 768,000"),
        (b"<htm" + CONTENT[4:], "starts with b'<htm'"),
        (CONTENT[:-1] + b"?", "has sha256"),
    ],
)
def test_verify_says_what_was_expected_and_found(
    content: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        verify(path, published())
    path.write_bytes(CONTENT)
    verify(path, published())


def test_a_bad_file_in_the_cache_is_moved_aside_and_fetched_again(
    server: Server, cache: Path
) -> None:
    cache.mkdir(parents=True)
    (cache / "file.bin").write_bytes(CONTENT[:-5])
    with pytest.warns(UserWarning, match="767,995 bytes"):
        path = locate(published(server.url()))
    assert path.read_bytes() == CONTENT
    assert (cache / "file.bin.rejected").read_bytes() == CONTENT[:-5]


def test_a_read_only_cache_gives_good_files_and_refuses_bad_ones(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    (cache / "file.bin.lock").mkdir(parents=True)  # nor can a lock be made
    (cache / "file.bin").write_bytes(CONTENT)
    monkeypatch.setattr(Path, "replace", refuse)
    assert locate(published(server.url())) == cache / "file.bin"
    (cache / "file.bin").write_bytes(CONTENT[:-5])
    for url in (server.url(), ""):
        with pytest.raises(ValueError) as error:
            locate(published(url))
        assert "767,995 bytes; file.bin has 768,000" in str(error.value)
        assert "cannot be moved aside ([Errno 13]" in str(error.value)
    assert server.asked == [] and names(cache) == ["file.bin"]


def test_a_bad_file_of_the_reader_is_refused_and_left_alone(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "file.bin").write_bytes(CONTENT[:-5])
    monkeypatch.setenv("LABML_STYLE_DATA", str(folder))
    with pytest.raises(ValueError, match="Replace or remove"):
        locate(published(server.url()))
    assert names(folder) == ["file.bin"] and server.asked == []
    (folder / "file.bin").write_bytes(CONTENT)
    assert locate(published(server.url())) == folder / "file.bin"


def test_without_network_the_message_says_which_file_to_put_where(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url()
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(FileNotFoundError) as error:
        locate(published(url))
    for part in ("768,000 bytes", "sha256:", str(cache / "file.bin"), url):
        assert part in str(error.value)
    monkeypatch.setenv("LABML_STYLE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "file.bin")):
        locate(published(url))
    with pytest.raises(FileNotFoundError, match="is not here. Put it"):
        locate(published())


def archive(method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members.items():
            file.writestr(f"folder/{name}", content)
    return buffer.getvalue()


def test_an_archive_is_unpacked_whole_and_removed(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = archive(a=CONTENT, b=b"other")
    url = server.url("both.zip")
    first = published(url)._replace(member="folder/a")
    second = PublishedFile("other.bin", 5, url=url, member="folder/b")
    monkeypatch.setattr(download, "FILES", {"second": second})
    assert locate(first).read_bytes() == CONTENT
    assert names(cache) == ["file.bin", "other.bin"]
    assert locate(second).read_bytes() == b"other"
    assert len(server.asked) == 1


def harmed(harm: str, content: bytes) -> bytes:
    """Return an archive of `content` that is damaged, or made in an unknown way."""
    if harm == "no member":
        return archive(b=content)
    if harm == "other content":
        return archive(a=content[:-1] + b"?")
    methods = {"bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}
    data = bytearray(archive(methods.get(harm, zipfile.ZIP_DEFLATED), a=content))
    if harm == "cut":
        return bytes(data[:-2000])
    if harm in ("encrypted", "unknown method"):
        # Flags and method stand in the entry, and again in the table at the end.
        for header in (0, data.index(b"PK\1\2") + 2):
            data[header + 6] |= harm == "encrypted"
            data[header + 8] = 99 if harm == "unknown method" else data[header + 8]
        return bytes(data)
    data[len(data) // 2] ^= 255
    return bytes(data)


@pytest.mark.parametrize(
    "harm",
    [
        *("cut", "stored", "deflate", "bzip2", "lzma"),
        *("other content", "no member", "encrypted", "unknown method"),
    ],
)
def test_a_damaged_archive_is_kept_aside(
    harm: str, server: Server, cache: Path
) -> None:
    noise = hashlib.shake_128(b"noise").digest(50_000)
    if harm != "stored":
        noise = noise.hex().encode()  # compressible, so that flipping breaks a code
    server.content = harmed(harm, noise)
    wanted = published(server.url("one.zip"), noise)._replace(member="folder/a")
    with pytest.raises(
        ValueError, match="does not hold folder/a as published.*one.zip.rejected; call"
    ):
        locate(wanted)
    assert names(cache) == ["one.zip.rejected"]
    server.content = archive(a=noise)
    assert locate(wanted).read_bytes() == noise


def test_a_full_disk_keeps_the_archive_and_nothing_else(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: io.BytesIO, target: io.BytesIO, length: int) -> None:
        target.write(source.read(100))
        raise OSError(errno.ENOSPC, "No space left on device")

    server.content = archive(a=CONTENT)
    wanted = published(server.url("one.zip"))._replace(member="folder/a")
    with monkeypatch.context() as patched:
        patched.setattr(download.shutil, "copyfileobj", full)
        with pytest.raises(OSError, match="one.zip: .*No space left.*is kept") as error:
            locate(wanted)
    assert error.type is OSError
    assert names(cache) == ["one.zip"]
    assert locate(wanted).read_bytes() == CONTENT
    assert names(cache) == ["file.bin"] and len(server.asked) == 1


def test_the_table_of_files_is_complete() -> None:
    assert len({file.name for file in FILES.values()}) == len(FILES) == 9
    for name, file in FILES.items():
        assert file.digest or name == "enwik8-4mb"
        assert file.url.startswith("https://") or name == "enwik8-4mb"
        assert file.digest or (file.size and file.start)
        algorithm, _, digest = file.digest.partition(":")
        assert len(digest) == {"sha1": 40, "sha256": 64, "": 0}[algorithm]
