"""What a page shows of a record: tables, figures, and what was expected."""

from __future__ import annotations

import copy
import json
import re
import statistics
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from labml_style.lab import plots, results, runner
from labml_style.lab.presets import find
from labml_style.lab.results import FOLDER, expectation, load, plot, table, verdict

STORED = [path.stem for path in sorted(FOLDER.glob("*.json"))]


def cells(title: str, row: str, column: str) -> list[str]:
    """Return a column of a table, where the row's names begin so."""
    shown = table(title)
    place = shown.head.index(column)
    return [one[place] for one in shown.rows if " ".join(one).startswith(row)]


def test_state_is_that_of_the_lengths_that_were_measured() -> None:
    # 3 layers of width 96 and 4 bytes: 1,152 bytes a slot.
    exact = [cells("cross-table@cpu", f"exact exact {m}", "state") for m in (8, 16, 40)]
    assert exact == [["9 kB"], ["18 kB"], ["45 kB"]]
    assert cells("cross-table@cpu", "attention", "state") == ["18 kB"], "8 and 8"
    assert cells("positions@cpu", "shaw memory 256", "state") == ["288 kB"]
    assert cells("positions@cpu", "shaw memory 0", "state") == ["0"]
    assert cells("compressive@cpu", "rate 2 compressed 12", "state") == ["40.5 kB"]
    assert cells("recurrence@cpu", "alone window", "state") == ["0"]
    assert cells("evaluation-cost@cpu", "reuse attention 512", "state") == ["540 kB"]
    assert "state 16 kB" in table("recall@cpu").caption


@pytest.mark.parametrize("title", STORED)
def test_the_rule_for_older_records_gives_what_a_run_stored(title: str) -> None:
    """At the lengths of training, where a run has stored its state."""
    record = load(title)
    for run in record["runs"]:
        about = record["preset"]["arms"][run["arm"]]
        config = about["config"]  # no older record has these
        newer = {"memory_tokens", "long_memory_length", "short_length"}
        if newer & {*config} or config.get("memory_layers"):
            continue
        usual = {**about, "measures": {"usual": {}}}
        whole = {"preset": {"arms": {run["arm"]: usual}}}
        runs = [{**run, "measures": {"usual": {}}}]
        found = results.state_bytes({**whole, "runs": runs}, run["arm"], "usual")
        assert found == run["state_bytes"], run["arm"]


def test_a_run_stores_the_state_of_each_measure() -> None:
    arm = find("compressive@cpu").arms["rate 3"]
    model = runner.build(arm)
    text = runner.texts.load(find("smoke"))
    small = text._replace(test=text.test[:4500])  # type: ignore[union-attr]
    stored = {}
    for name, wanted in arm.measures.items():
        found = runner.measure(model, small, wanted)
        stored[name] = found["state_bytes"]
        record = load("compressive@cpu")
        assert stored[name] == results.state_bytes(record, "rate 3", name), name
        record["runs"][0]["measures"]["carried"]["state_bytes"] = 77
    assert len(set(stored.values())) == len(stored)
    assert results.state_bytes(record, record["runs"][0]["arm"], "carried") == 77


@pytest.mark.parametrize("title", STORED)
def test_a_table_shows_means_and_spreads_of_the_record(title: str) -> None:
    record, shown = load(title), table(title)
    bits = results.summary(record)
    assert len(shown.rows) == len(bits)
    assert all(len(row) == len(shown.head) for row in shown.rows)
    first = next(iter(record["runs"][0]["measures"].values()))
    if {"accuracy", "answers", "costs"} & {*first}:
        assert not any("bits" in name for name in shown.head)
        return
    place = shown.head.index("bits per byte")
    for (_, found), row in zip(
        sorted(bits.items(), key=lambda x: results._place(x[0])),
        shown.rows,
        strict=True,
    ):
        expected = f"{statistics.mean(found):.3f}"
        if len(found) > 1:
            expected += f" ± {statistics.stdev(found):.3f}"
        assert row[place] == expected
    for column in ("state", "parameters", "targets"):
        assert (column in shown.head) != (
            f"{column} " in shown.caption.partition("In all rows: ")[2]
        ) or len(shown.rows) == 1


