"""Experiments of the chapter on algorithmic tasks: every memory, at equal state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import mean
from typing import Any

from labml_style.lab.experiments.compressive_transformer import COMPRESSIVE, squeezed
from labml_style.lab.experiments.memory_transformer_xl import with_slots, with_writer
from labml_style.lab.experiments.recurrent_memory import (
    LEARNED,
    TINY,
    windowed,
    with_tokens,
)
from labml_style.lab.judging import Claim, decide, gaps, measured, span
from labml_style.lab.presets import Arm, Measure, Preset, Verdict
from labml_style.training import TrainingConfig
from labml_style.transformer_xl import TransformerXLConfig

TASKS = "labml_style.lab.tasks"
MAX = "labml_style.compression:MaxPooling"


def memories(base: Arm, segments: int, row: int) -> dict[str, Arm]:
    """Return an arm for each memory of the site, at equal state.

    A Compressive Transformer keeps a segment of exact slots in each layer and as many
    again, squeezed; that is the state of all arms. An update has one batch of samples
    in every arm.
    """
    n, layers = row // segments, base.config.layers
    rate = 3 if n % 3 == 0 else 2
    slots = n + n // rate
    state, few = layers * slots, layers * slots // 4
    rest = state - layers * few
    plain = replace(base, config=replace(base.config, segment_length=n))

    def coarse(*function: str) -> Arm:
        config = squeezed(with_slots(plain, n).config, n // rate, rate, *function)
        return replace(plain, config=config, model=COMPRESSIVE)

    alone = {
        "no memory": with_slots(plain, 0),
        "Memory Transformer": with_tokens(plain, state, tokens=LEARNED),
        "Transformer-XL": with_slots(plain, slots),
        "Compressive, max pooling": coarse(MAX),
        "Compressive, convolution": coarse(),
    }
    through = {
        "RMT": with_tokens(plain, state),
        "RMT with a cache": with_tokens(plain, rest, memory_length=few),
    }
    written = with_writer(plain, rest, "GRU", memory_length=few)
    return {
        **{name: windowed(arm, 1, segments) for name, arm in alone.items()},
        "Memory Transformer-XL": windowed(written, segments, 1),
        "RMT detached": windowed(through["RMT"], 1, segments),
        **{name: windowed(arm, segments, 1) for name, arm in through.items()},
    }


def _task(
    base: Arm, row: int, counts: tuple[int, ...], more: dict[str, Arm], **about: Any
) -> Preset:
    arms = {
        f"{name}, {segments} segments": arm
        for segments in counts
        for name, arm in memories(base, segments, row).items()
    }
    return Preset(arms=arms | more, form="cpu", seeds=(0, 1, 2), **about)


Shares = Callable[..., list[float]]


def _shares(record: dict[str, Any]) -> Shares:
    """Return a function of a memory and numbers of segments: right answers, by seed."""

    def of(name: str, *counts: int) -> list[float]:
        return [
            one["answers"][str(n)]
            for n in counts
            for one in measured(record, f"{name}, {n} segments", "test")
        ]

    return of


def _said(of: Shares, names: Iterable[str], n: int) -> str:
    """Write the means of some memories at a number of segments."""
    return ", ".join(f"{name} {mean(of(name, n)):.0%}" for name in names)


CACHES = ("Transformer-XL", "Compressive, max pooling", "Compressive, convolution")
BLIND = ("no memory", "Memory Transformer", "RMT detached")


def judge_copy(record: dict[str, Any]) -> Verdict:
    """Compare right answers of all memories at 2, 4 and 6 segments."""
    of = _shares(record)
    rmt, blind = of("RMT", 2, 4, 6), [x for way in BLIND for x in of(way, 2, 4, 6)]
    written = gaps(of("RMT", 6), of("Memory Transformer-XL", 6))
    cached = gaps(of("RMT", 6), of("Transformer-XL", 6))
    beside = [mean(gaps(of("RMT with a cache", n), of("RMT", n))) for n in (2, 4, 6)]
    return decide(
        [
            Claim(min(rmt) >= 0.99, f"RMT has {span(rmt, '.1%')} right"),
            Claim(
                min(mean(of(way, 2)) for way in CACHES) >= 0.95,
                f"at 2 segments {_said(of, CACHES, 2)}",
            ),
            Claim(
                min(cached) > 0 and min(written) > 0,
                f"at 6 {_said(of, (*CACHES, 'Memory Transformer-XL', 'RMT'), 6)}",
            ),
            Claim(
                max(map(abs, beside)) <= 0.05,
                f"with a cache RMT has {span(beside, '+.0%')} over RMT",
            ),
            Claim(
                max(abs(x - 1 / 8) for x in blind) <= 0.05,
                f"no memory, a Memory Transformer and RMT detached have "
                f"{span(blind, '.0%')}, and a guess 12.5%",
            ),
        ],
        against=min(mean(of("RMT", n)) for n in (2, 4, 6)) < 0.9 or mean(cached) <= 0,
    )


def judge_longer(record: dict[str, Any]) -> Verdict:
    """Compare right answers with a copy without a fault."""
    of = _shares(record)
    rmt, both = of("RMT", 6), of("RMT with a cache", 6)
    return decide(
        [
            Claim(
                min(rmt) >= 0.99,
                f"with 800 updates RMT has {', '.join(f'{x:.0%}' for x in rmt)} right "
                "at 6 segments, by seed",
            ),
            Claim(
                sum(x >= 0.99 for x in both) >= 2,
                f"RMT with a cache has {', '.join(f'{x:.0%}' for x in both)}",
            ),
        ],
        against=sum(x < 0.5 for x in rmt) >= 2,
    )


def judge_reverse(record: dict[str, Any]) -> Verdict:
    """Compare right answers of all memories at 2, 4 and 6 segments."""
    of = _shares(record)
    tokens = ("RMT", "RMT with a cache")
    others = (*BLIND, *CACHES, "Memory Transformer-XL")
    near = ("RMT", *CACHES)
    blind = [x for way in BLIND for x in of(way, 4, 6)]
    written = mean(of("Memory Transformer-XL", 6)) - mean(of("Transformer-XL", 6))
    return decide(
        [
            Claim(
                min(mean(of(way, 6)) for way in tokens) >= 0.75
                and max(mean(of(way, 6)) for way in others) < 0.7,
                f"at 6 segments {_said(of, (*tokens, *others[3:]), 6)}",
            ),
            Claim(
                min(mean(of(way, 2)) for way in near) >= 0.95,
                f"at 2 {_said(of, near, 2)}",
            ),
            Claim(
                abs(written) <= 0.1,
                f"at 6 a Memory Transformer-XL has {written:+.0%} over a "
                "Transformer-XL",
            ),
            Claim(
                max(abs(x - 1 / 8) for x in blind) <= 0.05,
                f"no memory, a Memory Transformer and RMT detached have "
                f"{span(blind, '.0%')} at 4 and 6, and a guess 12.5%",
            ),
        ],
        against=mean(of("RMT", 6)) < mean(of("Transformer-XL", 6)),
    )


def judge_retrieval(record: dict[str, Any]) -> Verdict:
    """Compare right answers at 2 and 6 segments, and questions asked once."""
    of = _shares(record)
    written, rmt = mean(of("Memory Transformer-XL", 6)), mean(of("RMT", 6))
    once = mean(of("RMT asked once", 6))
    far = [mean(of(way, 6)) for way in CACHES]
    blind = [mean(of(way, 6)) for way in BLIND]
    return decide(
        [
            Claim(
                written >= 0.95 and rmt >= 0.85 and once < 0.6,
                f"at 6 segments Memory Transformer-XL {written:.0%}, RMT {rmt:.0%}, "
                f"RMT asked once {once:.0%}",
            ),
            Claim(
                min(mean(of(way, 2)) for way in CACHES) >= 0.95 and max(far) < 0.75,
                f"at 2 segments {_said(of, CACHES, 2)}, at 6 {_said(of, CACHES, 6)}",
            ),
            Claim(max(blind) < 0.6, f"at 6 {_said(of, BLIND, 6)}"),
        ],
        against=mean(of("Transformer-XL", 6)) >= rmt or once >= rmt,
    )


def judge_quadratic(record: dict[str, Any]) -> Verdict:
    """Compare whole answers with those of models that carry less."""

    def of(arm: str) -> list[float]:
        return [one["answers"]["6"] for one in measured(record, arm, "test")]

    none, rmt = of("no memory"), of("RMT")
    state, slots = of("Transformer-XL, same state"), of("Transformer-XL, same slots")
    return decide(
        [
            Claim(
                mean(rmt) > mean(none) and mean(rmt) < mean(slots),
                f"RMT solves {mean(rmt):.0%} ({span(rmt, '.0%')}), no memory "
                f"{mean(none):.0%}, a Transformer-XL with as many slots in each layer "
                f"{mean(slots):.0%}",
            ),
            Claim(
                min(none) >= 0.15 and max(none) <= 0.3,
                f"no memory has {span(none, '.0%')}",
            ),
            Claim(
                mean(slots) >= 0.6 and mean(state) < mean(slots),
                f"with the state of RMT a Transformer-XL has {mean(state):.0%}, with "
                f"twice that {mean(slots):.0%}",
            ),
        ],
        against=mean(rmt) >= mean(slots) or mean(slots) <= mean(none),
    )


def _equations(base: Arm, m: int) -> dict[str, Arm]:
    """Return arms with as much state as m memory tokens, or as many slots per layer."""
    fields = 6
    slots = {
        "no memory": 0,
        "Transformer-XL, same state": m // base.config.layers,
        "Transformer-XL, same slots": m,
    }
    return {
        **{
            name: windowed(with_slots(base, count), 1, fields)
            for name, count in slots.items()
        },
        "RMT": windowed(with_tokens(base, m), fields, 1),
    }


COPIED = (
    "All memories have the same bytes, and a Transformer-XL has enough that two "
    "layers reach the whole text. RMT copies at 2, 4 and 6 segments, 99 % or more in "
    "every seed. At 2 segments a Transformer-XL and both Compressive Transformers do, "
    "too, 95 % or more in the mean. At 6 segments, where a Transformer-XL must pass "
    "the first symbols on from layer to layer, it has less than RMT in every seed, and "
    "so has a Memory Transformer-XL. RMT with a cache is within 5 points of RMT in the "
    "mean. No memory, a Memory Transformer and RMT detached guess, within 5 points of "
    "12.5 %. (No arm of this preset was trained before; those of the preset copy, with "
    "less state, were.)"
)
TURNED = (
    "The first symbol is asked for last, 23 tokens back, where no cache of these "
    "sizes reaches at 6 segments. There RMT, and RMT with a cache, have 75 % right or "
    "more in the mean, and every other memory less than 70 %. At 2 segments RMT, a "
    "Transformer-XL and both Compressive Transformers have 95 % or more in the mean. A "
    "Memory Transformer-XL is within 10 points of a Transformer-XL at 6 segments. No "
    "memory, a Memory Transformer and RMT detached guess, within 5 points of 12.5 %, "
    "at 4 and 6 segments. (All arms at 6 segments were trained before, with seed 9.)"
)
FOUND = (
    "Two pairs, of 4 letters and 6 digits: 50 % are right for who keeps the digits and "
    "not whose they are. At 6 segments a Memory Transformer-XL has 95 % right or more "
    "in the mean, RMT 85 % or more, and RMT that is asked once per sample, as in the "
    "paper, less than 60 %. A Transformer-XL and both Compressive Transformers have "
    "95 % or more at 2 segments, and less than 75 % at 6, where no layer attends from "
    "the last question to the pairs. RMT detached, a Memory Transformer and no memory "
    "stay below 60 % at 6. (With seed 9 were seen before, with 1,000 updates: RMT and "
    "Memory Transformer-XL at 6 segments, and a Transformer-XL at 2 with three pairs.)"
)
SOLVED = (
    "Whether there are roots can be told from the last line, so that a model without "
    "memory has about the 20 % of equations that have none: between 15 and 30 %. The "
    "first root stands a segment before the last line. A Transformer-XL with 30 slots "
    "in each layer, a segment, has 60 % or more in the mean; with 15, the state of "
    "RMT, it has less than with 30. RMT has more than no memory in the mean, and in so "
    "few updates less than that Transformer-XL; in the paper it has more, after a "
    "thousand times as many. (Seed 9 was seen before, with 240 updates.)"
)

SMALL = Arm(
    config=TransformerXLConfig(
        vocabulary=10, segment_length=12, memory_length=0, **TINY
    ),
    training=TrainingConfig(steps=400, learning_rate=3e-3, warmup=50),
    batch=32,
    measures={"test": Measure(warm_up=0, probes=("labml_style.lab.segments:answers",))},
)
LETTERS = replace(
    SMALL,
    config=replace(SMALL.config, vocabulary=37),
    training=replace(SMALL.training, steps=1200),
)
EQUATIONS = replace(
    SMALL,
    config=replace(SMALL.config, vocabulary=24, segment_length=30),
    training=replace(SMALL.training, steps=500),
    measures={"test": Measure(warm_up=0, probes=(f"{TASKS}:whole_answers",))},
)
TWICE = {
    name: replace(arm.training, steps=2 * arm.training.steps)
    for name, arm in memories(SMALL, 6, 24).items()
    if name in ("RMT", "RMT with a cache")
}
ONCE = replace(memories(LETTERS, 6, 12)["RMT"], task=f"{TASKS}:AskedOnce")


def _paper(base: Arm, row: int, counts: tuple[int, ...], **about: Any) -> Preset:
    """Return the paper's arms: as many slots per layer, or tokens, as a segment has."""
    arms: dict[str, Arm] = {}
    for segments in counts:
        n = row // segments
        plain = replace(base, config=replace(base.config, segment_length=n))
        ways = {
            "no memory": windowed(with_slots(plain, 0), 1, segments),
            "Transformer-XL": windowed(with_slots(plain, n), 1, segments),
            "Memory Transformer": windowed(
                with_tokens(plain, n, tokens=LEARNED), 1, segments
            ),
            "RMT": windowed(with_tokens(plain, n), segments, 1),
        }
        arms |= {f"{name}, {segments} segments": arm for name, arm in ways.items()}
    return Preset(
        arms=arms, form="gpu", seeds=(0, 1, 2), judge=judge_published, **about
    )


