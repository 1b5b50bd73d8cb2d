"""Files of the RMT paper's tasks: written, and read as a task.

The authors of RMT keep a split of a task in two NumPy arrays, `NAME_SPLIT_X.npy` and
`NAME_SPLIT_y.npy`, int64, with a row for each sample; SPLIT is `train`, `val` or
`test`. For copy, reverse and retrieval X holds questions, and y what follows them, the
sign first. For quadratic equations X holds whole samples and y the same, moved by one.

    from labml_style.algorithmic_tasks import Reverse, TaskStream
    from labml_style.task_files import StoredTask, write_samples

    task = Reverse(length=24)
    write_samples(task, "data", "train", count=100_000)  # two files
    stored = StoredTask(task, "data", "train")
    stream = TaskStream(stored, segments=6, batch=32, split=None)
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from labml_style.algorithmic_tasks import SPLITS, AlgorithmicTask, split_of
from labml_style.contract import integer
from labml_style.streams import generator

__all__ = ["StoredTask", "write_samples"]


def _paths(folder: str | Path, name: str, split: str) -> tuple[Path, Path]:
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected {', '.join(SPLITS)}")
    short = "val" if split == "valid" else split
    begin = Path(folder) / f"{name}_{short}"
    return Path(f"{begin}_X.npy"), Path(f"{begin}_y.npy")


def write_samples(
    task: AlgorithmicTask, folder: str | Path, split: str, count: int, seed: int = 0
) -> tuple[Path, Path]:
    """Write samples of a split, each question once.

    Args:
        task: whose samples are drawn.
        folder: is made where it is missing.
        split: `"train"`, `"valid"` or `"test"`.
        count: samples.
        seed: of the samples.

    Returns:
        The paths of the two files.

    Raises:
        ValueError: a value is out of range, or the split has fewer questions.
    """
    import numpy

    from labml_style.lab import store

    paths = _paths(folder, task.name, split)
    wanted = integer("count", count, 1)
    found: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
    for number in range(100):
        questions, answers = task.draw(2 * wanted, generator(seed, number))
        mine = split_of(questions) == SPLITS.index(split)
        rows = zip(questions[mine], answers[mine], strict=True)
        found |= {tuple(question.tolist()): (question, y) for question, y in rows}
        if len(found) >= wanted:
            break
    else:
        raise ValueError(
            f"count is {count}, and 100 times as many samples of {task.name} had "
            f"{len(found)} different questions in {split}; expected at most so many"
        )
    questions, answers = map(
        torch.stack, zip(*list(found.values())[:wanted], strict=True)
    )
    row = torch.cat([questions, answers], dim=1)
    pair = (row[:, :-1], row[:, 1:]) if task.shifted else (questions, answers)
    for path, array in zip(paths, pair, strict=True):
        content = io.BytesIO()
        numpy.save(content, array.numpy())
        store.write_bytes(path, content.getvalue())
    return paths


class StoredTask(AlgorithmicTask):
    """A task whose samples are read from files, drawn in any order.

    Args:
        task: that says how rows are read and scored.
        folder: of the files.
        split: which of them.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: the arrays do not fit the task.
    """

    def __init__(self, task: AlgorithmicTask, folder: str | Path, split: str) -> None:
        import numpy

        arrays = []
        for path in _paths(folder, task.name, split):
            if not path.exists():
                raise FileNotFoundError(
                    f"{path} is not there; write it with write_samples, or put the "
                    "file of that name there"
                )
            try:
                arrays.append(torch.from_numpy(numpy.load(path)).long())
            except ValueError as error:
                raise ValueError(
                    f"{path} holds no array of numbers ({error})"
                ) from None
        x, y = arrays
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
            raise ValueError(
                f"X is {list(x.shape)} and y {list(y.shape)}; expected two arrays with "
                "as many rows"
            )
        if task.shifted:
            row = torch.cat([x, y[:, -1:]], dim=1)
            x, y = row.tensor_split([task.question_length], dim=1)
        self.questions, self.answers = x, y
        for name, rows, length in (
            ("questions", self.questions, task.question_length),
            ("answers", self.answers, task.answer_length),
        ):
            if rows.shape[1] != length:
                raise ValueError(
                    f"{name} have {rows.shape[1]} tokens; {task.name} has {length}"
                )
            if not 0 <= int(rows.min()) <= int(rows.max()) < len(task.characters):
                raise ValueError(
                    f"{name} have tokens from {int(rows.min())} to {int(rows.max())}; "
                    f"expected 0 to {len(task.characters) - 1}"
                )
        self.task, self.name, self.characters = task, task.name, task.characters
        self.question_length, self.answer_length = (
            task.question_length,
            task.answer_length,
        )
        self.choices, self.counted = task.choices, task.counted

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        which = torch.randint(len(self.questions), (count,), generator=rng)
        return self.questions[which], self.answers[which]

    def targets(self, questions: Tensor, answers: Tensor) -> Tensor:
        return self.task.targets(questions, answers)
