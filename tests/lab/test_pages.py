"""Pages that are made from the records: results and its figures, claims, choosing."""

from __future__ import annotations

import copy
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labml_style.lab import choosing, claims, pages, presets, records, results
from labml_style.lab.claims import CLAIMS, VERDICTS, Found, look
from labml_style.lab.presets import Preset, every
from labml_style.lab.results import FOLDER

STORED = sorted(FOLDER.glob("*.json"))
AGAIN = "python -m labml_style.lab results"
Record = dict[str, Any]


@pytest.fixture(autouse=True)
def undrawn() -> Iterator[None]:
    """Draw without a display."""
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    yield
    assert not pyplot.get_fignums(), "every figure is closed"


def page(folder: Path | None = None) -> str:
    """Return the page of results."""
    return pages.result_files(folder)["results.md"].decode()


# --- they are those of the records


def test_the_pages_are_those_of_the_records(root: Path) -> None:
    files = pages.result_files() | pages.guide_files()
    for name, content in files.items():
        path = root / "docs" / name
        assert path.exists(), AGAIN
        if path.suffix == ".md":  # figures are told by the record that they name
            assert path.read_text() == content.decode(), AGAIN
    drawn = {path.name for path in (root / "docs" / pages.FIGURES).iterdir()}
    assert drawn == {Path(name).name for name in files if name.endswith(".svg")}, AGAIN


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_figure_names_the_record_that_it_shows(path: Path, root: Path) -> None:
    mark = f"<!-- record {pages.fingerprint(results.load(path.stem))} -->"
    for mode in ("light", "dark"):
        svg = root / "docs" / pages.FIGURES / f"{path.stem}-{mode}.svg"
        assert mark in svg.read_text(), AGAIN


def test_a_fingerprint_follows_what_was_measured() -> None:
    record = results.load("recurrence@cpu")
    before = pages.fingerprint(record)
    assert pages.fingerprint({**record, "verdict": {}, "note": "One."}) == before
    record["runs"][0]["measures"]["carried"]["bits"] += 1e-9
    assert pages.fingerprint(record) != before


def test_figures_are_the_same_twice_and_have_a_dark_twin(
    example: Record, tmp_path: Path
) -> None:
    records.write(example, tmp_path)
    first, second = pages.result_files(tmp_path), pages.result_files(tmp_path)
    assert first == second
    light, dark = (
        first[f"{pages.FIGURES}/smoke@cpu-{mode}.svg"].decode()
        for mode in ("light", "dark")
    )
    assert light != dark and len(light) == len(dark)
    for svg in (light, dark):
        assert ET.fromstring(svg).tag.endswith("svg")
        assert "<dc:date>" not in svg
    shown = re.findall(r"!\[(.*)\]\((.*)\)\{ (.*) \}", first["results.md"].decode())
    assert [name for _, name, _ in shown] == [
        f"{pages.FIGURES}/smoke@cpu-{mode}.svg" for mode in ("light", "dark")
    ]
    for alt, _, how in shown:
        assert "Means: " in alt and 'loading="lazy"' in how and 'width="499"' in how


# --- results


