"""Compressive Transformer: Algorithm 1, its memory, and what it asks of its parts."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from labml_style import compressive_transformer, generation
from labml_style.compression import (
    Convolution,
    DilatedConvolution,
    MaxPooling,
    MeanPooling,
    MostUsed,
)
from labml_style.compressive_transformer import (
    CompressionLoss,
    CompressiveMemory,
    CompressiveTransformer,
    CompressiveTransformerConfig,
    Evicted,
    plan_eviction,
)
from labml_style.contract import Seen, causal_mask
from labml_style.eviction import received_by
from labml_style.lab.history import history
from labml_style.lab.results import load, summary
from labml_style.reconstruction import (
    AttentionReconstruction,
    AutoEncoding,
    BackpropagationThroughTime,
)
from labml_style.transformer_xl import (
    PostNorm,
    PreNorm,
    TransformerXL,
    TransformerXLConfig,
    TransformerXLMemory,
)
from tests.samples import VOCABULARY, close, compiles, cuts, loud, text

Array = NDArray[np.float64]
Slots = list[Array | None]

SMALL: dict[str, Any] = {
    "vocabulary": VOCABULARY,
    "d_model": 8,
    "layers": 2,
    "heads": 2,
    "d_ff": 12,
    "segment_length": 4,
    "memory_length": 8,
    "compressed_length": 3,
    "compression_rate": 2,
}
FUNCTIONS: list[Any] = [
    MaxPooling,
    MeanPooling,
    Convolution,
    DilatedConvolution,
    MostUsed,
]
LOSSES: list[Any] = [AttentionReconstruction, AutoEncoding, BackpropagationThroughTime]
each_function = pytest.mark.parametrize("function", FUNCTIONS)
each_loss = pytest.mark.parametrize("loss", LOSSES)
each_residual = pytest.mark.parametrize("residual", [PostNorm, PreNorm])


def make(**changes: Any) -> CompressiveTransformer:
    """Build a model in float64, with weights so large that a difference shows."""
    torch.manual_seed(0)
    config = CompressiveTransformerConfig(**SMALL | changes)
    return loud(CompressiveTransformer(config)).eval()


def plain_xl(**changes: Any) -> TransformerXL:
    sizes = {k: v for k, v in SMALL.items() if not k.startswith("compress")}
    return TransformerXL(TransformerXLConfig(**sizes | changes)).double()


def follow(model: TransformerXL, tokens: Tensor, memory: Any = None) -> Any:
    """Run a text in segments, the last as long as it comes; join the logits."""
    found = []
    for segment in tokens.split(model.config.segment_length, dim=1):
        output = model(segment, memory)
        found.append(output.logits)
        memory = output.memory
    return torch.cat(found, dim=1), memory


def tensors(memory: CompressiveMemory) -> list[Tensor]:
    return [*memory.states, *memory.compressed]


def same(one: CompressiveMemory, other: CompressiveMemory) -> bool:
    held = [None if m.filled is None else m.filled.tolist() for m in (one, other)]
    if held[0] != held[1]:
        return False
    pairs = zip(tensors(one), tensors(other), strict=True)
    return all(a.shape == b.shape and a.equal(b) for a, b in pairs)


@st.composite
def lengths(draw: st.DrawFn) -> dict[str, int]:
    """Draw lengths that fit together."""
    rate, groups = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    return {
        "compression_rate": rate,
        "segment_length": rate * groups,
        "memory_length": rate * draw(st.integers(groups, groups + 4)),
        "compressed_length": draw(st.integers(0, 5)),
    }


# The update, in lists


class Strip:
    """Positions that one layer remembers, after Algorithm 1, in plain lists.

    The oldest of memory and segment leave in groups until the rest fits; each group
    becomes one compressed slot, and the oldest of these leave for good.
    """

    def __init__(self, config: CompressiveTransformerConfig) -> None:
        self.config = config
        self.groups: list[list[int]] = []
        self.recent: list[int] = []

    def add(self, segment: list[int]) -> None:
        self.recent = self.recent + segment
        rate = self.config.compression_rate if self.config.compressed_length else 1
        while len(self.recent) > self.config.memory_length:
            self.groups.append(self.recent[:rate])
            self.recent = self.recent[rate:]
        while len(self.groups) > self.config.compressed_length:
            self.groups = self.groups[1:]


def counting(**changes: Any) -> CompressiveTransformer:
    """Build a model so wide that a position is a unit vector."""
    sizes = {"d_model": 120, "heads": 1, "d_ff": 1, "compression": MeanPooling}
    return (
        CompressiveTransformer(CompressiveTransformerConfig(**SMALL | sizes | changes))
        .double()
        .eval()
    )


def units(places: list[int], width: int = 120) -> Tensor:
    return torch.eye(width, dtype=torch.float64)[None, places]


def unseen(layers: int) -> Any:
    """What layers attended with: in evaluation a pooling or a map asks for nothing."""
    return [None] * layers


def written(slots: Tensor) -> list[list[int]]:
    """Return which positions each slot is the mean of."""
    found = [row.nonzero().flatten().tolist() for row in slots[0]]
    for row, places in zip(slots[0], found, strict=True):
        assert row[places].allclose(row.new_tensor(1 / len(places)), rtol=1e-12)
    return found


@settings(max_examples=50)
@given(sizes=lengths(), layers=st.integers(1, 3), data=st.data())
def test_each_token_is_in_one_place_until_it_leaves_at_the_far_end(
    sizes: dict[str, int], layers: int, data: st.DataObject
) -> None:
    model = counting(**sizes, layers=layers)
    config, strip = model.config, Strip(model.config)
    memory: CompressiveMemory | None = None
    seen = 0
    for _ in range(data.draw(st.integers(1, 10))):
        longest = min(config.segment_length, 120 - seen)
        if not longest:
            break
        time = data.draw(st.integers(1, longest))
        segment = list(range(seen, seen + time))
        seen += time
        strip.add(segment)
        given = [(i + 1) * units(segment) for i in range(layers)]
        memory, losses = model.remember(memory, given, unseen(layers))
        assert losses == {} and memory.filled is None
        for i in range(layers):
            groups = written(memory.compressed[i] / (i + 1))
            recent = written(memory.states[i] / (i + 1))
            assert groups == strip.groups, "what is compressed, oldest first"
            assert recent == [[place] for place in strip.recent]
            flat = [place for slot in groups + recent for place in slot]
            assert flat == list(range(seen - len(flat), seen)), "once, and in order"
            assert all(len(group) == config.compression_rate for group in groups)
            assert len(groups) <= config.compressed_length
            assert len(recent) <= config.memory_length
            rate = config.compression_rate if config.compressed_length else 1
            least = min(config.memory_length - rate + 1, seen)
            assert len(recent) >= least, "no more leaves than must"


@settings(max_examples=40)
@given(sizes=lengths(), segments=st.integers(1, 9))
def test_whole_segments_are_algorithm_1(sizes: dict[str, int], segments: int) -> None:
    model = counting(**sizes, layers=1)
    c, n_s = sizes["compression_rate"], sizes["segment_length"]
    n_m, n_cm = sizes["memory_length"], sizes["compressed_length"]
    # The paper starts with slots that stand for nothing; here None, left out below.
    m: list[Any] = [None] * n_m
    cm: list[Any] = [[None] * c] * n_cm
    memory = None
    for number in range(min(segments, 120 // n_s)):
        h = list(range(number * n_s, (number + 1) * n_s))
        old_mem = m[:n_s]
        new_cm = [old_mem[i : i + c] for i in range(0, n_s, c)]
        m = (m + h)[n_s:]
        cm = (cm + new_cm)[len(new_cm) :]
        memory, _ = model.remember(memory, [units(h)], unseen(1))
        assert written(memory.states[0]) == [[i] for i in m if i is not None]
        filled = [group for group in cm if group[0] is not None]
        assert written(memory.compressed[0]) == filled


@settings(max_examples=40)
@given(sizes=lengths(), count=st.integers(0, 9), held=st.integers(0, 30))
def test_an_eviction_is_planned_group_by_group(
    sizes: dict[str, int], count: int, held: int
) -> None:
    config = CompressiveTransformerConfig(**SMALL | sizes)
    for time in range(1, config.segment_length + 1):
        evicted, made = 0, count
        while held + time - evicted > config.memory_length:
            if config.compressed_length:
                evicted, made = evicted + config.compression_rate, made + 1
            else:  # nothing is made of it
                evicted += 1
        dropped = max(made - config.compressed_length, 0)
        assert plan_eviction(config, count, held, time) == (evicted, dropped)


@pytest.mark.parametrize("function", [MaxPooling, MeanPooling, Convolution])
def test_a_compressed_slot_depends_on_its_group_alone(function: Any) -> None:
    times = (4, 3, 4, 4, 2, 4, 4)
    model = make(compression=function, memory_length=6, compressed_length=9)
    torch.manual_seed(1)
    states = torch.randn(2, 1, sum(times), 8, dtype=torch.float64)

    def run(states: Tensor) -> CompressiveMemory:
        memory = None
        for segment in states.split(times, dim=2):
            memory, _ = model.remember(memory, list(segment), unseen(2))
        assert memory is not None
        return memory

    memory, strip = run(states), Strip(model.config)
    for first, segment in zip(np.cumsum((0, *times)), times, strict=False):
        strip.add(list(range(first, first + segment)))
    assert len(strip.groups) == 9 and strip.groups[0][0] > 0, "some have left"
    for layer in range(2):
        for place in range(sum(times)):
            other = states.clone()
            other[layer, 0, place] += 100
            changed = run(other)
            for i in range(2):
                moved = (changed.compressed[i] != memory.compressed[i])[0].any(-1)
                expected = [i == layer and place in group for group in strip.groups]
                assert moved.tolist() == expected
                moved = (changed.states[i] != memory.states[i])[0].any(-1)
                assert moved.tolist() == [
                    i == layer and place == p for p in strip.recent
                ]


# Bytes


@each_loss
def test_bytes_stay_the_same_once_the_memory_is_full(loss: Any) -> None:
    for rate, memory_length in ((1, 4), (2, 6), (4, 8)):
        memory: Any = None
        found = []
        model = make(
            compression_loss=loss, memory_length=memory_length, compression_rate=rate
        ).train()
        for number in range(12):
            with torch.no_grad():
                memory = model(text(3, 4, seed=number), memory).memory
            found.append(memory.nbytes)
            for kept in tensors(memory):
                assert kept.untyped_storage().nbytes() == kept.nbytes
        assert found == sorted(found)
        assert set(found[7:]) == {2 * 3 * (memory_length + 3) * 8 * 8}
        memory = memory.reset(torch.tensor([True, False, True]))
        whole = {t.untyped_storage().data_ptr(): t for t in tensors(memory)}
        size = sum(t.untyped_storage().nbytes() for t in whole.values())
        assert size == memory.nbytes == found[-1]
        memory = model(text(3, 4), memory).memory
        for kept in tensors(memory):
            assert kept.untyped_storage().nbytes() == kept.nbytes


def test_what_is_kept_holds_on_to_nothing_else() -> None:
    model, memory = make(), None
    for number, time in enumerate((3, 4, 1, 4, 4, 2, 4, 3)):
        memory = model(text(2, time, seed=number), memory).memory
        for kept in tensors(memory):
            assert kept.untyped_storage().nbytes() == kept.nbytes
        assert memory.states[0].shape[1] <= 8 and memory.compressed[0].shape[1] <= 3


# Without compressed slots


@each_residual
@pytest.mark.parametrize("memory_length", [0, 2, 4, 6, 8])
def test_without_compressed_slots_it_is_a_transformer_xl(
    residual: Any, memory_length: int
) -> None:
    changes: dict[str, Any] = {"residual": residual, "memory_length": memory_length}
    torch.manual_seed(0)
    plain = plain_xl(**changes)
    torch.manual_seed(0)
    config = CompressiveTransformerConfig(**SMALL | changes | {"compressed_length": 0})
    model = CompressiveTransformer(config).double()
    for name, parameter in plain.named_parameters():
        assert model.get_parameter(name).equal(parameter), name
    shared = dict(model.named_parameters())
    assert all(
        n.split(".")[0] == "compression" for n in set(shared) - set(plain.state_dict())
    )
    one: Any = None
    other: Any = None
    for number in range(6):
        tokens = text(3, 4, seed=number)
        expected, found = plain(tokens, one), model(tokens, other)
        assert found.logits.equal(expected.logits)
        one, other = expected.memory, found.memory
        for a, b in zip(one.states, other.states, strict=True):
            assert a.equal(b)
        assert all(c.shape == (3, 0, 8) for c in other.compressed)
        if number == 3:
            mask = torch.tensor([False, True, False])
            one, other = one.reset(mask), other.reset(mask)


@pytest.mark.parametrize("rate", [1, 2])
def test_without_compressed_slots_any_segment_is_taken(rate: int) -> None:
    changes: dict[str, Any] = {"compressed_length": 0, "compression_rate": rate}
    model = make(**changes, memory_length=6)
    plain = plain_xl(memory_length=6)
    plain.load_state_dict(model.state_dict(), strict=False)
    one: Any = None
    other: Any = None
    for number, time in enumerate((3, 1, 4, 2, 4, 4, 1)):
        tokens = text(2, time, seed=number)
        expected, found = plain(tokens, one), model(tokens, other)
        assert found.logits.equal(expected.logits)
        one, other = expected.memory, found.memory


def test_without_any_memory_a_short_segment_is_taken() -> None:
    model = make(compressed_length=0, memory_length=0)
    for time in (4, 3, 1):
        output = model(text(2, time))
        assert output.logits.shape == (2, time, VOCABULARY)
        assert output.memory.nbytes == 0


# The whole model, a second time


class Twin:
    """One lane of a Compressive Transformer, slot by slot; None is an empty slot."""

    def __init__(self, model: CompressiveTransformer) -> None:
        self.config = model.config
        self.weight = {k: w.numpy() for k, w in model.state_dict().items()}
        layers = range(self.config.layers)
        self.compressed: list[Slots] = [[] for _ in layers]
        self.memory: list[Slots] = [[] for _ in layers]

    def reset(self) -> None:
        for part in (self.compressed, self.memory):
            part[:] = [[None] * len(slots) for slots in part]

    def norm(self, name: str, x: Array) -> Array:
        if f"{name}.weight" not in self.weight:
            return x
        y = (x - x.mean()) / math.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
        return y * self.weight[f"{name}.weight"] + self.weight[f"{name}.bias"]

    def wave(self, place: int) -> Array:
        width = self.config.d_model
        angles = place * np.array([10000 ** (-k / width) for k in range(0, width, 2)])
        return np.concatenate([np.sin(angles), np.cos(angles)])

    def attend(self, layer: str, read: Slots, i: int) -> tuple[Array, Array]:
        """Attend from read[i]; return what it read, and its weights over `read`."""
        config, w = self.config, self.weight
        d_head = config.d_model // config.heads
        w_q, (w_k, w_v) = w[f"{layer}.q.weight"], np.split(w[f"{layer}.kv.weight"], 2)
        own = read[i]
        assert own is not None
        query, heads = w_q @ own, []
        mean = np.zeros(len(read))
        filled = [(j, slot) for j, slot in enumerate(read[: i + 1]) if slot is not None]
        for h in range(config.heads):
            rows = slice(h * d_head, (h + 1) * d_head)
            u, v, q = w[f"{layer}.u"][h, 0], w[f"{layer}.v"][h, 0], query[rows]
            scores = []
            for j, slot in filled:
                k = w_k[rows] @ slot
                r = w[f"{layer}.position.weight"][rows] @ self.wave(i - j)
                scores.append((q @ k + q @ r + u @ k + v @ r) / math.sqrt(d_head))
            each = np.exp(np.array(scores) - max(scores))
            each /= each.sum()
            parts = [
                p * (w_v[rows] @ s) for p, (_, s) in zip(each, filled, strict=True)
            ]
            heads.append(sum(parts))
            for p, (j, _) in zip(each, filled, strict=True):
                mean[j] += p / config.heads
        out: Array = w[f"{layer}.out.weight"] @ np.concatenate(heads)
        return out, mean

    def feed(self, layer: str, x: Array) -> Array:
        w = self.weight
        inner = w[f"{layer}.inner.weight"] @ x + w[f"{layer}.inner.bias"]
        outer = w[f"{layer}.outer.weight"] @ np.maximum(inner, 0)
        return np.asarray(outer + w[f"{layer}.outer.bias"])

    def squeeze(self, i: int, block: Slots, usage: Array) -> Slots:
        rate, kind = self.config.compression_rate, self.config.compression
        if kind is MostUsed:
            # A group of empty slots becomes an empty one.
            empty = sum(slot is None for slot in block)
            order = sorted(range(empty, len(block)), key=lambda j: (-usage[j], -j))
            kept = sorted(order[: (len(block) - empty) // rate])
            return [*[None] * (empty // rate), *(block[j] for j in kept)]
        zero = np.zeros(self.config.d_model)
        found: Slots = []
        for first in range(0, len(block), rate):
            group = block[first : first + rate]
            assert len({slot is None for slot in group}) == 1, "all or none"
            if group[0] is None:
                found.append(None)
                continue
            slots = np.stack([slot for slot in group if slot is not None])
            if kind is MaxPooling:
                found.append(slots.max(0))
            elif kind is MeanPooling:
                found.append(slots.sum(0) / rate)
            else:
                weight = self.weight[f"compression.{i}.function.taps.weight"]
                y = self.weight[f"compression.{i}.function.taps.bias"].copy()
                apart = 1
                if kind is DilatedConvolution:
                    apart = next(n for n in (2, 3, 4) if math.gcd(n, rate) == 1)
                start = first - (rate - 1) * (apart - 1) // 2
                for tap in range(rate):
                    place = start + tap * apart
                    inside = 0 <= place < len(block)
                    slot = block[place] if inside else None
                    y = y + weight[:, :, tap] @ (zero if slot is None else slot)
                found.append(y)
        return found

    def run(self, tokens: list[int]) -> Array:
        """Return `[time, vocabulary]`."""
        config = self.config
        table = self.weight["embedding.table.weight"]
        x = [table[t] * math.sqrt(config.d_model) for t in tokens]
        for number in range(config.layers):
            name = f"layers.{number}"
            first, second = (
                f"{name}.attention_residual",
                f"{name}.feed_forward_residual",
            )
            row: Slots = [*self.compressed[number], *self.memory[number], *x]
            read: Slots = [
                None if s is None else self.norm(f"{first}.input_norm", s) for s in row
            ]
            n = len(row)
            received, y = np.zeros(n), []
            for i, own in enumerate(x, n - len(x)):
                seen, weights = self.attend(f"{name}.attention", read, i)
                received += weights
                z = self.norm(f"{first}.output_norm", own + seen)
                fed = self.feed(
                    f"{name}.feed_forward", self.norm(f"{second}.input_norm", z)
                )
                y.append(self.norm(f"{second}.output_norm", z + fed))
            # A slot of the past was asked by every token, one of the segment by those
            # from itself on.
            usage = received / [min(n - j, len(x)) for j in range(n)]
            self.update(number, x, usage[len(self.compressed[number]) :])
            x = y
        head, bias = self.weight["head.weight"], self.weight["head.bias"]
        return np.stack([head @ self.norm("final_norm", s) + bias for s in x])

    def update(self, i: int, inputs: list[Array], usage: Array) -> None:
        both, gone = [*self.memory[i], *inputs], 0
        coarse = self.config.compressed_length
        while len(both) - gone > self.config.memory_length:
            gone += self.config.compression_rate if coarse else 1
        new = self.squeeze(i, both[:gone], usage) if gone and coarse else []
        self.memory[i] = both[gone:]
        made = [*self.compressed[i], *new]
        self.compressed[i] = made[max(len(made) - self.config.compressed_length, 0) :]


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the config of a small model."""
    rate, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    return {
        "compression": draw(st.sampled_from(FUNCTIONS)),
        "compression_loss": draw(st.sampled_from(LOSSES)),
        "residual": draw(st.sampled_from([PostNorm, PreNorm])),
        "heads": draw(st.sampled_from([1, 2])),
        "d_model": draw(st.sampled_from([4, 6])),
        "d_ff": 3,
        "layers": draw(st.integers(1, 2)),
        "compression_rate": rate,
        "segment_length": rate * groups,
        "memory_length": rate * draw(st.integers(groups, groups + 2)),
        "compressed_length": draw(st.integers(0, 4)),
    }


