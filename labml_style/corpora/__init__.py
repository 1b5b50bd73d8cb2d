"""Corpora: the texts of the site, checked and split, and their words as numbers.

A number on a benchmark means something only if the bytes are the benchmark's bytes. A
download that was cut short or a copy with other line ends trains without complaint and
gives another number. So each file is compared with what was published about it: Tiny
Shakespeare with the checksums of TensorFlow Datasets, enwik8 with its author's page,
WikiText with GluonNLP. No digest of the first 4,000,000 bytes of enwik8 is published:
their size and first bytes are checked.

| name | what | test part |
| --- | --- | --- |
| `tiny-shakespeare` | 1,115,394 bytes | last 5 % |
| `enwik8` | 100 MB of Wikipedia | last 5 MB |
| `enwik8-4mb` | its first 4 MB | last 0.2 MB |
| `wikitext-2`, `wikitext-103` | words | a file of its own |
| `python-docs` | help texts of Python | last 5 % |

Where the test part is cut from the end, the valid part is as long and stands before it.

    from labml_style.corpora import WordVocabulary, demo_corpus, load_corpus

    corpus = load_corpus("python-docs")
    print(corpus.text("test")[:60])
    words = WordVocabulary.from_text(corpus.text("train"), size=5000)
    numbers = words.encode(corpus.text("valid"))  # [time] int64

**Words.** Merity and others count 217,646 words in the valid part of WikiText-2
(*Pointer Sentinel Mixture Models*, 2017). Rare words are `<unk>` in the files already,
and each line ends with `<eos>`, blank lines too. `WordVocabulary` counts as they do.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labml_style.lab import download

__all__ = [
    "CORPORA",
    "SPLITS",
    "Corpus",
    "WordVocabulary",
    "demo_corpus",
    "load_corpus",
    "load_split",
]


class Corpus(NamedTuple):
    """A text in three parts.

    Attributes:
        name: one of `CORPORA`.
        train: bytes as a `uint8` tensor of one dimension.
        valid: the same, for choosing.
        test: the same, for the number that is reported.
        source: where it came from and how it was checked, in one line.
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    source: str

    def text(self, split: str) -> str:
        """Return a part as text; bytes that are no UTF-8 become `�`."""
        part: Tensor = getattr(self, split)
        return part.numpy().tobytes().decode(errors="replace")


SPLITS = ("train", "valid", "test")
WIKITEXT = ("wikitext-2", "wikitext-103")
CORPORA = ("tiny-shakespeare", "enwik8", "enwik8-4mb", *WIKITEXT, "python-docs")


def load_corpus(name: str, *, seconds: float | None = None) -> Corpus:
    """Load a corpus by name and cut it into train, valid and test.

    The file is looked for in the folder `LABML_STYLE_DATA`, then in the user's cache,
    then downloaded. Another text never takes its place. A file that is damaged,
    truncated or of the wrong size is not used: in the cache it is renamed to
    `NAME.rejected`; in the reader's own folder it is left alone.

    Args:
        name: one of `CORPORA`.
        seconds: give up a download after this time; None waits.

    Returns:
        The corpus, with bytes as `uint8`.

    Raises:
        ValueError: the name is unknown, or a file is not the published one.
        FileNotFoundError: no file and no network; the message says what to put where.
    """
    if name in WIKITEXT:
        parts = {split: load_split(name, split, seconds=seconds) for split in SPLITS}
        return Corpus(name, **parts, source="published files, SHA-1 checked")
    content, source = _whole(name, seconds)

    # A text without published splits is cut by position: the end is held out, because
    # a random tenth of the sentences would leave their neighbours in training.
    held = len(content) // 20  # 5 % each, for enwik8 as in its papers
    cuts = [len(content) - 2 * held, len(content) - held]
    train, valid, test = content.tensor_split(cuts)
    return Corpus(name, train, valid, test, source)


