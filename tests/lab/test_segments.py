"""Tasks over several segments: what they ask was told, and each window is whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from labml_style.contract import Output
from labml_style.lab.segments import (
    LENGTHS,
    CopyStream,
    CopyTask,
    FactsTask,
    FourFacts,
    Growing,
    GrowingFacts,
    ShortCopyTask,
    ShortFacts,
    SingleFacts,
    answers,
    by_segments,
    facts,
)
from labml_style.recurrent_memory import RecurrentMemory
from labml_style.streams import Stream


def samples(stream: Stream, batches: int) -> list[list[Any]]:
    """Return the batches of each sample."""
    found: list[list[Any]] = []
    for index in range(batches):
        batch = stream.at(index)
        assert batch.reset.all() or not batch.reset.any()
        if batch.reset.all():
            found.append([])
        found[-1].append(batch)
    return found


def told(sample: list[Any]) -> bool:
    """Say whether the answer to the question stands after its subject, once."""
    tokens = torch.cat([batch.tokens for batch in sample], dim=1)
    targets = torch.cat([batch.targets for batch in sample], dim=1)
    assert (targets[:, :-1] == -100).all()
    asked, before = tokens[:, -1:], tokens[:, :-1]
    places = (before == asked).nonzero()
    assert len(places) == len(tokens), "each subject is told once"
    found = tokens[places[:, 0], places[:, 1] + 1]
    first = sample[0].tokens.shape[1] // (2 if len(sample) == 1 else 1)
    return bool(found.equal(targets[:, -1]) and (places[:, 1] + 1 < first).all())


def test_facts_are_told_before_they_are_asked_for() -> None:
    for segments in (1, 2, 3, 7):
        stream = facts(segments, 12, 16)
        parts = samples(stream, 3 * segments)
        assert len(parts) == 3
        for sample in parts:
            assert sum(one.tokens.shape[1] for one in sample) == 12 * segments
            assert told(sample)


def test_windows_of_the_curriculum_hold_whole_samples() -> None:
    stream = Growing(5, 20, 12, 8, seed=3)
    sizes = []
    for window in range(24):
        batches = [stream.at(5 * window + i) for i in range(5)]
        assert batches[0].reset.all(), "a window begins with a sample"
        starts = [i for i, one in enumerate(batches) if one.reset.all()] + [5]
        own = [b - a for a, b in zip(starts, starts[1:], strict=False)]
        sizes.append(own)
        for first, size in zip(starts, own, strict=False):
            assert told(batches[first : first + size])
    for stage, wanted in enumerate(([1] * 5, [2, 2, 1], [3, 2], [4, 1], [5], [5])):
        assert sizes[4 * stage : 4 * stage + 4] == [wanted] * 4


def test_a_stream_is_a_function_of_seed_and_index() -> None:
    one, other = (Growing(3, 6, 12, 4, seed=s) for s in (1, 2))
    assert one.at(7).tokens.equal(Growing(3, 6, 12, 4, seed=1).at(7).tokens)
    assert not one.at(7).tokens.equal(other.at(7).tokens)
    seen = [tuple(one.at(i).tokens.flatten().tolist()) for i in range(30)]
    assert len({*seen}) == 30
    with pytest.raises(ValueError, match="windows 9, here 6"):
        one.load_state_dict(Growing(3, 9, 12, 4, seed=1).state_dict())


def test_tasks() -> None:
    for task, most, grows in (
        (FactsTask(), 5, False),
        (GrowingFacts(), 5, True),
        (FourFacts(), 4, True),
        (ShortFacts(), 2, True),
        (SingleFacts(), 1, False),
    ):
        stream: Any = task.stream(12, 4, seed=0)
        first = samples(stream, most)
        assert [len(one) for one in first] == ([1] * most if grows else [most])
        late = [stream.at(most * 5000 + i) for i in range(most)]
        assert [bool(b.reset.all()) for b in late] == [True] + [False] * (most - 1)
    measured: Any = FactsTask().measured(12, 4, "test")
    assert (measured.segments, len(measured), measured.stage(0)) == (5, 20, 5)
    for split in ("valid", "test"):
        tokens = FactsTask().measured(12, 4, split).at(0).tokens
        assert not tokens.equal(FactsTask().stream(12, 4, 0).at(0).tokens)
    for copying, length in ((CopyTask(), 12), (ShortCopyTask(), 10)):
        drawn = copying.stream(4, 2, seed=0)
        assert isinstance(drawn, CopyStream) and drawn.length == length
        others = [copying.measured(4, 2, split) for split in ("valid", "test")]
        tokens_ = [one.at(0).tokens for one in (drawn, *others)]
        assert not tokens_[0].equal(tokens_[1]) and not tokens_[1].equal(tokens_[2])


class Oracle(torch.nn.Module):
    """Knows the place of each subject for so many segments, then guesses place 0."""

    def __init__(self, segments: int) -> None:
        super().__init__()
        self.like = torch.nn.Parameter(torch.zeros(1))
        self.segments = segments

    def forward(self, tokens: torch.Tensor, memory: Any = None) -> Output:
        lanes, time = tokens.shape
        held = memory.tokens.clone() if memory is not None and memory.slots else None
        if held is None:
            held = torch.full((lanes, 1, 5), -1.0)
            for lane, i in (tokens[:, :-1] < 4).nonzero().tolist():
                held[lane, 0, tokens[lane, i]] = tokens[lane, i + 1]
            held[:, 0, 4] = 0
        held[:, 0, 4] += 1
        asked = tokens[:, -1].clamp(max=3)
        place = held[torch.arange(lanes), 0, asked].long()
        place[(held[:, 0, 4] > self.segments) | (place < 0)] = 4
        logits = torch.nn.functional.one_hot(place, 18).double()
        memory = RecurrentMemory((), held)
        return Output(logits[:, None].expand(-1, time, -1), memory, {})


def test_answers_are_counted_by_segments() -> None:
    stream = FactsTask().measured(12, 2, "test")
    oracle = Oracle(6)
    found = by_segments(oracle.train(), stream)
    assert oracle.training and found["chance"] == 1 / 6
    shares = found["answers"]
    assert {*map(int, shares)} == {*LENGTHS}
    for count in LENGTHS:
        share = shares[str(count)]
        assert share == 1 if count <= 6 else share < 0.3, (count, share)


class Copier(torch.nn.Module):
    """Copies the input: right where a symbol comes twice in a row, else not.

    Its memory counts the segments it has read since the last reset.
    """

    like = torch.zeros(1)

    def __init__(self) -> None:
        super().__init__()
        self.counted: list[int] = []

    def forward(self, tokens: torch.Tensor, memory: Any = None) -> Output:
        before = memory.tokens if memory is not None and memory.slots else 0
        state = torch.ones(len(tokens), 1, 1) + before
        self.counted += [int(state.max())]
        logits = torch.nn.functional.one_hot(tokens, 9).double()
        return Output(logits, RecurrentMemory((), state), {})


def test_right_answers_are_a_share_of_what_is_asked() -> None:
    stream = CopyTask().measured(6, 8, "valid")
    tokens, targets = (
        torch.cat([stream.at(i)[part] for i in range(len(stream))], dim=1)
        for part in (0, 1)
    )
    wanted = (tokens == targets)[targets >= 0].double().mean().item()
    copier = Copier()
    found = answers(copier, stream)
    lengths = [len(sample) for sample in samples(stream, len(stream))]
    assert copier.counted == [i for length in lengths for i in range(1, length + 1)]
    assert len(lengths) > 1, "a second sample starts from no memory"
    assert 0 < wanted < 0.3
    assert found["answers"] == {"4": round(wanted, 4)} and found["chance"] == 1 / 8