def check_twins(memory: CompressiveMemory, twins: list[Twin]) -> None:
    """Compare a memory with what twins remember, lane by lane, empty slots too."""
    for lane, twin in enumerate(twins):
        for i in range(twin.config.layers):
            row = [*twin.compressed[i], *twin.memory[i]]
            filled = [True] * len(row)
            if memory.filled is not None:
                filled = memory.filled[lane].tolist()
            assert [slot is not None for slot in row] == filled
            assert memory.compressed[i].shape[1] == len(twin.compressed[i])
            found = torch.cat([memory.compressed[i], memory.states[i]], dim=1)[lane]
            assert found.shape[0] == len(row)
            for slot, expected in zip(found, row, strict=True):
                if expected is not None:
                    assert close(slot, torch.from_numpy(expected))


@settings(max_examples=45)
@given(models(), st.data())
def test_a_stream_is_the_naive_twins(
    changes: dict[str, Any], data: st.DataObject
) -> None:
    model, batch = make(**changes), data.draw(st.integers(1, 2))
    longest = model.config.segment_length
    twins = [Twin(model) for _ in range(batch)]
    # With whole segments a group is empty or filled, so that lanes may be emptied.
    whole = data.draw(st.booleans())
    memory: CompressiveMemory | None = None
    for number in range(data.draw(st.integers(4, 7))):
        if memory is not None and whole and data.draw(st.integers(0, 2)) == 0:
            mask = torch.tensor([data.draw(st.booleans()) for _ in range(batch)])
            memory = memory.reset(mask)
            for lane in mask.nonzero().flatten().tolist():
                twins[lane].reset()
            if mask.all():  # no slot is left
                twins = [Twin(model) for _ in range(batch)]
        time = longest if whole else data.draw(st.integers(1, longest))
        tokens = text(batch, time, seed=number)
        with torch.no_grad():
            output = model(tokens, memory)
        memory = output.memory
        assert memory is not None
        for lane, twin in enumerate(twins):
            expected = twin.run(tokens[lane].tolist())
            assert close(output.logits[lane], torch.from_numpy(expected))
        check_twins(memory, twins)


