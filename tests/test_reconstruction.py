"""The losses of compression: an oracle after the paper, and who receives gradient."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from labml_style import reconstruction
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
)
from labml_style.lab import results
from labml_style.lab.errors import errors, unrestored
from labml_style.reconstruction import (
    AttentionReconstruction,
    AutoEncoding,
    BackpropagationThroughTime,
    attended,
    mean_square,
    receivers,
    stopped_keys_values,
)
from labml_style.streams import TextStream
from labml_style.training import Training, TrainingConfig, nats
from labml_style.transformer_xl import Layer, PostNorm, PreNorm
from tests.samples import VOCABULARY, close, loud, text

SMALL: dict[str, Any] = {
    "vocabulary": VOCABULARY,
    "d_model": 8,
    "layers": 2,
    "heads": 2,
    "d_ff": 12,
    "segment_length": 4,
    "memory_length": 8,
    "compressed_length": 4,
    "compression_rate": 2,
}
FUNCTIONS: list[Any] = [
    MaxPooling,
    MeanPooling,
    Convolution,
    DilatedConvolution,
    MostUsed,
]
LEARNED: list[Any] = [Convolution, DilatedConvolution]
COMPARING: list[Any] = [AttentionReconstruction, AutoEncoding]
LOSSES: list[Any] = [*COMPARING, BackpropagationThroughTime]
each_function = pytest.mark.parametrize("function", FUNCTIONS)
each_kind = pytest.mark.parametrize("function", [MaxPooling, Convolution, MostUsed])
each_learned = pytest.mark.parametrize("function", LEARNED)
each_loss = pytest.mark.parametrize("loss", LOSSES)
each_comparing = pytest.mark.parametrize("loss", COMPARING)
each_residual = pytest.mark.parametrize("residual", [PostNorm, PreNorm])


def make(**changes: Any) -> CompressiveTransformer:
    """Build a model in float64, with weights so large that a difference shows."""
    torch.manual_seed(0)
    config = CompressiveTransformerConfig(**SMALL | changes)
    return loud(CompressiveTransformer(config)).train()


def run(
    model: CompressiveTransformer, segments: int, batch: int = 2, memory: Any = None
) -> Any:
    """Run a text of whole segments; return the last output, and what it was given."""
    before, output = memory, None
    for number in range(segments):
        before = memory
        output = model(text(batch, 4, seed=number), memory)
        memory = output.memory
    return output, before


def cost(logits: Tensor, seed: int = 50) -> Tensor:
    return nats(logits, text(logits.shape[0], logits.shape[1], seed)).sum()


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradient of a loss for every parameter; zeros where there is none."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(
        loss, parameters, allow_unused=True, retain_graph=True, materialize_grads=True
    )
    return dict(zip(names, found, strict=True))


def taught(grads: dict[str, Tensor]) -> set[str]:
    assert all(g.isfinite().all() for g in grads.values())
    return {name for name, g in grads.items() if g.any()}


def part_of(model: nn.Module, part: str) -> set[str]:
    """Return names of the parameters of a compression's function or loss."""
    names = {name for name, _ in model.named_parameters()}
    return {n for n in names if n.startswith("compression.") and f".{part}." in n}


# The paper's norms, a second time


