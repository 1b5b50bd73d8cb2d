"""References: what a BibTeX file becomes, and what is refused."""

from __future__ import annotations

import pytest

from labml_style.rendering.bibliography import references_markdown

ENTRY = "@misc{%s, author = {%s}, title = {A {T}itle}, year = {2019}%s}\n"


def test_entries_are_sorted_and_decoded() -> None:
    text = ENTRY % ("z", "Zorn, A", "") + ENTRY % (
        "b",
        "Bo{\\v{s}}kovi{\\'c}, Ru{\\dj}er and Dai, Z and Yang, Y",
        ", url = {https://x.org/a/}",
    )
    first, second = references_markdown(text).split("\n")
    assert first == (
        '- <span id="b"></span>Ruđer Bošković, Z Dai and Y Yang (2019). '
        "<em>A Title</em>. [x.org/a](https://x.org/a/)."
    )
    assert second.startswith('- <span id="z"></span>A Zorn')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no BibTeX entry"),
        ("@misc{a, title = {T}, year = {1}}", "a lacks author"),
        (ENTRY % ("a", "B", "") * 2, "line 2: not a BibTeX entry, or a key twice"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        references_markdown(text)
