"""Transformer-XL: the paper's equations, how far a layer reaches, and what learns.

What every model keeps is in `test_contract`, decoding in `test_generation`.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from labml_style import transformer_xl
from labml_style.contract import causal_mask
from labml_style.relative_attention import (
    AbsoluteEmbedding,
    ContentAttention,
    RelativeAttention,
    ShawAttention,
)
from labml_style.transformer_xl import (
    FeedForward,
    Layer,
    PostNorm,
    PreNorm,
    TransformerXL,
    TransformerXLConfig,
    TransformerXLMemory,
    newest,
    newest_filled,
)
from tests.samples import VOCABULARY, close, loud, text

SMALL: dict[str, Any] = {
    "vocabulary": VOCABULARY,
    "d_model": 8,
    "layers": 2,
    "heads": 2,
    "d_ff": 12,
    "segment_length": 4,
    "memory_length": 6,
}
ATTENTION: dict[str, dict[str, Any]] = {
    "relative": {},
    "clamped": {"clamp_length": 3},
    "shaw": {"attention": ShawAttention, "clamp_length": 5},
    "absolute": {"attention": ContentAttention, "embedding": AbsoluteEmbedding},
    "one-kv": {"kv_heads": 1},
}
PARTS = {
    f"{name}-{residual.__name__}": {**attention, "residual": residual}
    for name, attention in ATTENTION.items()
    for residual in (PostNorm, PreNorm)
}
each_part = pytest.mark.parametrize("parts", list(PARTS.values()), ids=list(PARTS))
each_residual = pytest.mark.parametrize("residual", [PostNorm, PreNorm])


def make(**changes: Any) -> TransformerXL:
    """Build a model in float64, with weights so large that a difference shows."""
    torch.manual_seed(0)
    return loud(TransformerXL(TransformerXLConfig(**SMALL | changes))).eval()


def follow(model: TransformerXL, tokens: Tensor, memory: Any = None) -> Any:
    """Run a text in segments, the last as long as it comes; join the logits."""
    found = []
    for segment in tokens.split(model.config.segment_length, dim=1):
        logits, memory, _ = model(segment, memory)
        found.append(logits)
    return torch.cat(found, dim=1), memory


# The equations, a second time


class Naive:
    """One lane of a Transformer-XL, pair by pair, after sections 3.2 and 3.3.

    It keeps the inputs of every layer since the start, and looks back as far as the
    memory reaches. Of the model it takes the weights alone.
    """

    def __init__(self, model: TransformerXL) -> None:
        self.config = model.config
        self.weight = {name: w.detach() for name, w in model.named_parameters()}
        self.states: list[list[Tensor]] = [[] for _ in range(self.config.layers)]
        self.held = 0

    def norm(self, name: str, x: Tensor) -> Tensor:
        if f"{name}.weight" not in self.weight:
            return x
        y = (x - x.mean()) / ((x - x.mean()) ** 2).mean().add(1e-5).sqrt()
        return y * self.weight[f"{name}.weight"] + self.weight[f"{name}.bias"]

    def wave(self, place: int) -> Tensor:
        width = self.config.d_model
        angles = [place * 10000 ** (-k / width) for k in range(0, width, 2)]
        both = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        return torch.tensor(both, dtype=torch.float64)

    def attend(self, layer: str, read: list[Tensor], i: int) -> Tensor:
        """Attend from read[i], the newest of which is itself."""
        config, w = self.config, self.weight
        d_head, kind = config.d_model // config.heads, config.attention
        shared = config.heads // (config.kv_heads or config.heads)
        query = w[f"{layer}.q.weight"] @ read[i]
        heads = []
        for h in range(config.heads):
            own = slice(h * d_head, (h + 1) * d_head)
            first = h // shared * d_head
            w_k, w_v = w[f"{layer}.kv.weight"].chunk(2)
            q, scores, values = query[own], [], []
            for j in range(i + 1):
                far = min(i - j, config.clamp_length or i)
                k = (w_k @ read[j])[first : first + d_head]
                score = q @ k  # term (a)
                if kind is RelativeAttention:
                    r = w[f"{layer}.position.weight"][own] @ self.wave(far)
                    u, v = w[f"{layer}.u"][h, 0], w[f"{layer}.v"][h, 0]
                    score = q @ k + q @ r + u @ k + v @ r  # (a) to (d)
                elif kind is ShawAttention:
                    score = q @ k + q @ w[f"{layer}.table"][h, far]
                scores.append(score / math.sqrt(d_head))
                values.append((w_v @ read[j])[first : first + d_head])
            weights = [(s - max(scores)).exp() for s in scores]
            mixed = sum(a * v for a, v in zip(weights, values, strict=True))
            heads.append(torch.as_tensor(mixed / sum(weights)))
        return w[f"{layer}.out.weight"] @ torch.cat(heads)

    def feed(self, layer: str, x: Tensor) -> Tensor:
        w = self.weight
        inner = w[f"{layer}.inner.weight"] @ x + w[f"{layer}.inner.bias"]
        return w[f"{layer}.outer.weight"] @ inner.relu() + w[f"{layer}.outer.bias"]

    def run(self, tokens: list[int], memory_length: int) -> Tensor:
        """Return `[time, vocabulary]`; remember at most `memory_length` slots."""
        w = self.weight
        scale = math.sqrt(self.config.d_model)
        x = [w["embedding.table.weight"][token] * scale for token in tokens]
        if self.config.embedding is AbsoluteEmbedding:
            x = [e + self.wave(place) for place, e in enumerate(x)]
        for number, past in enumerate(self.states):
            name = f"layers.{number}"
            first, second = (
                f"{name}.attention_residual",
                f"{name}.feed_forward_residual",
            )
            cached = past[len(past) - self.held :]
            past += x
            read = [self.norm(f"{first}.input_norm", s) for s in cached + x]
            y = []
            for i, own in enumerate(x):
                z = own + self.attend(f"{name}.attention", read, len(cached) + i)
                z = self.norm(f"{first}.output_norm", z)
                given = self.norm(f"{second}.input_norm", z)
                z = z + self.feed(f"{name}.feed_forward", given)
                y.append(self.norm(f"{second}.output_norm", z))
            x = y
        self.held = min(self.held + len(tokens), memory_length)
        last = [self.norm("final_norm", s) for s in x]
        return torch.stack([w["head.weight"] @ s + w["head.bias"] for s in last])


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the config of a small model."""
    heads, d_head = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    changes = dict(draw(st.sampled_from(list(PARTS.values()))))
    if "clamp_length" in changes:
        changes["clamp_length"] = draw(st.integers(1, 4))
    return {
        **changes,
        "heads": heads,
        "d_model": heads * d_head * (1 + heads * d_head % 2),
        "layers": draw(st.integers(1, 3)),
        "segment_length": draw(st.integers(1, 5)),
        "memory_length": draw(st.integers(0, 7)),
    }