def normed(layer: Layer, x: Tensor) -> Tensor:
    """Read through what stands before attention, by hand."""
    norm = layer.attention_residual.input_norm
    if isinstance(norm, nn.Identity):
        return x
    assert isinstance(norm, nn.LayerNorm)
    apart = x - x.mean(-1, keepdim=True)
    spread = (apart.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    return apart / spread * norm.weight + norm.bias


def squeezed(function: nn.Module, old: Tensor, rate: int) -> Tensor:
    """f_c of one lane `[n, d]`, group by group."""
    groups = [old[i : i + rate] for i in range(0, len(old), rate)]
    if isinstance(function, MeanPooling):
        return torch.stack([group.sum(0) / rate for group in groups])
    if isinstance(function, MaxPooling):
        return torch.stack([group.max(0).values for group in groups])
    assert isinstance(function, Convolution) and function.taps.bias is not None
    weight, rows = function.taps.weight, []
    for group in groups:
        products = [weight[:, :, i] @ slot for i, slot in enumerate(group)]
        rows.append(torch.stack(products).sum(0) + function.taps.bias)
    return torch.stack(rows)


def content_attention(layer: Layer, h: Tensor, m: Tensor, heads: int) -> Tensor:
    """softmax((hQ)(mK)^T)(mV) for each head, without positions; `[time, d]`."""
    width = h.shape[1]
    d_head, attention = width // heads, layer.attention
    weight = torch.cat([attention.q.weight, attention.kv.weight])
    found = []
    for head in range(heads):
        rows = slice(head * d_head, (head + 1) * d_head)
        q, k, v = (weight[part * width :][rows].T for part in range(3))
        scores = (h @ q) @ (m @ k).T / math.sqrt(d_head)
        weights = scores.exp() / scores.exp().sum(1, keepdim=True)
        found.append(weights @ (m @ v))
    return torch.cat(found, dim=1)


def norm_of(differences: list[Tensor]) -> Tensor:
    return torch.cat([d.flatten() for d in differences]).square().sum().sqrt()


@torch.no_grad()
def oracle(
    model: CompressiveTransformer,
    remembered: list[Tensor],
    inputs: list[Tensor],
    evicted: int,
) -> tuple[float, list[int]]:
    """Algorithm 2, or the auto-encoding loss: the norms summed over layers.

    It also returns how many elements each norm is of.

    Args:
        model: its weights are read.
        remembered: for each layer its memory before the segment.
        inputs: for each layer what the segment is when it comes in.
        evicted: how many of the oldest are compressed.
    """
    total, counts = 0.0, []
    rate, heads = model.config.compression_rate, model.config.heads
    for i, layer in enumerate(model.layers):
        function, loss = model.compression[i].values()
        h, slots = inputs[i], torch.cat([remembered[i], inputs[i]], dim=1)
        old_mem = slots[:, :evicted]
        differences = []
        for lane in range(len(h)):
            new_cm = squeezed(function, old_mem[lane], rate)
            if isinstance(loss, AutoEncoding):
                weight, bias = loss.decoder.weight, loss.decoder.bias
                width = h.shape[2]
                for g, slot in enumerate(new_cm):
                    for k in range(rate):
                        rows = slice(k * width, (k + 1) * width)
                        restored = weight[rows] @ slot + bias[rows]
                        differences.append(old_mem[lane, g * rate + k] - restored)
                continue
            asked, old, new = (
                normed(layer, x) for x in (h[lane], old_mem[lane], new_cm)
            )
            one = content_attention(layer, asked, old, heads)
            differences.append(one - content_attention(layer, asked, new, heads))
        total += norm_of(differences).item()
        counts.append(sum(d.numel() for d in differences))
    return total, counts


@settings(max_examples=25)
@given(
    loss=st.sampled_from(COMPARING),
    function=st.sampled_from([MaxPooling, MeanPooling, Convolution]),
    residual=st.sampled_from([PostNorm, PreNorm]),
    rate=st.integers(1, 3),
    groups=st.integers(1, 2),
    more=st.integers(0, 2),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 2), st.sampled_from([2, 4])),
    data=st.data(),
)
def test_the_sum_of_norms_is_the_papers(
    loss: Any,
    function: Any,
    residual: Any,
    rate: int,
    groups: int,
    more: int,
    sizes: tuple[int, int, int],
    data: st.DataObject,
) -> None:
    layers, heads, d_head = sizes
    longest = rate * groups
    model = make(
        compression=function,
        compression_loss=loss,
        residual=residual,
        layers=layers,
        heads=heads,
        d_model=heads * d_head,
        compression_rate=rate,
        segment_length=longest,
        memory_length=longest + rate * more,
    )
    found: list[Tensor] = []
    for part in model.compression:
        part["loss"].register_forward_hook(lambda _, __, y: found.append(y.detach()))
    before: CompressiveMemory | None = None
    inputs: list[Tensor] = []
    model.embedding.register_forward_hook(lambda _, __, y: inputs.append(y))
    for layer in model.layers:
        joins = layer.feed_forward_residual
        joins.register_forward_hook(lambda _, __, y: inputs.append(y))
    compared = 0
    for number in range(6):
        found.clear()
        inputs.clear()
        time = data.draw(st.integers(1, longest)) if number % 2 else longest
        output = model(text(2, time, seed=number), before)
        after = output.memory
        held = 0 if before is None else before.states[0].shape[1]
        evicted = held + time - after.states[0].shape[1]
        assert bool(evicted) == bool(found) and evicted % rate == 0
        if before is not None and evicted:
            compared += 1
            remembered = list(before.states)
            expected, counts = oracle(model, remembered, inputs, evicted)
            pairs = zip(found, counts, strict=True)
            norms = [math.sqrt(value.item() * count) for value, count in pairs]
            assert sum(norms) == pytest.approx(expected, rel=1e-10, abs=1e-10)
            total = torch.stack(found).sum()
            assert close(output.auxiliary["compression"].detach(), total)
        before = after
    assert compared >= 1


def test_a_rate_of_1_loses_nothing() -> None:
    model = make(compression=MeanPooling, compression_rate=1)
    output, _ = run(model, 5)
    assert output.auxiliary["compression"] < 1e-25
    assert output.memory.compressed[0].any()


# The parts of the losses


def test_keys_and_values_without_gradient_to_the_layer() -> None:
    for residual in (PostNorm, PreNorm):
        layer = make(residual=residual).layers[0]
        slots = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
        keys, values = stopped_keys_values(layer, slots)
        expected = layer.keys_values(slots)
        assert keys.equal(expected[0]) and values.equal(expected[1])
        (keys.square().sum() + values.square().sum()).backward()
        assert slots.grad is not None and slots.grad.any()
        (own,) = torch.autograd.grad(
            expected[0].square().sum() + expected[1].square().sum(), slots
        )
        assert close(slots.grad, own)
        for name, parameter in layer.named_parameters():
            assert parameter.grad is None and parameter.requires_grad, name


