"""Experiments of the chapter on gating: learning rates, compression, depth."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean
from typing import Any

from labml_style.contract import part
from labml_style.lab.experiments.compressive_transformer import COMPRESSIVE, squeezed
from labml_style.lab.experiments.training import SMALL
from labml_style.lab.judging import Claim, decide, gaps, measured, span, spread
from labml_style.lab.presets import Arm, Measure, Preset, Verdict
from labml_style.lab.recall import RecallTask
from labml_style.lab.results import fails, summary
from labml_style.training import TrainingConfig
from labml_style.transformer_xl import TransformerXLConfig

REORDERED = "labml_style.gating:IdentityReordering"
GRU = part("labml_style.gating:GRUGate", bias=2.0)

RESIDUALS: dict[str, Any] = {
    "post-norm": "labml_style.transformer_xl:PostNorm",
    "pre-norm": "labml_style.transformer_xl:PreNorm",
    "reordered": REORDERED,
    "input": "labml_style.gating:InputGate",
    "output": part("labml_style.gating:OutputGate", bias=1.0),
    "highway": part("labml_style.gating:HighwayGate", bias=1.0),
    "SigTanh": part("labml_style.gating:SigmoidTanhGate", bias=1.0),
    "GRU": GRU,
    "Mogrifier GRU": part("labml_style.gating:MogrifierGRUGate", bias=2.0, rounds=5),
    "BRC": part("labml_style.gating:BRCGate", bias=0.0),
    "nBRC": part("labml_style.gating:NBRCGate", bias=0.0),
}
GATES = tuple(RESIDUALS)[3:]
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)


# --- which learning rates a gate bears


def _rates(base: Arm, rates: tuple[float, ...], **about: Any) -> Preset:
    arms = {
        f"{name}, rate {rate:g}": replace(
            base,
            config=replace(base.config, residual=residual),
            training=replace(base.training, learning_rate=rate),
        )
        for name, residual in RESIDUALS.items()
        for rate in rates
    }
    return Preset(
        name="gate-rates",
        question="Which learning rates does a gate bear?",
        arms=arms,
        expect="(One seed, 9, was seen before at some rates.) A run fails if it ends "
        "within 0.1 bits of a model that knows how frequent bytes are, and nothing "
        "else. The GRU gate fails at no rate. Post-norm fails at the highest one. The "
        "input gate fails more often than any other gate. At the highest rate the GRU "
        "gate has fewer bits than pre-norm and than the reordered layer without a gate "
        "in every seed.",
        contradict="A GRU gate that fails more often than pre-norm, or that has more "
        "bits than pre-norm at the highest rate in every seed.",
        judge=judge_rates,
        **about,
    )


def judge_rates(record: dict[str, Any]) -> Verdict:
    """Count the runs that fail, and compare what is left at the highest rate."""
    arms = list(dict.fromkeys(run["arm"] for run in record["runs"]))
    names = list(dict.fromkeys(arm.partition(",")[0] for arm in arms))
    runs = {
        name: [
            one
            for arm in arms
            if arm.partition(",")[0] == name
            for one in measured(record, arm, "test")
        ]
        for name in names
    }
    failed = {name: sum(map(fails, found)) for name, found in runs.items()}
    each = len(runs["GRU"])
    highest = max(float(arm.rpartition(" ")[2]) for arm in arms)
    bits = summary(record)
    top = {name: bits[f"{name}, rate {highest:g}", "test"] for name in names}
    worst = measured(record, f"post-norm, rate {highest:g}", "test")
    rest = [name for name in GATES if name != "input"]
    over = {name: gaps(top["GRU"], top[name]) for name in ("pre-norm", "reordered")}
    counts = ", ".join(f"{name} {failed[name]}" for name in names)
    return decide(
        [
            Claim(
                failed["GRU"] == 0,
                f"of {each} runs there failed {counts}",
            ),
            Claim(
                all(map(fails, worst)),
                f"at a rate of {highest:g} {sum(map(fails, worst))} of {len(worst)} "
                "runs of post-norm failed",
            ),
            Claim(
                failed["input"] > max(failed[name] for name in rest),
                f"of the other gates none failed more than "
                f"{max(failed[name] for name in rest)} times, the input gate "
                f"{failed['input']}",
            ),
            Claim(
                all(x < 0 for found in over.values() for x in found),
                f"at that rate the GRU gate has {mean(top['GRU']):.2f} bits, pre-norm "
                f"{mean(top['pre-norm']):.2f}, the reordered layer without a gate "
                f"{mean(top['reordered']):.2f}",
            ),
        ],
        against=failed["GRU"] > failed["pre-norm"]
        or all(x > 0 for x in over["pre-norm"]),
    )


# --- gate and compression


def _squares(
    base: Arm, gated: dict[str, Any], rate: int, **parts: Any
) -> dict[str, Arm]:
    """Return four arms: with and without a gate, with and without compression.

    Each query has as many keys in all arms. `gated` holds what differs from `base`,
    by arm, so that all have as many parameters.
    """
    config, n = base.config, base.config.memory_length
    arms = {}
    for gate in ("", "gated "):
        for memory in ("exact", "compressed"):
            name = gate + memory
            one = replace(config, **gated.get(name, {}))
            one = replace(one, residual=GRU if gate else REORDERED)
            if memory == "exact":
                arms[name] = replace(base, config=replace(one, memory_length=2 * n))
            else:
                one = squeezed(one, n, rate, **parts)
                arms[name] = replace(base, config=one, model=COMPRESSIVE)
    return arms


def _interaction(values: dict[str, list[float]]) -> list[float]:
    """Return what a gate adds to the effect of compression, seed by seed."""
    with_gate = gaps(values["gated compressed"], values["gated exact"])
    return gaps(with_gate, gaps(values["compressed"], values["exact"]))


def _gate_text(base: Arm, gated: dict[str, Any], **about: Any) -> Preset:
    return Preset(
        name="gate-and-compression",
        question="Do a gate and compressed slots help each other on text?",
        arms=_squares(base, gated, rate=3),
        expect="At equal parameters and equal attention cost the gate does not pay at "
        "this size: both gated arms have more bits than the same memory without a gate "
        "in every seed. Compressed slots change less than 0.03 bits, with a gate or "
        "without. The interaction, what the gate adds to the effect of compression, is "
        "smaller than twice its spread over seeds.",
        contradict="A gated arm below the same memory without a gate in every seed, or "
        "an interaction of one sign in every seed and more than twice its spread.",
        judge=judge_gate_text,
        **about,
    )


def judge_gate_text(record: dict[str, Any]) -> Verdict:
    """Compare four arms in bits, and their interaction with its spread."""
    bits = {arm: found for (arm, _), found in summary(record).items()}
    gate = {
        memory: gaps(bits[f"gated {memory}"], bits[memory])
        for memory in ("exact", "compressed")
    }
    squeeze = {
        name: mean(gaps(bits[f"{name}compressed"], bits[f"{name}exact"]))
        for name in ("", "gated ")
    }
    both = _interaction(bits)
    clear = abs(mean(both)) > 2 * spread(both) and min(both) * max(both) > 0
    return decide(
        [
            Claim(
                all(x > 0 for found in gate.values() for x in found),
                f"a gate changes bits by {span(gate['exact'], '+.3f')} with exact "
                f"slots and by {span(gate['compressed'], '+.3f')} with compressed ones",
            ),
            Claim(
                all(abs(x) < 0.03 for x in squeeze.values()),
                f"compressed slots change them by {squeeze['']:+.3f} without a gate "
                f"and by {squeeze['gated ']:+.3f} with one",
            ),
            Claim(
                not clear,
                f"the interaction is {mean(both):+.3f} with a spread of "
                f"{spread(both):.3f} over seeds",
            ),
        ],
        against=clear or any(max(found) < 0 for found in gate.values()),
    )


def _gate_recall(base: Arm, gated: dict[str, Any], **about: Any) -> Preset:
    function = "labml_style.compression:MeanPooling"
    loss = "labml_style.reconstruction:BackpropagationThroughTime"
    return Preset(
        name="gated-recall",
        question="Does a gate help to recall what is compressed?",
        corpus="recall",
        arms=_squares(base, gated, rate=4, function=function, loss=loss),
        expect="Beyond the exact slots both compressed arms answer at least twice as "
        "often as a guess, and both exact arms of the same cost guess. Within the "
        "exact slots all four answer 9 of 10. Beyond them the interaction, what the "
        "gate adds to the effect of compression, is smaller than twice its spread over "
        "seeds.",
        contradict="Compressed arms that guess beyond the exact slots, or an "
        "interaction of one sign in every seed and more than twice its spread.",
        judge=judge_gate_recall,
        **about,
    )


CHANCE = 1 / 8
"""Right answers of a guess: there are eight values."""


def judge_gate_recall(record: dict[str, Any]) -> Verdict:
    """Compare shares of right answers, within the exact slots and beyond them."""
    arms = record["preset"]["arms"]
    config = arms["compressed"]["config"]
    segment, exact = config["segment_length"], config["memory_length"]
    slots = arms["exact"]["config"]["memory_length"]
    reach = exact + config["compression_rate"] * config["compressed_length"]

    def shares(arm: str, above: int, most: int) -> list[float]:
        """Right answers at the delays of an interval, the mean of each seed."""
        return [
            mean(x for d, x in one["accuracy"].items() if above < int(d) <= most)
            for one in measured(record, arm, "test")
        ]

    gone = slots + segment - 1  # in no exact slot of any arm, whatever the query
    near = {arm: shares(arm, 0, exact) for arm in arms}
    far = {arm: shares(arm, gone, reach) for arm in arms}
    both = _interaction(far)
    clear = abs(mean(both)) > 2 * spread(both) and min(both) * max(both) > 0
    found = [mean(far[arm]) for arm in ("compressed", "gated compressed")]
    guessed = [mean(far[arm]) for arm in ("exact", "gated exact")]
    return decide(
        [
            Claim(
                min(found) > 2 * CHANCE and max(guessed) < CHANCE + 0.05,
                f"from {gone + 1} to {reach} tokens back compressed slots answer "
                f"{found[0]:.0%} without a gate and {found[1]:.0%} with one, exact "
                f"ones of the same cost {guessed[0]:.0%} and {guessed[1]:.0%}; a guess "
                f"has {CHANCE:.1%}",
            ),
            Claim(
                all(mean(x) > 0.9 for x in near.values()),
                f"up to {exact} tokens back they answer "
                + ", ".join(f"{arm} {mean(x):.0%}" for arm, x in near.items()),
            ),
            Claim(
                not clear,
                f"the interaction is {mean(both):+.2f} with a spread of "
                f"{spread(both):.2f} over seeds",
            ),
        ],
        against=clear or max(found) < CHANCE + 0.05,
    )


# --- gate and depth


def _depth(base: Arm, sizes: dict[str, Any], **about: Any) -> Preset:
    arms = {}
    for name, changed in sizes.items():
        residual = GRU if name.startswith("gated") else REORDERED
        config = replace(base.config, residual=residual, **changed)
        arms[name] = replace(base, config=config)
    return Preset(
        name="gate-and-depth",
        question="Does a gate make depth pay?",
        arms=arms,
        expect="At equal parameters and after equally many updates the deep arms have "
        "more bits than the flat ones, with a gate and without, in every seed: they "
        "are narrow, and the training is short. The gate does not make up for the "
        "width that it costs: each gated arm has more bits than the same depth without "
        "a gate.",
        contradict="A gated arm of 12 layers with fewer bits than 12 layers without a "
        "gate in every seed.",
        judge=judge_depth,
        **about,
    )


def judge_depth(record: dict[str, Any]) -> Verdict:
    """Compare depths and gates, seed by seed."""
    bits = {arm: found for (arm, _), found in summary(record).items()}
    flat, deep, gated_flat, gated_deep = bits
    depth = {
        name: gaps(bits[more], bits[less])
        for name, more, less in (
            ("without a gate", deep, flat),
            ("with one", gated_deep, gated_flat),
        )
    }
    gate = {
        less: gaps(bits[more], bits[less])
        for more, less in ((gated_flat, flat), (gated_deep, deep))
    }
    return decide(
        [
            Claim(
                all(x > 0 for found in depth.values() for x in found),
                "depth changes bits by "
                + " and ".join(
                    f"{span(found, '+.3f')} {name}" for name, found in depth.items()
                ),
            ),
            Claim(
                all(mean(found) > 0 for found in gate.values()),
                "a gate changes them by "
                + " and ".join(
                    f"{span(found, '+.3f')} at {name}" for name, found in gate.items()
                ),
            ),
        ],
        against=max(gate[deep]) < 0,
    )


TINY = TransformerXLConfig(
    vocabulary=256,
    d_model=32,
    layers=8,
    heads=4,
    d_ff=128,
    segment_length=32,
    memory_length=32,
)

PRESETS = (
    _rates(
        Arm(
            config=TINY,
            training=TrainingConfig(steps=200),
            batch=16,
            measures={
                "test": Measure(
                    limit=20_000, probes=("labml_style.lab.probes:frequencies",)
                )
            },
        ),
        RATES,
        form="cpu",
        corpus="tiny-shakespeare",
        seeds=(0, 1, 2),
        minutes=35,
    ),
    _gate_text(
        Arm(
            config=replace(SMALL, segment_length=24, memory_length=24),
            training=TrainingConfig(
                steps=600, learning_rate=2e-3, warmup=100, clip=0.5
            ),
            batch=32,
            measures={"carried": Measure(warm_up=240)},
        ),
        {
            "compressed": dict(d_ff=240),
            "gated exact": dict(d_model=68, d_ff=338),
            "gated compressed": dict(d_model=68, d_ff=238),
        },
        form="cpu",
        corpus="tiny-shakespeare",
        seeds=(0, 1, 2),
        minutes=20,
    ),
    _gate_recall(
        Arm(
            config=TransformerXLConfig(
                vocabulary=RecallTask.vocabulary,
                d_model=64,
                layers=2,
                heads=2,
                d_ff=256,
                segment_length=16,
                memory_length=16,
            ),
            training=TrainingConfig(
                steps=1000, learning_rate=2e-3, warmup=50, truncation=12
            ),
            batch=32,
            measures={
                "test": Measure(warm_up=0, probes=("labml_style.lab.probes:accuracy",))
            },
        ),
        {
            "gated exact": dict(d_model=48, d_ff=162),
            "gated compressed": dict(d_model=48, d_ff=162),
        },
        form="cpu",
        seeds=(0, 1, 2),
        minutes=45,
    ),
    _depth(
        Arm(
            config=SMALL,
            training=TrainingConfig(steps=600, learning_rate=3e-3, warmup=50, clip=0.5),
            batch=32,
            measures={"carried": Measure()},
        ),
        {
            "4 layers": dict(layers=4, d_model=64, d_ff=256),
            "12 layers": dict(layers=12, d_model=40, d_ff=132),
            "gated 4 layers": dict(layers=4, d_model=48, d_ff=168),
            "gated 12 layers": dict(layers=12, d_model=28, d_ff=104),
        },
        form="cpu",
        corpus="tiny-shakespeare",
        seeds=(0, 1, 2),
        minutes=15,
    ),
)
