"""Fetch a published file once, check it, and keep what fails the check aside.

`FILES` is what is known about each file. `locate` is what `load_corpus` calls:
it looks in the reader's folder, then in the cache, then downloads. `fetch` is the
download alone: it resumes, and of several processes that want the same file one
receives it while the others wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import shutil
import threading
import time
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "FILES",
    "PublishedFile",
    "cache_folder",
    "data_folder",
    "fetch",
    "locate",
    "set_aside",
    "verify",
]

T = TypeVar("T")

BLOCK = 1 << 16
"""Bytes read at a time, at most."""

STALL = 30.0
"""Seconds without a byte after which a download counts as interrupted."""


class PublishedFile(NamedTuple):
    """What is known about one published file.

    Attributes:
        name: file name in the reader's folder and in the cache.
        size: bytes; None where no source states it.
        digest: `"sha1:…"` or `"sha256:…"` of the file; empty where none is published.
        start: bytes it starts with.
        url: where it is fetched; empty where it has no host of its own.
        member: its path inside a zip archive at `url`; empty for a plain file.
    """

    name: str
    size: int | None = None
    digest: str = ""
    start: bytes = b""
    url: str = ""
    member: str = ""


def _wikitext(edition: str, **digests: str) -> dict[str, PublishedFile]:
    # The digests are those of the unpacked files, whoever packed them. The first
    # author of WikiText hosts the archives; the bucket they came from is gone.
    # Valid and test of the two editions are the same text but not the same files:
    # fewer words are written <unk> in the larger edition.
    return {
        f"wikitext-{edition}-{split}": PublishedFile(
            f"wikitext-{edition}-{split}.txt",
            digest=f"sha1:{digest}",
            url=f"https://wikitext.smerity.com/wikitext-{edition}-v1.zip",
            member=f"wikitext-{edition}/wiki.{split}.tokens",
        )
        for split, digest in digests.items()
    }


FILES = {
    # Digest: tensorflow/datasets, url_checksums/tiny_shakespeare.txt.
    "tiny-shakespeare": PublishedFile(
        "tinyshakespeare.txt",
        1_115_394,
        "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
        "tinyshakespeare/input.txt",
    ),
    # Size and digest: mattmahoney.net/dc/textdata.html, by its author.
    "enwik8": PublishedFile(
        "enwik8",
        100_000_000,
        "sha1:57b8363b814821dc9d47aa4d41f58733519076b2",
        start=b"<mediawiki ",
        url="https://mattmahoney.net/dc/enwik8.zip",
        member="enwik8",
    ),
    # No digest of this part is published.
    "enwik8-4mb": PublishedFile("enwik8-first-4MB", 4_000_000, start=b"<mediawiki "),
    # Digests: dmlc/gluon-nlp, src/gluonnlp/data/corpora/wikitext.py.
    **_wikitext(
        "2",
        train="863f29c46ef9d167fff4940ec821195882fe29d1",
        valid="0418625c8b4da6e4b5c7a0b9e78d4ae8f7ee5422",
        test="c7b8ce0aa086fb34dab808c5c49224211eb2b172",
    ),
    **_wikitext(
        "103",
        train="b7497e2dfe77e72cfef5e3dbc61b7b53712ac211",
        valid="c326ac59dc587676d58c422eb8a03e119582f92b",
        test="8a5befc548865cec54ed4273cf87dbbad60d1e47",
    ),
}
"""Published files by name; each digest comes from the source named above it."""


def data_folder() -> Path | None:
    """Return the folder named by `LABML_STYLE_DATA`, or None where it is unset."""
    name = os.environ.get("LABML_STYLE_DATA")
    return Path(name).expanduser() if name else None


def cache_folder() -> Path:
    """Return the folder for downloads: `labml-style` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "labml-style"


def verify(path: Path, wanted: PublishedFile) -> None:
    """Check size, first bytes and digest, as far as they are known.

    Args:
        path: an existing file.
        wanted: what the published file is known to be.

    Raises:
        ValueError: the file differs; the message says what was expected and found.
    """
    size = path.stat().st_size
    if wanted.size is not None and size != wanted.size:
        raise ValueError(
            f"{path} has {size:,} bytes; {wanted.name} has {wanted.size:,}"
        )
    with path.open("rb") as file:
        start = file.read(len(wanted.start))
    if start != wanted.start:
        raise ValueError(
            f"{path} starts with {start!r}; {wanted.name} starts with {wanted.start!r}"
        )
    if wanted.digest:
        algorithm, expected = wanted.digest.split(":")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if found != expected:
            raise ValueError(
                f"{path} has {algorithm} {found}; {wanted.name} has {expected}"
            )