def test_a_layer_is_as_it_was_when_its_keys_fail() -> None:
    layer = make().layers[0]
    before = dict(layer.named_parameters())
    with pytest.raises(RuntimeError):
        stopped_keys_values(layer, torch.zeros(2, 3, 7, dtype=torch.float64))
    after = dict(layer.named_parameters())
    assert before.keys() == after.keys()
    assert all(after[name] is parameter for name, parameter in before.items())


def test_attended_masks_what_is_empty() -> None:
    torch.manual_seed(0)
    query, keys, values = torch.randn(3, 3, 2, 5, 4, dtype=torch.float64)
    held = torch.arange(5) >= torch.tensor([[0], [2], [5]])
    found = attended(query, keys, values, held)
    assert close(found[:1], attended(query[:1], keys[:1], values[:1], None))
    filled = keys[1:2, :, 2:], values[1:2, :, 2:]
    assert close(found[1:2], attended(query[1:2], *filled, None))
    everywhere = attended(query[2:], keys[2:], values[2:], None)
    assert close(found[2:], everywhere), "where all are empty, to all of them"


def test_the_mean_is_over_the_lanes_that_count() -> None:
    torch.manual_seed(0)
    error = torch.randn(3, 2, 5, dtype=torch.float64)
    error[1] = torch.nan
    lanes = torch.tensor([True, False, True])
    found = mean_square(error, lanes)
    assert close(found, error[lanes].square().mean())
    assert mean_square(error, torch.zeros(3).bool()) == 0
    assert close(mean_square(error[:1], None), error[0].square().mean())
    assert mean_square(error[:1].bfloat16(), None).dtype == torch.float32
    slots = torch.tensor([[True, False], [False, False], [True, True]])
    assert close(mean_square(error, slots), error[slots].square().mean())


# Who receives gradient


@each_residual
@each_comparing
@each_learned
def test_a_comparing_loss_teaches_the_compression_alone(
    function: Any, loss: Any, residual: Any
) -> None:
    model = make(compression=function, compression_loss=loss, residual=residual)
    output, _ = run(model, 5)
    wanted = part_of(model, "function") | part_of(model, "loss")
    assert len(wanted) == (4 if loss is AttentionReconstruction else 8)
    found = gradients(model, output.auxiliary["compression"])
    assert taught(found) == wanted
    text_alone = gradients(model, cost(output.logits))
    everyone = {name for name, _ in model.named_parameters()}
    assert taught(text_alone) == everyone - wanted


@pytest.mark.parametrize("function", [MaxPooling, MeanPooling, MostUsed])
def test_pooling_leaves_a_decoder_to_teach(function: Any) -> None:
    for loss in LOSSES:
        model = make(compression=function, compression_loss=loss)
        output, _ = run(model, 5)
        own = part_of(model, "loss")
        assert len(own) == (4 if loss is AutoEncoding else 0)
        value = output.auxiliary["compression"]
        assert value.requires_grad == bool(own)
        if own:
            assert taught(gradients(model, value)) == own
        everyone = {name for name, _ in model.named_parameters()}
        assert taught(gradients(model, cost(output.logits))) == everyone - own


@each_residual
@each_learned
def test_backpropagation_teaches_by_later_segments(
    function: Any, residual: Any
) -> None:
    model = make(
        compression=function,
        compression_loss=BackpropagationThroughTime,
        residual=residual,
    )
    own = part_of(model, "function")
    everyone = {name for name, _ in model.named_parameters()}
    memory: CompressiveMemory | None = None
    for number in range(6):
        output = model(text(2, 4, seed=number), memory)
        memory = output.memory
        # The third segment makes the first compressed slots, the fourth reads them.
        wanted = everyone if number >= 3 else everyone - own
        assert taught(gradients(model, cost(output.logits))) == wanted, number
        assert output.auxiliary["compression"] == 0
        assert taught(gradients(model, output.auxiliary["compression"])) == set()
        assert all(c.requires_grad == (number >= 2) for c in memory.compressed)


def test_two_segments_teach_through_time_once_the_memory_is_full() -> None:
    model = make(compression_loss=BackpropagationThroughTime)
    memory: CompressiveMemory | None = None
    for number in range(5):
        memory = model(text(2, 4, seed=number), memory).memory.detach()
    own = part_of(model, "function")
    for together in (1, 2):
        after = memory
        for number in range(together):
            logits, after, _ = model(text(2, 4, seed=9 + number), after)
        taught_now = taught(gradients(model, cost(logits)))
        assert (own <= taught_now) == (together == 2)


@each_learned
@pytest.mark.parametrize("loss", [BackpropagationThroughTime, CompressionLoss])
def test_a_cut_memory_and_no_loss_teach_nothing(function: Any, loss: Any) -> None:
    model = make(compression=function, compression_loss=loss)
    own, memory = part_of(model, "function"), None
    for number in range(6):
        output = model(text(2, 4, seed=number), memory)
        total = cost(output.logits) + output.auxiliary["compression"]
        found = taught(gradients(model, total))
        assert found == {name for name, _ in model.named_parameters()} - own
        memory = output.memory.detach()


