"""Pages of the site that are made from the records, and from nothing else.

`result_files` are the page of all records and its figures, `guide_files` the claims of
the papers and the page on choosing: files by their names below `docs/`.
"""

from __future__ import annotations

import hashlib
import json
import re
from html import escape
from pathlib import Path
from typing import Any

from labml_style.lab import choosing, claims, presets, results, store
from labml_style.lab.presets import Preset
from labml_style.lab.results import Record, device, table

__all__ = ["fingerprint", "guide_files", "result_files", "write"]

FIGURES = "assets/results"


def write(docs: Path, files: dict[str, bytes]) -> list[Path]:
    """Write files below a folder, each under another name first; return their paths."""
    for name, content in files.items():
        store.write_bytes(docs / name, content)
    return [docs / name for name in files]


def guide_files(folder: Path | None = None) -> dict[str, bytes]:
    """Return the pages on claims and on choosing.

    Args:
        folder: of the records; None is that of the package.

    Raises:
        ValueError: a record that choosing needs is not there, or records contradict
            what the page recommends.
    """
    pages = {"choosing.md": choosing.page(folder), "claims.md": claims.page(folder)}
    return {name: text.encode() for name, text in pages.items()}


# --- results


def result_files(folder: Path | None = None) -> dict[str, bytes]:
    """Return the page of results, and two drawings of each record.

    Args:
        folder: of the records; None is that of the package.
    """
    there, missing = [], []
    files: dict[str, bytes] = {}
    for preset in presets.every():
        path = (folder or results.FOLDER) / f"{preset.title}.json"
        if path.exists():
            there.append((preset, store.read_json(path)))
        else:
            missing.append(preset)
    parts = [
        "# Results\n",
        "Every number on this page is read from a record of [the lab](lab.md). `run "
        "NAME` repeats the runs, `record NAME` writes the record. A function that "
        "stands beside the preset computes the verdict from the record. In the fold of "
        "a record stand its table, what would have been evidence against what was "
        "expected, and when both were committed. The models are small and so are the "
        "texts: compare arms with each other, and no number with one of a paper. What "
        "the papers claim stands [beside these records](claims.md).\n",
        "Bits compare where as many targets were scored. Times are those of the "
        "machine named, which other work may have slowed.\n",
    ]
    if there:
        parts.append(_index(there))
    for preset, record in there:
        shown, drawn = _figure(record)
        parts.append(_section(preset, record, shown))
        files |= drawn
    parts.append(_missing(missing))
    return {"results.md": "\n".join(parts).encode(), **files}


def fingerprint(record: Record) -> str:
    """Return 16 hex digits that change when anything that ran or was measured does."""
    held = {name: record[name] for name in ("preset", "runs")}
    text = json.dumps(held, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _anchor(preset: Preset) -> str:
    return preset.title.replace("@", "")


def _index(there: list[tuple[Preset, Record]]) -> str:
    head = "| question | verdict | first of what did not come as expected |"
    lines = ['<div class="lm-wide" markdown>\n', head, "| --- | --- | --- |"]
    for preset, record in there:
        said = record.get("verdict", {"verdict": "", "text": ""})
        question = f"[{preset.question}](#{_anchor(preset)})"
        lines.append(f"| {question} | {said['verdict']} | {_missed(said['text'])} |")
    return "\n".join([*lines, "\n</div>\n"])


def _missed(text: str) -> str:
    """Return the first finding that was not as expected, and how many others are."""
    found = re.search(r"Not as expected: (.*?)\. The forecast ", text)
    if not found:
        return ""
    first, *others = found[1].split("; ")
    return f"{first} (and {len(others)} more)" if others else first


def _figure(record: Record) -> tuple[str, dict[str, bytes]]:
    """Return the Markdown of a record's figure, and its two files."""
    from matplotlib import pyplot

    from labml_style.figures import to_svg, twins
    from labml_style.lab import plots

    figure, alt, caption = plots.drawing(record)
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    svg = to_svg(figure)
    pyplot.close(figure)
    files, images = {}, []
    for mode, drawn in zip(("light", "dark"), twins(svg), strict=True):
        name = f"{FIGURES}/{record['title']}-{mode}.svg"
        note = f"<!-- record {fingerprint(record)} -->"
        files[name] = drawn.replace(">", f">{note}", 1).encode()
        size = f'width="{width}" height="{height}" loading="lazy"'
        said = re.sub(r"([\[\]])", r"\\\1", alt)
        images.append(f"![{said}]({name}){{ .lit-{mode} {size} }}")
    lines = ['<figure class="lit-figure lm-result" markdown>', *images]
    lines += [f"<figcaption>{escape(caption, quote=False)}</figcaption>", "</figure>"]
    return "\n".join(lines), files


def _section(preset: Preset, record: Record, figure: str) -> str:
    about = record["preset"]
    parts = [f"## {preset.question} {{#{_anchor(preset)}}}"]
    if "verdict" in record:
        parts.append(f"**Verdict:** {record['verdict']['verdict']}.")
    parts += [figure, f"**Expected.** {about['expect']}"]
    if "verdict" in record:
        parts.append(f"**Found.** {record['verdict']['text']}")
    parts += [
        "<details markdown>\n<summary>Table, and what would have been evidence against "
        "it</summary>",
        table(record)._repr_markdown_(),
        f"**Evidence against it would be.** {about['contradict']}",
    ]
    if record.get("committed"):
        parts.append(f"*{record['committed']}*")
    parts.append(f"{_made(record)}{' ' + record['note'] if 'note' in record else ''}")
    parts.append("</details>")
    parts.append(f"```console\npython -m labml_style.lab run {record['title']}\n```\n")
    return "\n\n".join(parts)


def _made(record: Record) -> str:
    """Return on what a record was made, in one sentence."""
    preset, corpus = record["preset"], record["corpus"]
    arms = dict.fromkeys(run["arm"] for run in record["runs"])
    updates = _range([preset["arms"][arm]["training"]["steps"] for arm in arms], ",")
    read = [run["tokens"] for run in record["runs"]]
    tokens = _range([number / 1e6 for number in read if number], ".1f")
    seeds, total = len(preset["seeds"]), sum(run["minutes"] for run in record["runs"])
    minutes = "minute" if round(total) == 1 else "minutes"
    trained = (
        f", {updates} updates, {tokens} million tokens; {total:.0f} {minutes} of "
        "training in all"
    )
    if updates == "1":
        trained = "; weights as they were drawn,"
    return (
        f"{corpus['name']}, {seeds} seed{'s' if seeds > 1 else ''}{trained} on "
        f"{device(record)}, torch {record['versions']['torch']}."
    )


def _range(values: list[Any], form: str) -> str:
    """Return the values as one, or as the least and the most of them."""
    ends = [format(end, form) for end in (min(values), max(values))]
    return " to ".join(dict.fromkeys(ends))


def _missing(missing: list[Preset]) -> str:
    lines = ["## Not run yet\n", "| preset | question | expected time |"]
    lines += ["| --- | --- | ---: |"]
    for preset in missing:
        if preset.name != "smoke":
            time = preset.minutes
            text = f"{time:.0f} minutes" if time < 120 else f"{time / 60:.0f} hours"
            lines.append(f"| `{preset.title}` | {preset.question} | {text} |")
    return "\n".join([*lines, ""]) if len(lines) > 3 else ""
