"""Streams: lanes continue, nothing is skipped, a position resumes."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from labml_style import streams
from labml_style.lab import download
from labml_style.streams import (
    CORPORA,
    Batch,
    Corpus,
    CountingModel,
    FactsStream,
    RandomCrops,
    RecallStream,
    Stream,
    TextStream,
    WordVocabulary,
    baselines,
    demo_corpus,
    load_corpus,
    load_split,
    pair_counts,
    score,
    table_bits,
)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, int]:
    """Draw a length of text, lanes, and a segment length that fit together."""
    batch = draw(st.integers(1, 9))
    size = draw(st.integers(batch + 1, 300))
    return size, batch, draw(st.integers(1, 40))


def equal(one: Batch, other: Batch) -> bool:
    return all(a.equal(b) for a, b in zip(one, other, strict=True))


# Text streams


@given(cuts())
def test_lane_b_at_step_t_plus_1_continues_lane_b_at_step_t(
    cut: tuple[int, int, int],
) -> None:
    size, batch, length = cut
    steps = list(TextStream(torch.arange(size), batch, length))
    for before, after in zip(steps, steps[1:], strict=False):
        assert not after.reset.any()
        assert before.tokens.shape == (batch, length), "only the last is shorter"
        assert after.tokens[:, 0].equal(before.tokens[:, -1] + 1)
        scored = before.targets[:, -1] >= 0
        assert after.tokens[scored, 0].equal(before.targets[scored, -1])


@given(cuts())
def test_every_byte_is_scored_once_in_an_epoch(cut: tuple[int, int, int]) -> None:
    size, batch, length = cut
    stream = TextStream(torch.arange(size), batch, length)
    steps = list(stream)
    assert len(steps) == len(stream)
    targets = torch.cat([s.targets[s.targets != -100] for s in steps])
    assert targets.sort().values.equal(torch.arange(1, size))
    for step in steps:
        scored = step.targets != -100
        assert step.targets[scored].equal(step.tokens[scored] + 1), "its predecessor"
        assert 1 <= step.tokens.shape[1] <= length
    unscored = sum(int((s.targets == -100).sum()) for s in steps)
    assert unscored < batch, "at most one slot a lane is not scored"


@given(cuts(), st.data())
def test_a_stream_resumed_from_its_position_gives_the_same_batches(
    cut: tuple[int, int, int], data: st.DataObject
) -> None:
    size, batch, length = cut
    text = torch.randint(256, (size,), generator=torch.Generator().manual_seed(size))
    pairs: list[tuple[Stream, Stream]] = [
        (TextStream(text, batch, length), TextStream(text, batch, length)),
        (RandomCrops(text, batch, 1, seed=3), RandomCrops(text, batch, 1, seed=3)),
    ]
    for stream, resumed in pairs:
        stop = data.draw(st.integers(0, len(stream) - 1))
        for _, _ in zip(range(stop), stream, strict=False):
            pass
        state = json.loads(json.dumps(stream.state_dict()))
        rest = list(stream)
        resumed.load_state_dict(state)
        assert len(rest) == len(stream) - stop
        for one, other in zip(rest, resumed, strict=True):
            assert equal(one, other)
        assert equal(next(iter(stream)), next(iter(resumed))), "the next epoch too"


def test_a_position_saved_after_the_last_batch_starts_the_next_epoch() -> None:
    stream = TextStream(torch.arange(50), 2, 8)
    saved = [stream.state_dict()["position"] for _ in stream]
    assert saved == [1, 2, 3, 4] and len(stream) == 4
    assert next(iter(stream)).reset.all()


def test_leaving_a_loop_early_skips_nothing() -> None:
    stream = TextStream(torch.arange(50), 2, 8)
    first = next(iter(stream))
    rest = list(stream)
    assert len(rest) == len(stream) - 1
    assert rest[0].tokens[0, 0] == first.tokens[0, -1] + 1


def test_asking_for_a_batch_does_not_move_the_position() -> None:
    stream = TextStream(torch.arange(50), 2, 8)
    assert equal(stream.at(1), stream.at(1 + len(stream)))
    assert stream.position == 0


def test_a_batch_keeps_the_contract() -> None:
    text = torch.arange(50, dtype=torch.uint8)
    for stream in (TextStream(text, 3, 4), RandomCrops(text, 3, 4)):
        batch = stream.at(0)
        assert batch.tokens.dtype == batch.targets.dtype == torch.int64
        assert batch.tokens.shape == batch.targets.shape == (3, 4)
        assert batch.reset.dtype == torch.bool and batch.reset.shape == (3,)


@pytest.mark.parametrize(
    "other",
    [
        TextStream(torch.arange(50), 3, 8),
        TextStream(torch.arange(50), 2, 7),
        TextStream(torch.arange(49), 2, 8),
        TextStream(torch.arange(1, 51), 2, 8),
        RandomCrops(torch.arange(50), 2, 8),
    ],
    ids=["batch", "segment_length", "length", "text", "class"],
)
def test_a_position_of_another_stream_is_refused(other: Stream) -> None:
    stream = TextStream(torch.arange(50), 2, 8)
    with pytest.raises(ValueError, match="belongs to another stream"):
        stream.load_state_dict(other.state_dict())
    assert stream.position == 0


def test_the_digest_of_a_text_is_that_of_its_numbers() -> None:
    text = torch.arange(3 << 20) % 251
    state = RandomCrops(text.byte(), 2, 8).state_dict()
    RandomCrops(text, 2, 8).load_state_dict(state)
    text[-1] += 1
    with pytest.raises(ValueError, match="digest"):
        RandomCrops(text, 2, 8).load_state_dict(state)


@pytest.mark.parametrize(
    ("size", "batch", "length", "said"),
    [
        (3, 3, 4, "2 pairs for 3 lanes"),
        (0, 1, 4, "0 pairs"),
        (9, 0, 4, "batch is 0"),
        (9, 2, 0, "segment_length is 0"),
    ],
)
def test_impossible_lanes_are_refused(
    size: int, batch: int, length: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        TextStream(torch.arange(size), batch, length)


NUMBERS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]


@pytest.mark.parametrize(
    "tokens",
    [
        bytes(NUMBERS),
        bytearray(NUMBERS),
        NUMBERS,
        tuple(NUMBERS),
        np.frombuffer(bytes(NUMBERS), dtype=np.uint8),
        *(np.array(NUMBERS, kind) for kind in ("i1", "u2", "i4", "u4", "i8")),
        *(torch.tensor(NUMBERS).to(kind) for kind in (torch.int16, torch.uint16)),
    ],
    ids=lambda x: f"{type(x).__name__} {getattr(x, 'dtype', '')}",
)
@pytest.mark.parametrize("kind", [TextStream, RandomCrops])
def test_a_text_is_taken_in_every_form_of_integers(kind: Any, tokens: Any) -> None:
    wanted, found = kind(torch.tensor(NUMBERS), 2, 3), kind(tokens, 2, 3)
    found.load_state_dict(wanted.state_dict())
    assert all(equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert found.at(0).tokens.dtype == torch.int64


CORPUS = Corpus("x", *(torch.arange(9),) * 3, "")


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (CORPUS, "tokens are a Corpus; give one part of it: corpus.train"),
        ("text", r"tokens are a str; encode the text first: text.encode\(\)"),
        (["a", "b", "c"], "tokens are a list; expected integers"),
        (None, "tokens are a NoneType; expected integers"),
        ({"a": 1}, "tokens are a dict; expected integers"),
        (
            [1.0, 2.0, 3.0],
            r"tokens are torch.float32 of shape \[3\]; expected integers",
        ),
        ([True] * 4, "tokens are torch.bool"),
        (np.ones(9), "tokens are torch.float64"),
        (torch.ones(3, 9, dtype=torch.int64), r"of shape \[3, 9\]; expected integers"),
        (3, r"of shape \[\]; expected integers of shape \[time\]"),
    ],
)
@pytest.mark.parametrize("kind", [TextStream, RandomCrops])
def test_what_is_no_text_in_numbers_is_refused(
    kind: Any, tokens: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        kind(tokens, 2, 1)


def test_whole_numbers_of_numpy_are_taken() -> None:
    two: Any = np.int64(2)
    eight: Any = np.int32(8)
    wrong: Any
    for numpys, plain in (
        (TextStream(torch.arange(50), two, eight), TextStream(torch.arange(50), 2, 8)),
        (
            RandomCrops(torch.arange(50), two, eight, seed=two),
            RandomCrops(torch.arange(50), 2, 8, seed=2),
        ),
        (
            RecallStream(eight, eight, two, two, pairs=two, seed=two),
            RecallStream(8, 8, 2, 2, pairs=2, seed=2),
        ),
        (
            FactsStream(two, eight, two, two, facts=two),
            FactsStream(2, 8, 2, 2, facts=2),
        ),
    ):
        state = json.loads(json.dumps(numpys.state_dict()))
        assert state == plain.state_dict(), "settings are plain numbers"
        assert all(equal(a, b) for a, b in zip(numpys, plain, strict=True))
    for wrong in (True, 2.0, "2", None):
        with pytest.raises(ValueError, match=f"batch is {wrong!r}; expected an int"):
            TextStream(torch.arange(50), wrong, 8)
        with pytest.raises(ValueError, match=f"segment_length is {wrong!r}; expected"):
            RandomCrops(torch.arange(50), 2, wrong)


def test_random_crops_are_crops_and_always_reset() -> None:
    stream = RandomCrops(torch.arange(100), 50, 8, seed=1)
    assert len(stream) == 1 and len(RandomCrops(torch.arange(100), 4, 8)) == 3
    starts = set()
    for batch in map(stream.at, range(20)):
        assert batch.reset.all()
        assert batch.targets.equal(batch.tokens + 1)
        assert (batch.tokens.diff(dim=1) == 1).all()
        starts |= set(batch.tokens[:, 0].tolist())
    assert starts == set(range(92)), "every place where a crop and its target fit"
    other = RandomCrops(torch.arange(100), 50, 8, seed=2)
    assert not equal(stream.at(0), other.at(0))
    assert not equal(stream.at(0), stream.at(20)), "a new epoch draws anew"
    with pytest.raises(ValueError, match="8 tokens for crops of 8"):
        RandomCrops(torch.arange(8), 2, 8)


# Counting


TEXT = torch.tensor(list(b"abracadabra, abracadabra; a bar, a cab, a crab. " * 9))


def test_pairs_are_counted() -> None:
    counts = pair_counts(torch.tensor(list(b"abab"), dtype=torch.uint8))
    assert counts[97, 98] == 2 and counts[98, 97] == 1 and counts.sum() == 3


def test_uniform_costs_eight_bits_and_certainty_nothing() -> None:
    assert table_bits(torch.zeros(256, 256).double(), TEXT, 1.0) == 8
    sure = torch.tensor(list(b"abab"))
    assert table_bits(pair_counts(sure), sure, 1e-9) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="alpha is 0"):
        table_bits(pair_counts(sure), sure, 0)


def test_alpha_is_chosen_on_valid_alone() -> None:
    corpus = Corpus("x", TEXT[:200], TEXT[200:300], TEXT[300:], "")
    other = corpus._replace(test=TEXT.flip(0))
    assert baselines(corpus).alpha == baselines(other).alpha
    sums = {a: table_bits(pair_counts(TEXT[:200]), TEXT[200:300], a) for a in (0.01, 1)}
    assert sums[0.01] < sums[1] and baselines(corpus).alpha == 0.01
    surprised = corpus._replace(valid=torch.arange(256))
    assert baselines(surprised).alpha == 1


def by_hand(train: list[int], context: list[int], byte: int, s: float) -> float:
    """Equation (1), in words."""
    p = 1 / 256
    for k in range(len(context) + 1):
        suffix = context[len(context) - k :]
        after = [
            train[i + k] for i in range(len(train) - k) if train[i : i + k] == suffix
        ]
        p = (after.count(byte) + s * p) / (len(after) + s)
    return p


@given(st.integers(0, 3), st.floats(0.5, 20), st.integers(0, 20))
def test_the_counting_model_is_equation_1(order: int, s: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    train = torch.randint(3, (40,), generator=rng)
    text = torch.randint(4, (2, order + 5), generator=rng)
    targets = torch.randint(4, (2, 5), generator=rng)
    available = torch.randint(order + 2, (2, 5), generator=rng)
    targets[0, 0] = -100
    bits = CountingModel(train, order, s).bits(text, targets, available)
    assert bits[0, 0] == 0
    for lane in range(2):
        for i in range(5):
            if targets[lane, i] >= 0:
                known = min(order, int(available[lane, i]))
                context = text[lane, i + order + 1 - known : i + order + 1].tolist()
                p = by_hand(train.tolist(), context, int(targets[lane, i]), s)
                assert bits[lane, i].item() == pytest.approx(-math.log2(p))


def test_probabilities_sum_to_one() -> None:
    model = CountingModel(TEXT, 3, 2.0)
    text = TEXT[None, :4].expand(256, 4)
    bits = model.bits(text, torch.arange(256)[:, None], torch.full((256, 1), 3))
    with pytest.raises(ValueError, match="3 columns; expected order"):
        model.bits(text[:, 1:], TEXT[:1, None], TEXT[:1, None])
    assert (2.0**-bits).sum().item() == pytest.approx(1)


@pytest.mark.parametrize(("order", "strength"), [(-1, 1.0), (7, 1.0), (2, 0.0)])
def test_impossible_counting_is_refused(order: int, strength: float) -> None:
    with pytest.raises(ValueError, match="expected 0 to 6|positive"):
        CountingModel(TEXT, order, strength)


@given(cuts(), st.integers(0, 60))
def test_context_is_equation_3(cut: tuple[int, int, int], memory: int) -> None:
    size, batch, length = cut
    stream = TextStream(torch.arange(size) % 256, batch, length)
    result = score(CountingModel(TEXT, order=0), stream, memory)
    expected: list[int] = []
    for lane in stream.lengths.tolist():
        for q in range(lane):
            t, i = divmod(q, length)
            expected.append(i + 1 + min(memory, t * length))
    assert Counter(result.context.tolist()) == Counter(expected)
    assert len(result.bits) == size - 1


@given(st.integers(1, 5), st.integers(1, 30))
def test_with_memory_the_cut_does_not_matter(batch: int, length: int) -> None:
    model = CountingModel(TEXT[:200], order=3)
    text = TEXT[200:]
    whole = score(model, TextStream(text, batch, len(text)), 0)
    parts = score(model, TextStream(text, batch, length), 3)
    assert whole.bits.sort().values.allclose(parts.bits.sort().values)


def test_without_memory_the_first_position_is_a_bigram() -> None:
    stream = TextStream(TEXT, 2, 8)
    high = score(CountingModel(TEXT, order=4), stream, 0)
    low = score(CountingModel(TEXT, order=1), stream, 0)
    first = high.column == 0
    assert high.bits[first].equal(low.bits[first])
    assert high.bits[~first].mean() < low.bits[~first].mean()


def test_crops_never_use_a_memory_and_scoring_moves_no_position() -> None:
    stream = RandomCrops(TEXT, 4, 8)
    model = CountingModel(TEXT, order=3)
    assert score(model, stream, 99).context.max() == 8
    assert score(model, stream, 99).bits.equal(score(model, stream, 0).bits)
    assert stream.position == 0
    with pytest.raises(ValueError, match="memory_length is -1"):
        score(model, stream, -1)


# Synthetic streams


def sample(stream: Any, number: int) -> tuple[Tensor, Tensor]:
    """Join the segments of a sample; check resets and targets on the way."""
    parts = [stream.at(number * stream.segments + i) for i in range(stream.segments)]
    for i, part in enumerate(parts):
        assert part.tokens.shape == (stream.batch, stream.segment_length)
        assert part.reset.all() if i == 0 else not part.reset.any()
        assert (part.targets[:, :-1] == -100).all()
        assert ((part.targets[:, -1] >= 0) == (i + 1 == len(parts))).all()
    return torch.cat([p.tokens for p in parts], dim=1), parts[-1].targets[:, -1]


@given(st.integers(1, 4), st.integers(1, 60), st.integers(1, 30), st.integers(0, 5))
def test_recall_lies_at_its_distance(
    pairs: int, distance: int, length: int, number: int
) -> None:
    stream = RecallStream(distance, length, batch=40, samples=9, pairs=pairs)
    tokens, answers = sample(stream, number)
    end = tokens.shape[1] - distance
    block = tokens[:, end - 2 * pairs : end].view(40, pairs, 2)
    keys, values = block.unbind(2)
    assert (keys < 8).all() and (values >= 8).all() and (values < 16).all()
    assert (keys.sort(1).values.diff() > 0).all(), "keys differ"
    assert (values.sort(1).values.diff() > 0).all(), "values differ"
    asked = keys == tokens[:, -1:]
    assert (asked.sum(1) == 1).all() and values[asked].equal(answers)
    noise = torch.cat([tokens[:, : end - 2 * pairs], tokens[:, end:-1]], dim=1)
    assert (noise >= 16).all(), "each pair is told once"
    assert 0 <= end - 2 * pairs < length, "no more segments than needed"


def test_recall_is_not_answered_without_the_key() -> None:
    stream = RecallStream(20, 16, batch=6000, samples=1, pairs=3)
    tokens, answers = sample(stream, 0)
    copied = (tokens == answers[:, None]).double().mean(0)
    values = torch.tensor([-25, -23, -21])
    error = 4 * math.sqrt(1 / 3 * 2 / 3 / 6000)
    assert copied[values].tolist() == pytest.approx([1 / 3] * 3, abs=error)
    assert copied.max() < 1 / 3 + error
    one_value = answers.bincount(minlength=16)[8:].double() / 6000
    assert one_value.tolist() == pytest.approx([1 / 8] * 8, abs=error)
    seen = tokens[:, values].mode(1).values
    assert (seen == answers).double().mean() < 1 / 3 + error, "nor by the commonest"


@given(st.integers(0, 3), st.integers(1, 3), st.integers(0, 8), st.integers(0, 5))
def test_facts_are_told_once_in_the_first_segment(
    noise_segments: int, facts: int, more: int, number: int
) -> None:
    length = 2 * facts + more
    stream = FactsStream(noise_segments, length, batch=40, samples=9, facts=facts)
    tokens, answers = sample(stream, number)
    told, asked = tokens[:, :length], tokens[:, -1]
    spot = (told == asked[:, None]).int().argmax(1, keepdim=True)
    assert told.gather(1, spot)[:, 0].equal(asked)
    assert told.gather(1, spot + 1)[:, 0].equal(answers)
    assert ((told < 4).sum(1) == facts).all()
    for low, high in ((0, 4), (4, 10)):
        own = told[(told >= low) & (told < high)].view(40, facts)
        assert (own.sort(1).values.diff() > 0).all(), "subjects and places differ"
    assert (tokens[:, length:-1] >= 10).all(), "nothing but noise in between"
    assert tokens.shape[1] == (noise_segments + 2) * length


def test_samples_differ_by_number_and_seed_and_resume() -> None:
    def stream(seed: int) -> FactsStream:
        return FactsStream(1, 8, batch=16, samples=3, seed=seed)

    one = stream(0)
    assert equal(one.at(0), stream(0).at(0))
    assert not equal(one.at(0), stream(1).at(0))
    assert not equal(one.at(0), one.at(3)) and not equal(one.at(0), one.at(9))
    for _, _ in zip(range(4), one, strict=False):
        pass
    two = stream(0)
    two.load_state_dict(one.state_dict())
    assert all(equal(a, b) for a, b in zip(one, two, strict=True))
    with pytest.raises(ValueError, match="seed 0, here 1"):
        stream(1).load_state_dict(one.state_dict())


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            lambda: RecallStream(0, 8, 2),
            "distance is 0; expected an integer of at least 1",
        ),
        (
            lambda: RecallStream(9, 8, 2, pairs=9, keys=8),
            "keys is 8; expected an integer of at least 9",
        ),
        (
            lambda: RecallStream(9, 8, 2, pairs=3, values=2),
            "values is 2; expected an integer of at least 3",
        ),
        (
            lambda: FactsStream(1, 8, 2, facts=3, places=2),
            "places is 2; expected an integer of at least 3",
        ),
        (lambda: RecallStream(9, 0, 2), "segment_length is 0"),
        (lambda: FactsStream(-1, 8, 2), "noise_segments is -1"),
        (
            lambda: FactsStream(1, 3, 2),
            "segment_length is 3; expected an integer of at least 4",
        ),
        (lambda: FactsStream(1, 8, 2, samples=0), "samples is 0"),
    ],
)
def test_impossible_tasks_are_refused(build: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build()


# Words


def test_words_are_ranked_and_ties_are_alphabetical() -> None:
    words = WordVocabulary.from_text("b a b\nc a b\n\n")
    assert words.words == ["<eos>", "b", "a", "c", "<unk>"]
    assert words.encode("c x\n\n").tolist() == [3, 4, 0, 0]
    assert words.encode(words.decode(torch.tensor([3, 1]))).tolist() == [3, 1, 0]
    assert WordVocabulary.from_text("b a b\nc a b\n", 1).words == [
        "b",
        "<unk>",
        "<eos>",
    ]
    with pytest.raises(ValueError, match="'b' comes 2 times"):
        WordVocabulary(["a", "b", "b"])


@given(st.lists(st.integers(0, 6), max_size=40))
def test_decoded_words_encode_to_the_same_numbers(numbers: list[int]) -> None:
    words = WordVocabulary(["<eos>", "<unk>", "a", "b", ",", "=", "@-@"])
    closed = torch.tensor([*numbers, 0])
    assert words.encode(words.decode(closed)).equal(closed)


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\f", "\v", "\x1c"])
def test_lines_end_at_line_feeds_alone(inside: str) -> None:
    text = f"a{inside}b c\r\nd\n\ne"
    words = WordVocabulary.from_text(text)
    assert words.encode(text).tolist().count(words.number["<eos>"]) == 4
    plain = "a b c\nd\n\ne"
    assert words.words == WordVocabulary.from_text(plain).words
    assert words.encode(text).equal(words.encode(plain))
    for end, lines in (("", 1), ("\n", 1), ("\r\n", 1), ("\n\n", 2)):
        ends = words.encode(f"a{end}") == words.number["<eos>"]
        assert ends.sum() == lines and ends[-1]


def test_a_byte_order_mark_is_no_part_of_the_first_word() -> None:
    words = WordVocabulary.from_text("\ufeffa b\na")
    assert words.words == WordVocabulary.from_text("a b\na").words
    assert words.encode("\ufeffa").equal(words.encode("a"))


@pytest.mark.parametrize("odd", [-100, -1, 4])
def test_numbers_of_no_word_are_refused(odd: int) -> None:
    words = WordVocabulary(["<eos>", "<unk>", "a", "b"])
    with pytest.raises(ValueError, match=f"numbers hold {odd}; expected 0 to 3 for 4"):
        words.decode(torch.tensor([2, odd, 3]))


@pytest.mark.parametrize(("split", "count"), [("valid", 217_646), ("test", 245_569)])
def test_wikitext_counts_are_the_published_ones(split: str, count: int) -> None:
    folder = download.data_folder()
    if folder is None or not (folder / f"wikitext-2-{split}.txt").is_file():
        pytest.skip(f"wikitext-2-{split}.txt is not in LABML_STYLE_DATA")
    text = load_split("wikitext-2", split).numpy().tobytes().decode()
    words = WordVocabulary.from_text(text)
    assert len(words.encode(text)) == count


# Corpora


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder of the reader's, an empty cache, and no network."""
    monkeypatch.setenv("LABML_STYLE_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    nowhere = {k: f._replace(url="") for k, f in download.FILES.items()}
    monkeypatch.setattr(download, "FILES", nowhere)
    return tmp_path


def put(folder: Path, name: str, content: bytes) -> None:
    """Write a file, and declare it the published one."""
    file = download.FILES[name]
    (folder / file.name).write_bytes(content)
    download.FILES[name] = file._replace(
        size=len(content), digest="", start=content[:9]
    )


def joined(corpus: Corpus) -> bytes:
    return b"".join(part.numpy().tobytes() for part in corpus[1:4])


def test_the_last_tenth_is_held_out(folder: Path) -> None:
    content = bytes(range(200)) * 5
    put(folder, "tiny-shakespeare", content)
    corpus = load_corpus("tiny-shakespeare")
    assert [len(part) for part in corpus[1:4]] == [900, 50, 50]
    assert joined(corpus) == content
    assert corpus.train.dtype == torch.uint8
    assert corpus.text("test") == content[950:].decode(errors="replace")


@pytest.mark.parametrize("whole", [True, False])
def test_four_megabytes_are_the_start_of_enwik8(folder: Path, whole: bool) -> None:
    content = b"<mediawiki " + bytes(range(251)) * 16_000
    if whole:
        put(folder, "enwik8", content + b"the rest")
    else:
        put(folder, "enwik8-4mb", content[:4_000_000])
    corpus = load_corpus("enwik8-4mb")
    assert [len(p) for p in corpus[1:4]] == [3_600_000, 200_000, 200_000]
    assert joined(corpus) == content[:4_000_000]
    assert ("no published digest" in corpus.source) is not whole


def test_a_part_of_wikitext_loads_alone(folder: Path) -> None:
    put(folder, "wikitext-2-valid", b" = Valid = \n")
    assert load_split("wikitext-2", "valid").numpy().tobytes() == b" = Valid = \n"
    with pytest.raises(FileNotFoundError, match="wikitext-2-train.txt is not here"):
        load_corpus("wikitext-2")
    put(folder, "wikitext-2-train", b" = Train = \n")
    put(folder, "wikitext-2-test", b" = Test = \n")
    assert (
        joined(load_corpus("wikitext-2")).split()
        == b"= Train = = Valid = = Test =".split()
    )


def test_python_docs_are_in_every_python() -> None:
    corpus = load_corpus("python-docs")
    text = b"".join(part.numpy().tobytes() for part in corpus[1:4]).decode()
    assert len(text) > 200_000 and "lambda" in text
    assert load_split("python-docs", "test").equal(corpus.test)
    first = baselines(corpus)
    assert first.bigram < first.unigram < 8


def test_a_missing_corpus_is_never_replaced(folder: Path) -> None:
    for name in set(CORPORA) - {"python-docs"}:
        with pytest.raises(FileNotFoundError, match="Put it"):
            load_corpus(name)
    with pytest.raises(ValueError, match="corpus is 'text8'; expected one of tiny"):
        load_corpus("text8")
    with pytest.raises(ValueError, match="split is 'dev'"):
        load_split("python-docs", "dev")


def test_the_demo_says_which_text_it_took(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo_corpus().name == "python-docs"
    assert capsys.readouterr().out.startswith("python-docs: ")
    put(folder, "tiny-shakespeare", b"word " * 100)
    assert demo_corpus().name == "tiny-shakespeare"
    (folder / "tinyshakespeare.txt").write_bytes(b"word " * 99)
    with pytest.raises(ValueError, match="495 bytes"):
        demo_corpus()


def test_the_demo_does_not_wait_for_a_dead_network(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        file = download.FILES["tiny-shakespeare"]
        url = f"http://127.0.0.1:{port}/x"
        download.FILES["tiny-shakespeare"] = file._replace(url=url)
        began = time.monotonic()
        assert demo_corpus(seconds=0.3).name == "python-docs"
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("name", ["tiny-shakespeare", "enwik8-4mb"])
def test_the_real_files_pass_their_checks(name: str) -> None:
    found = download.data_folder()
    if found is None or not (found / download.FILES[name].name).is_file():
        pytest.skip(f"{download.FILES[name].name} is not in LABML_STYLE_DATA")
    corpus = load_corpus(name)
    assert len(joined(corpus)) == download.FILES[name].size


def test_importing_the_chapter_is_quiet() -> None:
    heavy = "{'matplotlib', 'tqdm', 'IPython', 'torch._dynamo', 'urllib.request'}"

    def loaded(modules: str) -> str:
        code = f"import sys, {modules}; print({heavy} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True)
        assert done.stderr == b""
        return "".join(sorted(done.stdout.decode()))

    assert loaded("labml_style.streams") == loaded("torch"), "no more than torch loads"


def test_every_public_name_is_documented() -> None:
    for name, value in vars(streams).items():
        if getattr(value, "__module__", "") == streams.__name__ and name[0] != "_":
            assert value.__doc__, name


def test_counting_takes_any_integer_type() -> None:
    text = torch.randint(0, 256, (300,), generator=torch.Generator().manual_seed(0))
    model = CountingModel(text, order=3)
    given = text[:13].reshape(1, 13), text[3:13].reshape(1, 10)
    known = torch.full((1, 10), 3)
    exact = model.bits(*given, known)
    for kind in (torch.uint8, torch.int32):
        assert model.bits(given[0].to(kind), given[1].to(kind), known).equal(exact)


def test_too_little_text_to_count_in_is_refused() -> None:
    with pytest.raises(ValueError, match="3 tokens for order 3"):
        CountingModel(torch.arange(3), order=3)


def test_a_negative_position_is_refused() -> None:
    stream = TextStream(torch.arange(100), 2, 8)
    state = stream.state_dict() | {"position": -1}
    with pytest.raises(ValueError, match="position is -1; expected an integer"):
        stream.load_state_dict(state)


def test_no_words_are_no_numbers() -> None:
    assert WordVocabulary.from_text("a b").encode("").dtype == torch.int64
