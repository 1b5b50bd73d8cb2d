"""The page on choosing a memory: recommendations, and the records that they rest on.

`choosing.md` beside this file is the text; its numbers are filled in here. A
recommendation is checked against its record: where the memory that is recommended is
not the best in the respect that the text names, no page is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from labml_style.lab import claims, results
from labml_style.lab.judging import gaps, measured, span, spread
from labml_style.lab.results import (
    Record,
    in_bytes,
    load,
    state_bytes,
    summary,
)

__all__ = ["MEMORIES", "Memory", "check", "facts", "page", "records"]

TEMPLATE = Path(__file__).with_suffix(".md")

NAMES = (
    "recurrence",
    "compressive",
    "written-text",
    "memory-tokens",
    "memory-layers",
    "gate-and-compression",
    "cheaper-layers",
    "recall",
    "gated-recall",
    "memory-layers-recall",
    "copy",
    "copy-all",
    "reverse",
    "retrieval",
    "quadratic",
    "copy-depth",
    "curriculum",
    "written-facts",
    "documents",
    "positions",
    "evaluation-cost",
    "costs",
)
"""Records that the page rests on, in their form for a CPU."""

Records = Mapping[str, Record]


class Memory(NamedTuple):
    """A memory of the site, as the page lists it.

    Attributes:
        name: on the page.
        chapter: page that explains it.
        what: what it stores, in a sentence.
        papers: keys of the papers whose claims are about it.
    """

    name: str
    chapter: str
    what: str
    papers: tuple[str, ...] = ()


MEMORIES = (
    Memory(
        "Transformer-XL",
        "transformer_xl.ipynb",
        "exact slots, the newest states of every layer.",
        ("dai2019transformerxl",),
    ),
    Memory(
        "Compressive Transformer",
        "compressive_transformer.ipynb",
        "beside exact slots, a slot for each group of older ones, made by max pooling "
        "or by a convolution.",
        ("rae2019compressive",),
    ),
    Memory(
        "Gated Transformer-XL",
        "gating.ipynb",
        "a Transformer-XL with a GRU gate in the place of each residual sum.",
        ("parisotto2019stabilizing",),
    ),
    Memory(
        "First layer, top half",
        "fewer_slots.ipynb",
        "a Transformer-XL with its slots in these layers alone, and more in each.",
        ("rae2020deep", "ding2021ernie"),
    ),
    Memory(
        "One head",
        "cheaper_layers.ipynb",
        "a Transformer-XL with one head of keys and values for all heads of queries.",
        ("shazeer2019fast", "shazeer2020glu", "lan2019albert"),
    ),
    Memory(
        "Written slots",
        "memory_transformer_xl.ipynb",
        "the Memory Transformer-XL. Exact slots, and a few shared by all layers, which "
        "a write gate changes after each segment.",
    ),
    Memory(
        "Memory tokens",
        "recurrent_memory.ipynb",
        "the Recurrent Memory Transformer, RMT. A few vectors that are read before a "
        "segment and written after it; with a cache, beside exact slots.",
        ("burtsev2020memory", "bulatov2022recurrent", "bulatov2023scaling"),
    ),
)


def records(folder: Path | None = None) -> dict[str, Record]:
    """Load the records that the page rests on, by the names of their presets.

    Raises:
        ValueError: one is not there.
    """
    where = folder or results.FOLDER
    return {name: load(str(where / f"{name}@cpu.json")) for name in NAMES}


def page(folder: Path | None = None) -> str:
    """Return the page as Markdown.

    Args:
        folder: of the records; None is that of the package.

    Raises:
        ValueError: a record is not there, or contradicts a recommendation.
    """
    found = records(folder)
    check(found)
    about = facts(found) | {"table": _table(found)}
    about |= {"memories": _memories(folder), "names": _names()}
    return TEMPLATE.read_text().format_map(about)


# --- numbers of records


def _bits(record: Record, arm: str, measure: str | None = None) -> list[float]:
    """Return the bits of an arm, one number for each seed."""
    for (name, what), found in summary(record).items():
        if name == arm and measure in (None, what):
            return found
    raise ValueError(f"{record['title']} has no arm {arm!r} with {measure!r}")


def _arms(record: Record) -> list[str]:
    return list(dict.fromkeys(run["arm"] for run in record["runs"]))


def _each(record: Record, arm: str, other: str) -> list[float]:
    """Return the bits of an arm less those of another, one for each seed."""
    return gaps(_bits(record, arm), _bits(record, other))


def _over(record: Record, arm: str, other: str) -> float:
    """Return the bits of an arm less those of another, in the mean over seeds."""
    return mean(_each(record, arm, other))


def _right(record: Record, arm: str, count: int) -> float:
    """Return right answers after so many segments, in the mean over seeds."""
    return mean(one["answers"][str(count)] for one in measured(record, arm, "test"))


def _recalled(record: Record, arm: str, least: int, most: int) -> float:
    """Return right answers so many tokens back, in the mean over seeds and delays."""
    return mean(
        x
        for one in measured(record, arm, "test")
        for delay, x in one["accuracy"].items()
        if least <= int(delay) <= most
    )


def _ratio(record: Record, kind: str, arm: str) -> float:
    found = measured(record, arm, "test")
    return mean(one["costs"][kind]["ratio"] for one in found)


def _decoding(record: Record, arm: str) -> int:
    held: int = measured(record, arm, "test")[0]["costs"]["decoding"]
    return held


def _before_last(record: Record, arm: str) -> list[float]:
    """Return right answers where the passage is in no last segment, of each seed."""
    return [
        mean(x for back, x in one["answers"].items() if back != "0")
        for one in measured(record, arm, "test")
    ]


def _equal_slots(record: Record) -> tuple[str, dict[str, float], float]:
    """Compare compressed slots with a queue of as many.

    Returns:
        The measure of the queue, how far each rate is above it in the mean, and the
        largest standard deviation over seeds.
    """
    about = record["preset"]["arms"]
    queue = f"memory {about['xl']['config']['memory_length']}"
    exact, over, noise = _bits(record, "xl", queue), {}, 0.0
    for arm in about:
        if arm.startswith("rate "):
            name = f"compressed {about[arm]['config']['compressed_length']}"
            coarse = _bits(record, arm, name)
            over[arm] = mean(gaps(coarse, exact))
            noise = max(noise, spread(coarse, exact))
    return queue, over, noise


def _tokens(record: Record) -> dict[int, float]:
    """Return how far memory tokens are above slots of the same state, by their number.

    In the mean over seeds. As many tokens as layers are one slot in each.
    """
    arms = record["preset"]["arms"]
    layers = arms["no memory"]["config"]["layers"]
    counts = [
        int(x.split()[1]) for x in arms if x.startswith("RMT ") and "and" not in x
    ]
    return {
        m: _over(record, f"RMT {m}", f"Transformer-XL {m // layers}")
        for m in sorted(counts)
    }


def _written(record: Record) -> tuple[str, str, str]:
    """Return the arms of written slots, compressed slots and a queue of one state."""
    arms = record["preset"]["arms"]
    [written] = [arm for arm in arms if arm.startswith("Memory Transformer-XL")]
    [coarse] = [arm for arm in arms if arm.startswith("Compressive")]
    size = state_bytes(record, written, "carried")
    [queue] = [
        arm
        for arm in arms
        if arm.startswith("Transformer-XL")
        and state_bytes(record, arm, "carried") == size
    ]
    return written, coarse, queue


def _longer(record: Record, arm: str) -> list[float]:
    """Return what memories longer than in training change, the longest last."""
    about = record["preset"]["arms"][arm]
    usual, lengths = about["config"]["memory_length"], about["measures"].values()
    longer = sorted(m["memory_length"] for m in lengths if m["memory_length"] > usual)

    def bits(length: int) -> float:
        return mean(_bits(record, arm, f"memory {length}"))

    return [bits(length) - bits(usual) for length in longer]


def _changes(found: Records) -> dict[str, list[float]]:
    """Return bits over a Transformer-XL, by the arms of costs.

    One number for each seed, and for each size where there are several.
    """
    coarse, tokens = found["compressive"], found["memory-tokens"]
    exact = _bits(coarse, "xl", _equal_slots(coarse)[0])
    squeezed = [
        gaps(
            _bits(coarse, arm, f"compressed {one['config']['compressed_length']}"),
            exact,
        )
        for arm, one in coarse["preset"]["arms"].items()
        if arm.startswith("rate ")
    ]
    layers = tokens["preset"]["arms"]["no memory"]["config"]["layers"]
    [both] = [arm for arm in tokens["preset"]["arms"] if " and " in arm]
    written, _, queue = _written(found["written-text"])
    return {
        "no memory": gaps(
            _bits(found["recurrence"], "alone", "carried"),
            _bits(found["recurrence"], "memory"),
        ),
        "Compressive, convolution": sum(squeezed, []),
        "gated": _each(found["gate-and-compression"], "gated exact", "exact"),
        "top half": _each(found["memory-layers"], "top 4, twice the slots", "all"),
        "1 kv_head": _each(found["cheaper-layers"], "1 kv_head", "plain"),
        "Memory Transformer-XL": _each(found["written-text"], written, queue),
        "RMT": [
            change
            for m in _tokens(tokens)
            for change in _each(tokens, f"RMT {m}", f"Transformer-XL {m // layers}")
        ],
        "RMT and cache": _each(tokens, both, both.partition(" and ")[2]),
    }


# --- what is recommended, against its record


def check(found: Records) -> None:
    """Raise a `ValueError` where a record contradicts a recommendation."""
    _streaming(found)
    _small(found)
    _facts_at_a_distance(found)
    _tasks(found)
    _fast(found)
    documents = found["documents"]
    _best(
        "long documents",
        documents,
        {arm: mean(_before_last(documents, arm)) for arm in ("recurrent", "learned")},
        "recurrent",
    )
    positions = found["positions"]
    change = {arm: _longer(positions, arm)[-1] for arm in ("relative", "absolute")}
    _best("a pretrained decoder", positions, change, "relative", least=True)


def _best(
    situation: str,
    record: Record,
    values: Mapping[str, float],
    wanted: str,
    least: bool = False,
) -> None:
    """Raise a `ValueError` where another one is better than the one recommended."""
    best = (min if least else max)(values, key=values.__getitem__)
    if values[best] != values[wanted]:
        raise ValueError(
            f"choosing.md recommends {wanted} for {situation}, and in "
            f"{record['title']} {best} is better ({values[best]:.3f}, and "
            f"{values[wanted]:.3f}); change the recommendation"
        )


def _said(sentence: str, record: Record, held: bool) -> None:
    """Raise a `ValueError` where a record does not show what a sentence says."""
    if not held:
        raise ValueError(
            f"choosing.md says that {sentence}, and {record['title']} contradicts it; "
            "change the sentence"
        )


def _streaming(found: Records) -> None:
    """Check that at the same state a queue has the fewest bits on text."""
    best = partial(_best, "streaming text", least=True)
    coarse = found["compressive"]
    _, over, noise = _equal_slots(coarse)
    best(coarse, {"xl": 0.0, **over}, "xl")
    _said(
        "a convolution cannot be told from exact slots",
        coarse,
        max(over.values()) <= noise,
    )
    queue = int(_equal_slots(coarse)[0].split()[1])
    about = coarse["preset"]["arms"]["xl"]["measures"]
    slots = {
        name: mean(_bits(coarse, "xl", name))
        for name, one in about.items()
        if one["memory_length"] >= queue
    }
    best(coarse, _rounded(slots), f"memory {queue}")
    written = found["written-text"]
    names = _written(written)
    best(written, {arm: mean(_bits(written, arm)) for arm in names}, names[2])
    for name, arms in (
        ("memory-layers", ("all", "top 4, twice the slots", "all, outputs")),
        ("gate-and-compression", ("exact", "compressed", "gated exact")),
        ("recurrence", ("memory", "alone")),
    ):
        record = found[name]
        best(record, {arm: mean(_bits(record, arm)) for arm in arms}, arms[0])


def _facts_at_a_distance(found: Records) -> None:
    """Check which memory answers most at each distance."""
    recall, layers = found["recall"], found["memory-layers-recall"]
    far = {arm: _recalled(layers, arm, SHORT, 48) for arm in _arms(layers)}
    _best("facts within the slots of a layer", layers, far, "first")
    chance = _chances()
    last = max(map(int, measured(layers, "all", "test")[0]["accuracy"]))
    passed = _recalled(layers, "all", last, last) - chance["first_guess"]
    _said("nothing came through from layer to layer", layers, passed < 0.05)
    least, most = _reaches(recall)
    passed = _recalled(recall, "xl", least, most) - chance["recall_guess"]
    _said("a Transformer-XL guesses there", recall, passed < 0.05)
    far = {arm: _recalled(recall, arm, least, most) for arm in _arms(recall)}
    _best("facts beyond the exact slots", recall, _rounded(far), "max")
    grown = found["curriculum"]
    asked = {arm: _right(grown, arm, 5) for arm in _arms(grown)}
    _best("facts over segments", grown, asked, "1 to 5 segments")
    written = found["written-facts"]
    asked = {arm: _right(written, arm, 10) for arm in _arms(written)}
    _best("facts beyond training", written, asked, "GRU, 3 back")
    text = {
        "memory tokens": min(_tokens(found["memory-tokens"]).values()),
        "written slots": mean(_changes(found)["Memory Transformer-XL"]),
    }
    _best("facts in a text", written, text, "written slots", least=True)
    further = {
        "memory tokens": _right(grown, "1 to 5 segments", 10),
        "written slots": asked["GRU, 3 back"],
    }
    _best("facts beyond training", written, further, "written slots")


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Return values to a hundredth: what differs less is the same."""
    return {name: round(value, 2) for name, value in values.items()}