@settings(max_examples=30)
@given(models(), st.data())
def test_a_stream_is_the_papers_equations(
    changes: dict[str, Any], data: st.DataObject
) -> None:
    model = make(**changes)
    longest, batch = model.config.segment_length, data.draw(st.integers(1, 2))
    lanes = [Naive(model) for _ in range(batch)]
    memory: Any = None
    for number in range(data.draw(st.integers(2, 4))):
        if memory is not None and data.draw(st.booleans()):
            mask = torch.tensor([data.draw(st.booleans()) for _ in lanes])
            memory = memory.reset(mask)
            for lane, gone in zip(lanes, mask.tolist(), strict=True):
                lane.held *= not gone
        if data.draw(st.booleans()):
            model = model.with_lengths(memory_length=data.draw(st.integers(0, 7)))
        tokens = text(batch, data.draw(st.integers(1, longest)), seed=number)
        logits, memory, _ = model(tokens, memory)
        for lane, row, found in zip(lanes, tokens.tolist(), logits, strict=True):
            assert close(found, lane.run(row, model.config.memory_length))


@each_part
def test_the_naive_twin_sees_what_a_part_does(parts: dict[str, Any]) -> None:
    model, tokens = make(**parts), text(1, 4)
    expected = Naive(model).run(tokens[0].tolist(), 0)
    assert close(model(tokens).logits[0], expected)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            kept = parameter.clone()
            parameter.add_(0.01 * torch.randn_like(parameter))
            assert not close(model(tokens).logits[0], expected), name
            parameter.copy_(kept)


