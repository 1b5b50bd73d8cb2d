"""Records, drawn: one figure for each kind of result, in the house style."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from labml_style.figures import show, use_style
from labml_style.figures.palette import INK, MUTED
from labml_style.lab import results
from labml_style.lab.results import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Drawing", "draw", "drawing"]

MARKS = ("s-", "o--", "^:", "D-.", "v-", "P--")
FAR = 7
"""Points are left out so many times farther from the best than the median is."""


class Drawing(NamedTuple):
    """A figure of a record.

    Attributes:
        figure: of matplotlib, in the house style.
        alt: what it shows, for readers who do not see it.
        caption: a sentence or two under it.
    """

    figure: Figure
    alt: str
    caption: str


def draw(record: Record, by: str | None = None) -> None:
    """Draw a record and show it; `by` is as in `drawing`."""
    figure, alt, caption = drawing(record, by)
    show(figure, alt=alt, caption=caption)


def drawing(record: Record, by: str | None = None) -> Drawing:
    """Draw a record in the way that fits what it measured.

    Args:
        record: as `results.load` gives it.
        by: `"position"` draws bits by position in the segment, `"state"` by the bytes
            of the state.

    Raises:
        ValueError: `by` is something else.
    """
    if by is not None:
        ways = {"position": _positions, "state": _states}
        if by not in ways:
            raise ValueError(f"by is {by!r}; expected 'position', 'state' or None")
        return ways[by](record)
    first = next(iter(record["runs"][0]["measures"].values()))
    for name, way in WAYS.items():
        if name in first:
            return way(record)
    if 2 * len(_lines(record)) > len(record["preset"]["arms"]):
        return _slots(record)
    return _dots(record)


def _arms(record: Record) -> list[str]:
    """Return the arms in their order; a record sorts the names in its preset."""
    return list(dict.fromkeys(run["arm"] for run in record["runs"]))


def _unit(record: Record) -> str:
    words = record["preset"].get("tokens") == "words"
    return "bits per word" if words else "bits per byte"


def _about(record: Record) -> str:
    """Return what the caption of every figure says."""
    seeds = dict.fromkeys(run["seed"] for run in record["runs"])
    corpus = record["corpus"]["name"]
    text = "drawn samples" if record["corpus"]["source"] == "drawn" else corpus
    some = "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
    return f"Record {record['title']}: {text}, {some}."


# --- bits


def _dots(record: Record) -> Drawing:
    """Draw a row for each arm and measure: a dot is a seed, a bar their mean."""
    from matplotlib import pyplot

    bits = results.summary(record)
    order = sorted(bits, key=lambda key: -statistics.mean(bits[key]))
    arms = [arm for arm, _ in bits]
    names = {key: _named(*key, alone=arms.count(key[0]) == 1) for key in order}
    colours = {arm: f"C{i % 6}" for i, arm in enumerate(dict.fromkeys(arms))}
    with use_style():
        figure, axes = pyplot.subplots(figsize=(5.2, 0.9 + 0.26 * len(order)))
        for y, key in enumerate(order):
            mean, colour = statistics.mean(bits[key]), colours[key[0]]
            axes.plot(bits[key], [y] * len(bits[key]), "o", color=colour, alpha=0.6)
            axes.plot([mean], [y], "|", color=colour, markersize=16)
            place: dict[str, Any] = dict(
                xytext=(8, 0), textcoords="offset points", va="center"
            )
            label = f"{mean:.3f}"
            axes.annotate(
                label, (max(bits[key]), y), color=colour, fontsize=10, **place
            )
        axes.set_yticks(range(len(order)), [names[key] for key in order])
        axes.set(xlabel=_unit(record), ylim=(-0.6, len(order) - 0.4))
        axes.margins(x=0.14)
        axes.grid(axis="x")
        axes.grid(False, axis="y")
    said = ", ".join(
        f"{names[k]} {statistics.mean(bits[k]):.3f}" for k in reversed(order)
    )
    return Drawing(
        figure,
        alt=f"Dots in a row for each arm, best at the bottom. Means: {said}.",
        caption=f"{_about(record)} A dot is a seed, a bar the mean; left is better.",
    )


def _positions(record: Record) -> Drawing:
    """Draw bits by position in the segment: a line for each arm and measure.

    A longer segment is drawn up to the length of the shortest. Names stand above the
    axes, because the lines run together at the end.
    """
    from matplotlib import pyplot

    found: dict[tuple[str, str], list[list[float]]] = {}
    for run in record["runs"]:
        for measure, one in run["measures"].items():
            found.setdefault((run["arm"], measure), []).append(one["by_position"])
    length = min(len(seed) for seeds in found.values() for seed in seeds)
    arms, said, totals = [arm for arm, _ in found], [], results.summary(record)
    with use_style():
        figure, axes = pyplot.subplots(figsize=(5.2, 2.5))
        for i, ((arm, measure), seeds) in enumerate(found.items()):
            name = _named(arm, measure, alone=arms.count(arm) == 1)
            columns = list(zip(*(seed[:length] for seed in seeds), strict=True))
            mean = [statistics.mean(column) for column in columns]
            spread = [statistics.stdev(c) if len(c) > 1 else 0.0 for c in columns]
            ends: Any = [
                [m + way * s for m, s in zip(mean, spread, strict=True)]
                for way in (-1, 1)
            ]
            bits = totals[arm, measure]
            label = f"{name}: {statistics.mean(bits):.3f}"
            if len(bits) > 1:
                label += f" ± {statistics.stdev(bits):.3f}"
            x, mark, colour = range(1, length + 1), MARKS[i % len(MARKS)], f"C{i % 6}"
            axes.fill_between(x, *ends, color=colour, alpha=0.2, linewidth=0)
            axes.plot(x, mean, mark, color=colour, markersize=3.5, label=label)
            said.append(f"{name} {mean[0]:.2f} to {mean[-1]:.2f}")
        axes.set(xlabel="position in the segment", ylabel=_unit(record))
        above: dict[str, Any] = dict(loc="lower left", bbox_to_anchor=(-0.12, 1.0))
        axes.legend(ncols=2, frameon=False, fontsize=8.5, columnspacing=1, **above)
    return Drawing(
        figure,
        alt=f"{_unit(record).capitalize()} along a segment, from its first position to "
        f"number {length}: {'; '.join(said)}.",
        caption=f"{_about(record)} A line is the mean, a band the standard deviation "
        "over seeds; above, the bits over all positions. Of longer segments the first "
        f"{length} positions are drawn.",
    )


def _states(record: Record) -> Drawing:
    """Draw bits by the bytes of the state: a dot for each seed, a name for each arm.

    States that occur stand side by side, from the smallest on, not to scale.
    """
    from matplotlib import pyplot

    bits, said = results.summary(record), []
    arms = [arm for arm, _ in bits]
    sizes = {key: results.state_bytes(record, *key) for key in bits}
    places = sorted({*sizes.values()})
    with use_style():
        figure, axes = pyplot.subplots(figsize=(5.2, 3.1))
        for i, size in enumerate(places):
            ends = []
            for j, key in enumerate(key for key in bits if sizes[key] == size):
                name = _named(*key, alone=arms.count(key[0]) == 1)
                mean, x = statistics.mean(bits[key]), i + 0.06 * j
                seeds: Any = dict(color="C1", markersize=4, alpha=0.6)
                axes.plot([x] * len(bits[key]), bits[key], "o", **seeds)
                axes.plot([x], [mean], "_", color="C1", markersize=12)
                long = name.replace(", ", ",\n") if len(name) > 14 else name
                ends.append((mean, long, INK))
                said.append(f"{name} {results.in_bytes(size)}, {mean:.3f}")
            _name(axes, i + 0.06 * len(ends) + 0.06, ends, size=9)
        axes.set_xticks(range(len(places)), [results.in_bytes(n) for n in places])
        axes.set(xlabel="state of a lane", ylabel=_unit(record))
        axes.set_xlim(-0.25, len(places) - 0.75)
    return Drawing(
        figure,
        alt=f"{_unit(record).capitalize()} by bytes of the state. Means: "
        f"{'; '.join(said)}.",
        caption=f"{_about(record)} A dot is a seed, a bar the mean; lower is better, "
        "and so is left.",
    )


def _named(arm: str, measure: str, alone: bool) -> str:
    if alone:
        return arm
    return measure if measure.startswith(arm) else f"{arm}, {measure}"


def _lines(record: Record) -> dict[str, list[str]]:
    """Return the measures of arms that were measured with several memories."""
    found: dict[str, list[str]] = {}
    for arm, about in record["preset"]["arms"].items():
        names = sorted(about["measures"], key=lambda name: _reach(record, arm, name))
        if len({_reach(record, arm, name) for name in names}) > 2:
            found[arm] = names
    return found


def _reach(record: Record, arm: str, measure: str) -> int:
    """Return the slots of a measure, or the tokens of its window."""
    return _window(record, arm, measure) or results.slots(record, arm, measure)


def _window(record: Record, arm: str, measure: str) -> int:
    window: int = record["preset"]["arms"][arm]["measures"][measure].get("window") or 0
    return window


def _slots(record: Record) -> Drawing:
    """Draw a line for each arm over its slots in evaluation, or over its window."""
    from matplotlib import pyplot

    bits, lines = results.summary(record), _lines(record)
    windows = any(_window(record, *key) for key in bits)
    if windows:  # what differs is what a guess costs, not how good it is
        values, unit = _times(record), "milliseconds a guess"
    else:
        values, unit = bits, _unit(record)

    def reach(arm: str, name: str) -> int:
        # Where windows are compared with memories, the tokens that are seen count.
        segment: int = record["preset"]["arms"][arm]["config"]["segment_length"]
        seen = segment if windows and not _window(record, arm, name) else 0
        return _reach(record, arm, name) + seen

    means = {key: statistics.mean(found) for key, found in values.items()}
    ranked = sorted(means.values())
    most = ranked[0] + FAR * (statistics.median(ranked) - ranked[0])
    left_out = [] if windows else [key for key in means if means[key] > most]
    drawn = [key for key in means if key not in left_out and key[0] in lines]
    ends, places, said = [], sorted({reach(*key) for key in drawn}), []
    with use_style():
        figure, axes = pyplot.subplots(figsize=(5.2, 3.1))
        for i, arm in enumerate(_arms(record)):
            colour, mark = f"C{i % 6}", MARKS[i % len(MARKS)]
            names = [m for m in lines.get(arm, ()) if (arm, m) not in left_out]
            if not names:
                [name, *_] = record["preset"]["arms"][arm]["measures"]
                axes.axhline(means[arm, name], color=colour, linewidth=1, linestyle=":")
                ends.append((means[arm, name], arm, colour))
                continue
            x = [places.index(reach(arm, name)) for name in names]
            y = [means[arm, name] for name in names]
            seeds = [values[arm, name] for name in names]
            spread = [statistics.stdev(s) if len(s) > 1 else 0.0 for s in seeds]
            how: dict[str, Any] = dict(color=colour, markersize=4, elinewidth=1)
            axes.errorbar(x, y, spread, fmt=mark, **how)
            ends.append((y[-1], arm, colour))
            said.append(f"{arm} {y[0]:.3g} to {y[-1]:.3g}")
        axes.set_xticks(range(len(places)), [str(place) for place in places])
        if len(places) > 9:
            axes.tick_params(axis="x", labelrotation=45)
        axes.set(xlabel="slots in evaluation, exact and compressed", ylabel=unit)
        if windows:
            axes.set(yscale="log", xlabel="tokens that a guess sees")
            axes.yaxis.set_major_formatter("{x:g}")
        _name(axes, len(places) - 0.75, ends)
    caption = _about(record)
    if len(record["runs"]) > len(_arms(record)):
        caption += " Bars: standard deviation over seeds."
    if left_out:
        far = ", ".join(f"{', '.join(key)} ({means[key]:.2f})" for key in left_out)
        caption += f" Not drawn, far above: {far}."
    return Drawing(
        figure,
        alt=f"{unit.capitalize()} by slots, a line for each arm. From fewest to most: "
        f"{'; '.join(said)}.",
        caption=caption,
    )


def _times(record: Record) -> dict[tuple[str, str], list[float]]:
    found: dict[tuple[str, str], list[float]] = {}
    for run in record["runs"]:
        for name, one in run["measures"].items():
            spent = 1e3 * one["seconds"] / one["guessed"]
            found.setdefault((run["arm"], name), []).append(spent)
    return found


def _name(
    axes: Axes,
    x: float,
    ends: Sequence[tuple[float, str, str]],
    size: float | None = None,
) -> None:
    """Write names at the ends of lines, one above the other where they are close."""
    axes.figure.canvas.draw()
    low, height, points = -1e9, 13.0, 72 / axes.figure.dpi
    for y, name, colour in sorted(ends):
        place = axes.transData.transform((x, y))[1] * points
        moved = max(place, low)
        low = moved + height * (1 + name.count("\n"))
        axes.annotate(
            name,
            (x, y),
            xytext=(0, moved - place),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=size,
            annotation_clip=False,
        )


# --- what probes measure


def _delays(record: Record) -> Drawing:
    """Draw a panel for each arm: right answers by tokens back, a line for each seed."""
    from matplotlib import pyplot

    right: dict[str, list[list[float]]] = {}
    [measure, *_] = record["runs"][0]["measures"]
    delays = sorted(map(int, record["runs"][0]["measures"][measure]["accuracy"]))
    for run in record["runs"]:
        found = run["measures"][measure]["accuracy"]
        right.setdefault(run["arm"], []).append([found[str(d)] for d in delays])
    first, *others = right
    usual = [statistics.mean(column) for column in zip(*right[first], strict=True)]
    wide = 2 if len(others) < 5 else 3
    rows = -(-len(others) // wide)
    height = 1.6 if wide == 2 else 1.4
    with use_style():
        figure, panels = pyplot.subplots(
            rows,
            wide,
            figsize=(5.2, height * rows),
            sharex=True,
            sharey=True,
            squeeze=False,
        )
        for axes in panels.flat[len(others) :]:
            axes.set_axis_off()
        for axes, arm in zip(panels.flat, others, strict=False):
            axes.plot(delays, usual, color="C1", linewidth=1, linestyle="--")
            for seed in right[arm]:
                axes.plot(delays, seed, color="C2", linewidth=1.2)
            title = arm if wide == 2 else arm.replace(", ", ",\n")
            axes.set_title(title, fontsize=10 if wide == 2 else 9)
            axes.set(ylim=(0, 1.05), yticks=[0, 0.5, 1])
        for column, axes in enumerate(panels[-1]):
            last = axes if axes.axison else panels[-2][column]
            last.tick_params(labelbottom=True)
            last.set_xlabel("tokens back")
    means = {
        arm: [statistics.mean(column) for column in zip(*seeds, strict=True)]
        for arm, seeds in right.items()
    }
    half = {
        arm: max(
            (d for d, share in zip(delays, row, strict=True) if share > 0.5), default=0
        )
        for arm, row in means.items()
    }
    said = ", ".join(f"{arm} {back}" for arm, back in half.items())
    return Drawing(
        figure,
        alt="Panels of right answers by tokens back. In the mean over half of the "
        f"answers are right up to so many tokens back: {said}.",
        caption=f"{_about(record)} Share of right answers; a line is a seed. Dashed: "
        f"{first}, the mean of its seeds.",
    )


def _answers(record: Record) -> Drawing:
    """Draw right answers by segments: a line for each way, a dot for each seed.

    Arms whose names differ in `, N segments` at the end alone are one line. Where all
    have the same number of segments, each way is a row.
    """
    from matplotlib import pyplot

    found: dict[str, dict[int, list[float]]] = {}
    for run in record["runs"]:
        way = re.sub(r", \d+ segments$", "", run["arm"])
        for count, share in next(iter(run["measures"].values()))["answers"].items():
            seeds = found.setdefault(way, {}).setdefault(int(count), [])
            seeds.append(100 * share)
    counts = sorted({count for shares in found.values() for count in shares})
    first = next(iter(record["runs"][0]["measures"].values()))
    chance, by = 100 * first["chance"], first.get("by", "segments of a sample")
    guess: dict[str, Any] = dict(color=MUTED, linewidth=1, zorder=0)
    caption = f"{_about(record)} A dot is a seed, the thin grey line a guess."
    means = {
        way: {n: statistics.mean(seeds) for n, seeds in shares.items()}
        for way, shares in found.items()
    }
    with use_style():
        if len(counts) == 1:
            figure, axes = pyplot.subplots(figsize=(5.2, 0.9 + 0.3 * len(found)))
            for y, (way, shares) in enumerate(found.items()):
                seeds = shares[counts[0]]
                axes.plot(seeds, [y] * len(seeds), "o", color=f"C{y % 6}", alpha=0.6)
                mean = means[way][counts[0]]
                axes.plot([mean], [y], "|", color=f"C{y % 6}", markersize=16)
            axes.axvline(chance, **guess)
            axes.set_yticks(range(len(found)), list(found))
            axes.set(xlabel="right answers, %", xlim=(0, 104))
            axes.set(ylim=(len(found) - 0.4, -0.6))
            axes.grid(axis="x")
            axes.grid(False, axis="y")
        else:
            figure, axes = pyplot.subplots(figsize=(5.2, 2.9))
            for i, (way, shares) in enumerate(found.items()):
                colour, again = f"C{i % 6}", i // 6  # hollow, with another mark
                mark = MARKS[(i + again) % len(MARKS)]
                how: dict[str, Any] = dict(color=colour, markersize=5)
                how |= dict(markerfacecolor="none") if again else {}
                x = [counts.index(n) for n in sorted(shares)]
                y_ = [means[way][n] for n in sorted(shares)]
                axes.plot(x, y_, mark, label=way, **how)
                for n, seeds in shares.items():
                    place = [counts.index(n)] * len(seeds)
                    axes.plot(place, seeds, "o", color=colour, ms=3, alpha=0.4)
            axes.axhline(chance, **guess)
            axes.set_xticks(range(len(counts)), [str(n) for n in counts])
            axes.set(xlabel=by, ylabel="right answers, %")
            axes.set(ylim=(0, 104))
            above: dict[str, Any] = dict(loc="lower left", bbox_to_anchor=(-0.02, 1.0))
            axes.legend(ncols=2, frameon=False, fontsize=9, **above)
    said = "; ".join(
        f"{way} " + ", ".join(f"{row[n]:.0f} at {n}" for n in sorted(row))
        for way, row in means.items()
    )
    return Drawing(
        figure,
        alt=f"Right answers in per cent, by {by}: {said}.",
        caption=caption,
    )


def _ages(record: Record) -> Drawing:
    """Draw attention per slot by age, oldest left, a dot for each seed."""
    from matplotlib import pyplot

    [(arm, about)] = record["preset"]["arms"].items()
    config = about["config"]
    kinds = ("compressed", "memory", "segment")
    found = [one["by_age"]["shares"] for one in _first(record, arm)]
    six = len(found[0]) // 3
    means: dict[str, list[float]] = {}
    with use_style():
        figure, axes = pyplot.subplots(figsize=(5.2, 2.9))
        for i, (kind, colour) in enumerate(zip(kinds, ("C2", "C1", "C0"), strict=True)):
            width = config[f"{kind}_length"] / six
            rows = [
                [100 * x / width for x in row[six * i : six * (i + 1)]] for row in found
            ]
            x = range(six * i, six * (i + 1))
            for row in rows:
                axes.plot(x, row, "o", color=colour, markersize=4, alpha=0.6)
            means[kind] = [
                statistics.mean(column) for column in zip(*rows, strict=True)
            ]
            axes.plot(x, means[kind], color=colour, linewidth=1)
        axes.set(yscale="log", ylabel="% of attention, per slot")
        axes.set_xticks([six * (i + 0.5) - 0.5 for i in range(3)], kinds)
        ticks = [0.5, 1, 2, 5]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    said = "; ".join(
        f"{kind} {row[0]:.2f} to {row[-1]:.2f}" for kind, row in means.items()
    )
    return Drawing(
        figure,
        alt=f"Per cent of attention per slot, from oldest to newest: {said}.",
        caption=f"{_about(record)} Attention by the age of what it goes to, oldest "
        "left. A dot is a seed, a line their mean; the scale is logarithmic.",
    )


def _counts(record: Record) -> Drawing:
    """Draw which share of the first arm's bits others save, by how rare words are."""
    from matplotlib import pyplot

    first, *others = _arms(record)
    usual = _first(record, first)
    classes = list(usual[0]["by_count"])
    names = results._classes(classes)
    ends, said = [], []
    with use_style():
        figure, axes = pyplot.subplots(figsize=(5.2, 2.9))
        for i, arm in enumerate(others):
            colour, mark = f"C{i + 1}", MARKS[i]
            saved = [
                [
                    100 * (1 - results._per_word(one, c) / results._per_word(base, c))
                    for one, base in zip(_first(record, arm), usual, strict=True)
                ]
                for c in classes
            ]
            mean = [statistics.mean(row) for row in saved]
            axes.plot(range(len(classes)), mean, mark, color=colour, markersize=4)
            for x, row in enumerate(saved):
                axes.plot([x] * len(row), row, "o", color=colour, ms=3, alpha=0.5)
            ends.append((mean[-1], arm, colour))
            said.append(f"{arm} {', '.join(f'{x:.1f}' for x in mean)}")
        axes.axhline(0, color=MUTED, linewidth=1, linestyle=":")
        axes.set_xticks(range(len(classes)), names)
        axes.set(
            xlabel="occurrences in training", ylabel=f"% of bits saved over {first}"
        )
        _name(axes, len(classes) - 0.85, ends)
    return Drawing(
        figure,
        alt=f"Per cent of the bits of {first} that are saved, from words never seen to "
        f"the most frequent: {'; '.join(said)}.",
        caption=f"{_about(record)} A dot is a seed, a line their mean.",
    )


