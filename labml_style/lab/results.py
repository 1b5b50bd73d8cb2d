"""Records, to read: what chapters draw their experiments from. It needs no torch.

from labml_style.lab.results import expectation, plot, report, table, trained, verdict

expectation("compressive@cpu")  # what was expected, before the run
table("compressive@cpu")        # what was measured
plot("compressive@cpu")         # the same, drawn
verdict("compressive@cpu")      # what was found, and whether it was as expected
report("compressive@cpu")       # all but the table
model = trained("compressive@cpu")  # the model whose weights lie beside the record
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

__all__ = [
    "FOLDER",
    "Markdown",
    "Table",
    "expectation",
    "fails",
    "in_bytes",
    "load",
    "plot",
    "report",
    "state_bytes",
    "summary",
    "table",
    "trained",
    "verdict",
]

FOLDER = Path(__file__).with_name("records")
"""Where records lie, inside the package."""

Record = dict[str, Any]

ERRORS = {"restored": "error of the slots", "read": "error of attention"}
"""What compressed slots lose: what a record calls it, and what a page does."""

TIMES = ("update", "token")
"""Times that a record of costs holds."""


def load(name: str, form: str | None = None) -> Record:
    """Load a record by the name of its preset, or by its path.

    Args:
        name: `NAME` or `NAME@FORM`, or the path of a record that ends in `.json`.
        form: `"cpu"` or `"gpu"`; None takes the GPU's where there is one.

    Raises:
        ValueError: there is no such record, or it is damaged.
    """
    if name.endswith(".json"):
        if not Path(name).exists():
            raise ValueError(f"{name} is not there; give the path of a record")
        return _parsed(Path(name))
    name, _, given = name.partition("@")
    form = form or given or None
    for one in (form,) if form else ("gpu", "cpu"):
        path = FOLDER / f"{name}@{one}.json"
        if path.exists():
            return _parsed(path)
    known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.json"))) or "none yet"
    raise ValueError(f"no record of {name!r}; there are: {known}")


def _parsed(path: Path) -> Record:
    try:
        record: Record = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it") from error
    return record


def summary(record: Record) -> dict[tuple[str, str], list[float]]:
    """Return the bits of every arm and measure, one number for each seed."""
    found: dict[tuple[str, str], list[float]] = {}
    for run in record["runs"]:
        for name, one in run["measures"].items():
            found.setdefault((run["arm"], name), []).append(one["bits"])
    return found


def fails(one: Record) -> bool:
    """Whether a run learned no more than how frequent tokens are, to 0.1 bits.

    Args:
        one: what was measured, with `blind` beside `bits`.
    """
    return bool(one["bits"] > one["blind"] - 0.1)


def state_bytes(record: Record, arm: str, measure: str) -> int:
    """Return the bytes of one lane's memory at the lengths that were measured.

    A run stores what it found. Where a record is older than that it is computed here,
    which is right for queues of states alone, and those are all that older records
    have: layers times slots times width, of 4 bytes, or 8 in double precision. A window
    that slides has no memory.
    """
    found = next(run for run in record["runs"] if run["arm"] == arm)["measures"][
        measure
    ]
    if "state_bytes" in found:
        stored: int = found["state_bytes"]
        return stored
    about = record["preset"]["arms"][arm]
    wanted, config = about["measures"][measure], about["config"]
    if wanted.get("window"):
        return 0
    size = 8 if about["training"]["precision"] == "float64" else 4
    width: int = config["layers"] * config["d_model"] * size
    return width * slots(record, arm, measure)


def slots(record: Record, arm: str, measure: str) -> int:
    """Return the slots per layer that were measured, exact and compressed."""
    about = record["preset"]["arms"][arm]
    wanted, config = about["measures"][measure], about["config"]
    count = 0
    for name in ("memory_length", "compressed_length"):
        own = wanted.get(name)
        count += config.get(name, 0) if own is None else own
    return count


# --- what a page shows


@dataclass(frozen=True)
class Markdown:
    """Text that a notebook renders."""

    text: str

    def __str__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """A table that a notebook renders; its first columns name the row.

    Attributes:
        head: names of the columns.
        rows: as many cells in each; a single cell is a heading of the rows below.
        caption: what the columns are.
        names: how many of the first columns are names.
    """

    head: list[str]
    rows: list[list[str]]
    caption: str
    names: int = 1

    def _repr_html_(self) -> str:
        def cells(row: Sequence[str]) -> str:
            if len(row) == 1:
                span = f'scope="colgroup" colspan="{len(self.head)}"'
                return f"<th {span}>{escape(row[0])}</th>"
            names = row[: self.names]
            return "".join(
                [f'<th scope="row">{escape(name)}</th>' for name in names]
                + [
                    f'<td style="text-align:right">{escape(cell)}</td>'
                    for cell in row[self.names :]
                ]
            )

        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in self.head)
        body = "".join(f"<tr>{cells(row)}</tr>\n" for row in self.rows)
        return (
            f"<table>\n<caption>{escape(self.caption)}</caption>\n"
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"
        )

    def _repr_markdown_(self) -> str:
        rules = ["---"] * self.names + ["---:"] * (len(self.head) - self.names)
        rows = [row + [""] * (len(self.head) - len(row)) for row in self.rows]
        lines = [f"| {' | '.join(row)} |" for row in (self.head, rules, *rows)]
        return "\n".join([*lines, "", self.caption])

    def __str__(self) -> str:
        widths = [
            max(map(len, cells))
            for cells in zip(
                self.head, *(row for row in self.rows if len(row) > 1), strict=True
            )
        ]
        lines = []
        for row in (self.head, *self.rows):
            cells = [
                cell.ljust(width) if i < self.names else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=False))
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join([*lines, "", self.caption])


def table(
    name: str | Record,
    form: str | None = None,
    only: Sequence[str] | None = None,
) -> Table:
    """Return what a record has measured, a row for each arm and measure.

    What is the same in all rows stands in the caption, which also says what the columns
    are.

    Args:
        name: of a record as in `load`, or the record itself.
        form: as in `load`.
        only: names of the columns that are shown; None shows all.

    Raises:
        ValueError: there is no such column.
    """
    record = load(name, form) if isinstance(name, str) else name
    seeds = len(dict.fromkeys(run["seed"] for run in record["runs"]))
    keys = sorted(summary(record), key=_place)
    runs = {key: _runs(record, *key) for key in keys}
    said = [f"Record {record['title']}, {seeds} seed{'s' if seeds > 1 else ''}."]
    columns: dict[str, list[str]] = {}
    timed = all("costs" in one for found in runs.values() for one in found)
    if timed:
        for kind in TIMES:
            columns[kind] = [
                _mean([one["costs"][kind]["ratio"] for one in runs[key]], ".2f")
                for key in keys
            ]
        held = [runs[key][0]["costs"]["decoding"] for key in keys]
        columns["decoding"] = [in_bytes(count) for count in held]
        said.append(
            "Update and token: time of the process, over that of a Transformer-XL "
            "timed in turns; a ± is the standard deviation over seeds. Decoding: bytes "
            "of memory, keys and values of a lane, at the end of a segment."
        )
    elif any("accuracy" in one for found in runs.values() for one in found):
        delays = next(iter(runs.values()))[0]["accuracy"]
        for delay in sorted(delays, key=int):
            shares = [[one["accuracy"][delay] for one in runs[key]] for key in keys]
            columns[delay] = [f"{100 * statistics.mean(row):.0f}" for row in shares]
        said.append("Numbered columns: right answers in %, by tokens back.")
    elif any("answers" in one for found in runs.values() for one in found):
        counts = {n for found in runs.values() for one in found for n in one["answers"]}
        for count in sorted(counts, key=int):
            shares = [[one["answers"].get(count) for one in runs[key]] for key in keys]
            columns[count] = [
                "–" if None in row else f"{100 * statistics.mean(row):.0f}"
                for row in shares
            ]
        by = next(iter(runs.values()))[0].get("by", "segments of a sample")
        said.append(f"Numbered columns: right answers in %, by {by}.")
    else:
        unit = "byte" if record["preset"].get("tokens", "bytes") == "bytes" else "word"
        columns[f"bits per {unit}"] = [
            _mean([one["bits"] for one in runs[key]]) for key in keys
        ]
        if seeds > 1:
            said.append("A ± is the standard deviation over seeds.")
    for extra, title in ERRORS.items():
        if any(extra in one for found in runs.values() for one in found):
            columns[title] = [
                _mean([one[extra] for one in runs[key] if extra in one]) for key in keys
            ]
    if ERRORS["restored"] in columns:
        said.append(
            "Error of the slots: share of the old states that a linear map does not "
            "restore. Error of attention: what it misses, over what it takes from the "
            "old states. 0 is no error."
        )
    if any("by_count" in one for found in runs.values() for one in found):
        classes = list(next(iter(runs.values()))[0]["by_count"])
        for least, title in zip(classes, _classes(classes), strict=True):
            columns[title] = [
                _mean([_per_word(one, least) for one in runs[key]], ".2f")
                for key in keys
            ]
        said.append("Last columns: bits per word, by how often training had the word.")
    columns["state"] = [in_bytes(state_bytes(record, *key)) for key in keys]
    sizes = {run["arm"]: run["parameters"] for run in record["runs"]}
    columns["parameters"] = [f"{sizes[arm]:,}" for arm, _ in keys]
    if not timed:
        columns["ms a guess"] = [_time(runs[key]) for key in keys]
        columns["targets"] = [f"{runs[key][0]['scored']:,}" for key in keys]
    notes = {
        "state": "State: bytes of one lane's memory at the lengths measured; 1 kB is "
        "1,024.",
        "ms a guess": "ms a guess: milliseconds to evaluate a token on "
        f"{device(record)}, which other work may have slowed.",
    }
    if only is not None:
        if unknown := [title for title in only if title not in columns]:
            known = ", ".join(columns)
            raise ValueError(f"no columns {', '.join(unknown)}; there are: {known}")
        columns = {title: columns[title] for title in only}
    said += [note for title, note in notes.items() if title in columns]
    same = []
    for title in ("state", "parameters", "targets"):
        if title in columns and len(keys) > 1 and len(set(columns[title])) == 1:
            same.append(f"{title} {columns.pop(title)[0]}")
    if same:
        said.append(f"In all rows: {', '.join(same)}.")
    names = [arm for arm, _ in keys]
    head, first = ["arm"], [[arm] for arm in names]
    if len(set(names)) < len(names) or len({measure for _, measure in keys}) > 1:
        head, first = ["arm", "measured"], [list(key) for key in keys]
    cells = zip(*columns.values(), strict=True)
    rows = [[*key, *row] for key, row in zip(first, cells, strict=True)]
    return Table([*head, *columns], rows, " ".join(said), len(head))


def _runs(record: Record, arm: str, measure: str) -> list[Record]:
    return [run["measures"][measure] for run in record["runs"] if run["arm"] == arm]


def _mean(values: Sequence[float], form: str = ".3f") -> str:
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{spread}"


def _time(found: Iterable[Record]) -> str:
    spent = [1e3 * one["seconds"] / one["guessed"] for one in found]
    return f"{statistics.median(spent):.2f}"


def in_bytes(count: int) -> str:
    """Write bytes in a unit that fits: `48 kB`; 1 kB is 1,024."""
    for unit, size in (("MB", 1024**2), ("kB", 1024)):
        if count >= size:
            return f"{count / size:.{0 if count % size == 0 else 1}f} {unit}"
    return f"{count} B" if count else "0"


def _per_word(one: Record, least: str) -> float:
    lanes = one["by_count"][least]
    bits: float = sum(bits for _, bits in lanes) / sum(words for words, _ in lanes)
    return bits


def _classes(least: Sequence[str]) -> list[str]:
    """Name classes of words by their ends: 0, 1-9, ..., 1000 on."""
    starts = [int(one) for one in least]
    names = []
    for first, after in zip(starts, [*starts[1:], None], strict=True):
        last = "" if after is None else f"–{after - 1}"
        names.append(f"{first} on" if after is None else f"{first}{last}")
    return [name.removesuffix("–0") for name in names]


def _place(key: tuple[str, str]) -> list[Any]:
    """Sort names by the numbers in them: memory 16 before memory 128."""
    parts = re.split(r"(\d+)", " ".join(key))
    return [int(part) if part.isdigit() else part for part in parts]


def device(record: Record) -> str:
    """Return what a record's runs were computed on."""
    name: str = record["device"]
    return name.replace(" 1 threads", " 1 thread")


