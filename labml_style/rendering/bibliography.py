"""References from BibTeX: one Markdown list, one anchor per key."""

from __future__ import annotations

from html import escape

import bibtexparser
from bibtexparser.middlewares import LatexDecodingMiddleware


def authors(text: str) -> str:
    """`Dai, Zihang and Yang, Zhilin` as `Zihang Dai and Zhilin Yang`."""
    names = []
    for name in text.split(" and "):
        last, comma, first = name.strip().partition(",")
        names.append(f"{first.strip()} {last.strip()}" if comma else name.strip())
    if len(names) > 2:
        return ", ".join(names[:-1]) + " and " + names[-1]
    return " and ".join(names)


def references_markdown(text: str) -> str:
    """A Markdown list of all entries, sorted by first author and year.

    Args:
        text: content of a BibTeX file.

    Raises:
        ValueError: a block that does not parse, a key twice, or a missing field.
    """
    decode = LatexDecodingMiddleware()
    library = bibtexparser.parse_string(text, append_middleware=[decode])
    if library.failed_blocks:
        line = (library.failed_blocks[0].start_line or 0) + 1
        raise ValueError(f"references, line {line}: not a BibTeX entry, or a key twice")
    if not library.entries:
        raise ValueError("references: the file holds no BibTeX entry")
    rows = []
    for entry in library.entries:
        values = {f.key.lower(): " ".join(f.value.split()) for f in entry.fields}
        values = {key: escape(value, quote=False) for key, value in values.items()}
        missing = [k for k in ("author", "title", "year") if k not in values]
        if missing:
            raise ValueError(f"references: {entry.key} lacks {', '.join(missing)}")
        shown = [f"{authors(values['author'])} ({values['year']})."]
        shown.append(f"<em>{values['title']}</em>.")
        for key in ("booktitle", "journal", "howpublished"):
            if key in values:
                shown.append(f"{values[key]}.")
                break
        if "eprint" in values:
            number = values["eprint"]
            shown.append(f"[arXiv {number}](https://arxiv.org/abs/{number}).")
        elif "url" in values:
            place = values["url"].split("//")[-1].rstrip("/")
            shown.append(f"[{place}]({values['url']}).")
        order = f"{values['author'].lower()} {values['year']}"
        rows.append((order, f'<span id="{entry.key}"></span>{" ".join(shown)}'))
    return "\n".join(f"- {row}" for _, row in sorted(rows))
