"""Records, to write: what the runs of a preset found, in one file.

`collect` makes a record when every run is done, `problems` says what is wrong with one,
`keep` stores weights with it, `verify` measures those again, and `page` writes the
site's page of results from all of them. `results` reads.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from labml_style.lab import runner, store
from labml_style.lab.presets import PRESETS, Preset, describe, digest, parted
from labml_style.lab.results import FOLDER, load, summary
from labml_style.lab.runner import build, folder_of, measure, result_of, state_of

__all__ = [
    "KEPT",
    "collect",
    "keep",
    "kept",
    "page",
    "problems",
    "verify",
    "write",
]

KEPT = FOLDER.with_name("checkpoints")
"""Where the weights lie that chapters look into."""

SCHEMA = 1
LARGEST = 2_000_000

TOLERANCE = 0.002
"""Bits by which a measurement repeated on another machine may differ."""

_RUN = {
    "arm": str,
    "seed": int,
    "parameters": int,
    "state_bytes": int,
    "tokens": int,
    "minutes": float | int,
    "curve": list,
    "valid": list,
    "measures": dict,
}
_MEASURE = {
    "bits": float,
    "by_position": list,
    "scored": int,
    "guessed": int,
    "seconds": float | int,
}
_OPTIONAL: dict[str, Any] = {
    "accuracy": dict,
    "restored": float,
    "read": float,
    "by_count": dict,
    "by_age": dict,
}
_RECORD = {
    "schema": int,
    "title": str,
    "digest": str,
    "preset": dict,
    "corpus": dict,
    "device": str,
    "processes": int,
    "versions": dict,
    "runs": list,
}


def collect(preset: Preset, out: Path) -> dict[str, Any]:
    """Put the results of all runs of a preset together.

    Raises:
        ValueError: a run is not done, runs are of another version of the preset, or
            values were set by hand.
    """
    if preset.changed:
        names = ", ".join(preset.changed)
        raise ValueError(f"{preset.title} with --set {names} has no record")
    open_runs = [
        f"{arm}-{seed}"
        for arm, seed in preset.runs()
        if state_of(preset, arm, seed, out) != "done"
    ]
    if open_runs:
        raise ValueError(
            f"{preset.title}: {len(open_runs)} of {len(preset.runs())} runs are not "
            f"done ({', '.join(open_runs)}); run {preset.title} first"
        )
    results = [result_of(folder_of(preset, *one, out)) for one in preset.runs()]
    shared = ("corpus", "device", "processes", "versions")
    for (arm, seed), result in zip(preset.runs(), results, strict=True):
        lost = {*_RUN, *shared} - result.keys()
        if lost:
            raise ValueError(
                f"{preset.title} {arm}-{seed}: its result has no "
                f"{', '.join(sorted(lost))}; run it again"
            )
        changed = parted(result["preset"], preset)
        if changed:
            raise ValueError(
                f"{preset.title} changed since {arm}-{seed} ran "
                f"({', '.join(changed)}); run it again"
            )
    for name in shared:
        if any(result[name] != results[0][name] for result in results):
            raise ValueError(
                f"{preset.title}: the runs differ in {name}; run all of them on one "
                "machine"
            )
    record = {
        "schema": SCHEMA,
        "title": preset.title,
        "digest": digest(preset),
        "preset": describe(preset),
        **{name: results[0][name] for name in shared},
        "runs": [{name: result[name] for name in _RUN} for result in results],
    }
    found = problems(record)
    if found:
        raise ValueError(f"{preset.title}: {'; '.join(found)}")
    return record


def problems(record: Any, preset: Preset | None = None) -> list[str]:
    """Return what is wrong with a record, and where it parts from its preset."""
    found = list(_wrong(record, _RECORD, "record"))
    if found:
        return found
    for run in record["runs"]:
        about = run if isinstance(run, dict) else {}
        where = f"run {about.get('arm')}-{about.get('seed')}"
        wrong = list(_wrong(run, _RUN, where))
        if wrong:
            found += wrong
            continue
        for name, one in run["measures"].items():
            known = one if isinstance(one, dict) else {}
            more = {k: v for k, v in _OPTIONAL.items() if k in known}
            found += _wrong(one, {**_MEASURE, **more}, f"{where}, {name}")
    if record["schema"] != SCHEMA:
        found.append(f"record: schema is {record['schema']}; expected {SCHEMA}")
    if record["digest"] != digest(record["preset"]):
        found.append("record: digest is not that of its preset; run it again")
    if preset is not None and not found:
        if record["title"] != preset.title:
            found.append(f"record: title is {record['title']}, not {preset.title}")
        changed = parted(record["preset"], preset)
        if changed:
            found.append(
                f"{record['title']}: the preset changed since the record was made "
                f"({', '.join(changed)}); run it again"
            )
        runs = [(run["arm"], run["seed"]) for run in record["runs"]]
        if runs != preset.runs():
            found.append(f"{record['title']}: runs {runs}, expected {preset.runs()}")
            return found
        for run in record["runs"]:
            odd = run["measures"].keys() ^ preset.arms[run["arm"]].measures.keys()
            for name in sorted(odd):
                found.append(
                    f"run {run['arm']}-{run['seed']}: measure {name} is "
                    f"{'unknown' if name in run['measures'] else 'missing'}"
                )
    return found


def _wrong(value: Any, schema: dict[str, Any], where: str) -> Iterable[str]:
    if not isinstance(value, dict):
        yield f"{where} is {type(value).__name__}; expected an object"
        return
    for name in sorted(schema.keys() ^ value.keys()):
        yield f"{where}: {name} is {'missing' if name in schema else 'unknown'}"
    for name in sorted(schema.keys() & value.keys()):
        if not isinstance(value[name], schema[name]):
            yield f"{where}: {name} is {value[name]!r:.40}"


def write(record: dict[str, Any], folder: Path = FOLDER) -> Path:
    """Write a record beside the others; return its path."""
    path = folder / f"{record['title']}.json"
    text = _compact(json.dumps(record, sort_keys=True, allow_nan=False, indent=1))
    store.write_bytes(path, text.encode() + b"\n")
    return path


def _compact(text: str) -> str:
    """Put lists of numbers on one line each: a record is read by people too.

    A string holds no line break, so what looks like a list inside one stays as it is.
    """
    return re.sub(r"\[\n[^][{}\"]*\]", lambda found: " ".join(found[0].split()), text)


def page(folder: Path = FOLDER) -> str:
    """Return the page of results as Markdown."""
    parts = [
        "# Results\n",
        "Every number on this page is read from a record of the lab. `lab run NAME` "
        "repeats it, `lab record NAME` writes the record. What was expected, and what "
        "would have spoken against it, was committed before the record was. Bits are "
        "per byte, a ± is the standard deviation over seeds. Bits compare where as "
        "many targets were scored; the time of a guess is that of the machine named, "
        "which other work may have slowed.\n",
    ]
    missing = []
    for preset in PRESETS:
        path = folder / f"{preset.title}.json"
        if not path.exists():
            missing.append(preset)
            continue
        parts.append(_section(store.read_json(path)))
    parts.append(_missing(missing))
    return "\n".join(parts)


def _section(record: dict[str, Any]) -> str:
    preset = record["preset"]
    arms = dict.fromkeys(run["arm"] for run in record["runs"])
    rows = [
        "| arm | measured | targets | bits | ms a guess | parameters | state |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (arm, name), bits in sorted(summary(record).items(), key=_place):
        runs = [run for run in record["runs"] if run["arm"] == arm]
        found = [run["measures"][name] for run in runs]
        spent = [1e3 * one["seconds"] / one["guessed"] for one in found]
        spread = f" ± {statistics.stdev(bits):.3f}" if len(bits) > 1 else ""
        rows.append(
            f"| {arm} | {name} | {found[0]['scored']:,} | "
            f"{statistics.mean(bits):.3f}{spread} | {statistics.median(spent):.2f} | "
            f"{runs[0]['parameters']:,} | {runs[0]['state_bytes'] / 1024:.0f} kB |"
        )
    total = sum(run["minutes"] for run in record["runs"])
    updates = _range([preset["arms"][arm]["training"]["steps"] for arm in arms], ",")
    read = [run["tokens"] for run in record["runs"]]
    tokens = _range([number / 1e6 for number in read if number], ".1f")
    corpus = record["corpus"]
    return "\n".join(
        [
            f"## {record['title']}\n",
            f"{preset['question']}\n",
            f"**Expected.** {preset['expect']}\n",
            f"**Against it.** {preset['contradict']}\n",
            *rows,
            "",
            f"{corpus['name']}, {len(preset['seeds'])} "
            f"{'seeds' if len(preset['seeds']) > 1 else 'seed'}, {updates} updates, "
            f"{tokens} million tokens; {total:.0f} "
            f"{'minutes' if round(total) != 1 else 'minute'} of training in all on "
            f"{record['device'].replace(' 1 threads', ' 1 thread')}, torch "
            f"{record['versions']['torch']}.\n",
            f"```console\npython -m labml_style.lab run {record['title']}\n```\n",
        ]
    )


def _range(values: list[Any], form: str) -> str:
    """Return the values as one, or as the least and the most of them."""
    ends = [format(end, form) for end in (min(values), max(values))]
    return " to ".join(dict.fromkeys(ends))


def _place(item: tuple[tuple[str, str], Any]) -> list[Any]:
    """Sort names by the numbers in them: memory 16 before memory 128."""
    parts = re.split(r"(\d+)", " ".join(item[0]))
    return [int(part) if part.isdigit() else part for part in parts]


def _missing(presets: list[Preset]) -> str:
    lines = ["## Not run yet\n", "| preset | question | expected time |"]
    lines += ["| --- | --- | ---: |"]
    for preset in presets:
        if preset.name != "smoke":
            time = preset.minutes
            text = f"{time:.0f} minutes" if time < 120 else f"{time / 60:.0f} hours"
            lines.append(f"| `{preset.title}` | {preset.question} | {text} |")
    return "\n".join([*lines, ""]) if len(lines) > 3 else ""


def keep(preset: Preset, out: Path, folder: Path = KEPT) -> Path:
    """Copy the weights of the run `preset.keep` beside the records.

    Raises:
        ValueError: the preset keeps none, or they are larger than 2 MB.
    """
    import safetensors.torch

    if preset.keep is None:
        raise ValueError(f"{preset.title} keeps no weights")
    arm, _, seed = preset.keep.rpartition("-")
    weights = store.read(folder_of(preset, arm, int(seed), out) / "weights.pt")
    about = {"digest": digest(preset), "run": preset.keep}
    content = safetensors.torch.save(weights, metadata=about)
    if len(content) > LARGEST:
        raise ValueError(f"{preset.keep} has {len(content)} bytes; at most {LARGEST}")
    path = folder / f"{preset.title}.safetensors"
    store.write_bytes(path, content)
    return path


def kept(preset: Preset, folder: Path = KEPT) -> Any:
    """Return the model whose weights were kept with a preset's record.

    Raises:
        ValueError: there are none, or the preset changed since.
    """
    import safetensors

    path, record = folder / f"{preset.title}.safetensors", load(preset.title)
    wrong = problems(record, preset)
    if wrong:
        raise ValueError("; ".join(wrong))
    if preset.keep is None or not path.exists():
        raise ValueError(f"no weights were kept with {preset.title}")
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            about = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    if about.get("digest") != record["digest"]:
        raise ValueError(
            f"{path.name} is of digest {about.get('digest')}, the record of "
            f"{record['digest']}; write the record again"
        )
    model = build(preset.arms[preset.keep.rpartition("-")[0]])
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the model ({error})") from error
    return model


def verify(preset: Preset) -> Iterable[tuple[str, float, float]]:
    """Measure the kept weights again; yield measure, bits found and bits recorded.

    Raises:
        ValueError: there is no record, or no weights are kept with it.
    """
    record, model = load(preset.title), kept(preset)
    corpus = runner.load(preset)
    arm, _, seed = str(preset.keep).rpartition("-")
    [run] = [r for r in record["runs"] if (r["arm"], r["seed"]) == (arm, int(seed))]
    for name, wanted in preset.arms[arm].measures.items():
        yield (
            name,
            measure(model, corpus, wanted)["bits"],
            run["measures"][name]["bits"],
        )
