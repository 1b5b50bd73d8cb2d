"""Relative attention: the shift is exact, the terms are the paper's, parts agree."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from labml_style import relative_attention
from labml_style.contract import Mask, causal_mask
from labml_style.relative_attention import (
    AbsoluteEmbedding,
    AttentionConfig,
    ContentAttention,
    Embedding,
    RelativeAttention,
    ShawAttention,
    distances,
    naive_scores,
    position_scores,
    sinusoids,
)
from labml_style.transformer_xl import TransformerXL, TransformerXLConfig

KINDS = (ContentAttention, RelativeAttention, ShawAttention)
each_kind = pytest.mark.parametrize("kind", KINDS)


def normal(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=rng)


def part(kind: Any, *, seed: int = 0, **changes: Any) -> Any:
    """Build a part in float64, with weights so large that a difference shows."""
    sizes: dict[str, Any] = {
        "vocabulary": 11,
        "d_model": 12,
        "heads": 3,
        "clamp_length": 6 if kind is ShawAttention else None,
    }
    made = kind(AttentionConfig(**sizes | changes)).double().eval()
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed + number) * 0.4)
    return made


def close(one: Tensor, other: Tensor) -> bool:
    assert one.shape == other.shape
    return torch.allclose(one, other, rtol=1e-10, atol=1e-10)


def filled(slots: int, empty: list[int]) -> Tensor:
    """Return `[batch, slots]` bool; in each lane the oldest slots are empty."""
    return torch.arange(slots) >= torch.tensor(empty)[:, None]


def causal(time: int, n: int, empty: list[int] | None = None) -> Mask:
    slots = n - time
    held = None if empty is None else filled(slots, empty)
    return causal_mask(time, slots, held, torch.zeros(1, dtype=torch.float64))


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """Draw batch, heads, width of a head, tokens, and keys, of which some are old."""
    time = draw(st.integers(1, 6))
    n = time + draw(st.integers(0, 9))
    few = st.integers(1, 3)
    return draw(few), draw(few), draw(st.integers(1, 5)), time, n


# The shift


def shifted(by_distance: Tensor) -> Tensor:
    """Put numbers `[time, n]` under their keys, as `position_scores` does."""
    time, n = by_distance.shape
    scale = math.sqrt(time)
    query = torch.eye(time, dtype=torch.float64)[None, None] * scale
    return position_scores(query, by_distance.double().T[None])[0, 0]


def padded(by_distance: Tensor) -> Tensor:
    """Shift as in appendix B of Dai and others: pad a column, read other rows."""
    time, n = by_distance.shape
    return nn.functional.pad(by_distance, (1, 0)).flatten()[time:].view(time, n)


@given(sizes())
def test_the_shift_is_exact_and_the_future_holds_zeros_or_the_next_row(
    size: tuple[int, int, int, int, int],
) -> None:
    *_, time, n = size
    given = 1 + torch.arange(time * n).view(time, n)
    found, spare = shifted(given), 8 - n % 8 if time > 1 else 0
    assert found.shape == given.shape
    for i in range(time):
        here = n - time + i
        for j in range(here + 1):
            assert found[i, j].item() == pytest.approx(given[i, n - 1 - (here - j)])
        for j in range(here + 1, n):
            k = j - here - 1 - spare
            left = given[i + 1, k].item() if k >= 0 else 0
            assert found[i, j].item() == pytest.approx(left)
    past = torch.ones(time, n).tril(n - time).bool()
    assert close(found[past], padded(given.double())[past])


def test_the_shift_of_the_page() -> None:
    given = torch.tensor([[4, 3, 2, 1, 0]]) + 100 * torch.arange(1, 4)[:, None]
    wanted = [[102, 101, 100, 0, 0], [203, 202, 201, 200, 0]]
    wanted.append([304, 303, 302, 301, 300])
    assert close(shifted(given), torch.tensor(wanted).double())
    flat = nn.functional.pad(given, (3, 0)).flatten()
    assert flat.as_strided((3, 5), (7, 1), 5).tolist() == wanted


def test_no_number_of_the_view_is_used_twice() -> None:
    for time, n in ((2, 2), (3, 8), (9, 16), (12, 15)):
        found = position_scores(normal(1, 1, time, 3), normal(1, n, 3, seed=1))
        spot = torch.arange(found.untyped_storage().nbytes() // found.itemsize)
        where = spot.as_strided(found.shape, found.stride(), found.storage_offset())
        assert len(where.unique()) == where.numel()
        assert where.max() == len(spot) - 1


def test_one_row_is_not_shifted() -> None:
    row = normal(1, 7)
    assert close(shifted(row), row)


def test_distances_come_back_from_the_shift() -> None:
    i, j = torch.meshgrid(7 + torch.arange(5), torch.arange(12), indexing="ij")
    steps = distances(12, None, torch.zeros(1, dtype=torch.float64))
    for rows, off in ((steps, 0), (steps.flip(0), 11), (steps + 1, 1)):
        error = (shifted(rows.repeat(5, 1)) - (i - j))[j <= i].abs().max()
        assert error.item() == pytest.approx(off)


# The scores


def four_terms(
    q: Tensor, k: Tensor, r: Tensor, u: Tensor, v: Tensor, i: int, j: int
) -> Tensor:
    """Terms (a), (b), (c), (d) of one head of one lane, one pair; r by distance."""
    far = len(k) - len(q) + i - j
    terms = torch.stack([q[i] @ k[j], q[i] @ r[far], u @ k[j], v @ r[far]])
    return terms.sum() / math.sqrt(q.shape[1])


@given(sizes(), st.none() | st.integers(1, 4))
def test_loop_and_shift_give_the_four_terms(
    size: tuple[int, int, int, int, int], clamp: int | None
) -> None:
    batch, heads, d_head, time, n = size
    q = normal(batch, heads, time, d_head)
    k = normal(batch, heads, n, d_head, seed=1)
    table = normal(heads, n, d_head, seed=2)
    u, v = normal(heads, 1, d_head, seed=3), normal(heads, 1, d_head, seed=4)
    far = [d if clamp is None else min(d, clamp) for d in range(n)]
    positions = table[:, far].flip(1)
    naive = naive_scores(q, k, positions, u, v)
    content = (q + u) @ k.transpose(-1, -2) / math.sqrt(d_head)
    fast = content + position_scores(q + v, positions) + causal(time, n).scores
    future = torch.ones(time, n).triu(n - time + 1).bool()
    for scores in (naive, fast):
        assert scores.shape == (batch, heads, time, n)
        assert (scores == -torch.inf).equal(future.expand_as(scores))
        gap = (scores - naive)[..., ~future]
        assert gap.abs().max() < 1e-10
    lane, head = batch - 1, heads - 1
    alone = (q[lane, head], k[lane, head], table[head, far], u[head, 0], v[head, 0])
    for i in range(time):
        for j in range(n - time + i + 1):
            assert close(fast[lane, head, i, j], four_terms(*alone, i, j))


@pytest.mark.parametrize(("time", "n"), [(1, 1), (1, 4), (3, 3), (3, 5), (2, 7)])
def test_the_gradient_of_the_scores_is_right(time: int, n: int) -> None:
    given = [
        normal(2, 2, time, 3),
        normal(2, 2, time, 3, seed=1),
        normal(2, 2, n, 3, seed=2),
        normal(2, n, 3, seed=3),
    ]

    def scores(*tensors: Tensor) -> Tensor:
        content, position, keys, positions = tensors
        bias = position_scores(position, positions)
        found = (content @ keys.mT).add_(bias).add_(causal(time, n).scores)
        return found[found > -torch.inf]

    for tensor in given:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(scores, given)


def test_the_shift_of_the_fast_form_is_a_view_of_the_product() -> None:
    found = position_scores(normal(2, 2, 3, 4), normal(2, 5, 4, seed=1))
    assert found.untyped_storage().nbytes() == 2 * 2 * 3 * 8 * found.itemsize


@each_kind
def test_weights_change_none_of_their_inputs(kind: Any) -> None:
    attention = part(kind)
    given = normal(2, 3, 3, 4), normal(2, 3, 5, 4, seed=2), causal(3, 5)
    positions = attention.positions(5)
    tensors = [*given[:2], given[2].scores, *([] if positions is None else [positions])]
    before = [tensor.clone() for tensor in tensors]
    attention.weights(*given, positions)
    assert all(a.equal(b) for a, b in zip(tensors, before, strict=True))


def test_term_c_is_one_number_per_key_and_term_d_one_per_distance() -> None:
    q, k, r = normal(2, 3, 5, 4), normal(2, 3, 12, 4, seed=1), normal(3, 12, 4, seed=2)
    u, v = normal(3, 1, 4, seed=3), normal(3, 1, 4, seed=4)
    no = torch.zeros_like
    c = naive_scores(no(q), k, no(r), u, no(v))
    d = naive_scores(no(q), no(k), r, no(u), v)
    assert c[:, :, -1:, :8].expand(-1, -1, 5, -1).equal(c[..., :8])
    assert len(c[0, 0, -1].unique()) == len(d[0, 0, -1].unique()) == 12
    for offset in range(-4, 8):
        diagonal = d.diagonal(offset, dim1=-2, dim2=-1)
        assert (diagonal == diagonal[..., :1]).all()


@pytest.mark.parametrize(("time", "n"), [(1, 1), (1, 5), (4, 4), (3, 8)])
def test_the_mask_begins_right_of_the_token_itself(time: int, n: int) -> None:
    mask = causal(time, n).scores
    assert mask.shape == (1, 1, time, n)
    for i in range(time):
        here = n - time + i
        assert (mask[..., i, : here + 1] == 0).all()
        assert (mask[..., i, here + 1 :] == -torch.inf).all()


def test_the_mask_leaves_out_what_is_not_filled() -> None:
    held = torch.tensor([[True, False, True], [False, True, True]])
    mask = causal_mask(2, 3, held, torch.zeros(1)).scores
    assert mask.shape == (2, 1, 2, 5)
    assert (mask[:, 0, 1, :3] == 0).equal(held) and (mask[:, 0, 1, 3:] == 0).all()
    assert (mask[:, 0, 0, :3] == 0).equal(held) and (mask[:, 0, 0, 4] < 0).all()


# Waves and distances


@given(st.integers(0, 2000), st.integers(1, 8))
def test_waves_are_sines_then_cosines(place: int, half: int) -> None:
    found = sinusoids(torch.tensor([float(place)]).double(), 2 * half)[0]
    angles = [place / 10000 ** (2 * k / (2 * half)) for k in range(half)]
    expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


def test_the_product_of_two_waves_depends_on_their_distance_alone() -> None:
    waves = sinusoids(torch.arange(50).double(), 16)
    products = waves @ waves.T
    for far in range(50):
        diagonal = products.diagonal(far)
        assert close(diagonal, diagonal[:1].expand_as(diagonal))
    assert products[0].diff().abs().min() > 1e-3


@pytest.mark.parametrize("clamp", [None, 1, 3, 99])
def test_distances_count_down_to_zero(clamp: int | None) -> None:
    found = distances(6, clamp, torch.zeros(1))
    most = 99 if clamp is None else clamp
    assert found.tolist() == [min(d, most) for d in (5, 4, 3, 2, 1, 0)]


@pytest.mark.parametrize(
    ("given", "wide"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_distances_are_counted_in_float32_or_wider(
    given: torch.dtype, wide: torch.dtype
) -> None:
    found = distances(3000, None, torch.zeros(1, dtype=given))
    assert found.dtype == wide and len(found.unique()) == 3000


def test_positions_in_bfloat16_are_those_of_float64_rounded() -> None:
    exact = part(RelativeAttention)
    rounded = part(RelativeAttention).bfloat16()
    with torch.no_grad():
        exact.position.weight.copy_(rounded.position.weight)
    found, expected = rounded.positions(3000), exact.positions(3000)
    assert found.dtype == torch.bfloat16
    assert (found.double() - expected).abs().max() < 0.03


def test_distance_zero_has_the_same_row_however_many_keys_there_are() -> None:
    for kind in (RelativeAttention, ShawAttention):
        attention = part(kind)
        longest = attention.positions(20)
        assert longest.shape == (3, 20, 4)
        for n in range(1, 20):
            assert close(attention.positions(n), longest[:, -n:])


def test_beyond_the_clamp_all_distances_are_one() -> None:
    free, clamped = part(RelativeAttention), part(RelativeAttention, clamp_length=4)
    far, near = clamped.positions(12), free.positions(12)
    assert close(far[:, -5:], near[:, -5:]), "distances 0 to 4 are their own"
    assert close(far[:, :7], far[:, 7:8].expand(3, 7, 4))
    assert not close(far[:, 6], near[:, 6])
    table = part(ShawAttention, clamp_length=4)
    assert table.table.shape == (3, 5, 4)
    for n in (1, 5, 12):
        rows = [min(d, 4) for d in range(n - 1, -1, -1)]
        assert table.positions(n).equal(table.table[:, rows])


# The parts


def by_loops(attention: Any, states: Tensor, time: int) -> Tensor:
    """Attend from the newest `time` of states `[n, d_model]`, pair by pair."""
    heads, n, width = attention.heads, *states.shape
    d_head = width // heads
    weight = {k: w.detach() for k, w in attention.state_dict().items()}
    query = states @ weight["q.weight"].T
    key, value = (states @ weight["kv.weight"].T).split(width, dim=1)
    rows = []
    for i in range(n - time, n):
        read = []
        for h in range(heads):
            own = slice(h * d_head, (h + 1) * d_head)
            scores = []
            for j in range(i + 1):
                score = query[i, own] @ key[j, own]
                far = i - j
                if attention.__class__ is ShawAttention:
                    far = min(far, len(weight["table"][h]) - 1)
                    score = score + query[i, own] @ weight["table"][h, far]
                if attention.__class__ is RelativeAttention:
                    limit = attention.clamp_length
                    far = far if limit is None else min(far, limit)
                    half = range(0, width, 2)
                    angles = [far / 10000 ** (k / width) for k in half]
                    wave = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
                    r = weight["position.weight"][own] @ states.new_tensor(wave)
                    u, v = weight["u"][h, 0], weight["v"][h, 0]
                    score = score + query[i, own] @ r + u @ key[j, own] + v @ r
                scores.append(score / math.sqrt(d_head))
            weights = torch.stack(scores).softmax(0)
            read.append(weights @ value[: i + 1, own])
        rows.append(weight["out.weight"] @ torch.cat(read))
    return torch.stack(rows)


@settings(max_examples=100)
@given(st.sampled_from(KINDS), sizes(), st.none() | st.integers(1, 4))
def test_a_part_is_its_equation(
    kind: Any, size: tuple[int, int, int, int, int], clamp: int | None
) -> None:
    batch, heads, d_head, time, n = size
    clamp = 3 if kind is ShawAttention and clamp is None else clamp
    width = 2 * heads * d_head
    attention = part(kind, d_model=width, heads=heads, clamp_length=clamp)
    states = normal(batch, n, width)
    x, memory = states[:, n - time :], states[:, : n - time]
    found = attention.attend(x, memory if n > time else None)
    for lane in range(batch):
        assert close(found[lane], by_loops(attention, states[lane], time))
    assert close(attention.attend(x, memory), found), "a memory without slots is none"


@each_kind
def test_a_memory_is_the_start_of_a_longer_segment(kind: Any) -> None:
    attention, states = part(kind), normal(2, 9, 12)
    whole = attention.attend(states)
    for cut in range(1, 9):
        found = attention.attend(states[:, cut:], states[:, :cut])
        assert close(found, whole[:, cut:])


@each_kind
def test_heads_are_neighbouring_columns_of_the_weights(kind: Any) -> None:
    attention, states = part(kind), normal(2, 5, 12)
    keys, values = attention.keys_values(states)
    for weight, one in (
        (attention.q.weight, attention.query(states)),
        (attention.kv.weight[:12], keys),
        (attention.kv.weight[12:], values),
    ):
        assert one.shape == (2, 3, 5, 4)
        for head in range(3):
            rows = weight[4 * head : 4 * head + 4]
            assert close(one[:, head], states @ rows.T)
    for one in attention.queries(attention.query(states)):
        assert one.shape == (2, 3, 5, 4)


@each_kind
def test_weights_sum_to_one_and_are_zero_in_the_future(kind: Any) -> None:
    attention, states = part(kind), normal(2, 7, 12)
    query, (keys, _) = attention.query(states[:, 4:]), attention.keys_values(states)
    mask = causal(3, 7, [0, 2])
    found = attention.weights(query, keys, mask, attention.positions(7))
    assert found.shape == (2, 3, 3, 7)
    assert close(found.sum(-1), torch.ones(2, 3, 3).double())
    assert (found.triu(5) == 0).all() and (found[1, ..., :2] == 0).all()
    lane = found[0].tril(4)
    assert ((lane > 0) == torch.ones(3, 7).tril(4).bool()).all()
    assert (found[1, ..., 2:5] > 0).all()


@each_kind
def test_the_future_changes_nothing_at_all(kind: Any) -> None:
    attention, states, memory = part(kind), normal(2, 5, 12), normal(2, 3, 12, seed=1)
    whole = attention.attend(states, memory)
    for i in range(4):
        other = states.clone()
        other[:, i + 1 :] = 100 * normal(2, 4 - i, 12, seed=2)
        found = attention.attend(other, memory)
        assert found[:, : i + 1].equal(whole[:, : i + 1])


@each_kind
@pytest.mark.parametrize("slots", [0, 1, 5])
@pytest.mark.parametrize("time", [1, 4])
def test_without_gradients_it_reads_the_same(kind: Any, time: int, slots: int) -> None:
    attention, x = part(kind), normal(3, time, 12)
    memory = normal(3, slots, 12, seed=1) if slots else None
    for held in (None, filled(slots, [0, slots, slots // 2])):
        kept = attention.attend(x, memory, held)
        with torch.no_grad():
            fused = attention.attend(x, memory, held)
        assert kept.requires_grad and not fused.requires_grad
        assert close(kept, fused)


@each_kind
def test_only_a_gradient_needs_the_weights(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention, x = part(kind), normal(2, 3, 12)
    asked: list[int] = []
    weights = attention.weights

    def counted(*given: Any) -> Tensor:
        asked.append(1)
        return weights(*given)

    monkeypatch.setattr(attention, "weights", counted)
    with torch.no_grad():
        attention.attend(x)
    assert asked == []
    attention.attend(x)
    assert asked == [1]


@each_kind
def test_one_query_is_the_last_row(kind: Any) -> None:
    attention, states = part(kind), normal(3, 8, 12)
    for n in range(1, 9):
        given = states[:, :n]
        query, pair = attention.query(given)[:, :, -1:], attention.keys_values(given)
        for empty in (None, [0, n - 1, n // 2]):
            rows = attention.positions(n)
            stepped = attention(query, *pair, causal(1, n, empty), rows)
            held = None if empty is None else filled(n - 1, empty)
            last = attention.attend(given[:, -1:], given[:, :-1], held)
            assert stepped.shape == (3, 1, 12) and close(stepped, last)
            if empty is None:
                assert close(stepped, attention.attend(given)[:, -1:])


@each_kind
def test_an_empty_slot_is_no_slot(kind: Any) -> None:
    attention, x = part(kind), normal(3, 4, 12)
    memory = normal(3, 5, 12, seed=1)
    held = filled(5, [0, 2, 5])
    found = attention.attend(x, memory, held)
    for lane, empty in enumerate((0, 2, 5)):
        one = slice(lane, lane + 1)
        assert close(found[one], attention.attend(x[one], memory[one, empty:]))
    assert close(found[2:], attention.attend(x[2:]))
    memory[1, :2] = memory[2] = 1000.0
    again = attention.attend(x, memory, held)
    assert again.equal(found), "what is left in an empty slot has no influence"
    whole = attention.attend(x, memory)
    assert close(attention.attend(x, memory, filled(5, [0, 0, 0])), whole)


class Attending(nn.Module):
    def __init__(self, part: ContentAttention) -> None:
        super().__init__()
        self.part = part

    def forward(self, *given: Tensor) -> Tensor:
        return self.part.attend(*given)


@each_kind
def test_the_gradient_of_a_part_is_right(kind: Any) -> None:
    attention = part(kind, d_model=4, heads=2, clamp_length=2)
    names = [name for name, _ in attention.named_parameters()]
    parameters = [p.detach().requires_grad_() for p in attention.parameters()]
    x, memory = normal(2, 3, 4).requires_grad_(), normal(2, 2, 4, seed=1)
    held = filled(2, [0, 1])

    def run(x: Tensor, memory: Tensor, *given: Tensor) -> Tensor:
        weights = dict(zip(names, given, strict=True))
        attend = Attending(attention)
        named = {f"part.{name}": weight for name, weight in weights.items()}
        return functional_call(attend, named, (x, memory, held))

    given = (x, memory.requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(run, given)


def test_without_biases_and_with_its_table_the_four_terms_are_shaws() -> None:
    relative, shaw = part(RelativeAttention, clamp_length=6), part(ShawAttention)
    with torch.no_grad():
        relative.u.zero_()
        relative.v.zero_()
        shaw.table.copy_(relative.positions(7).flip(1))
        for name in ("q", "kv", "out"):
            getattr(shaw, name).weight.copy_(getattr(relative, name).weight)
    x, memory = normal(2, 4, 12), normal(2, 9, 12, seed=1)
    assert close(shaw.attend(x, memory), relative.attend(x, memory))
    with torch.no_grad():
        relative.u.fill_(1)
        relative.v.fill_(1)
    assert not close(shaw.attend(x, memory), relative.attend(x, memory))


def test_without_positions_the_order_of_the_memory_is_lost() -> None:
    x, memory = normal(2, 4, 12), normal(2, 5, 12, seed=1)
    for kind in KINDS:
        attention = part(kind)
        turned = attention.attend(x, memory.flip(1))
        same = close(attention.attend(x, memory), turned)
        assert same == (kind is ContentAttention)
    assert part(ContentAttention).positions(5) is None


@each_kind
def test_parts_run_in_narrow_types(kind: Any) -> None:
    exact = part(kind)
    x, memory = normal(2, 4, 12), normal(2, 5, 12, seed=1)
    for dtype, error in ((torch.float32, 1e-4), (torch.bfloat16, 0.15)):
        narrow = part(kind).to(dtype)
        found = narrow.attend(x.to(dtype), memory.to(dtype))
        assert found.dtype == dtype
        assert (found.double() - exact.attend(x, memory)).abs().max() < error


def test_global_biases_start_small_and_apart() -> None:
    torch.manual_seed(0)
    wide = RelativeAttention(AttentionConfig(vocabulary=2, d_model=2048, heads=4))
    table = ShawAttention(
        AttentionConfig(vocabulary=2, d_model=512, heads=4, clamp_length=20)
    ).table
    assert wide.u.shape == wide.v.shape == (4, 1, 512)
    assert not wide.u.equal(wide.v)
    for drawn in (wide.u, wide.v, table):
        assert drawn.std().item() == pytest.approx(0.02, rel=0.1)
        assert drawn.mean().item() == pytest.approx(0, abs=0.002)


# Embeddings


def test_an_embedding_is_its_row_times_the_root_of_the_width() -> None:
    embedding = part(Embedding)
    tokens = torch.tensor([[1, 4, 1], [0, 10, 2]])
    found = embedding(tokens)
    assert close(found, embedding.table.weight[tokens] * math.sqrt(12))
    assert embedding(tokens, 5).equal(found), "it knows no places"


def test_an_absolute_embedding_counts_from_the_start_of_the_segment() -> None:
    embedding = part(AbsoluteEmbedding)
    tokens = torch.tensor([[1, 4, 1, 7], [0, 10, 2, 2]])
    waves = sinusoids(torch.arange(4).double(), 12)
    plain = embedding.table.weight[tokens] * math.sqrt(12)
    assert close(embedding(tokens), plain + waves)
    for i in range(4):
        alone = embedding(tokens[:, i : i + 1], i)
        assert close(alone, embedding(tokens)[:, i : i + 1])
    far = part(AbsoluteEmbedding).bfloat16()(tokens, 257) - part(Embedding)(tokens)
    assert (far - sinusoids(torch.arange(257, 261).double(), 12)).abs().max() < 0.1


@pytest.mark.parametrize("kind", [Embedding, AbsoluteEmbedding])
def test_an_embedding_drops_in_training_alone(kind: Any) -> None:
    torch.manual_seed(0)
    embedding, tokens = part(kind, dropout=0.5), torch.randint(11, (8, 50))
    clean = embedding(tokens)
    assert clean.equal(part(kind)(tokens))
    dropped = embedding.train()(tokens)
    zeros = dropped == 0
    assert zeros.double().mean().item() == pytest.approx(0.5, abs=0.05)
    assert close(dropped[~zeros], 2 * clean[~zeros])


# Keys in the future, keys without a distance, fewer heads of keys


@st.composite
def two_sided(draw: st.DrawFn) -> tuple[int, int, int]:
    """Draw tokens, slots of a memory, and older keys that have no distance."""
    return draw(st.integers(1, 5)), draw(st.integers(0, 5)), draw(st.integers(0, 3))


def seen_by_loops(attention: Any, given: list[Tensor], mask: Mask) -> Tensor:
    """Attend with the four terms, pair by pair; queries stand at the newest keys."""
    query, keys, values = given
    time, n, d_head = query.shape[2], keys.shape[2], query.shape[3]
    read = torch.zeros_like(query)
    for b, h, i in torch.cartesian_prod(*map(torch.arange, query.shape[:3])).tolist():
        scores = torch.zeros(n).double()
        for j in range(n):
            scores[j] = (query[b, h, i] + attention.u[h, 0]) @ keys[b, h, j]
            if j >= n - mask.placed:
                far = torch.tensor([n - time + i - j]).double()
                r = attention.position(sinusoids(far, 12)).view(3, 4)[h]
                scores[j] += (query[b, h, i] + attention.v[h, 0]) @ r
            lane = b if len(mask.scores) > 1 else 0
            scores[j] = scores[j] / d_head**0.5 + mask.scores[lane, 0, i, j]
        read[b, h, i] = scores.softmax(0) @ values[b, h]
    return attention.out(read.transpose(1, 2).flatten(2))


@settings(max_examples=20)
@given(two_sided(), st.booleans())
def test_distances_go_both_ways_and_some_keys_have_none(
    size: tuple[int, int, int], masked: bool
) -> None:
    time, slots, placeless = size
    n = placeless + slots + time
    attention, states = part(RelativeAttention), normal(2, n, 12)
    scores = torch.zeros(2, 1, time, n).double()
    if masked and n > time:
        scores[1, ..., 0] = -torch.inf
    mask = Mask(scores, slots + time, time - 1)
    newest = states[:, n - time :]
    given: Any = [attention.query(newest), *attention.keys_values(states)]
    rows = attention.positions(mask.placed, mask.ahead)
    assert rows.shape == (3, slots + 2 * time - 1, 4)
    with torch.no_grad():
        wanted = seen_by_loops(attention, given, mask)
        fused = attention(*given, mask, rows)
    assert close(fused, wanted)
    assert close(attention(*given, mask, rows), wanted)
    if time > 1:
        other = attention.keys_values(states + normal(1, n, 12, seed=9) * 0.1)
        assert not close(attention(given[0], *other, mask, rows)[:, :1], wanted[:, :1])


def test_the_causal_form_and_the_two_sided_one_agree_in_the_past() -> None:
    attention, states = part(RelativeAttention), normal(2, 9, 12)
    given = (attention.query(states[:, 5:]), *attention.keys_values(states))
    mask = causal(4, 9)
    one = attention(*given, mask, attention.positions(9))
    both = attention(*given, mask._replace(ahead=3), attention.positions(9, 3))
    assert close(one, both)


def test_distances_below_zero_are_waves_of_their_own() -> None:
    attention = part(RelativeAttention, clamp_length=2)
    rows = attention.positions(4, 3)
    far = torch.tensor([2.0, 2, 1, 0, -1, -2, -2]).double()
    wanted = attention.position(sinusoids(far, 12)).view(7, 3, 4).transpose(0, 1)
    assert close(rows, wanted)
    with pytest.raises(ValueError, match="ahead is 3; ShawAttention has no rows"):
        part(ShawAttention).positions(4, 3)


@each_kind
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("time", [1, 4])
def test_fewer_heads_of_keys_are_the_same_keys_for_several_heads(
    kind: Any, kv_heads: int, time: int
) -> None:
    few = part(kind, d_model=16, heads=4, kv_heads=kv_heads)
    many = part(kind, d_model=16, heads=4)
    assert few.kv.weight.shape == (2 * kv_heads * 4, 16)
    with torch.no_grad():
        for name, weight in few.named_parameters():
            if name == "kv.weight":
                heads = weight.view(2, kv_heads, 4, 16)
                weight = heads.repeat_interleave(4 // kv_heads, 1).reshape(32, 16)
            many.get_parameter(name).copy_(weight)
    x, memory, held = normal(2, time, 16), normal(2, 5, 16, seed=1), filled(5, [0, 2])
    assert few.keys_values(memory)[0].shape == (2, kv_heads, 5, 4)
    wanted = many.attend(x, memory, held)
    assert close(few.attend(x, memory, held), wanted)
    with torch.no_grad():
        assert close(few.attend(x, memory, held), wanted)
    states, mask = torch.cat([memory, x], dim=1), causal(time, time + 5, [0, 2])
    found = [
        one.weights(
            one.query(x), one.keys_values(states)[0], mask, one.positions(time + 5)
        )
        for one in (few, many)
    ]
    assert found[0].shape == (2, 4, time, time + 5) and close(*found)
    few.attend(x, memory, held).square().sum().backward()
    many.attend(x, memory, held).square().sum().backward()
    for name, weight in few.named_parameters():
        grad = many.get_parameter(name).grad
        assert grad is not None and weight.grad is not None
        if name == "kv.weight":
            grad = grad.view(2, kv_heads, -1, 4, 16).sum(2).flatten(0, 2)
        assert close(weight.grad, grad), name


def test_keys_that_heads_share_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    few, x = part(RelativeAttention, d_model=16, heads=4, kv_heads=1), normal(2, 3, 16)
    attend, made = nn.functional.scaled_dot_product_attention, []

    def look(query: Tensor, keys: Tensor, *rest: Any) -> Tensor:
        made.append(keys.shape)
        return attend(query, keys, *rest)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", look)
    for name in ("repeat_interleave", "repeat"):
        monkeypatch.setattr(Tensor, name, None)
    with torch.no_grad():
        few.attend(x, normal(2, 4, 16))
    few.attend(x, normal(2, 4, 16))
    assert made == [(2, 1, 7, 4)]


@each_kind
def test_attention_never_writes_into_the_mask(kind: Any) -> None:
    attention, states = part(kind), normal(2, 7, 12)
    given = (attention.query(states[:, 4:]), *attention.keys_values(states))
    for mask in (causal(3, 7), causal(3, 7, [0, 2]), causal(1, 7)):
        before, query = mask.scores.clone(), given[0][:, :, -mask.scores.shape[2] :]
        rows = attention.positions(7)
        first = attention(query, *given[1:], mask, rows)
        with torch.no_grad():
            attention(query, *given[1:], mask, rows)
        assert mask.scores.equal(before)
        assert attention(query, *given[1:], mask, rows).equal(first)


# What wraps a projection


class Adapted(nn.Module):
    """A linear map and a small one beside it, with a `weight` of its own."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.weight = nn.Parameter(normal(*inner.weight.shape, seed=7) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x @ self.weight.T


