"""What every model of the site keeps: one suite, and a model is a line of its registry.

Nothing here knows a class of model or memory but the registry. A property that does not
apply to a model is switched off by its name, in the model's line.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from labml_style import generation
from labml_style.cheaper_layers import (
    GEGLU,
    GLU,
    Bilinear,
    FactorisedEmbedding,
    ReGLU,
    SwiGLU,
    TiedHead,
)
from labml_style.compression import (
    DilatedConvolution,
    MaxPooling,
    MeanPooling,
    MostUsed,
)
from labml_style.compressive_transformer import (
    CompressionLoss,
    CompressiveTransformer,
    CompressiveTransformerConfig,
)
from labml_style.contract import (
    Memory,
    Output,
    Part,
    build,
    check_savable,
    load,
    load_memory,
    name_of,
    part,
    save,
)
from labml_style.documents import (
    RecurrentMemoryClassifier,
    RecurrentMemoryClassifierConfig,
)
from labml_style.fewer_slots import LayerOutputs, ShortAndLong, ShortAndLongConfig
from labml_style.gating import (
    BRCGate,
    GRUGate,
    HighwayGate,
    IdentityReordering,
    InputGate,
    MogrifierGRUGate,
    NBRCGate,
    OutputGate,
    SigmoidTanhGate,
)
from labml_style.hugging_face import (
    RecurrentMemoryWrapper,
    RecurrentMemoryWrapperConfig,
)
from labml_style.memory_transformer_xl import (
    FixedGate,
    MemoryTransformerXL,
    MemoryTransformerXLConfig,
    PersistentAttention,
)
from labml_style.reconstruction import (
    AutoEncoding,
    BackpropagationThroughTime,
)
from labml_style.recurrent_memory import (
    LearnedTokens,
    RecurrentMemoryTransformer,
    RecurrentMemoryTransformerConfig,
)
from labml_style.relative_attention import (
    AbsoluteEmbedding,
    ContentAttention,
    Embedding,
    RelativeAttention,
    ShawAttention,
)
from labml_style.streams import TextStream
from labml_style.training import Training, TrainingConfig
from labml_style.transformer_xl import (
    FeedForward,
    LayerInputs,
    PostNorm,
    PreNorm,
    TransformerXL,
    TransformerXLConfig,
)

SIZES: dict[str, Any] = {
    "vocabulary": 11,
    "d_model": 8,
    "heads": 2,
    "layers": 2,
    "d_ff": 12,
    "segment_length": 4,
    "memory_length": 8,
    "compressed_length": 3,
    "compression_rate": 2,
}

# What a line may leave out by `without`:
#   past           earlier segments have influence
#   partial        a segment that is not full is remembered
#   partial reset  a lane may be emptied after a segment that was not full
#   layers         the memory has tensors for each layer
#   causal         no token sees a later one, and so there is a next one to decode
#   parts          it is built from parts of this site


def slots_of_each_layer(config: Any) -> int:
    """Count the numbers that a lane holds, when it is full: states of all slots."""
    slots = config.memory_length + getattr(config, "compressed_length", 0)
    return int(len(remembering(config)) * slots * config.d_model)


def short_and_long(config: Any) -> int:
    """Count the same where the other layers have a few slots."""
    few = (config.layers - len(remembering(config))) * config.short_length
    return slots_of_each_layer(config) + int(few * config.d_model)


def remembering(config: Any) -> Any:
    """Return the layers that have a memory."""
    every = range(1, config.layers + 1)
    return every if config.memory_layers is None else config.memory_layers


def tokens_and_cache(config: Any) -> int:
    """Count the same for memory tokens, with a cache of Transformer-XL beside them."""
    slots = config.memory_tokens + len(remembering(config)) * config.memory_length
    return int(slots * config.d_model)


def written_and_short(config: Any) -> int:
    """Count the same for a long memory, with short ones beside it."""
    slots = config.long_memory_length + len(remembering(config)) * config.memory_length
    return int(slots * config.d_model)


def tokens_alone(config: Any) -> int:
    """Count the same for memory tokens around a decoder of others."""
    return int(config.memory_tokens * config.d_model)


class Case(NamedTuple):
    """A model of the site.

    Attributes:
        name: in the reports of pytest.
        model: its class.
        config: class of its config.
        sizes: what the config is made of.
        without: names of properties that do not apply.
        numbers: how many numbers a lane's memory holds, when it is full.
        wide: what makes its `d_model` 16.
    """

    name: str
    model: type[Any]
    config: type[Any]
    sizes: dict[str, Any]
    without: tuple[str, ...]
    numbers: Callable[[Any], int]
    wide: dict[str, Any] = {"d_model": 16}


def case(
    name: str,
    kind: tuple[type[Any], type[Any]],
    without: tuple[str, ...] = (),
    numbers: Callable[[Any], int] = slots_of_each_layer,
    **changes: Any,
) -> Case:
    """Describe a model by what differs from `SIZES`."""
    names = {one.name for one in fields(kind[1])}
    sizes = {k: v for k, v in SIZES.items() if k in names} | changes
    return Case(name, *kind, sizes, without, numbers)


XL = TransformerXL, TransformerXLConfig
COMPRESSIVE = CompressiveTransformer, CompressiveTransformerConfig
LATE = ("partial reset",)
SHORT_AND_LONG = ShortAndLong, ShortAndLongConfig
RECURRENT = RecurrentMemoryTransformer, RecurrentMemoryTransformerConfig
CLASSIFIER = RecurrentMemoryClassifier, RecurrentMemoryClassifierConfig
WHOLE = ("partial", "partial reset")  # it is written when a segment is full
GATES = [
    InputGate,
    OutputGate,
    HighwayGate,
    SigmoidTanhGate,
    GRUGate,
    MogrifierGRUGate,
    BRCGate,
    NBRCGate,
]
DILATED: dict[str, Any] = {"compression": DilatedConvolution}
PERSISTENT = part(PersistentAttention, pairs=3)
USED: dict[str, Any] = {"compression": MostUsed}
OUTPUTS: dict[str, Any] = {"stored": LayerOutputs}
TOP_OUTPUTS = OUTPUTS | {"memory_layers": (2,)}
NO_LOSS: dict[str, Any] = {
    "compression": MeanPooling,
    "compression_loss": CompressionLoss,
}


def recurrent(name: str, without: tuple[str, ...] = WHOLE, **changes: Any) -> Case:
    """Describe a Recurrent Memory Transformer; without a cache unless told."""
    changes = {"memory_tokens": 3, "memory_length": 0} | changes
    return case(name, RECURRENT, without, tokens_and_cache, **changes)


def written(name: str, **changes: Any) -> Case:
    """Describe a Memory Transformer-XL."""
    kind = MemoryTransformerXL, MemoryTransformerXLConfig
    changes = {"long_memory_length": 5, "memory_length": 6} | changes
    return case(name, kind, WHOLE, written_and_short, **changes)


def wrapper(family: str, **sizes: int) -> Case:
    """Describe a decoder of Hugging Face with memory tokens around it."""
    kind = RecurrentMemoryWrapper, RecurrentMemoryWrapperConfig
    without, decoder = (*WHOLE, "layers", "parts"), sizes | {"model_type": family}
    changes: dict[str, Any] = {"decoder": decoder, "memory_tokens": 3}
    one = case(f"rmt-{family}", kind, without, tokens_alone, **changes)
    [width] = {"hidden_size", "n_embd"} & {*sizes}
    return one._replace(wide={"decoder": decoder | {width: 16}})


GPT2 = dict(vocab_size=11, n_embd=8, n_layer=2, n_head=2, n_positions=160)
GPT2 |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0)
GPT2 |= dict.fromkeys(("bos_token_id", "eos_token_id"), 0)
LLAMA = dict(vocab_size=11, hidden_size=8, num_hidden_layers=2, intermediate_size=12)
LLAMA |= dict(num_attention_heads=2, num_key_value_heads=1)
NO_TOKENS: dict[str, Any] = {"memory_tokens": 3, "memory_length": 0}
NO_TOKENS["tokens"] = LearnedTokens
CACHED_TOKENS = NO_TOKENS | {"memory_length": 6}
CLASSES: dict[str, Any] = {"memory_tokens": 3, "memory_length": 0}
CLASSES["classes"] = SIZES["vocabulary"]  # logits have the shape of the others'


class Projected(Embedding):
    """An embedding that ends in a product, which autocast makes narrow."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.map = nn.Linear(config.d_model, config.d_model)

    def vectors(self, tokens: Tensor, start: int) -> Tensor:
        """Return what the product gives."""
        found: Tensor = self.map(super().vectors(tokens, start))
        return found


