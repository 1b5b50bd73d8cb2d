"""What models are trained and measured on: corpora, tasks, and texts of one's own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Protocol

import torch

from labml_style import corpora
from labml_style.corpora import CORPORA, SPLITS, Corpus
from labml_style.lab.recall import RecallTask
from labml_style.lab.words import HELD_OUT, as_words, held_out
from labml_style.streams import Stream

if TYPE_CHECKING:
    from labml_style.lab.presets import Preset

__all__ = ["KNOWN", "Task", "Text", "check", "facts", "load", "own", "task"]

KNOWN = (*CORPORA, RecallTask.name, HELD_OUT)
"""Corpora that a preset may name; it may name a file or a task as well."""


class Task(Protocol):
    """Samples that are drawn, as `recall`; a preset names its class."""

    name: str

    def stream(self, segment_length: int, batch: int, seed: int) -> Stream:
        """Return the samples of a run."""
        ...

    def measured(self, segment_length: int, batch: int, split: str) -> Stream:
        """Return samples that no run has seen."""
        ...


Text = Corpus | Task


def check(name: str) -> None:
    """Raise a `ValueError` where a preset names no corpus, no file and no task."""
    if name in KNOWN or ":" in name or Path(name).is_file():
        return
    if "/" in name or Path(name).suffix:
        raise ValueError(f"corpus is {name!r}, and there is no such file")
    raise ValueError(
        f"corpus is {name!r}; expected one of {', '.join(KNOWN)}, or the path of a "
        "text file"
    )


def load(preset: Preset) -> Text:
    """Load a preset's corpus, in bytes or in words, or its task.

    Raises:
        ValueError: the vocabulary of an arm does not fit the text.
        FileNotFoundError: the corpus is not there.
    """
    name = preset.corpus
    if name == RecallTask.name:
        return RecallTask()
    if name == HELD_OUT:
        corpus = held_out()
    elif name in CORPORA:
        corpus = corpora.load_corpus(name)
    elif Path(name).is_file():
        corpus = own(Path(name))
    else:
        return task(name, preset.title)
    words: list[str] = []
    if preset.tokens == "words":
        corpus, words = as_words(corpus)
    for arm, how in preset.arms.items():
        size = how.config.vocabulary
        if words and size != len(words):
            raise ValueError(
                f"{preset.title} {arm}: vocabulary is {size}, and {corpus.name} has "
                f"{len(words)} words"
            )
        largest = 0 if words or size >= 256 else max(int(p.max()) for p in corpus[1:4])
        if size <= largest:
            raise ValueError(
                f"{preset.title} {arm}: vocabulary is {size}, and {corpus.name} has "
                f"bytes up to {largest}; a text of bytes needs 256"
            )
    return corpus


def task(name: str, title: str) -> Task:
    """Return the task that an import string names.

    Raises:
        ValueError: there is none; the message begins with the preset's title.
    """
    try:
        kind = resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{title}: corpus is {name!r}; expected the import string of a task, or "
            f"the path of a text file ({error})"
        ) from None
    if not all(hasattr(kind, wanted) for wanted in ("name", "stream", "measured")):
        raise ValueError(
            f"{title}: corpus is {name!r}, which is no task; expected a class with "
            "name, stream and measured"
        )
    found: Task = kind()
    return found


OWN = "a file, SHA-256"
"""How the source of a text of one's own begins; its digest follows."""


def own(path: Path) -> Corpus:
    """Load a text file: the last tenth is held out, half valid, half test.

    Raises:
        ValueError: there is hardly anything in it.
    """
    content = path.read_bytes()
    held = len(content) // 20
    if held < 2:
        raise ValueError(
            f"{path} has {len(content)} bytes; expected at least 40, so that 5 % can "
            "be held out twice"
        )
    tokens = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    cuts = [len(content) - 2 * held, len(content) - held]
    train, valid, test = tokens.tensor_split(cuts)
    source = f"{OWN} {hashlib.sha256(content).hexdigest()}"
    return Corpus(path.name, train, valid, test, source)


def facts(text: Text) -> dict[str, Any]:
    """Return what a record says about its text."""
    if not isinstance(text, Corpus):
        return {"name": text.name, "source": "drawn", "bytes": {}}
    sizes = {split: len(getattr(text, split)) for split in SPLITS}
    return {"name": text.name, "source": text.source, "bytes": sizes}