def expectation(
    name: str | Record, form: str | None = None, folded: bool = False
) -> Markdown:
    """Return what was expected, and what would have spoken against it.

    Args:
        name: of a record as in `load`, or the record itself.
        form: as in `load`.
        folded: fold all but what was expected.
    """
    record = load(name, form) if isinstance(name, str) else name
    preset = record["preset"]
    lines = [f"**Evidence against it would be.** {preset['contradict']}"]
    if record.get("committed"):
        lines.append(f"*{record['committed']}*")
    if folded:
        summary = "<details><summary>Evidence against it, and the history</summary>"
        lines = [summary, *lines, "</details>"]
    return Markdown("\n\n".join([f"**Expected.** {preset['expect']}", *lines]))


def verdict(name: str | Record, form: str | None = None) -> Markdown:
    """Return what was found, and whether it was as expected, as the judge says.

    Raises:
        ValueError: the record has no verdict.
    """
    record = load(name, form) if isinstance(name, str) else name
    if "verdict" not in record:
        raise ValueError(f"{record['title']} has no verdict; give its preset a judge")
    found = record["verdict"]
    return Markdown(f"**Found.** {found['text']}\n\n**Verdict:** {found['verdict']}.")


def report(name: str | Record, form: str | None = None, by: str | None = None) -> None:
    """Show a record whole: what was expected, its figure, and what was found.

    Args:
        name: of a record as in `load`, or the record itself.
        form: as in `load`.
        by: as in `plot`.
    """
    from IPython.display import display

    record = load(name, form) if isinstance(name, str) else name
    display(expectation(record, folded=True))
    plot(record, by=by)
    display(verdict(record))


def trained(name: str) -> Any:
    """Return the trained model whose weights lie beside a record, inside the package.

    Weights lie beside `recurrence@cpu`, `compressive@cpu` and `copy@cpu`. Nothing is
    downloaded, and nothing is trained.

    Args:
        name: `NAME@FORM` of a preset.

    Raises:
        ValueError: there is no such preset, or no weights lie beside its record.
    """
    from labml_style.lab import presets, records

    return records.kept(presets.find(name))


def plot(name: str | Record, form: str | None = None, by: str | None = None) -> None:
    """Draw a record, in the way that fits what it measured.

    Args:
        name: of a record as in `load`, or the record itself.
        form: as in `load`.
        by: `"position"` draws bits by position in the segment, `"state"` by the bytes
            of the state.

    Raises:
        ValueError: by is something else.
    """
    from labml_style.lab import plots

    plots.draw(load(name, form) if isinstance(name, str) else name, by)