REGISTRY = [
    case("xl", XL),
    case("xl-pre", XL, residual=PreNorm),
    case("xl-clamped", XL, clamp_length=3),
    case("xl-place", XL, attention=ContentAttention, embedding=AbsoluteEmbedding),
    case("xl-shaw", XL, attention=ShawAttention, clamp_length=5),
    case("xl-one-kv", XL, kv_heads=1),
    case("xl-projected", XL, embedding=Projected),
    case("xl-no-memory", XL, without=("past",), memory_length=0),
    case("xl-short-memory", XL, memory_length=3),
    case("xl-odd-memory", XL, memory_length=6, layers=1),
    case("cm-conv", COMPRESSIVE, LATE),
    case("cm-mean", COMPRESSIVE, LATE, compression=MeanPooling),
    case("cm-max", COMPRESSIVE, LATE, compression=MaxPooling, residual=PreNorm),
    case("cm-most-used", COMPRESSIVE, LATE, compression=MostUsed, kv_heads=1),
    case("cm-coded", COMPRESSIVE, LATE, **DILATED, compression_loss=AutoEncoding),
    case("cm-time", COMPRESSIVE, LATE, compression_loss=BackpropagationThroughTime),
    case("cm-rate-4", COMPRESSIVE, LATE, compression_rate=4, memory_length=4),
    case("cm-as-xl", COMPRESSIVE, compressed_length=0, **NO_LOSS),
    case("xl-top", XL, memory_layers=(2,)),
    case("xl-bottom", XL, memory_layers=(1,), residual=PreNorm, kv_heads=1),
    case("xl-middle", XL, memory_layers=(2,), layers=3, memory_length=3),
    case("xl-shared", XL, shared_layers=2),
    case("xl-shared-pairs", XL, shared_layers=2, layers=4, memory_layers=(1, 4)),
    case("cm-top", COMPRESSIVE, LATE, memory_layers=(2,)),
    case("cm-bottom", COMPRESSIVE, LATE, memory_layers=(1,), compression=MostUsed),
    case("cm-shared", COMPRESSIVE, LATE, shared_layers=2, layers=4),
    case("xl-last-pre", XL, memory_layers=(3,), layers=3, residual=PreNorm),
    case("xl-outputs", XL, **OUTPUTS),
    case("xl-outputs-pre", XL, residual=PreNorm, memory_length=3, **OUTPUTS),
    case("xl-top-outputs", XL, kv_heads=1, **TOP_OUTPUTS),
    case("cm-outputs", COMPRESSIVE, LATE, **OUTPUTS),
    case("cm-top-outputs", COMPRESSIVE, LATE, residual=GRUGate, **TOP_OUTPUTS),
    case(
        "short-and-long",
        SHORT_AND_LONG,
        numbers=short_and_long,
        memory_layers=(2,),
        short_length=3,
    ),
    case(
        "short-and-none",
        SHORT_AND_LONG,
        numbers=short_and_long,
        layers=3,
        memory_layers=(1, 3),
        short_length=0,
        **OUTPUTS,
    ),
    case("xl-reordered", XL, residual=IdentityReordering),
    *(case(f"xl-{gate.__name__}", XL, residual=gate) for gate in GATES),
    *(
        case(f"cm-{gate.__name__}", COMPRESSIVE, LATE, residual=name_of(gate))
        for gate in GATES
    ),
    case("xl-gate-with-options", XL, residual=part(MogrifierGRUGate, rounds=2, rank=3)),
    recurrent("rmt"),
    recurrent("rmt-cache", memory_length=6),
    recurrent("rmt-top-cache", memory_length=6, memory_layers=(2,)),
    recurrent("rmt-shared", memory_length=5, memory_layers=(1,), shared_layers=2),
    recurrent("rmt-outputs", memory_length=6, **TOP_OUTPUTS),
    recurrent("rmt-long-cache", memory_length=5, residual=PreNorm, kv_heads=1),
    recurrent("rmt-one-token", memory_tokens=1, clamp_length=4),
    recurrent("rmt-loss", memory_loss=0.1, memory_length=4),
    recurrent("rmt-gated", residual=GRUGate),
    recurrent("rmt-place", attention=ContentAttention, embedding=AbsoluteEmbedding),
    recurrent("rmt-encoder", ("causal",), layout="encoder"),
    recurrent("rmt-encoder-pre", ("causal",), layout="encoder", residual=PreNorm),
    written("mtxl"),
    written("mtxl-top", memory_layers=(2,), residual=PreNorm, kv_heads=1),
    written("mtxl-nbrc", write_gate=NBRCGate, write_iterations=3, memory_length=3),
    written("mtxl-fixed", write_gate=part(FixedGate, bias=1.0), memory_length=9),
    written("mtxl-long-alone", memory_length=0, clamp_length=2),
    written("mtxl-persistent", attention=PERSISTENT, residual=PreNorm),
    case("xl-persistent", XL, attention=PERSISTENT),
    case("xl-persistent-kv", XL, attention=PERSISTENT, kv_heads=1, memory_layers=(2,)),
    case("cm-persistent", COMPRESSIVE, LATE, attention=PERSISTENT),
    case("cm-persistent-used", COMPRESSIVE, LATE, **USED, attention=PERSISTENT),
    recurrent("rmt-persistent", attention=PERSISTENT, memory_length=6),
    recurrent(
        "rmt-persistent-encoder", ("causal",), layout="encoder", attention=PERSISTENT
    ),
    case("classes", CLASSIFIER, ("causal",), tokens_and_cache, **CLASSES),
    case("padded", CLASSIFIER, ("causal",), tokens_and_cache, **CLASSES, padding=10),
    case("mt", RECURRENT, (*WHOLE, "past"), lambda config: 0, **NO_TOKENS),
    case("mt-cache", RECURRENT, WHOLE, slots_of_each_layer, **CACHED_TOKENS),
    wrapper("gpt2", **GPT2),
    wrapper("llama", **LLAMA),
]


