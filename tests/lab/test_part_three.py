"""The table of part III: rows of one record stand against its base."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import pytest

from labml_style.lab import part_three, presets, results, runner
from labml_style.lab.decoding import decoding_bytes
from labml_style.lab.part_three import GROUPS, Group
from labml_style.transformer_xl import TransformerXL, TransformerXLConfig


@pytest.fixture(scope="module")
def shown() -> results.Table:
    return part_three.part_three(turns=1)


def of(shown: results.Table, group: Group) -> dict[str, dict[str, str]]:
    """Return the rows of a group, by arm and column."""
    first = shown.rows.index([f"{group.title}: {group.record}"]) + 1
    found = {}
    for row in shown.rows[first:]:
        if len(row) == 1:
            break
        found[row[0]] = dict(zip(shown.head, row, strict=True))
    return found


def seeds(record: dict[str, Any], arm: str) -> list[float]:
    runs = [run for run in record["runs"] if run["arm"] == arm]
    return [m["bits"] for run in runs for m in run["measures"].values()]


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.record)
def test_rows_say_what_the_record_says(shown: results.Table, group: Group) -> None:
    rows, record = of(shown, group), results.load(group.record)
    [base, *others] = rows
    assert base.startswith(group.base) and rows[base]["update"] == "1.00"
    begin = seeds(record, base)
    assert rows[base]["bits per byte"].startswith(f"{statistics.mean(begin):.3f} ± ")
    for name in others:
        gaps = [a - b for a, b in zip(seeds(record, name), begin, strict=True)]
        spread = statistics.stdev(gaps)
        wanted = f"{statistics.mean(gaps):+.3f} ± {spread:.3f}"
        assert rows[name]["bits per byte"] == wanted
        assert float(rows[name]["update"]) > 0
    sizes = {run["arm"]: f"{run['parameters']:,}" for run in record["runs"]}
    assert {name: row["parameters"] for name, row in rows.items()}.items() <= (
        sizes.items()
    )
    if group.record != "gate-rates@cpu":
        assert rows.keys() == sizes.keys()


def test_a_gate_is_shown_at_its_best_rate(shown: results.Table) -> None:
    rows, record = of(shown, GROUPS[0]), results.load("gate-rates@cpu")
    names = [name.split(", rate ")[0] for name in rows]
    assert len(names) == len({*names}) == 9 and "post-norm" not in names
    for arm in {run["arm"] for run in record["runs"]}:
        for shown_arm in rows:
            if arm.split(", rate ")[0] == shown_arm.split(", rate ")[0]:
                most = statistics.mean(seeds(record, arm))
                assert statistics.mean(seeds(record, shown_arm)) <= most


def test_state_and_decoding_are_bytes_of_a_lane(shown: results.Table) -> None:
    rows = of(shown, GROUPS[3])
    assert rows["plain"]["memory"] == rows["1 kv_head"]["memory"] == "36 kB"
    assert rows["plain"]["decoding"] == "180 kB"  # 3 layers, 96 wide, 32 + 64 + 64
    assert rows["1 kv_head"]["decoding"] == "72 kB"
    for group in GROUPS:
        arms = presets.find(group.record).arms
        for name, row in of(shown, group).items():
            held = runner.state_bytes(runner.build(arms[name]).eval())
            assert row["memory"] == results.in_bytes(held), name


def test_a_layer_without_memory_has_keys_of_its_segment_alone() -> None:
    sizes: Any = dict(vocabulary=5, d_model=8, layers=2, heads=2, d_ff=8)
    config = TransformerXLConfig(
        **sizes, segment_length=4, memory_length=8, memory_layers=(2,), kv_heads=1
    )
    model = TransformerXL(config)
    keys = 2 * 4 * (4 + 12)  # two, of 4 numbers: the segment, and 8 slots in one layer
    assert decoding_bytes(model) == 4 * (keys + 8 * 8)
    assert model.training


def test_what_does_not_fit_is_refused() -> None:
    odd = Group("Odd", "cheaper-layers@cpu", "simple")
    with pytest.raises(ValueError, match="base is 'simple'; cheaper-layers@cpu has"):
        part_three.part_three(groups=[odd])
    with pytest.raises(ValueError, match="turns is 0"):
        part_three.part_three(turns=0)


def test_a_step_of_more_layers_takes_longer() -> None:
    arm = presets.find("smoke").arms["memory"]
    deep = replace(arm, config=replace(arm.config, layers=8))
    spent = part_three.step_times({"2 layers": arm, "8 layers": deep}, turns=5)
    assert 0 < 1.5 * spent["2 layers"] < spent["8 layers"]


def test_a_heading_spans_the_columns(shown: results.Table) -> None:
    html, plain = shown._repr_html_(), shown._repr_markdown_()
    title = f"{GROUPS[0].title}: {GROUPS[0].record}"
    assert f'<th scope="colgroup" colspan="6">{title}</th>' in html
    assert f"| {title} |  |  |  |  |  |" in plain
    lines = str(shown).splitlines()
    assert title in lines and max(map(len, lines[:-2])) < 90