def _rates(record: Record) -> Drawing:
    """Draw a grid: a row for each way, a column for each rate; arms are `way, rate`."""
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    arms = _arms(record)
    ways = list(dict.fromkeys(arm.partition(", rate ")[0] for arm in arms))
    rates = list(dict.fromkeys(arm.partition(", rate ")[2] for arm in arms))
    found = {arm: _first(record, arm) for arm in arms}
    bits = {arm: statistics.mean(x["bits"] for x in found[arm]) for arm in arms}
    failed = {arm: sum(map(results.fails, found[arm])) for arm in arms}
    low, high = min(bits.values()), found[arms[0]][0]["blind"]
    said = []
    with use_style():
        figure, axes = pyplot.subplots(figsize=(5.2, 0.8 + 0.21 * len(ways)))
        for y, way in enumerate(ways):
            for x, rate in enumerate(rates):
                arm = f"{way}, rate {rate}"
                share = max(high - bits[arm], 0.0) / max(high - low, 1e-9)
                share = 0.0 if failed[arm] else share
                axes.add_patch(
                    Rectangle((x - 0.48, y - 0.45), 0.96, 0.9, fc="C0", alpha=share / 2)
                )
                text = f"{bits[arm]:.2f}"
                if failed[arm]:
                    text = f"{failed[arm]} of {len(found[arm])} fail"
                colour = "C1" if failed[arm] else INK
                place: dict[str, Any] = dict(ha="center", va="center", fontsize=9)
                axes.text(x, y, text, color=colour, **place)
            wrong = sum(failed[f"{way}, rate {rate}"] for rate in rates)
            best = min(bits[f"{way}, rate {rate}"] for rate in rates)
            said.append(f"{way} {wrong} fail, best {best:.2f}")
        axes.set_yticks(range(len(ways)), ways)
        axes.set_xticks(range(len(rates)), rates)
        axes.set(xlabel="learning rate", xlim=(-0.5, len(rates) - 0.5))
        axes.set(ylim=(len(ways) - 0.5, -0.5))
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return Drawing(
        figure,
        alt=f"A grid of {_unit(record)} by residual and learning rate. "
        + f"{'; '.join(said)}.",
        caption=f"{_about(record)} Mean {_unit(record)}; darker is better. A run fails "
        "if it ends less than 0.1 bits below a model that knows the frequency of bytes "
        "and nothing else.",
    )