def load_split(name: str, split: str, *, seconds: float | None = None) -> Tensor:
    """Load one part of a corpus.

    WikiText's parts are files of their own: valid and test can be read without the
    large training file. The other corpora are read whole.

    Args:
        name: one of `CORPORA`.
        split: `"train"`, `"valid"` or `"test"`.
        seconds: give up a download after this time; None waits.

    Returns:
        Bytes, `uint8`, of one dimension.

    Raises:
        ValueError: the name or the split is unknown, or a file is not the published
            one.
        FileNotFoundError: no file and no network.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    if name in WIKITEXT:
        return _read(f"{name}-{split}", seconds)
    part: Tensor = getattr(load_corpus(name, seconds=seconds), split)
    return part


def _read(name: str, seconds: float | None) -> Tensor:
    content = download.locate(download.FILES[name], seconds=seconds).read_bytes()
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _whole(name: str, seconds: float | None) -> tuple[Tensor, str]:
    if name == "tiny-shakespeare":
        return _read(name, seconds), "char-rnn, SHA-256 checked"
    if name == "enwik8":
        return _read(name, seconds), "its author's page, SHA-1 checked"
    if name == "enwik8-4mb":
        try:
            return _read(name, seconds), "size and start checked, no published digest"
        except FileNotFoundError:
            whole = _read("enwik8", seconds)
            return whole[:4_000_000], "start of enwik8, SHA-1 checked"
    if name == "python-docs":
        from pydoc_data.topics import topics

        text = "\n".join(topics[key] for key in sorted(topics)).encode()
        content = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        return content, f"help texts of Python {platform.python_version()}"
    raise ValueError(f"corpus is {name!r}; expected one of {', '.join(CORPORA)}")


# Notebooks must run anywhere, also without a network. This is the one place where a
# second text may stand in for the first, and it says so.
def demo_corpus(*, seconds: float = 10.0) -> Corpus:
    """Return Tiny Shakespeare, or Python's own help texts, and print which.

    Args:
        seconds: how long Tiny Shakespeare may take to arrive.

    Returns:
        `tiny-shakespeare` where the file is present or arrives in time, else
        `python-docs`, which every Python holds and which differs between versions.

    Raises:
        ValueError: a file for Tiny Shakespeare is present and is not the published one.
    """
    try:
        corpus = load_corpus("tiny-shakespeare", seconds=seconds)
    except FileNotFoundError:
        corpus = load_corpus("python-docs")
    size = sum(len(part) for part in corpus[1:4])
    print(f"{corpus.name}: {size:,} bytes ({corpus.source})")
    return corpus


class WordVocabulary:
    """Words of a text as numbers.

    Args:
        words: distinct words, in the order of their numbers; `<unk>` and `<eos>` are
            appended where they are missing.

    Raises:
        ValueError: a word comes twice.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.words += [word for word in ("<unk>", "<eos>") if word not in words]
        self.number = {word: i for i, word in enumerate(self.words)}
        if len(self.number) < len(self.words):
            [(word, times), *_] = Counter(self.words).most_common(1)
            raise ValueError(f"{word!r} comes {times} times; give each word once")

    @classmethod
    def from_text(cls, text: str, size: int | None = None) -> WordVocabulary:
        """Number the words of a training text, most frequent first.

        A model can then treat frequent words apart, by rank alone.

        Args:
            text: words between spaces, one paragraph a line.
            size: keep this many of the most frequent; None keeps all. `<unk>` and
                `<eos>` come on top where they are not among them.

        Returns:
            The vocabulary; equally frequent words are in alphabetical order, so that
            the same text gives the same numbers.
        """
        lines = _lines(text)
        counts = Counter(word for line in lines for word in line.split())
        counts["<eos>"] = len(lines)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(ranked[:size])

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> Tensor:
        """Turn text into numbers; an unknown word becomes `<unk>`.

        Args:
            text: words between spaces; every line, also a blank one, ends in `<eos>`.

        Returns:
            `[time]` int64.
        """
        unknown, end = self.number["<unk>"], self.number["<eos>"]
        numbers = []
        for line in _lines(text):
            numbers += [self.number.get(word, unknown) for word in line.split()]
            numbers.append(end)
        return torch.tensor(numbers, dtype=torch.int64)

    def decode(self, numbers: Tensor) -> str:
        """Turn numbers into text: words between spaces, `<eos>` ends a line.

        Args:
            numbers: `[time]`, values below the size of the vocabulary.

        Returns:
            The text; encoding it gives the numbers again where the last is `<eos>`.

        Raises:
            ValueError: a number is no word's.
        """
        odd = [i for i in numbers.tolist() if not 0 <= i < len(self.words)]
        if odd:
            raise ValueError(
                f"numbers hold {odd[0]}; expected 0 to {len(self.words) - 1} for "
                f"{len(self.words)} words"
            )
        words = [self.words[i] for i in numbers.tolist()]
        lines = " ".join(words).replace(" <eos>", "<eos>").replace("<eos> ", "<eos>")
        return lines.replace("<eos>", "\n")


# `splitlines` also ends a line at form feeds and at the separators of Unicode, which
# stand inside of texts. A byte-order mark is no part of the first word.
def _lines(text: str) -> list[str]:
    lines = text.removeprefix("\ufeff").split("\n")
    return lines if lines[-1] else lines[:-1]
