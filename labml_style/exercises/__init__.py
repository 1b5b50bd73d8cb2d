"""Exercises: a stub to fill in, a check, and a folded solution.

An exercise is three cells in this order, tagged `exercise`, `check` and `solution`.
The stub raises `NotImplementedError`. The check runs inside `attempt()`, so that an
untouched notebook runs to its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["attempt"]


@contextmanager
def attempt() -> Iterator[None]:
    """Run a check; an unsolved exercise is reported, a wrong answer still fails.

    `NotImplementedError` alone is caught, and printed as "not solved yet". Every other
    exception passes through, `AssertionError` first of all: a wrong answer must not
    look like an unsolved one. A check that passes prints "solved".
    """
    try:
        yield
    except NotImplementedError:
        print("not solved yet")
    else:
        print("solved")
