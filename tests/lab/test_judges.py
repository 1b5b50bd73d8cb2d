"""Judges: they say of each record what is in it, and change their mind with it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from labml_style.lab import presets, records, results
from labml_style.lab.judging import Claim, decide, gaps, span, spread
from labml_style.lab.presets import VERDICTS, Verdict, every, find, verdict

Record = dict[str, Any]


def doctored(title: str, harm: Callable[[str, int, str, Record], None]) -> Record:
    """Return a record after `harm(arm, seed, measure, found)` of each measure."""
    record = copy.deepcopy(results.load(title))
    for run in record["runs"]:
        for name, one in run["measures"].items():
            harm(run["arm"], run["seed"], name, one)
    return record


def judge(title: str, record: Record | None = None) -> Verdict:
    return verdict(find(title), record or results.load(title))


def test_verdicts_of_the_records() -> None:
    found = {
        preset.title: judge(preset.title).verdict
        for preset in every()
        if (results.FOLDER / f"{preset.title}.json").exists()
    }
    assert found == {
        "recurrence@cpu": "holds",
        "positions@cpu": "in part",
        "evaluation-cost@cpu": "in part",
        "compressive@cpu": "does not hold",
        "attention-by-age@cpu": "holds",
        "rare-words@cpu": "does not hold",
        "cross-table@cpu": "in part",
        "recall@cpu": "in part",
        "late-updates@cpu": "holds",
        "gate-rates@cpu": "holds",
        "gate-and-compression@cpu": "holds",
        "gated-recall@cpu": "does not hold",
        "gate-and-depth@cpu": "does not hold",
        "written-facts@cpu": "does not hold",
        "written-text@cpu": "in part",
        "copy@cpu": "in part",
        "copy-depth@cpu": "holds",
        "documents@cpu": "holds",
        "curriculum@cpu": "does not hold",
        "memory-tokens@cpu": "in part",
        "cheaper-layers@cpu": "does not hold",
        "memory-layers@cpu": "does not hold",
        "memory-ranges@cpu": "in part",
        "memory-layers-recall@cpu": "does not hold",
        "costs@cpu": "does not hold",
        "copy-all@cpu": "does not hold",
        "copy-longer@cpu": "does not hold",
        "reverse@cpu": "in part",
        "retrieval@cpu": "does not hold",
        "quadratic@cpu": "does not hold",
    }


def test_a_judge_says_the_numbers_that_stand_in_the_record() -> None:
    bits = results.summary(results.load("recurrence@cpu"))
    saved = gaps(bits["alone", "carried"], bits["memory", "carried"])
    text = judge("recurrence@cpu").text
    assert f"it saves {min(saved):.3f} to {max(saved):.3f} bits in all" in text
    assert "Not as expected" not in text and "evidence" not in text
    text = judge("positions@cpu").text
    assert re.search(r"Not as expected: Shaw's change by \+0\.014 to \+0\.182\.", text)
    assert text.endswith("evidence against it did not come.")


def test_without_a_gain_at_the_start_recurrence_does_not_hold() -> None:
    def small(arm: str, seed: int, measure: str, one: Record) -> None:
        if arm == "memory" and seed == 1:
            one["by_position"] = [x + 0.45 for x in one["by_position"]]

    found = judge("recurrence@cpu", doctored("recurrence@cpu", small))
    assert found.verdict == "does not hold"
    assert "Not as expected: memory saves 0.1" in found.text
    assert found.text.endswith("evidence against it did not come.")

    def worse(arm: str, seed: int, measure: str, one: Record) -> None:
        if arm == "memory" and seed == 2:
            one["bits"] += 0.1

    found = judge("recurrence@cpu", doctored("recurrence@cpu", worse))
    assert found.verdict == "does not hold", "above no memory in one pair of seeds"
    assert found.text.endswith("evidence against it came.")

    def longer(arm: str, seed: int, measure: str, one: Record) -> None:
        if arm == "longer":
            one["bits"] -= 0.05

    found = judge("recurrence@cpu", doctored("recurrence@cpu", longer))
    assert found.verdict == "in part" and "+0.017 bits over the longer" in found.text


def test_positions() -> None:
    def still(arm: str, seed: int, measure: str, one: Record) -> None:
        if arm == "shaw" and int(measure.split()[1]) > 32:
            one["bits"] = 2.628

    assert judge("positions@cpu", doctored("positions@cpu", still)).verdict == "holds"

    def gains(arm: str, seed: int, measure: str, one: Record) -> None:
        if arm == "absolute" and measure == "memory 256":
            one["bits"] = 3.0

    found = judge("positions@cpu", doctored("positions@cpu", gains))
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")

    def swapped(arm: str, seed: int, measure: str, one: Record) -> None:
        if arm == "relative" and measure == "memory 32" and seed == 0:
            one["bits"] = 2.7

    found = judge("positions@cpu", doctored("positions@cpu", swapped))
    assert found.verdict == "does not hold", "not best in every seed"


def test_cost() -> None:
    def steady(arm: str, seed: int, measure: str, one: Record) -> None:
        if arm == "window":
            one["seconds"] = one["guessed"] * int(measure.split()[1]) * 1.01e-4
            one["seconds"] *= 1 + int(measure.split()[1]) / 5000

    found = judge("evaluation-cost@cpu", doctored("evaluation-cost@cpu", steady))
    assert found.verdict == "holds"

    def fast(arm: str, seed: int, measure: str, one: Record) -> None:
        if arm == "window":
            one["seconds"] /= 20

    found = judge("evaluation-cost@cpu", doctored("evaluation-cost@cpu", fast))
    assert found.verdict == "does not hold" and "at 512 bytes is 15" in found.text


def test_compressive() -> None:
    def better(arm: str, seed: int, measure: str, one: Record) -> None:
        if arm.startswith("rate"):
            one["bits"] -= {"rate 2": 0.01, "rate 3": 0.027, "rate 4": 0.012}[arm]
        if arm == "alone":
            one["bits"] += 0.03

    found = judge("compressive@cpu", doctored("compressive@cpu", better))
    assert "0 of 9 runs with compressed slots are above no memory" in found.text
    assert found.verdict == "holds", found

    def flat(arm: str, seed: int, measure: str, one: Record) -> None:
        better(arm, seed, measure, one)
        if measure == "compressed 192":
            one["bits"] -= 0.02

    found = judge("compressive@cpu", doctored("compressive@cpu", flat))
    assert found.verdict == "in part" and "do not fall and rise" in found.text

    def worse(arm: str, seed: int, measure: str, one: Record) -> None:
        if arm == "rate 4":
            one["bits"] += 0.1

    found = judge("compressive@cpu", doctored("compressive@cpu", worse))
    assert found.text.endswith("evidence against it came.")
    assert judge("compressive@cpu").text.endswith("evidence against it did not come.")


def test_ages() -> None:
    def rise(arm: str, seed: int, measure: str, one: Record) -> None:
        one["by_age"]["shares"][5] *= 2

    title = "attention-by-age@cpu"
    found = judge(title, doctored(title, rise))
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")

    def level(arm: str, seed: int, measure: str, one: Record) -> None:
        if seed == 1:
            one["by_age"]["shares"][11] *= 0.8

    found = judge(title, doctored(title, level))
    assert found.verdict == "in part" and "Not as expected: the newest" in found.text


def test_rare_words() -> None:
    def rare(arm: str, seed: int, measure: str, one: Record) -> None:
        for least in ("0", "1"):
            for lane in one["by_count"][least]:
                lane[1] *= 1.0 if arm == "alone" else 0.9
        for least in one["by_count"]:  # no gap between the two memories
            if arm == "rate 3":
                one["by_count"][least] = other[seed][least]

    other = [
        copy.deepcopy(run["measures"]["carried"]["by_count"])
        for run in results.load("rare-words@cpu")["runs"]
        if run["arm"] == "xl"
    ]
    for seed, found in enumerate(other):
        for least in found:
            for i, lane in enumerate(found[least]):
                lane[1] *= 0.9 if least in "01" else 1.0
                lane[1] += (-1) ** (i + seed)
    found = judge("rare-words@cpu", doctored("rare-words@cpu", rare))
    assert found.verdict == "holds", found
    assert "saves 10." in found.text and "5 of 5 classes" in found.text


def test_cross_table() -> None:
    def through(arm: str, seed: int, measure: str, one: Record) -> None:
        if arm == "through time":
            one["bits"] -= 0.03

    title = "cross-table@cpu"
    assert judge(title, doctored(title, through)).verdict == "holds"

    def column(arm: str, seed: int, measure: str, one: Record) -> None:
        if arm == "mean pooling" and seed == 2:
            one["read"] = 0.1

    found = judge(title, doctored(title, column))
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")
    assert "changes attention least in 2" in found.text

    def encoding(arm: str, seed: int, measure: str, one: Record) -> None:
        if arm == "auto-encoding" and seed == 0:
            one["bits"] -= 0.1

    found = judge(title, doctored(title, encoding))
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")


def test_recall() -> None:
    def all_right(arm: str, seed: int, measure: str, one: Record) -> None:
        for delay, share in one["accuracy"].items():
            if arm == "xl":
                continue
            if int(delay) <= 16:
                one["accuracy"][delay] = 0.97
            elif int(delay) <= 80:
                better = {"frozen": 0.3, "convolution, through time": 0.95}
                one["accuracy"][delay] = better.get(arm, 0.6)
            else:
                one["accuracy"][delay] = min(share, 0.13)

    assert judge("recall@cpu", doctored("recall@cpu", all_right)).verdict == "holds"

    def blind(arm: str, seed: int, measure: str, one: Record) -> None:
        if arm != "xl":
            for delay in one["accuracy"]:
                one["accuracy"][delay] = 0.97 if int(delay) <= 16 else 0.12

    found = judge("recall@cpu", doctored("recall@cpu", blind))
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")
    assert "(at chance: convolution, attention" in found.text

    def one_blind(arm: str, seed: int, measure: str, one: Record) -> None:
        if arm == "max":
            blind(arm, seed, measure, one)

    found = judge("recall@cpu", doctored("recall@cpu", one_blind))
    assert found.verdict == "does not hold", "every compressed memory was expected to"
    assert "(at chance: max)" in found.text


def test_late_updates() -> None:
    title = "late-updates@cpu"

    def fewer(arm: str, seed: int, measure: str, one: Record) -> None:
        if arm == "every 4":
            one["bits"] += 0.05

    found = judge(title, doctored(title, fewer))
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")
    record = copy.deepcopy(results.load(title))
    for run in record["runs"]:
        if run["arm"] == "stopped, drawn":
            run["curve"] = [[number, bits + 0.02] for number, bits in run["curve"]]
    found = judge(title, record)
    assert (
        found.verdict == "does not hold" and "Not as expected: with the" in found.text
    )
    # A point of the curve counts as many updates as it is the mean of.
    record = copy.deepcopy(results.load(title))
    for run in record["runs"]:
        if run["arm"] == "stopped, blocks" and run["seed"] == 0:
            run["curve"] = [[401, 99.0], [680, 3.0]]
    assert judge(title, record).verdict == "holds"


@pytest.mark.parametrize(
    ("held", "against", "said"),
    [
        ((True, True), False, "holds"),
        ((True, False), False, "in part"),
        ((False, True), False, "does not hold"),
        ((False, False), False, "does not hold"),
        ((True, True), True, "does not hold"),
    ],
)
def test_claims_make_a_verdict(
    held: tuple[bool, bool], against: bool, said: str
) -> None:
    claims = [Claim(one, f"finding {i}") for i, one in enumerate(held)]
    found = decide(claims, against)
    assert found.verdict == said in VERDICTS
    assert all(f"finding {i}" in found.text for i in (0, 1))
    came = "came" if against else "did not come"
    assert found.text.endswith(f"evidence against it {came}.") == (said != "holds")


def test_a_verdict_is_one_of_four() -> None:
    for one in VERDICTS:
        Verdict(one, "")
    with pytest.raises(ValueError, match="verdict is 'yes'; expected one of holds, in"):
        Verdict("yes", "")


def test_numbers_are_shown_as_a_range() -> None:
    assert span([0.3, 0.1, 0.2], ".1f") == "0.1 to 0.3"
    assert span([0.11, 0.12], ".1f") == "0.1"
    assert spread([1.0], [1.0, 3.0]) == pytest.approx(2**0.5)


def test_a_judge_that_is_not_there_or_fails_is_named() -> None:
    smoke = find("smoke")
    for one, said in (
        (None, "smoke@cpu has no judge"),
        ("labml_style.lab.judging:nobody", "judge is 'labml_style.lab.judging:nobody'"),
        (lambda record: record["nothing"], "its judge failed .KeyError: 'nothing'"),
    ):
        with pytest.raises(ValueError, match=said):
            presets.verdict(replace(smoke, judge=one), {})
    name = "labml_style.lab.experiments.training:judge_recurrence"
    named = replace(find("recurrence@cpu"), judge=name)
    assert presets.verdict(named, results.load("recurrence@cpu")).verdict == "holds"


def test_a_verdict_is_put_into_a_record_and_nothing_else_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    record = results.load("recurrence@cpu")
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    bare = {k: v for k, v in record.items() if k not in ("verdict", "committed")}
    path = records.write(bare)
    records.judge()
    assert json.loads(path.read_text()) == record
    before = path.stat().st_mtime_ns
    records.judge()
    assert path.stat().st_mtime_ns == before


def test_gate_rates() -> None:
    title = "gate-rates@cpu"

    def as_expected(arm: str, seed: int, measure: str, one: Record) -> None:
        way, _, rate = arm.partition(", rate ")
        one["bits"] = one["blind"] - 1.0
        if rate == "0.1":
            one["bits"] += 0.2 * (way in ("pre-norm", "reordered"))
            one["bits"] += 1.0 * (way == "post-norm")
        if way == "input" and rate != "0.001":
            one["bits"] = one["blind"] - 0.09
        if way == "nBRC" and rate in ("0.01", "0.03", "0.1"):
            one["bits"] = one["blind"] + 0.5

    def harmed(wrong: str, seeds: tuple[int, ...], bits: float) -> Verdict:
        def harm(arm: str, seed: int, measure: str, one: Record) -> None:
            as_expected(arm, seed, measure, one)
            if arm == wrong and seed in seeds:
                one["bits"] = one["blind"] + bits

        return judge(title, doctored(title, harm))

    found = judge(title, doctored(title, as_expected))
    assert found.verdict == "holds", found
    assert "GRU 0," in found.text and "post-norm 3," in found.text
    assert "the input gate failed 12 times, another gate at most 9 times" in found.text
    found = harmed("GRU, rate 0.03", (1,), 0)
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")
    found = harmed("pre-norm, rate 0.1", (2,), -1.1)
    assert found.verdict == "in part", "not in every seed"
    found = harmed("pre-norm, rate 0.1", (0, 1, 2), -1.1)
    assert found.verdict == "does not hold", "pre-norm is better in every seed"
    found = harmed("post-norm, rate 0.1", (1,), -0.5)
    assert found.verdict == "in part" and "2 of 3 runs of post-norm" in found.text
    assert harmed("nBRC, rate 0.003", (0, 1, 2), 0).verdict == "in part", "as many fail"


def test_gate_and_compression() -> None:
    title = "gate-and-compression@cpu"
    bits = {
        "exact": [2.50, 2.51, 2.52],
        "compressed": [2.51, 2.51, 2.53],
        "gated exact": [2.55, 2.57, 2.56],
        "gated compressed": [2.56, 2.58, 2.57],
    }

    def verdict_of(**changed: list[float]) -> Verdict:
        now = bits | {name.replace("_", " "): found for name, found in changed.items()}

        def given(arm: str, seed: int, measure: str, one: Record) -> None:
            one["bits"] = now[arm][seed]

        return judge(title, doctored(title, given))

    found = verdict_of()
    assert found.verdict == "holds", found
    assert "by +0.040 to +0.060 with exact slots" in found.text
    assert "interaction is +0.003 bits in the mean, +0.000 to +0.010" in found.text
    found = verdict_of(gated_compressed=[2.53, 2.54, 2.53])
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")
    found = verdict_of(gated_compressed=[2.45, 2.56, 2.58])
    assert found.verdict == "does not hold", "large, and not of one sign"
    assert found.text.endswith("against it did not come.")
    found = verdict_of(
        gated_exact=[2.49, 2.50, 2.51], gated_compressed=[2.5, 2.5, 2.52]
    )
    assert found.text.endswith("against it came."), "the gate pays in every seed"
    found = verdict_of(compressed=[2.54, 2.55, 2.56], gated_compressed=[2.6, 2.61, 2.6])
    assert found.verdict == "in part", "compressed slots cost more than 0.03"


def test_gated_recall() -> None:
    title = "gated-recall@cpu"
    far = {"exact": 0.12, "gated exact": 0.13, "compressed": 0.6}
    noise = [0.01, -0.02, 0.03]

    def verdict_of(gain: float, near: float = 0.95, **changed: float) -> Verdict:
        now = far | {name.replace("_", " "): share for name, share in changed.items()}

        def harm(arm: str, seed: int, measure: str, one: Record) -> None:
            beyond = now.get(arm, 0.61 + gain + noise[seed])
            close = near if arm == "gated exact" else 0.95
            # Between 16 and 48 tokens back anything may be, and beyond 80 too.
            one["accuracy"] = {
                delay: close
                if int(delay) <= 16
                else beyond
                if 48 <= int(delay) <= 80
                else 0.5
                for delay in one["accuracy"]
            }

        return judge(title, doctored(title, harm))

    found = verdict_of(0.0)
    assert found.verdict == "holds", found
    assert "from 48 to 80 tokens back" in found.text
    assert "at 48 to 80 tokens compressed slots answer 60% without" in found.text
    found = verdict_of(0.2)
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")
    assert "by +48% without a gate and by +69% with one" in found.text
    assert "an interaction of +21% in the mean, +18% to +23% over seeds" in found.text
    assert verdict_of(0.0, near=0.7).verdict == "in part"
    assert verdict_of(0.0, exact=0.25, gated_exact=0.26).verdict == "in part"
    found = verdict_of(-0.36, compressed=0.24)
    assert found.verdict == "in part" and "24% without a gate and 26%" in found.text
    found = verdict_of(-0.47, compressed=0.13)
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")


def test_gate_and_depth() -> None:
    title = "gate-and-depth@cpu"
    bits = {
        "4": [2.6, 2.6, 2.6],
        "12": [2.7, 2.7, 2.65],
        "gated_4": [2.65, 2.65, 2.55],
        "gated_12": [2.8, 2.7, 2.7],
    }

    def verdict_of(**changed: list[float]) -> Verdict:
        now = bits | changed

        def given(arm: str, seed: int, measure: str, one: Record) -> None:
            one["bits"] = now[arm.removesuffix(" layers").replace(" ", "_")][seed]

        return judge(title, doctored(title, given))

    found = verdict_of()
    assert found.verdict == "holds", found
    assert "12 layers change bits by +0.050 to +0.100 over 4" in found.text
    assert "an interaction of +0.033 in the mean" in found.text
    found = verdict_of(gated_12=[2.8, 2.7, 2.54])
    assert found.verdict == "does not hold", "depth pays in one seed"
    assert found.text.endswith("evidence against it did not come.")
    found = verdict_of(gated_12=[2.69, 2.66, 2.64])
    assert found.text.endswith("against it came."), "below 12 layers without a gate"
    found = verdict_of(gated_4=[2.9, 2.9, 2.9])
    assert found.text.endswith("against it came."), "below 4 gated layers"
    assert verdict_of(gated_4=[2.55, 2.55, 2.55]).verdict == "in part"


def given_bits(title: str, bits: dict[str, list[float]]) -> Verdict:
    """Judge other bits in place of the record's, an arm's by seed."""

    def given(arm: str, seed: int, measure: str, one: Record) -> None:
        one["bits"] = bits[arm][seed]

    return judge(title, doctored(title, given))


def test_memory_layers() -> None:
    bits = {
        "all": [2.7, 2.7, 2.7],
        "top 4": [2.71, 2.71, 2.72],
        "interleaved": [2.7, 2.71, 2.7],
        "bottom 4": [2.74, 2.75, 2.76],
        "first": [2.78, 2.78, 2.78],
        "last": [2.74, 2.74, 2.74],
        "none": [2.8, 2.8, 2.8],
        "top 4, twice the slots": [2.69, 2.7, 2.7],
        "all, outputs": [2.7, 2.68, 2.7],
    }

    def verdict_of(arm: str = "all", *found: float) -> Verdict:
        return given_bits(
            "memory-layers@cpu", bits | ({arm: [*found]} if found else {})
        )

    found = verdict_of()
    assert found.verdict == "holds", found
    assert "top 4 has +0.013 bits over all" in found.text
    assert "+0.030 to +0.040 over top 4 and" in found.text
    assert "the last layer alone keeps 60% of what memory saves" in found.text
    assert verdict_of("interleaved", 2.73, 2.73, 2.73).verdict == "does not hold"
    found = verdict_of("bottom 4", 2.69, 2.7, 2.69)
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")
    found = verdict_of("top 4", 2.79, 2.79, 2.79)
    assert found.text.endswith("against it came."), "it keeps a tenth of the gain"
    for arm, value in (
        ("first", 2.73),
        ("last", 2.77),
        ("top 4, twice the slots", 2.71),
        ("all, outputs", 2.71),
    ):
        assert verdict_of(arm, 2.74, value, 2.74).verdict == "in part", arm
    assert verdict_of("bottom 4", 2.74, 2.7, 2.76).verdict == "in part"


def test_memory_ranges() -> None:
    bits = {
        "all long": [2.7, 2.7, 2.7],
        "top 4 long": [2.7, 2.71, 2.7],
        "bottom 4 long": [2.72, 2.72, 2.7],
        "all short": [2.73, 2.74, 2.75],
    }

    def verdict_of(arm: str = "all long", *found: float) -> Verdict:
        return given_bits(
            "memory-ranges@cpu", bits | ({arm: [*found]} if found else {})
        )

    found = verdict_of()
    assert found.verdict == "holds", found
    assert "has -0.010 bits over long in the bottom 4" in found.text
    assert verdict_of("all short", 2.69, 2.8, 2.8).verdict == "in part"
    assert verdict_of("all long", 2.68, 2.68, 2.68).verdict == "in part"
    found = verdict_of("bottom 4 long", 2.69, 2.69, 2.72)
    assert found.verdict == "does not hold"
    assert found.text.endswith("against it did not come."), "in one seed it is as said"
    found = verdict_of("bottom 4 long", 2.69, 2.69, 2.69)
    assert found.text.endswith("against it came.")


def test_memory_layers_recall() -> None:
    title = "memory-layers-recall@cpu"

    def verdict_of(edge: float = 0.6, **changed: float) -> Verdict:
        far = {"all": 0.3, "first": 0.95, "last": 0.5, "all, outputs": 0.31}
        far |= {name.replace("_", ", "): share for name, share in changed.items()}

        def given(arm: str, seed: int, measure: str, one: Record) -> None:
            half = {"16": edge} if arm not in far else {}
            share = far.get(arm, 0.4)
            one["accuracy"] = {
                delay: half.get(delay, 0.98 if int(delay) < 16 else share)
                for delay in one["accuracy"]
            }

        return judge(title, doctored(title, given))

    found = verdict_of()
    assert found.verdict == "holds", found
    assert "all answers 30% at 16 tokens in the mean, top 4 60%" in found.text
    assert "answers 50% there, and 50% at 48 tokens" in found.text
    assert verdict_of(edge=0.3).verdict == "does not hold"
    assert verdict_of(first=0.89).verdict == "in part"
    assert verdict_of(last=0.96).verdict == "in part", "not behind the first"
    assert verdict_of(all_outputs=0.41).verdict == "in part"
    for changes in ({"last": 0.28}, {"first": 0.29}):
        assert verdict_of(**changes).text.endswith("against it came.")


# Right answers by arm, seed and number of segments, in place of the record's.
def answered(
    title: str, share: Callable[[str, int, int], float]
) -> Callable[[], Verdict]:
    def given(arm: str, seed: int, measure: str, one: Record) -> None:
        one["answers"] = {n: share(arm, seed, int(n)) for n in one["answers"]}

    return lambda: judge(title, doctored(title, given))


def test_copy() -> None:
    def verdict_of(**changed: float) -> Verdict:
        now = {"RMT": 1.0, "RMT detached": 0.14, "Transformer-XL, same slots, 2": 0.99}
        now |= {name.replace("_", " "): found for name, found in changed.items()}

        def share(arm: str, seed: int, n: int) -> float:
            way = arm.removesuffix(" segments")
            found = now.get(way, now.get(way.rpartition(",")[0], 0.12))
            return found - 0.001 * seed

        return answered("copy@cpu", share)()

    found = verdict_of()
    assert found.verdict == "holds", found
    assert "RMT has 99.8% to 100.0% right at 2 to 6 segments" in found.text
    assert verdict_of(RMT=0.98).verdict == "does not hold"
    found = verdict_of(RMT=0.85)
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")
    assert verdict_of(RMT_detached=0.7).verdict == "in part"
    found = verdict_of(RMT_detached=0.95)
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")
    assert verdict_of(**{"Memory Transformer": 0.3}).verdict == "in part"
    assert verdict_of(**{"no memory": 0.3}).verdict == "in part"
    assert verdict_of(**{"Transformer-XL, same slots, 2": 0.8}).verdict == "in part"
    found = verdict_of(**{"Transformer-XL, same state, 4": 0.3})
    assert found.verdict == "in part" and "it has 12% to 30%" in found.text
    found = verdict_of(**{"Transformer-XL, same state, 6": 0.92})
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")


def test_copy_depth() -> None:
    def verdict_of(*shares: float) -> Verdict:
        names = ("0", "1", "2", "all")
        now = dict(zip(names, shares, strict=True))
        return answered("copy-depth@cpu", lambda a, s, n: now[a.split()[0]])()

    assert verdict_of(0.12, 0.2, 0.5, 1.0).verdict == "holds"
    assert verdict_of(0.12, 0.5, 0.4, 1.0).verdict == "in part"
    assert verdict_of(0.12, 0.2, 0.5, 0.95).verdict == "does not hold"
    found = verdict_of(0.12, 0.2, 0.5, 0.8)
    assert found.text.endswith("against it came.")
    found = verdict_of(0.95, 0.96, 0.97, 1.0)
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")


def test_curriculum() -> None:
    usual: dict[str, Callable[[int], float]] = {
        "1 to 5 segments": lambda n: 0.99 if n <= 6 else 0.95 if n <= 10 else 0.3,
        "5 from the start": lambda n: 0.17,
        "1 and 2 segments": lambda n: 0.98 if n <= 2 else 0.4,
        "1 segment": lambda n: 0.99 if n == 1 else 0.2,
    }

    def verdict_of(**changed: Callable[[int], float]) -> Verdict:
        now = usual | {
            {"grown": "1 to 5 segments", "start": "5 from the start"}.get(name)
            or {"short": "1 and 2 segments", "single": "1 segment"}[name]: found
            for name, found in changed.items()
        }
        return answered("curriculum@cpu", lambda arm, seed, n: now[arm](n))()

    found = verdict_of()
    assert found.verdict == "holds", found
    assert "95% are right at 10 segments; up to 5 segments 99%" in found.text
    assert verdict_of(start=lambda n: 0.9).verdict == "in part"
    assert verdict_of(short=lambda n: 0.7).verdict == "in part"
    assert verdict_of(single=lambda n: 0.5).verdict == "in part"
    assert verdict_of(grown=lambda n: 0.99).verdict == "in part", "no loss at 200"
    found = verdict_of(grown=lambda n: 0.99 if n <= 5 else 0.8)
    assert found.verdict == "does not hold"
    assert found.text.endswith("against it did not come.")
    for harm in (lambda n: 0.85, lambda n: 0.99 if n <= 5 else 0.3):
        found = verdict_of(grown=harm)
        assert found.text.endswith("evidence against it came."), found


def test_memory_tokens() -> None:
    bits = {"no memory": 2.75, "RMT 10 and Transformer-XL 32": 2.7}
    bits |= {f"Transformer-XL {n}": 2.7 for n in (1, 2, 4, 5, 10, 20, 32)}
    bits |= {f"RMT {m}": 2.74 for m in (5, 10, 20)}

    def verdict_of(**changed: float) -> Verdict:
        now = bits | {name.replace("_", " "): x for name, x in changed.items()}

        def given(arm: str, seed: int, measure: str, one: Record) -> None:
            one["bits"] = now[arm] + 0.01 * seed

        return judge("memory-tokens@cpu", doctored("memory-tokens@cpu", given))

    found = verdict_of()
    assert found.verdict == "holds", found
    assert "over no memory it has -0.010, -0.010, -0.010" in found.text
    assert verdict_of(RMT_10=2.81).verdict == "in part", "far from no memory"
    found = verdict_of(**{"RMT 10 and Transformer-XL 32": 2.74})
    assert found.verdict == "in part" and "change bits by +0.040" in found.text
    found = verdict_of(RMT_20=2.69)
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")
    lower = {f"Transformer-XL {n}": 2.75 for n in (1, 2, 4)}
    found = verdict_of(**lower)
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")
    found = verdict_of(**{"Transformer-XL 2": 2.75})
    assert found.verdict == "does not hold"
    assert found.text.endswith("against it did not come.")


def test_a_longer_curriculum() -> None:
    def verdict_of(near: float, later: float, far: float, start: float) -> Verdict:
        def shares(arm: str) -> dict[str, float]:
            if arm == "7 from the start":
                return {str(n): start for n in (1, 2, 3, 4, 5, 6, 10, 200)}
            return {str(n): near for n in range(1, 7)} | {"10": later, "200": far}

        runs = [
            {"arm": arm, "seed": seed, "measures": {"test": {"answers": shares(arm)}}}
            for arm in ("1 to 7 segments", "7 from the start")
            for seed in range(3)
        ]
        return verdict(find("curriculum@gpu"), {"runs": runs})

    assert verdict_of(0.99, 0.9, 0.4, 0.2).verdict == "holds"
    assert verdict_of(0.99, 0.9, 0.4, 0.7).verdict == "in part"
    assert verdict_of(0.99, 0.9, 0.95, 0.2).verdict == "in part"
    assert verdict_of(0.93, 0.9, 0.4, 0.2).verdict == "in part"
    assert verdict_of(0.99, 0.7, 0.4, 0.2).verdict == "does not hold"
    assert verdict_of(0.8, 0.7, 0.4, 0.2).text.endswith("against it came.")


def test_written_facts() -> None:
    usual: dict[str, Callable[[int], float]] = {
        "GRU, 0 back": lambda n: 1.0 if n == 1 else 0.17,
        "GRU, 1 back": lambda n: 0.98 if n <= 2 else 0.7,
        "GRU, 3 back": lambda n: 1.0 if n <= 4 else 0.9,
        "nBRC, 3 back": lambda n: 0.99 if n <= 4 else 0.8,
        "fixed, 3 back": lambda n: 0.85 if n <= 4 else 0.5,
        "Transformer-XL, same state": lambda n: 1.0 if n == 1 else 0.17,
    }

    def verdict_of(**changed: Callable[[int], float]) -> Verdict:
        now = usual | {
            next(arm for arm in usual if arm.replace(", ", "_").startswith(name)): found
            for name, found in changed.items()
        }
        runs = [
            {
                "arm": arm,
                "seed": seed,
                "measures": {"test": {"answers": {str(n): f(n) for n in range(1, 11)}}},
            }
            for arm, f in now.items()
            for seed in range(3)
        ]
        return verdict(find("written-facts@cpu"), {"runs": runs})

    found = verdict_of()
    assert found.verdict == "holds", found
    assert "3 borders 100% are right at 2 to 4 segments, detached 17%" in found.text
    assert verdict_of(GRU_1=lambda n: 0.8).verdict == "in part", "2 segments at 80 %"
    assert verdict_of(GRU_1=lambda n: 1.0).verdict == "in part", "no worse at 4"
    assert verdict_of(nBRC_3=lambda n: 0.9).verdict == "in part"
    assert verdict_of(fixed_3=lambda n: 0.7).verdict == "in part"
    assert verdict_of(fixed_3=lambda n: 0.95).verdict == "in part", "as good at 10"
    assert verdict_of(Transformer=lambda n: 0.35).verdict == "in part"
    found = verdict_of(GRU_3=lambda n: 0.94 if n == 2 else 1.0)
    assert found.verdict == "does not hold"
    assert found.text.endswith("against it did not come.")
    assert verdict_of(GRU_0=lambda n: 0.7).verdict == "does not hold"
    for harm in (dict(GRU_0=lambda n: 0.95), dict(nBRC_3=lambda n: 0.5)):
        found = verdict_of(**harm)
        assert found.text.endswith("evidence against it came."), found


def test_written_text() -> None:
    names = [*find("written-text@cpu").arms]
    usual = dict(zip(names, (2.8, 2.65, 2.6, 2.64, 2.65), strict=True))

    def verdict_of(**changed: float) -> Verdict:
        words = {"none": 0, "short": 1, "equal": 2, "coarse": 3, "own": 4}
        now = usual | {names[words[name]]: x for name, x in changed.items()}
        runs = [
            {"arm": arm, "seed": s, "measures": {"carried": {"bits": x + 0.01 * s}}}
            for arm, x in now.items()
            for s in range(3)
        ]
        return verdict(find("written-text@cpu"), {"runs": runs})

    found = verdict_of()
    assert found.verdict == "holds", found
    assert "of the same state it has +0.050 bits" in found.text
    assert verdict_of(short=2.6).verdict == "in part"
    assert verdict_of(coarse=2.6).verdict == "in part"
    assert verdict_of(none=2.6).verdict == "in part"
    found = verdict_of(equal=2.66)
    assert found.verdict == "does not hold" and found.text.endswith("against it came.")


def test_costs() -> None:
    preset = find("costs@cpu")
    usual = {arm: (1.0, 1.0) for arm in preset.arms} | {
        "Compressive, convolution": (1.2, 1.0),
        "gated": (1.5, 1.5),
        "RMT": (1.1, 0.9),
    }
    bytes_of = {"no memory": 0, "RMT": 8}

    def verdict_of(
        kept: int = 50, parameters: int = 200, **changed: tuple[float, float]
    ) -> Verdict:
        names = {name.replace(" ", "_"): name for name in usual}
        names |= {"one": "1 kv_head", "xl": "Transformer-XL"}
        names |= {"max": "Compressive, max pooling"}
        now = usual | {names[name]: found for name, found in changed.items()}
        runs = []
        for arm, (update, token) in now.items():
            costs = {"update": {"ratio": update}, "token": {"ratio": token}}
            costs["decoding"] = kept if arm == "1 kv_head" else 100  # type: ignore
            runs.append(
                {
                    "arm": arm,
                    "parameters": parameters if arm == "gated" else 100,
                    "state_bytes": bytes_of.get(arm, 100),
                    "measures": {"test": {"costs": costs}},
                }
            )
        return verdict(preset, {"runs": runs})

    found = verdict_of()
    assert found.verdict == "holds", found
    assert "leaves 50% of the bytes of decoding" in found.text
    assert verdict_of(xl=(1.06, 1.0)).verdict == "in part"
    assert verdict_of(gated=(1.1, 1.5)).verdict == "in part"
    assert verdict_of(parameters=90).verdict == "in part"
    assert verdict_of(max=(1.3, 1.0)).verdict == "in part", "dearer than what learns"
    assert verdict_of(kept=80).verdict == "in part"
    assert verdict_of(one=(0.8, 1.0)).verdict == "in part"
    assert verdict_of(top_half=(1.0, 1.2)).verdict == "in part"
    assert verdict_of(RMT=(1.6, 0.9)).verdict == "in part"
    found = verdict_of(gated=(1.5, 1.7))
    assert found.verdict == "does not hold" and "did not come" in found.text
    for found in (verdict_of(gated=(3.1, 1.5)), verdict_of(xl=(1.0, 0.85))):
        assert found.text.endswith("evidence against it came."), found


def test_a_finding_has_no_semicolon() -> None:
    with pytest.raises(ValueError, match="'a; b'; expected none with a semicolon"):
        decide([Claim(True, "a; b")], against=False)


# --- algorithmic tasks


def shared(title: str, usual: dict[str, float], **changed: float) -> Verdict:
    """Judge right answers by arm, or by memory for all numbers of segments."""
    now = usual | {name.replace("_", " "): found for name, found in changed.items()}
    preset, runs = find(title), []
    for arm, seed in preset.runs():
        way, _, rest = arm.rpartition(", ")
        n = rest.split()[0] if rest.endswith("segments") else "6"
        found = now.get(f"{way} {n}", now.get(way or arm, now.get(arm, 0.12)))
        measures = {"test": {"answers": {n: found - 0.001 * seed}}}
        runs.append({"arm": arm, "seed": seed, "measures": measures})
    return judge(title, {"title": title, "runs": runs})


CACHED = {
    f"{name} {n}": {"2": 0.99, "4": 0.9, "6": 0.6}[n]
    for name in (
        "Transformer-XL",
        "Compressive, max pooling",
        "Compressive, convolution",
        "Memory Transformer-XL",
    )
    for n in "246"
}


def test_copy_all() -> None:
    usual = CACHED | {"RMT": 1.0, "RMT with a cache": 0.99}
    found = shared("copy-all@cpu", usual)
    assert found.verdict == "holds", found
    assert "RMT has 99.8% to 100.0% right; at 2 segments" in found.text
    assert shared("copy-all@cpu", usual, RMT=0.98).verdict == "does not hold"
    for changes in (
        {"Transformer-XL 2": 0.9},
        {"Memory Transformer-XL 6": 1.0},
        {"RMT with a cache": 0.9},
        {"RMT detached": 0.3},
        {"Memory Transformer": 0.3},
    ):
        found = shared("copy-all@cpu", usual, **changes)
        assert found.verdict == "in part", changes
        assert found.text.endswith("against it did not come.")
    for changes in ({"RMT 4": 0.85}, {"Transformer-XL 6": 1.0}):
        found = shared("copy-all@cpu", usual, **changes)
        assert found.text.endswith("against it came."), changes


def test_reverse() -> None:
    usual = CACHED | {"RMT": 1.0, "RMT 6": 0.9, "RMT with a cache": 0.9}
    found = shared("reverse@cpu", usual)
    assert found.verdict == "holds", found
    for changes in ({"RMT 6": 0.7}, {"Compressive, max pooling 6": 0.75}):
        assert shared("reverse@cpu", usual, **changes).verdict == "does not hold"
    for changes in (
        {"Compressive, convolution 2": 0.9},
        {"Memory Transformer-XL 6": 0.4},
        {"no memory 4": 0.3},
    ):
        assert shared("reverse@cpu", usual, **changes).verdict == "in part", changes
    found = shared("reverse@cpu", usual, **{"RMT 6": 0.5})
    assert found.text.endswith("against it came.")


def test_retrieval() -> None:
    usual = CACHED | {
        "Memory Transformer-XL 6": 0.98,
        "RMT": 0.9,
        "RMT asked once": 0.5,
    }
    found = shared("retrieval@cpu", usual)
    assert found.verdict == "holds", found
    for changes in (
        {"RMT": 0.8},
        {"RMT asked once": 0.65},
        {"Memory Transformer-XL 6": 0.9},
    ):
        assert shared("retrieval@cpu", usual, **changes).verdict == "does not hold"
    for changes in (
        {"Transformer-XL 2": 0.9},
        {"Compressive, max pooling 6": 0.8},
        {"RMT detached 6": 0.7},
    ):
        assert shared("retrieval@cpu", usual, **changes).verdict == "in part", changes
    for changes in ({"Transformer-XL 6": 0.95}, {"RMT asked once": 0.95}):
        found = shared("retrieval@cpu", usual, **changes)
        assert found.text.endswith("against it came."), changes


def test_quadratic() -> None:
    usual = {"no memory": 0.2, "RMT": 0.4}
    usual |= {"Transformer-XL, same state": 0.5, "Transformer-XL, same slots": 0.8}
    found = shared("quadratic@cpu", usual)
    assert found.verdict == "holds", found
    assert shared("quadratic@cpu", usual, RMT=0.1).verdict == "does not hold"
    for changes in (
        {"no memory": 0.35},
        {"Transformer-XL, same slots": 0.55},
        {"Transformer-XL, same state": 0.9},
    ):
        assert shared("quadratic@cpu", usual, **changes).verdict == "in part", changes
    for changes in ({"RMT": 0.9}, {"Transformer-XL, same slots": 0.15}):
        found = shared("quadratic@cpu", usual, **changes)
        assert found.text.endswith("against it came."), changes


@pytest.mark.parametrize("name", ["reverse", "retrieval", "quadratic"])
def test_the_paper_s_sizes(name: str) -> None:
    title = f"{name}@gpu"
    usual = {"RMT": 0.95, "Transformer-XL": 0.8, "no memory": 0.1}
    assert shared(title, usual).verdict == "holds"
    assert shared(title, usual, RMT=0.85).verdict == "does not hold"
    for changes in ({"Transformer-XL": 0.99}, {"Memory Transformer": 0.4}):
        assert shared(title, usual, **changes).verdict == "in part", changes
    found = shared(title, usual, RMT=0.5)
    assert found.text.endswith("against it came.")
