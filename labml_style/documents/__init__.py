"""Long documents, classified from a memory.

A document that does not fit into a segment is taken in several. Each is encoded with
the memory tokens that the one before it wrote, and in the end the answer is computed
from the memory. The training loop and the evaluator of the site work unchanged.

    from labml_style import Training, TrainingConfig
    from labml_style import documents

    articles = documents.load_hyperpartisan("articles.xml", "truth.xml")
    texts = [article.text.encode() for article in articles]
    labels = [article.label for article in articles]
    sizes = dict(segment_length=499, padding=256)  # bytes, and 256 for padding
    lanes = dict(segments=4, batch=4, seed=0)
    stream = documents.DocumentStream(texts, labels, **sizes, **lanes)
    sizes |= dict(classes=2, vocabulary=257, memory_tokens=10, initial_std=0.1)
    config = documents.RecurrentMemoryClassifierConfig(
        **sizes, d_model=64, heads=4, layers=2, d_ff=256
    )
    model = documents.RecurrentMemoryClassifier(config)
    how = TrainingConfig(steps=100, truncation=4)
    for update in Training(model, stream, how):
        print(update.number, update.bits)

Here a token is a byte, and an article is cut after 1,996 of them. The authors take
articles in up to 4 segments of 499 tokens, with 10 memory tokens (Bulatov et al. 2022,
*Recurrent Memory Transformer*). What a small model learns of a task made from two
corpora is measured in the chapter on recurrent memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import torch
from torch import Tensor, nn

from labml_style.contract import AnyPart, as_tokens, integer
from labml_style.recurrent_memory import (
    RecurrentMemory,
    RecurrentMemoryTransformer,
    RecurrentMemoryTransformerConfig,
)
from labml_style.streams import Batch, Stream


class ClassHead(nn.Linear):
    """States to logits, one for each class."""

    def __init__(self, config: RecurrentMemoryClassifierConfig) -> None:
        super().__init__(config.d_model, config.classes)


@dataclass(frozen=True, kw_only=True)
class RecurrentMemoryClassifierConfig(RecurrentMemoryTransformerConfig):
    """Sizes and parts of a classifier of documents.

    Attributes:
        classes: how many different answers there are.
        padding: token that fills a document up, and that nobody sees; None hides none.
        layout: `"encoder"`, the only one.
        head: part that makes the mean of the memory tokens into logits.

    Raises:
        ValueError: a value is outside its range; the message names it.
    """

    classes: int
    padding: int | None = None
    layout: str = "encoder"
    head: AnyPart = ClassHead

    def __post_init__(self) -> None:
        super().__post_init__()
        self.put("classes", integer("classes", self.classes, 2))
        if self.layout != "encoder" or self.memory_loss:
            raise ValueError(
                f"layout is {self.layout!r} and memory_loss {self.memory_loss}; "
                "expected 'encoder' and 0: a classifier guesses no tokens"
            )
        if self.padding is not None:
            self.put("padding", integer("padding", self.padding, 0))
            if self.padding >= self.vocabulary:
                raise ValueError(
                    f"padding is {self.padding}; expected a token below vocabulary "
                    f"{self.vocabulary}; give the vocabulary one token more"
                )


class RecurrentMemoryClassifier(RecurrentMemoryTransformer):
    """One block of memory tokens and the segment, each in sight of all; one answer.

    Logits are `[batch, time, classes]`, the same in each column: the answer after the
    segments so far. Only the last column of a document has a target, and not -100.

    The answer is the head's of the mean of the memory tokens. The authors compute it
    from a [CLS] token instead, which stands before the memory in each segment.

    Args:
        config: sizes and parts.

    Source: Bulatov et al. 2023, arXiv 2304.11062: one block of memory.
    """

    config: RecurrentMemoryClassifierConfig

    # A short document must give the same alone and beside a long one. So its padding is
    # hidden, and a segment that holds nothing else leaves the memory as it was.
    # `LearnedTokens` then answer from their start, and know no text.
    def encode(
        self, tokens: Tensor, memory: RecurrentMemory, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run a segment `[batch, time]`, of which padding and `hidden` are not seen.

        Returns:
            Logits `[batch, time, classes]`, and `[batch, memory_tokens, d_model]`.
        """
        if self.config.padding is not None:
            padding = tokens == self.config.padding
            hidden = padding if hidden is None else padding | hidden
        _, written = super().encode(tokens, memory, hidden)
        if hidden is not None:
            before = self.tokens(memory, len(tokens))
            written = torch.where(hidden.all(1)[:, None, None], before, written)
        logits = self.head(self.dropout(written.mean(1)))
        return logits[:, None].expand(-1, tokens.shape[1], -1), written


