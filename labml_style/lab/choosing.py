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
    "copy-depth",
    "curriculum",
    "written-facts",
    "documents",
    "positions",
    "evaluation-cost",
    "costs",
)
"""Records that the page rests on, in their form for a CPU."""

LATER = ("copy-all",)
"""Records that the table shows where they are there."""

Records = Mapping[str, Record]


class Memory(NamedTuple):
    """A memory of the site, as the page lists it.

    Attributes:
        arm: its name in the record of costs, and on the page.
        chapter: page that explains it.
        what: what it stores, in a sentence.
        papers: keys of the papers whose claims are about it.
    """

    arm: str
    chapter: str
    what: str
    papers: tuple[str, ...] = ()


MEMORIES = (
    Memory(
        "Transformer-XL",
        "transformer_xl.ipynb",
        "The newest states of every layer, exactly.",
        ("dai2019transformerxl",),
    ),
    Memory(
        "Compressive Transformer",
        "compressive_transformer.ipynb",
        "Beside exact states, older ones in groups, a slot for each group.",
        ("rae2019compressive",),
    ),
    Memory(
        "gated Transformer-XL",
        "gating.ipynb",
        "As Transformer-XL, with a GRU gate in the place of each sum.",
        ("parisotto2019stabilizing",),
    ),
    Memory(
        "memory in some layers",
        "fewer_slots.ipynb",
        "As Transformer-XL, in chosen layers, or with outputs in the place of inputs.",
        ("rae2020deep", "ding2021ernie"),
    ),
    Memory(
        "cheaper layers",
        "cheaper_layers.ipynb",
        "As Transformer-XL, with fewer heads of keys and values, or fewer weights.",
        ("shazeer2019fast", "shazeer2020glu", "lan2019albert"),
    ),
    Memory(
        "Memory Transformer-XL",
        "memory_transformer_xl.ipynb",
        "Beside exact states, slots that a gate writes, shared by all layers.",
    ),
    Memory(
        "memory tokens",
        "recurrent_memory.ipynb",
        "A few vectors that are read before a segment and written after it.",
        ("burtsev2020memory", "bulatov2022recurrent", "bulatov2023scaling"),
    ),
)


def records(folder: Path | None = None) -> dict[str, Record]:
    """Load the records that the page rests on, by the names of their presets.

    Raises:
        ValueError: one is not there.
    """
    where = folder or results.FOLDER
    paths = {name: where / f"{name}@cpu.json" for name in (*NAMES, *LATER)}
    return {
        name: load(str(path))
        for name, path in paths.items()
        if name in NAMES or path.exists()
    }


def page(folder: Path | None = None) -> str:
    """Return the page as Markdown.

    Args:
        folder: of the records; None is that of the package.

    Raises:
        ValueError: a record is not there, or contradicts a recommendation.
    """
    found = records(folder)
    check(found)
    about = facts(found) | {"table": _table(found), "legend": _legend(found)}
    about["memories"] = _memories(folder)
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


def _over(record: Record, arm: str, other: str) -> float:
    """Return the bits of an arm less those of another, in the mean over seeds."""
    return mean(gaps(_bits(record, arm), _bits(record, other)))


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


def _half(found: Records) -> float:
    """Return the bits of slots in the top half over as many bytes in all layers."""
    return _over(found["memory-layers"], "top 4, twice the slots", "all")


def _gate(found: Records) -> float:
    """Return the bits of gates over none, at equal parameters."""
    return _over(found["gate-and-compression"], "gated exact", "exact")


# --- what is recommended, against its record


def check(found: Records) -> None:
    """Raise a `ValueError` where a record contradicts a recommendation."""
    _streaming(found)
    _small(found)
    _facts_at_a_distance(found)
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


def _streaming(found: Records) -> None:
    """Check that at the same state a queue has the fewest bits on text."""
    best = partial(_best, "streaming text", least=True)
    coarse = found["compressive"]
    best(coarse, {"xl": 0.0, **_equal_slots(coarse)[1]}, "xl")
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
    far = {arm: _recalled(layers, arm, 16, 48) for arm in _arms(layers)}
    _best("facts within the slots of a layer", layers, far, "first")
    least, most = _reaches(recall)
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
        "written slots": _over(
            found["written-text"], *_written(found["written-text"])[::2]
        ),
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
    _best("small state, facts", copy, right, "RMT")


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
    base = found["costs"]["preset"]["arms"]["Transformer-XL"]
    return {
        "layers": span((c["layers"] for c in configs), ""),
        "width": span((c["d_model"] for c in configs), ""),
        "cost_layers": str(base["config"]["layers"]),
        "cost_width": str(base["config"]["d_model"]),
        "cost_segment": str(base["config"]["segment_length"]),
        "cost_lanes": str(base["batch"]),
        "budget": in_bytes(state_bytes(found["costs"], "Transformer-XL", "test")),
        "budget_slots": str(base["config"]["memory_length"]),
    }