def test_the_page_is_made_from_the_folder_alone(
    small: Preset, example: dict[str, Any], tmp_path: Path
) -> None:
    empty, folder = tmp_path / "empty", tmp_path / "folder"
    nothing = page(empty)
    assert nothing == page(empty) and "## Not run yet" in nothing
    for preset in every():
        assert (f"| `{preset.title}` |" in nothing) == (preset.name != "smoke")
    records.write(example, folder)
    text = page(folder)
    assert text == page(folder) != nothing
    assert page(empty) == nothing
    assert "## Does the lab work on this machine? {#smokecpu}" in text
    assert "| [Does the lab work on this machine?](#smokecpu) |" in text
    # 0.1 seconds for 12 guesses, of which 10 were scored; 16 slots of 8 numbers with 4
    # bytes in 2 layers.
    assert "| memory | 5.250 | 1 kB | 8.33 |" in text
    assert "| alone | 5.250 | 0 | 8.33 |" in text
    assert "In all rows: parameters 1,234, targets 10." in text
    assert "1 seed, 7 updates, 3.5 million tokens; 3 minutes" in text
    assert "Verdict" not in text and "Found" not in text
    judge = {"verdict": "in part", "text": "It was 5.25 bits."}
    told = {**example, "verdict": judge, "committed": "Before.", "note": "One word."}
    records.write(told, folder)
    text = page(folder)
    order = ["**Verdict:** in part.", "<figure", "smoke@cpu-light.svg", "</figure>"]
    order += ["**Expected.** It ends", "**Found.** It was 5.25 bits.", "<details"]
    order += ["| memory |", "**Evidence against it", "*Before.*", "One word."]
    order += ["</details>", "python -m labml_style.lab run smoke@cpu"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "(#smokecpu) | in part |  |" in text

    second = copy.deepcopy(example["runs"])
    for run in second:
        run["seed"] = 1
        run["measures"]["carried"]["bits"] = 5.75
    both = {**example, "runs": example["runs"] + second}
    both["preset"] = {**both["preset"], "seeds": [0, 1]}
    records.write(both, folder)
    spread = f"{math.sqrt(2 * 0.25**2):.3f}"
    text = page(folder)
    assert f"| alone | 5.500 ± {spread} | 0 | 8.33 |" in text
    assert "2 seeds" in text and "6 minutes" in text
    (folder / "smoke@cpu.json").write_text("{")
    with pytest.raises(ValueError, match="smoke@cpu.json is damaged"):
        page(folder)


def test_rows_of_the_page_are_in_the_order_of_their_numbers(
    example: dict[str, Any], tmp_path: Path
) -> None:
    for run in example["runs"]:
        one = run["measures"].pop("carried")
        run["measures"] = {f"memory {m}": one for m in (0, 128, 16, 2, 1024)}
    for arm in example["preset"]["arms"].values():
        one = arm["measures"].pop("carried")
        arm["measures"] = {f"memory {m}": one for m in (0, 128, 16, 2, 1024)}
    records.write(example, tmp_path)
    found = re.findall(r"^\| (\w+) \| memory (\d+) ", page(tmp_path), re.M)
    assert [int(number) for arm, number in found if arm == "memory"] == (
        [0, 2, 16, 128, 1024]
    )


def test_the_page_with_every_record_names_none_as_missing(
    example: dict[str, Any], tmp_path: Path
) -> None:
    for preset in every():
        records.write({**example, "title": preset.title}, tmp_path)
    text = page(tmp_path)
    assert "Not run yet" not in text
    found = re.findall(r"^## .* \{#(.*)\}", text, re.M)
    assert found == [preset.title.replace("@", "") for preset in every()]


def test_numbers_that_differ_between_arms_are_shown_as_a_range() -> None:
    assert pages._range([680, 400, 470], ",") == "400 to 680"
    assert pages._range([1500, 1500], ",") == "1,500"
    assert pages._range([0.41, 0.44], ".1f") == "0.4", "as written they are one"


def test_the_index_says_what_failed_first() -> None:
    text = "As expected: a. Not as expected: b 0.1; c; d. The forecast failed in part."
    assert pages._missed(text) == "b 0.1 (and 2 more)"
    assert pages._missed("Not as expected: b 0.1. The forecast failed.") == "b 0.1"
    assert pages._missed("As expected: a.") == ""
    for path in STORED:
        said = results.load(path.stem)["verdict"]
        assert bool(pages._missed(said["text"])) == (said["verdict"] != "holds")


def test_a_record_of_costs_says_that_nothing_was_trained() -> None:
    text = pages._made(results.load("costs@cpu"))
    assert text.startswith("drawn bytes, 3 seeds; weights as they were drawn, on ")


# --- claims

SAID = {
    "recurrence helps, most at the start of a segment": "reproduced",
    "relative positions beat Shaw's": "reproduced",
    "relative positions alone gain from a memory longer than in training": "in part",
    "states that are used again make evaluation fast": "reproduced",
    "compressed slots pay on text": "not reproduced",
    "too many compressed slots cost bits in evaluation": "reproduced",
    "a longer temporal range at the same cost": "reproduced",
    "attention reconstruction beats auto-encoding": "reproduced",
    "attention reconstruction beats pooling, and training a compression through time "
    "is worst": "in part",
    "attention rises where compressed slots begin": "not reproduced",
    "the gain is largest for rare words": "not reproduced",
    "fewer updates late in training help": "reproduced",
    "a GRU gate never diverges": "in part",
    "a GRU gate pays": "not reproduced",
    "few layers with a long memory are enough on text": "not reproduced",
    "a short range in the lower layers is better": "in part",
    "storing outputs helps": "not reproduced",
    "one head of keys and values makes decoding fast and costs little": "in part",
    "gated feed-forward parts are better": "in part",
    "shared layers and a narrow table save parameters at little loss": "not reproduced",
    "tokens that are not handed on carry nothing over a border": "reproduced",
    "memory tokens copy where a cache no longer reaches": "reproduced",
    "on text, tokens beat as many slots": "not reproduced",
    "memory tokens keep pairs over segments": "in part",
    "memory tokens turn a text around where a cache no longer reaches": "reproduced",
    "memory tokens carry the steps of an equation better than a cache": "reproduced",
    "writing is learned from later segments": "reproduced",
    "memory tokens carry what earlier segments of a document say": "reproduced",
    "a curriculum of lengths is needed": "reproduced",
    "memory tokens serve for twice the segments of training and more": "in part",
}


def test_verdicts_of_the_claims() -> None:
    found = {claim.name: look(claim).verdict for claim in CLAIMS}
    assert len(found) == len(CLAIMS), "a name for each"
    assert set(found.values()) <= set(VERDICTS)
    judged = {name: one for name, one in found.items() if not one.startswith("not r")}
    judged |= {n: one for n, one in found.items() if one == "not reproduced"}
    assert {n: x for n, x in judged.items() if x != "not tried here"} == SAID


def test_a_claim_names_a_paper_and_presets(root: Path) -> None:
    keys = re.findall(
        r"^@\w+\{(.*),$", (root / "docs/references.bib").read_text(), re.M
    )
    known = {preset.title for preset in every()}
    assert set(claims.PAPERS) <= set(keys)
    for claim in CLAIMS:
        assert claim.paper in claims.PAPERS and set(claim.records) <= known
        assert bool(claim.records) == (claim.judge is not None) != bool(claim.untried)
    listed = [key for memory in choosing.MEMORIES for key in memory.papers]
    assert sorted(listed) == sorted(claims.PAPERS), "each paper is of one memory"


def test_a_claim_without_its_record_was_not_run(tmp_path: Path) -> None:
    for claim in CLAIMS:
        wanted = "not run yet" if claim.records else "not tried here"
        assert look(claim, tmp_path).verdict == wanted
    odd = claims.PaperClaim(
        paper="x", name="y", where="", says="", records=("none@cpu",), judge=_found
    )
    with pytest.raises(ValueError, match="'y': records are none@cpu; expected titles"):
        claims._row(odd, look(odd), {})


def _found(record: Record) -> Found:
    return Found("reproduced", "")


def doctored(title: str, harm: Callable[[str, str, Record], None]) -> Record:
    """Return a record after `harm(arm, measure, found)` of each measure."""
    record = copy.deepcopy(results.load(title))
    for run in record["runs"]:
        for name, one in run["measures"].items():
            harm(run["arm"], name, one)
    return record


def lower(*arms: str, by: float = 1.0) -> Callable[[str, str, Record], None]:
    """Return a harm that lowers the bits of these arms."""

    def harm(arm: str, measure: str, one: Record) -> None:
        one["bits"] -= by * any(arm.startswith(name) for name in arms)

    return harm


def right(share: float, *arms: str) -> Callable[[str, str, Record], None]:
    """Return a harm after which these arms answer so much right."""

    def harm(arm: str, measure: str, one: Record) -> None:
        if arm in arms:
            for kind in ("answers", "accuracy"):
                one |= {kind: dict.fromkeys(one[kind], share)} if kind in one else {}

    return harm


@pytest.mark.parametrize(
    ("name", "harm", "verdict"),
    [
        ("recurrence helps", lower("alone"), "in part"),
        ("relative positions beat", lower("shaw"), "not reproduced"),
        ("compressed slots pay", lower("rate"), "reproduced"),
        ("compressed slots pay", lower("rate 2", by=0.03), "in part"),
        ("fewer updates late", lower("constant"), "not reproduced"),
        ("few layers", lower("top", "inter", by=0.04), "reproduced"),
        ("a short range", lower("top", by=0.02), "reproduced"),
        ("storing outputs", lower("all, outputs", by=0.02), "reproduced"),
        ("gated feed-forward", lower("GLU", by=0.1), "reproduced"),
        ("shared layers", lower("shared", "tied, f", by=0.1), "reproduced"),
        ("on text, tokens", lower("RMT", by=0.06), "in part"),
        (
            "tokens that are not",
            right(1.0, "Memory Transformer, 4 segments"),
            "not reproduced",
        ),
        ("memory tokens copy wh", right(0.5, "RMT, 6 segments"), "in part"),
        ("writing is learned", right(1.0, "0 segments back"), "not reproduced"),
        ("memory tokens carry what", right(0.9, "learned"), "not reproduced"),
        ("memory tokens serve", right(0.99, "1 to 5 segments"), "reproduced"),
        ("a curriculum of", right(0.99, "5 from the start"), "in part"),
    ],
)
def test_a_verdict_changes_with_its_record(
    name: str, harm: Callable[[str, str, Record], None], verdict: str
) -> None:
    [claim] = [one for one in CLAIMS if one.name.startswith(name)]
    assert claim.judge is not None
    assert claim.judge(doctored(claim.records[0], harm)).verdict == verdict


def test_what_differs_less_than_seeds_do_is_too_small_to_tell() -> None:
    def near(arm: str, measure: str, one: Record) -> None:
        one["bits"] -= 0.012 * (arm == "rate 3")

    [claim] = [one for one in CLAIMS if one.name == "compressed slots pay on text"]
    assert claim.judge is not None
    found = claim.judge(doctored("compressive@cpu", near))
    assert found.verdict == "too small to tell"


# --- choosing


@pytest.mark.parametrize(
    ("title", "harm", "said"),
    [
        ("compressive", lower("rate 2", by=0.01), "xl for streaming text"),
        ("written-text", lower("Memory", by=0.1), "Transformer-XL 32 for streaming"),
        ("memory-layers", lower("top 4, t"), "all for streaming text"),
        ("gate-and-compression", lower("gated"), "exact for streaming text"),
        ("recurrence", lower("alone"), "memory for streaming text"),
        ("documents", right(0.99, "learned"), "recurrent for long documents"),
        ("memory-layers-recall", right(1.01, "all"), "first for facts within"),
        ("recall", right(0.9, "mean"), "max for facts beyond the exact slots"),
        ("curriculum", right(1.1, "1 segment"), "1 to 5 segments for facts over"),
        ("written-facts", right(0.99, "nBRC, 3 back"), "GRU, 3 back for facts"),
        ("curriculum", right(1.0, "1 to 5 segments"), "written slots for facts"),
        ("written-text", lower("Memory", by=-0.1), "written slots for facts in a text"),
        ("memory-tokens", lower("RMT 5", by=0.046), "slots for small state, text"),
        (
            "copy",
            right(1.1, "no memory, 6 segments"),
            "RMT for small state, word by word",
        ),
        ("reverse", right(0.99, "Transformer-XL, 6 segments"), "RMT for the task of r"),
        (
            "retrieval",
            right(1.1, "RMT, 6 segments"),
            "Memory Transformer-XL for the task of r",
        ),
        ("quadratic", right(0.9, "Transformer-XL, same slots"), "RMT for the steps"),
        ("positions", lower("absolute"), ""),
    ],
)
def test_a_record_that_contradicts_a_recommendation_makes_no_page(
    title: str, harm: Callable[[str, str, Record], None], said: str
) -> None:
    found = choosing.records()
    choosing.check(found)
    changed = {**found, title: doctored(f"{title}@cpu", harm)}
    if not said:  # as many bits less with every memory: nothing is contradicted
        choosing.check(changed)
        return
    wanted = f"choosing.md recommends {re.escape(said)}.*; change the recommendation"
    with pytest.raises(ValueError, match=wanted):
        choosing.check(changed)


@pytest.mark.parametrize(
    ("title", "harm", "said"),
    [
        ("compressive", lower("rate 4", by=-0.1), "a convolution cannot be told"),
        ("memory-layers-recall", right(0.9, "all"), "nothing came through from"),
        ("recall", right(0.5, "xl"), "a Transformer-XL guesses there"),
        ("copy", right(0.9, "RMT, 6 segments"), "every seed of few memory tokens"),
        ("copy-all", right(0.99, "RMT, 6 segments"), "with more memory tokens seeds"),
    ],
)
def test_a_record_that_contradicts_a_sentence_makes_no_page(
    title: str, harm: Callable[[str, str, Record], None], said: str
) -> None:
    changed = {**choosing.records(), title: doctored(f"{title}@cpu", harm)}
    with pytest.raises(ValueError, match=f"says that {said}.*; change the sentence"):
        choosing.check(changed)


def test_the_fastest_of_the_same_bytes_is_recommended() -> None:
    def fast(arm: str, measure: str, one: Record) -> None:
        if arm == "gated":
            one["costs"]["token"]["ratio"] = 0.5

    found = {**choosing.records(), "costs": doctored("costs@cpu", fast)}
    with pytest.raises(ValueError, match="recommends 1 kv_head for fast decoding"):
        choosing.check(found)

    def none(arm: str, measure: str, one: Record) -> None:
        if arm == "no memory":
            one["costs"]["token"]["ratio"] = 0.1

    choosing.check({**found, "costs": doctored("costs@cpu", none)})


def test_positions_that_gain_speak_for_a_cache_around_a_decoder() -> None:
    def gain(arm: str, measure: str, one: Record) -> None:
        if arm == "absolute" and measure == "memory 256":
            one["bits"] = 2.0

    found = {**choosing.records(), "positions": doctored("positions@cpu", gain)}
    with pytest.raises(ValueError, match="relative for a pretrained decoder"):
        choosing.check(found)


def test_every_number_of_the_text_is_filled_in() -> None:
    text = choosing.TEMPLATE.read_text()
    names = set(re.findall(r"\{(\w+)\}", text))
    given = set(choosing.facts(choosing.records()))
    assert names - given == {"table", "memories", "names"}
    prose = re.sub(r"\{\w+\}|\([\w./#-]+\)|`[^`]*`|GPT-2|1 to 5|4 bytes|1/", "", text)
    prose = re.sub(r"up to 4\s+segments|[Aa]fter\s+\d+", "", prose)
    assert not re.findall(r"\d", prose), "a number that no record gives"


def test_without_a_record_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="recurrence@cpu.json is not there"):
        choosing.page(tmp_path)