@each_residual
@pytest.mark.parametrize("function", [MaxPooling, Convolution, DilatedConvolution])
def test_the_twin_sees_what_a_part_does(function: Any, residual: Any) -> None:
    model = make(compression=function, residual=residual, memory_length=4)

    def twins() -> Array:
        twin = Twin(model)
        rows = [twin.run(row.tolist()) for row in text(1, 12)[0].split(4)]
        return np.concatenate(rows)

    def run() -> Tensor:
        with torch.no_grad():
            logits, _ = follow(model, text(1, 12))
        return torch.as_tensor(logits[0])

    expected = torch.from_numpy(twins())
    assert close(run(), expected)
    for name, parameter in model.named_parameters():
        if ".loss." in name:
            continue
        with torch.no_grad():
            kept = parameter.clone()
            parameter.add_(0.01 * torch.randn_like(parameter))
            assert not close(run(), expected), name
            parameter.copy_(kept)


@each_residual
def test_a_layer_reads_compressed_slots_then_memory(residual: Any) -> None:
    model = make(residual=residual)
    _, memory = follow(model, text(2, 24))
    read: list[Any] = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda _, given: read.append(given))
    after = model(text(2, 4, seed=1), memory).memory
    for i, (layer, (x, past, *_)) in enumerate(zip(model.layers, read, strict=True)):
        row = torch.cat([memory.compressed[i], memory.states[i]], dim=1)
        assert row.shape[1] == 3 + 8
        expected = layer.attention.keys_values(layer.attention_residual.input_norm(row))
        assert all(a.equal(b) for a, b in zip(past, expected, strict=True))
        assert x.equal(after.states[i][:, -4:])