def _first(record: Record, arm: str) -> list[dict[str, Any]]:
    """Return the arm's first measure, one for each seed."""
    runs = [run for run in record["runs"] if run["arm"] == arm]
    return [next(iter(run["measures"].values())) for run in runs]


def _costs(record: Record) -> Drawing:
    """Draw times over those of a Transformer-XL: a row for each arm."""
    from matplotlib import pyplot

    arms, said = _arms(record), []
    kinds = {
        "update": ("C0", "o", "of a training update"),
        "token": ("C1", "s", "of a token"),
    }
    with use_style():
        figure, axes = pyplot.subplots(figsize=(5.2, 0.9 + 0.34 * len(arms)))
        for shift, (kind, (colour, mark, label)) in zip(
            (-0.14, 0.14), kinds.items(), strict=True
        ):
            means = []
            for y, arm in enumerate(arms):
                seeds = [one["costs"][kind]["ratio"] for one in _first(record, arm)]
                how: dict[str, Any] = dict(color=colour, alpha=0.6, markersize=5)
                name = label if y == 0 else None
                axes.plot(seeds, [y + shift] * len(seeds), mark, label=name, **how)
                means.append(statistics.mean(seeds))
            for arm, mean in zip(arms, means, strict=True):
                said.append(f"{arm} {mean:.2f} {label}")
        axes.axvline(1, color=MUTED, linewidth=1, zorder=0)
        axes.set_yticks(range(len(arms)), arms)
        axes.set(xlabel="time over that of a Transformer-XL")
        axes.set_ylim(len(arms) - 0.4, -0.6)
        axes.grid(axis="x")
        axes.grid(False, axis="y")
        above: dict[str, Any] = dict(loc="lower left", bbox_to_anchor=(-0.02, 1.0))
        axes.legend(ncols=2, frameon=False, fontsize=9, **above)
    return Drawing(
        figure,
        alt=f"Times over those of a Transformer-XL, a row for each memory: "
        f"{'; '.join(said)}.",
        caption=f"{_about(record)} A dot is the median of the turns of a seed; left is "
        "faster.",
    )


WAYS: dict[str, Callable[[Record], Drawing]] = {
    "costs": _costs,
    "answers": _answers,
    "accuracy": _delays,
    "by_age": _ages,
    "by_count": _counts,
    "blind": _rates,
}
"""How a record is drawn, by what its first measure holds beside bits."""