@each_comparing
@each_learned
def test_compressed_slots_are_cut_where_a_loss_compares(
    function: Any, loss: Any
) -> None:
    model = make(compression=function, compression_loss=loss)
    own = part_of(model, "function") | part_of(model, "loss")
    memory, total = None, torch.zeros((), dtype=torch.float64)
    for number in range(6):
        output = model(text(2, 4, seed=number), memory)
        memory, total = output.memory, total + cost(output.logits)
        for slots in memory.compressed:
            assert not slots.requires_grad and slots.grad_fn is None
    assert memory is not None and memory.compressed[0].shape[1] == 4
    # The loop does not cut here, and still no text reaches the compression.
    found = taught(gradients(model, total))
    assert found == {name for name, _ in model.named_parameters()} - own
    model.eval()
    assert not any(c.requires_grad for c in run(model, 6)[0].memory.compressed)


@each_comparing
def test_the_gradient_of_a_loss_is_right(loss: Any) -> None:
    model = make(compression_loss=loss, d_model=4, d_ff=3, layers=1)
    _, before = run(model, 5, batch=1)
    tokens = text(1, 4, seed=9)
    names = sorted(part_of(model, "function") | part_of(model, "loss"))
    weights = [model.get_parameter(n).detach().requires_grad_() for n in names]

    def loss_of(*given: Tensor) -> Tensor:
        changed = dict(zip(names, given, strict=True))
        output = torch.func.functional_call(model, changed, (tokens, before))
        value = output.auxiliary["compression"]
        assert isinstance(value, Tensor)
        return value

    assert torch.autograd.gradcheck(loss_of, weights), "as the numerical derivative"


@each_residual
@each_comparing
@each_kind
def test_the_texts_gradient_is_the_same_with_and_without(
    function: Any, loss: Any, residual: Any
) -> None:
    model = make(compression=function, compression_loss=loss, residual=residual)
    found: list[dict[str, Tensor]] = []
    for factor in (0, 1e6):
        model.zero_grad()
        memory, total = None, torch.zeros((), dtype=torch.float64)
        for number in range(5):
            output = model(text(2, 4, seed=number), memory)
            memory, total = output.memory, total + cost(output.logits)
            if factor and output.auxiliary:
                total = total + factor * output.auxiliary["compression"]
        total.backward()
        own = {
            name: p.grad
            for name, p in model.named_parameters()
            if p.grad is not None and not name.startswith("compression.")
        }
        assert len(own) == sum(
            not name.startswith("compression.") for name, _ in model.named_parameters()
        )
        found.append(own)
    for name, expected in found[0].items():
        for other in found[1:]:
            assert other[name].equal(expected), name


@each_loss
@each_kind
def test_no_parameter_is_switched_off(function: Any, loss: Any) -> None:
    model = make(compression=function, compression_loss=loss)
    memory = None
    for number in range(5):
        for mode in (False, True):
            output = model.train(mode)(text(2, 4, seed=number), memory)
            assert all(p.requires_grad for p in model.parameters())
            assert all(p.grad_fn is None and p.is_leaf for p in model.parameters())
        total = cost(output.logits) + sum(output.auxiliary.values())
        total.backward()
        assert all(p.requires_grad for p in model.parameters())
        memory = output.memory.detach()
    # A parameter that somebody froze stays so.
    model.layers[0].attention.kv.weight.requires_grad_(False)
    model(text(2, 4), memory)
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["layers.0.attention.kv.weight"]


# In training


def stream() -> TextStream:
    rng = torch.Generator().manual_seed(1)
    tokens = torch.randint(VOCABULARY, (3 * 200 + 1,), generator=rng)
    return TextStream(tokens, 3, 4)


@each_loss
@each_learned
def test_every_parameter_goes_on_moving(function: Any, loss: Any) -> None:
    model = make(compression=function, compression_loss=loss)
    how = TrainingConfig(
        steps=12,
        truncation=2,
        weight_decay=0.0,
        learning_rate=0.01,
        precision="float64",
    )
    training = Training(model, stream(), how)
    for _ in range(4):
        training.update()
    for _ in range(2):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        training.update()
        for name, parameter in model.named_parameters():
            moved = parameter.ne(before[name])
            assert moved.any(), name
            # Keys and values are one matrix.
            if "kv" in name:
                assert all(part.any() for part in moved.chunk(2)), name


class Loud(AttentionReconstruction):
    """The same loss, a million times as large."""

    def forward(self, evicted: Evicted, new: Tensor) -> Tensor:
        return 1e6 * super().forward(evicted, new)


def test_a_huge_loss_does_not_shrink_the_step_of_the_model() -> None:
    def train(loss: Any, apart: tuple[str, ...]) -> tuple[dict[str, nn.Parameter], Any]:
        model = make(compression_loss=loss)
        how = TrainingConfig(
            steps=4, clip=0.1, clip_apart=apart, weight_decay=0.0, precision="float64"
        )
        reports = list(Training(model, stream(), how))
        own = {n: p for n, p in model.named_parameters() if "compression" not in n}
        return own, reports[-1]

    # Two updates without compressed slots, one with a loss, and one that reads slots
    # from before it: until then both runs have the same compression.
    quiet, report = train(AttentionReconstruction, ("compression",))
    loud, other = train(Loud, ("compression",))
    assert set(report.norms) == set(other.norms) == {"model", "compression"}
    assert other.norms["compression"] > 1e3 > report.norms["compression"]
    assert other.norms["model"] == report.norms["model"]
    assert all(loud[name].equal(p) for name, p in quiet.items())
    joint, _ = train(Loud, ())
    assert not any(joint[n].equal(p) for n, p in quiet.items() if p.ndim > 1)