def _small(found: Records) -> None:
    """Check that slots are best on text and memory tokens in copying, when few."""
    text, copy = found["memory-tokens"], found["copy"]
    over = _tokens(text)
    for m, change in over.items():
        _best(
            "small state, text",
            text,
            {"slots": 0.0, f"{m} tokens": change},
            "slots",
            least=True,
        )
    many = _segments(copy)[-1]
    ways = ("RMT", "Transformer-XL, same state", "no memory")
    right = {way: _right(copy, f"{way}, {many} segments", many) for way in ways}
    _best("small state, word by word", copy, right, "RMT")


def _tasks(found: Records) -> None:
    """Check which memory of the same bytes solves each task over most segments.

    Memory tokens with a cache are memory tokens.
    """
    for name, wanted in (
        ("reverse", "RMT"),
        ("retrieval", "Memory Transformer-XL"),
    ):
        record, last = found[name], _segments(found[name])[-1]
        shares = {
            arm.rpartition(",")[0]: round(_right(record, arm, last), 2)
            for arm in _arms(record)
            if arm.endswith(f", {last} segments") and "with a cache" not in arm
        }
        _best(f"the task of {name}", record, shares, wanted)
    small, last = found["copy"], _segments(found["copy"])[-1]
    _said(
        "every seed of few memory tokens copies all",
        small,
        round(_copies(small, f"RMT, {last} segments")[0], 2) == 1,
    )
    copied = partial(_right, found["copy-all"], count=last)
    _said(
        "with more memory tokens seeds fail to copy, and written slots copy more",
        found["copy-all"],
        copied(f"RMT, {last} segments")
        < copied(f"Memory Transformer-XL, {last} segments"),
    )
    solved = found["quadratic"]
    ways = {arm: _right(solved, arm, 6) for arm in _arms(solved)}
    _best("the steps of an equation", solved, ways, "RMT")