@pytest.mark.parametrize("projection", ["q", "kv", "out"])
@pytest.mark.parametrize("kind", [ContentAttention, RelativeAttention])
def test_an_adapter_counts_for_memory_and_segment_alike(
    kind: Any, projection: str
) -> None:
    sizes: Any = dict(vocabulary=9, d_model=8, heads=2, d_ff=8, layers=2)
    lengths: Any = dict(segment_length=4, memory_length=6)
    config = TransformerXLConfig(**sizes, **lengths, attention=kind)
    merged = TransformerXL(config).double().eval()
    with torch.no_grad():
        for number, parameter in enumerate(merged.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=number) * 0.3)
    wrapped = deepcopy(merged)
    for plain, layer in zip(merged.layers, wrapped.layers, strict=True):
        adapted = Adapted(getattr(layer.attention, projection))
        setattr(layer.attention, projection, adapted)
        with torch.no_grad():
            getattr(plain.attention, projection).weight.add_(adapted.weight)
    tokens = torch.randint(9, (2, 12), generator=torch.Generator().manual_seed(0))
    one = other = None
    for segment in tokens.split(4, dim=1):
        found, wanted = wrapped(segment, one), merged(segment, other)
        one, other = found.memory, wanted.memory
        assert close(found.logits, wanted.logits)


