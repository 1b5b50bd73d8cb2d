"""Words as numbers, on a text small enough to count by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from labml_style import streams
from labml_style.lab import presets, runner
from labml_style.lab.words import END, UNKNOWN, as_words
from labml_style.streams import Corpus


def text(content: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(content.encode()), dtype=torch.uint8)


CORPUS = Corpus(
    "toy", text(" a b a \n\n b c a\n"), text("a d <unk>\n"), text("é\na"), "by hand"
)


def test_each_word_has_a_number_and_each_line_an_end() -> None:
    found, words = as_words(CORPUS)
    # a and the ends of lines stand three times, b twice, c once; <unk> never.
    assert words == [END, "a", "b", "c", UNKNOWN]
    train, valid, test = ([words[i] for i in part.tolist()] for part in found[1:4])
    assert train == ["a", "b", "a", END, END, "b", "c", "a", END]
    assert valid == ["a", UNKNOWN, UNKNOWN, END]
    assert test == [UNKNOWN, END, "a", END], "a last line without its end"
    assert found.train.dtype == torch.int32
    assert (found.name, found.source) == ("toy", "by hand")


def test_a_vocabulary_of_another_size_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "load_corpus", lambda name: CORPUS)
    preset = presets.find("wikitext-103-base")
    with pytest.raises(ValueError, match="vocabulary is 267735, and .* has 5 words"):
        runner.load(preset)
    arm = preset.arms["base"]
    small = replace(arm, config=replace(arm.config, vocabulary=5))
    corpus = runner.load(replace(preset, arms={"base": small}))
    assert isinstance(corpus, streams.Corpus) and int(corpus.train.max()) == 3
    assert runner.load(presets.find("smoke")) is CORPUS