@each_residual
def test_a_layer_is_torchs_own_where_nothing_is_relative(residual: Any) -> None:
    layer: Layer = make(attention=ContentAttention, residual=residual).layers[0]
    twin = nn.TransformerEncoderLayer(
        8, 2, 12, 0.0, batch_first=True, norm_first=residual is PreNorm, bias=True
    ).double()
    part, own = layer.attention, twin.self_attn
    norm = "input_norm" if residual is PreNorm else "output_norm"
    pairs = {
        own.in_proj_weight: torch.cat([part.q.weight, part.kv.weight]),
        own.out_proj.weight: part.out.weight,
    }
    with torch.no_grad():
        for mine, theirs in pairs.items():
            mine.copy_(theirs)
        own.in_proj_bias.zero_()
        own.out_proj.bias.zero_()
    twin.linear1.load_state_dict(layer.feed_forward.inner.state_dict())
    twin.linear2.load_state_dict(layer.feed_forward.outer.state_dict())
    for number, residual in enumerate(
        (layer.attention_residual, layer.feed_forward_residual), 1
    ):
        theirs = getattr(residual, norm).state_dict()
        getattr(twin, f"norm{number}").load_state_dict(theirs)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    mask = causal_mask(5, 0, None, x)
    expected = twin(x, src_mask=mask.scores[0, 0], is_causal=False)
    found, seen = layer(x, None, mask)
    assert close(found, expected)
    assert seen.query.shape == seen.keys.shape == seen.values.shape == (3, 2, 5, 4)


# Memory


@settings(max_examples=50)
@given(st.integers(0, 5), st.integers(1, 5), st.integers(0, 12))
def test_newest_is_the_end_of_both(slots: int, time: int, length: int) -> None:
    old, new = torch.randn(2, slots, 3), torch.randn(2, time, 3)
    found = newest(old, new, length)
    whole = torch.cat([old, new], dim=1)
    assert found.equal(whole[:, max(slots + time - length, 0) :])
    assert found.untyped_storage().nbytes() == found.numel() * 4
    assert newest_filled(None, time, length) is None
    filled = torch.rand(2, slots) < 0.5
    kept = newest_filled(filled, time, length)
    expected = newest(filled, torch.ones(2, time, dtype=torch.bool), length)
    assert expected.all() if kept is None else kept.equal(expected)


@pytest.mark.parametrize("memory_length", [0, 1, 3, 4, 6, 99])
def test_the_memory_is_the_newest_inputs_of_each_layer(memory_length: int) -> None:
    model = make(memory_length=memory_length, dropout=0.4).train()
    seen: list[list[Tensor]] = [[], []]
    for inputs, layer in zip(seen, model.layers, strict=True):
        layer.register_forward_pre_hook(lambda _, x, to=inputs: to.append(x[0]))
    memory, held = None, 0
    for number, time in enumerate((4, 2, 1, 4, 3)):
        memory = model(text(3, time, seed=number), memory).memory
        held = min(held + time, memory_length)
        assert memory.filled is None and len(memory.states) == 2
        for inputs, kept in zip(seen, memory.states, strict=True):
            whole = torch.cat(inputs, dim=1)
            assert kept.equal(whole[:, whole.shape[1] - held :]), "dropout included"
        assert memory.nbytes == 2 * 3 * held * 8 * 8


def test_a_memory_longer_than_the_models_is_read_whole_and_then_cut() -> None:
    model, tokens = make(layers=1, memory_length=2), text(2, 12)
    _, memory = follow(model.with_lengths(memory_length=8), tokens[:, :8])
    assert memory.slots == 8
    output = model(tokens[:, 8:], memory)
    whole = model.with_lengths(segment_length=12)(tokens).logits
    assert close(output.logits, whole[:, 8:])
    assert output.memory.slots == 2


