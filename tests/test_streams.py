"""Streams: lanes continue, nothing is skipped, a position resumes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from labml_style import streams
from labml_style.corpora import Corpus
from labml_style.streams import (
    Batch,
    RandomCrops,
    RecallStream,
    Stream,
    TextStream,
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
    for place in (-1, 0):
        other = text.clone()
        other[place] += 1
        with pytest.raises(ValueError, match="digest"):
            RandomCrops(other, 2, 8).load_state_dict(state)


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
            RecallStream(two, eight, two, two, room=eight),
            RecallStream(2, 8, 2, 2, room=8),
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
def test_scattered_pairs_are_told_once_in_their_room(
    between: int, pairs: int, more: int, number: int
) -> None:
    room = 2 * pairs + more
    sizes = dict(pairs=pairs, keys=4, values=6, room=room)
    stream = RecallStream((between + 1) * room, room, 40, 9, **sizes)
    tokens, answers = sample(stream, number)
    told, asked = tokens[:, :room], tokens[:, -1]
    spot = (told == asked[:, None]).int().argmax(1, keepdim=True)
    assert told.gather(1, spot)[:, 0].equal(asked)
    assert told.gather(1, spot + 1)[:, 0].equal(answers)
    assert ((told < 4).sum(1) == pairs).all()
    for low, high in ((0, 4), (4, 10)):
        own = told[(told >= low) & (told < high)].view(40, pairs)
        assert (own.sort(1).values.diff() > 0).all(), "keys and values differ"
    assert (tokens[:, room:-1] >= 10).all(), "nothing but noise in between"
    assert tokens.shape[1] == (between + 2) * room


def test_scattered_pairs_stand_anywhere_in_their_room() -> None:
    stream = RecallStream(12, 12, batch=300, samples=1, pairs=1, room=12)
    tokens, _ = sample(stream, 0)
    assert set((tokens[:, :12] < 8).int().argmax(1).tolist()) == set(range(11))


def test_samples_differ_by_number_and_seed_and_resume() -> None:
    def stream(seed: int) -> RecallStream:
        return RecallStream(16, 8, 16, 3, room=8, seed=seed)

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


def test_a_seed_gives_no_sample_of_the_next_seed() -> None:
    one, two = (RecallStream(8, 8, 16, 3, seed=seed) for seed in (4, 5))
    first, second = list(one), list(two)
    assert not any(equal(a, b) for a in first for b in second)


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
        (lambda: RecallStream(9, 0, 2), "segment_length is 0"),
        (
            lambda: RecallStream(9, 8, 2, pairs=2, room=3),
            "room is 3; expected an integer of at least 4",
        ),
        (lambda: RecallStream(9, 8, 2, noise=0), "noise is 0"),
        (lambda: RecallStream(9, 8, 2, samples=0), "samples is 0"),
    ],
)
def test_impossible_tasks_are_refused(build: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build()


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


def test_a_negative_position_is_refused() -> None:
    stream = TextStream(torch.arange(100), 2, 8)
    state = stream.state_dict() | {"position": -1}
    with pytest.raises(ValueError, match="position is -1; expected an integer"):
        stream.load_state_dict(state)
