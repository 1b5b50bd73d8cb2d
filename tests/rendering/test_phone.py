"""Only the first image of a page, or its first twins, is fetched at once."""

from labml_style.rendering.phone import first_image_eager

LAZY = '<img alt="a > b" loading="lazy" src="one.svg">'
EAGER = '<img alt="a > b" src="one.svg">'


def test_the_first_image_and_its_twin_are_eager() -> None:
    assert first_image_eager(f"<p>{LAZY}</p>{LAZY}") == f"<p>{EAGER}</p>{LAZY}"
    twins = f"<figure>{LAZY}\n{LAZY}</figure>{LAZY}"
    assert first_image_eager(twins) == f"<figure>{EAGER}\n{EAGER}</figure>{LAZY}"


def test_a_page_without_an_image_stays() -> None:
    assert first_image_eager("<p>text</p>") == "<p>text</p>"