@each_part
def test_no_gradient_reaches_what_is_cached(parts: dict[str, Any]) -> None:
    model = make(**parts)
    inputs: list[Tensor] = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
    memory: Any = None
    for number in range(3):
        output = model(text(2, 4, seed=number), memory)
        memory = output.memory
        assert not any(state.requires_grad for state in memory.states)
        found = torch.autograd.grad(
            output.logits.square().sum(), inputs, allow_unused=True, retain_graph=True
        )
        assert all(g is not None and g.any() for g in found[2 * number :])
        assert all(g is None for g in found[: 2 * number])

    # Nor what a caller puts there by hand.
    by_hand = [state.clone().requires_grad_() for state in memory.states]
    output = model(text(2, 4), TransformerXLMemory(tuple(by_hand)))
    assert not any(state.requires_grad for state in output.memory.states)
    found = torch.autograd.grad(output.logits.sum(), by_hand, allow_unused=True)
    assert found == (None, None)


@each_part
def test_the_weights_learn_from_what_is_cached(parts: dict[str, Any]) -> None:
    model = make(**parts, d_model=4, d_ff=3)
    memory, tokens = model(text(1, 4)).memory, text(1, 1, seed=1)
    names = [n for n, _ in model.named_parameters() if n.endswith("kv.weight")]
    weights = [model.get_parameter(n).detach().requires_grad_() for n in names]
    assert len(names) == 2

    def run(*given: Tensor) -> Tensor:
        changed = dict(zip(names, given, strict=True))
        return functional_call(model, changed, (tokens, memory)).logits

    assert torch.autograd.gradcheck(run, weights), "as the numerical derivative"
    with_memory = torch.autograd.grad(run(*weights).square().sum(), weights)
    own = [model.get_parameter(n) for n in names]
    alone = torch.autograd.grad(model(tokens).logits.square().sum(), own)
    for one, other in zip(with_memory, alone, strict=True):
        for a, b in zip(one.chunk(2), other.chunk(2), strict=True):
            assert not close(a, b), "keys and values of the cache"