# Where a part departs from paper and official code


def test_without_the_scale_one_key_draws_most_of_the_weight() -> None:
    product = normal(500, 64) @ normal(256, 64, seed=1).T
    assert product.std().item() == pytest.approx(8, rel=0.1)
    largest = [(product / scale).softmax(-1).amax(-1).mean() for scale in (1, 8)]
    assert largest[0] > 0.5 > 0.1 > largest[1]


def test_global_biases_can_be_shared_and_are_few_and_almost_silent() -> None:
    torch.manual_seed(0)
    wide = AttentionConfig(vocabulary=1, d_model=512, heads=8)
    first, second = RelativeAttention(wide), RelativeAttention(wide)
    assert 2 * first.u.numel() < 0.001 * sum(p.numel() for p in first.parameters())
    content = first.query(torch.randn(4, 16, 512))
    assert first.u.std() < 0.05 * content.std()
    alone = len(list(nn.ModuleList([first, second]).parameters()))
    second.u, second.v = first.u, first.v
    assert len(list(nn.ModuleList([first, second]).parameters())) == alone - 2
    assert not [name for name, _ in first.named_parameters() if "bias" in name]


def test_the_order_of_sines_and_cosines_is_immaterial() -> None:
    waves, weight = sinusoids(torch.arange(12).double(), 32), normal(32, 32)
    order = torch.arange(32).view(2, 16).T.flatten()
    alternating = waves[:, order]
    assert alternating[:, 1].equal(waves[:, 16])
    assert close(alternating @ weight[:, order].T, waves @ weight.T)
    assert not close(alternating @ weight.T, waves @ weight.T)


