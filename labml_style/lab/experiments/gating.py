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
    most = max(failed[name] for name in rest)
    return decide(
        [
            Claim(
                failed["GRU"] == 0,
                f"failed runs, of {each} each: {counts}",
            ),
            Claim(
                all(map(fails, worst)),
                f"at a rate of {highest:g} {sum(map(fails, worst))} of {len(worst)} "
                "runs of post-norm failed",
            ),
            Claim(
                failed["input"] > most,
                f"the input gate failed {failed['input']} times, another gate at most "
                f"{most} times",
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


def _squares(base: Arm, gated: dict[str, Any], rate: int) -> dict[str, Arm]:
    """Return four arms: with and without a gate, with and without compression.

    Each query has as many keys in all arms. Mean pooling has no weights, so that what
    is compressed costs none, with a gate or without. A gate does: `gated` holds the
    sizes of gated arms with as many parameters.
    """
    config, n = base.config, base.config.memory_length
    pooling = "labml_style.compression:MeanPooling"
    loss = "labml_style.reconstruction:BackpropagationThroughTime"
    arms = {}
    for name, one in (
        ("", replace(config, residual=REORDERED)),
        ("gated ", replace(config, residual=GRU, **gated)),
    ):
        exact = replace(one, memory_length=2 * n)
        arms[f"{name}exact"] = replace(base, config=exact)
        coarse = squeezed(one, n, rate, pooling, loss)
        arms[f"{name}compressed"] = replace(base, config=coarse, model=COMPRESSIVE)
    return arms


def _interaction(values: dict[str, list[float]]) -> list[float]:
    """Return what a gate adds to the effect of compression, seed by seed."""
    with_gate = gaps(values["gated compressed"], values["gated exact"])
    return gaps(with_gate, gaps(values["compressed"], values["exact"]))


def _one_sign(values: list[float]) -> bool:
    return min(values) > 0 or max(values) < 0


def _gate_text(base: Arm, gated: dict[str, Any], **about: Any) -> Preset:
    return Preset(
        name="gate-and-compression",
        question="Do a gate and compressed slots help each other on text?",
        arms=_squares(base, gated, rate=3),
        expect="They do not: the interaction, what the gate adds to the effect of "
        "compression, is between -0.02 and +0.02 bits in the mean of the seeds. "
        "Compressed slots change less than 0.03 bits, with a gate or without. At equal "
        "parameters the gate does not pay at this size: both gated arms have more bits "
        "than the same memory without a gate in every seed.",
        contradict="An interaction beyond 0.02 bits and of one sign in every seed, or "
        "a gated arm below the same memory without a gate in every seed.",
        judge=judge_gate_text,
        **about,
    )


def judge_gate_text(record: dict[str, Any]) -> Verdict:
    """Compare four arms in bits; a negative interaction is a help."""
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
    small = abs(mean(both)) <= 0.02
    return decide(
        [
            Claim(
                small,
                f"the interaction is {mean(both):+.3f} bits in the mean, "
                f"{span(both, '+.3f')} over seeds (less than 0 would be a help)",
            ),
            Claim(
                all(abs(x) < 0.03 for x in squeeze.values()),
                f"compressed slots change bits by {squeeze['']:+.3f} without a gate "
                f"and by {squeeze['gated ']:+.3f} with one",
            ),
            Claim(
                all(x > 0 for found in gate.values() for x in found),
                f"a gate changes bits by {span(gate['exact'], '+.3f')} with exact "
                f"slots and by {span(gate['compressed'], '+.3f')} with compressed ones",
            ),
        ],
        against=(not small and _one_sign(both))
        or any(max(found) < 0 for found in gate.values()),
    )


def _gate_recall(base: Arm, gated: dict[str, Any], **about: Any) -> Preset:
    return Preset(
        name="gated-recall",
        question="Does a gate help to recall what is compressed?",
        corpus="recall",
        arms=_squares(base, gated, rate=4),
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
    """Compare right answers near and far; an interaction above 0 is a help."""
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
    clear = abs(mean(both)) > 2 * spread(both) and _one_sign(both)
    found = [far[arm] for arm in ("compressed", "gated compressed")]
    guessed = [far[arm] for arm in ("exact", "gated exact")]
    brought = [mean(found[i]) - mean(guessed[i]) for i in (0, 1)]
    learned = ", ".join(
        f"{name} {mean(near[name]):.0%}"
        for name in ("exact", "compressed", "gated exact", "gated compressed")
    )
    return decide(
        [
            Claim(
                not clear,
                f"from {gone + 1} to {reach} tokens back compressed slots change "
                f"right answers by {brought[0]:+.0%} without a gate and by "
                f"{brought[1]:+.0%} with one: an interaction of {mean(both):+.0%} in "
                f"the mean, {span(both, '+.0%')} over seeds (more than 0 would be a "
                "help)",
            ),
            Claim(
                min(map(min, found)) > 2 * CHANCE
                and max(map(mean, guessed)) < CHANCE + 0.05,
                f"at {gone + 1} to {reach} tokens compressed slots answer "
                f"{mean(found[0]):.0%} without a gate and {mean(found[1]):.0%} with "
                f"one, exact slots {mean(guessed[0]):.0%} and {mean(guessed[1]):.0%}, "
                f"and a guess has {CHANCE:.1%}",
            ),
            Claim(
                all(mean(x) > 0.9 for x in near.values()),
                f"up to {exact} tokens back, right answers are: {learned}",
            ),
        ],
        against=clear or max(map(mean, found)) < CHANCE + 0.05,
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
        expect="It does not, at this size: at equal parameters and after equally many "
        "updates 12 layers have more bits than 4 in every seed, with a gate and "
        "without. The gate does not make up for the width that it costs: in the mean "
        "each gated arm has more bits than as many layers without a gate.",
        contradict="Fewer bits for 12 gated layers in every seed, either than for 4 "
        "gated ones or than for 12 without a gate.",
        judge=judge_depth,
        **about,
    )


def judge_depth(record: dict[str, Any]) -> Verdict:
    """Compare depths and gates, seed by seed; a negative interaction is a help."""
    bits = {arm: found for (arm, _), found in summary(record).items()}
    plain = gaps(bits["12 layers"], bits["4 layers"])
    gated = gaps(bits["gated 12 layers"], bits["gated 4 layers"])
    gate = {n: gaps(bits[f"gated {n} layers"], bits[f"{n} layers"]) for n in (4, 12)}
    both = gaps(gated, plain)
    return decide(
        [
            Claim(
                min(gated + plain) > 0,
                f"12 layers change bits by {span(plain, '+.3f')} over 4 without a gate "
                f"and by {span(gated, '+.3f')} with one",
            ),
            Claim(
                min(map(mean, gate.values())) > 0,
                f"a gate changes bits by {span(gate[4], '+.3f')} at 4 layers and by "
                f"{span(gate[12], '+.3f')} at 12: an interaction of {mean(both):+.3f} "
                "in the mean (less than 0 would be a help)",
            ),
        ],
        against=max(gated) < 0 or max(gate[12]) < 0,
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
        minutes=50,
        committed="Committed on 29 November 2026 at 18:04, when seed 9 had been seen "
        "at some rates. The record followed at 18:59, and its runs took 50 minutes.",
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
        dict(d_model=68, d_ff=338),
        form="cpu",
        corpus="tiny-shakespeare",
        seeds=(0, 1, 2),
        minutes=20,
        committed="Committed on 29 November 2026 at 18:04, and rewritten at 18:38 with "
        "mean pooling and with bounds; nothing had run. The record followed at 19:15, "
        "and its runs took 7 minutes.",
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
        dict(d_model=48, d_ff=162),
        form="cpu",
        seeds=(0, 1, 2),
        minutes=45,
        committed="Committed on 29 November 2026 at 18:04. In 7 runs of 400 updates "
        "arms without a gate had not learned the task either; so the updates were "
        "raised to 1,000, at 18:16, and all runs made anew. The record followed at "
        "19:08, and its runs took 50 minutes.",
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
        committed="Committed on 29 November 2026 at 18:04, and rewritten at 18:38 so "
        "that it answers the question; nothing had run. The record followed at 19:11, "
        "and its runs took 12 minutes.",
    ),
)