@each_comparing
def test_a_loss_trains_the_compression(loss: Any) -> None:
    model = make(compression_loss=loss)
    parameters = list(model.compression.parameters())
    rule = torch.optim.Adam(parameters, 0.02)
    _, before = run(model, 5)
    before, found = before.detach(), []
    for _ in range(40):
        value = model(text(2, 4, seed=9), before).auxiliary["compression"]
        rule.zero_grad()
        value.backward()
        rule.step()
        found.append(value.item())
    assert found[-1] < 0.3 * found[0]


# Lanes with empty slots


@each_residual
@each_comparing
@each_kind
def test_an_empty_lane_adds_nothing(function: Any, loss: Any, residual: Any) -> None:
    model = make(compression=function, compression_loss=loss, residual=residual)
    memory = run(model, 6, batch=3)[0].memory.detach()
    reset = memory.reset(torch.tensor([False, True, False]))
    others = memory.select(torch.tensor([0, 2]))
    for number in range(2):
        tokens = text(3, 4, seed=20 + number)
        one, other = model(tokens, reset), model(tokens[[0, 2]], others)
        found, expected = (o.auxiliary["compression"] for o in (one, other))
        assert close(found, expected) and found > 0
        if found.requires_grad:
            pairs = zip(
                gradients(model, found).items(),
                gradients(model, expected).values(),
                strict=True,
            )
            for (name, a), b in pairs:
                assert close(a, b), name
        reset, others = one.memory.detach(), other.memory.detach()
    # From the third segment on the lane has a block of its own.
    tokens = text(3, 4, seed=22)
    one, other = model(tokens, reset), model(tokens[[0, 2]], others)
    assert not close(one.auxiliary["compression"], other.auxiliary["compression"])


@each_loss
@each_kind
def test_empty_lanes_alone_give_no_nan(function: Any, loss: Any) -> None:
    model = make(compression=function, compression_loss=loss)
    memory = run(model, 6)[0].memory.detach()
    memory = replace(
        memory.map(torch.zeros_like), filled=torch.zeros(2, 12, dtype=torch.bool)
    )
    output = model(text(2, 4, seed=20), memory)
    value = output.auxiliary["compression"]
    assert value == 0
    total = cost(output.logits) + value
    found = gradients(model, total)
    assert not any(found[n].any() for n in found if n.startswith("compression."))
    assert taught(found), "and the text still teaches"


@each_residual
@pytest.mark.parametrize("function", FUNCTIONS[:-2])
def test_half_empty_blocks_are_compared_by_what_they_hold(
    function: Any, residual: Any
) -> None:
    # Memory and segment do not divide, so a block is half empty where a fresh lane
    # has half a block.
    model = make(compression=function, residual=residual, memory_length=6)
    kept: Any = run(model, 6)[0].memory.detach()
    memory, fresh, compared = kept.reset(torch.tensor([True, False])), None, 0
    for number in range(4):
        tokens = text(2, 4, seed=20 + number)
        one, other = model(tokens, memory), model(tokens[:1], fresh)
        half = memory.filled is not None and memory.filled[0, 4:8].tolist()
        whole = model(tokens, kept).auxiliary["compression"]
        if half == [False, False, True, True]:
            found, alone = (o.auxiliary["compression"] for o in (one, other))
            assert alone > 0 and not close(found, whole)
            # The lane that was not emptied has a share of its own: half of the mean.
            second = model(tokens[1:], kept.select(torch.tensor([1])))
            assert close(found, (alone + second.auxiliary["compression"]) / 2)
            compared += 1
        memory, fresh = one.memory.detach(), other.memory.detach()
        kept = model(tokens, kept).memory.detach()
    assert compared == 1


def test_auto_encoding_does_not_ask_for_what_is_empty() -> None:
    model = make(compression_loss=AutoEncoding, memory_length=6, layers=1)
    memory = run(model, 6)[0].memory.detach().reset(torch.tensor([True, False]))
    memory = model(text(2, 4, seed=20), memory).memory.detach()
    seen: list[Evicted] = []
    own = model.compression[0]["loss"]
    own.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    value = model(text(2, 4, seed=21), memory).auxiliary["compression"]
    (evicted,) = seen
    assert evicted.filled is not None
    assert evicted.filled.tolist() == [[False, False, True, True], [True] * 4]
    new = model.compression[0]["function"](evicted.old)
    restored = own.decoder(new).view_as(evicted.old)
    held = (evicted.old - restored)[evicted.filled]
    assert close(value, held.square().mean()), "the mean over what is held"
    with torch.no_grad():
        evicted.old[0, :2] = 1e9
    assert close(own(evicted, new), value)
    evicted.old[0, 2] = 1e9
    assert not close(own(evicted, new), value)