def _fast(found: Records) -> None:
    """Check that of memories of the same bytes one head is fastest and holds least."""
    costs = found["costs"]
    sizes = {run["arm"]: run["state_bytes"] for run in costs["runs"]}
    equal = [arm for arm in sizes if sizes[arm] == sizes["Transformer-XL"]]
    for values in (
        {arm: _ratio(costs, "token", arm) for arm in equal},
        {arm: float(_decoding(costs, arm)) for arm in equal},
    ):
        _best("fast decoding", costs, values, "1 kv_head", least=True)


def _chances() -> dict[str, float]:
    """Return the shares of a guess in recall, which its records do not hold."""
    from labml_style.lab.experiments import fewer_slots, reconstruction

    return {
        "recall_guess": reconstruction.CHANCE,
        "first_guess": fewer_slots.CHANCE,
    }


def _segments(record: Record) -> list[int]:
    return sorted({int(arm.split()[-2]) for arm in record["preset"]["arms"]})


def _reaches(record: Record) -> tuple[int, int]:
    """Return from how far back no exact slot answers, and up to where others do."""
    arms = record["preset"]["arms"]
    config, queue = arms["max"]["config"], arms["xl"]["config"]
    coarse = config["compression_rate"] * config["compressed_length"]
    return (
        queue["memory_length"] + queue["segment_length"],
        config["memory_length"] + coarse,
    )


