"""Every model and every measure, where the model is on another device.

The device has no float64, as Apple's GPU. What comes out is what the CPU gives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from labml_style import generation
from labml_style.compressive_transformer import (
    CompressiveTransformer,
    CompressiveTransformerConfig,
)
from labml_style.contract import load, load_memory, save
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
from tests.test_contract import KINDS, PAIRS, REGISTRY, decodes, lane, make, text

# Parts that the first line of no class has, each once; of `PAIRS` the tied heads.
PARTS = """xl-place xl-shaw xl-projected xl-one-kv cm-max cm-most-used cm-coded cm-time
xl-InputGate xl-MogrifierGRUGate cm-NBRCGate cm-BRCGate xl-top-outputs short-and-none
rmt-loss rmt-encoder-pre mtxl-fixed mtxl-persistent cm-persistent-used mt-cache
""".split()
PARTED = [one for one in REGISTRY if one.name in PARTS]
PARTED += [one for one in PAIRS if "head" in one.sizes][:3]


def used(model: Any, whole: bool = True) -> list[Tensor]:
    """Run, train and decode with a model, on its device; the whole lab, or in brief."""
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
    if not whole:
        logits, _, auxiliary = model.train()(tokens, memory)
        loss = logits.float().logsumexp(-1).sum() + sum(auxiliary.values())
        slopes = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        found += [one for one in slopes if one is not None]
        return [near(one.detach()).float() for one in found]
    found.append(evaluate(model, stream).bits)
    training = Training(model, stream, TrainingConfig(steps=3, truncation=2))
    found.append(torch.tensor([update.bits for update in training]))
    training.load_state_dict(training.state_dict())
    return [near(one.detach()).float() for one in found]


def test_each_part_has_a_line() -> None:
    assert [one.name for one in PARTED[:-3]] == [
        one.name for one in REGISTRY if one.name in PARTS
    ] and len(PARTED) == len(PARTS) + 3


@pytest.mark.parametrize("case", KINDS + PARTED, ids=lambda case: case.name)
def test_a_model_on_another_device_computes_the_same(case: Any) -> None:
    model = make(case).float()
    twin, whole = copy.deepcopy(model), case in KINDS
    wanted = used(model, whole)
    with elsewhere() as device:
        found = used(twin.to(device), whole)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", KINDS, ids=lambda case: case.name)
def test_files_reach_a_device(case: Any, tmp_path: Path) -> None:
    model = make(case).float()
    path, tokens = save(model, tmp_path / "model"), text(model, 1)
    logits, memory, _ = model(tokens)
    wanted, held = model(tokens, memory).logits, memory.detach().state_dict()
    with elsewhere() as device:
        loaded, again = load(path, device=device), load_memory(held, device)
        assert {p.device for p in loaded.parameters()} == {device}
        found = loaded(tokens.to(device), again).logits
        assert found.device == device
        training = Training(loaded, TextStream(range(9), 1, 4), TrainingConfig(steps=1))
        state = training.state_dict() | {"memory": held}
        training.load_state_dict(state)
        assert {t.device for t in training.memory.tensors()} == {device}
    torch.testing.assert_close(near(found), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", KINDS, ids=lambda case: case.name)
def test_narrow_numbers_train_measure_and_write(case: Any) -> None:
    """The same in bfloat16: under autocast, and with weights of it."""
    wide = make(case).float()
    lanes = TextStream(text(wide, 20, batch=1)[0], 3, wide.config.segment_length)
    goal = evaluate(wide, lanes).mean
    with torch.autocast("cpu", torch.bfloat16):
        assert evaluate(wide, lanes).mean == pytest.approx(goal, rel=0.1)
    narrow = copy.deepcopy(wide).bfloat16()
    assert evaluate(narrow, lanes).mean == pytest.approx(goal, rel=0.1)
    if decodes(wide):
        for model, cast in ((wide, True), (narrow, False)):
            with torch.autocast("cpu", torch.bfloat16, enabled=cast):
                prompt = text(model, 2.5)
                made = generation.generate(model, prompt, 3, temperature=0)
            assert made.shape == (3, prompt.shape[1] + 3)
    bits = []
    for precision in ("float32", "bfloat16"):
        how = TrainingConfig(steps=2, truncation=2, precision=precision)
        lanes.position = 0
        bits.append([x.bits for x in Training(copy.deepcopy(wide), lanes, how)])
    assert bits[1] == pytest.approx(bits[0], rel=0.1) and bits[1] != bits[0]


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