# Options together


NARROW = part(FactorisedEmbedding, d_embedding=3)
OPTIONS: dict[str, list[Any]] = {
    "feed_forward": [FeedForward, GLU, Bilinear, ReGLU, GEGLU, SwiGLU],
    "model": ["xl", "cm", "rmt"],
    "residual": [PostNorm, PreNorm, GRUGate],
    "vocabulary": ["plain", "tied", "tied, factorised", "factorised"],
    "attention": [RelativeAttention, PersistentAttention],
    "kv_heads": [None, 1],
    "shared_layers": [1, 2],
    "memory_layers": [None, (2,)],
    "stored": [LayerInputs, LayerOutputs],
}
ENDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"head": TiedHead},
    "tied, factorised": {"head": TiedHead, "embedding": NARROW},
    "factorised": {"embedding": NARROW},
}
Choice = tuple[str, int]
"""An option, and the number of the value that is chosen."""


def pairs_of(chosen: dict[str, int]) -> set[tuple[Choice, Choice]]:
    """Return all pairs of choices that one model brings together."""
    return {*itertools.combinations(sorted(chosen.items()), 2)}


def every_pair(options: dict[str, list[Any]]) -> list[dict[str, int]]:
    """Choose values for few models, so that each two values meet in one of them.

    Each model begins with a pair that did not meet yet. Each further option takes the
    value that meets most of the others for the first time.
    """
    counts = {name: range(len(values)) for name, values in options.items()}
    left: set[tuple[Choice, Choice]] = set()
    for one, other in itertools.combinations(sorted(counts), 2):
        for i, j in itertools.product(counts[one], counts[other]):
            left.add(((one, i), (other, j)))
    found = []
    while left:
        chosen = dict(min(left))
        for name in sorted(counts, key=lambda name: -len(counts[name])):
            if name not in chosen:
                ways = [{**chosen, name: i} for i in counts[name]]
                chosen = max(ways, key=lambda way: len(pairs_of(way) & left))
        left -= pairs_of(chosen)
        found.append(chosen)
    return found


def together(number: int, chosen: dict[str, int]) -> Case:
    """Describe the model of one choice of options."""
    values = {name: OPTIONS[name][i] for name, i in chosen.items()}
    kind, name = values.pop("model"), f"pairs-{number}"
    values |= ENDS[values.pop("vocabulary")]
    if kind == "rmt":
        return recurrent(name, memory_length=6, **values)
    if kind == "cm":
        return case(name, COMPRESSIVE, LATE, **values)
    return case(name, XL, **values)


PAIRS = [together(i, chosen) for i, chosen in enumerate(every_pair(OPTIONS), start=1)]
# The first line of each class, where variants make no difference.
KINDS = list({one.model: one for one in reversed(REGISTRY)}.values())[::-1]
BUILT = [one for one in KINDS if "parts" not in one.without]


def every(*needed: str, pairs: bool = False) -> Any:
    """Run a test for each model that has all these properties.

    Args:
        needed: the properties.
        pairs: for the models of `PAIRS` too, in which all options meet.
    """
    cases = REGISTRY + PAIRS * pairs
    return over([one for one in cases if not {*needed} & {*one.without}])