def test_both_kinds_of_slots_are_one_row_of_a_transformer_xl() -> None:
    model, plain = make(), plain_xl(memory_length=12)
    plain.load_state_dict(model.state_dict(), strict=False)
    _, memory = follow(model, text(2, 24))
    pairs = zip(memory.compressed, memory.states, strict=True)
    row = TransformerXLMemory(tuple(torch.cat(pair, dim=1) for pair in pairs))
    tokens = text(2, 4, seed=1)
    assert plain(tokens, row).logits.equal(model(tokens, memory).logits)


def test_slots_of_zeros_are_attended_to() -> None:
    # As Algorithm 1 begins; here a memory begins empty.
    model, tokens = make(memory_length=4), text(3, 4)
    exact, coarse = torch.zeros(3, 4, 8).double(), torch.zeros(3, 3, 8).double()
    full = CompressiveMemory((exact,) * 2, (coarse,) * 2)
    _, _, seen = model.run(tokens, model.past(full))
    attention, mask = model.layers[0].attention, causal_mask(4, 7, None, model.like)
    weights = attention.weights(*seen[0][:2], mask, attention.positions(11))
    assert weights[..., :7].sum(-1).mean() > 0.1
    output = model(tokens, full)
    assert not close(output.logits, model(tokens).logits)
    assert output.memory.nbytes == full.nbytes, "and the update goes on"


# How far it sees


@torch.no_grad()
def moved(model: TransformerXL) -> Tensor:
    """Which tokens, counted back from the first of a segment, move its logits."""
    far = 64
    one = text(1, far + 1).expand(far, -1)
    other = (one + torch.eye(far, far + 1, dtype=torch.int64)) % VOCABULARY
    ends = [follow(model, lanes)[0][:, -1] for lanes in (one, other)]
    return (ends[0] != ends[1]).any(-1).flip(0)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_reach_is_layers_times_span(layers: int) -> None:
    sizes = {"layers": layers, "memory_length": 4, "compressed_length": 4}
    found = moved(make(**sizes, compression_rate=4))
    assert found.nonzero().max() + 1 == found.sum() == layers * (4 + 4 * 4)
    found = moved(loud(plain_xl(layers=layers, memory_length=8)))
    assert found.nonzero().max() + 1 == found.sum() == layers * 8, "as many slots"
    # Elsewhere the oldest slot was made inside a segment, whose beginning it has seen.
    farthest = moved(make(**sizes | {"compressed_length": 3})).nonzero().max() + 1
    assert farthest == 10 + (layers - 1) * 4 * 3


# Gradient and time


class Probe(CompressionLoss):
    """Keeps what it was given."""

    evicted: Evicted

    def forward(self, evicted: Evicted, new: Tensor) -> Tensor:
        self.evicted = evicted
        return new.square().sum()


def test_a_loss_gets_the_slots_that_were_exact_and_what_the_layer_saw_there() -> None:
    model = make(compression_loss=Probe, memory_length=4).train()
    _, memory = follow(model, text(2, 12))
    model(text(2, 4, seed=1), memory)
    for i, layer in enumerate(model.layers):
        evicted = model.compression[i]["loss"].evicted
        assert evicted.old.equal(memory.states[i]) and evicted.layer is layer
        pair = layer.keys_values(evicted.old)
        assert all(close(a, b) for a, b in zip(evicted.seen[1:], pair, strict=True))


@each_loss
@each_function
def test_no_gradient_reaches_what_is_cached(function: Any, loss: Any) -> None:
    model = make(compression=function, compression_loss=loss).train()
    inputs: list[Tensor] = []
    for part in (model.embedding, model.layers[0].feed_forward_residual):
        part.register_forward_hook(lambda _, __, y: inputs.append(y))
    memory = None
    for number in range(5):
        output = model(text(2, 4, seed=number), memory)
        memory = output.memory
        for state in memory.states:
            assert not state.requires_grad and state.grad_fn is None
        learned = function in (Convolution, DilatedConvolution)
        live = loss is BackpropagationThroughTime and learned and number >= 2
        for slots in memory.compressed:
            assert slots.requires_grad == live
        found = torch.autograd.grad(
            output.logits.square().sum(), inputs, allow_unused=True, retain_graph=True
        )
        own, earlier = found[2 * number :], found[: 2 * number]
        assert len(own) == 2 and all(g is not None and g.any() for g in own)
        assert all(g is None for g in earlier)


def test_the_losses_do_not_reach_the_states_either() -> None:
    for loss in LOSSES:
        model = make(compression_loss=loss).train()
        inputs: list[Tensor] = []
        for part in (model.embedding, model.layers[0].feed_forward_residual):
            part.register_forward_hook(lambda _, __, y, kept=inputs: kept.append(y))
        memory = None
        for number in range(4):
            output = model(text(2, 4, seed=number), memory)
            memory = output.memory
        found = torch.autograd.grad(
            output.auxiliary["compression"], inputs, allow_unused=True
        )
        assert all(g is None for g in found), loss.__name__


def test_slots_that_left_take_their_graph_along() -> None:
    # Two groups leave with each segment, so that no compressed slot stays for two.
    model = make(compression_loss=BackpropagationThroughTime, compressed_length=2)
    made: list[Tensor] = []
    function = model.compression[0]["function"]
    function.register_forward_hook(lambda _, __, y: made.append(y))
    _, memory = follow(model, text(2, 24))
    kept = memory.compressed[0].sum()
    found = torch.autograd.grad(kept, made, allow_unused=True)
    assert [g is not None for g in found] == [False] * 3 + [True]


def test_a_memory_made_by_hand_gets_no_gradient() -> None:
    model, tokens = make(), text(2, 4, seed=1)
    _, memory = follow(model, text(2, 24))
    states = tuple(s.clone().requires_grad_() for s in memory.states)
    output = model(tokens, replace(memory, states=states))
    found = torch.autograd.grad(output.logits.sum(), states, allow_unused=True)
    assert found == (None,) * len(states)
    assert not any(s.requires_grad for s in output.memory.states)


@each_residual
def test_the_weights_learn_from_compressed_slots(residual: Any) -> None:
    model = make(residual=residual, d_model=4, d_ff=3, layers=1)
    _, memory = follow(model, text(1, 24))
    tokens = text(1, 1, seed=1)
    names = [f"layers.0.attention.{part}.weight" for part in ("q", "kv")]
    weights = [model.get_parameter(n).detach().requires_grad_() for n in names]
    memory = CompressiveMemory(
        tuple(s[:, :0] for s in memory.states), memory.compressed
    ).detach()

    def run(*given: Tensor) -> Tensor:
        changed = dict(zip(names, given, strict=True))
        return functional_call(model, changed, (tokens, memory)).logits

    assert torch.autograd.gradcheck(run, weights), "as the numerical derivative"
    with_memory = torch.autograd.grad(run(*weights).square().sum(), weights)
    own = [model.get_parameter(n) for n in names]
    alone = torch.autograd.grad(model(tokens).logits.square().sum(), own)
    for one, other in zip(with_memory[1].chunk(2), alone[1].chunk(2), strict=True):
        assert not close(one, other), "keys and values of the cache"