# --- the numbers of the text


def facts(found: Records) -> dict[str, str]:
    """Return the numbers of the text by the names that it has for them."""
    return {
        **_sizes(found),
        **_text(found),
        **_distances(found),
        **_state(found),
        **_times(found),
    }


def _sizes(found: Records) -> dict[str, str]:
    configs = [
        arm["config"]
        for record in found.values()
        for arm in record["preset"]["arms"].values()
    ]
    costs = found["costs"]["preset"]["arms"]
    base, queue = costs["Transformer-XL"], costs["Transformer-XL"]["config"]
    budget = state_bytes(found["costs"], "Transformer-XL", "test")
    # three vectors of a layer for a slot (itself, key, value), two for a token of the
    # segment, and slots for two segments
    tight = budget // (queue["layers"] * queue["d_model"] * 4) // (3 * 2 + 2)
    return {
        "tight_segment": str(tight),
        "tight_slots": str(2 * tight),
        "cost_tokens": str(costs["RMT"]["config"]["memory_tokens"]),
        "layers": span((c["layers"] for c in configs), ""),
        "width": span((c["d_model"] for c in configs), ""),
        "cost_layers": str(base["config"]["layers"]),
        "cost_width": str(base["config"]["d_model"]),
        "cost_segment": str(base["config"]["segment_length"]),
        "cost_lanes": str(base["batch"]),
        "budget": in_bytes(budget),
        "budget_slots": str(base["config"]["memory_length"]),
    }