# Types


@each_loss
@each_function
def test_autocast_runs(function: Any, loss: Any) -> None:
    model = make(compression=function, compression_loss=loss).float()
    exact = copy.deepcopy(model)
    memory: Any = None
    for number in range(5):
        tokens = text(2, 4, seed=number)
        expected = exact(tokens, memory).auxiliary
        with torch.autocast("cpu", torch.bfloat16):
            output = model(tokens, memory)
            total = cost(output.logits) + sum(output.auxiliary.values())
        model.zero_grad()
        total.backward()
        memory = output.memory.detach()
        assert {t.dtype for t in (*memory.states, *memory.compressed)} == {
            torch.float32
        }
        for name, value in output.auxiliary.items():
            assert value.dtype == torch.float32 or loss not in COMPARING
            assert value.item() == pytest.approx(expected[name].item(), rel=0.1)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                assert parameter.grad.isfinite().all(), name
        if number == 3:
            memory = memory.reset(torch.tensor([True, False]))
    for name, parameter in model.named_parameters():
        taught_by_text = not name.startswith("compression.")
        if taught_by_text or loss in COMPARING:
            assert parameter.grad is not None and parameter.grad.any(), name


# Who receives, and what is lost


@each_function
@each_loss
@pytest.mark.parametrize("segments", [1, 5])
def test_receivers_names_every_parameter(
    function: Any, loss: Any, segments: int
) -> None:
    model = make(compression=function, compression_loss=loss)
    tokens = [text(2, 4, seed=number) for number in range(segments)]
    for own in ("text", "compression"):
        norms = receivers(model, tokens, own)
        assert list(norms) == [name for name, _ in model.named_parameters()]
        assert all(math.isfinite(norm) for norm in norms.values())
        reached = {name for name, norm in norms.items() if norm}
        if own == "text":
            assert reached, "the text teaches"
        else:
            assert all(name.startswith("compression.") for name in reached)
            assert not (segments == 1 and reached), "nothing was compressed"


def test_receivers_refuses_what_it_cannot_ask() -> None:
    with pytest.raises(ValueError, match="segments are empty"):
        receivers(make(), [], "text")
    with pytest.raises(ValueError, match="loss is 'both' in training mode"):
        receivers(make(), [text(2, 4)], "both")
    with pytest.raises(ValueError, match="loss is 'text' in evaluation mode"):
        receivers(make().eval(), [text(2, 4)], "text")


def lanes(length: int = 4 * 48 + 1) -> TextStream:
    return TextStream(text(1, length)[0], batch=4, segment_length=4)


@each_loss
def test_errors_are_those_of_least_squares(loss: Any) -> None:
    model = make(compression_loss=loss)
    found, memory = errors(model, lanes()), None
    pairs: list[list[tuple[Tensor, Tensor]]] = []
    for index in range(len(lanes())):
        before, memory = memory, model(lanes().at(index).tokens, memory).memory
        if before is not None and before.states[0].shape[1] == 8:
            pairs.append(
                [
                    (m[:, :4], n)
                    for m, n in zip(before.states, parts(model, before), strict=True)
                ]
            )
    shares = []
    for layer in zip(*pairs, strict=True):
        half = len(layer) // 2
        (old, design), (later, given) = (
            (
                torch.cat([o.reshape(-1, 16) for o, _ in some]),
                torch.cat([with_one(n.reshape(-1, 8)) for _, n in some]),
            )
            for some in (layer[:half], layer[half:])
        )
        rest = later - given @ torch.linalg.lstsq(design, old, driver="gelsd").solution
        shares.append(rest.square().sum() / (later - old.mean(0)).square().sum())
    assert abs(found.slots - sum(shares).item() / 2) < 1e-9
    assert 0 < found.slots < 1.5


@each_residual
def test_the_error_of_attention_is_that_by_hand(residual: Any) -> None:
    model = make(compression_loss=CompressionLoss, residual=residual, memory_length=4)
    for part in model.compression:
        part["function"].taps.bias.data.fill_(3.0)  # far from what can be restored
    memory, inputs = None, []
    model.embedding.register_forward_hook(lambda _, __, y: inputs.append([y]))
    for layer in model.layers:
        joins = layer.feed_forward_residual
        joins.register_forward_hook(lambda _, __, y: inputs[-1].append(y))
    missed, size = [[0.0, 0.0] for _ in range(2)]
    with torch.no_grad():
        for index in range(len(lanes())):
            before, memory = memory, model(lanes().at(index).tokens, memory).memory
            if before is None:
                continue
            for i, layer in enumerate(model.layers):
                function = model.compression[i]["function"]
                for lane in range(4):
                    old, h = before.states[i][lane], inputs[-1][i][lane]
                    new = squeezed(function, old, 2)
                    h, old, new = (normed(layer, x) for x in (h, old, new))
                    taken = content_attention(layer, h, old, 2)
                    gap = taken - content_attention(layer, h, new, 2)
                    missed[i] += gap.square().sum().item()
                    size[i] += taken.square().sum().item()
    shares = [math.sqrt(a / b) for a, b in zip(missed, size, strict=True)]
    found = errors(model, lanes()).attention
    assert found == pytest.approx(sum(shares) / 2, rel=1e-9)


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_the_identity_loses_nothing_and_zeros_lose_all(scale: float) -> None:
    model = make(compression_rate=1)
    for part in model.compression:
        taps = part["function"].taps
        taps.weight.data.copy_(scale * torch.eye(8)[:, :, None])
        taps.bias.data.zero_()
    found = errors(model, lanes())
    # The mean of the first half of a text is not quite that of the second.
    assert found.slots == pytest.approx(1 - scale, abs=1e-9 if scale else 0.2)
    assert found.attention == pytest.approx(1 - scale, abs=1e-7)


