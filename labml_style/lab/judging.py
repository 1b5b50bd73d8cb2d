"""How a judge says what it found: claims, each with the numbers that decide."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from labml_style.lab.presets import Verdict

__all__ = ["Claim", "decide", "gaps", "measured", "span", "spread"]


class Claim(NamedTuple):
    """One thing that was expected.

    Attributes:
        held: whether the record shows it.
        finding: what the record shows, with its numbers, as part of a sentence.
    """

    held: bool
    finding: str


def decide(claims: Sequence[Claim], against: bool) -> Verdict:
    """Put claims together. The first one is what the question asks.

    It holds where all claims hold. It does not hold where the first one fails, or where
    that came which was set down as evidence against it. Otherwise it holds in part.

    Raises:
        ValueError: a finding has a semicolon.
    """
    if all(claim.held for claim in claims) and not against:
        verdict = "holds"
    elif against or not claims[0].held:
        verdict = "does not hold"
    else:
        verdict = "in part"
    for claim in claims:
        if ";" in claim.finding:
            raise ValueError(
                f"finding is {claim.finding!r}; expected none with a semicolon, which "
                "parts findings"
            )
    lines = []
    for held, word in ((True, "As expected"), (False, "Not as expected")):
        found = [claim.finding for claim in claims if claim.held == held]
        if found:
            lines.append(f"{word}: {'; '.join(found)}.")
    if verdict != "holds":
        came = "came" if against else "did not come"
        missed = sum(not claim.held for claim in claims)
        failed = "failed" if missed == len(claims) else "failed in part"
        begin = f"The forecast {failed}; the" if missed else "The"
        lines.append(f"{begin} evidence against it {came}.")
    return Verdict(verdict, " ".join(lines))


def measured(record: dict[str, Any], arm: str, measure: str) -> list[dict[str, Any]]:
    """Return what a measure found in an arm, one for each seed."""
    return [run["measures"][measure] for run in record["runs"] if run["arm"] == arm]


def gaps(left: Iterable[float], right: Iterable[float]) -> list[float]:
    """Return left less right, seed by seed."""
    return [a - b for a, b in zip(left, right, strict=True)]


def spread(*arms: Sequence[float]) -> float:
    """Return the largest standard deviation over seeds; 0 where there is one seed."""
    return max(statistics.stdev(one) if len(one) > 1 else 0.0 for one in arms)


def span(values: Iterable[float], form: str = ".3f") -> str:
    """Return the least and the most of some numbers, or the number where they agree."""
    ends = sorted(values)
    return " to ".join(dict.fromkeys(format(x, form) for x in (ends[0], ends[-1])))