class DocumentStream(Stream):
    """Documents in segments, each asked for its label at its very end.

    A document is filled up with padding to `segments` segments, or cut there. Memory is
    reset where it begins. An epoch has each document once: where the last batch is not
    full, its other lanes are padding alone, and nothing is scored there.

    Args:
        documents: tokens of each, as `as_tokens` takes them.
        labels: a number from 0 for each document.
        segments: segments in a document.
        segment_length: tokens in a segment.
        batch: documents side by side.
        padding: a number that no document holds; the model is given the same.
        seed: the order of each epoch is drawn from it and the epoch's number; None
            keeps the order given, for evaluation.

    Raises:
        ValueError: a number is out of range, a document is empty or holds the padding,
            or there is not one label for each.
    """

    def __init__(
        self,
        documents: Sequence[Any],
        labels: Sequence[int] | Tensor,
        *,
        segments: int,
        segment_length: int,
        batch: int,
        padding: int,
        seed: int | None = None,
    ) -> None:
        if len(documents) != len(labels) or len(labels) == 0:
            raise ValueError(
                f"there are {len(documents)} documents and {len(labels)} labels; give "
                "at least one document, and one label for each"
            )
        self.segments = integer("segments", segments, 1)
        groups = -(-len(documents) // integer("batch", batch, 1))
        super().__init__(groups * self.segments, batch, segment_length)
        self.padding = integer("padding", padding, 0)
        self.seed = None if seed is None else integer("seed", seed, 0)
        answers = [integer(f"labels[{i}]", x, 0) for i, x in enumerate(labels)]
        self.labels, length = torch.tensor(answers), self.segments * segment_length
        self.tokens = torch.full((len(documents), length), self.padding)
        for i, document in enumerate(documents):
            part = as_tokens(document if len(document) else b"")[:length].long()
            if len(part) == 0 or (part == padding).any():
                raise ValueError(
                    f"documents[{i}] is empty or holds {padding}, the padding; leave "
                    "empty ones out, and take a number that no document holds"
                )
            self.tokens[i, : len(part)] = part
        # A saved position belongs to these documents with these labels.
        held = (one.numpy().tobytes() for one in (self.tokens, self.labels))
        self.digest = zlib.crc32(b"".join(held))

    def at(self, index: int) -> Batch:
        epoch, step = divmod(index, self.steps)
        group, segment = divmod(step, self.segments)
        order = torch.arange(len(self.tokens))
        if self.seed is not None:
            rng = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(len(order), generator=rng)
        chosen, n = order[group * self.batch :][: self.batch], self.segment_length
        tokens = torch.full((self.batch, n), self.padding)
        tokens[: len(chosen)] = self.tokens[chosen, segment * n : segment * n + n]
        targets = torch.full_like(tokens, -100)
        if segment == self.segments - 1:
            targets[: len(chosen), -1] = self.labels[chosen]
        return Batch(tokens, targets, torch.full((self.batch,), segment == 0))


class Document(NamedTuple):
    """A text, title and paragraphs, and its label: 1 for hyperpartisan, else 0."""

    text: str
    label: int


def load_hyperpartisan(articles: str | Path, truth: str | Path) -> list[Document]:
    """Load the news articles of SemEval-2019 Task 4 that were labelled one by one.

    Unpack `articles-training-byarticle-20181122.zip` and
    `ground-truth-training-byarticle-20181122.zip` of
    https://doi.org/10.5281/zenodo.5776081.

    Args:
        articles: file with `<article id="..." title="..."><p>...</p></article>`.
        truth: file with `<article id="..." hyperpartisan="true"/>`, or `"false"`.

    Returns:
        The articles in the order of the first file, with single spaces between words.

    Raises:
        ValueError: a file is no such XML, an article is not once in each, or its label
            is something else; the message names file and article.
    """
    texts, labels = _by_id(articles), _by_id(truth)
    for name in sorted(texts.keys() ^ labels.keys()):
        raise ValueError(
            f"{truth if name in texts else articles} has no article {name!r}, and the "
            "other file has it; give two files of the same articles"
        )
    found = []
    for name, article in texts.items():
        label = labels[name].get("hyperpartisan")
        if label not in ("true", "false"):
            raise ValueError(
                f"{truth}: hyperpartisan of article {name!r} is {label!r}; expected "
                "'true' or 'false': give the articles first, and then the truth"
            )
        # A link is part of its sentence; a paragraph is a text of its own.
        parts = [article.get("title", ""), article.text or ""]
        parts += [x for p in article for x in ("".join(p.itertext()), p.tail or "")]
        found.append(Document(" ".join(" ".join(parts).split()), int(label == "true")))
    return found


def _by_id(path: str | Path) -> dict[str, ElementTree.Element]:
    try:
        articles = ElementTree.parse(path).getroot().findall("article")
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is no XML ({error}); give the whole file") from None
    found = {one.get("id", ""): one for one in articles}
    ids = [one.get("id", "") for one in articles]
    for name in ids or [""]:
        if not name or ids.count(name) > 1:
            raise ValueError(
                f"{path}: id {name!r} is there {ids.count(name)} times, of {len(ids)}; "
                "expected <articles> with an <article id=...> for each, once"
            )
    return found