def test_a_sixth_of_the_products_is_saved_where_memory_makes_no_queries() -> None:
    attention, states = part(RelativeAttention), normal(1, 8, 12)
    spent = []
    for asking in (states[:, 4:], states):
        with FlopCounterMode(display=False) as counter:
            attention.query(asking), attention.keys_values(states)
        spent.append(counter.get_total_flops())
    assert 1 - spent[0] / spent[1] == pytest.approx(1 / 6)


@each_kind
def test_there_is_no_dropout_on_the_weights(kind: Any) -> None:
    attention = part(kind, dropout=0.9).train()
    x = normal(2, 6, 12)
    assert attention.attend(x).equal(attention.attend(x))


def test_pytorchs_own_initial_values_drown_a_wave() -> None:
    torch.manual_seed(0)
    wave = sinusoids(torch.arange(16.0), 64).std()
    table = Embedding(AttentionConfig(vocabulary=16, d_model=64, heads=2)).table.weight
    assert 8 * table.std() > 8 * wave
    assert table.std() > 8 * 64**-0.5 * 0.9, "the page starts with this instead"


# Places


def test_a_move_by_one_place_changes_three_of_the_four_terms() -> None:
    e, w_q, w_k = normal(2, 32), normal(32, 32, seed=1), normal(32, 32, seed=2)
    found = []
    for place in (4, 5):
        u = sinusoids(torch.tensor([place, place - 3]).double(), 32)
        terms = [(w_q @ q[0]) @ (w_k @ k[1]) for q in (e, u) for k in (e, u)]
        assert close(
            sum(terms, torch.zeros(())), (w_q @ (e + u)[0]) @ (w_k @ (e + u)[1])
        )
        found.append(torch.stack(terms))
    assert ((found[0] - found[1]).abs() > 1e-3).tolist() == [False, True, True, True]


