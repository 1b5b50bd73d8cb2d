"""Presets: experiments as typed values, with what would speak for and against them.

A preset is written, with `expect` and `contradict`, before it is run. What ran is in
its record. A preset that is changed afterwards has parted from its record, and a test
says so; a new field at its default value changes nothing.
"""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import (
    MISSING,
    Field,
    dataclass,
    field,
    fields,
    is_dataclass,
    replace,
)
from typing import Any, Literal

from labml_style.compression import (
    Convolution,
    DilatedConvolution,
    MaxPooling,
    MeanPooling,
    MostUsed,
)
from labml_style.compressive_transformer import CompressiveTransformerConfig
from labml_style.lab.controls import FrozenConvolution
from labml_style.lab.recall import RecallTask
from labml_style.lab.words import HELD_OUT
from labml_style.reconstruction import (
    AttentionReconstruction,
    AutoEncoding,
    BackpropagationThroughTime,
)
from labml_style.relative_attention import (
    AbsoluteEmbedding,
    ContentAttention,
    ShawAttention,
)
from labml_style.streams import CORPORA
from labml_style.training import TrainingConfig
from labml_style.transformer_xl import PreNorm, TransformerXLConfig

__all__ = [
    "Arm",
    "Form",
    "Measure",
    "PRESETS",
    "Preset",
    "describe",
    "digest",
    "find",
    "parted",
]

Form = Literal["cpu", "gpu"]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One evaluation of a trained model.

    Attributes:
        split: part of the corpus that is read.
        batch: lanes; arms that are compared have the same.
        segment_length: tokens in a segment; None takes the model's.
        memory_length: slots per layer; None takes the model's.
        compressed_length: compressed slots per layer; None takes the model's.
        window: length of a window that slides by one token, without memory; None
            carries the memory along instead.
        warm_up: first tokens of each lane that are not scored.
        limit: bytes of the split that are read; None reads all.
        errors: measure what compressed slots lose, too.
        by_count: sum the bits of words by how often training had them, too.
        by_age: sum attention by the age of slots, too.
    """

    split: Literal["valid", "test"] = "test"
    batch: int = 16
    segment_length: int | None = None
    memory_length: int | None = None
    compressed_length: int | None = None
    window: int | None = None
    warm_up: int = 96
    limit: int | None = None
    errors: bool = False
    by_count: bool = False
    by_age: bool = False


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train, and what is measured afterwards.

    Attributes:
        config: of the model.
        training: of the loop.
        batch: lanes in training, over all processes together.
        measures: evaluations by name.
        model: import string of the model's class.
        after: an arm named before it. Where that one ended with the same seed, this
            one goes on, with its weights, optimizer, memory, and place in the text;
            updates are counted on.
        only: parts of names of parameters. With `after`, all weights are taken over,
            these alone are trained, and everything else begins anew. Where there are
            none, nothing is trained.
        blocks: with `after`, segments in a block; memory is emptied where one begins.
            0 leaves the text whole.
        drawn: the blocks of all lanes come in a drawn order.
    """

    config: TransformerXLConfig
    training: TrainingConfig
    batch: int
    measures: dict[str, Measure]
    model: str = "labml_style.transformer_xl:TransformerXL"
    after: str | None = None
    only: tuple[str, ...] = ()
    blocks: int = 0
    drawn: bool = False