def _states(record: Record, *arms: str) -> str:
    """Return the bytes of one lane's memory, the least and the most of some arms."""
    sizes = sorted(
        state_bytes(record, arm, measure)
        for (arm, measure) in summary(record)
        if arm in arms
    )
    least, most = in_bytes(sizes[0]), in_bytes(sizes[-1])
    if least == most:
        return most
    return f"{least.removesuffix(most[-3:])} to {most}"  # the unit once


def _text(found: Records) -> dict[str, str]:
    coarse, tokens = found["compressive"], found["memory-tokens"]
    change = _changes(found)
    queue, over, noise = _equal_slots(coarse)
    about = coarse["preset"]["arms"]["xl"]["measures"]
    lengths = sorted(one["memory_length"] for one in about.values())
    enough, most = int(queue.split()[1]), lengths[-1]
    few = lengths[lengths.index(enough) - 1]

    def slots(count: int) -> float:
        return mean(_bits(coarse, "xl", f"memory {count}"))

    return {
        "recurrence": span(change["no memory"]),
        "text_compressed": span(change["Compressive, convolution"], "+.3f"),
        "compressed_most": f"{max(over.values()):.3f}",
        "text_noise": f"{noise:.3f}",
        "text_half": span(change["top half"], "+.3f"),
        "text_written": span(change["Memory Transformer-XL"], "+.3f"),
        "text_tokens": span(change["RMT"], "+.3f"),
        "text_tokens_state": _states(tokens, *(f"RMT {m}" for m in _tokens(tokens))),
        "text_gate": span(change["gated"], "+.3f"),
        "bits_one": span(change["1 kv_head"], "+.3f"),
        "slots_few": str(few),
        "slots_enough": str(enough),
        "slots_most": str(most),
        "slots_gain": f"{slots(few) - slots(enough):.3f}",
        "slots_change": f"{slots(most) - slots(enough):+.3f}",
        "absolute": span(_longer(found["positions"], "absolute")),
    }


def _distances(found: Records) -> dict[str, str]:
    recall, layers = found["recall"], found["memory-layers-recall"]
    queue = recall["preset"]["arms"]["xl"]["config"]["memory_length"]
    far, reach = _reaches(recall)
    delays = measured(layers, "all", "test")[0]["accuracy"]
    last = max(map(int, delays))
    config = layers["preset"]["arms"]["all"]["config"]
    grown, written = found["curriculum"], found["written-facts"]
    tokens = partial(_right, grown, "1 to 5 segments")
    slots = partial(_right, written, "GRU, 3 back")
    documents = found["documents"]
    document = documents["preset"]["arms"]["recurrent"]["config"]
    one = measured(documents, "recurrent", "test")
    lost = mean(x["answers"]["1"] - x["answers"]["3"] for x in one)
    first = min(_recalled(layers, "first", int(d), int(d)) for d in delays)
    arms = recall["preset"]["arms"]
    return {
        **{
            name: f"{share:.{0 if share == 1 / 4 else 1}%}"
            for name, share in _chances().items()
        },
        "recall_layers": str(arms["xl"]["config"]["layers"]),
        "recall_state": _states(recall, "max", "xl"),
        "max_exact": str(arms["max"]["config"]["memory_length"]),
        "max_coarse": str(arms["max"]["config"]["compressed_length"]),
        "first_slots": str(
            layers["preset"]["arms"]["first"]["config"]["memory_length"]
        ),
        "first_state": _states(layers, "first", "all"),
        "written_detached": f"{_right(written, 'GRU, 0 back', 4):.0%}",
        "documents_guess": f"{one[0]['chance']:.0%}",
        "documents_segment": str(document["segment_length"]),
        "documents_tokens": str(document["memory_tokens"]),
        "documents_width": str(document["d_model"]),
        "near": str(queue),
        "near_xl": f"{_recalled(recall, 'xl', 0, queue):.0%}",
        "far": str(far),
        "far_xl": f"{_recalled(recall, 'xl', far, reach):.0%}",
        "far_max": f"{_recalled(recall, 'max', far, reach):.0%}",
        "reach": str(reach),
        "first_far": str(last),
        "first_right": f"{first:.0%}",
        "all_right": f"{_recalled(layers, 'all', last, last):.0%}",
        "short_back": str(SHORT),
        "half_slots": str(layers["preset"]["arms"]["top 4"]["config"]["memory_length"]),
        "all_slots": str(config["memory_length"]),
        "all_layers": str(config["layers"]),
        "facts_5": f"{tokens(5):.0%}",
        "facts_10": f"{tokens(10):.0%}",
        "facts_200": f"{tokens(200):.0%}",
        "facts_guess": f"{measured(grown, '1 segment', 'test')[0]['chance']:.0%}",
        "facts_state": in_bytes(state_bytes(grown, "1 to 5 segments", "test")),
        "written_4": f"{slots(4):.0%}",
        "written_5": f"{slots(5):.0%}",
        "written_10": f"{slots(10):.0%}",
        "written_xl": f"{_right(written, 'Transformer-XL, same state', 4):.0%}",
        "documents": span(_before_last(documents, "recurrent"), ".0%"),
        "documents_alone": span(_before_last(documents, "learned"), ".0%"),
        "documents_lost": f"{100 * lost:.1f}",
        "documents_state": in_bytes(state_bytes(documents, "recurrent", "test")),
    }