def judge_published(record: dict[str, Any]) -> Verdict:
    """Compare right answers with the order of the paper's own runs."""
    arms = list(dict.fromkeys(run["arm"] for run in record["runs"]))
    counts = sorted({int(arm.split()[-2]) for arm in arms})
    of, most = _shares(record), counts[-1]
    rmt, cache = [mean(of("RMT", n)) for n in counts], mean(of("Transformer-XL", most))
    blind = of("no memory", most) + of("Memory Transformer", most)
    return decide(
        [
            Claim(
                min(rmt) >= 0.9,
                f"RMT has {span(rmt, '.0%')} right in the mean at "
                f"{', '.join(map(str, counts))} segments",
            ),
            Claim(
                cache < rmt[-1],
                f"at {most} a Transformer-XL has {cache:.0%}, RMT {rmt[-1]:.0%}",
            ),
            Claim(
                max(blind) < 0.3,
                f"at {most} no memory and a Memory Transformer have "
                f"{span(blind, '.0%')}",
            ),
        ],
        against=min(rmt) < 0.6 or cache > rmt[-1] + 0.1,
    )


PUBLISHED = (
    "At the sizes of the paper, with as many slots in each layer, or tokens, as a "
    "segment has, RMT has 90 % right or more in the mean at every number of segments. "
    "At most segments a Transformer-XL has less than RMT, and no memory and a Memory "
    "Transformer have less than 30 %. (The paper has a norm after each part, and "
    "trains up to 50 times as long.)"
)
REFUTED = (
    "RMT below 60 % anywhere in the mean, or a Transformer-XL more than 10 points "
    "above it at most segments."
)