def test_detach_cuts_compressed_slots_too() -> None:
    model = make(compression_loss=BackpropagationThroughTime)
    _, memory = follow(model, text(2, 24))
    assert all(c.requires_grad for c in memory.compressed)
    cut = memory.detach()
    assert not any(t.requires_grad for t in tensors(cut)) and same(cut, memory)


# What the most used are also depends on what is there beside them.
@pytest.mark.parametrize("function", FUNCTIONS[:-1])
def test_a_token_has_influence_until_it_left(function: Any) -> None:
    # One layer, so that nothing is handed on: 8 slots, 3 groups of 2, 4 of a segment.
    model = make(compression=function, layers=1)
    tokens = text(1, 32)
    other = tokens.clone()
    other[:, :4] = (other[:, :4] + 1) % VOCABULARY
    found = [follow(model, t)[0] for t in (tokens, other)]
    moved = (found[0] != found[1]).any(-1)[0].view(8, 4)
    # At segment 3 the first four are two compressed slots, and at 4 one of them is
    # left, at 5 none.
    assert moved.any(1).tolist() == [True] * 5 + [False] * 3


# Empty lanes


# With 6 slots beside segments of 4, a block holds slots of two segments; so it does
# with 9 beside 6, where a group has more than one slot that is not its first. With room
# for one compressed slot, a new one is dropped in the update that makes it.
@each_function
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"memory_length": 6},
        {"segment_length": 6, "memory_length": 9, "compression_rate": 3},
        {"compressed_length": 1},
    ],
)
def test_a_reset_lane_is_a_fresh_lane(function: Any, sizes: dict[str, int]) -> None:
    model = make(compression=function, **sizes)
    _, memory = follow(model, text(3, 24))
    mask = torch.tensor([True, False, True])
    tokens = text(3, 4 * 6, seed=1)
    with torch.no_grad():
        found, after = follow(model, tokens, memory.reset(mask))
        kept, unchanged = follow(model, tokens, memory)
        fresh, own = follow(model, tokens[mask])
    assert found[1].equal(kept[1]), "the other lane is untouched"
    assert close(found[mask], fresh) and not close(kept[mask], fresh)
    assert after.filled is None, "24 tokens fill all slots"
    for one, other, new in zip(
        tensors(after), tensors(unchanged), tensors(own), strict=True
    ):
        assert one[1].equal(other[1]) and close(one[mask], new)


@pytest.mark.parametrize("mode", [False, True])
def test_a_group_that_is_filled_in_part_is_refused(mode: bool) -> None:
    model, mask = make().train(mode), torch.tensor([False, True])
    said = "emptied after a segment that was not full, and its groups of 2 slots"
    _, memory = follow(model, text(2, 7))
    emptied = memory.reset(mask)
    assert emptied.states[0].shape[1] == 7
    after = model(text(2, 3), emptied).memory
    assert after.filled.tolist() == [[True] * 9, [False] * 6 + [True] * 3]
    with pytest.raises(ValueError, match=said):
        follow(model, text(2, 12), after)
    # All lanes at once begin anew, and a lane whose groups begin as the others' may.
    follow(model, text(2, 12), memory.reset(torch.tensor([True, True])))
    _, even = follow(model, text(2, 6))
    tokens = text(2, 13, seed=1)
    found, _ = follow(model, tokens, even.reset(mask))
    assert close(found[1:], follow(model, tokens[1:])[0])


@each_function
def test_what_was_in_a_reset_lane_has_no_influence(function: Any) -> None:
    model, tokens = make(compression=function), text(2, 32, seed=1)
    mask = torch.tensor([True, False])
    _, memory = follow(model, text(2, 24))
    expected, _ = follow(model, tokens, memory.reset(mask))
    for value in (50.0, math.nan, math.inf):
        lane = mask[:, None, None]
        spoiled = memory.map(lambda s, lane=lane, v=value: s.masked_fill(lane, v))
        found, _ = follow(model, tokens, spoiled.reset(mask))
        assert found.equal(expected)


def test_a_slot_receives_the_same_beside_empty_slots() -> None:
    attention = make().layers[0].attention
    query, keys, values = torch.randn(3, 2, 2, 9, 4, dtype=torch.float64)
    query, held = query[:, :, :4], torch.arange(5).expand(2, -1) >= 2
    found = received_by(attention, Seen(query, keys, values), held)
    without = Seen(query, keys[:, :, 2:], values[:, :, 2:])
    assert close(found[:, 2:], received_by(attention, without, None))
    assert found[:, :2].eq(0).all(), "and they receive nothing"


# Step by step


@settings(max_examples=35)
@given(models(), st.data())
def test_step_is_forward(changes: dict[str, Any], data: st.DataObject) -> None:
    model, batch = make(**changes), data.draw(st.integers(1, 2))
    longest = model.config.segment_length
    memory: CompressiveMemory | None = None
    whole = data.draw(st.booleans())
    for number in range(data.draw(st.integers(0, 6))):
        time = longest if whole else data.draw(st.integers(1, longest))
        memory = model(text(batch, time, seed=number), memory).memory
        if whole and data.draw(st.integers(0, 2)) == 0:
            assert memory is not None
            mask = torch.tensor([data.draw(st.booleans()) for _ in range(batch)])
            memory = memory.reset(mask)
    tokens = text(batch, data.draw(st.integers(1, 4 * longest + 2)), seed=77)
    expected, _ = follow(model, tokens, memory)
    state, begin = generation.start(model, memory, batch), 0
    for time in cuts(data, tokens, longest):
        end = begin + time
        found, state = generation.step(model, tokens[:, begin:end], state)
        assert close(found, expected[:, begin:end])
        begin = end


# Lengths, checkpoints and files


def test_lengths_change_without_the_parameters() -> None:
    model = make()
    other = model.with_lengths(segment_length=2, memory_length=6, compressed_length=9)
    wanted = replace(
        model.config, segment_length=2, memory_length=6, compressed_length=9
    )
    assert other.config == wanted and model.config.compressed_length == 3
    assert type(other) is CompressiveTransformer
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(a is b for a, b in pairs)
    assert other.with_lengths(compressed_length=None).config == wanted
    for name, value, said in (
        (
            "compressed_length",
            -1,
            "compressed_length is -1; expected an integer of at least 0",
        ),
        ("memory_length", 7, "memory_length is 7; expected a multiple"),
        ("memory_length", 2, "memory_length is 2; with compressed slots expected"),
        ("segment_length", 0, "segment_length is 0"),
        ("compression_length", 3, "lengths are .*compression_length"),
    ):
        with pytest.raises(ValueError, match=said):
            model.with_lengths(**{name: value})


@each_function
def test_more_compressed_slots_at_evaluation_with_the_same_weights(
    function: Any,
) -> None:
    model = make(compression=function, compression_loss=AutoEncoding)
    longer = make(
        compression=function, compression_loss=AutoEncoding, compressed_length=9
    )
    with torch.no_grad():
        for parameter in longer.parameters():
            parameter.zero_()
    longer.load_state_dict(model.state_dict())
    tokens = text(2, 32)
    ours, memory = follow(model.with_lengths(compressed_length=9), tokens)
    theirs, _ = follow(longer, tokens)
    few, _ = follow(model, tokens)
    assert ours.equal(theirs) and memory.compressed[0].shape[1] == 9
    assert ours[:, :16].equal(few[:, :16]) and not close(ours[:, 16:], few[:, 16:])
    # A longer memory is read whole, and then cut.
    output = model(text(2, 4), memory)
    assert output.memory.compressed[0].shape[1] == 3
    assert output.memory.states[0].shape[1] == 8
    wide = model.with_lengths(compressed_length=9)(text(2, 4), memory)
    assert output.logits.equal(wide.logits)