def set_aside(path: Path) -> Path:
    """Rename a refused file to `NAME.rejected`, replacing an older one.

    Args:
        path: the file that failed a check.

    Returns:
        Where it lies now.

    Raises:
        OSError: it cannot be renamed, as in a folder that is read-only.
    """
    return path.replace(path.with_name(path.name + ".rejected"))


def _refuse(path: Path) -> str:
    """Set a file aside and say where it lies, or why it cannot be moved."""
    try:
        return f"It is kept as {set_aside(path)}"
    except OSError as error:
        return f"It cannot be moved aside ({error}): remove it"


def _there(path: Path, check: Callable[[Path], None]) -> bool:
    """Say whether an accepted file is there; set a refused one aside, and warn."""
    if not path.is_file():
        return False
    try:
        check(path)
    except ValueError as error:
        said = f"{error}. {_refuse(path)}"
        if path.exists():
            raise ValueError(said) from error
        warnings.warn(said, stacklevel=3)
        return False
    return True


@contextlib.contextmanager
def _alone(path: Path, deadline: float | None) -> Iterator[None]:
    """Hold `NAME.lock`, so that one process at a time works on `path`.

    The empty lock file stays: were it removed, a process that waits for the old one
    and a process that makes a new one would both go on. Where no lock can be had
    (Windows, some network disks, a read-only folder) the work is done without.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as opened:
        lock = None
        with contextlib.suppress(OSError):
            lock = opened.enter_context(path.with_name(path.name + ".lock").open("w"))
        while lock is not None and not _locked(lock):
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"another process is still at work on {path}")
            time.sleep(0.05)
        yield


def _locked(file: IO[str]) -> bool:
    """Try to lock a file, until it is closed; False where another process holds it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks
        pass
    return True


def fetch(
    url: str,
    path: Path,
    *,
    seconds: float | None = None,
    progress: bool = True,
    check: Callable[[Path], None] = lambda part: None,
) -> Path:
    """Download a file; an interrupted download goes on where it stopped.

    Bytes go to `NAME.part`. The file appears under its own name, in one step, after
    it is complete and `check` accepts it, so a file under that name is always whole.
    A server that ignores the request for a range is read from the start. Of several
    processes that fetch the same file, one receives it; the others wait and find it.

    Args:
        url: `http:`, `https:` or `file:`.
        path: where the file will be. Its folder is made. A file that is there and
            that `check` accepts is returned as it is; one it refuses is renamed to
            `NAME.rejected`, with a warning, and fetched again.
        seconds: give up after this time; None waits as long as bytes arrive.
        progress: draw a progress bar.
        check: is given the complete file before it gets its name.

    Returns:
        `path`.

    Raises:
        OSError: no connection, or it broke off. The part stays, for the next call.
        TimeoutError: (an `OSError`) `seconds` have passed. The part stays.
        ValueError: `check` refused the file. It is renamed to `NAME.rejected`; where
            it cannot be, the message says why.
    """
    deadline = _deadline(seconds)
    with _alone(path, deadline):
        return _fetch(url, path, deadline, progress, check)


def _deadline(seconds: float | None) -> float | None:
    """Return the time on the monotonic clock when `seconds` have passed."""
    return None if seconds is None else time.monotonic() + seconds


def _fetch(
    url: str,
    path: Path,
    deadline: float | None,
    progress: bool,
    check: Callable[[Path], None],
) -> Path:
    """Fetch, while the caller holds the lock of `path`."""
    if _there(path, check):
        return path
    part = path.with_name(path.name + ".part")
    _receive(url, part, deadline, progress)
    try:
        check(part)
    except ValueError as error:
        aside = part.replace(path.with_name(path.name + ".rejected"))
        raise ValueError(f"{error}. Fetched from {url}, kept as {aside}") from error
    return part.replace(path)


def _within(
    url: str, deadline: float | None, call: Callable[..., T], *args: object
) -> T:
    """Call, but give up at the deadline.

    The call is made in a thread, because looking up a host name cannot be interrupted.
    A thread that is given up may wake up late. It only talks to the network: files are
    written by the caller, so a late answer changes none.
    """
    if deadline is None:
        return call(*args)
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call(*args))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return answer.result(max(deadline - time.monotonic(), 0))
    except TimeoutError:
        raise TimeoutError(f"{url} did not arrive in time") from None


