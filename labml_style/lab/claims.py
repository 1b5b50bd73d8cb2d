"""What papers claim, and what our records say about it at our size.

A claim names its paper, the place and the number there, and the records that speak to
it. A function of those records gives our numbers and the verdict, so that a record that
is made again changes the page. Where a record is not there, the claim says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from labml_style.lab import presets, results
from labml_style.lab.judging import gaps, measured, span, spread
from labml_style.lab.presets import Preset
from labml_style.lab.results import Record, fails, load, summary

__all__ = ["CLAIMS", "PAPERS", "VERDICTS", "Found", "PaperClaim", "look", "page"]

VERDICTS = (
    "reproduced",
    "in part",
    "not reproduced",
    "too small to tell",
    "not run yet",
    "not tried here",
)


class Found(NamedTuple):
    """What our records say about a claim.

    Attributes:
        verdict: one of `VERDICTS`.
        text: our numbers, or why there are none.
    """

    verdict: str
    text: str


@dataclass(frozen=True, kw_only=True)
class PaperClaim:
    """A claim of a paper.

    Attributes:
        paper: key of the bibliography.
        name: the claim in a few words, as part of a sentence.
        where: section or table.
        says: the claim, with its number there.
        records: titles of those that speak to it, `NAME@FORM`.
        judge: a function of those records, in their order.
        untried: why there is no record, where there is none.
    """

    paper: str
    name: str
    where: str
    says: str
    records: tuple[str, ...] = ()
    judge: Callable[..., Found] | None = None
    untried: str = ""


PAPERS = {
    "dai2019transformerxl": "Transformer-XL",
    "rae2019compressive": "Compressive Transformer",
    "parisotto2019stabilizing": "GTrXL, gated Transformer-XL",
    "rae2020deep": "Memory in few layers",
    "ding2021ernie": "ERNIE-Doc, enhanced recurrence",
    "shazeer2019fast": "Multi-query attention",
    "shazeer2020glu": "Gated feed-forward parts",
    "lan2019albert": "ALBERT",
    "burtsev2020memory": "Memory Transformer",
    "bulatov2022recurrent": "Recurrent Memory Transformer",
    "bulatov2023scaling": "Recurrent memory over a million tokens",
}
"""Papers in the order of the page, by their keys."""


def look(claim: PaperClaim, folder: Path | None = None) -> Found:
    """Return what the records say about a claim.

    Args:
        claim: one of `CLAIMS`.
        folder: of the records; None is that of the package.
    """
    if claim.judge is None:
        return Found("not tried here", claim.untried)
    paths = [(folder or results.FOLDER) / f"{title}.json" for title in claim.records]
    if missing := [path.stem for path in paths if not path.exists()]:
        return Found("not run yet", f"There is no record {' or '.join(missing)}.")
    return claim.judge(*(load(str(path)) for path in paths))


# --- the words of a verdict


def _all(*held: bool) -> str:
    """Reproduced where all of it came, not reproduced where nothing did."""
    return "reproduced" if all(held) else "in part" if any(held) else "not reproduced"


def _bits(record: Record) -> dict[str, list[float]]:
    """Return the bits of arms that have one measure, one number for each seed."""
    return {arm: found for (arm, _), found in summary(record).items()}


def _right(record: Record, arm: str, *counts: int) -> list[float]:
    """Return right answers after so many segments, of all seeds."""
    found = measured(record, arm, "test")
    return [one["answers"][str(n)] for one in found for n in counts]


def _at(record: Record, arm: str, least: int, most: int) -> float:
    """Return the mean share of right answers so many tokens back."""
    found = measured(record, arm, "test")
    return mean(
        x
        for one in found
        for d, x in one["accuracy"].items()
        if least <= int(d) <= most
    )


# --- Transformer-XL


def _recurrence(record: Record) -> Found:
    bits = summary(record)
    alone, memory = bits["alone", "carried"], bits["memory", "carried"]
    saved = gaps(alone, memory)
    start = [
        mean(a["by_position"][:4]) - mean(b["by_position"][:4])
        for a, b in zip(
            measured(record, "alone", "carried"),
            measured(record, "memory", "carried"),
            strict=True,
        )
    ]
    return Found(
        _all(min(saved) > 0, min(start) > max(saved)),
        f"Memory saves {span(saved)} bits per byte, and {span(start)} at the first "
        "four positions of a segment.",
    )


def _relative(record: Record) -> Found:
    about = record["preset"]["arms"]["relative"]["config"]
    name = f"memory {about['memory_length']}"
    found = {arm: summary(record)[arm, name] for arm in ("relative", "shaw")}
    over = gaps(found["shaw"], found["relative"])
    return Found(
        _all(min(over) > 0),
        f"Shaw's positions have {span(over, '+.3f')} bits per byte over the paper's, "
        "with as much memory as in training.",
    )


def _longer(record: Record) -> Found:
    bits = summary(record)
    usual = record["preset"]["arms"]["relative"]["config"]["memory_length"]
    lengths = [int(name.split()[1]) for _, name in bits]
    longer = sorted({m for m in lengths if m > usual})

    def change(arm: str) -> list[float]:
        before = mean(bits[arm, f"memory {usual}"])
        return [mean(bits[arm, f"memory {m}"]) - before for m in longer]

    noise = spread(bits["relative", f"memory {usual}"])
    own, shaw, absolute = change("relative"), change("shaw"), change("absolute")
    return Found(
        _all(min(own) < -noise, max(own) <= noise and min(shaw + absolute) > 0),
        f"With memories up to {longer[-1] // usual} times that of training, relative "
        f"positions change by {span(own, '+.3f')} bits per byte, Shaw's by "
        f"{span(shaw, '+.3f')}, absolute ones by {span(absolute, '+.3f')}: the others "
        "lose, and the paper's do not gain.",
    )


def _speed(record: Record) -> Found:
    lengths = sorted(
        int(name.split()[-1]) for name in record["preset"]["arms"]["reuse"]["measures"]
    )

    def spent(arm: str, length: int) -> float:
        found = measured(record, arm, f"attention {length}")
        return mean(one["seconds"] / one["guessed"] for one in found)

    ratio = [spent("window", n) / spent("reuse", n) for n in lengths]
    return Found(
        _all(ratio[-1] > 10, ratio[-1] > ratio[0]),
        f"A byte under a sliding window takes {ratio[0]:.0f} times as long at "
        f"{lengths[0]} bytes of attention, {ratio[-1]:.0f} times at {lengths[-1]}.",
    )


def _base(record: Record) -> Found:
    [bits] = summary(record)["base", "as the paper"]
    return Found(_all(bits < 1.10, bits < 1.08), f"{bits:.3f} bits per byte.")


# --- Compressive Transformer


def _pay(record: Record) -> Found:
    about, bits = record["preset"]["arms"], summary(record)
    rates = [arm for arm in about if arm.startswith("rate ")]
    equal = bits["xl", f"memory {about['xl']['config']['memory_length']}"]
    slots = about[rates[0]]["config"]["compressed_length"]
    found = [bits[rate, f"compressed {slots}"] for rate in rates]
    over = [mean(gaps(one, equal)) for one in found]
    noise = [spread(one, equal) for one in found]
    verdict = _all(*(x < 0 for x in over))
    if all(abs(x) < s for x, s in zip(over, noise, strict=True)):
        verdict = "too small to tell"
    return Found(
        verdict,
        f"At equal keys per query {', '.join(rates)} have "
        f"{', '.join(f'{x:+.3f}' for x in over)} bits per byte over a Transformer-XL "
        f"in the mean; the standard deviation over seeds is up to {max(noise):.3f}.",
    )


def _too_many(record: Record) -> Found:
    bits, about = summary(record), record["preset"]["arms"]
    rates = [arm for arm in about if arm.startswith("rate ")]
    lengths = sorted(
        one["compressed_length"] for one in about[rates[0]]["measures"].values()
    )
    curves = [[mean(bits[rate, f"compressed {m}"]) for m in lengths] for rate in rates]
    falls, rises = ([c[i] - min(c) for c in curves] for i in (0, -1))
    best = [lengths[curve.index(min(curve))] for curve in curves]
    return Found(
        _all(min(falls) > 0, min(rises) > 0),
        f"From no compressed slots to {span(best, '')} bits per byte fall by "
        f"{span(falls)}, and up to {lengths[-1]} they rise by {span(rises)}.",
    )


def _range(record: Record) -> Found:
    arms = record["preset"]["arms"]
    config = arms["max"]["config"]
    exact = arms["xl"]["config"]["memory_length"]
    reach = (
        config["memory_length"]
        + config["compression_rate"] * config["compressed_length"]
    )
    gone = exact + config["segment_length"]
    queue = _at(record, "xl", gone, reach)
    coarse = {
        arm: _at(record, arm, gone, reach) for arm in ("max", "convolution, attention")
    }
    return Found(
        _all(*(x > 2 * queue for x in coarse.values())),
        f"At {gone} to {reach} tokens back max pooling answers {coarse['max']:.0%} and "
        f"a convolution taught by attention {coarse['convolution, attention']:.0%}; a "
        f"Transformer-XL of the same slots answers {queue:.0%}.",
    )


def _losses(table: Record, recall: Record) -> Found:
    bits = {arm: found for (arm, _), found in summary(table).items()}
    over = gaps(bits["auto-encoding"], bits["attention"])
    far = {
        name: _at(recall, f"convolution, {name}", 32, 80)
        for name in ("attention", "encoding")
    }
    return Found(
        _all(min(over) > 0, far["attention"] > far["encoding"]),
        f"Plugged into a trained model, auto-encoding has {span(over, '+.3f')} bits "
        f"per byte over attention reconstruction. In recall, 32 to 80 tokens back, "
        f"they answer {far['encoding']:.0%} and {far['attention']:.0%}.",
    )


def _order(table: Record, recall: Record) -> Found:
    bits = {arm: found for (arm, _), found in summary(table).items()}
    pooled = gaps(bits["attention"], bits["mean pooling"])
    through = gaps(bits["through time"], bits["attention"])
    names = ("max", "mean", "convolution, through time", "convolution, attention")
    far = {name: _at(recall, name, 32, 80) for name in names}
    learned = far["convolution, attention"]
    said = ", ".join(f"{name} {share:.0%}" for name, share in far.items())
    return Found(
        _all(
            max(pooled) < 0,
            min(through) > 0,
            learned > far["max"],
            learned > far["convolution, through time"],
        ),
        f"Attention reconstruction has {span(pooled, '+.3f')} bits per byte over mean "
        f"pooling, and backpropagation through time {span(through, '+.3f')} over it. "
        f"In recall, 32 to 80 tokens back: {said}.",
    )


def _ages(record: Record) -> Found:
    [(arm, about)] = record["preset"]["arms"].items()
    rises = []
    for one in measured(record, arm, next(iter(about["measures"]))):
        shares = one["by_age"]["shares"]
        six = len(shares) // 3
        newest = shares[six - 1] / about["config"]["compressed_length"]
        oldest = shares[six] / about["config"]["memory_length"]
        rises.append(newest / oldest)
    return Found(
        _all(min(rises) > 1),
        "Per slot the newest compressed bucket receives "
        f"{span(rises, '.2f')} times what the oldest exact one does.",
    )


def _rare(record: Record) -> Found:
    def lost(arm: str, classes: tuple[str, ...]) -> float:
        found = measured(record, arm, "carried")
        return sum(b for one in found for c in classes for _, b in one["by_count"][c])

    rate = next(arm for arm in record["preset"]["arms"] if arm.startswith("rate "))
    kinds = {"rare": ("0", "1"), "common": ("1000",)}
    gain = {kind: 1 - lost(rate, c) / lost("xl", c) for kind, c in kinds.items()}
    return Found(
        _all(gain["rare"] > max(gain["common"], 0)),
        f"Over a Transformer-XL compressed slots change the bits of words that "
        f"training had fewer than ten times by {-gain['rare']:+.2%}, and of those that "
        f"it had a thousand times by {-gain['common']:+.2%}.",
    )


def _updates(record: Record) -> Found:
    bits = _bits(record)
    fewer = gaps(bits["every 4"], bits["constant"])
    return Found(
        _all(max(fewer) < 0),
        f"One update for four segments changes bits per byte by {span(fewer, '+.3f')}.",
    )


# --- gates, layers, parts


def _stable(record: Record) -> Found:
    failed = {}
    for way in ("post-norm", "reordered", "GRU"):
        arms = [arm for arm in _bits(record) if arm.startswith(f"{way}, rate ")]
        runs = [one for arm in arms for one in measured(record, arm, "test")]
        failed[way] = sum(map(fails, runs)), len(runs)
    counts = {way: count for way, (count, _) in failed.items()}
    said = ", ".join(f"{way} {n} of {total}" for way, (n, total) in failed.items())
    return Found(
        _all(counts["GRU"] < counts["post-norm"], counts["GRU"] < counts["reordered"]),
        f"Failed runs over five learning rates: {said}. The gate fails no run, and "
        "neither does the layer whose norm is moved, without a gate.",
    )


def _gate(record: Record, depth: Record) -> Found:
    bits = _bits(record)
    text = gaps(bits["gated exact"], bits["exact"])
    deep = _bits(depth)
    deeper = gaps(deep["gated 12 layers"], deep["12 layers"])
    return Found(
        _all(max(text) < 0, max(deeper) < 0),
        f"On text, at equal parameters, a GRU gate changes bits per byte by "
        f"{span(text, '+.3f')}, and with 12 layers by {span(deeper, '+.3f')}.",
    )


def _few(record: Record) -> Found:
    bits = _bits(record)
    saved = mean(gaps(bits["none"], bits["all"]))
    names = ("top 4", "interleaved", "bottom 4")
    kept = {name: 1 - mean(gaps(bits[name], bits["all"])) / saved for name in names}
    said = ", ".join(f"{name} {share:.0%}" for name, share in kept.items())
    return Found(
        _all(kept["top 4"] > 0.9, kept["interleaved"] > 0.9),
        f"Half of eight layers keep so much of the {saved:.3f} bits per byte that "
        f"memory in all of them saves: {said}.",
    )


def _limited(record: Record) -> Found:
    bits = _bits(record)
    over = gaps(bits["top 4 long"], bits["all long"])
    short = gaps(bits["all short"], bits["all long"])
    return Found(
        _all(mean(over) < 0, mean(over) < mean(short)),
        f"A long memory in the top half has {mean(over):+.3f} bits per byte over one "
        f"in all layers. But a short one in all has {mean(short):+.3f}: a long one "
        "brings nothing here.",
    )


def _outputs(record: Record) -> Found:
    bits = _bits(record)
    over = gaps(bits["all, outputs"], bits["all"])
    return Found(
        _all(mean(over) < 0),
        f"A layer that stores its output changes bits per byte by "
        f"{span(over, '+.3f')}.",
    )


def _one_head(record: Record, costs: Record) -> Found:
    bits = _bits(record)
    over = mean(gaps(bits["1 kv_head"], bits["plain"]))
    one, plain = (
        measured(costs, arm, "test")[0]["costs"]["decoding"]
        for arm in ("1 kv_head", "Transformer-XL")
    )
    time = mean(
        found["costs"]["token"]["ratio"]
        for found in measured(costs, "1 kv_head", "test")
    )
    return Found(
        _all(over < 0.02, time < 0.9),
        f"One head of four changes bits per byte by {over:+.3f} at equal parameters. "
        f"Decoding holds {one / plain:.0%} of the bytes, and a token of one lane takes "
        f"{time:.2f} times as long.",
    )


def _glu(record: Record) -> Found:
    bits = _bits(record)
    names = ("GLU", "Bilinear", "ReGLU", "GEGLU", "SwiGLU")
    over = {name: mean(gaps(bits[name], bits["plain"])) for name in names}
    said = ", ".join(f"{name} {change:+.3f}" for name, change in over.items())
    return Found(
        _all(*(change < 0 for change in over.values())),
        f"Over ReLU, in bits per byte at equal parameters: {said}.",
    )


def _albert(record: Record) -> Found:
    bits = _bits(record)
    sizes = {run["arm"]: run["parameters"] for run in record["runs"]}
    shared = gaps(bits["shared layers"], bits["plain"])
    narrow = gaps(bits["tied, factorised"], bits["tied"])
    return Found(
        _all(max(shared) < 0.02, max(narrow) < 0.02),
        f"One layer for three leaves "
        f"{sizes['shared layers'] / sizes['plain']:.0%} of the parameters, and changes "
        f"bits per byte by {span(shared, '+.3f')}. A table of width 16 changes them by "
        f"{span(narrow, '+.3f')}: bytes are few, so a table is small.",
    )


# --- memory tokens


def _blind(record: Record) -> Found:
    arms = [arm for arm in record["preset"]["arms"] if arm.startswith("Memory Tr")]
    shares = [
        x
        for arm in arms
        for one in measured(record, arm, "test")
        for x in one["answers"].values()
    ]
    chance = measured(record, arms[0], "test")[0]["chance"]
    return Found(
        _all(max(shares) < chance + 0.05),
        f"Tokens that are not handed on copy {span(shares, '.0%')} right, and a guess "
        f"{chance:.1%}.",
    )


def _copied(record: Record) -> Found:
    def at(way: str, count: int) -> list[float]:
        return _right(record, f"{way}, {count} segments", count)

    arms = record["preset"]["arms"]
    counts = sorted({int(arm.split()[-2]) for arm in arms})
    tokens = [x for n in counts for x in at("RMT", n)]
    few, many = (
        mean(at("Transformer-XL, same slots", n)) for n in (counts[0], counts[-1])
    )
    return Found(
        _all(min(tokens) > 0.9, few > 0.9 and many < 0.5),
        f"Memory tokens copy {span(tokens, '.0%')} right at {counts[0]} to "
        f"{counts[-1]} segments. A Transformer-XL of as many slots in each layer "
        f"copies {few:.0%} at {counts[0]} and {many:.0%} at {counts[-1]}.",
    )


def _turned(record: Record) -> Found:
    return _beside(record, "a text is turned around")


def _kept(record: Record) -> Found:
    return _beside(record, "a pair is found again")


def _beside(record: Record, what: str) -> Found:
    """Compare memory tokens with a Transformer-XL of the same bytes."""
    arms = [arm for arm in record["preset"]["arms"] if arm.startswith("RMT, ")]
    counts = sorted(int(arm.split()[-2]) for arm in arms)
    tokens, cache = (
        {n: mean(_right(record, f"{way}, {n} segments", n)) for n in counts}
        for way in ("RMT", "Transformer-XL")
    )
    most = counts[-1]
    said = ", ".join(
        f"by memory tokens in {tokens[n]:.0%} and by a Transformer-XL in "
        f"{cache[n]:.0%} at {n} segments"
        for n in counts
    )
    return Found(
        _all(min(tokens.values()) > 0.85, tokens[most] > cache[most]),
        f"At equal bytes {what} {said}.",
    )


def _equations(record: Record) -> Found:
    ways = {"memory tokens": "RMT", "a Transformer-XL": "Transformer-XL, same slots"}
    solved = {
        name: mean(
            x for one in measured(record, arm, "test") for x in one["answers"].values()
        )
        for name, arm in ways.items()
    }
    said = ", ".join(f"{name} {share:.0%}" for name, share in solved.items())
    return Found(
        _all(solved["memory tokens"] > solved["a Transformer-XL"]),
        f"Whole answers, with as many slots in each layer: {said}.",
    )


def _tokens(record: Record) -> Found:
    bits, over = _bits(record), {}
    for arm in bits:
        if re.fullmatch(r"RMT \d+", arm):
            m = int(arm.split()[1])
            over[m] = mean(gaps(bits[arm], bits[f"Transformer-XL {m}"]))
    said = ", ".join(f"{m}: {change:+.3f}" for m, change in over.items())
    return Found(
        _all(*(change < 0 for change in over.values())),
        f"Bits per byte of so many tokens, over as many slots in each layer: {said}.",
    )


def _depth(record: Record) -> Found:
    means = []
    for back in ("0", "1", "2", "all"):
        found = measured(record, f"{back} segments back", "test")
        means.append(mean(x for one in found for x in one["answers"].values()))
    return Found(
        _all(means == sorted(means), means[-1] > 2 * means[0]),
        "Where a loss reaches 0, 1, 2 or all segments back, "
        f"{', '.join(f'{x:.0%}' for x in means)} of a copy are right.",
    )


def _windows(record: Record) -> Found:
    bits = {arm: x for arm, x in _bits(record).items() if arm.startswith("RMT")}
    means = [mean(found) for found in bits.values()]
    said = ", ".join(f"{arm} {x:.3f}" for arm, x in zip(bits, means, strict=True))
    return Found(
        _all(means[-1] < means[0], means == sorted(means, reverse=True)),
        f"Bits per byte: {said}.",
    )


def _twice(record: Record) -> Found:
    arm = "1 to 5 segments"
    near, twice, far = (mean(_right(record, arm, n)) for n in (5, 10, 200))
    return Found(
        _all(near > 0.95, twice > 0.95),
        f"Trained on 1 to 5 segments, {near:.0%} are right at 5, {twice:.0%} at 10 and "
        f"{far:.0%} at 200; a guess has "
        f"{measured(record, arm, 'test')[0]['chance']:.0%}.",
    )


def _curriculum(record: Record) -> Found:
    grown, start = (
        mean(_right(record, arm, 5)) for arm in ("1 to 5 segments", "5 from the start")
    )
    return Found(
        _all(grown > 0.95, start < 0.6),
        f"At 5 segments {grown:.0%} are right after a curriculum, and {start:.0%} "
        "after 5 segments from the start, with fewer questions seen.",
    )


def _documents(record: Record) -> Found:
    far = {}
    for arm in ("recurrent", "learned"):
        found = measured(record, arm, "test")
        far[arm] = [
            mean(x for back, x in one["answers"].items() if back != "0")
            for one in found
        ]
    return Found(
        _all(min(far["recurrent"]) > max(far["learned"])),
        "Where what decides stands before the last of four segments, memory tokens "
        f"answer {span(far['recurrent'], '.0%')} right, and the last segment alone "
        f"{span(far['learned'], '.0%')}. The documents are drawn, and no weights were "
        "trained before.",
    )


XL, CT = "dai2019transformerxl", "rae2019compressive"
GATE, DEEP = "parisotto2019stabilizing", "rae2020deep"
RMT, LONG = "bulatov2022recurrent", "bulatov2023scaling"

CLAIMS = (
    PaperClaim(
        paper=XL,
        name="recurrence helps, most at the start of a segment",
        where="Tables 6 and 7",
        says="Recurrence lowers the perplexity on WikiText-103 from 29.02 to 26.77, at "
        "the best attention of each; on sentences without long dependencies from 27.1 "
        "to 25.2, as no context is cut.",
        records=("recurrence@cpu",),
        judge=_recurrence,
    ),
    PaperClaim(
        paper=XL,
        name="relative positions beat Shaw's",
        where="Table 6",
        says="With recurrence, the paper's positions have a perplexity of 26.77 on "
        "WikiText-103, Shaw's 27.94.",
        records=("positions@cpu",),
        judge=_relative,
    ),
    PaperClaim(
        paper=XL,
        name="relative positions alone gain from a memory longer than in training",
        where="Table 6",
        says="A longer attention in evaluation lowers the perplexity from 27.02 to "
        "26.77 with the paper's positions, and by nothing with Shaw's.",
        records=("positions@cpu",),
        judge=_longer,
    ),
    PaperClaim(
        paper=XL,
        name="states that are used again make evaluation fast",
        where="Table 9",
        says="A sliding window is slower by 363 times at an attention of 800 tokens, "
        "and by 1,874 times at 3,800, on a GPU.",
        records=("evaluation-cost@cpu",),
        judge=_speed,
    ),
    PaperClaim(
        paper=XL,
        name="12 layers have 1.06 bits per character on enwik8",
        where="Table 2",
        says="12 layers and 41 million parameters have 1.06 bits per character.",
        records=("enwik8-base@gpu",),
        judge=_base,
    ),
    PaperClaim(
        paper=XL,
        name="context helps up to 900 tokens back",
        where="Table 8",
        says="The relative effective context length is 900 tokens with 151 million "
        "parameters, for the hardest tenth of positions.",
        untried="It is defined over groups of large models, and none is trained here.",
    ),
    PaperClaim(
        paper=CT,
        name="compressed slots pay on text",
        where="Table 4",
        says="With 24 layers on enwik8 a Compressive Transformer has 0.97 bits per "
        "character, a Transformer-XL 0.98.",
        records=("compressive@cpu",),
        judge=_pay,
    ),
    PaperClaim(
        paper=CT,
        name="too many compressed slots cost bits in evaluation",
        where="appendix B",
        says="On enwik8 512 compressed slots have 1.01 bits per character, 3,072 have "
        "0.97, and 4,096 have 1.00.",
        records=("compressive@cpu",),
        judge=_too_many,
    ),
    PaperClaim(
        paper=CT,
        name="a longer temporal range at the same cost",
        where="section 3",
        says="With as many compressed slots as exact ones, three tokens each, the "
        "range is twice that of a Transformer-XL of the same cost.",
        records=("recall@cpu",),
        judge=_range,
    ),
    PaperClaim(
        paper=CT,
        name="attention reconstruction beats auto-encoding",
        where="Table 5",
        says="Under a convolution on enwik8 attention reconstruction has 0.973 bits "
        "per character, auto-encoding 0.984.",
        records=("cross-table@cpu", "recall@cpu"),
        judge=_losses,
    ),
    PaperClaim(
        paper=CT,
        name="attention reconstruction beats pooling, and training a compression "
        "through time is worst",
        where="Table 5",
        says="Attention reconstruction has 0.973 bits per character, mean pooling "
        "0.982, max pooling 0.986, backpropagation through time 0.996.",
        records=("cross-table@cpu", "recall@cpu"),
        judge=_order,
    ),
    PaperClaim(
        paper=CT,
        name="attention rises where compressed slots begin",
        where="section 5.5",
        says="From exact to compressed slots the attention of a slot rises; the paper "
        "shows it in a figure.",
        records=("attention-by-age@cpu",),
        judge=_ages,
    ),
    PaperClaim(
        paper=CT,
        name="the gain is largest for rare words",
        where="Table 7",
        says="Over the Compressive Transformer the perplexity of a Transformer-XL is "
        "20% higher for words that training had fewer than 100 times, and 2.6% "
        "higher for those that it had more than 10,000 times.",
        records=("rare-words@cpu",),
        judge=_rare,
    ),
    PaperClaim(
        paper=CT,
        name="fewer updates late in training help",
        where="section 5.5.1",
        says="Updates every fourth step, late in training, lower a Transformer-XL from "
        "0.995 to 0.984 bits per character.",
        records=("late-updates@cpu",),
        judge=_updates,
    ),
    PaperClaim(
        paper=CT,
        name="compressed slots serve books, speech and reinforcement learning",
        where="section 5",
        says="On the books of PG-19 its perplexity is 33.6, that of a Transformer-XL "
        "36.3.",
        untried="The books are 11 GB of text, and the tasks need other models.",
    ),
    PaperClaim(
        paper=GATE,
        name="a GRU gate never diverges",
        where="section 4",
        says="On Memory Maze 16% of 25 settings diverge with the norm moved and "
        "without a gate, 12% with an output gate, none with a GRU gate.",
        records=("gate-rates@cpu",),
        judge=_stable,
    ),
    PaperClaim(
        paper=GATE,
        name="a GRU gate pays",
        where="section 4",
        says="On 30 levels of DMLab a GRU gate has 117.6% of a human's score, the "
        "layer without a gate 107.0%.",
        records=("gate-and-compression@cpu", "gate-and-depth@cpu"),
        judge=_gate,
    ),
    PaperClaim(
        paper=DEEP,
        name="few layers with a long memory are enough on text",
        where="abstract",
        says="Comparable results with a sixth of the long-range memories.",
        records=("memory-layers@cpu",),
        judge=_few,
    ),
    PaperClaim(
        paper=DEEP,
        name="a short range in the lower layers is better",
        where="abstract",
        says="Better results where the range of attention in the lower layers is "
        "limited.",
        records=("memory-ranges@cpu",),
        judge=_limited,
    ),
    PaperClaim(
        paper="ding2021ernie",
        name="storing outputs helps",
        where="abstract",
        says="A perplexity of 16.8 on WikiText-103, with enhanced recurrence and "
        "further changes.",
        records=("memory-layers@cpu",),
        judge=_outputs,
    ),
    PaperClaim(
        paper="shazeer2019fast",
        name="one head of keys and values makes decoding fast and costs little",
        where="abstract",
        says="Much faster decoding, with a minor loss of quality.",
        records=("cheaper-layers@cpu", "costs@cpu"),
        judge=_one_head,
    ),
    PaperClaim(
        paper="shazeer2020glu",
        name="gated feed-forward parts are better",
        where="Table 1",
        says="After a pre-training of T5 the log-perplexity of ReLU is 1.677; of GLU "
        "1.663, of GEGLU 1.633.",
        records=("cheaper-layers@cpu",),
        judge=_glu,
    ),
    PaperClaim(
        paper="lan2019albert",
        name="shared layers and a narrow table save parameters at little loss",
        where="abstract and section 3.1",
        says="18 times fewer parameters than BERT-large, with further changes.",
        records=("cheaper-layers@cpu",),
        judge=_albert,
    ),
    PaperClaim(
        paper="burtsev2020memory",
        name="tokens that are not handed on carry nothing over a border",
        where="Bulatov and others 2022, their own runs",
        says="In copying over 3 to 9 segments a Memory Transformer is right in 10%, "
        "which is a guess.",
        records=("copy@cpu",),
        judge=_blind,
    ),
    PaperClaim(
        paper=RMT,
        name="memory tokens copy where a cache no longer reaches",
        where="section 5, copying",
        says="24 symbols over 3, 6 and 9 segments: memory tokens are right in 100%, a "
        "Transformer-XL at 9 segments in 19 to 45%.",
        records=("copy@cpu",),
        judge=_copied,
    ),
    PaperClaim(
        paper=RMT,
        name="memory tokens copy at the paper's sizes",
        where="section 5, copying",
        says="As above, with four layers of width 128.",
        records=("copy@gpu",),
        judge=_copied,
    ),
    PaperClaim(
        paper=RMT,
        name="memory tokens turn a text around where a cache no longer reaches",
        where="section 5, reverse",
        says="24 symbols over 2 and 4 segments: memory tokens are right in 100%. Over "
        "6 segments four runs of six are, and two have 70%; a Transformer-XL has 63 "
        "to 70%.",
        records=("reverse@cpu",),
        judge=_turned,
    ),
    PaperClaim(
        paper=RMT,
        name="memory tokens keep pairs over segments",
        where="section 5, associative retrieval",
        says="Four pairs over 2 to 5 segments: memory tokens find 92 to 100%. A "
        "Transformer-XL finds 67 to 97% over 4 segments, and 97 to 100% over 5.",
        records=("retrieval@cpu",),
        judge=_kept,
    ),
    PaperClaim(
        paper=RMT,
        name="memory tokens carry the steps of an equation better than a cache",
        where="section 5, quadratic equations",
        says="Over 6 segments memory tokens solve 99%, a Transformer-XL of as many "
        "slots 93%.",
        records=("quadratic@cpu",),
        judge=_equations,
    ),
    PaperClaim(
        paper=RMT,
        name="on text, tokens beat as many slots",
        where="section 5, enwik8",
        says="With segments of 128, 10 tokens have 1.228 bits per character, and 10 "
        "slots in each of 12 layers 1.283; with 200 slots there are 1.140.",
        records=("memory-tokens@cpu",),
        judge=_tokens,
    ),
    PaperClaim(
        paper=RMT,
        name="writing is learned from later segments",
        where="section 5, WikiText-103",
        says="With 10 tokens and segments of 50 the perplexity is 30.69 where a loss "
        "reaches no other segment, and 26.25 where it reaches four.",
        records=("copy-depth@cpu",),
        judge=_depth,
    ),
    PaperClaim(
        paper=RMT,
        name="longer windows pay on text",
        where="section 5, enwik8",
        says="10 tokens have 1.240 bits per character where a loss reaches one other "
        "segment, and 1.228 where it reaches two.",
        records=("memory-windows@gpu",),
        judge=_windows,
    ),
    PaperClaim(
        paper=RMT,
        name="memory tokens carry what earlier segments of a document say",
        where="section 5, Hyperpartisan",
        says="RoBERTa with memory tokens has an F1 of 94.87 with one segment, and of "
        "98.11 with four.",
        records=("documents@cpu",),
        judge=_documents,
    ),
    PaperClaim(
        paper=LONG,
        name="a curriculum of lengths is needed",
        where="experiments",
        says="Training begins with one segment, and another is added whenever the task "
        "is learned, up to seven.",
        records=("curriculum@cpu",),
        judge=_curriculum,
    ),
    PaperClaim(
        paper=LONG,
        name="memory tokens serve for twice the segments of training and more",
        where="experiments",
        says="Trained on five segments or more it answers at twice the length, and "
        "was evaluated on 4,096 segments, two million tokens.",
        records=("curriculum@cpu",),
        judge=_twice,
    ),
)


# --- the page

TEMPLATE = Path(__file__).with_suffix(".md")


def page(folder: Path | None = None) -> str:
    """Return the page of claims as Markdown.

    Args:
        folder: of the records; None is that of the package.

    Raises:
        ValueError: a claim names a record of no preset, or none is there.
    """
    known = {preset.title: preset for preset in presets.every()}
    found = {claim: look(claim, folder) for claim in CLAIMS}
    parts = []
    for paper, title in PAPERS.items():
        parts += [
            f"## {title} {{#{paper}}}\n",
            f"[The paper](references.md#{paper}).\n",
            '<div class="lm-claims" markdown>\n',
            "| claim | in the paper | here | verdict |",
            "| --- | --- | --- | --- |",
            *(_row(c, one, known) for c, one in found.items() if c.paper == paper),
            "\n</div>\n",
        ]
    verdicts = [one.verdict for one in found.values()]
    counts = (f"{verdicts.count(x)} {x}" for x in VERDICTS if x in verdicts)
    return TEMPLATE.read_text().format(
        **_sizes(folder),
        claims=len(found),
        counts=", ".join(counts),
        papers="\n".join(parts),
    )


def _sizes(folder: Path | None) -> dict[str, str]:
    """Return the sizes of all records that speak to a claim."""
    titles = {title for claim in CLAIMS for title in claim.records}
    paths = [(folder or results.FOLDER) / f"{title}.json" for title in sorted(titles)]
    records = [load(str(path)) for path in paths if path.exists()]
    if not records:
        raise ValueError("there is no record of any claim; run the presets first")
    configs = [x["config"] for one in records for x in one["preset"]["arms"].values()]
    minutes = [run["minutes"] for one in records for run in one["runs"]]
    texts = [one["corpus"]["bytes"].get("train", 0) for one in records]
    return {
        "layers": span((config["layers"] for config in configs), ""),
        "width": span((config["d_model"] for config in configs), ""),
        "minutes": f"{max(minutes):.0f}",
        "text": f"{max(texts) / 1e6:.1f}",
    }


def _row(claim: PaperClaim, found: Found, known: dict[str, Preset]) -> str:
    unknown = [title for title in claim.records if title not in known]
    if unknown:
        raise ValueError(
            f"claim {claim.name!r}: records are {', '.join(unknown)}; expected titles "
            "of presets"
        )
    here = [found.text]
    for title in claim.records:
        anchor = title.replace("@", "")
        if found.verdict == "not run yet":
            anchor = "not-run-yet"
            hours = known[title].minutes / 60
            time = f"{hours:.0f} hours" if hours > 2 else f"{60 * hours:.0f} minutes"
            here = [f"Not run yet: it takes some {time}."]
        here.append(f"[`python -m labml_style.lab run {title}`](results.md#{anchor})")
    name = claim.name[0].upper() + claim.name[1:]
    cells = (name, f"{claim.says} ({claim.where})", " ".join(here), found.verdict)
    return f"| {' | '.join(cells)} |"
