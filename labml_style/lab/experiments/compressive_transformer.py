"""Experiments of the Compressive Transformer: what compressed slots buy, and where."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

from labml_style.compressive_transformer import CompressiveTransformerConfig
from labml_style.lab.experiments.training import CPU, FEW, GPU, MIDDLE, SMALL
from labml_style.lab.judging import Claim, decide, gaps, measured, span, spread
from labml_style.lab.presets import Arm, Measure, Preset, Verdict
from labml_style.lab.results import summary
from labml_style.transformer_xl import TransformerXLConfig

COMPRESSIVE = "labml_style.compressive_transformer:CompressiveTransformer"

CONVOLUTION = "labml_style.compression:Convolution"
THROUGH_TIME = "labml_style.reconstruction:BackpropagationThroughTime"
ATTENTION = "labml_style.reconstruction:AttentionReconstruction"


def squeezed(
    config: TransformerXLConfig,
    compressed: int,
    rate: int,
    function: str = CONVOLUTION,
    loss: str = ATTENTION,
) -> CompressiveTransformerConfig:
    """Return the config with compressed slots."""
    return CompressiveTransformerConfig(
        **vars(config),
        compressed_length=compressed,
        compression_rate=rate,
        compression=function,
        compression_loss=loss,
    )


EQUAL = replace(
    CPU,
    config=replace(SMALL, segment_length=24),
    training=replace(FEW, steps=1500),
    batch=60,
    measures={"carried": Measure(warm_up=240)},
)


# --- what compressed slots buy


def _arms(
    base: Arm, rates: tuple[int, ...], lengths: tuple[int, ...]
) -> dict[str, Arm]:
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
            config=squeezed(replace(config, memory_length=n), n, rate),
            measures=coarse,
            model=COMPRESSIVE,
        )
    return arms


def _compressive(
    base: Arm, rates: tuple[int, ...], lengths: tuple[int, ...], **about: Any
) -> Preset:
    return Preset(
        name="compressive",
        question="What do compressed slots buy at equal attention cost?",
        arms=_arms(base, rates, lengths),
        expect="With the lengths of training, every rate is at or below Transformer-XL "
        "of the same cost, by less than 0.02 bits, and both are below no memory in "
        "every seed. Rates differ by less than their spread over seeds. As compressed "
        "slots are added in evaluation, bits fall, then rise (appendix B).",
        contradict="A rate above Transformer-XL by more than the spread in every seed, "
        "or bits that rise with the first compressed slots.",
        judge=judge_compressive,
        **about,
    )


def judge_compressive(record: dict[str, Any]) -> Verdict:
    """Compare every rate with Transformer-XL and with no memory."""
    bits, arms = summary(record), record["preset"]["arms"]
    rates = [name for name in arms if name.startswith("rate ")]
    slots = arms["xl"]["config"]["memory_length"]
    lengths = sorted(
        m["compressed_length"] for m in arms[rates[0]]["measures"].values()
    )
    usual = arms[rates[0]]["config"]["compressed_length"]
    xl, alone = bits["xl", f"memory {slots}"], bits["alone", "carried"]
    found = {rate: bits[rate, f"compressed {usual}"] for rate in rates}
    over = [mean(found[rate]) - mean(xl) for rate in rates]
    above = {rate: gaps(found[rate], xl) for rate in rates}
    worse = sum(x > 0 for rate in rates for x in gaps(found[rate], alone))
    worse_xl = sum(x > 0 for x in gaps(xl, alone))
    count = len(rates) * len(alone)
    means = [mean(found[rate]) for rate in rates]
    apart, spreads = max(means) - min(means), spread(*found.values())
    curves = [[mean(bits[rate, f"compressed {m}"]) for m in lengths] for rate in rates]
    bend = all(min(c) < c[0] and min(c) < c[-1] for c in curves)
    gained = [c[0] - min(c) for c in curves]
    return decide(
        [
            Claim(
                all(-0.02 < x <= 0 for x in over),
                f"over Transformer-XL {', '.join(rates)} have "
                f"{', '.join(f'{x:+.3f}' for x in over)} bits in the mean",
            ),
            Claim(
                worse == worse_xl == 0,
                f"{worse} of {count} runs with compressed slots are above no memory, "
                f"and {worse_xl} of {len(xl)} of Transformer-XL",
            ),
            Claim(
                apart < spreads,
                f"rates differ by {apart:.3f} in the mean, with a spread of up to "
                f"{spreads:.3f} over seeds",
            ),
            Claim(
                bend,
                f"compressed slots bring {span(gained)} bits in evaluation, and bits "
                f"{'rise again' if bend else 'do not fall and rise'} with more",
            ),
        ],
        against=any(min(above[rate]) > spread(found[rate], xl) for rate in rates)
        or any(c[1] > c[0] for c in curves),
    )


# --- does memory help more where a word is rare

RARE, COMMON = ("0", "1"), "1000"


def _rare_words(base: Arm, rate: int, **about: Any) -> Preset:
    # Arms and cost of `compressive`, on a text of articles.
    probe = "labml_style.lab.probes:by_count"
    measures = {
        name: replace(measure, probes=(probe,))
        for name, measure in base.measures.items()
    }
    return Preset(
        name="rare-words",
        question="Does memory help more where a word is rare?",
        arms={
            name: replace(arm, measures=measures)
            for name, arm in _arms(base, (rate,), ()).items()
        },
        expect="An illustration, on a training text of a megabyte: memory lowers the "
        "bits of words that training had fewer than ten times by more, in per cent, "
        "than those of words that it had a thousand times. Between Transformer-XL and "
        "the Compressive Transformer the intervals of most classes hold zero.",
        contradict="Memory that helps common words more than rare ones, or a gain of "
        "compressed slots at rare words that is outside its interval.",
        judge=judge_rare_words,
        **about,
    )


def judge_rare_words(record: dict[str, Any]) -> Verdict:
    """Compare the bits of words by how often training had them."""
    costs, words = word_costs(record)
    rate = next(arm for arm, _ in costs if arm.startswith("rate "))

    def saved(classes: Sequence[str]) -> float:
        before, after = (
            sum(sum(costs[arm, c]) for c in classes) for arm in ("alone", "xl")
        )
        return 1 - after / before

    rare, common = saved(RARE), saved([COMMON])
    classes = list(words)
    intervals = {
        c: interval(gaps(costs[rate, c], costs["xl", c]), words[c]) for c in classes
    }
    zero = [c for c in classes if intervals[c][0] < 0 < intervals[c][1]]
    return decide(
        [
            Claim(
                rare > common,
                f"memory saves {rare:.1%} of the bits of words that training had fewer "
                f"than ten times, and {common:.1%} of those that it had a thousand "
                "times",
            ),
            Claim(
                2 * len(zero) > len(classes),
                f"between Transformer-XL and the Compressive Transformer the intervals "
                f"of {len(zero)} of {len(classes)} classes hold zero",
            ),
        ],
        against=common > rare or any(intervals[c][1] < 0 for c in RARE),
    )


def word_costs(
    record: dict[str, Any],
) -> tuple[dict[tuple[str, str], list[float]], dict[str, list[int]]]:
    """Return bits of words, by arm and class, and their number, by class.

    Both are lists over the stretches of the test text; bits are the mean over seeds.
    """
    costs: dict[tuple[str, str], list[float]] = {}
    words: dict[str, list[int]] = {}
    for arm in dict.fromkeys(run["arm"] for run in record["runs"]):
        found = [one["by_count"] for one in measured(record, arm, "carried")]
        for least in found[0]:
            words[least] = [count for count, _ in found[0][least]]
            lanes = zip(*(one[least] for one in found), strict=True)
            costs[arm, least] = [mean(bits for _, bits in seeds) for seeds in lanes]
    return costs, words


def interval(
    gap: Sequence[float], words: Sequence[int], draws: int = 2000
) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of bits per word, over stretches of text."""
    chance, n = random.Random(0), len(gap)
    means = []
    for _ in range(draws):
        drawn = chance.choices(range(n), k=n)
        means.append(sum(gap[i] for i in drawn) / sum(words[i] for i in drawn))
    means.sort()
    return means[int(0.025 * draws)], means[int(0.975 * draws) - 1]


