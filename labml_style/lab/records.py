"""Records, to write: what the runs of a preset found, in one file.

`collect` makes a record when every run is done, `judge` puts verdicts into records,
`problems` says what is wrong with one, `keep` stores weights with it, and `verify`
measures those again. `results` reads, and `pages` makes pages of the site from them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from labml_style.lab import presets, store, texts
from labml_style.lab.presets import Preset, describe, digest, parted
from labml_style.lab.results import FOLDER, load
from labml_style.lab.runner import build, folder_of, measure, result_of, state_of

__all__ = [
    "KEPT",
    "collect",
    "judge",
    "judged",
    "keep",
    "kept",
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
    "state_bytes": int,
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
_NOTES: dict[str, Any] = {"verdict": dict, "committed": str, "note": str}
"""What a record may hold as well: what was judged, when its expectation was committed,
and what was changed in it since, which is never a number."""


def collect(preset: Preset, out: Path) -> dict[str, Any]:
    """Put the results of all runs of a preset together.

    Raises:
        ValueError: a run is not done, runs are of another version of the preset, or
            values were set by hand.
    """
    if preset.changed:
        names = ", ".join(preset.changed)
        raise ValueError(f"{preset.title} with --set {names} has no record")
    states = {one: state_of(preset, *one, out) for one in preset.runs()}
    open_runs = [
        f"{arm}-{seed}{' failed' if state == 'failed' else ''}"
        for (arm, seed), state in states.items()
        if state != "done"
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
    record = judged(record, preset)
    found = problems(record)
    if found:
        raise ValueError(f"{preset.title}: {'; '.join(found)}")
    return record


def judged(record: dict[str, Any], preset: Preset) -> dict[str, Any]:
    """Return a record with the verdict of its preset's judge, as pages show it."""
    record = {k: v for k, v in record.items() if k not in ("verdict", "committed")}
    if preset.judge is not None:
        found = presets.verdict(preset, record)
        record["verdict"] = {"verdict": found.verdict, "text": found.text}
    if preset.committed:
        record["committed"] = preset.committed
    return record


def judge() -> None:
    """Judge all records again; no number in them changes."""
    for preset in presets.every():
        path = FOLDER / f"{preset.title}.json"
        if path.exists():
            record = store.read_json(path)
            if judged(record, preset) != record:
                write(judged(record, preset))


def problems(record: Any, preset: Preset | None = None) -> list[str]:
    """Return what is wrong with a record, and where it parts from its preset."""
    notes = {
        k: v for k, v in _NOTES.items() if isinstance(record, dict) and k in record
    }
    found = list(_wrong(record, {**_RECORD, **notes}, "record"))
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
            if _probes(record, run["arm"], name):
                more = {**dict.fromkeys(known, object), **more}
            found += _wrong(one, {**more, **_MEASURE}, f"{where}, {name}")
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


def _probes(record: dict[str, Any], arm: str, measure: str) -> list[str]:
    arms = record["preset"].get("arms", {})
    measures = arms.get(arm, {}).get("measures", {})
    found: list[str] = measures.get(measure, {}).get("probes", [])
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


def write(record: dict[str, Any], folder: Path | None = None) -> Path:
    """Write a record beside the others; return its path."""
    path = (folder or FOLDER) / f"{record['title']}.json"
    text = _compact(json.dumps(record, sort_keys=True, allow_nan=False, indent=1))
    store.write_bytes(path, text.encode() + b"\n")
    return path


def _compact(text: str) -> str:
    """Put lists of numbers on one line each: a record is read by people too.

    A string holds no line break, so what looks like a list inside one stays as it is.
    """
    return re.sub(r"\[\n[^][{}\"]*\]", lambda found: " ".join(found[0].split()), text)


# --- kept weights


def keep(preset: Preset, out: Path, folder: Path | None = None) -> Path:
    """Copy the weights of the run `preset.keep` beside the records.

    Raises:
        ValueError: the preset keeps none, or they are larger than 2 MB.
    """
    import safetensors
    import safetensors.torch

    if preset.keep is None:
        raise ValueError(f"{preset.title} keeps no weights")
    arm, _, seed = preset.keep.rpartition("-")
    made = folder_of(preset, arm, int(seed), out) / "model.safetensors"
    with safetensors.safe_open(str(made), "pt") as file:
        about = file.metadata() | {"digest": digest(preset), "run": preset.keep}
        weights = {name: file.get_tensor(name) for name in file.keys()}
    content = safetensors.torch.save(weights, metadata=about)
    if len(content) > LARGEST:
        raise ValueError(f"{preset.keep} has {len(content)} bytes; at most {LARGEST}")
    path = (folder or KEPT) / f"{preset.title}.safetensors"
    store.write_bytes(path, content)
    return path


def kept(
    preset: Preset, records: Path | None = None, folder: Path | None = None
) -> Any:
    """Return the model whose weights were kept with a preset's record.

    Args:
        preset: whose `keep` names a run.
        records: folder of the record; None is that of the package.
        folder: folder of the weights; None is that of the package.

    Raises:
        ValueError: there are none, or the preset changed since.
    """
    import safetensors

    path = (folder or KEPT) / f"{preset.title}.safetensors"
    record = _record(preset, records)
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


def _record(preset: Preset, folder: Path | None) -> dict[str, Any]:
    name = preset.title
    return load(name if folder is None else str(folder / f"{name}.json"))


def verify(
    preset: Preset, records: Path | None = None, folder: Path | None = None
) -> Iterable[tuple[str, float, float]]:
    """Measure the kept weights again; yield measure, bits found and bits recorded.

    Raises:
        ValueError: there is no record, or no weights are kept with it.
    """
    record, model = _record(preset, records), kept(preset, records, folder)
    corpus = texts.load(preset)
    arm, _, seed = str(preset.keep).rpartition("-")
    [run] = [r for r in record["runs"] if (r["arm"], r["seed"]) == (arm, int(seed))]
    for name, wanted in preset.arms[arm].measures.items():
        yield (
            name,
            measure(model, corpus, wanted)["bits"],
            run["measures"][name]["bits"],
        )