def with_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


def test_what_a_short_text_has_by_heart_is_not_restored() -> None:
    # States of noise: no map restores more than half of a group from half as many
    # numbers, but one that is fitted to few groups has them by heart.
    torch.manual_seed(0)
    few, many = (torch.randn(2 * n, 8, 16, dtype=torch.float64) for n in (1, 200))
    assert unrestored(list(few), list(few[..., :8])) > 0.9
    assert 0.45 < unrestored(list(many), list(many[..., :8])) < 0.6
    assert unrestored(list(many), list(many.flip(-1))) < 1e-20, "a map restores it"
    constant = [torch.zeros(8, 8, dtype=torch.float64)] * 400
    assert unrestored(list(many), constant) == pytest.approx(1, abs=1e-12)


class Elsewhere:
    """Tokens on another device, until they are asked to come."""

    def __init__(self, tokens: Tensor, asked: list[Any]) -> None:
        self.tokens, self.asked = tokens, asked

    def to(self, device: Any) -> Tensor:
        self.asked.append(device)
        return self.tokens


class FarLanes(TextStream):
    """A stream whose batches are on another device."""

    asked: list[Any]

    def at(self, index: int) -> Any:
        batch = super().at(index)
        tokens: Any = Elsewhere(batch.tokens, self.asked)
        return batch._replace(tokens=tokens)


def test_errors_fetch_the_batch_to_the_model() -> None:
    far = FarLanes(text(1, 4 * 48 + 1)[0], batch=4, segment_length=4)
    far.asked = []
    assert errors(make(), far) == errors(make(), lanes())
    assert far.asked == [torch.device("cpu")] * len(far)


def parts(model: CompressiveTransformer, memory: CompressiveMemory) -> list[Tensor]:
    """Compress the oldest four slots of every layer."""
    return [
        part["function"](states[:, :4], None)
        for part, states in zip(model.compression, memory.states, strict=True)
    ]


@torch.no_grad()
def test_a_linear_map_of_the_slots_changes_nothing_that_can_be_restored() -> None:
    model = make(layers=1).float()  # whose old slots are embeddings, whatever is made
    expected = errors(model, lanes()).slots
    for part in model.compression:
        taps = part["function"].taps
        scale = torch.logspace(0, -5, 8)
        taps.weight.mul_(scale[:, None, None])
        taps.bias.mul_(scale)
    assert abs(errors(model, lanes()).slots - expected) < 1e-4


def test_errors_are_measured_without_dropout() -> None:
    plain, noisy = make(), make(dropout=0.5)
    noisy.load_state_dict(plain.state_dict())
    assert errors(noisy, lanes()) == errors(plain, lanes())
    assert noisy.embedding.dropout.p == 0.5, "a copy was measured"


def test_errors_need_something_compressed() -> None:
    for length, said in ((33, "of 2 segments 0 evict"), (49, "of 3 segments 1 evict")):
        with pytest.raises(ValueError, match=f"{said} slots; expected 2 or more"):
            errors(make(), lanes(length))


def test_squares_of_half_precision_have_room() -> None:
    for kind in (torch.float16, torch.bfloat16):
        error = torch.full((1, 2, 3), 300.0, dtype=kind)
        assert mean_square(error, None).item() == pytest.approx(9e4, rel=0.01)
        counted = torch.tensor([True])
        assert mean_square(error, counted).item() == pytest.approx(9e4, rel=0.01)


# What the page says of its records, beside their verdicts


def by_seed(record: dict[str, Any], arm: str, measure: str, name: str) -> Any:
    runs = [run for run in record["runs"] if run["arm"] == arm]
    return torch.tensor([run["measures"][measure][name] for run in runs])


def test_what_is_said_of_the_cross_table() -> None:
    record = results.load("cross-table@cpu")
    bits = {k: torch.tensor(v) for k, v in results.summary(record).items()}
    ways = ["mean pooling", "untrained", "through time", "auto-encoding", "attention"]
    over = {way: bits[way, "plugged in"] - bits["exact", "exact 16"] for way in ways}
    forty = bits["exact", "exact 40"] - bits["exact", "exact 16"]
    assert (over["attention"] < 0).all() and (forty < over["attention"]).all()
    for way in ("mean pooling", "auto-encoding", "untrained"):
        assert (over["attention"] < over[way] - 0.01).all(), way
    encoding = over["auto-encoding"]
    assert (encoding - over["mean pooling"]).min() > -0.001, "worth no more than a mean"
    assert (encoding - over["untrained"]).abs().max() < 0.016
    gap = over["through time"] - over["attention"]
    assert (gap < 0).sum() == 2 and gap.mean().abs() < 0.005, "worth as much"
    missed = {way: by_seed(record, way, "plugged in", "read") for way in ways}
    for way in ways[:2] + ways[3:]:
        assert (missed["through time"] > missed[way]).all(), way
    [size] = {r["parameters"] for r in record["runs"] if r["arm"] == "attention"}
    [plain] = {r["parameters"] for r in record["runs"] if r["arm"] == "mean pooling"}
    assert round(size / plain, 2) == 1.27