def _state(found: Records) -> dict[str, str]:
    text, copy, depth = found["memory-tokens"], found["copy"], found["copy-depth"]
    layers = text["preset"]["arms"]["no memory"]["config"]["layers"]
    one, many = "Transformer-XL 1", _segments(copy)[-1]
    config = copy["preset"]["arms"][f"RMT, {many} segments"]["config"]

    def copied(way: str) -> float:
        return _right(copy, f"{way}, {many} segments", many)

    guess = measured(copy, f"RMT, {many} segments", "test")[0]["chance"]
    [count] = measured(depth, "all segments back", "test")[0]["answers"]
    return {
        "small": in_bytes(state_bytes(text, one, "carried")),
        "small_m": str(layers),
        "small_xl": f"{-_over(text, one, 'no memory'):.3f}",
        "small_rmt": f"{-_over(text, f'RMT {layers}', 'no memory'):.3f}",
        "copy_length": str(many * config["segment_length"] // 2),
        "copy_state": in_bytes(state_bytes(copy, f"RMT, {many} segments", "test")),
        "copy_segments": str(many),
        "copy_rmt": f"{copied('RMT'):.0%}",
        "copy_xl": f"{copied('Transformer-XL, same state'):.0%}",
        "copy_guess": f"{guess:.1%}",
        "detached": f"{_right(depth, '0 segments back', int(count)):.0%}",
        "taught": f"{_right(depth, 'all segments back', int(count)):.0%}",
        **_equal(found),
    }


def _copies(record: Record, arm: str) -> list[float]:
    """Return right answers after the segments that an arm names, one for each seed."""
    count = arm.split()[-2]
    return sorted(one["answers"][count] for one in measured(record, arm, "test"))


def _steps(record: Record, arm: str) -> str:
    return str(record["preset"]["arms"][arm]["training"]["steps"])


def _equal(found: Records) -> dict[str, str]:
    """Return what memories of the same bytes answer over most segments."""
    turned, solved = found["reverse"], found["quadratic"]
    last = _segments(turned)[-1]

    def share(*names: str, of: Record = turned) -> str:
        shares = (_right(of, f"{name}, {last} segments", last) for name in names)
        return span(shares, ".0%")

    coarse = ("Compressive, max pooling", "Compressive, convolution")
    copied = partial(share, of=found["copy-all"])
    pairs = partial(share, of=found["retrieval"])
    few = f"RMT, {last} segments"
    return {
        "turned_tokens": share("RMT"),
        "turned_both": share("RMT with a cache"),
        "turned_written": share("Memory Transformer-XL"),
        "turned_compressive": share(*coarse),
        "turned_xl": share("Transformer-XL"),
        "turned_state": _states(turned, few),
        "solved_tokens": f"{_right(solved, 'RMT', 6):.0%}",
        "solved_xl": f"{_right(solved, 'Transformer-XL, same state', 6):.0%}",
        "solved_twice": f"{_right(solved, 'Transformer-XL, same slots', 6):.0%}",
        "copied_tokens": copied("RMT"),
        "copied_seeds": ", ".join(f"{x:.0%}" for x in _copies(found["copy-all"], few)),
        "copied_written": copied("Memory Transformer-XL"),
        "copied_compressive": copied(*coarse),
        "copied_xl": copied("Transformer-XL"),
        "few_state": _states(found["copy"], few),
        "few_steps": _steps(found["copy"], few),
        "many_steps": _steps(found["copy-all"], few),
        "pairs_state": _states(found["retrieval"], few),
        "pairs_written": pairs("Memory Transformer-XL"),
        "pairs_tokens": pairs("RMT"),
        "pairs_compressive": pairs(*coarse),
        "pairs_xl": pairs("Transformer-XL"),
    }


COSTED = {
    "max": "Compressive, max pooling",
    "one": "1 kv_head",
    "written": "Memory Transformer-XL",
    "tokens": "RMT",
}
"""Arms of the record of costs that the text names, by their names there."""


def _times(found: Records) -> dict[str, str]:
    costs, speed = found["costs"], found["evaluation-cost"]
    about = {
        f"{kind}_{name}": f"{_ratio(costs, kind, arm):.2f}"
        for name, arm in COSTED.items()
        for kind in ("update", "token")
    }
    names = speed["preset"]["arms"]["reuse"]["measures"]
    longest = max(int(name.split()[-1]) for name in names)
    spent = [
        mean(
            one["seconds"] / one["guessed"]
            for one in measured(speed, arm, f"attention {longest}")
        )
        for arm in ("window", "reuse")
    ]
    sizes = {run["arm"]: run["parameters"] for run in costs["runs"]}
    extra = sizes["Memory Transformer-XL"] / sizes["Transformer-XL"] - 1
    for kind in ("update", "token"):
        over = _ratio(costs, kind, "RMT") / _ratio(costs, kind, "no memory")
        about[f"over_{kind}"] = f"{over:.2f}"
    return {
        **about,
        "fewer_one": f"{1 - sizes['1 kv_head'] / sizes['Transformer-XL']:.0%}",
        "speed": f"{spent[0] / spent[1]:.0f}",
        "speed_length": str(longest),
        "extra_written": f"{extra:.0%}",
        "decoding_written": in_bytes(_decoding(costs, "Memory Transformer-XL")),
        "alone_decoding": in_bytes(_decoding(costs, "no memory")),
        "decoding_one": in_bytes(_decoding(costs, "1 kv_head")),
        "decoding_xl": in_bytes(_decoding(costs, "Transformer-XL")),
    }


# --- the table, and what came out of the claims

SHOWN = {
    "Compressive, max pooling": "Compressive Transformer, max pooling",
    "Compressive, convolution": "Compressive Transformer, convolution",
    "gated": "gated Transformer-XL",
    "1 kv_head": "one head",
    "Memory Transformer-XL": "written slots",
    "RMT": "memory tokens",
    "RMT and cache": "memory tokens with a cache",
}
"""Names of memories on the page, by the arms of costs where they differ."""

NONE = "not measured"

SHORT = 16
"""Tokens back at which the table compares layers that have slots."""


def _table(found: Records) -> str:
    costs = found["costs"]
    text, tasks = _on_text(found), _on_tasks(found)
    sizes = {run["arm"]: run["parameters"] for run in costs["runs"]}
    head = (
        "memory",
        "bytes in costs",
        "time of an update",
        "time of a token",
        "bytes in decoding",
        "parameters",
        "on text",
        "on tasks",
    )
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * 5} --- | --- |"]
    base = sizes["Transformer-XL"]
    for arm, size in sizes.items():
        cells = (
            SHOWN.get(arm, arm),
            in_bytes(state_bytes(costs, arm, "test")),
            f"{_ratio(costs, 'update', arm):.2f}",
            f"{_ratio(costs, 'token', arm):.2f}",
            in_bytes(_decoding(costs, arm)),
            f"{size / base - 1:+.0%}",
            text.get(arm, NONE),
            tasks.get(arm, NONE),
        )
        lines.append(f"| {' | '.join(cells)} |")
        if arm == "Transformer-XL":
            first = " | ".join(["first layer", *[NONE] * 6, tasks["first layer"]])
            lines.append(f"| {first} |")
    return "\n".join(lines)