def test_right_answers_stand_by_delay() -> None:
    record, shown = load("recall@cpu"), table("recall@cpu")
    delays = ["4", "8", "16", "24", "32", "40", "48", "64", "80", "96", "112", "144"]
    assert shown.head == ["arm", *delays, "parameters", "ms a guess"]
    assert "Numbered columns: right answers in %, by tokens back." in shown.caption
    runs = [run for run in record["runs"] if run["arm"] == "max"]
    share = statistics.mean(run["measures"]["test"]["accuracy"]["80"] for run in runs)
    assert cells("recall@cpu", "max", "80") == [f"{100 * share:.0f}"]


def test_bits_of_words_stand_by_class() -> None:
    shown = table("rare-words@cpu")
    assert shown.head[2:7] == ["0", "1–9", "10–99", "100–999", "1000 on"]
    record = load("rare-words@cpu")
    lanes = [
        run["measures"]["carried"]["by_count"]["100"]
        for run in record["runs"]
        if run["arm"] == "xl"
    ]
    each = [sum(b for _, b in one) / sum(n for n, _ in one) for one in lanes]
    mean, spread = statistics.mean(each), statistics.stdev(each)
    expected = f"{mean:.2f} ± {spread:.2f}"
    assert cells("rare-words@cpu", "xl", "100–999") == [expected]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (8, "8 B"), (1024, "1 kB"), (1536, "1.5 kB"), (5 * 2**19, "2.5 MB")],
)
def test_bytes_have_a_unit_that_fits(count: int, text: str) -> None:
    assert results.in_bytes(count) == text