def test_what_is_said_of_recall() -> None:
    record = results.load("recall@cpu")
    right: dict[str, list[list[float]]] = {}
    for run in record["runs"]:
        found = run["measures"]["test"]["accuracy"]
        row = [found[delay] for delay in sorted(found, key=int)]
        right.setdefault(run["arm"], []).append(row)
    assert sorted(map(int, found))[4:9] == [32, 40, 48, 64, 80]
    taught = {arm: torch.tensor(rows) for arm, rows in right.items()}
    at_48 = {arm: f"{rows[:, 6].mean():.0%}" for arm, rows in taught.items()}
    assert at_48["frozen"] == "23%" and at_48["mean"] == "80%"
    assert at_48["convolution, attention"] == "86%"
    assert at_48["convolution, through time"] == "61%"
    assert at_48["convolution, encoding"] == "19%" and at_48["max"] == "79%"
    means = {arm: f"{rows[:, 4:9].mean():.0%}" for arm, rows in taught.items()}
    assert means["convolution, attention"] == "79%" and means["mean"] == "76%"
    assert means["convolution, through time"] == "63%" and means["max"] == "80%"
    assert means["convolution, encoding"] == "16%"
    own, through = taught["convolution, attention"], taught["convolution, through time"]
    ahead = own[:, 4:9].mean(1) - through[:, 4:9].mean(1)
    assert ahead.min() > -0.02 and (ahead > 0.05).sum() == 2, "behind in two seeds"
    xl, drawn = taught.pop("xl"), taught.pop("frozen")
    encoding = taught.pop("convolution, encoding")
    assert xl[:, :5].min() > 0.9 and xl[:, 6:].max() < 0.2
    half = (xl[:, 4] + 1 / 8) / 2  # at 40 half of the queries see it, the others guess
    assert (xl[:, 5] - half).abs().max() < 0.05
    for arm, rows in taught.items():
        assert rows[:, 4:9].min() > 0.35, arm
        assert rows[:, 9].max() < 0.33 and rows[:, 10:].max() < 0.25, "all guess"
        assert (rows[:, 8] > rows[:, 9] + 0.25).all(), "it ends with the span"
        assert rows[:, 4].mean() < xl[:, 4].mean(), "at 32 exact slots are better"
    assert max(drawn[:, 4:].max(), encoding[:, 4:].max()) < 0.27, "in no seed"
    assert encoding[:, 4:9].mean() < drawn[:, 4:9].mean()
    assert taught["max"][1, 0] < xl[1, 0] - 0.05 > taught["mean"][2, 0], "failed, at 4"


def test_what_is_said_of_late_updates() -> None:
    record = results.load("late-updates@cpu")
    running: dict[str, list[float]] = {}
    test: dict[str, list[float]] = {}
    rises: dict[str, list[float]] = {}
    for run in record["runs"]:
        if run["arm"] == "before":
            continue
        ends, means = torch.tensor(run["curve"]).T.double()
        updates = ends.diff(prepend=torch.tensor([400.0]).double())
        spent = (updates * means).sum().item() / updates.sum().item()
        running.setdefault(run["arm"], []).append(spent)
        rises.setdefault(run["arm"], []).append((means[-2] - means[0]).item())
        test.setdefault(run["arm"], []).append(run["measures"]["test"]["bits"])

    def behind(arm: str, found: dict[str, list[float]]) -> Tensor:
        _, comma, order = arm.partition(",")
        return torch.tensor(found[arm]) - torch.tensor(
            found["constant" + comma + order]
        )

    followed = behind("stopped, blocks", running) - behind("stopped, drawn", running)
    assert 0.005 < followed.min() and followed.max() < 0.015, "every seed, and little"
    assert behind("stopped, drawn", running).min() > 0.12, "most is learning"
    fewer = behind("every 4, blocks", running) - behind("every 4, drawn", running)
    assert fewer.min() > 0, "fewer updates follow less"
    assert behind("every 4", running).abs().max() < 0.01
    assert behind("every 4", test).max() < -0.01
    # Stopped weights do not change, and their bits rise: the text gets harder.
    assert min(rises["stopped"]) > 0.05 > 0.02 > max(rises["stopped, drawn"])
    sign = behind("stopped, blocks", test) - behind("stopped, drawn", test)
    assert sign.min() < 0 < sign.max(), "nothing to follow on test"


def test_every_public_name_is_documented() -> None:
    for name, value in vars(reconstruction).items():
        own = getattr(value, "__module__", "") == reconstruction.__name__
        if own and name[0] != "_":
            assert value.__doc__, name