def _receive(url: str, part: Path, deadline: float | None, progress: bool) -> None:
    """Bring `part` to its full length."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = _within(url, deadline, urllib.request.urlopen, request, None, STALL)
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if have and resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file:
            have = _copy(response, file, have, total, url, deadline, progress)
        # Not closed after a timeout: that would wait for the thread that still reads.
        response.close()
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        # Nothing lies beyond what is here: the part is whole, or not of this file.
        if error.headers.get("Content-Range", "") != f"bytes */{have}":
            part.unlink()
            _receive(url, part, deadline, progress)
        return
    except http.client.HTTPException as error:
        raise OSError(f"{url} broke off: {error!r}; call again to go on") from error
    if total is not None and have != total:
        raise OSError(
            f"{url} broke off after {have:,} of {total:,} bytes; call again to go on"
        )


def _copy(
    source: io.BufferedIOBase,
    target: IO[bytes],
    have: int,
    total: int | None,
    url: str,
    deadline: float | None,
    progress: bool,
) -> int:
    """Copy blocks until the source ends, and return the bytes there are now."""
    from tqdm import tqdm

    with tqdm(
        desc=url.rsplit("/", 1)[-1],
        initial=have,
        total=total,
        unit="B",
        unit_scale=True,
        leave=False,
        disable=not progress,
    ) as bar:
        # `read` waits for a whole block; `read1` returns what has arrived.
        while block := _within(url, deadline, source.read1, BLOCK):
            target.write(block)
            have += len(block)
            bar.update(len(block))
    return have


def _unpack(archive: Path, wanted: PublishedFile, path: Path) -> None:
    """Take one member out of a zip archive, check it, and give it its name."""
    part = path.with_name(path.name + ".unpacked")
    try:
        with zipfile.ZipFile(archive) as members, members.open(wanted.member) as source:
            with part.open("wb") as target:
                shutil.copyfileobj(source, target, BLOCK)
        verify(part, wanted)
        part.replace(path)
    except Exception as error:  # a damaged archive raises errors of many kinds
        # An error of the system has a number; one of a decompressor has none.
        if isinstance(error, OSError) and error.errno:
            raise OSError(
                f"{wanted.member} cannot be unpacked from {archive}: {error}. The "
                f"archive is kept: call again when {path.parent} has room"
            ) from error
        raise ValueError(
            f"{archive} does not hold {wanted.member} as published: {error}. "
            f"{_refuse(archive)}; call again to fetch it anew"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def locate(wanted: PublishedFile, *, seconds: float | None = None) -> Path:
    """Return a checked copy of a published file; download it where there is none.

    The reader's folder, `LABML_STYLE_DATA`, comes first. It belongs to the reader and
    may be read-only: a file in it that fails its check is refused and stays where it
    is. The cache is ours: what fails there is renamed to `NAME.rejected`, with a
    warning, and fetched again. Nothing that failed a check is ever returned. Several
    processes may call at once: one downloads and unpacks, the others wait for it.

    Args:
        wanted: name, size, digest and address of the file.
        seconds: give up a download, and waiting for that of another process, after
            this time; None waits.

    Returns:
        A path whose content passed `verify`.

    Raises:
        ValueError: a file differs from what was published.
        FileNotFoundError: the file is nowhere and cannot be fetched; the message says
            which file to put where.
        OSError: the disk has no room for what an archive holds.
    """

    def check(path: Path) -> None:
        verify(path, wanted)

    folder = data_folder()
    if folder is not None and (folder / wanted.name).is_file():
        try:
            verify(folder / wanted.name, wanted)
        except ValueError as error:
            raise ValueError(
                f"{error}. Replace or remove this file: it is not used, and as it "
                "lies in LABML_STYLE_DATA it is left as it is"
            ) from error
        return folder / wanted.name
    path = cache_folder() / wanted.name
    # A good file needs no lock, so that a cache may be read-only.
    with contextlib.suppress(OSError, ValueError):
        check(path)
        return path
    size = f"{wanted.size:,} bytes" if wanted.size is not None else ""
    known = ", ".join(filter(None, [size, wanted.digest]))
    where = f"Put it ({known}) at {(folder or cache_folder()) / wanted.name}" + (
        "" if folder else ", or set LABML_STYLE_DATA to a folder that holds it"
    )
    if not wanted.url:
        _there(path, check)
        raise FileNotFoundError(f"{wanted.name} is not here. {where}")
    archive = path.with_name(wanted.url.rsplit("/", 1)[-1])
    target = archive if wanted.member else path
    deadline = _deadline(seconds)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_alone(target, deadline))
            if _there(path, check):
                return path
            _fetch(
                wanted.url,
                target,
                deadline,
                progress=True,
                check=(lambda archive: None) if wanted.member else check,
            )
        except OSError as error:
            raise FileNotFoundError(
                f"{wanted.name} is not here, and {wanted.url} cannot be fetched: "
                f"{error}. {where}"
            ) from error
        if wanted.member:
            # All that the archive holds is unpacked, so that it need not be kept.
            for member in {wanted, *FILES.values()}:
                there = cache_folder() / member.name
                if member.url == wanted.url and not there.is_file():
                    _unpack(archive, member, there)
            archive.unlink()
    return path