class Parser(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.tags[-1] in ("th", "td") and data.strip():
            self.rows[-1][-1] += data


def test_a_table_names_errors_in_plain_words() -> None:
    found = table("cross-table@cpu")
    assert {"error of the slots", "error of attention"} <= set(found.head)
    assert not {"restored", "read"} & set(found.head)
    for title in results.ERRORS.values():
        assert title.capitalize() in found.caption


def test_a_table_shows_the_columns_that_are_asked_for() -> None:
    whole, some = (table("cross-table@cpu", only=o) for o in (None, ["bits per byte"]))
    assert some.head == ["arm", "measured", "bits per byte"] == whole.head[:3]
    assert some.rows == [row[:3] for row in whole.rows]
    assert "milliseconds" in whole.caption and "State" in whole.caption
    assert "milliseconds" not in some.caption and "State" not in some.caption
    with pytest.raises(ValueError, match="no columns bytes; there are: bits per byte"):
        table("cross-table@cpu", only=["bytes"])


def test_a_table_is_the_same_as_html_markdown_and_text() -> None:
    shown = table("cross-table@cpu")
    html = Parser(shown._repr_html_())
    assert html.rows == [shown.head, *shown.rows] and "caption" in html.tags
    lines = shown._repr_markdown_().split("\n")
    assert [[c.strip() for c in line[1:-1].split("|")] for line in lines[2:-2]] == (
        shown.rows
    )
    assert lines[1].startswith("| --- | --- | ---: |"), "names to the left"
    text = str(shown).split("\n")
    assert len({len(line) for line in text[1 : len(shown.rows) + 1]}) == 1
    assert [line.split()[0] for line in text[1:3]] == ["attention", "auto-encoding"]
    assert text[-1] == lines[-1] == shown.caption
    odd = results.Table(["a<b"], [["c&d"]], "<i>")
    assert "a&lt;b" in odd._repr_html_() and "&lt;i&gt;" in odd._repr_html_()


@pytest.mark.parametrize("title", STORED)
def test_expected_found_and_verdict_stand_in_this_order(title: str) -> None:
    record = load(title)
    before, after = str(expectation(title)), str(verdict(title))
    assert before.startswith(f"**Expected.** {record['preset']['expect']}\n")
    assert record["preset"]["contradict"] in before and record["committed"] in before
    said = record["verdict"]
    assert after == f"**Found.** {said['text']}\n\n**Verdict:** {said['verdict']}."
    assert verdict(title)._repr_markdown_() == after
    assert len(after) < 900, "short"
    assert "nan" not in after


def test_a_record_without_a_judge_has_no_verdict() -> None:
    record = copy.deepcopy(load("recall@cpu"))
    del record["verdict"], record["committed"]
    with pytest.raises(
        ValueError, match="recall@cpu has no verdict; give its preset a"
    ):
        verdict(record)
    assert "*" not in str(expectation(record)).replace("**", "")


def test_a_record_of_ones_own_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine@cpu.json"
    with pytest.raises(ValueError, match=r"mine@cpu.json is not there; give the path"):
        load(str(path))
    path.write_text(json.dumps({**load("recall@cpu"), "title": "mine@cpu"}))
    assert table(str(path)).rows == table("recall@cpu").rows
    path.write_text("{")
    with pytest.raises(ValueError, match="mine@cpu.json is damaged"):
        load(str(path))


# --- figures


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Catch figures in the place where they would be displayed."""
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    caught: list[dict[str, Any]] = []

    def show(figure: Any, **about: Any) -> None:
        figure.canvas.draw()
        caught.append({"figure": figure, **about})

    monkeypatch.setattr(plots, "show", show)
    yield caught
    pyplot.close("all")


@pytest.mark.parametrize("title", STORED)
def test_every_record_is_drawn(title: str, shown: list[dict[str, Any]]) -> None:
    plot(title)
    [one] = shown
    assert one["caption"].startswith(f"Record {title}: ")
    assert len(one["alt"]) > 80 and "nan" not in one["alt"] + one["caption"]
    width, _ = one["figure"].get_size_inches()
    assert width == 5.2, "readable on a phone"
    arms = {run["arm"].partition(", rate ")[0] for run in load(title)["runs"]}
    arms = {re.sub(", [0-9]+ segments$", "", arm) for arm in arms}
    found = one["figure"].findobj(match=_text)
    words = {text.get_text().replace("\n", " ") for text in found}
    words |= {part for word in words for part in word.split(", ")}
    missing = {arm for arm in arms if arm not in words and arm not in one["caption"]}
    drawn_otherwise = {"attention-by-age@cpu": {"rate 3"}, "cross-table@cpu": {"exact"}}
    assert missing <= drawn_otherwise.get(title, {"alone"} & arms), missing


def _text(artist: Any) -> bool:
    return hasattr(artist, "get_text")


def points(figure: Any) -> list[tuple[float, float]]:
    return [
        (float(x), float(y))
        for axes in figure.axes
        for line in axes.get_lines()
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]


def test_dots_are_the_seeds(shown: list[dict[str, Any]]) -> None:
    plot("recurrence@cpu")
    [one] = shown
    bits = results.summary(load("recurrence@cpu"))
    found = {x for x, _ in points(one["figure"])}
    for values in bits.values():
        assert {*values, statistics.mean(values)} <= found
    assert re.search("Means: memory 2.420, longer 2.453, alone, window", one["alt"])


def test_lines_are_means_over_slots(shown: list[dict[str, Any]]) -> None:
    plot("positions@cpu")
    [one] = shown
    [axes] = one["figure"].axes
    labels = [tick.get_text() for tick in axes.get_xticklabels()]
    assert labels == ["0", "16", "32", "64", "128", "256"]
    bits = results.summary(load("positions@cpu"))
    means = {statistics.mean(found) for found in bits.values()}
    assert means <= {y for _, y in points(one["figure"])}
    shown.clear()
    plot("compressive@cpu")
    assert "Not drawn, far above: xl, memory 0 (2.95)" in shown[0]["caption"]
    shown.clear()
    plot("evaluation-cost@cpu")
    [axes] = shown[0]["figure"].axes
    assert axes.get_ylabel() == "milliseconds a guess" and axes.get_yscale() == "log"
    labels = [tick.get_text() for tick in axes.get_xticklabels()]
    assert labels == ["64", "128", "256", "512"]


def test_bits_by_position_are_means_with_a_band(shown: list[dict[str, Any]]) -> None:
    plot("recurrence@cpu", by="position")
    [one] = shown
    [axes] = one["figure"].axes
    runs = [r for r in load("recurrence@cpu")["runs"] if r["arm"] == "longer"]
    seeds = [run["measures"]["carried"]["by_position"][:32] for run in runs]
    means = [statistics.mean(column) for column in zip(*seeds, strict=True)]
    drawn = [list(line.get_ydata()) for line in axes.get_lines()]
    assert means in drawn and len(drawn) == 4 == len(axes.collections)
    names = {text.get_text() for text in axes.get_legend().get_texts()}
    assert {"memory: 2.420 ± 0.005", "alone, window: 2.458 ± 0.018"} <= names
    with pytest.raises(ValueError, match="by is 'seed'; expected 'position', 'state'"):
        plot("recurrence@cpu", by="seed")


def test_bits_by_state_are_the_seeds(shown: list[dict[str, Any]]) -> None:
    plot("gate-and-depth@cpu", by="state")
    [one] = shown
    [axes] = one["figure"].axes
    labels = [tick.get_text() for tick in axes.get_xticklabels()]
    assert labels == ["24 kB", "32 kB", "42 kB", "60 kB"]
    record = load("gate-and-depth@cpu")
    places = dict(zip(labels, range(4), strict=True))
    for (arm, measure), values in results.summary(record).items():
        x = places[results.in_bytes(results.state_bytes(record, arm, measure))]
        assert {(x, y) for y in [*values, statistics.mean(values)]} <= {
            *points(one["figure"])
        }
        assert arm in {text.get_text() for text in axes.texts}
    shown.clear()
    plot("memory-layers@cpu", by="state")
    names = [text.get_text() for text in shown[0]["figure"].axes[0].texts]
    assert "top 4,\ntwice the slots" in names, "long names have two lines"


def test_the_state_is_said_too(shown: list[dict[str, Any]]) -> None:
    plot("gate-and-depth@cpu", by="state")
    [one] = shown
    assert "gated 4 layers 24 kB, 2.9" in one["alt"]


def test_right_answers_are_drawn_arm_by_arm(shown: list[dict[str, Any]]) -> None:
    plot("recall@cpu")
    record = load("recall@cpu")
    panels = {
        axes.get_title("left").replace("\n", " "): axes
        for axes in shown[0]["figure"].axes
        if axes.axison
    }
    arms = {run["arm"] for run in record["runs"]} - {"xl"}
    assert arms == panels.keys()
    drawn = [list(line.get_ydata()) for line in panels["max"].get_lines()]
    for run in record["runs"]:
        if run["arm"] == "max":
            right = run["measures"]["test"]["accuracy"]
            assert [right[d] for d in sorted(right, key=int)] in drawn
    assert "max 80" in shown[0]["alt"] and "xl 40" in shown[0]["alt"]


def test_rates_are_a_grid(shown: list[dict[str, Any]]) -> None:
    plot("gate-rates@cpu")
    record = load("gate-rates@cpu")
    [axes] = shown[0]["figure"].axes
    ways, rates = (
        [tick.get_text() for tick in ticks]
        for ticks in (axes.get_yticklabels(), axes.get_xticklabels())
    )
    assert len(ways) == 11 and len(rates) == 5
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert len(cells) == len(axes.patches) == 55
    for y, way in enumerate(ways):
        for x, rate in enumerate(rates):
            found = [
                run["measures"]["test"]
                for run in record["runs"]
                if run["arm"] == f"{way}, rate {rate}"
            ]
            wrong = [one for one in found if one["bits"] > one["blind"] - 0.1]
            mean = statistics.mean(one["bits"] for one in found)
            wanted = f"{len(wrong)} of 3 fail" if wrong else f"{mean:.2f}"
            assert cells[x, y] == wanted
    assert "post-norm 7 fail" in shown[0]["alt"] and "GRU 0 fail" in shown[0]["alt"]


def test_a_run_fails_where_it_knows_frequencies_alone() -> None:
    assert not results.fails({"bits": 4.7, "blind": 4.9})
    assert results.fails({"bits": 4.85, "blind": 4.9})
    assert results.fails({"bits": 8.0, "blind": 4.9})


def test_right_answers_are_lines_over_segments_or_rows(
    shown: list[dict[str, Any]],
) -> None:
    plot("copy@cpu")
    record = load("copy@cpu")
    [axes] = shown[0]["figure"].axes
    labels = [tick.get_text() for tick in axes.get_xticklabels()]
    assert labels == ["2", "4", "6"]
    assert axes.get_xlabel() == "segments of a sample"
    found = points(shown[0]["figure"])
    for run in record["runs"]:
        for count, share in run["measures"]["test"]["answers"].items():
            assert (labels.index(count), 100 * share) in found
    assert "RMT 100 at 2, 100 at 4, 100 at 6;" in shown[0]["alt"]
    shown.clear()
    plot("copy-depth@cpu")
    [axes] = shown[0]["figure"].axes
    rows = [tick.get_text() for tick in axes.get_yticklabels()]
    assert rows == [f"{n} segments back" for n in ("0", "1", "2", "all")]
    found = points(shown[0]["figure"])
    for run in load("copy-depth@cpu")["runs"]:
        [share] = run["measures"]["test"]["answers"].values()
        assert (100 * share, rows.index(run["arm"])) in found


def test_costs_stand_over_a_transformer_xl() -> None:
    record, shown = load("costs@cpu"), table("costs@cpu")
    columns = ["update", "token", "decoding", "state", "parameters"]
    assert shown.head == ["arm", *columns]
    runs = [run for run in record["runs"] if run["arm"] == "RMT"]
    found = [run["measures"]["test"]["costs"]["update"]["ratio"] for run in runs]
    mean, spread = statistics.mean(found), statistics.stdev(found)
    assert cells("costs@cpu", "RMT", "update")[1] == f"{mean:.2f} ± {spread:.2f}"
    assert cells("costs@cpu", "1 kv_head", "decoding") == ["448 kB"]
    assert "timed in turns" in shown.caption and "ms a guess" not in shown.caption


def test_costs_are_drawn_for_each_seed(shown: list[dict[str, Any]]) -> None:
    plot("costs@cpu")
    [axes] = shown[0]["figure"].axes
    arms = [tick.get_text() for tick in axes.get_yticklabels()]
    found = {x for x, _ in points(shown[0]["figure"])}
    for run in load("costs@cpu")["runs"]:
        assert run["arm"] in arms
        for one in ("update", "token"):
            assert run["measures"]["test"]["costs"][one]["ratio"] in found
    assert "gated 1.60 of a training update" in shown[0]["alt"]


def test_right_answers_stand_by_segments() -> None:
    shown = table("copy@cpu")
    assert shown.head[:4] == ["arm", "2", "4", "6"]
    assert cells("copy@cpu", "RMT, 4 segments", "4") == ["100"]
    assert cells("copy@cpu", "RMT, 4 segments", "6") == ["–"]
    assert "right answers in %, by segments of a sample." in shown.caption


def test_a_record_is_shown_whole_by_one_line(
    shown: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from IPython import display

    texts: list[str] = []
    monkeypatch.setattr(display, "display", lambda text: texts.append(str(text)))
    results.report("copy@cpu")
    first, last = texts
    assert len(shown) == 1 and last == str(verdict("copy@cpu"))
    expected, fold = first.split("<details>")
    assert expected.strip() in str(expectation("copy@cpu"))
    assert "Evidence against it would be" in fold and "Committed on" in fold
    assert fold.endswith("</details>") and "Committed on" not in expected