# What goes wrong elsewhere


def test_a_table_for_both_ways_is_half_idle_and_ends() -> None:
    both_ways = nn.Embedding(2 * 16, 8)
    steps = distances(16, None, both_ways.weight)
    both_ways(16 + steps.long()).sum().backward()
    assert both_ways.weight.grad is not None
    assert (both_ways.weight.grad == 0).all(1).sum() == 16
    with pytest.raises(IndexError):
        both_ways(16 + distances(17, None, both_ways.weight).long())
    assert part(RelativeAttention).positions(5000).shape == (3, 5000, 4)


def test_without_the_mask_the_padded_shift_mixes_neighbours() -> None:
    rows, past = normal(5, 12), causal(5, 12).scores[0, 0]
    other = rows.clone()
    other[3] += 1
    for masked, wanted in ((0, [2, 3]), (past, [3])):
        moved = (padded(rows) + masked != padded(other) + masked).any(1)
        assert moved.nonzero().flatten().tolist() == wanted


# Places in the segment, with a cache


def at_places(old: Tensor, new: Tensor) -> Tensor:
    """Give the result at the newest token; embeddings hold places in the segment."""
    embedding = part(AbsoluteEmbedding, vocabulary=40)
    states = [embedding(tokens[None]) for tokens in (*old, new)]
    attention: ContentAttention = part(ContentAttention)
    return attention.attend(states[-1], torch.cat(states[:-1], dim=1))[0, -1]