# Auxiliary loss and names


@each_loss
@each_function
def test_the_auxiliary_loss_is_there_in_training_alone(
    function: Any, loss: Any
) -> None:
    model = make(compression=function, compression_loss=loss).train()
    parameters = list(model.compression.parameters())
    memory = None
    for number in range(6):
        assert model.eval()(text(2, 4), memory).auxiliary == {}
        output = model.train()(text(2, 4, seed=number), memory)
        memory = output.memory
        squeezed = number >= 2
        if not parameters and not squeezed:
            assert output.auxiliary == {}
            continue
        assert list(output.auxiliary) == ["compression"]
        value = output.auxiliary["compression"]
        assert value.shape == () and value.isfinite()
        compares = squeezed and loss is not BackpropagationThroughTime
        assert (value > 0) == compares, number
        if parameters:
            found = torch.autograd.grad(value, parameters, allow_unused=True)
            assert all(g is not None and g.isfinite().all() for g in found)
            if not squeezed:
                assert not any(g.any() for g in found)


def test_the_auxiliary_loss_is_the_sum_over_layers() -> None:
    model = make(layers=3).train()
    values: list[Tensor] = []
    for one in model.compression:
        one["loss"].register_forward_hook(lambda _, __, y: values.append(y))
    memory = None
    for number in range(4):
        values.clear()
        output = model(text(2, 4, seed=number), memory)
        memory = output.memory
        assert len(values) == (3 if number >= 2 else 0)
        expected = sum(v.item() for v in values)
        assert output.auxiliary["compression"].item() == pytest.approx(expected)


@each_loss
@each_function
def test_parameters_of_the_compression_are_named_so(function: Any, loss: Any) -> None:
    model = make(compression=function, compression_loss=loss, layers=3)
    others = {name for name, _ in plain_xl(layers=3).named_parameters()}
    named = {n for n, _ in model.named_parameters() if "compression" in n.split(".")}
    assert {name for name, _ in model.named_parameters()} - named == others
    owners = (Convolution, DilatedConvolution, AutoEncoding)
    own = [
        id(p)
        for module in model.modules()
        if isinstance(module, owners)
        for p in module.parameters()
    ]
    assert sorted(own) == sorted(id(model.get_parameter(n)) for n in named)
    assert len(own) == 3 * 2 * ((function in owners) + (loss in owners))


def test_each_layer_has_a_compression_of_its_own() -> None:
    torch.manual_seed(0)
    model = CompressiveTransformer(CompressiveTransformerConfig(**SMALL))
    one, two = (c["function"] for c in model.compression)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert a is not b and not a.equal(b)


def test_the_defaults_are_the_papers() -> None:
    config = CompressiveTransformerConfig(**SMALL)
    model = CompressiveTransformer(config)
    for one in model.compression:
        assert isinstance(one["function"], Convolution)
        assert isinstance(one["loss"], AttentionReconstruction)


def test_the_parent_of_the_losses_is_no_loss() -> None:
    model = make(compression_loss=CompressionLoss).train()
    memory = None
    for number in range(4):
        output = model(text(2, 4, seed=number), memory)
        memory = output.memory
    assert output.auxiliary["compression"] == 0
    assert all(c.requires_grad for c in output.memory.compressed)


def test_training_leaves_the_logits_as_they_are() -> None:
    for loss in LOSSES:
        model, one, other = make(compression_loss=loss), None, None
        for number in range(5):
            tokens = text(2, 4, seed=number)
            ours, theirs = model.train()(tokens, one), model.eval()(tokens, other)
            assert ours.logits.equal(theirs.logits)
            one, other = ours.memory, theirs.memory
            assert one is not None and other is not None and same(one, other)


def test_a_copy_of_the_model_is_its_own() -> None:
    model, tokens = make(), text(2, 24)
    other = copy.deepcopy(model)
    before, _ = follow(model, tokens)
    with torch.no_grad():
        for parameter in other.compression.parameters():
            parameter.add_(1)
    assert follow(model, tokens)[0].equal(before)
    assert not follow(other, tokens)[0].equal(before)


# What surrounds a layer, and what stands in the place of a map


class Around(nn.Module):
    """A wrapper that offers what the layer inside offers, and counts its calls."""

    def __init__(self, inner: nn.Module, checkpoints: bool = False) -> None:
        super().__init__()
        self.inner, self.checkpoints, self.calls = inner, checkpoints, 0

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, *given: Any) -> Any:
        self.calls += 1
        if self.checkpoints:
            return checkpoint(self.inner, *given, use_reentrant=False)
        return self.inner(*given)


def losses(model: CompressiveTransformer) -> list[Tensor]:
    """Train on one graph of five segments; return what it gave, and the gradients."""
    memory, found, total = None, [], torch.zeros((), dtype=torch.float64)
    for number in range(5):
        logits, memory, auxiliary = model(text(2, 4, seed=number), memory)
        found += [logits, auxiliary["compression"]]
        total = total + logits.square().sum() + auxiliary["compression"]
    return [*found, *torch.autograd.grad(total, list(model.parameters()))]


@each_residual
@pytest.mark.parametrize("kind", ["hook", "wrapper", "checkpoint"])
@pytest.mark.parametrize("loss", [AttentionReconstruction, BackpropagationThroughTime])
def test_what_surrounds_a_layer_is_called_once_a_segment(
    loss: Any, kind: str, residual: Any
) -> None:
    model = make(compression_loss=loss, residual=residual).train()
    expected = losses(model)
    calls: list[int] = []
    for i, layer in enumerate(model.layers):
        if kind == "hook":
            layer.register_forward_hook(lambda *_: calls.append(1))
        else:
            model.layers[i] = Around(layer, kind == "checkpoint")
    found = losses(model)
    if kind != "hook":
        calls = [1] * sum(layer.calls for layer in model.layers)
    assert len(calls) == 2 * 5
    assert all(close(a, b) for a, b in zip(found, expected, strict=True))


