"""Experiments of the chapter on cheaper layers: what is kept for fewer parameters."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean
from typing import Any

from labml_style.contract import part
from labml_style.lab.experiments.training import SMALL
from labml_style.lab.judging import Claim, decide, gaps, span
from labml_style.lab.presets import Arm, Measure, Preset, Verdict
from labml_style.lab.results import summary
from labml_style.training import TrainingConfig

HOME = "labml_style.cheaper_layers"
GATED = ("GLU", "Bilinear", "ReGLU", "GEGLU", "SwiGLU")
TIED = f"{HOME}:TiedHead"
NARROW = part(f"{HOME}:FactorisedEmbedding", d_embedding=16)


def _cheaper(base: Arm, arms: dict[str, dict[str, Any]], **about: Any) -> Preset:
    return Preset(
        name="cheaper-layers",
        question="What is the same for less?",
        arms={
            name: replace(base, config=replace(base.config, **changes))
            for name, changes in arms.items()
        },
        expect="(One seed, 9, was seen for 60 updates, to measure time.) What an arm "
        "saves it spends on d_ff, so that all have as many parameters as "
        "plain, to 1 %; shared layers alone have fewer. In the mean of the "
        "seeds: with 2 heads of keys and values, and with 1, bits are within "
        "0.02 of plain, which has 4. Each of the five gated feed-forward "
        "parts has fewer bits than plain, which has ReLU. A tied head changes "
        "less than 0.03 bits. A factorised embedding of width 16 under a tied "
        "head has more bits than the tied head alone: the vocabulary is 256 "
        "bytes, so it saves little. One layer in the place of three has more "
        "bits than plain in every seed, with 41 % of the parameters. GEGLU, 1 "
        "head of keys and values and a tied head together have no more bits "
        "than plain.",
        contradict="One head of keys and values that costs more than 0.05 bits in the "
        "mean, or no gated part with fewer bits than plain in the mean.",
        judge=judge_cheaper,
        **about,
    )


def judge_cheaper(record: dict[str, Any]) -> Verdict:
    """Compare each arm with the plain model, seed by seed."""
    bits = {arm: found for (arm, _), found in summary(record).items()}
    over = {arm: gaps(bits[arm], bits["plain"]) for arm in bits if arm != "plain"}
    change = {arm: mean(found) for arm, found in over.items()}
    sizes = {run["arm"]: run["parameters"] for run in record["runs"]}
    heads = ("2 kv_heads", "1 kv_head")
    narrow = mean(bits["tied, factorised"]) - mean(bits["tied"])
    left = sizes["shared layers"] / sizes["plain"]
    gated = ", ".join(f"{name} {change[name]:+.3f}" for name in GATED)
    return decide(
        [
            Claim(
                all(abs(change[name]) <= 0.02 for name in heads),
                "over 4 heads of keys and values 2 change bits by "
                f"{change[heads[0]]:+.3f} and 1 by {change[heads[1]]:+.3f} in the mean "
                "(the limit was 0.02 for both)",
            ),
            Claim(
                all(change[name] < 0 for name in GATED),
                f"over ReLU, in the mean: {gated} (all were to be below 0)",
            ),
            Claim(
                abs(change["tied"]) < 0.03,
                f"a tied head changes bits by {change['tied']:+.3f} (the limit was "
                "0.03)",
            ),
            Claim(
                narrow > 0,
                f"the factor of width 16 changes bits by {narrow:+.3f} over the tied "
                "head alone",
            ),
            Claim(
                min(over["shared layers"]) > 0,
                f"shared layers change bits by {span(over['shared layers'], '+.3f')}, "
                f"with {left:.0%} of the parameters",
            ),
            Claim(
                change["together"] <= 0,
                "GEGLU, 1 head of keys and values and a tied head together change "
                f"bits by {change['together']:+.3f}",
            ),
        ],
        against=change["1 kv_head"] > 0.05 or all(change[name] >= 0 for name in GATED),
    )


PRESETS = (
    _cheaper(
        Arm(
            config=SMALL,
            training=TrainingConfig(
                steps=700, learning_rate=2e-3, warmup=100, clip=0.5
            ),
            batch=32,
            measures={"carried": Measure()},
        ),
        {
            "plain": {},
            "2 kv_heads": dict(kv_heads=2, d_ff=432),
            "1 kv_head": dict(kv_heads=1, d_ff=456),
            **{name: dict(feed_forward=f"{HOME}:{name}") for name in GATED},
            "tied": dict(head=TIED, d_ff=426),
            "tied, factorised": dict(head=TIED, embedding=NARROW, d_ff=459),
            "shared layers": dict(shared_layers=3),
            "together": dict(
                kv_heads=1, feed_forward=f"{HOME}:GEGLU", head=TIED, d_ff=501
            ),
        },
        form="cpu",
        corpus="tiny-shakespeare",
        seeds=(0, 1, 2),
        minutes=32,
        committed="Committed on 30 November 2026 at 06:16, when seed 9 had been seen "
        "for 60 updates. The record followed at 07:06, and its runs took 49 minutes.",
    ),
)