@pytest.mark.parametrize("segments", [1, 2, 8])
def test_tokens_of_one_place_can_be_exchanged(segments: int) -> None:
    tokens = torch.arange(4 * segments + 4).view(-1, 4)
    whole = at_places(tokens[:-1], tokens[-1])
    for other in range(segments):
        turned = tokens.clone()
        turned[[other, -1], 2] = tokens[[-1, other], 2]
        assert close(at_places(turned[:-1], turned[-1]), whole)
    within = tokens.clone()
    within[0, [1, 2]] = tokens[0, [2, 1]]
    assert not close(at_places(within[:-1], within[-1]), whole)


# What is refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocabulary": 0}, "vocabulary is 0; expected an integer of at least 1"),
        ({"d_model": 0}, "d_model is 0; expected an integer of at least 1"),
        ({"heads": 0}, "heads is 0; expected an integer of at least 1"),
        ({"heads": -2}, "heads is -2"),
        ({"heads": 5}, "d_model is 12 with 5 heads; expected an even number"),
        ({"d_model": 9}, "d_model is 9 with 3 heads; expected an even number"),
        ({"kv_heads": 2}, "kv_heads is 2 with 3 heads; expected a divisor of heads"),
        ({"kv_heads": 0}, "kv_heads is 0; expected an integer of at least 1"),
        ({"dropout": 1.0}, r"dropout is 1\.0; expected 0 <= dropout < 1"),
        ({"dropout": -0.1}, r"dropout is -0\.1"),
        ({"dropout": math.nan}, "dropout is nan"),
        ({"dropout": "0.1"}, "dropout is '0.1'; expected 0 <= dropout < 1"),
        ({"dropout": False}, "dropout is False"),
        ({"dropout": None}, "dropout is None"),
        ({"clamp_length": 0}, "clamp_length is 0; expected an integer of at least 1"),
    ],
)
def test_impossible_configs_are_refused(changes: dict[str, Any], said: str) -> None:
    sizes: dict[str, Any] = {"vocabulary": 11, "d_model": 12, "heads": 3}
    with pytest.raises(ValueError, match=said):
        AttentionConfig(**sizes | changes)


def test_the_smallest_values_are_allowed_and_a_config_is_frozen() -> None:
    config = AttentionConfig(vocabulary=1, d_model=2, heads=1, clamp_length=1)
    assert config.dropout == 0
    with pytest.raises(FrozenInstanceError):
        config.heads = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        AttentionConfig(1, 2, 1)  # type: ignore[call-arg]


def test_a_table_without_a_last_row_is_refused() -> None:
    with pytest.raises(ValueError, match="clamp_length is None; ShawAttention"):
        ShawAttention(AttentionConfig(vocabulary=1, d_model=2, heads=1))


def test_every_public_name_is_documented() -> None:
    for name, value in vars(relative_attention).items():
        own = getattr(value, "__module__", "") == relative_attention.__name__
        if own and name[0] != "_":
            assert value.__doc__, name
