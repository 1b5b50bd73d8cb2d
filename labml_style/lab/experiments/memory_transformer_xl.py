"""Experiments of the chapter on a memory that is written: facts, and text."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import mean
from typing import Any

from labml_style.contract import part
from labml_style.lab.experiments.compressive_transformer import COMPRESSIVE, squeezed
from labml_style.lab.judging import Claim, decide, gaps, measured, span
from labml_style.lab.presets import Arm, Measure, Preset, Verdict
from labml_style.lab.results import summary
from labml_style.memory_transformer_xl import MemoryTransformerXLConfig
from labml_style.training import TrainingConfig
from labml_style.transformer_xl import TransformerXLConfig

MODEL = "labml_style.memory_transformer_xl:MemoryTransformerXL"
PRE_NORM = "labml_style.transformer_xl:PreNorm"

GATES = {
    "GRU": part("labml_style.gating:GRUGate", bias=2.0),
    "nBRC": part("labml_style.gating:NBRCGate", bias=0.0),
    "fixed": part("labml_style.memory_transformer_xl:FixedGate", bias=2.0),
}


def with_writer(base: Arm, long: int, gate: str, **changes: Any) -> Arm:
    """Return the arm with a long memory, and the short one that it has or is given."""
    sizes: dict[str, Any] = {**vars(base.config), **changes}
    how: dict[str, Any] = dict(long_memory_length=long, write_gate=GATES[gate])
    return replace(base, config=MemoryTransformerXLConfig(**sizes, **how), model=MODEL)


def with_slots(base: Arm, length: int) -> Arm:
    return replace(base, config=replace(base.config, memory_length=length))


# --- facts, noise, question


def _facts(base: Arm, long: int, segments: int, **about: Any) -> Preset:
    def arm(gate: str, window: int) -> Arm:
        how = replace(base.training, truncation=window, accumulate=segments // window)
        return replace(with_writer(base, long, gate), training=how)

    most = segments - 1
    arms = {f"GRU, {window - 1} back": arm("GRU", window) for window in (1, 2, 4)}
    arms |= {f"{gate}, {most} back": arm(gate, segments) for gate in ("nBRC", "fixed")}
    cache = with_slots(base, long // base.config.layers)
    how = replace(base.training, accumulate=segments)
    arms["Transformer-XL, same state"] = replace(cache, training=how)
    return Preset(
        name="written-facts",
        question="What teaches a memory to be written, and which gate writes it?",
        corpus="labml_style.lab.segments:FourFacts",
        arms=arms,
        expect="Backpropagation through the memory teaches the writing. With GRU gates "
        "and a gradient through all 3 borders 95 % or more are right at 2 to 4 "
        "segments in every seed; with a memory that is detached at each border less "
        "than 60 %. With a gradient through one border 90 % or more are right at 2 "
        "segments, and fewer at 4 than through 3 borders. The gates differ little: at "
        "4 segments nBRC is within 5 points of GRU in the mean, and the fixed gate is "
        "no more than 20 below. At 10 segments, more than twice as many as in "
        "training, GRU has 80 % or more in the mean, and more than the fixed gate. A "
        "Transformer-XL of the same state guesses at 2 and more, below 30 %. (Seed 9 "
        "was seen before, with other numbers of updates: all three gates with 3 "
        "borders, and GRU with none.)",
        contradict="A detached memory with as many right answers at 2 to 4 segments as "
        "one that is taught through all borders, within 10 points in the mean; or one "
        "that is taught and has less than 60 % there.",
        judge=judge_facts,
        **about,
    )


def judge_facts(record: dict[str, Any]) -> Verdict:
    """Compare right answers by the borders that a gradient passes, and by gate."""

    def at(arm: str, *counts: int) -> list[float]:
        found = measured(record, arm, "test")
        return [one["answers"][str(n)] for one in found for n in counts]

    later = (2, 3, 4)
    taught, alone = at("GRU, 3 back", *later), at("GRU, 0 back", *later)
    one, most = "GRU, 1 back", at("GRU, 3 back", 4)
    gates = ("GRU", "nBRC", "fixed")
    right = {gate: mean(at(f"{gate}, 3 back", 4)) for gate in gates}
    far = {gate: mean(at(f"{gate}, 3 back", 10)) for gate in gates}
    cache = at("Transformer-XL, same state", *later)
    low = min(mean(at(f"{gate}, 3 back", *later)) for gate in gates[:2])
    return decide(
        [
            Claim(
                min(taught) >= 0.95 and max(alone) < 0.6,
                f"with a gradient through 3 borders {span(taught, '.0%')} are right at "
                f"2 to 4 segments, detached {span(alone, '.0%')}",
            ),
            Claim(
                min(at(one, 2)) >= 0.9 and mean(at(one, 4)) < mean(most),
                f"with a gradient through one border {span(at(one, 2), '.0%')} are "
                f"right at 2 segments and {span(at(one, 4), '.0%')} at 4",
            ),
            Claim(
                abs(right["nBRC"] - right["GRU"]) <= 0.05
                and right["fixed"] >= right["GRU"] - 0.2,
                "at 4 segments "
                + ", ".join(f"{gate} has {right[gate]:.0%}" for gate in gates),
            ),
            Claim(
                far["GRU"] >= 0.8 and far["GRU"] > far["fixed"],
                "at 10 " + ", ".join(f"{gate} has {far[gate]:.0%}" for gate in gates),
            ),
            Claim(
                max(cache) < 0.3,
                f"at 2 to 4 segments a Transformer-XL of the same state has "
                f"{span(cache, '.0%')}",
            ),
        ],
        against=mean(alone) >= mean(taught) - 0.1 or low < 0.6,
    )


# --- text


def _text(base: Arm, short: int, long: int, **about: Any) -> Preset:
    """Compare at equal state: long slots are shared, all others are in each layer."""
    each = short + long // base.config.layers
    coarse = squeezed(base.config, each - short, 4)
    coarse = replace(coarse, memory_length=short)
    arms = {
        "no memory": with_slots(base, 0),
        f"Transformer-XL {short}": with_slots(base, short),
        f"Transformer-XL {each}": with_slots(base, each),
        f"Compressive {short} + {each - short}": replace(
            base, config=coarse, model=COMPRESSIVE
        ),
        f"Memory Transformer-XL {short} + {long}": with_writer(
            base, long, "GRU", memory_length=short
        ),
    }
    return Preset(
        name="written-text",
        question="Does a written memory pay on text, at equal state?",
        arms=arms,
        expect="It does not, in so few updates. A Memory Transformer-XL has more bits "
        "than a Transformer-XL of the same state, in the mean of the seeds, and is "
        "within 0.03 bits of one that has its short memory alone. It is within 0.03 "
        "bits of a Compressive Transformer of the same state. It has fewer bits than "
        "a model without memory in every seed.",
        contradict="A Memory Transformer-XL below a Transformer-XL of the same state "
        "in every seed.",
        judge=judge_text,
        **about,
    )


def judge_text(record: dict[str, Any]) -> Verdict:
    """Compare bits with those of caches and of compressed slots; less is better."""
    bits = {arm: found for (arm, _), found in summary(record).items()}
    none, brief, equal, coarse, own = (
        bits[arm] for arm in dict.fromkeys(run["arm"] for run in record["runs"])
    )
    over = partial(gaps, own)
    state, short, squeeze, alone = map(over, (equal, brief, coarse, none))
    return decide(
        [
            Claim(
                mean(state) > 0,
                f"over a Transformer-XL of the same state it has {mean(state):+.3f} "
                f"bits ({span(state, '+.3f')})",
            ),
            Claim(
                abs(mean(short)) < 0.03,
                f"over its short memory alone {mean(short):+.3f}",
            ),
            Claim(
                abs(mean(squeeze)) < 0.03,
                f"over a Compressive Transformer {mean(squeeze):+.3f}",
            ),
            Claim(
                max(alone) < 0,
                f"over no memory {mean(alone):+.3f}",
            ),
        ],
        against=max(state) < 0,
    )


PRESETS = (
    _facts(
        Arm(
            config=TransformerXLConfig(
                vocabulary=18,
                d_model=64,
                layers=2,
                heads=4,
                d_ff=256,
                segment_length=12,
                memory_length=0,
                initial_std=0.1,
                residual=PRE_NORM,
            ),
            training=TrainingConfig(steps=1000, learning_rate=3e-3, warmup=50),
            batch=32,
            measures={
                "test": Measure(
                    warm_up=0, probes=("labml_style.lab.segments:by_segments",)
                )
            },
        ),
        4,
        4,
        form="cpu",
        seeds=(0, 1, 2),
        keep="GRU, 3 back-0",
        minutes=22,
        committed="Committed on 30 November 2026 at 06:29, when seed 9 had been seen "
        "as it says. The runs began at 06:33 and took 22 minutes.",
    ),
    _text(
        Arm(
            config=TransformerXLConfig(
                vocabulary=256,
                d_model=64,
                layers=4,
                heads=4,
                d_ff=256,
                segment_length=16,
                memory_length=16,
                initial_std=0.1,
            ),
            training=TrainingConfig(
                steps=300, learning_rate=2e-3, warmup=50, clip=0.5, truncation=4
            ),
            batch=32,
            measures={"carried": Measure(limit=30_000)},
        ),
        16,
        64,
        form="cpu",
        corpus="tiny-shakespeare",
        seeds=(0, 1, 2),
        minutes=15,
        committed="Committed on 30 November 2026 at 06:29, when no arm had been "
        "trained for more than 10 updates. The runs began at 07:00 and took 14 "
        "minutes.",
    ),
)