def _linked(name: str, text: str) -> str:
    return f"[{text}](results.md#{name}cpu)"


def _on_text(found: Records) -> dict[str, str]:
    """Return bits over a queue of the same state, by the arms of costs."""
    change = _changes(found)
    tokens, written = found["memory-tokens"], found["written-text"]
    coarse, recurrence = found["compressive"], found["recurrence"]
    queue = _equal_slots(coarse)[0]
    [both] = [arm for arm in tokens["preset"]["arms"] if " and " in arm]
    about = {
        "no memory": (
            "recurrence",
            in_bytes(state_bytes(recurrence, "memory", "carried")),
        ),
        "Compressive, convolution": (
            "compressive",
            in_bytes(state_bytes(coarse, "xl", queue)),
        ),
        "gated": (
            "gate-and-compression",
            _states(found["gate-and-compression"], "gated exact"),
        ),
        "top half": ("memory-layers", _states(found["memory-layers"], "all")),
        "1 kv_head": ("cheaper-layers", _states(found["cheaper-layers"], "1 kv_head")),
        "Memory Transformer-XL": (
            "written-text",
            _states(written, _written(written)[0]),
        ),
        "RMT": (
            "memory-tokens",
            _states(tokens, *(f"RMT {m}" for m in _tokens(tokens))),
        ),
        "RMT and cache": ("memory-tokens", _states(tokens, both)),
    }
    cells = {
        arm: _linked(name, f"{span(change[arm], '+.3f')} at {size}")
        for arm, (name, size) in about.items()
    }
    cells["no memory"] = cells["no memory"].replace(" at ", " against ")
    return {**cells, "Transformer-XL": "0"}


