"""Notebooks as side-by-side pages: prose left, code right.

`render_notebook` turns one notebook into HTML and images; the MkDocs plugin
`labml-style` does it for all notebooks of a site and links their names. Needs the extra
`site`; never imports torch.
"""

from .book import Book, Chapter
from .page import render_notebook, whole_page
from .rows import NotebookError, Row, split

__all__ = [
    "Book",
    "Chapter",
    "NotebookError",
    "Row",
    "render_notebook",
    "split",
    "whole_page",
]