# --- who attends to the old slots


def _ages(base: Arm, rate: int, **about: Any) -> Preset:
    config, n = base.config, base.config.segment_length
    [carried] = base.measures.values()
    probe = "labml_style.lab.probes:by_age"
    arm = replace(
        base,
        config=squeezed(replace(config, memory_length=n), n, rate),
        measures={"by age": replace(carried, batch=32, warm_up=8 * n, probes=(probe,))},
        model=COMPRESSIVE,
    )
    return Preset(
        name="attention-by-age",
        question="What attention do the old slots receive?",
        arms={f"rate {rate}": arm},
        expect="(Seed 0 was seen before, on less text.) In every seed: per slot, "
        "the oldest compressed bucket receives more than the newest compressed one, "
        "so attention does not rise where exact slots turn into compressed ones; per "
        "original token every compressed bucket receives less than any exact one; the "
        "newest exact bucket receives at least twice any other exact one.",
        contradict="The paper's rise at that border: a newest compressed bucket above "
        "the oldest exact one in every seed.",
        judge=judge_ages,
        **about,
    )


def judge_ages(record: dict[str, Any]) -> Verdict:
    """Compare shares of attention, six buckets of each kind of slot, oldest first."""
    [(arm, about)] = record["preset"]["arms"].items()
    config = about["config"]
    six = 6
    shares = [one["by_age"]["shares"] for one in measured(record, arm, "by age")]
    per_slot = [
        [x * six / config["compressed_length"] for x in row[:six]]
        + [x * six / config["memory_length"] for x in row[six : 2 * six]]
        for row in shares
    ]
    ends = [row[0] / row[six - 1] for row in per_slot]
    border = [row[six - 1] / row[six] for row in per_slot]
    tokens = [
        max(row[:six]) / config["compression_rate"] / min(row[six:]) for row in per_slot
    ]
    newest = [row[-1] / max(row[six:-1]) for row in per_slot]
    return decide(
        [
            Claim(
                min(ends) > 1,
                f"per slot the oldest compressed bucket receives {span(ends, '.2f')} "
                "times what the newest compressed one does, and that one "
                f"{span(border, '.2f')} times what the oldest exact one does",
            ),
            Claim(
                max(tokens) < 1,
                "per original token the most that a compressed bucket receives is "
                f"{span(tokens, '.2f')} of the least that an exact one does",
            ),
            Claim(
                min(newest) >= 2,
                f"the newest exact bucket receives {span(newest, '.1f')} times any "
                "other exact one",
            ),
        ],
        against=min(border) > 1,
    )


PRESETS = (
    _compressive(
        EQUAL,
        (2, 3, 4),
        (0, 12, 24, 48, 96, 192),
        form="cpu",
        corpus="tiny-shakespeare",
        seeds=(0, 1, 2),
        minutes=80,
        keep="rate 3-0",
        committed="Committed on 26 November 2026 at 21:40, when 10 of the 15 runs had "
        "ended. The record followed at 22:04.",
    ),
    _ages(
        EQUAL,
        3,
        form="cpu",
        corpus="tiny-shakespeare",
        seeds=(0, 1, 2),
        minutes=15,
        committed="Committed on 27 November 2026 at 13:16, when seed 0 had been seen "
        "on less text. The record followed at 13:55, and its runs took 18 minutes.",
    ),
    _rare_words(
        EQUAL,
        3,
        form="cpu",
        corpus="wikitext-2-held-out",
        seeds=(0, 1, 2),
        minutes=30,
        committed="Committed on 26 November 2026 at 23:51. The record followed on 27 "
        "November at 1:22, and its runs took 32 minutes.",
    ),
    _compressive(
        replace(
            GPU,
            config=replace(MIDDLE, segment_length=120),
            training=replace(GPU.training, steps=6000),
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
)
