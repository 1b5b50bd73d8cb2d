"""Words as numbers, on a text small enough to count by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from labml_style import corpora
from labml_style.corpora import Corpus
from labml_style.lab import presets, texts
from labml_style.lab.words import (
    HELD_OUT,
    UNKNOWN,
    _spans,
    as_words,
    by_count,
    held_out,
)
from labml_style.streams import TextStream
from labml_style.training import evaluate, nats
from labml_style.transformer_xl import TransformerXL, TransformerXLConfig


def text(content: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(content.encode()), dtype=torch.uint8)


CORPUS = Corpus(
    "toy", text(" a b a \n\n b c a\n"), text("a d <unk>\n"), text("é\na"), "by hand"
)


def test_each_word_has_a_number_and_each_line_an_end() -> None:
    found, words = as_words(CORPUS)
    # a and the ends of lines stand three times, b twice, c once; <unk> never.
    assert words == ["<eos>", "a", "b", "c", UNKNOWN]
    train, valid, test = ([words[i] for i in part.tolist()] for part in found[1:4])
    assert train == ["a", "b", "a", "<eos>", "<eos>", "b", "c", "a", "<eos>"]
    assert valid == ["a", UNKNOWN, UNKNOWN, "<eos>"]
    assert test == [UNKNOWN, "<eos>", "a", "<eos>"], "a last line without its end"
    assert found.train.dtype == torch.int32
    assert (found.name, found.source) == ("toy", "by hand")


def test_a_vocabulary_of_another_size_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(corpora, "load_corpus", lambda name: CORPUS)
    preset = presets.find("wikitext-103-base")
    with pytest.raises(ValueError, match="vocabulary is 267735, and .* has 5 words"):
        texts.load(preset)
    arm = preset.arms["base"]
    small = replace(arm, config=replace(arm.config, vocabulary=5))
    corpus = texts.load(replace(preset, arms={"base": small}))
    assert isinstance(corpus, corpora.Corpus) and int(corpus.train.max()) == 3
    assert texts.load(presets.find("smoke")) is CORPUS


def test_whole_words_end_with_their_white_space() -> None:
    content = b"ab cd  \n e f"
    found = [content[first:last] for first, last in _spans(content)]
    assert found == [b"cd ", b"e "], "borders cut the first and the last"


def test_the_bits_of_words_are_those_of_their_bytes() -> None:
    """Three lanes, each computed alone and cut into words by hand."""
    train = text("the " * 1200 + "cat " * 150 + "sat " * 12 + "mat " * 3)
    line = "the cat sat on the mat <unk> the dog \n"
    content = text(line * 3)
    torch.manual_seed(0)
    config = TransformerXLConfig(
        vocabulary=256,
        d_model=8,
        layers=1,
        heads=1,
        d_ff=8,
        segment_length=5,
        memory_length=64,
    )
    model = TransformerXL(config).double()
    for parameter in model.parameters():
        parameter.data.mul_(4)  # a guess that depends on what was read
    lanes = TextStream(content, batch=3, segment_length=5)
    found = by_count(model, train, lanes, warm_up=7)
    classes = {"the": "1000", "cat": "100", "sat": "10", "mat": "1"}
    wanted: dict[str, list[list[float]]] = {
        name: [[0, 0.0] for _ in range(3)] for name in found
    }
    assert list(found) == ["0", "1", "10", "100", "1000"]
    for lane in range(3):
        first, length = int(lanes.starts[lane]), int(lanes.lengths[lane])
        whole = content[first : first + length + 1].long()
        alone = model.with_lengths(segment_length=length)
        cost = nats(alone(whole[None, :-1]).logits, whole[None, 1:])[0]
        bits = cost / torch.tensor(2.0).double().log()
        letters = bytes(whole[1:].tolist()).decode()
        place = 0
        for piece in letters.split(" ")[:-1]:
            end = place + len(piece) + 1
            word = piece.strip()
            inside = place >= 7 and word not in ("<unk>", "")
            if inside:
                entry = wanted[classes.get(word, "0")][lane]
                entry[0] += 1
                entry[1] += bits[place:end].sum().item()
            place = end
    for name in found:
        for got, expected in zip(found[name], wanted[name], strict=True):
            assert got[0] == expected[0], name
            assert abs(got[1] - expected[1]) < 0.006, name
    assert sum(words for words, _ in found["1000"]) == 6 and model.training
    assert [words for words, _ in found["10"]] == [1, 1, 1], "it begins at the warm-up"
    total = sum(bits for lanes_ in found.values() for _, bits in lanes_)
    everything = evaluate(model, lanes)
    assert 0 < total < everything.mean * everything.scored.sum()


def test_the_held_out_corpus_is_made_of_two_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = {"valid": torch.arange(200) % 100, "test": torch.arange(50)}
    monkeypatch.setattr(
        "labml_style.lab.words.load_split", lambda name, split, seconds: parts[split]
    )
    corpus = held_out()
    assert corpus.name == HELD_OUT and corpus.test.equal(parts["test"])
    assert torch.cat([corpus.train, corpus.valid]).equal(parts["valid"])
    assert len(corpus.valid) == 10
    loaded = texts.load(presets.find("rare-words"))
    assert isinstance(loaded, Corpus) and loaded.train.equal(corpus.train)