def test_a_pre_norm_layer_reads_its_memory_through_the_norm() -> None:
    layer: Layer = make(residual=PreNorm).layers[0]
    states = torch.randn(2, 3, 8, dtype=torch.float64)
    through = layer.attention.keys_values(layer.attention_residual.input_norm(states))
    found = layer.keys_values(states)
    assert all(map(torch.equal, found, through))
    assert not close(layer.attention.keys_values(states)[0], found[0])
    plain: Layer = make(residual=PostNorm).layers[0]
    found, given = plain.keys_values(states), plain.attention.keys_values(states)
    assert all(map(torch.equal, found, given))


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name", ["relative", "clamped", "shaw"])
@each_residual
def test_with_memory_enough_segments_are_one_long_segment(
    layers: int, name: str, residual: Any
) -> None:
    model = make(**ATTENTION[name], layers=layers, residual=residual)
    tokens = text(2, 12)
    long = model.with_lengths(segment_length=12)(tokens).logits
    for memory_length, equal in ((8, 12), (4, 8), (0, 4)):
        found, _ = follow(model.with_lengths(memory_length=memory_length), tokens)
        assert close(found[:, :equal], long[:, :equal]), "all that is past is held"
        for i in range(equal, 12):
            assert not close(found[:, i], long[:, i]), "some of the past is gone"


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(("time", "memory_length"), [(1, 3), (2, 4), (3, 3)])
@each_residual
def test_each_layer_reaches_one_memory_further(
    layers: int, time: int, memory_length: int, residual: Any
) -> None:
    sizes = {"segment_length": time, "memory_length": memory_length}
    model = make(layers=layers, residual=residual, **sizes)
    reach = layers * memory_length
    start = (reach // time + 2) * time
    tokens = text(1, start + time)
    before, _ = follow(model, tokens)
    other = tokens.repeat(start, 1)  # each lane has another token changed
    other[:, :start] += torch.eye(start, dtype=torch.int64)
    after, _ = follow(model, other % VOCABULARY)
    for place in range(start):
        changed = not close(after[place, start], before[0, start])
        assert changed == (start - place <= reach), start - place


def test_one_layer_learns_from_two_segments_as_from_one_but_for_the_embedding() -> None:
    tokens = text(2, 8)
    for layers in (1, 2):
        model = make(layers=layers)
        _, memory = follow(model, tokens[:, :4])
        short = model(tokens[:, 4:], memory).logits
        whole = model.with_lengths(segment_length=8)(tokens).logits[:, 4:]
        assert close(short, whole)
        names, weights = zip(*model.named_parameters(), strict=True)
        cut, full = (
            torch.autograd.grad(logits.square().sum(), weights)
            for logits in (short, whole)
        )
        differ = {
            name
            for name, one, other in zip(names, cut, full, strict=True)
            if not torch.allclose(one, other, rtol=1e-8, atol=1e-8)
        }
        lower = {name for name in names if name.startswith("layers.0")}
        upper = {name for name in names if name.startswith(("layers.1", "head"))}
        assert "embedding.table.weight" in differ
        assert not differ & upper and bool(differ & lower) == (layers == 2)


@each_residual
def test_the_gradient_of_a_layer_is_right(residual: Any) -> None:
    layer: Layer = make(d_model=4, d_ff=5, residual=residual).layers[0]
    names = [name for name, _ in layer.named_parameters()]
    weights = [p.detach().requires_grad_() for p in layer.parameters()]
    x = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    past = torch.randn(2, 2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    filled = torch.tensor([[True] * 3, [False, False, True]])
    mask = causal_mask(2, 3, filled, x)

    def run(x: Tensor, past: Tensor, *given: Tensor) -> Tensor:
        changed = dict(zip(names, given, strict=True))
        found: Tensor = functional_call(layer, changed, (x, tuple(past), mask))[0]
        return found

    assert torch.autograd.gradcheck(run, [x, past, *weights])


def test_what_an_empty_slot_holds_gets_and_gives_no_gradient() -> None:
    model, tokens, found = make(), text(2, 4, seed=1), []
    memory = model(text(2, 4)).memory
    mask = torch.tensor([True, False])
    for value in (0.0, 50.0):
        other = memory.map(lambda t, v=value: t.masked_fill(mask[:, None, None], v))
        model.zero_grad()
        model(tokens, other.reset(mask)).logits.square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


# Start and dropout


def test_weights_start_at_the_official_defaults() -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 256, "d_ff": 512, "vocabulary": 300, "residual": PreNorm}
    model = TransformerXL(TransformerXLConfig(**SMALL | sizes))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.2), name
            assert abs(parameter.mean().item()) < 0.005, name
    for (name, one), other in zip(
        model.layers[0].named_parameters(), model.layers[1].parameters(), strict=True
    ):
        assert one is not other
        assert one.equal(other) == ("norm" in name or name.endswith("bias")), name


@each_part
def test_dropout_acts_in_training_alone(parts: dict[str, Any]) -> None:
    clean, model, tokens = make(**parts), make(**parts, dropout=0.4), text(2, 4)
    memory = clean(tokens).memory
    expected = clean(tokens, memory).logits
    assert model(tokens, memory).logits.equal(expected)
    model.train()
    places = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    assert len(places) == 2 + 3 * len(model.layers)
    for place in places:
        for other in places:
            other.p = 0.4 if other is place else 0.0
        drawn = {model(tokens, memory).logits.sum().item() for _ in range(8)}
        assert len(drawn) > 1, "each place drops something"
    for place in places:
        place.p = 0.0
    assert close(model(tokens, memory).logits, expected)


# A layer is called as a module, and its projections are