def _text(found: Records) -> dict[str, str]:
    record, coarse = found["recurrence"], found["compressive"]
    saved = gaps(_bits(record, "alone", "carried"), _bits(record, "memory"))
    queue, over, noise = _equal_slots(coarse)
    written, _, same = _written(found["written-text"])
    about = coarse["preset"]["arms"]["xl"]["measures"]
    lengths = sorted(one["memory_length"] for one in about.values())
    enough, most = int(queue.split()[1]), lengths[-1]
    few = lengths[lengths.index(enough) - 1]

    def slots(count: int) -> float:
        return mean(_bits(coarse, "xl", f"memory {count}"))

    return {
        "recurrence": span(saved),
        "text_compressed": span(over.values(), "+.3f"),
        "text_noise": f"{noise:.3f}",
        "text_half": f"{_half(found):+.3f}",
        "text_written": f"{_over(found['written-text'], written, same):+.3f}",
        "text_tokens": span(_tokens(found["memory-tokens"]).values(), "+.3f"),
        "text_gate": f"{_gate(found):+.3f}",
        "bits_one": f"{_over(found['cheaper-layers'], '1 kv_head', 'plain'):+.3f}",
        "slots_few": str(few),
        "slots_enough": str(enough),
        "slots_most": str(most),
        "slots_gain": f"{slots(few) - slots(enough):.3f}",
        "slots_change": f"{slots(most) - slots(enough):+.3f}",
        "state_enough": in_bytes(state_bytes(coarse, "xl", queue)),
        "state_most": in_bytes(state_bytes(coarse, "xl", f"memory {most}")),
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
    one = measured(documents, "recurrent", "test")
    lost = mean(x["answers"]["1"] - x["answers"]["3"] for x in one)
    first = min(_recalled(layers, "first", int(d), int(d)) for d in delays)
    return {
        "near": str(queue),
        "near_xl": f"{_recalled(recall, 'xl', 0, queue):.0%}",
        "exact": str(queue),
        "far": str(far),
        "far_xl": f"{_recalled(recall, 'xl', far, reach):.0%}",
        "far_max": f"{_recalled(recall, 'max', far, reach):.0%}",
        "reach": str(reach),
        "first_far": str(last),
        "first_right": f"{first:.0%}",
        "all_right": f"{_recalled(layers, 'all', last, last):.0%}",
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
    [both] = [arm for arm in text["preset"]["arms"] if " and " in arm]

    def copied(way: str) -> float:
        return _right(copy, f"{way}, {many} segments", many)

    guess = measured(copy, f"RMT, {many} segments", "test")[0]["chance"]
    [count] = measured(depth, "all segments back", "test")[0]["answers"]
    return {
        "small": in_bytes(state_bytes(text, one, "carried")),
        "small_m": str(layers),
        "small_xl": f"{-_over(text, one, 'no memory'):.3f}",
        "small_rmt": f"{-_over(text, f'RMT {layers}', 'no memory'):.3f}",
        "both_text": f"{_over(text, both, both.partition(' and ')[2]):.3f}",
        "copy_state": in_bytes(state_bytes(copy, f"RMT, {many} segments", "test")),
        "copy_segments": str(many),
        "copy_rmt": f"{copied('RMT'):.0%}",
        "copy_xl": f"{copied('Transformer-XL, same state'):.0%}",
        "copy_guess": f"{guess:.1%}",
        "detached": f"{_right(depth, '0 segments back', int(count)):.0%}",
        "taught": f"{_right(depth, 'all segments back', int(count)):.0%}",
    }


COSTED = {
    "max": "Compressive, max pooling",
    "gated": "gated",
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
    return {
        **about,
        "speed": f"{spent[0] / spent[1]:.0f}",
        "speed_length": str(longest),
        "extra_written": f"{extra:.0%}",
        "decoding_written": in_bytes(_decoding(costs, "Memory Transformer-XL")),
        "alone_decoding": in_bytes(_decoding(costs, "no memory")),
        "decoding_one": in_bytes(_decoding(costs, "1 kv_head")),
        "decoding_xl": in_bytes(_decoding(costs, "Transformer-XL")),
    }


# --- the table, and what came out of the claims


def _table(found: Records) -> str:
    costs = found["costs"]
    text, tasks = _on_text(found), _on_tasks(found)
    sizes = {run["arm"]: run["parameters"] for run in costs["runs"]}
    head = (
        "memory",
        "bytes of memory",
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
            arm,
            in_bytes(state_bytes(costs, arm, "test")),
            f"{_ratio(costs, 'update', arm):.2f}",
            f"{_ratio(costs, 'token', arm):.2f}",
            in_bytes(_decoding(costs, arm)),
            f"{size / base - 1:+.0%}",
            text.get(arm, "not measured"),
            tasks.get(arm, "not measured"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _legend(found: Records) -> str:
    config = found["costs"]["preset"]["arms"]["Transformer-XL"]["config"]
    return (
        "[Costs](results.md#costscpu) are those of "
        f"{config['layers']} layers of width {config['d_model']} with segments of "
        f"{config['segment_length']}. Bytes are those of one lane, in decoding at the "
        "end of a segment. Times and parameters are over those of a Transformer-XL. "
        "*Top half*: slots in the top half of the layers, twice as many. *1 kv_head*: "
        "one head of keys and values for four of queries. *RMT*: memory tokens. *On "
        "text*: bits per byte over a Transformer-XL of the same bytes, each in its own "
        "record; less is better. There *no memory* has no bytes, *gated* and *1 "
        "kv_head* have the same parameters, and *RMT and cache* is over the cache. *On "
        "tasks*: right answers."
    )


def _on_text(found: Records) -> dict[str, str]:
    """Return bits over a queue of the same state, by the arms of costs."""

    def linked(name: str, text: str) -> str:
        return f"[{text}](results.md#{name}cpu)"

    alone = gaps(
        _bits(found["recurrence"], "alone", "carried"),
        _bits(found["recurrence"], "memory"),
    )
    tokens = _tokens(found["memory-tokens"])
    written, _, queue = _written(found["written-text"])
    both = _state(found)["both_text"]
    parts = found["cheaper-layers"]
    over = _equal_slots(found["compressive"])[1]
    return {
        "no memory": linked("recurrence", f"{mean(alone):+.3f}"),
        "Transformer-XL": "0",
        "Compressive, convolution": linked("compressive", span(over.values(), "+.3f")),
        "gated": linked("gate-and-compression", f"{_gate(found):+.3f}"),
        "top half": linked("memory-layers", f"{_half(found):+.3f}"),
        "1 kv_head": linked(
            "cheaper-layers", f"{_over(parts, '1 kv_head', 'plain'):+.3f}"
        ),
        "Memory Transformer-XL": linked(
            "written-text", f"{_over(found['written-text'], written, queue):+.3f}"
        ),
        "RMT": linked("memory-tokens", span(tokens.values(), "+.3f")),
        "RMT and cache": linked("memory-tokens", f"+{both}"),
    }


def _on_tasks(found: Records) -> dict[str, str]:
    """Return right answers in tasks, by the arms of costs."""
    recall, gated, copy = found["recall"], found["gated-recall"], found["copy"]
    layers, written = found["memory-layers-recall"], found["written-facts"]
    least, most = _reaches(recall)
    many = _segments(copy)[-1]

    exact = gated["preset"]["arms"]["compressed"]["config"]["memory_length"]
    near = [f"{_recalled(gated, x, 0, exact):.0%}" for x in ("exact", "gated exact")]

    def back(arm: str) -> str:
        share = f"{_recalled(recall, arm, least, most):.0%}"
        return f"[{share} at {least} to {most} tokens back](results.md#recallcpu)"

    def copied(way: str) -> str:
        share = f"{_right(copy, f'{way}, {many} segments', many):.0%}"
        return f"[{share} of a copy over {many} segments](results.md#copycpu)"

    equal: dict[str, str] = {}
    if "copy-all" in found:  # every memory at the same bytes
        record = found["copy-all"]
        last = max(_segments(record))
        for arm in ALL_COPY:
            share = _right(record, f"{ALL_COPY[arm]}, {last} segments", last)
            said = f"{share:.0%} of a copy over {last} segments, all at equal bytes"
            equal[arm] = f"[{said}](results.md#copy-allcpu)"

    half, everywhere = (
        f"{_recalled(layers, arm, 16, 16):.0%}" for arm in ("top 4", "all")
    )
    slots = f"{_right(written, 'GRU, 3 back', 4):.0%}"
    own = {
        "no memory": copied("no memory"),
        "Transformer-XL": f"{back('xl')}, {copied('Transformer-XL, same state')}",
        "Compressive, max pooling": back("max"),
        "Compressive, convolution": back("convolution, attention"),
        "gated": f"[{near[1]} up to {exact} tokens back, without a gate {near[0]}]"
        "(results.md#gated-recallcpu)",
        "top half": f"[{half} at 16 tokens back, all layers {everywhere}]"
        "(results.md#memory-layers-recallcpu)",
        "Memory Transformer-XL": f"[{slots} of facts after 4 segments]"
        "(results.md#written-factscpu)",
        "RMT": copied("RMT"),
    }
    return {
        arm: ", ".join(x[arm] for x in (own, equal) if arm in x)
        for arm in {**own, **equal}
    }


ALL_COPY = {
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
"""Arms of the record of costs, and their names in that of copies."""


def _memories(folder: Path | None) -> str:
    parts = []
    for memory in MEMORIES:
        name = memory.arm[0].upper() + memory.arm[1:]
        about = f"{memory.what} [Chapter]({memory.chapter})"
        if memory.papers:
            about += f", [claims](claims.md#{memory.papers[0]})"
        lines = [f"### {name}\n", f"{about}.\n"]
        kinds: dict[str, list[str]] = {}
        for claim in claims.CLAIMS:
            if claim.paper in memory.papers:
                kinds.setdefault(claims.look(claim, folder).verdict, []).append(
                    claim.name
                )
        for verdict in claims.VERDICTS:
            if verdict in kinds:
                said = "; ".join(kinds[verdict])
                lines.append(f"- *{verdict[0].upper()}{verdict[1:]}:* {said}.")
        if not kinds:
            lines.append("It has no paper, and its package gives no numbers.")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