def _on_tasks(found: Records) -> dict[str, str]:
    """Return right answers in tasks, by the arms of costs."""
    recall, gated = found["recall"], found["gated-recall"]
    layers, written = found["memory-layers-recall"], found["written-facts"]
    exact = gated["preset"]["arms"]["compressed"]["config"]["memory_length"]
    near = [f"{_recalled(gated, x, 0, exact):.0%}" for x in ("exact", "gated exact")]

    def back(arm: str) -> str:
        share = _recalled(recall, arm, *_reaches(recall))
        return _linked("recall", f"recall {share:.0%}")

    def short(arm: str) -> str:
        share = _recalled(layers, arm, SHORT, SHORT)
        return _linked("memory-layers-recall", f"short recall {share:.0%}")

    slots = f"{_right(written, 'GRU, 3 back', 4):.0%}"
    cache = f"{_right(written, 'Transformer-XL, same state', 4):.0%}"
    cells: dict[str, list[str]] = {
        "Transformer-XL": [
            back("xl"),
            short("all"),
            _linked("written-facts", f"facts {cache}"),
        ],
        "first layer": [short("first")],
        "Compressive, max pooling": [back("max")],
        "Compressive, convolution": [back("convolution, attention")],
        "gated": [
            _linked(
                "gated-recall",
                f"recall up to {exact} tokens back {near[1]}, without a gate {near[0]}",
            )
        ],
        "top half": [short("top 4")],
        "Memory Transformer-XL": [_linked("written-facts", f"facts {slots}")],
    }
    for name, task in EQUAL.items():  # every memory at the same bytes
        last = _segments(found[name])[-1]
        for arm, own in ALL_EQUAL.items():
            share = _right(found[name], f"{own}, {last} segments", last)
            said = _linked(name, f"{task} {share:.0%}")
            cells.setdefault(arm, []).append(said)
    return {arm: ", ".join(said) for arm, said in cells.items()}


EQUAL = {"reverse": "reversal", "copy-all": "copy", "retrieval": "pairs"}
"""Records that hold every memory at the same bytes, and the names of their tasks."""

ALL_EQUAL = {
    arm: arm
    for arm in (
        "no memory",
        "Transformer-XL",
        "Compressive, max pooling",
        "Compressive, convolution",
        "Memory Transformer-XL",
        "RMT",
    )
} | {"RMT and cache": "RMT with a cache"}
"""Arms of the record of costs, and their names in those."""


def _names() -> str:
    return "\n".join(
        f"- [{memory.name}]({memory.chapter}): {memory.what}" for memory in MEMORIES
    )


def _memories(folder: Path | None) -> str:
    """Return a line for each memory: its claims that a record speaks to."""
    lines = []
    for memory in MEMORIES:
        kinds: dict[str, list[str]] = {}
        for claim in claims.CLAIMS:
            if claim.paper in memory.papers:
                kinds.setdefault(claims.look(claim, folder).verdict, []).append(
                    claim.name
                )
        said = " ".join(
            f"*{verdict[0].upper()}{verdict[1:]}:* {'; '.join(kinds[verdict])}."
            for verdict in claims.VERDICTS[:4]
            if verdict in kinds
        )
        if said:
            name = f"[{memory.name}](claims.md#{memory.papers[0]})"
            lines.append(f"- **{name}.** {said}")
    return "\n".join(lines)