@dataclass(frozen=True, kw_only=True)
class Preset:
    """An experiment.

    Attributes:
        name: what the command line calls it.
        form: `"cpu"` or `"gpu"`, the device it is sized for.
        question: what it answers, in a sentence.
        corpus: one of `CORPORA`, `recall`, or `wikitext-2-held-out`.
        arms: by name.
        seeds: each arm is trained with each of them.
        expect: what is expected, written before the run.
        contradict: what would speak against it.
        minutes: expected time of all arms and seeds together.
        valid_every: updates between two looks at valid.
        keep: arm and seed, as `arm-seed`, whose weights are kept beside the record.
        tokens: what the models read; bits are per token.
    """

    name: str
    form: Form
    question: str
    corpus: str
    arms: dict[str, Arm]
    seeds: tuple[int, ...]
    expect: str
    contradict: str
    minutes: float
    valid_every: int = 500
    keep: str | None = None
    tokens: Literal["bytes", "words"] = "bytes"
    changed: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = (*CORPORA, RecallTask.name, HELD_OUT)
        if self.corpus not in known:
            raise ValueError(
                f"corpus is {self.corpus!r}; expected one of {', '.join(known)}"
            )
        if not self.seeds or not all(0 <= seed < 2**63 for seed in self.seeds):
            raise ValueError(f"seeds is {self.seeds}; expected whole numbers from 0")
        if self.valid_every < 1:
            raise ValueError(f"valid_every is {self.valid_every}; expected 1 or more")

    @property
    def title(self) -> str:
        """`name@form`, the name of its record."""
        return f"{self.name}@{self.form}"

    def runs(self) -> list[tuple[str, int]]:
        """Return arm and seed of every run, seed by seed, so that arms stay paired.

        Raises:
            ValueError: an arm goes on from one that is not named before it.
        """
        for i, (name, arm) in enumerate(self.arms.items()):
            before = list(self.arms)[:i]
            if arm.after is None and (arm.only or arm.blocks):
                raise ValueError(f"arm {name} goes on from none; give it after")
            if arm.after is not None and arm.after not in before:
                raise ValueError(
                    f"arm {name} is after {arm.after!r}; expected an arm named before "
                    f"it: {', '.join(before) or 'there is none'}"
                )
        return [(arm, seed) for seed in self.seeds for arm in self.arms]

    def with_values(self, values: dict[str, str]) -> Preset:
        """Return the preset with other values, as `--set name=value` gives them.

        A name is a field of the model's config, of the training, of the arm or of the
        preset, in all arms that have it.

        Raises:
            ValueError: no part of the preset has a field of that name.
        """
        preset = self
        for name, text in values.items():
            try:
                value = ast.literal_eval(text)
            except (SyntaxError, TypeError, ValueError):
                value = text
            preset = preset._with_value(name, value)
        return replace(preset, changed={**self.changed, **values})

    def _with_value(self, name: str, value: Any) -> Preset:
        found, arms = False, {}
        for key, arm in self.arms.items():
            for part in ("config", "training"):
                holder = getattr(arm, part)
                if name in _names(holder):
                    value = _like(getattr(holder, name), value, name)
                    arm = replace(arm, **{part: replace(holder, **{name: value})})
                    found = True
            if name == "batch":
                arm = replace(arm, batch=_like(arm.batch, value, name))
                found = True
            arms[key] = arm
        own = {"seeds", "corpus", "valid_every"}
        if name in own:
            value = (value,) if name == "seeds" and isinstance(value, int) else value
            value = _like(getattr(self, name), value, name)
            return replace(self, **{name: value})
        if not found:
            arm = next(iter(self.arms.values()))
            known = {*_names(arm.config), *_names(arm.training), "batch", *own}
            raise ValueError(
                f"--set {name}: {self.title} has no such field; expected one of "
                f"{', '.join(sorted(known))}"
            )
        return replace(self, arms=arms)


def _names(holder: Any) -> set[str]:
    return {f.name for f in fields(holder)}


def _like(old: Any, value: Any, name: str) -> Any:
    if isinstance(old, float) and isinstance(value, int):
        return float(value)
    if old is not None and not callable(old) and type(old) is not type(value):
        raise ValueError(
            f"--set {name}={value!r}: expected a value like {old!r}, of type "
            f"{type(old).__name__}"
        )
    if isinstance(old, tuple) and old:
        if isinstance(old[0], float) and len(old) != len(value):
            raise ValueError(f"--set {name}={value!r}: expected {len(old)} values")
        value = tuple(_like(old[0], part, name) for part in value)
    return value


