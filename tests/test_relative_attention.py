"""Relative attention: the shift is exact, the terms are the paper's, parts agree."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call

from labml_style import relative_attention
from labml_style.relative_attention import (
    AbsoluteEmbedding,
    AttentionConfig,
    ContentAttention,
    Embedding,
    RelativeAttention,
    ShawAttention,
    all_scores,
    distances,
    mask_future,
    naive_scores,
    position_scores,
    shift,
    sinusoids,
    unfilled,
)

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
    return torch.allclose(one, other, rtol=1e-10, atol=1e-10)


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """Draw batch, heads, width of a head, tokens, and keys, of which some are old."""
    time = draw(st.integers(1, 6))
    n = time + draw(st.integers(0, 9))
    few = st.integers(1, 3)
    return draw(few), draw(few), draw(st.integers(1, 5)), time, n


# The shift


@given(sizes())
def test_the_shift_is_exact_and_its_garbage_is_the_next_rows(
    size: tuple[int, int, int, int, int],
) -> None:
    batch, heads, _, time, n = size
    given = normal(batch, heads, time, n)
    shifted = shift(given)
    assert shifted.shape == given.shape
    for i in range(time):
        here = n - time + i
        for j in range(here + 1):
            column = n - 1 - (here - j)
            assert shifted[..., i, j].equal(given[..., i, column])
        for j in range(here + 1, n):
            k = j - here - 2
            left = given[..., i + 1, k] if k >= 0 else torch.zeros(batch, heads)
            assert shifted[..., i, j].equal(left.double())


def test_the_shift_of_the_page() -> None:
    given = torch.arange(15).view(3, 5)
    shifted = [[2, 3, 4, 0, 5], [6, 7, 8, 9, 0], [10, 11, 12, 13, 14]]
    assert shift(given).tolist() == shifted


def test_one_row_is_not_shifted() -> None:
    row = normal(2, 1, 7)
    assert shift(row).equal(row)


def test_the_shift_takes_any_layout_and_leaves_its_input_alone() -> None:
    given = normal(5, 4, 3, 2).transpose(0, 3).transpose(1, 2)
    before = given.clone()
    assert shift(given).equal(shift(before.contiguous()))
    assert given.equal(before)


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
    fast = all_scores(q + u, k, position_scores(q + v, positions))
    by_distance = (q + v) @ positions.transpose(1, 2) / math.sqrt(d_head)
    shifted = all_scores(q + u, k, shift(by_distance))
    future = torch.ones(time, n).triu(n - time + 1).bool()
    for scores in (naive, shifted, fast):
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
        found = all_scores(content, keys, position_scores(position, positions))
        return found[found > -torch.inf]

    for tensor in given:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(scores, given)


def test_the_shift_of_the_fast_form_is_a_view_of_the_product() -> None:
    found = position_scores(normal(2, 2, 3, 4), normal(2, 5, 4, seed=1))
    assert found.untyped_storage().nbytes() == 2 * 2 * 3 * 8 * found.itemsize


def test_the_scores_change_none_of_their_inputs() -> None:
    content, position = normal(2, 2, 3, 4), normal(2, 2, 3, 4, seed=1)
    given = content, position, normal(2, 2, 5, 4, seed=2), normal(2, 5, 4, seed=3)
    before = [tensor.clone() for tensor in given]
    all_scores(given[0], given[2], position_scores(given[1], given[3]))
    assert all(a.equal(b) for a, b in zip(given, before, strict=True))


@pytest.mark.parametrize(("time", "n"), [(1, 1), (1, 5), (4, 4), (3, 8)])
def test_the_mask_begins_right_of_the_token_itself(time: int, n: int) -> None:
    masked = mask_future(torch.ones(2, time, n))
    for i in range(time):
        here = n - time + i
        assert (masked[:, i, : here + 1] == 1).all()
        assert (masked[:, i, here + 1 :] == -torch.inf).all()


def test_empty_slots_are_the_oldest() -> None:
    mask = unfilled(torch.tensor([0, 2, 5]), torch.zeros(3, 2, 5, 4))
    assert mask.shape == (3, 1, 1, 5) and mask.dtype == torch.bool
    assert mask[:, 0, 0].int().tolist() == [[0] * 5, [1, 1, 0, 0, 0], [1] * 5]


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
    query, key, value = (states @ weight["qkv.weight"].T).split(width, dim=1)
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
    found = attention(x, memory if n > time else None)
    for lane in range(batch):
        assert close(found[lane], by_loops(attention, states[lane], time))
    assert close(attention(x, memory), found), "a memory without slots is none"


@each_kind
def test_a_memory_is_the_start_of_a_longer_segment(kind: Any) -> None:
    attention, states = part(kind), normal(2, 9, 12)
    whole = attention(states)
    for cut in range(1, 9):
        assert close(attention(states[:, cut:], states[:, :cut]), whole[:, cut:])


@each_kind
def test_cached_states_are_projected_as_those_of_the_segment(kind: Any) -> None:
    attention, states = part(kind), normal(2, 5, 12)
    query, keys, values = attention.project(states)
    for one, other in zip(attention.recall(states), (keys, values), strict=True):
        assert one.shape == (2, 3, 5, 4) and close(one, other)
    for one in attention.queries(query):
        assert one.shape == (2, 3, 5, 4)


@each_kind
def test_weights_sum_to_one_and_are_zero_in_the_future(kind: Any) -> None:
    attention, states = part(kind), normal(2, 7, 12)
    empty = torch.tensor([0, 2])
    query, keys, _ = attention.project(states)
    query = query[:, :, 4:]
    found = attention.weights(query, keys, attention.positions(7), empty)
    assert found.shape == (2, 3, 3, 7)
    assert close(found.sum(-1), torch.ones(2, 3, 3).double())
    assert (found.triu(5) == 0).all() and (found[1, ..., :2] == 0).all()
    lane = found[0].tril(4)
    assert ((lane > 0) == torch.ones(3, 7).tril(4).bool()).all()
    assert (found[1, ..., 2:5] > 0).all()


@each_kind
def test_the_future_changes_nothing_at_all(kind: Any) -> None:
    attention, states, memory = part(kind), normal(2, 5, 12), normal(2, 3, 12, seed=1)
    whole = attention(states, memory)
    for i in range(4):
        other = states.clone()
        other[:, i + 1 :] = 100 * normal(2, 4 - i, 12, seed=2)
        assert attention(other, memory)[:, : i + 1].equal(whole[:, : i + 1])


@each_kind
@pytest.mark.parametrize("slots", [0, 1, 5])
@pytest.mark.parametrize("time", [1, 4])
def test_without_gradients_it_reads_the_same(kind: Any, time: int, slots: int) -> None:
    attention, x = part(kind), normal(3, time, 12)
    memory = normal(3, slots, 12, seed=1) if slots else None
    for empty in (None, torch.tensor([0, slots, slots // 2])):
        kept = attention(x, memory, empty)
        with torch.no_grad():
            fused = attention(x, memory, empty)
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
        attention(x)
    assert asked == []
    attention(x)
    assert asked == [1]


@each_kind
def test_one_query_is_the_last_row(kind: Any) -> None:
    attention, states = part(kind), normal(3, 8, 12)
    for n in range(1, 9):
        given = states[:, :n]
        query, keys, values = attention.project(given)
        for empty in (None, torch.tensor([0, n - 1, n // 2])):
            stepped = attention.read(
                query[:, :, -1:], keys, values, attention.positions(n), empty
            )
            last = attention(given[:, -1:], given[:, :-1], empty)
            assert stepped.shape == (3, 1, 12) and close(stepped, last)
            if empty is None:
                assert close(stepped, attention(given)[:, -1:])


@each_kind
def test_an_empty_slot_is_no_slot(kind: Any) -> None:
    attention, x = part(kind), normal(3, 4, 12)
    memory = normal(3, 5, 12, seed=1)
    found = attention(x, memory, torch.tensor([0, 2, 5]))
    for lane, empty in enumerate((0, 2, 5)):
        one = slice(lane, lane + 1)
        assert close(found[one], attention(x[one], memory[one, empty:]))
    assert close(found[2:], attention(x[2:]))
    memory[1, :2] = memory[2] = 1000.0
    again = attention(x, memory, torch.tensor([0, 2, 5]))
    assert again.equal(found), "what is left in an empty slot has no influence"
    zeros = torch.zeros(3, dtype=torch.int64)
    assert close(attention(x, memory, zeros), attention(x, memory))


@each_kind
def test_the_gradient_of_a_part_is_right(kind: Any) -> None:
    attention = part(kind, d_model=4, heads=2, clamp_length=2)
    names = [name for name, _ in attention.named_parameters()]
    parameters = [p.detach().requires_grad_() for p in attention.parameters()]
    x, memory = normal(2, 3, 4).requires_grad_(), normal(2, 2, 4, seed=1)
    empty = torch.tensor([0, 1])

    def run(x: Tensor, memory: Tensor, *given: Tensor) -> Tensor:
        weights = dict(zip(names, given, strict=True))
        return functional_call(attention, weights, (x, memory, empty))

    given = (x, memory.requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(run, given)


def test_without_biases_and_with_its_table_the_four_terms_are_shaws() -> None:
    relative, shaw = part(RelativeAttention, clamp_length=6), part(ShawAttention)
    with torch.no_grad():
        relative.u.zero_()
        relative.v.zero_()
        shaw.table.copy_(relative.positions(7).flip(1))
        for name in ("qkv", "out"):
            getattr(shaw, name).weight.copy_(getattr(relative, name).weight)
    x, memory = normal(2, 4, 12), normal(2, 9, 12, seed=1)
    assert close(shaw(x, memory), relative(x, memory))


def test_without_positions_the_order_of_the_memory_is_lost() -> None:
    x, memory = normal(2, 4, 12), normal(2, 5, 12, seed=1)
    for kind in KINDS:
        attention = part(kind)
        same = close(attention(x, memory), attention(x, memory.flip(1)))
        assert same == (kind is ContentAttention)
    assert part(ContentAttention).positions(5) is None


@each_kind
def test_parts_run_in_narrow_types(kind: Any) -> None:
    exact = part(kind)
    x, memory = normal(2, 4, 12), normal(2, 5, 12, seed=1)
    for dtype, error in ((torch.float32, 1e-4), (torch.bfloat16, 0.15)):
        narrow = part(kind).to(dtype)
        found = narrow(x.to(dtype), memory.to(dtype))
        assert found.dtype == dtype
        assert (found.double() - exact(x, memory)).abs().max() < error


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
        ({"dropout": 1.0}, r"dropout is 1\.0; expected 0 <= dropout < 1"),
        ({"dropout": -0.1}, r"dropout is -0\.1"),
        ({"dropout": math.nan}, "dropout is nan"),
        ({"clamp_length": 0}, "clamp_length is 0; expected 1 or more, or None"),
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