class Adapted(nn.Module):
    """A linear map with a second one beside it, whose weight is its own."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.weight = nn.Parameter(0.3 * torch.randn_like(inner.weight))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + nn.functional.linear(x, self.weight)


@each_residual
def test_an_adapter_around_keys_and_values_is_as_merged_weights(residual: Any) -> None:
    model = make(residual=residual, memory_length=4).train()
    merged = copy.deepcopy(model)
    for layer, other in zip(model.layers, merged.layers, strict=True):
        layer.attention.kv = Adapted(layer.attention.kv)
        other.attention.kv.weight.data += layer.attention.kv.weight
    one = two = None
    for number in range(4):
        tokens = text(2, 4, seed=number)
        ours, theirs = model(tokens, one), merged(tokens, two)
        one, two = ours.memory, theirs.memory
        assert close(ours.logits, theirs.logits), f"segment {number}"
        found, wanted = (o.auxiliary["compression"] for o in (ours, theirs))
        assert close(found, wanted) and bool(found) == (number > 0)
    found.backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("compression."):
            assert parameter.grad is None and parameter.requires_grad, name


@torch.no_grad()
def test_of_slots_that_are_used_alike_the_newer_stay() -> None:
    model = make(compression=MostUsed, compressed_length=4)
    for layer in model.layers:
        for parameter in layer.attention.parameters():
            parameter.zero_()  # so that all attention is uniform
    tokens = text(2, 16)
    _, memory = follow(model, tokens)
    _, before = follow(model, tokens[:, :8])
    state = generation.start(model, batch=2)
    for i in range(16):
        _, state = generation.step(model, tokens[:, i : i + 1], state)
    _, state = generation.step(model, tokens[:, :1], state)
    for held in (memory, state.memory):
        for i in range(2):
            assert held.compressed[i][:, :2].equal(before.states[i][:, 2:4])
            assert held.compressed[i][:, 2:].equal(before.states[i][:, 6:8])


class Careless(MeanPooling):
    """Keeps a group too many."""

    def squeeze(self, memory: Tensor, usage: Tensor | None) -> Tensor:
        return memory[:, : memory.shape[1] // self.rate + 1]


def test_a_function_that_returns_another_shape_is_named() -> None:
    said = r"Careless returned shape \[2, 3, 8\] for 4 slots; expected \[2, 2, 8\]"
    for mode in (True, False):
        with pytest.raises(ValueError, match=said):
            follow(make(compression=Careless).train(mode), text(2, 12))


# What is refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": 0}, "layers is 0; expected an integer of at least 1"),
        ({"d_ff": 0}, "d_ff is 0; expected an integer of at least 1"),
        ({"heads": 3}, "d_model is 8 with 3 heads"),
        ({"dropout": 1.5}, r"dropout is 1\.5"),
        ({"vocabulary": 0}, "vocabulary is 0"),
        (
            {"segment_length": 0},
            "segment_length is 0; expected an integer of at least 1",
        ),
        (
            {"memory_length": -2},
            "memory_length is -2; expected an integer of at least 0",
        ),
        (
            {"compression_rate": 0},
            "compression_rate is 0; expected an integer of at least 1",
        ),
        (
            {"compression_rate": 1.5},
            r"compression_rate is 1\.5; expected an integer of at least 1",
        ),
        (
            {"compressed_length": -1},
            "compressed_length is -1; expected an integer of at least 0",
        ),
        (
            {"compressed_length": 2.5},
            r"compressed_length is 2\.5; expected an integer of at least 0",
        ),
        (
            {"compressed_length": None},
            "compressed_length is None; expected an integer of at least 0",
        ),
        (
            {"segment_length": 5},
            "segment_length is 5; expected a multiple of compression_rate 2",
        ),
        (
            {"memory_length": 9},
            "memory_length is 9; expected a multiple of compression_rate 2",
        ),
        (
            {"memory_length": 2},
            "memory_length is 2; with compressed slots expected segment_length 4",
        ),
        ({"memory_length": 0}, "memory_length is 0; with compressed slots expected"),
    ],
)
def test_impossible_configs_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        CompressiveTransformerConfig(**SMALL | changes)


def test_a_short_memory_is_allowed_where_nothing_is_compressed() -> None:
    for memory_length in (0, 2, 4):
        CompressiveTransformerConfig(
            **SMALL | {"compressed_length": 0, "memory_length": memory_length}
        )
    CompressiveTransformerConfig(**SMALL | {"memory_length": 4})


@pytest.mark.parametrize("name", ["compression", "compression_loss"])
def test_bad_parts_are_refused(name: str) -> None:
    for value in ("labml_style.nowhere:Part", "math:pi", 3):
        with pytest.raises(ValueError, match="part is .*(expected a|no class)"):
            make(**{name: value})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda m: TransformerXLMemory(m.states),
            "type TransformerXLMemory, one of states, filled; this model's has states, "
            "compressed, filled",
        ),
        (lambda m: replace(m, states=m.states[:1]), "states are of 1 layers.*has 2"),
        (
            lambda m: replace(m, compressed=m.compressed[:1]),
            "memory's compressed are of 1 layers, the model has 2",
        ),
        (
            lambda m: replace(m, compressed=tuple(t[:1] for t in m.compressed)),
            r"shape \[1, 3, 8\]; expected \[3, slots, 8\] for batch 3 and d_model 8",
        ),
        (
            lambda m: replace(m, compressed=tuple(t[..., :6] for t in m.compressed)),
            r"shape \[3, 3, 6\]; expected \[3, slots, 8\].*d_model 8",
        ),
        (
            lambda m: replace(m, compressed=(m.compressed[0], m.compressed[1][:, 1:])),
            r"memory's compressed have \[3, 2\] slots.*as many in each layer, \[3, 3\]",
        ),
        (
            lambda m: replace(m, states=(m.states[0], m.states[1][:, 1:])),
            r"memory's states have \[8, 7\] slots.*as many in each layer, \[8, 8\]",
        ),
        (
            lambda m: replace(m, compressed=tuple(t.float() for t in m.compressed)),
            "memory is torch.float32 on cpu, the model torch.float64 on cpu",
        ),
        (
            lambda m: replace(m, compressed=tuple(t.to("meta") for t in m.compressed)),
            "torch.float64 on meta, the model torch.float64 on cpu",
        ),
        (
            lambda m: replace(m, filled=torch.ones(3, 8, dtype=torch.bool)),
            r"filled is torch.bool of shape \[3, 8\]; expected torch.bool.*\[3, 11\]",
        ),
    ],
    ids=[
        "a Transformer-XL's",
        "layers",
        "compressed layers",
        "compressed batch",
        "compressed width",
        "one compressed layer",
        "one layer",
        "compressed dtype",
        "device",
        "filled of the exact slots",
    ],
)
def test_a_memory_of_another_model_is_refused(
    change: Callable[[CompressiveMemory], Any], said: str
) -> None:
    model = make()
    _, memory = follow(model, text(3, 24))
    for run in (
        lambda given: model(text(3, 4), given),
        lambda given: generation.start(model, given, 3),
    ):
        with pytest.raises(ValueError, match=said):
            run(change(memory))


def test_a_transformer_xl_refuses_a_compressive_memory() -> None:
    _, memory = follow(make(), text(2, 24))
    said = "type CompressiveMemory, one of states, compressed, filled; this model's has"
    with pytest.raises(ValueError, match=said):
        plain_xl()(text(2, 4), memory)


def test_every_public_name_is_documented() -> None:
    for name, value in vars(compressive_transformer).items():
        own = getattr(value, "__module__", "") == compressive_transformer.__name__
        if own and name[0] != "_":
            assert value.__doc__, name


def test_a_model_is_a_module_with_parts_by_layer() -> None:
    model = make(layers=3)
    assert isinstance(model, nn.Module) and len(model.compression) == 3
    assert not list(model.buffers()), "nothing is saved but parameters"


LOG = Path(__file__).parents[1] / "docs" / "assets" / "logs" / "compressive-memory.json"

COMPILED = """
import torch
from labml_style.compressive_transformer import (
    CompressiveTransformer,
    CompressiveTransformerConfig,
)
torch.manual_seed(0)
sizes = dict(vocabulary=11, d_model=8, layers=1, heads=2, d_ff=12)
sizes |= dict(segment_length=4, memory_length=4, compressed_length=3)
config = CompressiveTransformerConfig(**sizes, compression_rate=2)
model = CompressiveTransformer(config).double()
"""
WHOLE = """
compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
memory = expected = None
for step in range(5):
    tokens = torch.randint(11, (2, 4))
    pair = compiled(tokens, memory), model(tokens, expected)
    memory, expected = (output.memory.detach() for output in pair)
    for one, other in zip(memory.compressed, expected.compressed):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)
    grads = []
    for output in pair:
        cost = output.logits.square().sum() + output.auxiliary["compression"]
        grads.append(torch.autograd.grad(cost, model.parameters()))
    for one, other in zip(*grads):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-10)
    if step == 3:
        mask = torch.tensor([True, False])
        memory, expected = memory.reset(mask), expected.reset(mask)
model.eval()
with torch.no_grad():
    ours, theirs = compiled(tokens, memory), model(tokens, memory)
assert torch.allclose(ours.logits, theirs.logits, rtol=1e-10, atol=1e-10)
"""
LAYERS = """
from torch._dynamo.backends.debugging import aot_eager
calls, memory, expected = [], None, None
def backend(graph, inputs):
    run = aot_eager(graph, inputs)
    return lambda *given: (calls.append(1), run(*given))[1]
twin = CompressiveTransformer(config).double()
twin.load_state_dict(model.state_dict())
for layer in model.layers:
    layer.compile(backend=backend, fullgraph=True)