PAPER = replace(
    SMALL,
    config=replace(
        SMALL.config, d_model=128, layers=4, initial_std=0.02, memory_length=0
    ),
    training=TrainingConfig(steps=20_000, learning_rate=1e-4, warmup=500, clip=0.25),
)
PAIRS = replace(
    PAPER, config=replace(PAPER.config, vocabulary=37, d_model=64, layers=6)
)
# Six heads divide a width of 132; the paper has 128, and heads of another width.
STEPS = replace(
    PAPER,
    config=replace(PAPER.config, vocabulary=24, layers=6, heads=6, d_model=132),
    measures=EQUATIONS.measures,
)

PRESETS: tuple[Preset, ...] = (
    _task(
        SMALL,
        24,
        (2, 4, 6),
        {},
        name="copy-all",
        question="Which memory copies a text, at equal state?",
        corpus=f"{TASKS}:SmallCopy",
        minutes=30,
        judge=judge_copy,
        committed="Committed on 30 November 2026 at 11:09, when no arm had been "
        "trained. The runs began at 12:00 beside other work.",
        expect=COPIED,
        contradict="RMT below 90 % at any number of segments in the mean, or a "
        "Transformer-XL at 6 segments with as much as RMT in the mean.",
    ),
    Preset(
        name="copy-longer",
        question="Does RMT copy over 6 segments with twice as many updates?",
        corpus=f"{TASKS}:SmallCopy",
        arms={
            f"{name}, 6 segments": replace(arm, training=TWICE[name])
            for name, arm in memories(SMALL, 6, 24).items()
            if name in TWICE
        },
        form="cpu",
        seeds=(0, 1, 2),
        minutes=8,
        judge=judge_longer,
        committed="Committed on 30 November 2026 at 12:34, when the record copy-all "
        "was there. The runs began then and took 5 minutes.",
        expect="In the record copy-all one of three seeds has learned to copy at 6 "
        "segments in 400 updates, for RMT and for RMT with a cache, and the others "
        "guess. With 800 updates RMT copies in every seed, 99 % or more, and RMT with "
        "a cache in two of three at least.",
        contradict="Two of three seeds of RMT below 50 % after 800 updates.",
    ),
    _task(
        SMALL,
        24,
        (2, 4, 6),
        {},
        name="reverse",
        question="Which memory turns a text around, at equal state?",
        corpus=f"{TASKS}:SmallReverse",
        minutes=30,
        judge=judge_reverse,
        committed="Committed on 30 November 2026 at 11:09, when seed 9 had been seen "
        "at 6 segments. The runs began at 11:09, beside other work, and took an hour.",
        expect=TURNED,
        contradict="RMT below a Transformer-XL at 6 segments in the mean.",
    ),
    _task(
        LETTERS,
        12,
        (2, 4, 6),
        {"RMT asked once, 6 segments": ONCE},
        name="retrieval",
        question="Which memory keeps pairs, so that one can be asked for?",
        corpus=f"{TASKS}:SmallRetrieval",
        minutes=45,
        judge=judge_retrieval,
        committed="Committed on 30 November 2026 at 11:09, when three arms had been "
        "seen as it says. The runs began at 11:09, beside other work.",
        expect=FOUND,
        contradict="A Transformer-XL at 6 segments with as much as RMT in the mean, or "
        "RMT that is asked once with as much as RMT.",
    ),
    Preset(
        name="quadratic",
        question="Which memory carries the steps of a solution to its answer?",
        corpus=f"{TASKS}:SmallQuadratic",
        arms=_equations(EQUATIONS, 30),
        form="cpu",
        seeds=(0, 1, 2),
        minutes=30,
        judge=judge_quadratic,
        committed="Committed on 30 November 2026 at 11:14, when seed 9 had been seen "
        "for 240 updates. The runs began at 11:29, beside other work, and took 46 "
        "minutes.",
        expect=SOLVED,
        contradict="RMT with as many answers as a Transformer-XL with as many slots in "
        "each layer, in the mean, or that one no better than no memory.",
    ),
    _paper(
        PAPER,
        48,
        (2, 4, 6),
        name="reverse",
        question="Which memory turns a text around, at the paper's sizes?",
        corpus=f"{TASKS}:PaperReverse",
        minutes=600,
        expect=PUBLISHED,
        contradict=REFUTED,
    ),
    _paper(
        PAIRS,
        10,
        (2, 5),
        name="retrieval",
        question="Which memory keeps pairs, at the paper's sizes?",
        corpus=f"{TASKS}:PaperRetrieval",
        minutes=400,
        expect=PUBLISHED,
        contradict=REFUTED,
    ),
    _paper(
        STEPS,
        180,
        (6,),
        name="quadratic",
        question="Which memory carries the steps of a solution, at the paper's sizes?",
        corpus=f"{TASKS}:PaperQuadratic",
        minutes=300,
        expect=PUBLISHED,
        contradict=REFUTED,
    ),
)
