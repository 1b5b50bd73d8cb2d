"""What a page needs to be quick on a phone."""

from __future__ import annotations

import re

IMAGE = r'<img\b(?:[^>"]|"[^"]*")*>'


def first_image_eager(html: str) -> str:
    """A page whose first image is fetched at once; the others stay lazy.

    The first is often the largest thing on the first screen, and a lazy one is not
    asked for before the page is laid out. Where a twin for dark pages follows it, that
    is eager too.

    Args:
        html: a page whose images have `loading="lazy"`.
    """
    return re.sub(
        rf"{IMAGE}(?:\s*{IMAGE})?",
        lambda found: found[0].replace(' loading="lazy"', ""),
        html,
        count=1,
    )
