"""Algorithmic tasks: formats, splits, streams, files, and memories at rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from labml_style.algorithmic_tasks import (
    SPLITS,
    AlgorithmicTask,
    AssociativeRetrieval,
    Copy,
    Reverse,
    TaskStream,
    split_of,
)
from labml_style.compressive_transformer import (
    CompressiveTransformer,
    CompressiveTransformerConfig,
)
from labml_style.equations import FIELD, QuadraticEquations, worked
from labml_style.lab import papers, presets, tasks
from labml_style.lab.at_rest import Kind, at_rest, kinds
from labml_style.lab.runner import build
from labml_style.recurrent_memory import (
    RecurrentMemoryTransformer,
    RecurrentMemoryTransformerConfig,
)
from labml_style.task_files import StoredTask, write_samples
from labml_style.transformer_xl import TransformerXL, TransformerXLConfig

TASKS: dict[str, AlgorithmicTask] = {
    "copy": Copy(),
    "reverse": Reverse(length=6),
    "retrieval": AssociativeRetrieval(),
    "asked thrice": AssociativeRetrieval(3, 5, 4, questions=3, sign_first=True),
    "quadratic": QuadraticEquations(),
    "small quadratic": QuadraticEquations(9, 3, 0.5),
}
each = pytest.mark.parametrize("name", TASKS)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- formats


@each
def test_rows_have_the_lengths_and_tokens_they_say(name: str) -> None:
    task = TASKS[name]
    questions, answers = task.draw(200, rng())
    assert questions.shape == (200, task.question_length)
    assert answers.shape == (200, task.answer_length)
    assert questions.dtype == answers.dtype == torch.int64
    both = torch.cat([questions, answers], dim=1)
    assert 0 <= both.min() and both.max() < len(task.characters)
    targets = task.targets(questions, answers)
    assert targets.shape[1] <= both.shape[1] - 1
    behind = both[:, -targets.shape[1] :]
    if task.name != "retrieval":
        assert ((targets == behind) | (targets == -100)).all()
    assert (targets[:, -task.counted :] >= 0).any(1).all()


@each
def test_draws_are_the_same_for_the_same_seed(name: str) -> None:
    one, two, other = (TASKS[name].draw(50, rng(seed)) for seed in (1, 1, 2))
    assert all(map(torch.equal, one, two))
    assert not one[0].equal(other[0])


def test_copy_has_the_numbers_of_the_paper() -> None:
    text, follows = Copy().draw(100, rng())
    assert text.shape == (100, 24) and follows.shape == (100, 49)
    assert sorted(text.unique().tolist()) == list(range(2, 10))
    assert follows[:, 0].eq(1).all() and follows[:, 1:25].equal(text)
    assert follows[:, 25:].equal(text)
    assert Copy(length=6).text(torch.tensor([2, 9, 1])) == "ah="


def test_reverse_asks_for_the_text_from_its_end() -> None:
    text, follows = Reverse().draw(100, rng())
    assert text.shape == (100, 24) and follows[:, 0].eq(1).all()
    assert follows[:, 1:].tolist() == [row[::-1] for row in text.tolist()]
    stream = TaskStream(Reverse(length=6), 1, batch=4)
    row, targets, _ = stream.at(0)
    assert targets[:, 6:].equal(row[:, :6].flip(1)) and targets[:, :6].eq(-100).all()
    assert row[:, 7:].equal(targets[:, 6:-1])


def test_retrieval_asks_for_a_pair_that_is_there() -> None:
    task = AssociativeRetrieval(pairs=4)
    questions, answers = task.draw(500, rng())
    assert answers[:, 0].eq(10).all(), "the sign"
    places = set()
    for question, (_, digit) in zip(questions.tolist(), answers.tolist(), strict=True):
        letters, digits = question[:-1:2], question[1::2]
        assert len(set(letters)) == len(set(digits)) == 4
        assert min(letters) >= 11 and max(digits) <= 9
        places.add(letters.index(question[-1]))
        assert digits[letters.index(question[-1])] == digit
    assert places == set(range(4))


@pytest.mark.parametrize("first", [False, True])
def test_each_question_in_a_row_has_its_answer(first: bool) -> None:
    task = AssociativeRetrieval(3, 5, 4, questions=3, sign_first=first)
    questions, answers = task.draw(100, rng())
    rows = torch.cat([questions, answers], dim=1)[:, :-1]
    targets = task.targets(questions, answers)
    for row, wanted in zip(rows.tolist(), targets.tolist(), strict=True):
        pairs = dict(zip(row[:6:2], row[1:6:2], strict=True))
        asked = row[7::2] if first else row[6::2]
        assert wanted == [x for one in asked for x in (-100, pairs[one])]
        assert row[6 + (not first) :: 2] == [10, 10, 10]
    assert targets[:, -1].equal(answers[:, -1])


def test_an_equation_reads_as_in_the_paper() -> None:
    assert worked(-98, 552, -4, (6, 92)) == [
        "-4*x^2+392*x-2208=0",
        "x^2-98*x+552=0",
        "D=98^2-4*1*552=7396=86^2",
        "x=(98-86)/2=6",
        "x=(98+86)/2=92",
        "6,92",
    ]
    assert worked(0, 0, 1, (0, 0))[0] == "x^2=0"
    assert worked(-1, 0, -1, (0, 1))[:2] == ["-x^2+x=0", "x^2-x=0"]
    assert worked(-4, 4, 1, (2, 2))[-1] == "2", "a double root stands once"
    assert worked(1, 5, 2, None)[2:] == ["D=1^2-4*1*5=-19", "", "", ""]


@pytest.mark.parametrize("name", ["quadratic", "small quadratic"])
def test_equations_are_right(name: str) -> None:
    task = TASKS[name]
    assert isinstance(task, QuadraticEquations)
    questions, answers = task.draw(400, rng())
    without = 0
    for row in torch.cat([questions, answers], dim=1):
        line = task.text(row)
        fields = [line[i : i + FIELD].rstrip() for i in range(0, 6 * FIELD, FIELD)]
        sides = [field.removesuffix("=0").replace("^", "**") for field in fields[:2]]
        sides = [re.sub(r"x", "(x)", side) for side in sides]
        factor = eval(sides[0], {"x": 1j}) - eval(sides[0], {"x": 0})
        single = eval(sides[1], {"x": 1j}) - eval(sides[1], {"x": 0})
        assert factor * single.real == single * factor.real, "a multiple"
        wanted = [
            x
            for x in range(-task.largest_root, task.largest_root + 1)
            if eval(sides[0], {"x": x}) == 0
        ]
        assert fields[5] == ",".join(map(str, wanted))
        left, *right = fields[2].split("=")[1:]
        assert eval(left.replace("^", "**")) == int(right[0])
        if wanted:
            assert eval(right[1].replace("^", "**")) == int(right[0])
            for field, root in zip(fields[3:5], (wanted[0], wanted[-1]), strict=True):
                assert eval(field.split("=")[1]) == root == int(field.split("=")[2])
        else:
            without += 1
            assert int(right[0]) < 0
    assert abs(without / 400 - task.without_roots) < 0.1


def test_a_field_is_taught_to_its_end_and_no_further() -> None:
    task = QuadraticEquations()
    fields = worked(-98, 552, -4, (6, 92))
    line = "".join(field.ljust(FIELD) for field in fields) + " "
    row = torch.tensor([[task.characters.index(one) for one in line]])
    wanted = task.targets(row[:, :FIELD], row[:, FIELD:])[0].tolist()
    taught = "".join("." if x < 0 else task.characters[x] for x in wanted)
    assert (
        taught == "".join(f"{field} ".ljust(FIELD, ".") for field in fields[1:]) + "."
    )
    none = worked(1, 5, 2, None)
    line = "".join(field.ljust(FIELD) for field in none) + " "
    row = torch.tensor([[task.characters.index(one) for one in line]])
    wanted = task.targets(row[:, :FIELD], row[:, FIELD:])[0].tolist()
    assert wanted[-FIELD - 1 :] == [0, *FIELD * [-100]], "an empty field is its end"


def test_equations_begin_with_either_sign_and_each_factor() -> None:
    task = QuadraticEquations(9, 3, 0)
    questions, _ = task.draw(300, rng())
    found = {task.text(row).partition("x^2")[0] for row in questions}
    assert found == {"", "-", "2*", "-2*", "3*", "-3*"}


def test_the_longest_fields_have_room() -> None:
    worst = [
        *((b, c, f, (-100, 100)) for b, c in ((0, -10000),) for f in (-10, 10)),
        *((200, 10000, f, (-100, -100)) for f in (-10, 10)),
        (199, 9900, -10, (-100, -99)),
        (200, 20000, -10, None),
    ]
    for b, c, factor, roots in worst:
        assert max(map(len, worked(b, c, factor, roots))) <= FIELD


# --- splits


@each
def test_every_question_has_one_split(name: str) -> None:
    questions, _ = TASKS[name].draw(4000, rng())
    found = split_of(questions)
    shares = torch.bincount(found, minlength=3) / 4000
    assert torch.allclose(shares, torch.tensor([0.8, 0.1, 0.1]), atol=0.03)
    assert torch.cat([split_of(one[None]) for one in questions[:50]]).equal(found[:50])


def test_streams_of_two_splits_share_no_question() -> None:
    task = AssociativeRetrieval(2, 3, 3)
    seen: dict[str, set[str]] = {}
    for split in SPLITS:
        stream = TaskStream(task, 1, batch=32, samples=20, split=split)
        rows = [stream.at(i).tokens for i in range(20)]
        seen[split] = {task.text(row[:-1]) for row in torch.cat(rows)}
    assert not seen["train"] & (seen["valid"] | seen["test"])
    assert not seen["valid"] & seen["test"]


def test_a_split_without_questions_is_refused() -> None:
    class One(Copy):
        def draw(self, count: int, rng: torch.Generator) -> Any:
            text = torch.full((count, self.question_length), 2)
            return text, torch.full((count, self.answer_length), 2)

    split = SPLITS[int(split_of(torch.full((1, 4), 2)))]
    TaskStream(One(length=4), 2, batch=2, split=split)
    for other in set(SPLITS) - {split}:
        with pytest.raises(ValueError, match="hardly any question of copy"):
            TaskStream(One(length=4), 2, batch=2, split=other)


# --- streams


def test_segments_of_a_row_fit_in_any_order() -> None:
    stream = TaskStream(Reverse(length=6), 6, batch=3, samples=4, seed=5)
    forwards = [stream.at(i) for i in range(24)]
    backwards = [stream.at(i) for i in reversed(range(24))][::-1]
    alone = [
        TaskStream(Reverse(length=6), 6, batch=3, samples=4, seed=5).at(i)
        for i in range(24)
    ]
    for one, two, three in zip(forwards, backwards, alone, strict=True):
        assert all(map(torch.equal, one, two)) and all(map(torch.equal, one, three))
    samples = [torch.cat([b.tokens for b in forwards[i : i + 6]]) for i in (0, 6, 12)]
    assert not samples[0].equal(samples[1]) and not samples[1].equal(samples[2])
    assert [bool(batch.reset.all()) for batch in forwards] == 4 * [True, *5 * [False]]


def test_the_last_answers_alone_can_be_taught() -> None:
    task = AssociativeRetrieval(2, questions=4)
    for taught, count in ((None, 4), (1, 1), (3, 2)):
        stream = TaskStream(task, 2, batch=5, taught=taught)
        batches = [stream.at(i) for i in range(2)]
        scored = torch.cat([batch.targets for batch in batches], dim=1) >= 0
        assert scored.sum(1).eq(count).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Copy(length=0), "length is 0"),
        (lambda: Copy(symbols=27), "symbols is 27; expected 2 to 26"),
        (lambda: AssociativeRetrieval(5, 4), "letters is 4"),
        (lambda: AssociativeRetrieval(5, digits=11), "digits is 11; expected 5 to 10"),
        (lambda: QuadraticEquations(101), "largest_root is 101; expected 1 to 100"),
        (lambda: QuadraticEquations(without_roots=1), "without_roots is 1"),
        (lambda: TaskStream(Copy(), 5, 2), "segments is 5; expected a divisor"),
        (lambda: TaskStream(Copy(), 2, 2, split="val"), "split is 'val'"),
    ],
)
def test_bad_values_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- files


@pytest.mark.parametrize("name", ["copy", "reverse", "retrieval", "small quadratic"])
def test_a_file_gives_back_what_was_written(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    for split, short in zip(SPLITS, ("train", "val", "test"), strict=True):
        paths = write_samples(task, tmp_path, split, 40, seed=3)
        names = [f"{task.name}_{short}_{kind}.npy" for kind in "Xy"]
        assert [path.name for path in paths] == names
        x, y = map(numpy.load, paths)
        assert len(x) == len(y) == 40 and x.dtype == y.dtype == numpy.int64
        assert len(numpy.unique(x, axis=0)) == 40
        stored = StoredTask(task, tmp_path, split)
        assert split_of(stored.questions).eq(SPLITS.index(split)).all()
        stream = TaskStream(stored, 1, batch=60, split=None)
        rows, targets, _ = stream.at(0)
        kept = {tuple(row.tolist()) for row in stored.questions}
        q = task.question_length
        assert {tuple(row.tolist()) for row in rows[:, :q]} <= kept
        line = torch.cat([rows, stored.answers[:1, -1:].expand(60, 1)], dim=1)
        answers = line[:, q:].clone()
        scored = targets >= 0
        assert (targets[scored] >= 0).all() and scored.any(1).all()
        wanted = stored.targets(stored.questions, stored.answers)
        assert wanted.shape[1] == task.targets(rows[:, :q], answers).shape[1]
    if name == "small quadratic":
        assert x.shape == y.shape == (40, 6 * FIELD) and (x[:, 1:] == y[:, :-1]).all()


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    task = Copy(length=4)
    with pytest.raises(FileNotFoundError, match="copy_train_X.npy is not there"):
        StoredTask(task, tmp_path, "train")
    x, y = write_samples(task, tmp_path, "train", 5)
    with pytest.raises(ValueError, match="questions have 4 tokens; copy has 6"):
        StoredTask(Copy(length=6), tmp_path, "train")
    with pytest.raises(ValueError, match="tokens from .* to 9; expected 0 to 3"):
        StoredTask(Copy(length=4, symbols=2), tmp_path, "train")
    numpy.save(y, numpy.load(y)[:3])
    with pytest.raises(ValueError, match="as many rows"):
        StoredTask(task, tmp_path, "train")
    x.write_bytes(b"no array")
    with pytest.raises(ValueError, match="copy_train_X.npy holds no array"):
        StoredTask(task, tmp_path, "train")
    with pytest.raises(ValueError, match="split is 'val'"):
        write_samples(task, tmp_path, "val", 5)
    with pytest.raises(ValueError, match="count is 900.*expected at most"):
        write_samples(Copy(length=1), tmp_path, "test", 900)
    assert not [*tmp_path.glob("*.part")]


# --- the lab's tasks


def test_tasks_of_the_lab_measure_what_was_not_trained() -> None:
    for kind in (tasks.SmallCopy, tasks.SmallReverse, tasks.SmallRetrieval):
        one = kind()
        row = one.task.question_length + one.task.answer_length - 1
        train, test = one.stream(row, 8, 0), one.measured(row, 8, "test")
        asked = test.at(0).targets >= 0
        assert asked.sum(1).eq(one.task.counted).all()
        texts = [
            {one.task.text(line) for i in range(20) for line in stream.at(i).tokens}
            for stream in (train, test)
        ]
        assert not texts[0] & texts[1]
    once = tasks.AskedOnce()
    assert (once.stream(12, 4, 0).at(0).targets >= 0).sum(1).eq(1).all()


def test_whole_answers_counts_samples_that_are_right_in_every_token() -> None:
    class Knows(torch.nn.Module):
        """Predicts the targets, but for one token of the first sample."""

        like = torch.zeros(1)

        def __init__(self, stream: TaskStream, miss: int) -> None:
            super().__init__()
            self.stream, self.miss, self.index = stream, miss, 0

        def forward(self, tokens: torch.Tensor, memory: Any) -> Any:
            assert (memory is None) == (self.index % 6 == 0)
            targets = self.stream.at(self.index).targets.clamp(min=0)
            if self.index == self.miss // FIELD:
                targets[0, self.miss % FIELD] += 1
            self.index += 1
            return torch.nn.functional.one_hot(targets, 30).float(), 1, {}

    stream = tasks.SmallQuadratic().measured(FIELD, 4, "valid")
    for miss, share in ((149, 7 / 8), (0, 1.0), (119, 1.0)):
        model = Knows(stream, miss)  # 149: first character of the answer
        found = tasks.whole_answers(model, stream)["answers"]
        assert found == {"6": share}, miss


# --- memories at rest


SIZES: dict[str, Any] = dict(
    vocabulary=10, d_model=16, layers=2, heads=2, d_ff=16, initial_std=0.5
)


def test_what_slots_know() -> None:
    cache = TransformerXL(
        TransformerXLConfig(**SIZES, segment_length=4, memory_length=6)
    )
    assert kinds(cache, 5) == [Kind("states", 12, 12 * 64, 1, 10, "")]
    tokens = RecurrentMemoryTransformer(
        RecurrentMemoryTransformerConfig(
            **SIZES, segment_length=4, memory_tokens=3, memory_length=0
        )
    )
    assert kinds(tokens, 3) == [Kind("tokens", 3, 3 * 64, 12, 12, "later segments")]
    for part, taught in (("MaxPooling", ""), ("Convolution", "a loss of its own")):
        coarse = CompressiveTransformer(
            CompressiveTransformerConfig(
                **SIZES,
                segment_length=4,
                memory_length=4,
                compressed_length=2,
                compression_rate=2,
                compression=f"labml_style.compression:{part}",
            )
        )
        exact, squeezed = kinds(coarse, 6)
        assert (exact.field, exact.slots) == ("states", 8)
        assert (squeezed.field, squeezed.slots, squeezed.taught) == (
            "compressed",
            4,
            taught,
        )
        assert squeezed.least == 2, "two tokens in a slot of the first layer"
    with pytest.raises(ValueError, match="segments is 0"):
        kinds(cache, 0)


def test_memories_of_a_preset_have_the_same_bytes() -> None:
    for title in ("copy-all@cpu", "reverse@cpu", "retrieval@cpu"):
        sizes: dict[str, set[int]] = {}
        for name, arm in presets.find(title).arms.items():
            model, memory = build(arm), None  # type: Any, Any
            row = torch.zeros(1, 24, dtype=torch.int64)
            with torch.no_grad():
                for segment in row.split(arm.config.segment_length, dim=1):
                    _, memory, _ = model(segment, memory)
            held, n = memory.nbytes, name.split()[-2]
            assert bool(held) == (not name.startswith(BLIND)), name
            sizes.setdefault(n, set()).add(held)
        assert all(len(found - {0}) == 1 for found in sizes.values()), sizes
    with pytest.raises(ValueError, match="has no arm of 3 segments"):
        at_rest("reverse@cpu", 3)


def test_the_table_says_what_teaches_each_memory() -> None:
    table = at_rest("reverse@cpu", 6)
    taught = {(row[0], row[3]): row[-1] for row in table.rows}
    assert taught["RMT", "memory tokens"] == "later segments"
    assert taught["RMT detached", "memory tokens"] == "nothing: detached"
    assert taught["Memory Transformer-XL", "written slots"] == "later segments"
    assert taught["Transformer-XL", "states of layers"] == "–"
    assert taught["Compressive, convolution", "squeezed states"] == "a loss of its own"
    made = {row[0]: row[4] for row in table.rows if row[3] != "states of layers"}
    assert made["Compressive, max pooling"] == "MaxPooling"
    assert made["Memory Transformer-XL"] == "GRUGate"


BLIND = ("no memory", "Memory Transformer,")


# --- the paper's runs


def test_the_paper_s_runs_are_those_of_its_tables() -> None:
    assert papers.published("reverse")["RMT"][6] == [0.701, 0.702, 1.0, 1.0, 1.0]
    assert papers.published("copy")["Transformer-XL"][3] == [0.999, 1.0, 1.0]
    assert papers.published("quadratic")["RMT"] == {6: [0.98, 0.998, 0.999]}
    own = papers.recorded("reverse@cpu")
    assert set(papers.WAYS) <= set(own)
    assert {n: len(runs) for n, runs in own["RMT"].items()} == {2: 3, 4: 3, 6: 3}
    with pytest.raises(ValueError, match="task is 'sort'"):
        papers.published("sort")
