"""What papers publish of their own runs, drawn beside the records of the lab.

`bulatov2022recurrent.json` holds the share of right answers of the runs of the RMT
paper whose memory is as long as a segment, by task, model and number of segments. They
come from the tables of results in its repository, LM-RMT.

    from labml_style.lab.papers import published

    for way, shares in published("reverse").items():
        print(way, shares)  # by segments, a number for each run
"""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean
from typing import Any

from labml_style.lab.results import load

__all__ = ["beside", "published", "recorded"]

FILE = Path(__file__).with_name("bulatov2022recurrent.json")
RECORDS = {
    "copy": "copy-all@cpu",
    "reverse": "reverse@cpu",
    "retrieval": "retrieval@cpu",
}
WAYS = ("no memory", "Memory Transformer", "Transformer-XL", "RMT")

Shares = dict[str, dict[int, list[float]]]


def published(task: str) -> Shares:
    """Return the paper's right answers, by model and number of segments.

    Args:
        task: `"copy"`, `"reverse"`, `"retrieval"` or `"quadratic"`.

    Raises:
        ValueError: there is no such task.
    """
    tasks: dict[str, Any] = load(str(FILE))["right"]
    if task not in tasks:
        raise ValueError(f"task is {task!r}; expected one of {', '.join(tasks)}")
    return {
        way: {int(n): shares for n, shares in by.items()}
        for way, by in tasks[task].items()
    }


def recorded(title: str) -> Shares:
    """Return the right answers of a record in the same form.

    Args:
        title: of a record whose arms are named `MODEL, N segments`.

    Raises:
        ValueError: there is no such record.
    """
    found: Shares = {}
    for run in load(title)["runs"]:
        way = re.sub(r", \d+ segments$", "", run["arm"])
        for n, share in run["measures"]["test"]["answers"].items():
            found.setdefault(way, {}).setdefault(int(n), []).append(share)
    return found


def beside() -> None:
    """Draw right answers by segments, the paper's left and those of records right."""
    from matplotlib import pyplot

    from labml_style.figures import show, use_style

    said = []
    with use_style():
        figure, axes = pyplot.subplots(3, 2, figsize=(5.2, 3.3), sharey=True)
        for row, (task, title) in enumerate(RECORDS.items()):
            both = ("the paper", published(task)), ("here", recorded(title))
            for panel, (who, shares) in zip(axes[row], both, strict=True):
                counts = sorted({n for way in WAYS for n in shares[way]})
                for i, way in enumerate(WAYS):
                    by = shares[way]
                    x = [counts.index(n) for n in sorted(by)]
                    means = [100 * mean(by[n]) for n in sorted(by)]
                    panel.plot(x, means, "sv^o"[i] + "-", color=f"C{i}", label=way)
                    for n, runs in by.items():
                        dots = [counts.index(n)] * len(runs)
                        height = [100 * share for share in runs]
                        panel.plot(dots, height, "o", color=f"C{i}", ms=3, alpha=0.4)
                    ends = f"{means[0]:.0f} at {min(by)}, {means[-1]:.0f} at {max(by)}"
                    said.append(f"{task}, {who}, {way} {ends}")
                panel.set_xticks(range(len(counts)), [str(n) for n in counts])
                panel.set_ylim(0, 106)
                panel.set_title(f"{task}: {who}", fontsize=10)
        for panel in axes[-1]:
            panel.set_xlabel("segments of a sample")
        axes[1, 0].set_ylabel("right answers, %")
        handles, names = axes[0, 0].get_legend_handles_labels()
        place: dict[str, Any] = dict(loc="outside upper center", ncols=4, fontsize=9)
        figure.legend(handles, names, frameon=False, columnspacing=1, **place)
    show(
        figure,
        alt=f"Right answers in per cent, by segments of a sample: {'; '.join(said)}.",
        caption="Left: runs of Bulatov and others (2022), from the tables in their "
        "repository, with as many slots in each layer, or tokens, as a segment has. "
        "Right: records, at equal state, with smaller models and shorter samples. A "
        "dot is a run, a line joins the means.",
    )