def test_each_module_is_called_once_for_a_segment() -> None:
    """A hook, a wrapper or a checkpoint on a part sees what goes through it."""
    model, tokens = make(), text(2, 4)
    memory = model(tokens).memory
    calls: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    for count, held in ((1, None), (2, memory)):
        calls.clear()
        model(tokens, held)
        assert calls.count("layers.0") == calls.count("layers.1") == 1
        assert calls.count("layers.0.attention.q") == 1
        assert calls.count("layers.0.attention.kv") == count, "memory and segment"


def test_an_adapter_around_a_projection_is_that_projection_everywhere() -> None:
    class Adapter(nn.Module):
        """Has a `weight` of its own, which is not all of the map."""

        def __init__(self, inner: nn.Linear) -> None:
            super().__init__()
            self.inner, self.weight = inner, inner.weight
            self.more = torch.randn_like(inner.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + x @ self.more.T

    adapted, merged, tokens = make(), make(), text(2, 11)
    for one, other in zip(adapted.layers, merged.layers, strict=True):
        for name in ("q", "kv"):
            wrapped = Adapter(getattr(one.attention, name))
            setattr(one.attention, name, wrapped)
            with torch.no_grad():
                getattr(other.attention, name).weight.add_(wrapped.more)
    assert close(follow(adapted, tokens)[0], follow(merged, tokens)[0])


# What is refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": 0}, "layers is 0; expected an integer of at least 1"),
        ({"d_ff": 0}, "d_ff is 0; expected an integer of at least 1"),
        ({"segment_length": 0}, "segment_length is 0; expected an integer of at least"),
        ({"memory_length": -1}, "memory_length is -1; expected an integer of at least"),
        ({"heads": 3}, "d_model is 8 with 3 heads"),
        ({"heads": 4, "kv_heads": 3}, "kv_heads is 3 with 4 heads"),
        ({"dropout": 1.5}, r"dropout is 1\.5; expected 0 <= dropout < 1"),
        ({"clamp_length": 0}, "clamp_length is 0"),
        ({"layers": 2.5}, "layers is 2.5; expected"),
        ({"attention": ShawAttention}, "clamp_length is None; ShawAttention"),
    ],
)
def test_impossible_configs_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TransformerXL(TransformerXLConfig(**SMALL | changes))


def test_a_memory_made_by_hand_must_fit() -> None:
    model, tokens = make(), text(3, 4)
    states = model(tokens).memory.states
    good = torch.ones(3, 4, dtype=torch.bool)
    wrong: list[tuple[Any, str]] = [
        (TransformerXLMemory(states[:1]), "states are of 1 layers, the model has 2"),
        (TransformerXLMemory(()), "states are of 0 layers, the model has 2"),
        (
            TransformerXLMemory(states, good[:, :3]),
            r"shape \[3, 3\]; expected .*\[3, 4\]",
        ),
        (
            TransformerXLMemory(states, good.int()),
            "torch.int32 .*; expected torch.bool",
        ),
        (TransformerXLMemory(states, good.to("meta")), "meta, the model on cpu"),
    ]
    for memory, said in wrong:
        with pytest.raises(ValueError, match=said):
            model(tokens, memory)
    assert close(
        model(tokens, TransformerXLMemory(states, good)).logits,
        model(tokens, TransformerXLMemory(states)).logits,
    )


def test_every_public_name_is_documented() -> None:
    for name, value in vars(transformer_xl).items():
        own = getattr(value, "__module__", "") == transformer_xl.__name__
        if own and name[0] != "_":
            assert value.__doc__, name
    assert isinstance(make().layers[0].feed_forward, FeedForward)


def test_no_two_layers_share_or_copy_a_weight() -> None:
    sizes: dict[str, Any] = dict(vocabulary=9, d_model=8, heads=2, d_ff=16, layers=2)
    config = TransformerXLConfig(**sizes, segment_length=4, memory_length=4)
    one, two = TransformerXL(config).layers
    pairs = list(zip(one.parameters(), two.parameters(), strict=True))
    assert all(a is not b for a, b in pairs)
    assert not any(a.equal(b) for a, b in pairs if a.ndim > 1), "each drawn anew"