def describe(value: Any) -> Any:
    """Return a preset, or a part of one, as plain JSON values; classes by name."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: describe(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: describe(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [describe(part) for part in value]
    if callable(value):
        return f"{value.__module__}:{value.__qualname__}"
    return value


def digest(preset: Preset) -> str:
    """Return 16 hex digits that change when anything in the preset does."""
    text = json.dumps(describe(preset), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parted(old: Any, new: Any, where: str = "") -> list[str]:
    """Return the fields in which a preset differs from its old description.

    What is no part of the experiment (the question's words, the expected time) may
    change. A field that is new may be there, at its default.

    Args:
        old: what `describe` returned when the experiment ran.
        new: the preset of today.
        where: name of the part that is looked at.
    """
    if is_dataclass(new) and not isinstance(new, type):
        if not isinstance(old, dict):
            return [where.rstrip(".") or "all of it"]
        found = [f"{where}{name}" for name in sorted(old.keys() - _names(new))]
        for one in fields(new):
            value, name = getattr(new, one.name), f"{where}{one.name}"
            if isinstance(new, Preset) and one.name in ("question", "minutes"):
                continue
            if one.name in old:
                found += parted(old[one.name], value, f"{name}.")
            elif value != _default(one):
                found.append(name)
        return found
    if isinstance(new, dict) and isinstance(old, dict):
        found = [f"{where}{name}" for name in sorted(old.keys() ^ new.keys())]
        for name in sorted(old.keys() & new.keys()):
            found += parted(old[name], new[name], f"{where}{name}.")
        return found
    return [] if describe(new) == old else [where.rstrip(".")]


def _default(one: Field[Any]) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def find(name: str, form: str | None = None, *, gpu: bool = False) -> Preset:
    """Return a preset by name, or by `name@form`.

    Args:
        name: of a preset.
        form: `"cpu"` or `"gpu"`; None takes the one for this machine, or the only one.
        gpu: whether this machine has a GPU.

    Raises:
        ValueError: there is no such preset or no such form.
    """
    name, _, given = name.partition("@")
    form = form or given or None
    forms = {p.form: p for p in PRESETS if p.name == name}
    if not forms:
        known = ", ".join(sorted({p.name for p in PRESETS}))
        raise ValueError(f"preset is {name!r}; expected one of {known}")
    if form is None:
        form = next(iter(forms)) if len(forms) == 1 else ("gpu" if gpu else "cpu")
    if form not in forms:
        raise ValueError(
            f"{name} has no form {form!r}; expected one of {', '.join(forms)}"
        )
    return forms[form]


# --- the experiments

SMALL = TransformerXLConfig(
    vocabulary=256,
    d_model=96,
    layers=3,
    heads=4,
    d_ff=384,
    segment_length=32,
    memory_length=32,
)
FEW = TrainingConfig(steps=2000, learning_rate=2e-3, warmup=100, clip=0.5)


def _recurrence(small: Arm, longer: int, **about: Any) -> Preset:
    # (A) to (C) read the same number of tokens in each step, and each query of (A) and
    # (C) has the same number of keys in the mean. (D) is (B), evaluated otherwise.
    config, n = small.config, small.config.segment_length
    alone = replace(config, memory_length=0)
    long = replace(alone, segment_length=longer * n)
    [carried] = small.measures.values()
    window = {"carried": carried, "window": replace(carried, window=n)}
    return Preset(
        name="recurrence",
        question="What does recurrence buy at equal attention cost?",
        arms={
            "memory": small,
            "alone": replace(small, config=alone, measures=window),
            "longer": replace(small, config=long, batch=small.batch // longer),
        },
        expect="The bits of the first four positions are lower with memory than "
        "without, in every seed and by 0.2 or more; so is the total, by less. Against "
        "the longer segment of the same cost, the total is lower or within the spread "
        "of seeds.",
        contradict="No gap at the first four positions, or a total with memory above "
        "the total without in any pair of seeds.",
        **about,
    )


def _positions(base: Arm, lengths: tuple[int, ...], **about: Any) -> Preset:
    [carried] = base.measures.values()
    measures = {f"memory {m}": replace(carried, memory_length=m) for m in lengths}
    n = base.config.segment_length + base.config.memory_length
    shaw = dict(attention=ShawAttention, clamp_length=n - 1)
    absolute = dict(attention=ContentAttention, embedding=AbsoluteEmbedding)
    return Preset(
        name="positions",
        question="Which positions can use a memory longer than that of training?",
        arms={
            name: replace(
                base,
                config=replace(base.config, **changes),
                measures=measures,
            )
            for name, changes in (
                ("relative", {}),
                ("shaw", shaw),
                ("absolute", absolute),
            )
        },
        expect="With the memory of training relative positions are best and absolute "
        "ones worst. With longer memories relative ones stay or gain, Shaw's stay, "
        "absolute ones get worse.",
        contradict="Absolute positions gain from a longer memory, or are within the "
        "spread of seeds of the relative ones.",
        **about,
    )


def _cost(base: Arm, lengths: tuple[int, ...], windows: int, **about: Any) -> Preset:
    [carried] = base.measures.values()
    n, longest, lanes = base.config.segment_length, max(lengths), 4
    full = replace(carried, batch=lanes, warm_up=longest)
    reuse = {f"attention {k}": replace(full, memory_length=k - n) for k in lengths}
    few = replace(full, limit=lanes * (longest + windows) + 1)
    window = {
        f"attention {k}": replace(few, window=k, segment_length=k) for k in lengths
    }
    alone = replace(base.config, memory_length=0)
    return Preset(
        name="evaluation-cost",
        question="What does a byte cost in evaluation, by reuse and by sliding window?",
        arms={
            "reuse": replace(base, measures=reuse),
            "window": replace(base, config=alone, measures=window),
        },
        expect="The time of a byte under the sliding window grows with its length at "
        "least in proportion; with reuse it grows far less. The ratio passes 20 at the "
        "longest attention.",
        contradict="A ratio below 10 at the longest attention, or one that does not "
        "grow.",
        **about,
    )


COMPRESSIVE = "labml_style.compressive_transformer:CompressiveTransformer"


# Ways to fill compressed slots. What has no weights, or keeps them, has no loss either:
# it gets the part that adds none.
THROUGH_TIME = "convolution, through time"
WAYS: dict[str, tuple[Any, Any]] = {
    "max": (MaxPooling, BackpropagationThroughTime),
    "mean": (MeanPooling, BackpropagationThroughTime),
    "most used": (MostUsed, BackpropagationThroughTime),
    "frozen": (FrozenConvolution, BackpropagationThroughTime),
    "convolution, attention": (Convolution, AttentionReconstruction),
    "convolution, encoding": (Convolution, AutoEncoding),
    THROUGH_TIME: (Convolution, BackpropagationThroughTime),
    "dilated, attention": (DilatedConvolution, AttentionReconstruction),
}


def _squeezed(
    config: TransformerXLConfig,
    compressed: int,
    rate: int,
    way: str = "convolution, attention",
) -> CompressiveTransformerConfig:
    function, loss = WAYS[way]
    return CompressiveTransformerConfig(
        **vars(config),
        compressed_length=compressed,
        compression_rate=rate,
        compression=function,
        compression_loss=loss,
    )


def _through(arm: Arm, segments: int) -> Arm:
    # As much text in an update, from fewer lanes: the graph goes through more of it.
    training = replace(arm.training, truncation=segments)
    return replace(arm, training=training, batch=arm.batch // segments)


def _compressive(
    base: Arm, rates: tuple[int, ...], lengths: tuple[int, ...], **about: Any
) -> Preset:
    # Each query has n_m + n_cm + (n_s + 1) / 2 keys in the mean, in all arms.
    config, n = base.config, base.config.segment_length
    [carried] = base.measures.values()
    alone = replace(config, memory_length=0, segment_length=5 * n)
    wide = replace(config, memory_length=2 * n)
    slots = {f"memory {m}": replace(carried, memory_length=m) for m in lengths}
    coarse = {f"compressed {m}": replace(carried, compressed_length=m) for m in lengths}
    arms = {
        "alone": replace(base, config=alone, batch=base.batch // 5),
        "xl": replace(base, config=wide, measures=slots),
    }
    for rate in rates:
        arms[f"rate {rate}"] = replace(
            base,
            config=_squeezed(replace(config, memory_length=n), n, rate),
            measures=coarse,
            model=COMPRESSIVE,
        )
    return Preset(
        name="compressive",
        question="What do compressed slots buy at equal attention cost?",
        arms=arms,
        expect="With the lengths of training, every rate is at or below Transformer-XL "
        "of the same cost, by less than 0.02 bits, and both are below no memory in "
        "every seed. Rates differ by less than their spread over seeds. As compressed "
        "slots are added in evaluation, bits fall, then rise (appendix B).",
        contradict="A rate above Transformer-XL by more than the spread in every seed, "
        "or bits that rise with the first compressed slots.",
        **about,
    )


def _recall(base: Arm, compressed: int, rate: int, **about: Any) -> Preset:
    config = base.config
    slots = config.memory_length + compressed
    arms = {"xl": replace(base, config=replace(config, memory_length=slots))}
    for way in WAYS:
        squeezed = _squeezed(config, compressed, rate, way)
        arms[way] = replace(base, config=squeezed, model=COMPRESSIVE)
    return Preset(
        name="recall",
        question="How far back does a compressed memory recall?",
        corpus="recall",
        arms=arms,
        expect="Transformer-XL answers up to a delay of its slots and falls to chance "
        "beyond its slots and a segment. Every compressed memory answers as well over "
        "its exact slots, and above chance over the n_m + c n_cm tokens that a single "
        "look spans; beyond, chance. There, trained convolutions are above the frozen "
        "one, and the one taught through time is best.",
        contradict="Compressed slots that recall no more than chance beyond the exact "
        "ones, or a frozen convolution as good as the trained ones.",
        **about,
    )


def _cross_table(base: Arm, slots: int, rate: int, short: Arm, **about: Any) -> Preset:
    # `base` is trained as it is. Then it is read in short segments with few slots, and
    # compressed ones are plugged in: exact slots for what both stand for are the limit.
    config = replace(base.config, segment_length=slots, memory_length=slots)
    [measured] = short.measures.values()
    exact = {
        f"exact {m}": replace(measured, segment_length=slots, memory_length=m)
        for m in (slots, 2 * slots, slots + rate * slots)
    }
    arms = {"exact": replace(base, measures=exact)}
    for name, way in (
        ("mean pooling", "mean"),
        ("untrained", "frozen"),
        ("through time", THROUGH_TIME),
        ("auto-encoding", "convolution, encoding"),
        ("attention", "convolution, attention"),
    ):
        arm = replace(
            short,
            config=_squeezed(config, slots, rate, way),
            measures={"plugged in": replace(measured, errors=True)},
            model=COMPRESSIVE,
            after="exact",
            only=("compression",),
        )
        arms[name] = _through(arm, 4) if way == THROUGH_TIME else arm
    return Preset(
        name="cross-table",
        question="What does each loss keep, and what is it worth to a frozen model?",
        arms=arms,
        expect="In every seed auto-encoding restores most, attention reconstruction is "
        "read most alike, and in bits attention reconstruction is better than mean "
        "pooling and than as many exact slots, auto-encoding worse than attention "
        "reconstruction. Through time, on as much text in as many updates, is best in "
        "bits.",
        contradict="A loss that does not win its own column in some seed, or "
        "auto-encoding at or below attention reconstruction in bits.",
        **about,
    )


def _late(
    base: Arm, trunk: int, rest: int, every: int, block: int, **about: Any
) -> Preset:
    rate = base.training.learning_rate
    constant = replace(base.training, steps=trunk, final_rate=rate)
    arms = {"before": replace(base, training=constant)}
    orders: dict[str, dict[str, Any]] = {
        "": {},
        ", blocks": dict(blocks=block),
        ", drawn": dict(blocks=block, drawn=True),
    }
    for order, cut in orders.items():
        for name, training in (
            ("constant", replace(constant, steps=trunk + rest)),
            (
                "stopped",
                replace(
                    constant, steps=trunk + rest, learning_rate=1e-9, final_rate=1e-9
                ),
            ),
            (
                f"every {every}",
                replace(constant, steps=trunk + rest // every, accumulate=every),
            ),
        ):
            arms[name + order] = replace(base, training=training, after="before", **cut)
    return Preset(
        name="late-updates",
        question="Do weights follow the text that is being read, late in training?",
        arms=arms,
        expect="On the text it goes on to read, a model whose updates stop (rate 1e-9) "
        "has more bits than one that goes on; part of the gap is what is still to be "
        "learned. Where blocks come in a drawn order, which nothing can follow from "
        "one to the next, the gap is smaller than with the same blocks in order, in "
        "every seed. (A first run had longer blocks, and none of them in order: its "
        "gap was 0.007 to 0.009 smaller, which emptied memories alone could explain.) "
        "One update for four segments is at or below the constant rate on test.",
        contradict="A gap that is as large in the drawn order: then nothing was "
        "followed. Fewer updates above the constant rate on test in every seed.",
        **about,
    )


def _rare_words(base: Arm, rate: int, **about: Any) -> Preset:
    # Arms and cost of `compressive`, on a text of articles.
    whole = _compressive(base, (rate,), (), **about)
    measures = {
        name: replace(measure, by_count=True) for name, measure in base.measures.items()
    }
    return replace(
        whole,
        name="rare-words",
        question="Does memory help more where a word is rare?",
        arms={
            name: replace(arm, measures=measures) for name, arm in whole.arms.items()
        },
        expect="An illustration, on a training text of a megabyte: memory lowers the "
        "bits of words that training had fewer than ten times by more, in per cent, "
        "than those of words that it had a thousand times. Between Transformer-XL and "
        "the Compressive Transformer the intervals of most classes hold zero.",
        contradict="Memory that helps common words more than rare ones, or a gain of "
        "compressed slots at rare words that is outside its interval.",
    )


def _ages(base: Arm, rate: int, **about: Any) -> Preset:
    config, n = base.config, base.config.segment_length
    [carried] = base.measures.values()
    arm = replace(
        base,
        config=_squeezed(replace(config, memory_length=n), n, rate),
        measures={"by age": replace(carried, batch=32, warm_up=8 * n, by_age=True)},
        model=COMPRESSIVE,
    )
    return Preset(
        name="attention-by-age",
        question="Who reads the old slots?",
        arms={f"rate {rate}": arm},
        expect="(Seed 0 was seen before, on less text.) In every seed: per slot, "
        "the oldest compressed bucket receives more than the newest compressed one, "
        "so attention does not rise where exact slots turn into compressed ones; per "
        "original token every compressed bucket receives less than any exact one; the "
        "newest exact bucket receives at least twice any other exact one.",
        contradict="The paper's rise at that border: a newest compressed bucket above "
        "the oldest exact one in every seed.",
        **about,
    )


def _losses(base: Arm, compressed: int, rate: int, **about: Any) -> Preset:
    arms = {}
    for way in WAYS:
        config = _squeezed(base.config, compressed, rate, way)
        arm = replace(base, config=config, model=COMPRESSIVE)
        arms[way] = _through(arm, 2) if way == THROUGH_TIME else arm
    return Preset(
        name="compression-losses",
        question="Which function and which loss (the paper's Table 5)?",
        arms=arms,
        expect="The paper's gaps, .003 to .013 bits, are below the spread of these "
        "seeds. The convolution with attention reconstruction is at or below mean "
        "pooling in most pairs of seeds; otherwise nothing is shown.",
        contradict="A frozen convolution as good as the one taught by attention "
        "reconstruction, or through time the best.",
        **about,
    )


_CPU = Arm(config=SMALL, training=FEW, batch=48, measures={"carried": Measure()})
_EQUAL = replace(
    _CPU,
    config=replace(SMALL, segment_length=24),
    training=replace(FEW, steps=1500),
    batch=60,
    measures={"carried": Measure(warm_up=240)},
)

MIDDLE = replace(
    SMALL,
    d_model=384,
    layers=6,
    heads=6,
    d_ff=1536,
    segment_length=128,
    memory_length=128,
    dropout=0.2,
)
_GPU = Arm(
    config=MIDDLE,
    training=TrainingConfig(
        steps=4000,
        learning_rate=1e-3,
        warmup=200,
        clip=0.25,
        precision="bfloat16",
        compile=True,
    ),
    batch=48,
    measures={"carried": Measure(warm_up=384)},
)

BASE = replace(
    MIDDLE,
    d_model=512,
    layers=12,
    heads=8,
    d_ff=2048,
    segment_length=512,
    memory_length=512,
    dropout=0.1,
)

PRESETS: tuple[Preset, ...] = (
    Preset(
        name="smoke",
        form="cpu",
        question="Does the lab work on this machine?",
        corpus="python-docs",
        arms={
            name: Arm(
                config=replace(
                    SMALL,
                    d_model=32,
                    layers=2,
                    heads=2,
                    d_ff=64,
                    segment_length=16,
                    memory_length=m,
                    dropout=0.1,
                ),
                training=replace(FEW, steps=60, warmup=10, accumulate=2),
                batch=8,
                measures={"carried": Measure(limit=4000, warm_up=16)},
            )
            for name, m in (("memory", 16), ("alone", 0))
        },
        seeds=(0,),
        expect="It ends in seconds, below 6 bits per byte.",
        contradict="It does not.",
        minutes=0.2,
        valid_every=20,
        keep="memory-0",
    ),
    _recurrence(
        _CPU,
        3,
        form="cpu",
        corpus="tiny-shakespeare",
        seeds=(0, 1, 2),
        minutes=40,
        keep="memory-0",
    ),
    _recurrence(
        _GPU, 3, form="gpu", corpus="tiny-shakespeare", seeds=(0, 1, 2), minutes=45
    ),
    _positions(
        replace(_CPU, training=replace(FEW, steps=1000)),
        (0, 16, 32, 64, 128, 256),
        form="cpu",
        corpus="tiny-shakespeare",
        seeds=(0, 1, 2),
        minutes=25,
    ),
    _cost(
        replace(_CPU, training=replace(FEW, steps=300)),
        (64, 128, 256, 512),
        windows=64,
        form="cpu",
        corpus="tiny-shakespeare",
        seeds=(0,),
        minutes=5,
    ),
    _compressive(
        _EQUAL,
        (2, 3, 4),
        (0, 12, 24, 48, 96, 192),
        form="cpu",
        corpus="tiny-shakespeare",
        seeds=(0, 1, 2),
        minutes=80,
        keep="rate 3-0",
    ),
    _ages(
        _EQUAL,
        3,
        form="cpu",
        corpus="tiny-shakespeare",
        seeds=(0, 1, 2),
        minutes=15,
    ),
    _cross_table(
        _CPU,
        slots=8,
        rate=4,
        short=Arm(
            config=SMALL,
            training=TrainingConfig(steps=1000, learning_rate=3e-3, warmup=50),
            batch=48,
            measures={"test": Measure(batch=32)},
        ),
        form="cpu",
        corpus="tiny-shakespeare",
        seeds=(0, 1, 2),
        minutes=25,
    ),
    _late(
        replace(
            _CPU,
            config=_squeezed(
                replace(SMALL, segment_length=24, memory_length=24), 24, 3
            ),
            training=replace(FEW, steps=1),
            batch=60,
            measures={"test": Measure(warm_up=240)},
            model=COMPRESSIVE,
        ),
        trunk=400,
        rest=280,
        every=4,
        block=4,
        form="cpu",
        corpus="tiny-shakespeare",
        seeds=(0, 1, 2),
        minutes=30,
    ),
    _rare_words(
        _EQUAL,
        3,
        form="cpu",
        corpus=HELD_OUT,
        seeds=(0, 1, 2),
        minutes=30,
    ),
    _recall(
        Arm(
            config=TransformerXLConfig(
                vocabulary=RecallTask.vocabulary,
                d_model=64,
                layers=2,
                heads=2,
                d_ff=128,
                segment_length=16,
                memory_length=16,
                residual=PreNorm,
            ),
            training=TrainingConfig(
                steps=400, learning_rate=2e-3, warmup=50, truncation=12
            ),
            batch=32,
            measures={"test": Measure(warm_up=0)},
        ),
        compressed=16,
        rate=4,
        form="cpu",
        seeds=(0, 1, 2),
        minutes=60,
    ),
    Preset(
        name="enwik8-4mb",
        form="gpu",
        question="What does a memory give on the first 4 MB of enwik8?",
        corpus="enwik8-4mb",
        arms={
            f"memory {m}": replace(
                _GPU,
                config=replace(MIDDLE, memory_length=m),
                training=replace(_GPU.training, steps=6000),
                measures={
                    f"memory {k}": Measure(memory_length=k, warm_up=384)
                    for k in (0, 128, 256, 512, 1024, 2048)
                },
            )
            for m in (0, 128, 512)
        },
        seeds=(0, 1, 2),
        expect="Without memory worst by more than 0.1 bits; 512 slots at or below 128. "
        "With longer memories than in training the bits fall, then stay.",
        contradict="No gap between memory and none, or bits that rise at once where "
        "the memory is longer than in training.",
        minutes=90,
        valid_every=1000,
    ),
    _compressive(
        replace(
            _GPU,
            config=replace(MIDDLE, segment_length=120),
            training=replace(_GPU.training, steps=6000),
            batch=50,
            measures={"carried": Measure(warm_up=1200)},
        ),
        (2, 3, 4),
        (0, 60, 120, 240, 480, 960),
        form="gpu",
        corpus="enwik8-4mb",
        seeds=(0, 1, 2),
        minutes=180,
    ),
    _losses(
        replace(
            _GPU,
            training=replace(_GPU.training, steps=6000),
            measures={"carried": Measure(warm_up=768)},
        ),
        compressed=128,
        rate=4,
        form="gpu",
        corpus="enwik8-4mb",
        seeds=(0, 1, 2),
        minutes=270,
    ),
    Preset(
        name="enwik8-base",
        form="gpu",
        question="Does the base setting of the paper reach its bits on enwik8?",
        corpus="enwik8",
        arms={
            "base": Arm(
                config=BASE,
                training=TrainingConfig(
                    steps=400_000,
                    learning_rate=2.5e-4,
                    weight_decay=0.0,
                    clip=0.25,
                    precision="bfloat16",
                    compile=True,
                ),
                batch=22,
                measures={
                    "as the paper": Measure(
                        batch=8, segment_length=80, memory_length=2100, warm_up=0
                    ),
                },
            )
        },
        seeds=(0,),
        expect="Near the paper's 1.06 bits per byte (Table 2); without the clamped "
        "distances of the official evaluation somewhat above.",
        contradict="Above 1.10.",
        minutes=1200,
        valid_every=10_000,
    ),
    Preset(
        name="wikitext-103-base",
        form="gpu",
        question="Does the base setting of the paper reach its perplexity on words?",
        corpus="wikitext-103",
        tokens="words",
        arms={
            "base": Arm(
                config=replace(
                    BASE,
                    vocabulary=267_735,
                    d_model=410,
                    layers=16,
                    heads=10,
                    d_ff=2100,
                    segment_length=150,
                    memory_length=150,
                ),
                training=TrainingConfig(
                    steps=200_000,
                    learning_rate=2.5e-4,
                    weight_decay=0.0,
                    clip=0.25,
                    precision="bfloat16",
                    compile=True,
                ),
                batch=60,
                measures={
                    "as the paper": Measure(
                        batch=10, segment_length=64, memory_length=640, warm_up=0
                    ),
                },
            )
        },
        seeds=(0,),
        expect="Near the paper's perplexity of 24.0 (Table 1), 4.58 bits per word. The "
        "softmax is whole and not tied to the embedding, which the paper's is.",
        contradict="Above 26, 4.70 bits per word.",
        minutes=900,
        valid_every=10_000,
    ),
)


def _check() -> None:
    for preset in PRESETS:
        preset.runs()
    titles = [preset.title for preset in PRESETS]
    assert len(titles) == len(set(titles)), "two presets have one title"


_check()
