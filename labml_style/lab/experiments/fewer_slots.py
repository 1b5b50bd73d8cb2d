"""Experiments of the chapter on memory in some layers: which ones, and what is kept."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean
from typing import Any

from labml_style.fewer_slots import ShortAndLongConfig
from labml_style.lab.judging import Claim, decide, gaps, measured, span
from labml_style.lab.presets import Arm, Measure, Preset, Verdict
from labml_style.lab.recall import DelayStream
from labml_style.lab.results import state_bytes, summary
from labml_style.training import TrainingConfig
from labml_style.transformer_xl import PreNorm, TransformerXLConfig

OUTPUTS = "labml_style.fewer_slots:LayerOutputs"
SHORT_AND_LONG = "labml_style.fewer_slots:ShortAndLong"
PLACES: dict[str, tuple[int, ...]] = {
    "top 4": (5, 6, 7, 8),
    "interleaved": (2, 4, 6, 8),
    "bottom 4": (1, 2, 3, 4),
}
"""Half of eight layers, in three ways."""


# --- on text


def _text(base: Arm, **about: Any) -> Preset:
    slots = base.config.memory_length

    def arm(**changes: Any) -> Arm:
        return replace(base, config=replace(base.config, **changes))

    return Preset(
        name="memory-layers",
        question="Which layers need memory?",
        arms={
            "all": base,
            **{name: arm(memory_layers=chosen) for name, chosen in PLACES.items()},
            "first": arm(memory_layers=(1,)),
            "last": arm(memory_layers=(8,)),
            "none": arm(memory_length=0),
            "top 4, twice the slots": arm(
                memory_layers=PLACES["top 4"], memory_length=2 * slots
            ),
            "all, outputs": arm(stored=OUTPUTS),
        },
        expect="(Seed 9 was seen before, in the arms all and none.) Half of the layers "
        "are enough, as Rae and Razavi lead one to expect: top 4 and interleaved are "
        "within 0.02 bits of all in the mean. Of the three halves the bottom one has "
        "most bits in every seed; of single layers the first has more than the last. "
        "The last layer alone keeps half or more of what memory in all layers saves. "
        "With the same bytes, twice the slots in the top 4 layers have no more bits "
        "than all in the mean. Outputs in the place of inputs have no more bits in the "
        "mean, as Ding and others lead one to expect.",
        contradict="A bottom half below both other halves in every seed, or a top half "
        "that keeps less than half of what memory saves.",
        judge=judge_text,
        **about,
    )


def judge_text(record: dict[str, Any]) -> Verdict:
    """Compare the arms in bits; what memory saves is none less all."""
    bits = {arm: found for (arm, _), found in summary(record).items()}
    saved = mean(gaps(bits["none"], bits["all"]))
    over = {arm: gaps(found, bits["all"]) for arm, found in bits.items()}
    kept = {arm: 1 - mean(gap) / saved for arm, gap in over.items()}
    top, between, bottom = (bits[name] for name in PLACES)
    worse = [min(gaps(bottom, one)) for one in (top, between)]
    better = [max(gaps(bottom, one)) for one in (top, between)]
    same, outputs = mean(over["top 4, twice the slots"]), over["all, outputs"]
    return decide(
        [
            Claim(
                max(abs(mean(over[name])) for name in ("top 4", "interleaved")) <= 0.02,
                f"top 4 has {mean(over['top 4']):+.3f} bits over all and interleaved "
                f"{mean(over['interleaved']):+.3f}, where memory in all layers saves "
                f"{saved:.3f} in the mean",
            ),
            Claim(
                min(worse) > 0,
                f"bottom 4 has {mean(over['bottom 4']):+.3f} bits over all, and over "
                f"seeds {span(gaps(bottom, top), '+.3f')} over top 4 and "
                f"{span(gaps(bottom, between), '+.3f')} over interleaved",
            ),
            Claim(
                min(gaps(bits["first"], bits["last"])) > 0,
                f"the first layer alone has {mean(over['first']):+.3f} bits over all, "
                f"the last one {mean(over['last']):+.3f}",
            ),
            Claim(
                kept["last"] >= 0.5,
                f"the last layer alone keeps {kept['last']:.0%} of what memory saves, "
                f"the first one {kept['first']:.0%}",
            ),
            Claim(
                same <= 0,
                f"with the same bytes, twice the slots in the top 4 layers have "
                f"{same:+.3f} bits over all",
            ),
            Claim(
                mean(outputs) <= 0,
                f"outputs in the place of inputs have {mean(outputs):+.3f} bits over "
                f"them, {span(outputs, '+.3f')} over seeds",
            ),
        ],
        against=max(better) < 0 or kept["top 4"] < 0.5,
    )


# --- where every layer has a short memory


def _ranges(base: Arm, long: int, **about: Any) -> Preset:
    short = base.config.memory_length

    def arm(*layers: int) -> Arm:
        values = dict(vars(base.config), memory_layers=layers, memory_length=long)
        config = ShortAndLongConfig(**values, short_length=short)
        return replace(base, config=config, model=SHORT_AND_LONG)

    return Preset(
        name="memory-ranges",
        question="Which layers need a long memory, where all have a short one?",
        arms={
            "all long": replace(base, config=replace(base.config, memory_length=long)),
            "top 4 long": arm(*PLACES["top 4"]),
            "bottom 4 long": arm(*PLACES["bottom 4"]),
            "all short": base,
        },
        expect="(One seed of memory-layers was seen before, where the other layers had "
        "no memory at all. There the bottom half had fewest bits of the three halves, "
        "and the top half most.) Every layer has one segment of memory, as in Rae and "
        "Razavi, and some have four. Then the top half is better: long in the top 4 "
        "layers has no more bits than long in the bottom 4 in the mean, and is within "
        "0.01 bits of long in all. Long in all has fewer bits than short in all, in "
        "every seed.",
        contradict="Fewer bits in every seed with a long memory in the bottom 4 layers "
        "than with one in the top 4.",
        judge=judge_ranges,
        **about,
    )


def judge_ranges(record: dict[str, Any]) -> Verdict:
    """Compare top and bottom, where a long memory brings something."""
    bits = {arm: found for (arm, _), found in summary(record).items()}
    halves = gaps(bits["top 4 long"], bits["bottom 4 long"])
    saved = gaps(bits["all short"], bits["all long"])
    over = mean(gaps(bits["top 4 long"], bits["all long"]))
    claims = [
        Claim(
            mean(halves) <= 0,
            f"long in the top 4 layers has {mean(halves):+.3f} bits over long in the "
            f"bottom 4, {span(halves, '+.3f')} over seeds",
        ),
        Claim(
            abs(over) <= 0.01,
            f"it has {over:+.3f} bits over long in all layers, where 0.01 to either "
            "side were expected",
        ),
        Claim(
            min(saved) > 0,
            f"long in all layers has {span((-x for x in saved), '+.3f')} bits over "
            "short in all",
        ),
    ]
    return decide(claims, against=min(halves) > 0)


# --- on recall


class ShortRecall:
    """The recall task over 64 tokens: 4 keys, 4 values, up to 48 tokens back."""

    name = "short recall"
    delays = (4, 8, 16, 24, 32, 40, 48)
    sizes: dict[str, int] = dict(keys=4, values=4, noise=4, segments=8)
    vocabulary = 4 * 4 + 4 + 4

    def stream(self, segment_length: int, batch: int, seed: int) -> DelayStream:
        """Return the samples of a run."""
        return self._drawn(segment_length, batch, 100_000, seed)

    def measured(self, segment_length: int, batch: int, split: str) -> DelayStream:
        """Return samples that no run has seen."""
        samples, seed = (4, -1) if split == "valid" else (40, -2)
        return self._drawn(segment_length, batch, samples, seed)

    def _drawn(self, n: int, batch: int, samples: int, seed: int) -> DelayStream:
        about: dict[str, Any] = dict(self.sizes, delays=self.delays, seed=seed)
        return DelayStream(n, batch, samples, **about)


CHANCE = 1 / 4
"""Right answers of a guess: there are four values."""


def _recall(base: Arm, **about: Any) -> Preset:
    config, slots = base.config, base.config.memory_length

    def arm(*layers: int, **changes: Any) -> Arm:
        """Return an arm with as many bytes, spent on these layers."""
        if layers:
            changes |= dict(memory_layers=layers)
            changes |= dict(memory_length=slots * config.layers // len(layers))
        return replace(base, config=replace(config, **changes))

    return Preset(
        name="memory-layers-recall",
        question="Does recall need slots in many layers, or many slots in one?",
        corpus="labml_style.lab.experiments.fewer_slots:ShortRecall",
        arms={
            "all": base,
            **{name: arm(*chosen) for name, chosen in PLACES.items()},
            "first": arm(1),
            "last": arm(8),
            "all, outputs": arm(stored=OUTPUTS),
        },
        expect="(Seed 9 was seen before, in the arms all and last, on longer samples.) "
        "All arms have the same bytes. What one layer attends to is recalled. No layer "
        "of the arm all attends to what stood 16 or more tokens ago. So at 16 tokens "
        "the arms with slots in four layers answer more than all does, in every seed, "
        "and first answers at least 9 of 10 at every delay. Last learns more slowly: "
        "from 16 tokens on it answers less than first, in every seed, and still more "
        "than a guess at 48. Outputs in the place of inputs change the answers of all "
        "from 16 tokens on by less than 10 points in the mean.",
        contradict="An arm all that answers as much as first beyond its slots, or a "
        "last layer that guesses there.",
        judge=judge_recall,
        **about,
    )


def judge_recall(record: dict[str, Any]) -> Verdict:
    """Compare right answers near and far, seed by seed."""
    arms = record["preset"]["arms"]
    config = arms["all"]["config"]
    reach = config["memory_length"] + config["segment_length"] - 1

    def shares(arm: str, above: int, most: int = 10**9) -> list[float]:
        """Right answers at the delays of an interval, the mean of each seed."""
        return [
            mean(x for d, x in one["accuracy"].items() if above < int(d) <= most)
            for one in measured(record, arm, "test")
        ]

    far = {arm: shares(arm, reach) for arm in arms}
    edge = {arm: shares(arm, reach, 16) for arm in arms}
    least = min(
        min(one["accuracy"].values()) for one in measured(record, "first", "test")
    )
    ends = shares("last", 40)
    halves = {name: gaps(edge[name], edge["all"]) for name in PLACES}
    behind = gaps(far["first"], far["last"])
    change = gaps(far["all, outputs"], far["all"])
    said = ", ".join(
        f"{name} {mean(edge[name]):.0%} ({span(gap, '+.0%')} over all)"
        for name, gap in halves.items()
    )
    sizes = {state_bytes(record, arm, "test") for arm in arms}
    return decide(
        [
            Claim(
                min(min(gap) for gap in halves.values()) > 0 and len(sizes) == 1,
                f"with the same bytes, all answers {mean(edge['all']):.0%} at 16 "
                f"tokens in the mean, {said}, and a guess has {CHANCE:.0%}",
            ),
            Claim(
                least >= 0.9,
                f"the first layer alone answers {mean(far['first']):.0%} from "
                f"{reach + 1} tokens on, and {least:.0%} at its worst delay and seed",
            ),
            Claim(
                min(behind) > 0 and min(ends) > CHANCE + 0.05,
                f"the last layer alone answers {mean(far['last']):.0%} there, and "
                f"{span(ends, '.0%')} at 48 tokens",
            ),
            Claim(
                abs(mean(change)) < 0.1,
                f"all answers {mean(far['all']):.0%} there, and with outputs "
                f"{mean(far['all, outputs']):.0%}",
            ),
        ],
        against=mean(far["all"]) >= mean(far["first"])
        or mean(far["last"]) < CHANCE + 0.05,
    )


SMALL = TransformerXLConfig(
    vocabulary=256,
    d_model=48,
    layers=8,
    heads=4,
    d_ff=192,
    segment_length=16,
    memory_length=32,
    residual=PreNorm,
)

PRESETS = (
    _text(
        Arm(
            config=SMALL,
            training=TrainingConfig(steps=600, learning_rate=2e-3, warmup=50, clip=0.5),
            batch=64,
            measures={"carried": Measure()},
        ),
        form="cpu",
        corpus="tiny-shakespeare",
        seeds=(0, 1, 2),
        minutes=25,
        valid_every=600,
        committed="Committed on 30 November 2026 at 06:15. The record followed at "
        "06:45; its runs took 25 minutes, beside other work.",
    ),
    _ranges(
        Arm(
            config=replace(SMALL, memory_length=16),
            training=TrainingConfig(steps=500, learning_rate=2e-3, warmup=50, clip=0.5),
            batch=64,
            measures={"carried": Measure()},
        ),
        long=64,
        form="cpu",
        corpus="tiny-shakespeare",
        seeds=(0, 1, 2),
        minutes=15,
        valid_every=500,
        committed="Committed on 30 November 2026 at 06:27. The record followed at "
        "07:01; its runs took 14 minutes, beside other work.",
    ),
    _recall(
        Arm(
            config=replace(
                SMALL,
                vocabulary=ShortRecall.vocabulary,
                heads=2,
                segment_length=8,
                memory_length=8,
            ),
            training=TrainingConfig(
                steps=300, learning_rate=3e-3, warmup=30, truncation=8, clip=0.5
            ),
            batch=32,
            measures={
                "test": Measure(warm_up=0, probes=("labml_style.lab.probes:accuracy",))
            },
        ),
        form="cpu",
        seeds=(0, 1, 2),
        minutes=18,
        valid_every=300,
        committed="Committed on 30 November 2026 at 06:15, for 400 updates. One run of "
        "400 was seen, the arm all with seed 0; at 06:58 the updates were lowered to "
        "300, and all runs made anew. The record followed at 07:34; its runs took 18 "
        "minutes, beside other work.",
    ),
)
