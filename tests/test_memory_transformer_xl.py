"""The Memory Transformer-XL: its writer, who teaches it, and persistent pairs."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from labml_style.attention import AttentionConfig
from labml_style.contract import causal_mask
from labml_style.gating import GRUGate, NBRCGate
from labml_style.lab.presets import find
from labml_style.memory_transformer_xl import (
    FixedGate,
    LinearAttention,
    MemoryTransformerXL,
    MemoryTransformerXLConfig,
    PersistentAttention,
    linear_attention,
    linear_weights,
)
from labml_style.relative_attention import RelativeAttention, naive_scores
from labml_style.streams import TextStream
from labml_style.training import Training, TrainingConfig
from labml_style.transformer_xl import PreNorm

SIZES: dict[str, Any] = dict(
    vocabulary=11,
    d_model=8,
    heads=2,
    layers=2,
    d_ff=12,
    segment_length=4,
    memory_length=6,
    long_memory_length=3,
    initial_std=0.5,
)


def make(**changes: Any) -> Any:
    torch.manual_seed(0)
    config = MemoryTransformerXLConfig(**SIZES | changes)
    return MemoryTransformerXL(config).double().eval()


def text(time: int, batch: int = 2, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(11, (batch, time), generator=rng)


def follow(model: Any, segments: int, seed: int = 0, memory: Any = None) -> Any:
    n = model.config.segment_length
    for segment in text(segments * n, seed=seed).split(n, dim=1):
        memory = model(segment, memory).memory
    return memory


# Linear attention


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 9), st.integers(1, 5))
def test_linear_attention_is_its_quadratic_form(
    heads: int, m: int, n: int, width: int
) -> None:
    rng = torch.Generator().manual_seed(m + 10 * n + 100 * width)
    query = torch.randn(2, heads, m, width, generator=rng).double()
    keys, values = torch.randn(2, 2, heads, n, width, generator=rng).double()
    empty = torch.rand(2, n, generator=rng) < 0.4
    empty[:, -1] = False
    masked = keys.masked_fill(empty[:, None, :, None], -torch.inf)
    found = linear_attention(query, masked, values)
    weights = linear_weights(query, masked)
    for b in range(2):
        for h in range(heads):
            for i in range(m):
                row = [0.0] * n
                total = sum(math.exp(x) for x in query[b, h, i].tolist())
                for f in range(width):
                    share = math.exp(query[b, h, i, f]) / total
                    column = [
                        0.0 if empty[b, j] else math.exp(keys[b, h, j, f])
                        for j in range(n)
                    ]
                    row = [
                        x + share * y / sum(column)
                        for x, y in zip(row, column, strict=True)
                    ]
                wanted = torch.tensor(row, dtype=torch.float64)
                assert torch.allclose(weights[b, h, i], wanted, rtol=0, atol=1e-12)
                assert torch.allclose(
                    found[b, h, i], wanted @ values[b, h], rtol=0, atol=1e-12
                )
    assert torch.allclose(weights.sum(-1), torch.ones(2, heads, m).double())
    assert linear_attention(query, keys, values).isfinite().all()


def test_heads_are_split_and_merged_without_mixing() -> None:
    """A merge by `transpose(2, 3)` moves features into other slots, and fails here."""
    torch.manual_seed(0)
    part_ = LinearAttention(AttentionConfig(vocabulary=1, d_model=12, heads=3))
    part_ = part_.double()
    part_.out.weight.data = torch.eye(12).double()
    x, states = torch.randn(2, 5, 12).double(), torch.randn(2, 7, 12).double()
    plain = part_(x, states)
    for slot in range(5):
        other = x.clone()
        other[:, slot] += torch.randn(12)
        moved = (part_(other, states) != plain).any(-1)
        assert moved.equal(torch.arange(5).expand(2, -1) == slot)
    for head in range(3):  # only its own features follow a head's values
        weight = part_.kv.weight.data
        kept = weight.clone()
        weight[12 + 4 * head : 16 + 4 * head] += 1.0
        moved = (part_(x, states) - plain).abs() > 1e-9
        weight.copy_(kept)
        assert moved.any(1).any(0).equal(torch.arange(12) // 4 == head)
    assert part_.split(x).transpose(1, 2).flatten(2).equal(x)


# What is written, and when


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("chosen", [None, (2,)])
def test_memory_is_stored_at_any_relation_of_lengths(length: int, chosen: Any) -> None:
    model = make(memory_length=length, memory_layers=chosen)
    memory: Any = None
    longs, inputs = [model.writer.start.expand(2, -1, -1)], []
    for seed in range(4):
        tokens = text(4, seed=seed)
        _, states, _ = model.run(tokens, model.past(memory, 2))
        inputs.append(states[1])
        memory = model(tokens, memory).memory
        longs.append(memory.long)
        joined = torch.cat(inputs, dim=1)
        kept = joined[:, max(joined.shape[1] - length, 0) :]
        assert torch.allclose(memory.states[1], kept, rtol=0, atol=1e-12)
        first = length if chosen is None else 0
        assert memory.states[0].shape[1] == min(first, joined.shape[1])
        assert memory.filled is None
    for old, new in zip(longs, longs[1:], strict=False):
        assert (old - new).abs().amax(dim=(1, 2)).min() > 1e-3


def test_a_segment_that_is_not_full_leaves_both_memories() -> None:
    model = make()
    memory = follow(model, 3)
    assert model(text(3), memory).memory is memory
    fresh = model(text(3)).memory
    assert fresh.long.shape == (2, 0, 8) and fresh.nbytes == 0
    again = model(text(4), fresh)
    assert again.memory.long.equal(model(text(4)).memory.long)


def test_layers_that_are_not_chosen_have_neither_memory() -> None:
    model = make(memory_layers=(2,))
    memory = follow(model, 3)
    past = model.past(memory)
    assert past.pairs[0] is None and past.pairs[1] is not None
    assert memory.states[0].shape[1] == 0 and past.placed() == [0, 6]
    assert model.writer.layer.shape == (1, 8)
    moved = memory.map(lambda t: t + 1)
    plain, other = (model.run(text(4), model.past(m))[1] for m in (memory, moved))
    assert plain[1].equal(other[1]) and not plain[2].equal(other[2])


def test_a_write_is_repeated_by_iterations() -> None:
    model = make(write_iterations=3)
    memory = follow(model, 2)
    writer = model.writer
    states = [torch.randn(2, 10, 8).double() for _ in range(2)]
    written = writer(memory.long, states)
    writer.iterations = 1
    again = memory.long
    for _ in range(3):
        again = writer(again, states)
    assert torch.allclose(written, again, rtol=0, atol=1e-12)
    assert not torch.allclose(written, writer(memory.long, states))


def test_slots_that_hold_nothing_are_not_written() -> None:
    model = make(residual=PreNorm)
    long, states = torch.randn(2, 3, 8).double(), torch.randn(2, 2, 10, 8).double()
    empty = torch.zeros(2, 10).bool()
    empty[1, :6] = True
    other = states.clone()
    other[:, 1, :6] = 1e3
    one, two = (model.writer(long, [*x], empty) for x in (states, other))
    assert one.equal(two)
    moved = model.writer(long, [*other])
    assert not moved[1].equal(one[1])
    assert torch.allclose(moved[0], one[0], rtol=0, atol=1e-12)
    alone = model.writer(long[1:], [*states[:, 1:, 6:]])
    assert torch.allclose(one[1:], alone, rtol=0, atol=1e-12)


def test_long_slots_are_a_set_for_those_who_attend_to_them() -> None:
    """They have no distance, so their order is of no account."""
    model = make()
    memory = follow(model, 3)
    order = torch.tensor([2, 0, 1])
    turned = type(memory)(memory.states, memory.long[:, order])
    plain, other = (model(text(4), m).logits for m in (memory, turned))
    assert torch.allclose(plain, other, rtol=0, atol=1e-12)
    states = tuple(s.flip(1) for s in memory.states)
    turned = type(memory)(states, memory.long)
    assert not torch.allclose(plain, model(text(4), turned).logits)


def test_two_slots_of_one_content_are_told_apart() -> None:
    model = make()
    long = torch.randn(2, 1, 8).double().expand(-1, 3, -1)
    states = [torch.randn(2, 4, 8).double() for _ in range(2)]
    written = model.writer(long, states)
    assert not torch.allclose(written[:, 0], written[:, 1])
    model.writer.start.data[1] = model.writer.start.data[0]
    written = model.writer(long, states)
    assert torch.allclose(written[:, 0], written[:, 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [-1.0, 2.0])
def test_the_fixed_gate_is_its_formula(bias: float) -> None:
    config = MemoryTransformerXLConfig(**SIZES)
    gate = FixedGate(config, bias=bias)
    gate.bias.data += torch.randn(8)
    x, y = torch.randn(2, 2, 3, 8)
    keep = 1 / (1 + (-gate.bias).exp())
    assert torch.allclose(gate.join(x, y), keep * x + (1 - keep) * y, atol=1e-6)
    assert sum(p.numel() for p in gate.parameters()) == 3 * 8, "bias and norm"


@pytest.mark.parametrize("kind", [GRUGate, NBRCGate, FixedGate])
def test_a_gate_of_gating_joins_what_was_found(kind: Any) -> None:
    model = make(write_gate=kind)
    assert type(model.writer.gate) is kind
    long, states = torch.randn(2, 3, 8).double(), torch.randn(2, 2, 4, 8).double()
    writer = model.writer
    norm = writer.gate.input_norm
    told = [norm(states[i]) + writer.layer[i] for i in range(2)]
    given = torch.cat([norm(long), *told], dim=1)
    found = writer.attention(norm(long + writer.start), given)
    wanted = writer.gate.join(long, found)
    assert torch.allclose(writer(long, [*states]), wanted, rtol=0, atol=1e-12)
    assert found.min() < 0, "no ReLU stands between"
    writer.gate.dropout.p = 1 - 1e-9
    found = model.train().writer(long, [*states])
    assert torch.allclose(found, wanted, rtol=0, atol=1e-12), "and no dropout"


@pytest.mark.parametrize("times", [1, 3])
def test_a_hook_on_the_gate_is_called_once_a_write(times: int) -> None:
    model = make(write_iterations=times)
    calls: list[int] = []
    model.writer.gate.register_forward_hook(lambda *_: calls.append(1))
    follow(model, 2)
    assert len(calls) == 2 * times
    gate = model.writer.gate
    gate.register_forward_hook(lambda _, given, __: torch.zeros_like(given[0]))
    assert not model(text(4)).memory.long.any(), "what the hook returns is written"


def test_what_does_not_fit_is_refused() -> None:
    for name in ("long_memory_length", "write_iterations"):
        with pytest.raises(ValueError, match=f"{name} is 0; expected"):
            make(**{name: 0})
    model, memory = make(), follow(make(), 2)
    short = type(memory)(memory.states, memory.long[:, :2])
    with pytest.raises(ValueError, match="memory has 2 long slots; expected 3"):
        model(text(4), short)
    with pytest.raises(ValueError, match="pairs is 0; expected"):
        PersistentAttention(AttentionConfig(vocabulary=1, d_model=8, heads=2), pairs=0)


# Who teaches the writer


def test_the_writer_is_taught_by_later_segments_alone() -> None:
    model = make()
    logits, memory, _ = model(text(4))
    later = model(text(4, seed=1), memory).logits
    names, weights = zip(*model.writer.named_parameters(), strict=True)
    how: dict[str, Any] = dict(retain_graph=True, allow_unused=True)
    own = torch.autograd.grad(logits.logsumexp(-1).sum(), weights, **how)
    after = torch.autograd.grad(later.logsumexp(-1).sum(), weights, **how)
    for name, before, then in zip(names, own, after, strict=True):
        assert (before is None) == (name != "start"), "the start is attended to"
        assert then is not None and then.abs().max() > 0, name


def test_states_are_detached_and_the_long_memory_is_not() -> None:
    model = make()
    memory = follow(model, 2)
    rest = [p for name, p in model.named_parameters() if not name.startswith("writer")]
    loss = memory.long.sum()
    assert loss.requires_grad
    grads = torch.autograd.grad(loss, rest, allow_unused=True)
    assert all(grad is None for grad in grads)
    assert not any(states.requires_grad for states in memory.states)
    assert not memory.detach().long.requires_grad


@pytest.mark.parametrize("truncation", [1, 2, 3])
def test_truncation_decides_how_far_learning_reaches(truncation: int) -> None:
    """An ordinary loop, with no `retain_graph`."""
    model = make().float()
    before = {name: p.detach().clone() for name, p in model.writer.named_parameters()}
    stream = TextStream(bytes(i * i % 11 for i in range(600)), 2, 4)
    how = TrainingConfig(steps=4, truncation=truncation, weight_decay=0.0)
    for _ in Training(model, stream, how):
        pass
    for name, parameter in model.writer.named_parameters():
        moved = not parameter.equal(before[name])
        assert moved == (truncation > 1 or name == "start"), name


def nodes(loss: Tensor) -> int:
    """Count the nodes of a graph."""
    found: set[Any] = set()
    left: list[Any] = [loss.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left += [one for one, _ in node.next_functions]
    return len(found)


def test_graph_and_tensors_stay_flat_over_segments() -> None:
    memory: Any = None
    model, counts, alive = make(), [], []
    for i in range(24):
        if i and i % 4 == 0:
            memory = memory.detach()
        logits, memory, _ = model(text(4, seed=i), memory)
        counts.append(nodes(logits.sum()))
        if i % 4 == 3:
            logits.sum().backward()
            del logits
            gc.collect()
            alive.append(sum(type(one) is Tensor for one in gc.get_objects()))
    assert counts[4:8] == counts[20:24] and counts[4] < counts[7]
    assert len({*alive[2:]}) == 1


# Persistent pairs


def persistent(pairs: int = 3, **changes: Any) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(vocabulary=1, d_model=12, heads=4) | changes
    return PersistentAttention(AttentionConfig(**sizes), pairs=pairs).double()


@pytest.mark.parametrize("kv_heads", [None, 2, 1])
@pytest.mark.parametrize("slots", [0, 1, 9])
def test_persistent_pairs_are_written_out(kv_heads: Any, slots: int) -> None:
    part_ = persistent(kv_heads=kv_heads)
    x, past = torch.randn(2, 5, 12).double(), torch.randn(2, slots, 12).double()
    query, (keys, values) = part_.query(x), part_.keys_values(torch.cat([past, x], 1))
    each = 4 // part_.kv_heads
    own_keys, own_values, keys, values = (
        t.expand(2, *t.shape[-3:]).repeat_interleave(each, dim=1)
        for t in (part_.keys, part_.values, keys, values)
    )
    n = slots + 5
    placed = naive_scores(query, keys, part_.positions(n), part_.u, part_.v)
    content = (query + part_.u) @ own_keys.mT / 3**0.5
    weights = torch.cat([content, placed], dim=-1).softmax(-1)
    found = weights @ torch.cat([own_values, values], dim=2)
    wanted = part_.out(found.transpose(1, 2).flatten(2))
    assert torch.allclose(part_.attend(x, past), wanted, rtol=0, atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(part_.attend(x, past), wanted, rtol=0, atol=1e-12)
        mask = causal_mask(5, slots, None, x)
        given = part_.keys_values(torch.cat([past, x], 1))[0]
        seen = part_.weights(query, given, mask, part_.positions(n))
    assert torch.allclose(seen, weights[..., 3:], rtol=0, atol=1e-12)
    assert seen.shape[-1] == n and seen.sum(-1).max() < 1


def test_persistent_pairs_never_write_into_the_mask() -> None:
    part_, x = persistent(), torch.randn(2, 5, 12).double()
    filled = torch.tensor([[True] * 4, [False] * 4])
    mask = causal_mask(5, 4, filled, x)
    kept = mask.scores.clone()
    keys, values = part_.keys_values(torch.cat([x[:, :4], x], 1))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            part_(part_.query(x), keys, values, mask, part_.positions(9))
            part_.weights(part_.query(x), keys, mask, part_.positions(9))
    assert mask.scores.equal(kept) and mask.placed == 9


def test_persistent_pairs_that_nobody_attends_to_leave_the_parent() -> None:
    part_ = persistent()
    plain = RelativeAttention(AttentionConfig(vocabulary=1, d_model=12, heads=4))
    plain.double().load_state_dict(part_.state_dict(), strict=False)
    x, past = torch.randn(2, 2, 5, 12).double()
    assert not torch.allclose(part_.attend(x, past), plain.attend(x, past))
    part_.q.weight.data[:] = plain.q.weight.data[:] = 0
    part_.u.data[:] = plain.u.data[:] = 1
    part_.keys.data[:] = -1e3
    found = part_.attend(x, past)
    assert torch.allclose(found, plain.attend(x, past), rtol=0, atol=1e-12)


# Presets


def test_arms_of_the_text_have_the_same_state() -> None:
    sizes = {}
    for name, arm in find("written-text", "cpu").arms.items():
        c: Any = arm.config
        slots = c.memory_length + getattr(c, "compressed_length", 0)
        sizes[name] = c.layers * slots + getattr(c, "long_memory_length", 0)
    assert sizes == {
        "no memory": 0,
        "Transformer-XL 16": 64,
        "Transformer-XL 32": 128,
        "Compressive 16 + 16": 128,
        "Memory Transformer-XL 16 + 64": 128,
    }


def test_arms_of_the_facts_have_the_same_state() -> None:
    for arm in find("written-facts", "cpu").arms.values():
        c: Any = arm.config
        own = getattr(c, "long_memory_length", 0)
        assert own + c.layers * c.memory_length == 4
