"""Every model and every measure, where the model is on another device.

The device has no float64, as Apple's GPU. What comes out is what the CPU gives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from labml_style import generation
from labml_style.compressive_transformer import (
    CompressiveTransformer,
    CompressiveTransformerConfig,
)
from labml_style.corpora import Corpus
from labml_style.documents import (
    RecurrentMemoryClassifier,
    RecurrentMemoryClassifierConfig,
)
from labml_style.lab import looking_back, probes, runner, segments
from labml_style.lab.decoding import decoding_bytes
from labml_style.lab.experiments import documents
from labml_style.lab.presets import Measure
from labml_style.lab.recall import DelayStream
from labml_style.lab.windows import evaluate_window
from labml_style.relative_attention import AttentionConfig, Embedding, RelativeAttention
from labml_style.streams import Stream, TextStream
from labml_style.training import Training, TrainingConfig, evaluate
from tests.elsewhere import elsewhere, near
from tests.test_contract import KINDS, decodes, lane, make, text


def used(model: Any) -> list[Tensor]:
    """Run, train and decode with a model, on its device."""
    memory: Any = None
    found, device = [], model.like.device
    stream = TextStream(text(model, 20, batch=1)[0], 3, model.config.segment_length)
    with torch.no_grad():
        for number in range(3):
            tokens = text(model, 1, seed=number).to(device)
            logits, memory, _ = model(tokens, memory)
            found.append(logits)
        memory = memory.reset(lane(1)).select(torch.tensor([2, 1, 0]))
        found.append(model(tokens, memory).logits)
        if decodes(model):
            logits, state = generation.step(
                model, tokens, generation.start(model, memory)
            )
            state = state.select(torch.tensor([1, 0, 2]))
            found += [logits, generation.step(model, tokens[:, :2], state)[0]]
            found.append(generation.generate(model, text(model, 2.5), 3, seed=0))
    training = Training(model, stream, TrainingConfig(steps=3, truncation=2))
    found.append(torch.tensor([update.bits for update in training]))
    training.load_state_dict(training.state_dict())
    return [near(one.detach()).float() for one in found]


@pytest.mark.parametrize("case", KINDS, ids=lambda case: case.name)
def test_a_model_on_another_device_computes_the_same(case: Any) -> None:
    model = make(case).float()
    twin = copy.deepcopy(model)
    wanted = used(model)
    with elsewhere() as device:
        found = used(twin.to(device))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


# --- measures

LENGTHS: dict[str, Any] = dict(segment_length=12, memory_length=12, compression_rate=2)
SMALL: dict[str, Any] = dict(d_model=8, heads=2, layers=2, d_ff=12, **LENGTHS)


def compressive(**changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = SMALL | dict(vocabulary=256, compressed_length=6) | changes
    return CompressiveTransformer(CompressiveTransformerConfig(**sizes)).eval()


def classifier() -> Any:
    torch.manual_seed(0)
    sizes = {k: v for k, v in SMALL.items() if k != "compression_rate"}
    sizes |= dict(vocabulary=256, memory_tokens=3, memory_length=0, classes=2)
    config = RecurrentMemoryClassifierConfig(**sizes)
    return RecurrentMemoryClassifier(config).eval()


def layer() -> Any:
    torch.manual_seed(0)
    config = AttentionConfig(vocabulary=looking_back.KINDS, d_model=8, heads=2)
    return looking_back.OneLayer(config, Embedding, RelativeAttention, False)


def corpus() -> Corpus:
    rng = torch.Generator().manual_seed(0)
    letters = torch.tensor(list(b"ab  "), dtype=torch.uint8)
    part = letters[torch.randint(4, (400,), generator=rng)]
    return Corpus("letters", part, part[:300], part[:320], "")


def lanes() -> TextStream:
    return TextStream(corpus().test, 2, 12)


def passages() -> Stream:
    texts = [torch.arange(20), torch.arange(100, 130)]
    noise = torch.ones(256) / 256
    return documents.PassageStream(texts, noise, 4, 2, 12, 3, 4)


def probed(probe: Callable[..., Any], stream: Any) -> Callable[[Any], Any]:
    return lambda model: probe(model, stream, corpus=corpus(), warm_up=0)


TEXT = probes.errors, probes.by_count, probes.by_age, probes.frequencies
DELAYS = DelayStream(12, 2, 2, segments=3, delays=(4, 8))
FACTS = segments.FactsTask().measured(12, 2, "valid")
COPIES = segments.CopyTask().measured(12, 2, "valid")
CARRIED = Measure(split="test", batch=2, warm_up=0)
MEASURES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "evaluate": (compressive, lambda model: evaluate(model, lanes()).bits.tolist()),
    "window": (
        lambda: compressive(memory_length=0, compressed_length=0),
        lambda model: evaluate_window(model, lanes(), window=6).bits.tolist(),
    ),
    **{one.__name__: (compressive, probed(one, lanes())) for one in TEXT},
    "accuracy": (compressive, probed(probes.accuracy, DELAYS)),
    "answers": (compressive, probed(segments.answers, COPIES)),
    "by_segments": (compressive, probed(segments.by_segments, FACTS)),
    "by_place": (classifier, probed(documents.by_place, passages())),
    "right": (layer, lambda model: looking_back.right(model, 16, lanes=2)),
    "decoding_bytes": (compressive, decoding_bytes),
    "state_bytes": (compressive, runner.state_bytes),
    "measure": (compressive, lambda model: runner.measure(model, corpus(), CARRIED)),
}


def numbers(found: Any) -> list[float]:
    """Return all numbers of a result but the seconds, in order."""
    if isinstance(found, dict):
        return [x for k, v in found.items() if k != "seconds" for x in numbers(v)]
    if isinstance(found, list | tuple):
        return [x for one in found for x in numbers(one)]
    return [] if isinstance(found, str) else [float(found)]


@pytest.fixture(autouse=True)
def _few_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "LENGTHS", (1, 2))


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_on_another_device_gives_the_same(name: str) -> None:
    made, measured = MEASURES[name]
    wanted = numbers(measured(made()))
    model = made()
    with elsewhere() as device:
        found = numbers(measured(model.to(device)))
    assert found == pytest.approx(wanted, rel=1e-3, abs=1e-3) and wanted


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_of_narrow_weights_is_that_of_wide_ones(name: str) -> None:
    made, measured = MEASURES[name]
    wanted, found = (numbers(measured(made().to(kind))) for kind in KINDS_OF_NUMBERS)
    assert len(found) == len(wanted)
    if "bytes" not in name and name != "measure":
        assert found == pytest.approx(wanted, rel=0.1, abs=0.1)


KINDS_OF_NUMBERS = torch.float32, torch.bfloat16


def test_what_a_device_would_refuse_is_refused() -> None:
    with elsewhere() as device:
        here, there = torch.ones(2), torch.ones(2).to(device)
        assert (there + 1).device == device and (there + 1).cpu().tolist() == [2, 2]
        with pytest.raises(RuntimeError, match="tensors on meta and on cpu"):
            here + there
        with pytest.raises(TypeError, match="has no float64"):
            there.double()
