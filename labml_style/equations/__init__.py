"""Quadratic equations with worked steps, as a task of the chapter on memories.

A sample has six fields: the equation, the same over its first coefficient, the
discriminant, a line for each root, and the answer.

    from labml_style.algorithmic_tasks import TaskStream
    from labml_style.equations import QuadraticEquations, worked

    for field in worked(b=-98, c=552, factor=-4, roots=(6, 92)):
        print(field)
    task = QuadraticEquations(largest_root=9)
    stream = TaskStream(task, segments=6, batch=32)  # a field is a segment
"""

from __future__ import annotations

import torch
from torch import Tensor

from labml_style.algorithmic_tasks import AlgorithmicTask
from labml_style.contract import fraction, within

__all__ = ["FIELD", "QuadraticEquations", "worked"]

FIELD = 30
"""Characters of a line of the solution, filled up with spaces."""


def worked(b: int, c: int, factor: int, roots: tuple[int, int] | None) -> list[str]:
    """Write `factor * (x^2 + b x + c) = 0` and its solution, six fields.

    The last three fields are empty where there are no roots.
    """
    d = b * b - 4 * c
    fields = [
        f"{_product(factor, 'x^2')}{_sum(factor * b, 'x')}{_sum(factor * c)}=0",
        f"x^2{_sum(b, 'x')}{_sum(c)}=0",
        f"D={abs(b)}^2-4*1*{c}={d}",
        *("", "", ""),
    ]
    if roots is not None:
        root = roots[1] - roots[0]
        fields[2] += f"={root}^2"
        fields[3] = f"x=({-b}-{root})/2={roots[0]}"
        fields[4] = f"x=({-b}+{root})/2={roots[1]}"
        fields[5] = ",".join(str(x) for x in dict.fromkeys(roots))
    return fields


def _product(number: int, name: str) -> str:
    """Write `3*x`, and `x` or `-x` for 1 and -1."""
    return {1: name, -1: f"-{name}"}.get(number, f"{number}*{name}")


def _sum(number: int, name: str = "") -> str:
    """Write what is added: `+3*x`, `-x`, `+3`, and nothing for 0."""
    if number == 0:
        return ""
    term = _product(number, name) if name else str(number)
    return term if number < 0 else f"+{term}"


class QuadraticEquations(AlgorithmicTask):
    """An equation, its solution in four lines, and its roots, a field for each.

    A field is `FIELD` characters. All that is not a space is scored, and the first
    space of each field, which ends it.

    Args:
        largest_root: roots are whole numbers from `-largest_root` to `largest_root`.
        largest_factor: the equation is multiplied by 1 to `largest_factor`, with
            either sign.
        without_roots: share of equations that have no real root.

    Source: Bulatov et al. 2022, section 4.1, with roots up to 100 and factors up to 10.
    Tokens are numbered as in the paper's files, which use two of them nowhere.
    """

    name = "quadratic"
    characters = " _0123456789+-*/^=()xD;,"
    question_length = FIELD
    answer_length, counted = 5 * FIELD + 1, FIELD + 1
    choices = len(characters)
    shifted = True

    def __init__(
        self,
        largest_root: int = 100,
        largest_factor: int = 10,
        without_roots: float = 0.2,
    ) -> None:
        self.largest_root = within("largest_root", largest_root, 1, 100)
        self.largest_factor = within("largest_factor", largest_factor, 1, 10)
        self.without_roots = fraction("without_roots", without_roots)

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        most = self.largest_root
        low = -most
        roots = torch.randint(low, most + 1, (count, 2), generator=rng).sort(1).values
        factors = torch.randint(1, self.largest_factor + 1, (count,), generator=rng)
        signs = 1 - 2 * torch.randint(2, (count,), generator=rng)
        none = torch.rand(count, generator=rng) < self.without_roots
        above = torch.randint(1, most * most + 1, (count,), generator=rng)
        rows = ""
        for (first, second), factor, blank, more in zip(
            roots.tolist(),
            (factors * signs).tolist(),
            none.tolist(),
            above.tolist(),
            strict=True,
        ):
            b = -first - second
            if blank:  # c above b ** 2 / 4
                fields = worked(b, b * b // 4 + more, factor, None)
            else:
                fields = worked(b, first * second, factor, (first, second))
            rows += "".join(field.ljust(FIELD) for field in fields) + " "
        numbers = bytes(map(self.characters.index, rows))
        tokens = torch.frombuffer(bytearray(numbers), dtype=torch.uint8).long()
        questions, answers = tokens.view(count, -1).tensor_split([FIELD], dim=1)
        return questions, answers

    def targets(self, questions: Tensor, answers: Tensor) -> Tensor:
        fields = answers[:, :-1].view(len(answers), -1, FIELD)
        ends = fields.roll(1, dims=2) > 0  # behind a character
        scored = (fields > 0) | ends | (torch.arange(FIELD) == 0)
        found = torch.where(scored, fields, -100).flatten(1)
        return torch.cat([found, torch.full_like(found[:, :1], -100)], dim=1)