for step in range(4):
    tokens = torch.randint(11, (2, 4))
    ours, theirs = model(tokens, memory), twin(tokens, expected)
    memory, expected = ours.memory, theirs.memory
    assert len(calls) == step + 1, calls
    one, other = ours.auxiliary["compression"], theirs.auxiliary["compression"]
    assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)
    assert torch.allclose(ours.logits, theirs.logits, rtol=1e-10, atol=1e-10)
"""


def test_compiled_it_computes_the_same() -> None:
    compiles(COMPILED + WHOLE)


def test_a_compiled_layer_is_called_once_a_segment() -> None:
    compiles(COMPILED + LAYERS)


# --- the log that figures replay


@given(sizes=lengths(), data=st.data())
def test_every_token_leaves_in_an_event(
    sizes: dict[str, int], data: st.DataObject
) -> None:
    config = CompressiveTransformerConfig(**SMALL | sizes)
    times = data.draw(st.lists(st.integers(1, config.segment_length), max_size=9))
    log = history(config, [config.segment_length, *times])
    for step, after in zip(log, log[1:], strict=False):
        exact = step["memory"] + step["segment"]
        assert exact == step["evicted"] + after["memory"]
        coarse = step["compressed"] + step["made"]
        assert coarse == step["dropped"] + after["compressed"]
        if config.compressed_length:
            assert sum(step["made"], []) == sum(step["evicted"], [])
            assert {len(group) for group in step["made"]} <= {config.compression_rate}
        else:
            assert not coarse


@pytest.mark.parametrize("times", [[], [4, 0], [5], [4, -1]])
def test_a_log_of_impossible_segments_is_refused(times: list[int]) -> None:
    config = CompressiveTransformerConfig(**SMALL | {"segment_length": 4})
    with pytest.raises(ValueError, match="expected segments of 1 to segment_length 4"):
        history(config, times)


def test_a_log_moves_no_random_number() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    history(CompressiveTransformerConfig(**SMALL), [2, 2])
    assert torch.rand(3).equal(expected)


def test_the_log_of_the_site_is_the_updates_own() -> None:
    lengths = {"segment_length": 4, "memory_length": 4, "compressed_length": 3}
    config = CompressiveTransformerConfig(**SMALL | lengths | {"compression_rate": 2})
    wanted = {**lengths, "compression_rate": 2, "steps": history(config, [4] * 6)}
    found = json.loads(LOG.read_text())
    assert found == wanted, f"{LOG.name} is not what the model does; write {wanted}"
    assert found["steps"][3]["compressed"] == [[2, 3], [4, 5], [6, 7]]
    assert found["steps"][2]["dropped"] == [[0, 1]]


# --- what the page says of records, beside the words of their judges


def test_no_rate_is_below_transformer_xl_which_gains_nothing_from_more_slots() -> None:
    record = load("compressive@cpu")
    bits = {key: np.array(row) for key, row in summary(record).items()}
    xl = bits["xl", "memory 48"]
    assert (bits["xl", "memory 24"] - xl).mean() > 0.02
    assert abs((bits["xl", "memory 96"] - xl).mean()) < 0.001
    for rate in (2, 3, 4):
        row = {n: bits[f"rate {rate}", f"compressed {n}"] for n in (0, 24, 96, 192)}
        assert row[24].mean() > xl.mean()
        assert rate == 2 or (row[24] > xl).all(), "in every seed"
        assert (row[0] > row[24]).all() and (row[192] > row[24]).all(), "a U"
        assert abs(row[24].mean() - row[96].mean()) < 0.0025, "that is flat"
    sizes = {run["arm"]: run["parameters"] for run in record["runs"]}
    more = [round(100 * sizes[f"rate {c}"] / sizes["xl"]) - 100 for c in (2, 4)]
    assert more == [13, 27]


def test_memory_saves_more_bits_of_rare_words_and_a_smaller_share() -> None:
    costs: dict[tuple[str, str], list[Any]] = {}
    for run in load("rare-words@cpu")["runs"]:
        for least, lanes in run["measures"]["carried"]["by_count"].items():
            words, spent = np.array(lanes).sum(0)
            costs.setdefault((run["arm"], least), []).append(spent / words)
    bits = {key: np.array(row) for key, row in costs.items()}
    saved = {c: (bits["alone", c] - bits["xl", c]).mean() for c in ("1", "10", "1000")}
    assert min(saved["1"], saved["10"]) > saved["1000"] > 0, "more bits a word"
    alone = {c: bits["alone", c].mean() for c in ("0", "1", "1000")}
    assert saved["1"] / alone["1"] < saved["1000"] / alone["1000"], "a smaller share"
    assert alone["1"] > 5 * alone["1000"]
    over = {c: bits["rate 3", c] - bits["xl", c] for c in ("1", "10", "100", "1000")}
    assert (over["100"] > 0).all() and (over["1000"] > 0).all(), "in every seed"
    assert all(over[c].min() < 0 < over[c].max() for c in ("1", "10")), "seeds disagree"


def test_words_never_seen_lose_by_memory_and_common_ones_by_compression() -> None:
    """Intervals of 95 % over 16 stretches of text, the same for all arms."""
    costs: dict[tuple[str, str], list[Any]] = {}
    words: dict[str, Any] = {}
    for run in load("rare-words@cpu")["runs"]:
        for least, lanes in run["measures"]["carried"]["by_count"].items():
            words[least], spent = np.array(lanes).T
            costs.setdefault((run["arm"], least), []).append(spent)
    draws = np.random.default_rng(0).integers(16, size=(2000, 16))

    def interval(arm: str, over: str, least: str) -> Any:
        """Return the ends of the change in perplexity, in per cent."""
        gap = np.mean(costs[arm, least], 0) - np.mean(costs[over, least], 0)
        drawn = gap[draws].sum(1) / words[least][draws].sum(1)
        return 100 * (2 ** np.quantile(drawn, (0.025, 0.975)) - 1)

    memory = {least: interval("xl", "alone", least) for least in words}
    squeezed = {least: interval("rate 3", "xl", least) for least in words}
    assert memory["0"][0] > 0, "words that training never had"
    assert all(memory[least][1] < 0 for least in ("1", "10", "100", "1000"))
    assert max(memory["1"][1], memory["10"][1]) < memory["1000"][0], "rarer gain more"
    assert all(squeezed[least][0] > 0 for least in ("100", "1000"))
    for least in ("100", "1000"):
        gap = np.mean(costs["rate 3", least], 0) - np.mean(costs["xl", least], 0)
        assert 3 < 100 * (2 ** (gap.sum() / words[least].sum()) - 1) < 4
    holds_zero = [least for least, (a, b) in squeezed.items() if a < 0 < b]
    assert holds_zero == ["0", "1"], "where most were expected to"


def test_attention_by_age_is_a_u_over_compressed_slots() -> None:
    found = [run["measures"]["by age"]["by_age"] for run in _runs("attention-by-age")]
    shares, errors = (np.array([x[k] for x in found]) for k in ("shares", "errors"))
    assert abs(shares.sum(1) - 1).max() < 1e-4
    assert (2 * errors < 0.05 * shares).all(), "over segments they are sharp"
    assert (shares[:, 5] < shares[:, 6]).all(), "no rise at the border"
    assert (shares[:, 0] > 1.1 * shares[:, 4:6].max(1)).all(), "but beyond"
    assert (shares[:, 11] > 2 * shares[:, 6:11].max(1)).all(), "before the segment"
    # The newest tokens of a segment are seen by few of its queries.
    sees = (24 - np.arange(24)).reshape(6, 4).mean(1) / 24
    assert (np.diff(shares[:, 12:] / sees) > 0).all(), "the newest token most of all"


def _runs(name: str) -> Any:
    return load(f"{name}@cpu")["runs"]
