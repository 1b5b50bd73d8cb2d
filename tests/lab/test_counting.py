"""The counting model: its equation by hand, and a memory of bytes."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labml_style.corpora import Corpus, demo_corpus
from labml_style.lab.counting import CountingModel, counting_bits, score
from labml_style.streams import RandomCrops, TextStream

TEXT = torch.tensor(list(b"abracadabra, abracadabra; a bar, a cab, a crab. " * 9))


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, int]:
    """Draw a length of text, lanes, and a segment length that fit together."""
    batch = draw(st.integers(1, 9))
    size = draw(st.integers(batch + 1, 300))
    return size, batch, draw(st.integers(1, 40))


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


def test_counting_nothing_costs_eight_bits_and_certainty_nothing() -> None:
    sure = torch.tensor(list(b"ab" * 5000))
    corpus = Corpus("x", sure, sure, sure, "")
    assert counting_bits(corpus, 1) < 0.01
    other = corpus._replace(test=torch.tensor(list(b"xyz" * 9)))
    assert counting_bits(other, 1) == pytest.approx(16.29, abs=0.01), "unseen"


def test_bits_by_order_are_those_of_a_stream_that_knows_as_much() -> None:
    corpus = Corpus("x", TEXT[:200], TEXT, TEXT[200:], "")
    for order in (1, 3):
        model = CountingModel(corpus.train, order)
        found = score(model, TextStream(corpus.test, 1, len(corpus.test)), 0)
        wanted = found.bits[order:].mean().item()
        assert counting_bits(corpus, order) == pytest.approx(wanted)


@pytest.mark.slow
def test_the_strength_is_the_best_on_valid() -> None:
    corpus = demo_corpus()
    if corpus.name != "tiny-shakespeare":
        pytest.skip("Tiny Shakespeare is not here")
    valid = corpus._replace(test=corpus.valid)
    text = valid.test.long().unfold(0, 7, 1)
    known, costs = torch.full((len(text), 1), 5), {}
    for strength in (1, 4, 16, 32, 64):
        model = CountingModel(corpus.train, strength=strength)
        costs[strength] = model.bits(text[:, :6], text[:, 6:], known).mean().item()
    assert min(costs, key=lambda s: costs[s]) == 32

    # Counted in the last quarter of the text alone, it loses more than a memory gains.
    lanes = TextStream(corpus.test, 8, 32)
    whole = CountingModel(corpus.train)
    part = CountingModel(corpus.train[-(len(corpus.train) // 4) :])
    with_memory, without = (score(whole, lanes, m).bits.mean() for m in (32, 0))
    lost = score(part, lanes, 32).bits.mean() - with_memory
    assert lost > without - with_memory > 0