def test_tasks_at_equal_bytes_are_in_the_table() -> None:
    found = dict(choosing.records())
    rows = choosing._table(found).split("\n")
    for name, way, arm in (
        ("reverse", "memory tokens", "RMT"),
        ("copy-all", "written slots", "Memory Transformer-XL"),
        ("retrieval", "memory tokens with a cache", "RMT with a cache"),
    ):
        share = choosing._right(found[name], f"{arm}, 6 segments", 6)
        cell = f"[{choosing.EQUAL[name]} {share:.0%}](results.md#{name}cpu)"
        [row] = [row for row in rows if row.startswith(f"| {way} |")]
        assert cell in row


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("reverse@cpu", "memory tokens turn"),
        ("retrieval@cpu", "memory tokens keep"),
        ("quadratic@cpu", "memory tokens carry the steps"),
    ],
)
def test_claims_on_tasks_are_judged_once_they_are_run(title: str, name: str) -> None:
    preset = presets.find(title)
    [claim] = [one for one in CLAIMS if one.name.startswith(name)]

    def record(tokens: float, cache: float) -> Record:
        runs = []
        for arm, seed in preset.runs():
            count = arm.split()[-2] if arm.endswith("segments") else "6"
            share = tokens if arm.startswith("RMT") else cache
            one = {"answers": {count: share}}
            runs.append({"arm": arm, "seed": seed, "measures": {"test": one}})
        return {"preset": {"arms": dict.fromkeys(preset.arms)}, "runs": runs}

    assert claim.judge is not None
    assert claim.judge(record(0.95, 0.5)).verdict == "reproduced"
    assert claim.judge(record(0.5, 0.6)).verdict == "not reproduced"
    assert "95%" in claim.judge(record(0.95, 0.5)).text


def test_each_situation_has_a_memory_a_reason_a_cost_and_a_limit() -> None:
    text = choosing.TEMPLATE.read_text()
    sections = re.split(r"^## ", text, flags=re.M)[1:7]
    for section in sections:
        name = section.partition("\n")[0]
        assert f"#{name.lower().replace(' ', '-')})" in text, "in the table at the top"
        assert "results.md#" in section, name
        marks = re.findall(r"\*\*(Why|It costs|Not when)", section)
        assert marks[-2:] == ["It costs", "Not when"], name
        assert "Why" in marks or "How far back" in section, name