def over(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("model", cases, ids=lambda c: c.name, indirect=True)


def make(one: Case, **changes: Any) -> Any:
    """Build a model with weights so large that a difference shows."""
    torch.manual_seed(0)
    model = one.model.from_config(one.config(**one.sizes | changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    model.case = one
    return model.eval()


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A model of the registry, in float64 and in evaluation mode."""
    with torch.no_grad():  # quicker; that both ways agree is a test of its own
        yield make(request.param)


def text(model: Any, segments: float, batch: int = 3, seed: int = 0) -> Tensor:
    """Return tokens `[batch, time]`; half a segment is one that is not full."""
    rng = torch.Generator().manual_seed(seed)
    time = int(segments * model.config.segment_length)
    return torch.randint(model.config.vocabulary, (batch, time), generator=rng)


def follow(
    model: Any, tokens: Tensor, memory: Any = None, pieces: Any = None
) -> tuple[Tensor, Any]:
    """Run a text segment by segment; join the logits."""
    found = []
    for segment in tokens.split(pieces or model.config.segment_length, dim=1):
        output = model(segment, memory)
        memory = output.memory
        found.append(output.logits)
    return torch.cat(found, dim=1), memory


def walk(
    model: Any, tokens: Tensor, state: Any, pieces: Any = 1
) -> tuple[Tensor, generation.State]:
    """Run a text token by token, or in pieces that end with their segment."""
    found = []
    for piece in tokens.split(pieces, dim=1):
        logits, state = generation.step(model, piece, state)
        found.append(logits)
    return torch.cat(found, dim=1), state


def cuts(model: Any, time: int, seed: int) -> list[int]:
    """Draw pieces of which none crosses the end of a segment."""
    rng, sizes, longest = random.Random(seed), [0], model.config.segment_length
    while (done := sum(sizes)) < time:
        sizes.append(rng.randint(1, min(longest - done % longest, time - done)))
    return sizes[1:]


def decodes(model: Any) -> bool:
    """Say whether a model has a next token."""
    return "causal" not in model.case.without


def some_memory(model: Any) -> Any:
    """Return a memory in which one lane began later than the others."""
    _, memory = follow(model, text(model, 4, seed=5))
    return model(text(model, 1, seed=6), memory.reset(lane(1))).memory


def lane(*numbers: int, batch: int = 3) -> Tensor:
    """Return a mask of lanes."""
    return torch.tensor([number in numbers for number in range(batch)])


def close(one: Tensor, other: Tensor) -> bool:
    """Say whether two are equal but for rounding; shapes must be."""
    assert one.shape == other.shape
    return torch.allclose(one, other, rtol=1e-10, atol=1e-10)


def leaves(value: Any) -> Iterator[Tensor]:
    """Walk through the tensors of a memory or a state."""
    if isinstance(value, Memory):
        yield from value.tensors()
    elif isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from leaves(one)


def copied(value: Any) -> list[Tensor]:
    return [one.clone() for one in leaves(value)]


def same(value: Any, kept: list[Tensor]) -> bool:
    return all(a.equal(b) for a, b in zip(leaves(value), kept, strict=True))


def floating(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Change what is floating alone: `filled` stays."""
    return lambda t: change(t) if t.is_floating_point() else t


# What a model returns


@every()
def test_it_returns_logits_memory_and_losses(model: Any) -> None:
    tokens = text(model, 1)
    output = model(tokens)
    assert isinstance(output, Output)
    assert output.logits.shape == (*tokens.shape, model.config.vocabulary)
    assert isinstance(output.memory, model.memory_type)
    assert output.memory.batch == len(tokens)
    assert output.auxiliary == {}
    memory = None
    for _ in range(5):
        _, memory, auxiliary = model.train()(tokens, memory)
        for name, loss in auxiliary.items():
            assert isinstance(name, str) and loss.shape == () and loss.isfinite()


@every()
def test_it_holds_no_state(model: Any) -> None:
    known = {name: {*vars(module)} for name, module in model.named_modules()}
    held = {name: value.clone() for name, value in model.state_dict().items()}
    tokens, memory = text(model, 1), some_memory(model)
    kept = copied(memory)
    first, fresh = model(tokens, memory), model(tokens).logits
    if decodes(model):
        walk(model, tokens, generation.start(model, memory))
    memory.reset(lane(0))
    again = model(tokens, memory)
    assert first.logits.equal(again.logits) and same(memory, kept)
    assert same(first.memory, copied(again.memory))
    assert model(tokens).logits.equal(fresh)
    assert known == {name: {*vars(module)} for name, module in model.named_modules()}
    assert all(value.equal(held[name]) for name, value in model.state_dict().items())


@every(pairs=True)
def test_what_has_weights_is_called(model: Any) -> None:
    """A hook, a wrapper or an adapter on a part sees what goes through it."""
    called: set[nn.Module] = set()
    for module in model.modules():
        module.register_forward_hook(lambda one, *_: called.add(one))
    memory: Any = None
    for number in range(5):
        called.clear()
        memory = model.train()(text(model, 1, seed=number), memory).memory
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            assert module in called, name


class Adapter(nn.Module):
    """A map with a second one beside it; its `weight` is not all of what it does."""

    def __init__(self, inner: Any, more: Tensor) -> None:
        super().__init__()
        self.inner, self.weight, self.more = inner, inner.weight, more

    def forward(self, x: Tensor) -> Tensor:
        looks_up = isinstance(self.inner, nn.Embedding)
        beside = nn.functional.embedding if looks_up else nn.functional.linear
        found: Tensor = self.inner(x) + beside(x, self.more)
        return found


@every(pairs=True)
def test_adapters_are_as_merged_weights(model: Any) -> None:
    merged, more = copy.deepcopy(model), {}
    for name, module in merged.named_modules():
        if isinstance(module, nn.Embedding | nn.Linear):
            # By the numbers, as decoders of Hugging Face share a weight, not a module.
            key = module.weight.data_ptr()
            if key not in more:
                more[key] = 0.3 * torch.randn_like(module.weight)
                module.weight += more[key]
            inner, (parent, _, last) = model.get_submodule(name), name.rpartition(".")
            adapter = Adapter(inner, more[key])
            setattr(model.get_submodule(parent), last, adapter)
    assert more
    one = two = None
    for number in range(4):
        tokens = text(model, 1, seed=number)
        ours, theirs = model.train()(tokens, one), merged.train()(tokens, two)
        one, two = ours.memory, theirs.memory
        assert close(ours.logits, theirs.logits)
        losses = ours.auxiliary, theirs.auxiliary
        assert all(map(close, *(each.values() for each in losses)))
        assert all(map(close, leaves(one), leaves(two)))
    if decodes(model):
        state = generation.start(model.eval(), one)
        assert close(walk(model, tokens, state)[0], merged.eval()(tokens, two).logits)


@every("causal", pairs=True)
def test_no_token_sees_a_later_one(model: Any) -> None:
    row = text(model, 3.5, batch=1)
    time = row.shape[1]
    changed = torch.eye(time, dtype=torch.int64)  # each lane at another place
    found, _ = follow(model, (row + changed) % model.config.vocabulary)
    plain, _ = follow(model, row.expand(time, -1))
    for place in range(time):
        assert close(found[place, :place], plain[place, :place])
        assert not close(found[place, place], plain[place, place])


@every("past", pairs=True)
def test_the_past_has_influence(model: Any) -> None:
    tokens, length = text(model, 2, batch=1).repeat(2, 1), model.config.segment_length
    tokens[1, 0] = (tokens[1, 0] + 1) % model.config.vocabulary
    tokens[1, length - 1] = (tokens[1, length - 1] + 1) % model.config.vocabulary
    found, _ = follow(model, tokens)
    for i in range(length, 2 * length):
        assert not close(found[0, i], found[1, i])


@every()
def test_it_reads_alike_with_and_without_gradients(model: Any) -> None:
    tokens = text(model, 4.5)
    memory = some_memory(model)
    plain, after = follow(model, tokens, memory)
    with torch.enable_grad():
        found, other = follow(model, tokens, memory)
    assert found.requires_grad and close(found, plain)
    assert all(map(close, leaves(other.detach()), leaves(after)))


def test_without_memory_the_past_has_none() -> None:
    off = [one for one in REGISTRY if "past" in one.without]
    assert off, "at least one model shows it"
    for model in map(make, off):
        tokens, length = text(model, 3), model.config.segment_length
        found, memory = follow(model, tokens)
        assert close(found[:, length:], follow(model, tokens[:, length:])[0])
        assert memory.nbytes == 0


# Step by step


@every("causal", pairs=True)
def test_step_is_forward(model: Any) -> None:
    tokens = text(model, 3.25)
    length, after = model.config.segment_length, some_memory(model)
    fresh = None
    for memory, ways in (
        (after, (1, length, cuts(model, tokens.shape[1], seed=1))),
        (fresh, (cuts(model, tokens.shape[1], seed=2),)),
    ):
        expected, _ = follow(model, tokens, memory)
        for pieces in ways:
            state = generation.start(model, memory, len(tokens))
            assert close(walk(model, tokens, state, pieces)[0], expected), pieces


@every("partial", "causal")
def test_a_text_goes_on_by_steps_after_a_partial_segment(model: Any) -> None:
    tokens = text(model, 2)
    _, memory = follow(model, text(model, 2.5, seed=1))
    expected, _ = follow(model, tokens, memory)
    state = generation.start(model, memory)
    assert close(walk(model, tokens, state, 2)[0], expected)


@every("causal")
def test_a_state_is_a_value(model: Any) -> None:
    tokens, other, memory = text(model, 2), text(model, 2, seed=1), some_memory(model)
    length = model.config.segment_length
    for place in (1, length):
        _, state = walk(model, tokens[:, :place], generation.start(model, memory))
        kept = copied(state)
        for rest in (tokens, other):
            whole = torch.cat([tokens[:, :place], rest[:, place:]], dim=1)
            expected, _ = follow(model, whole, memory)
            sizes = [length - place, length] if place < length else [length]
            found, _ = walk(model, rest[:, place:], state, sizes)
            assert close(found, expected[:, place:])
            assert same(state, kept)


@every("causal")
def test_lanes_of_a_state_can_be_picked(model: Any) -> None:
    index, tokens = torch.tensor([2, 1, 1, 0]), text(model, 2)
    length = model.config.segment_length
    for memory, place in ((None, 1), (some_memory(model), 2), (some_memory(model), 4)):
        expected, _ = follow(model, tokens, memory)
        state = generation.start(model, memory, 3)
        _, state = walk(model, tokens[:, :place], state, place)
        sizes = [length - place, length] if place < length else [length]
        found, _ = walk(model, tokens[index, place:], state.select(index), sizes)
        assert close(found, expected[index, place:])


# Memory


@over(KINDS)
def test_lanes_are_picked_by_numbers_alone(model: Any) -> None:
    held: list[Any] = [some_memory(model)]
    if decodes(model):
        start = generation.start(model, held[0])
        held += [start, generation.step(model, text(model, 0.5), start)[1]]
        held.append(generation.start(model, batch=3))
    known = r"expected one or more numbers of lanes, 0 to 2"
    wrong: list[tuple[Any, str]] = [
        (lane(1), rf"index is torch.bool of shape \[3\]; {known}.* mask.nonzero"),
        ([True, False, True], rf"index is \[True, .*; {known}"),
        (np.array([True, False, True]), rf"index is array.*; {known}"),
        (
            torch.tensor([0, 1, 1], dtype=torch.uint8),
            f"index is torch.uint8.*; {known}",
        ),
        (torch.tensor([0.0]), f"index is torch.float32.*; {known}"),
        (torch.tensor([[0]]), rf"index is torch.int64 of shape \[1, 1\]; {known}"),
        (torch.tensor(0), rf"index is torch.int64 of shape \[\]; {known}"),
        (1, f"index is 1; {known}"),
        ("01", f"index is '01'; {known}"),
        (None, f"index is None; {known}"),
        ([], rf"index is \[\]; {known}"),
        ([0.5], rf"index is \[0.5\]; {known}"),
        ([0, 3], f"index goes from 0 to 3; {known}"),
        (torch.tensor([-1, 0]), f"index goes from -1 to 0; {known}, and -1 is not"),
    ]
    for one in held:
        for index, said in wrong:
            with pytest.raises(ValueError, match=said):
                one.select(index)
        kept = copied(one.select(torch.tensor([2, 0, 0])))
        taken = [2, 0, 0], (2, 0, 0), np.array([2, 0, 0]), torch.tensor([2, 0, 0]).int()
        assert all(same(one.select(index), kept) for index in taken)


@every()
def test_lanes_of_a_memory_can_be_picked(model: Any) -> None:
    index, history, tokens = torch.tensor([2, 0, 0]), text(model, 4), text(model, 4)
    memory = some_memory(model)
    assert memory.select(index[:1]).batch == 1
    found, _ = follow(model, tokens[index], memory.select(index))
    assert close(found, follow(model, tokens, memory)[0][index])
    found, _ = follow(model, tokens[index], follow(model, history)[1].select(index))
    alone, _ = follow(model, tokens[index], follow(model, history[index])[1])
    assert close(found, alone)


@every(pairs=True)
def test_an_emptied_lane_is_a_fresh_lane(model: Any) -> None:
    mask, tokens = lane(1), text(model, 6)

    def overflow(states: Tensor) -> Tensor:
        return states.masked_fill(mask.view(-1, *[1] * (states.ndim - 1)), torch.inf)

    fresh, _ = follow(model, tokens[mask])
    for segments in (1, 4):
        _, memory = follow(model, text(model, segments, seed=1))
        poisoned = memory.map(floating(overflow))
        found, _ = follow(model, tokens, poisoned.reset(mask))
        kept, _ = follow(model, tokens, memory)
        assert close(found[~mask], kept[~mask]), "the other lanes go on"
        assert close(found[mask], fresh)


@every()
def test_lanes_are_emptied_at_different_times(model: Any) -> None:
    memory: Any = None
    alone: list[Any] = [None] * 3
    for number, gone in enumerate([(), (), (1,), (0, 1), (), (2,), (1,), ()]):
        if memory is not None:
            memory = memory.reset(lane(*gone))
        tokens = text(model, 1, seed=number)
        logits, memory, _ = model(tokens, memory)
        for i in range(3):
            held = None if i in gone else alone[i]
            expected, alone[i], _ = model(tokens[i : i + 1], held)
            assert close(logits[i : i + 1], expected)


@every("partial")
def test_a_lane_emptied_after_a_partial_segment(model: Any) -> None:
    tokens, refused = text(model, 5), 0
    fresh, _ = follow(model, tokens[1:2])
    _, memory = follow(model, text(model, 3, seed=1))
    for time in (1, 2):
        after = model(text(model, 1, seed=2)[:, :time], memory).memory
        try:
            found, _ = follow(model, tokens, after.reset(lane(1)))
        except ValueError:
            refused += 1
        else:
            assert close(found[1:2], fresh)
    assert bool(refused) == ("partial reset" in model.case.without)


@every()
def test_all_lanes_emptied_are_no_memory(model: Any) -> None:
    tokens, memory = text(model, 4), some_memory(model)
    fresh, _ = follow(model, tokens)
    emptied = memory.reset(lane(0, 1, 2))
    assert close(follow(model, tokens, emptied)[0], fresh)
    if decodes(model):
        state = generation.start(model, emptied)
        assert close(walk(model, tokens, state, 4)[0], fresh)
    assert emptied.nbytes == 0 and emptied.batch == 3
    assert all(t.untyped_storage().nbytes() == 0 for t in leaves(emptied))
    assert memory.reset(lane()) is memory
    for mask in (lane(batch=4), torch.zeros(3), lane()[None], [False] * 3, None):
        with pytest.raises(ValueError, match="mask is"):
            memory.reset(mask)


@every(pairs=True)
def test_bytes_are_flat(model: Any) -> None:
    memory: Any = None
    sizes = []

    def holds_no_more_than_it_says() -> None:
        for one in leaves(memory):
            own = one.numel() * one.element_size()
            assert one.untyped_storage().nbytes() == own

    for number in range(7):
        memory = model(text(model, 1, seed=number), memory).memory
        sizes.append(memory.nbytes)
        holds_no_more_than_it_says()
    assert sizes == sorted(sizes)
    assert sizes[4:] == [3 * model.case.numbers(model.config) * 8] * 3
    memory = model(text(model, 1), memory.reset(lane(1))).memory.detach()
    assert memory.nbytes == sizes[-1]
    memory = model(text(model, 1)[:, :1], memory).memory
    assert memory.nbytes <= sizes[-1]
    holds_no_more_than_it_says()


@every(pairs=True)
def test_a_loss_reaches_every_parameter_and_no_graph_stays(model: Any) -> None:
    loss: Any = 0.0
    memory: Any = None
    with torch.enable_grad():
        for number in range(5):
            logits, memory, auxiliary = model.train()(text(model, 1), memory)
            targets = text(model, 1, seed=number).flatten()
            loss = loss + nn.functional.cross_entropy(logits.flatten(0, 1), targets)
            loss = loss + sum(auxiliary.values())
    loss.backward()
    assert not any(one.requires_grad for one in leaves(memory.detach()))
    assert same(memory.detach(), copied(memory))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
        assert parameter.grad.isfinite().all(), name


@every()
def test_a_memory_goes_through_a_file(model: Any) -> None:
    tokens, memory, file = text(model, 2), some_memory(model), io.BytesIO()
    check_savable(memory)
    torch.save({"one": memory.state_dict(), "none": None}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = load_memory(saved["one"], "cpu")
    expected, after = follow(model, tokens, memory)
    found, other = follow(model, tokens, again)
    assert found.equal(expected) and same(other, copied(after))
    assert type(again) is type(memory)
    assert load_memory(saved["none"], "cpu") is None


# Files, configs and parts


@every(pairs=True)
def test_a_model_goes_through_a_file(model: Any, tmp_path: Path) -> None:
    tokens = text(model, 2)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        model = model.to(dtype)
        loaded = load(save(model, tmp_path / "model.safetensors"))
        assert type(loaded) is type(model) and not loaded.training
        assert loaded.config.to_json() == model.config.to_json()
        assert loaded.like.dtype == dtype
        assert follow(loaded, tokens)[0].equal(follow(model, tokens)[0])
        assert os.listdir(tmp_path) == ["model.safetensors"]


@over(KINDS)
def test_a_config_goes_through_json(model: Any) -> None:
    kind, config = type(model.config), model.config
    values = json.loads(json.dumps(config.to_json()))
    assert values.keys() == {one.name for one in fields(kind)}
    again = kind.from_json(values)
    assert again.to_json() == config.to_json()
    made = make(model.case, **{k: getattr(again, k) for k in values})
    assert made(text(model, 1)).logits.equal(model(text(model, 1)).logits)
    needed = "segment_length"
    with pytest.raises(ValueError, match=f"has no colour, taste; expected .*{needed}"):
        kind.from_json({**values, "colour": 1, "taste": 2})
    with pytest.raises(ValueError, match=needed):
        kind.from_json({k: v for k, v in values.items() if k != needed})
    for name, value in config.to_json().items():
        if type(value) is not int:
            continue
        taken = replace(config, **{name: np.int64(value)})
        assert type(getattr(taken, name)) is int and taken == config
        for wrong in (True, float(value), -1, str(value), None):
            if wrong is None and name in ("kv_heads", "clamp_length"):
                continue
            with pytest.raises(ValueError, match=f"{name} is {wrong!r}; expected"):
                replace(config, **{name: wrong})


def parts_of(config: Any) -> dict[str, Any]:
    given = {one.name: getattr(config, one.name) for one in fields(config)}
    return {k: v for k, v in given.items() if callable(v) or is_named(v)}


def is_named(value: Any) -> bool:
    """Say whether a value names a part: an import string has a colon."""
    return isinstance(value, Part) or (isinstance(value, str) and ":" in value)


@over(BUILT)
def test_a_part_is_a_class_a_string_or_one_with_options(model: Any) -> None:
    tokens, config = text(model, 1), model.config
    expected = model(tokens).logits
    parts = parts_of(config)
    assert len(parts) >= 5
    for name, given in parts.items():
        string = given if isinstance(given, str) else name_of(given)
        for form in (string, part(given)):
            other = make(model.case, **{name: form})
            assert other(tokens).logits.equal(expected)
            values = json.loads(json.dumps(other.config.to_json()))
            again = type(config).from_json(values)
            assert again.to_json() == other.config.to_json()
            assert getattr(again, name) == form
        odd = part(string, colour=3)
        assert odd == part(given, colour=3) == Part(string, {"colour": 3})
        with pytest.raises(ValueError, match=f"{string}.*colour"):
            make(model.case, **{name: odd})
        with pytest.raises(ValueError, match="part is 'labml_style.nowhere:X'"):
            make(model.case, **{name: "labml_style.nowhere:X"})


class Scaled(nn.Module):
    """A head with options."""

    def __init__(self, config: Any, factor: float, shape: dict[str, Any]) -> None:
        super().__init__()
        self.factor = factor * shape["more"][0]
        self.inner: Any = build("labml_style.transformer_xl:Head", config)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.factor


def test_a_part_has_options() -> None:
    plain = make(REGISTRY[0])
    head = part(Scaled, factor=2.0, shape={"more": [1.5]})
    scaled = make(REGISTRY[0], head=head)
    tokens = text(plain, 1)
    assert close(scaled(tokens).logits, 3.0 * plain(tokens).logits)
    values = json.loads(json.dumps(scaled.config.to_json()))
    again = make(REGISTRY[0], head=type(plain.config).from_json(values).head)
    assert again(tokens).logits.equal(scaled(tokens).logits)
    wrong: list[tuple[Any, str]] = [
        (part(Scaled, factor=2.0), "Scaled.*options factor: missing.*'shape'"),
        (part(Scaled), "Scaled.*options none: missing"),
        (Scaled, "Scaled.*options none: missing"),
        (
            "labml_style.transformer_xl:Gate",
            "part is 'labml_style.transformer_xl:Gate'",
        ),
        ("", "part is ''; expected an import string"),
        ("no spaces", "part is 'no spaces'; expected an import string"),
        ("math:pi", "part is 'math:pi', which is no class and no function"),
        (3, "part is 3; expected a class, a function or a string"),
    ]
    for given, said in wrong:
        with pytest.raises(ValueError, match=said):
            build(given, plain.config)


@over(BUILT)
def test_a_part_without_a_name_runs_and_is_not_saved(
    model: Any, tmp_path: Path
) -> None:
    (name, given), *_ = parts_of(model.config).items()
    make_it: Any = given
    nameless = make(model.case, **{name: lambda config: make_it(config)})
    assert nameless(text(model, 1)).logits.equal(model(text(model, 1)).logits)
    for run in (nameless.config.to_json, lambda: save(nameless, tmp_path / "model")):
        with pytest.raises(ValueError, match="<lambda>.* does not lead back"):
            run()
    with pytest.raises(ValueError, match="<lambda>"):
        part(lambda config: make_it(config))
    assert not os.listdir(tmp_path)


ENDS_OF_A_WRITE: list[type[BaseException]] = [OSError, KeyboardInterrupt]


def test_a_half_written_file_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, model = tmp_path / "model.safetensors", make(REGISTRY[0])
    whole = save(model, path).read_bytes()
    for name, kind in itertools.product(("fsync", "replace"), ENDS_OF_A_WRITE):
        with monkeypatch.context() as patched:

            def full(*_: Any, kind: Any = kind) -> None:
                raise kind("no space left")

            patched.setattr(os, name, full)
            with pytest.raises(kind, match="no space left"):
                save(make(REGISTRY[1]), path)
        assert path.read_bytes() == whole and os.listdir(tmp_path) == [path.name]
    with pytest.raises(OSError, match="nowhere"):
        save(model, tmp_path / "nowhere" / "model")


def test_weights_of_several_types_are_not_rounded(tmp_path: Path) -> None:
    model = make(REGISTRY[0]).float()
    model.head.half()
    for one in (model.embedding, model.layers, model.final_norm):
        one.bfloat16()
    model.embedding.table.weight.data[0, 0] = 1e-30  # float16 has no number so small
    weights = load(save(model, tmp_path / "model")).state_dict()
    for name, value in model.state_dict().items():
        assert weights[name].double().equal(value.double()), name


def test_what_is_no_model_is_not_saved(tmp_path: Path) -> None:
    model = make(REGISTRY[0])
    for wrong in (nn.DataParallel(model), nn.Linear(2, 2), model.state_dict(), None):
        said = f"model is of type {type(wrong).__name__}; expected one below"
        with pytest.raises(ValueError, match=said):
            save(wrong, tmp_path / "model")
    assert not os.listdir(tmp_path)


def test_metadata_of_ones_own_change_no_model(tmp_path: Path) -> None:
    model = make(REGISTRY[0])
    path = save(model, tmp_path / "model", about={"model": "math:sin", "who": "me"})
    assert b'"who":"me"' in path.read_bytes()
    assert type(load(path)) is type(model)


def test_a_damaged_file_is_refused_by_its_name(tmp_path: Path) -> None:
    from safetensors.torch import save as written

    model = make(REGISTRY[0])
    path = save(model, tmp_path / "model.safetensors")
    whole, weights = path.read_bytes(), model.state_dict()
    said = {
        "model": name_of(type(model)),
        "config_type": name_of(type(model.config)),
        "config": json.dumps(model.config.to_json()),
    }
    config = model.config.to_json()
    fewer = {k: v for k, v in config.items() if k != "layers"}
    damaged = [
        b"",
        b"text, no model",
        whole[:7],
        whole[: len(whole) // 2],
        whole[:-1],
        whole + b"more",
        b"\xff" * 8 + whole[8:],
        whole[:9] + b"\x00" + whole[10:],
        written(weights),
        written(weights, {"config": said["config"]}),
        written(weights, said | {"config": said["config"][:-2]}),
        written(weights, said | {"config": "3"}),
        written(weights, said | {"config": json.dumps(config | {"layers": 3})}),
        written(weights, said | {"config": json.dumps(config | {"layers": "two"})}),
        written(weights, said | {"config": json.dumps(config | {"taste": 2})}),
        written(weights, said | {"config": json.dumps(fewer)}),
        written(weights, said | {"config": json.dumps(config | {"head": {}})}),
        written(weights, said | {"config": json.dumps(config | {"head": "a:B"})}),
        written(weights, said | {"model": "labml_style.nowhere:Model"}),
        written(weights, said | {"model": "builtins:print"}),
        written(weights, said | {"config_type": "builtins:dict"}),
        written({k: w for k, w in weights.items() if "head" not in k}, said),
    ]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=str(path)):
            load(path)
    for gone in (tmp_path / "nothing", tmp_path):
        with pytest.raises(OSError, match=str(gone)):
            load(gone)


@every()
def test_one_checkpoint_serves_at_any_length(model: Any) -> None:
    tokens, config = text(model, 7), model.config
    longer = {name: 37 * getattr(config, name) for name in model.lengths}
    other = make(model.case, **longer)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in other.state_dict().items()} == shapes
    assert not {*longer.values()} & {n for s in shapes.values() for n in s} - {0}
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(model.state_dict())
    back = other.with_lengths(**{name: getattr(config, name) for name in longer})
    assert back.config == config and other.config == replace(config, **longer)
    assert follow(back, tokens)[0].equal(follow(model, tokens)[0])
    shared = zip(back.parameters(), other.parameters(), strict=True)
    assert all(a is b for a, b in shared)
    assert model.with_lengths(**dict.fromkeys(model.lengths)).config == config
    with pytest.raises(ValueError, match="lengths are colour; expected segment_length"):
        model.with_lengths(colour=3)
    for name in model.lengths:
        with pytest.raises(ValueError, match=f"{name} is -1; expected"):
            model.with_lengths(**{name: -1})


# Training


@over(KINDS)
@torch.enable_grad()
def test_a_resumed_run_is_the_same_run(model: Any) -> None:
    tokens, config = (
        text(model, 40, batch=1)[0],
        TrainingConfig(steps=8, precision="float64", learning_rate=0.01, truncation=2),
    )

    def begin() -> Training:
        stream = TextStream(tokens, 3, model.config.segment_length)
        return Training(make(model.case), stream, config)

    whole, first, second = begin(), begin(), begin()
    expected = list(whole)
    found = [first.update() for _ in range(3)]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    found += list(second)
    assert repr(found) == repr(expected)
    weights = second.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert value.equal(weights[name]), name
    assert same(second.memory, copied(whole.memory))


@every()
def test_narrow_types_run(model: Any) -> None:
    tokens = text(model, 1.25)
    for dtype, cast in ((torch.bfloat16, False), (torch.float32, True)):
        model = model.to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            memory = some_memory(model)
            for mode in (True, False):
                output = model.train(mode)(tokens[:, :4], memory)
                assert output.logits.isfinite().all()
                assert {t.dtype for t in leaves(output.memory)} <= {dtype, torch.bool}
            if decodes(model):
                state = generation.start(model, memory)
                assert walk(model, tokens, state, [1, 3, 1])[0].isfinite().all()


# What does not fit


@dataclass(frozen=True, eq=False)
class Other(Memory):
    """A memory of no model."""

    slates: Tensor
    filled: Tensor | None = None

    @property
    def slots(self) -> int:
        return 3


@over(KINDS)
def test_a_memory_that_does_not_fit_is_refused(model: Any) -> None:
    tokens, memory = text(model, 1), some_memory(model)
    wide = make(model.case, **model.case.wide)
    narrow = memory.select(torch.tensor([0, 1]))
    single = memory.map(floating(lambda t: t.float()))
    wrong = [
        (some_memory(wide), r"\b16\b.*\b8\b"),
        (single, "float32.*float64"),
        (memory.map(floating(lambda t: t.to("meta"))), "meta.*cpu"),
        (memory.map(floating(lambda t: t[..., 0])), "shape.*expected"),
        (Other(torch.zeros(3, 3, 8)), "Other.*slates.*this model's has"),
        ((tokens,), "memory is of type tuple.*this model's has"),
        (3, "memory is of type int"),
    ]
    if "layers" not in model.case.without:
        more = make(model.case, layers=model.config.layers + 1)
        layers = rf"\b{model.config.layers + 1}\b.*\b{model.config.layers}\b"
        wrong.append((some_memory(more), layers))
    own = [one.name for one in fields(memory)]
    for one in KINDS:
        if [held.name for held in fields(one.model.memory_type)] != own:
            wrong.append((some_memory(make(one)), "memory is of type.*model's has"))
    for given, said in wrong:
        with pytest.raises(ValueError, match=said):
            model(tokens, given)
        with pytest.raises(ValueError, match=said):
            generation.start(model, given)
    for run in (
        lambda: model(tokens, narrow),
        lambda: generation.start(model, narrow, 3),
    ):
        with pytest.raises(ValueError, match=r"\[2, .*\[3, .*batch 3"):
            run()


@over(KINDS)
def test_tokens_that_do_not_fit_are_refused(model: Any) -> None:
    tokens = text(model, 1)
    state = generation.start(model, batch=3) if decodes(model) else None
    longest, most = model.config.segment_length, model.config.vocabulary
    cases: list[tuple[Any, str]] = [
        (text(model, 2), f"time {2 * longest}; expected 1 to .*{longest}"),
        (tokens[:, :0], f"time 0; expected 1 to .*{longest}"),
        (tokens[:0], r"of shape \[0, 4\]; expected.*\[batch, time\]"),
        (tokens[0], r"of shape \[4\]; expected.*\[batch, time\]"),
        (tokens[None], r"of shape \[1, 3, 4\]; expected.*\[batch, time\]"),
        (tokens.int(), "torch.int32.*torch.int64"),
        (tokens.double(), "torch.float64.*torch.int64"),
        (tokens.tolist(), "tokens are a list; expected a tensor"),
        (tokens * 0 + most, f"from {most} to {most}; expected 0 to {most - 1}"),
        (tokens * 0 - 1, "from -1 to -1; expected 0 to"),
        (tokens.to("meta"), "tokens are on meta, the model on cpu"),
    ]
    for wrong, said in cases:
        with pytest.raises(ValueError, match=said):
            model(wrong)
        if state is not None:
            with pytest.raises(ValueError, match=said):
                generation.step(model, wrong, state)
    assert model(torch.tensor([[0, most - 1]])).logits.isfinite().all()


# Compiled


@pytest.mark.slow
def test_compiled_it_computes_the_same() -> None:
    model = make(REGISTRY[0], layers=1, memory_length=4)
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=True)
    for mode in (True, False):
        model.train(mode)
        memory: Any = None
        for number in range(3):
            tokens = text(model, 1, seed=number)
            with torch.set_grad_enabled(mode):
                ours, theirs = compiled(tokens, memory), model(tokens, memory)
            assert close(ours.logits, theirs.logits)
            assert all(map(close, leaves(ours.memory), leaves(theirs.memory)))
            if mode:
                one, other = (
                    torch.autograd.grad(x.logits.square().sum(), model.parameters())
                    for x in (ours, theirs)
                )
                assert all(map(close, one, other))
            memory = ours.memory.reset(lane(*[1] * (number == 1)))


# The registry itself


def test_the_registry_has_a_line_for_each_model() -> None:
    names = [one.name for one in REGISTRY]
    assert len(names) == len(set(names))
    for one, other in itertools.combinations(REGISTRY, 2):
        assert one.model is not other.model or one.sizes != other.sizes


def test_all_options_meet_in_pairs() -> None:
    met = set()
    for one in PAIRS:
        model = one.model.from_config(one.config(**one.sizes))
        met |= {*itertools.combinations(options_of(model), 2)}
    names = sorted(OPTIONS)
    for a, b in itertools.combinations(names, 2):
        for pair in itertools.product(OPTIONS[a], OPTIONS[b]):
            assert tuple(zip((a, b), map(str, pair), strict=True)) in met
    assert len(PAIRS) < 30


def options_of(model: Any) -> list[tuple[str, str]]:
    """Return what a model was built from, by its parts and not by its description."""
    layer, head = model.layers[0], model.head
    factor = hasattr(model.embedding, "widen")
    tied = getattr(head, "embedding", None) is model.embedding
    ends = [word for word, on in (("tied", tied), ("factorised", factor)) if on]
    kinds = {TransformerXL: "xl", CompressiveTransformer: "cm"}
    shared = len(model.layers) // len({*map(id, model.layers)})
    few = layer.attention.kv_heads < layer.attention.heads
    return sorted(
        {
            "model": kinds.get(type(model), "rmt"),
            "residual": str(type(layer.attention_residual)),
            "feed_forward": str(type(layer.feed_forward)),
            "attention": str(type(layer.attention)),
            "stored": str(type(model.stored)),
            "vocabulary": ", ".join(ends) or "plain",
            "kv_heads": str(layer.attention.kv_heads if few else None),
            "shared_layers": str(shared),
            "memory_layers": str(model.config.memory_layers),
        }.items()
    )
