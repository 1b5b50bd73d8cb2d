"""Rows: where a cell is cut, what goes left, and what is refused."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labml_style.rendering.docstrings import escape_tags
from labml_style.rendering.rows import (
    NotebookError,
    Row,
    code_of,
    fragments,
    from_docstring,
    module_notebook,
    slug,
    split,
    tags_of,
)


def code(source: str, *tags: str, **more: Any) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "metadata": {"tags": list(tags)},
        "source": source,
        "outputs": [],
    } | more


def prose(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def rows_of(*cells: dict[str, Any]) -> list[Row]:
    return split({"cells": list(cells)}, "x.ipynb")


def shown(row: Row, *cells: dict[str, Any]) -> str:
    assert row.cell is not None
    lines = code_of(cells[row.cell]).split("\n")
    return "\n".join(lines[i] for i in row.lines)


def test_a_comment_block_starts_a_row_for_the_code_below() -> None:
    cell = code("a = 1\n\n# Why two.\n# More.\nb = 2\nc = 3")
    first, second = rows_of(cell)
    assert (first.prose, shown(first, cell)) == ("", "a = 1")
    assert (second.prose, shown(second, cell)) == ("Why two.\nMore.", "b = 2\nc = 3")


@pytest.mark.parametrize(
    "source",
    [
        "a = 1  # trailing",
        "a = [\n    # inside brackets\n    1,\n]",
        "#no space\na = 1",
        "# type: ignore\na = 1",
        "# noqa: E501\na = 1",
        "# fmt: off\na = 1",
        's = """\n# inside a string\n"""',
        'a = 1\n"a string that is no docstring"',
    ],
)
def test_these_stay_code(source: str) -> None:
    (row,) = rows_of(code(source))
    assert row.prose == ""
    assert shown(row, code(source)) == source


def test_a_docstring_stands_beside_its_signature_and_the_code_that_follows() -> None:
    cell = code('@cache\ndef f(x: int) -> int:\n    """Why."""\n    return x')
    (row,) = rows_of(cell)
    assert row.prose == "Why."
    assert shown(row, cell) == "@cache\ndef f(x: int) -> int:\n    return x"
    assert row.announces is not None
    assert row.announces.signature == "f(x: int) -> int"


def test_a_comment_above_a_definition_shares_its_row() -> None:
    cell = code('# Above.\ndef f():\n    """Inside."""\n    return 1')
    (row,) = rows_of(cell)
    assert row.prose == "Above.\n\nInside."


def test_statements_after_a_function_are_not_shown_as_its_body() -> None:
    cell = code('def f():\n    """Doc."""\n    return 1\n\n\nx = f()')
    first, second = rows_of(cell)
    assert shown(second, cell) == "x = f()"
    assert second.announces is None


def test_methods_get_headings_below_their_class() -> None:
    cell = code(
        'class A:\n    """A."""\n\n    def m(self):\n        """M."""\n'
        "    def plain(self):\n        pass\n    def _p(self):\n        '''P.'''"
    )
    rows = rows_of(prose("# T\n\n## S"), cell)
    assert [(r.heading, r.level) for r in rows if r.heading] == [
        ("T", 1),
        ("S", 2),
        ("A", 3),
        ("A.m", 4),
    ]


def test_demo_cells_announce_nothing() -> None:
    rows = rows_of(code('def helper():\n    """Doc."""', "active-ipynb"))
    assert [r.heading for r in rows] == [""]


@pytest.mark.parametrize("tag", ["exercise", "check", "solution", "figure"])
def test_some_cells_stay_whole(tag: str) -> None:
    source = "# One.\na = 1\n# Two.\nb = 2"
    (row,) = rows_of(code(source, tag))
    assert shown(row, code(source)) == source


def test_a_cell_that_is_not_python_is_one_row_and_magics_are() -> None:
    assert len(rows_of(code("this is (not python\n# x\ny"))) == 1
    assert len(rows_of(code("%pip install x\n# Then.\nimport x"))) == 2


def test_prose_stands_beside_the_code_that_follows() -> None:
    rows = rows_of(prose("## Why\n\nBecause."), code("a = 1"), prose("Alone."))
    assert [(r.heading, r.prose, r.cell) for r in rows] == [
        ("Why", "Because.", 1),
        ("", "Alone.", None),
    ]


def test_prose_before_a_class_leads_to_it() -> None:
    rows = rows_of(prose("Idea."), code('class A:\n    """A."""'), prose("Alone."))
    assert [row.leads for row in rows] == [True, False, False]


def test_headings_inside_fences_are_no_headings() -> None:
    rows = rows_of(prose("```\n# not a heading\n```"))
    assert [r.heading for r in rows] == [""]


def test_the_colab_cell_is_hidden() -> None:
    assert rows_of(code("setup()", "colab-setup"), code("a = 1"))[0].cell == 1


def test_outputs_stand_on_the_last_row_of_their_cell() -> None:
    out = [{"output_type": "stream", "name": "stdout", "text": "hi"}]
    rows = rows_of(code("a = 1\n# Two.\nb = 2", outputs=out))
    assert [r.outputs for r in rows] == [[], out]


def test_google_sections_become_lists() -> None:
    text = from_docstring(
        "Sum.\n\nArgs:\n    x: first\n        line two\n    *rest: more\n\n"
        "Returns:\n    A sum.\n\nRaises:\n    ValueError: bad."
    )
    assert "- `x`: first\n  line two" in text
    assert "- `*rest`: more" in text
    assert "**Returns**\n\nA sum." in text
    assert "- `ValueError`: bad." in text


def test_arguments_result_and_errors_are_folded_at_the_end() -> None:
    text = from_docstring(
        "Sum.\n\nArgs:\n    x: first\n\nShapes: [batch, time].\n\n"
        "Returns: a sum,\nin bits.\n\nMore.\n\nSource: Dai.\n\nRaises:\n    E: bad."
    )
    shown, _, folded = text.partition("<details")
    for word in ("Sum.", "**Shapes** [batch, time].", "More.", "**Source** Dai."):
        assert word in shown
    assert "<summary>Arguments, result, errors</summary>\n\n" in folded
    for word in ("- `x`: first", "**Returns** a sum,\nin bits.", "- `E`: bad."):
        assert word in folded
    assert "<details" not in from_docstring("Alone.\n\nNote: nothing.")


def test_ids_survive_edits_elsewhere() -> None:
    cells = [prose("## S"), code("# One idea.\na = 1\n# Another idea.\nb = 2")]
    before = [r.id for r in rows_of(*cells)]
    cells[1] = code("# New here.\nz = 0\n" + cells[1]["source"])
    after = [r.id for r in rows_of(*cells)]
    assert set(before) <= set(after)
    assert before == ["s--one-idea", "s--another-idea"]


def test_hash_changes_with_the_row_alone() -> None:
    one = rows_of(code("# A.\na = 1\n# B.\nb = 2"))
    two = rows_of(code("# A.\na = 1\n# B.\nb = 3"))
    assert one[0].hash == two[0].hash
    assert one[1].hash != two[1].hash


LINES = st.sampled_from(
    [
        "# a comment",
        "x = 1",
        "",
        "def f(a):\n    '''Doc.'''\n    # inside\n    return a",
        'class C:\n    """Doc\n    of C."""\n\n    y: int = 1\n\n'
        '    def m(self):\n        """M."""',
        "s = '''\n# text\n'''",
        "z = (\n    # bracket\n    1,\n)",
        "@d\n# between\ndef g():\n    pass",
        "if x:\n    # nested\n    y = 2\nelse:\n    # other\n    y = 3",
    ]
)


@given(st.lists(LINES, max_size=8))
def test_no_line_of_code_is_lost_or_shown_twice(parts: list[str]) -> None:
    source = "\n".join(parts)
    pieces = fragments(source)
    lines = [i for piece in pieces for i in piece.lines]
    assert lines == sorted(set(lines))
    left = [line for i, line in enumerate(source.split("\n")) if i not in lines]
    rest = "\n".join(left)
    # What is not shown as code is comments, docstrings and blank lines.
    for line in left:
        text = line.strip()
        quoted = text.startswith(("'''", '"""')) or text.endswith('"""')
        assert not text or text.startswith("#") or quoted, rest
    said = " ".join(piece.prose for piece in pieces)
    assert said.count("a comment") == parts.count("# a comment")


def test_a_module_becomes_a_notebook() -> None:
    notebook = module_notebook('"""Title.\n\nMore.\n"""\n\nx = 1\n')
    assert [code_of(c) for c in notebook["cells"]] == ["# Title\n\nMore.", "x = 1"]
    ast.parse(code_of(notebook["cells"][1]))


def test_an_example_in_a_docstring_is_code() -> None:
    example = "    for i in range(3):\n        print(i)\n\n    done = True\n"
    prose = "    no python, though indented\n"
    text = f'"""Title.\n\nMore:\n\n{example}\nThen:\n\n{prose}\nLast.\n"""\n\nx = 1\n'
    cells = module_notebook(text)["cells"]
    assert [code_of(c) for c in cells] == [
        "# Title\n\nMore:",
        "for i in range(3):\n    print(i)\n\ndone = True",
        "Then:\n\n    no python, though indented\n\nLast.",
        "x = 1",
    ]
    assert [tags_of(c) for c in cells[1::2]] == [{"active-ipynb"}, frozenset()]


def test_slug_leaves_out_math_and_tags() -> None:
    assert slug("What does $x^2$ <b>cost</b>, *exactly*?") == "what-does-cost-exactly"


# --- refusals name notebook, cell and line -------------------------------------------

SVG = {"image/svg+xml": "<svg/>"}


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            [prose("# T"), code('def f():\n    """A \\alpha."""')],
            "x.ipynb, cell 2, line 2: docstring of f has a backslash",
        ),
        (
            [prose("# T"), prose("text\n\n## S"), prose("a\n## s")],
            "x.ipynb, cell 3, line 2: heading 's' stands twice",
        ),
        (
            [
                code(
                    "a\nb",
                    outputs=[{"output_type": "stream", "text": "x" * 300_001}],
                )
            ],
            "x.ipynb, cell 1, line 2: output of 300,001 bytes",
        ),
        (
            [code("a", outputs=[{"output_type": "display_data", "data": SVG}])],
            "x.ipynb, cell 1, line 1: image without a text alternative",
        ),
    ],
)
def test_refusals(cells: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(NotebookError) as error:
        rows_of(*cells)
    assert str(error.value).startswith(message)


def test_a_raw_docstring_may_hold_a_backslash() -> None:
    (row,) = rows_of(code('def f():\n    r"""A $\\alpha$."""'))
    assert row.prose == r"A $\alpha$."


def test_a_method_without_words_stands_beside_those_of_its_class() -> None:
    cell = code('class A:\n    """A."""\n\n    def __init__(self):\n        self.x = 1')
    (row,) = rows_of(cell)
    assert shown(row, cell).endswith("self.x = 1")


@pytest.mark.parametrize("source", ["x = (a\n    % b)", "x = (a\n    != 3)"])
def test_operators_that_begin_a_line_are_no_magics(source: str) -> None:
    cell = code(f"{source}\n# Then.\ny = 1")
    assert len(rows_of(cell)) == 2


def test_a_docstring_may_show_a_magic() -> None:
    (row,) = rows_of(code('def f():\n    """Try\n\n    %timeit f()\n    """'))
    assert row.prose == "Try\n\n%timeit f()"


def test_overloads_and_setters_are_announced_once() -> None:
    source = (
        "@overload\ndef f(x: int): ...\n@overload\ndef f(x: str): ...\n"
        "def f(x):\n    return x\n"
        'class A:\n    """A."""\n    @property\n    def x(self):\n        """X."""\n'
        '    @x.setter\n    def x(self, v):\n        """Set X."""'
    )
    headings = [r.heading for r in rows_of(code(source)) if r.heading]
    assert headings == ["f", "A", "A.x"]


def test_code_behind_a_docstring_is_not_lost() -> None:
    cell = code('def f():\n    """Doc."""; x = 1\n    return x')
    (row,) = rows_of(cell)
    assert shown(row, cell) == code_of(cell)


@pytest.mark.parametrize(
    "text",
    [
        "~~~\n```\n# no\n~~~\n\n# yes",
        "````\n```\n# no\n```\n````\n\n# yes",
        "```x``` in a line\n\n# yes",
    ],
)
def test_fences_close_with_what_opened_them(text: str) -> None:
    assert [r.heading for r in rows_of(prose(text)) if r.heading] == ["yes"]


def test_headings_of_other_scripts_have_anchors() -> None:
    assert slug("Über 中文") == "über-中文"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"output_type": "error", "ename": "KeyError"}, "failed with KeyError"),
        ({"data": {"image/tiff": "x"}}, "output of image/tiff"),
        ({"data": {"text/html": "<img src='data:x'>"}}, "image inside HTML"),
        ({"traceback": ["x" * 300_001]}, "output of 300,001 bytes"),
    ],
)
def test_outputs_that_are_refused(output: dict[str, Any], message: str) -> None:
    with pytest.raises(NotebookError, match=message):
        rows_of(code("a", outputs=[output]))


def test_examples_become_code() -> None:
    text = from_docstring(
        "F.\n\nExample:\n    >>> f(1)\n      2\n\nArgs:\n    a, b: both"
    )
    assert "```pycon\n>>> f(1)\n  2\n" in text
    assert text.count("```") == 2
    assert "- `a, b`: both" in text


def test_an_example_with_prompts_needs_no_section() -> None:
    text = from_docstring("F.\n\n>>> f(1) < 2\n<1>\n\nThen:\n    >>> g()\n    2\nEnd.")
    first, second = (
        "```pycon\n>>> f(1) < 2\n<1>\n```",
        "```pycon\n>>> g()\n2\n```",
    )
    assert text == f"F.\n\n{first}\n\nThen:\n{second}\nEnd."
    fenced = "F.\n\n```\n>>> f()\n```"
    assert from_docstring(fenced) == fenced


def test_words_of_an_example_are_words_where_prompts_tell_the_code() -> None:
    text = from_docstring("F.\n\nExamples:\n    Words.\n\n    >>> f()\n    1\n\nEnd.")
    assert "Words.\n\n```pycon\n>>> f()\n1\n```\n\nEnd." in text
    assert "```python\nf()\n```" in from_docstring("F.\n\nExample:\n    f()")


NUMPY = """Cut a stone.

Parameters
----------
a : int, optional
    Its size.

    - deep
      deeper
*args, b : array_like, shape (n,)
c

Returns
-------
out : ndarray
    The stone.
list of str

Raises
------
ValueError
    If it breaks.

See Also
--------
mill : another

Notes
-----
In :class:`Mill`, :math:`x^2`::

    literal

Examples
--------
>>> cut(3)
1
"""


def test_sections_of_numpy() -> None:
    text = from_docstring(NUMPY)
    shown, _, folded = text.partition("<details")
    assert "----" not in text
    assert "<summary>Arguments, result, errors</summary>" in folded
    for words in (
        "- `a` (int, optional): \n  Its size.\n\n  - deep\n    deeper\n",
        "- `*args, b` (array_like, shape (n,)): \n- `c`: \n",
        "**Returns**\n\n- `out` (ndarray):\n  The stone.\n- list of str",
        "- `ValueError`: \n  If it breaks.",
    ):
        assert words in folded
    for words in (
        "**See Also**\n\n- mill : another",
        "**Notes**\n\nIn `Mill`, $x^2$:\n\n    literal",
        "**Examples**\n\n```pycon\n>>> cut(3)\n1\n```",
    ):
        assert words in shown


def test_what_follows_a_numpy_section_is_no_item() -> None:
    text = from_docstring("F.\n\nParameters\n-----\na\n    A.\n\nThis is prose.")
    assert text.partition("<details")[0].split() == ["F.", "This", "is", "prose."]
    text = from_docstring("F.\n\nReturns\n-------\nint\n\n>>> f()\n1")
    assert "```pycon\n>>> f()\n1\n```" in text.partition("<details")[0]


def test_fields_of_sphinx() -> None:
    text = from_docstring(
        "Cut.\n\n:param int a: its size\n    in full\n:param b: other\nlazy\n"
        ":type b: str or None\n:type c: float\n:returns: a stone\n:rtype: Stone\n"
        ":raises ValueError, KeyError: if it breaks\n\nMore::\n\n  >>> cut()\n"
        ":meta private: kept"
    )
    shown, _, folded = text.partition("<details")
    assert (
        shown.split() == "Cut. More: ```pycon >>> cut() ``` :meta private: kept".split()
    )
    for words in (
        "- `a` (int): its size\n  in full\n- `b` (str or None): other\n  lazy\n"
        "- `c` (float): ",
        "Stone: a stone",
        "- `ValueError, KeyError`: if it breaks",
    ):
        assert words in folded
    assert "**Returns**\n\nint\n" in from_docstring("F.\n\n:rtype: int\n:param a:")


def test_a_type_in_google_style_is_kept() -> None:
    text = from_docstring("F.\n\nArgs:\n    a (list of (int, str)): both")
    assert "- `a` (list of (int, str)): both" in text


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("use <mask> or </pad>", "use &lt;mask> or &lt;/pad>"),
        ("<!-- no --> <?php", "&lt;!-- no --> &lt;?php"),
        ("`<a>` and `` ` <b> ``", "`<a>` and `` ` <b> ``"),
        ("1 < 2, $a<b$, $$c<d$$", "1 < 2, $a<b$, $$c<d$$"),
        ("$1<b\n\n<c>2$", "$1&lt;b\n\n&lt;c>2$"),
        ("from $5 <a> to $6", "from $5 &lt;a> to $6"),
        ("<https://a.b/c> *b*", "<https://a.b/c> *b*"),
        ("a:\n\n    <code>\n\n<b>", "a:\n\n    <code>\n\n&lt;b>"),
        ("&lt; & c &#1;", "&amp;lt; & c &amp;#1;"),
        ("~~~\n<a>\n~~~\n<b>", "~~~\n<a>\n~~~\n&lt;b>"),
    ],
)
def test_comments_and_docstrings_hold_no_html(said: str, shown: str) -> None:
    assert escape_tags(said) == shown
    comment = "\n".join(f"# {line}".rstrip() for line in said.split("\n"))
    (row,) = rows_of(code(f"{comment}\nx = 1"))
    assert row.prose == shown
    quoted = said.replace("\n", "\n    ")
    (row,) = rows_of(code(f'def f():\n    """{quoted}\n    """'))
    assert row.prose == shown


def test_rules_between_comments_are_no_headings() -> None:
    (row,) = rows_of(code("# ------\n# Load\n# ======\nx = 1"))
    assert row.prose == "Load"
    cell = code("# -*- coding: utf-8 -*-\nx = 1")
    (row,) = rows_of(cell)
    assert (row.prose, shown(row, cell)) == ("", code_of(cell))


def test_a_title_is_a_paragraph_and_of_a_long_one_the_first_sentence() -> None:
    for words, title, rest in (
        ("Two short\nlines. And more.", "Two short lines. And more", ""),
        ("One.\n" + "More. " * 30, "One", "\n\n" + "More. " * 29 + "More."),
        ("endless " * 30, ("endless " * 30).strip(), ""),
    ):
        cell, _ = module_notebook(f'"""{words}\n"""\nx = 1')["cells"]
        assert code_of(cell) == f"# {title}{rest}"


def test_examples_of_a_module_become_code() -> None:
    title, _ = module_notebook('"""T.\n\n<p>\n\n>>> f()\n1\n"""\nx = 1')["cells"]
    assert code_of(title) == "# T\n\n&lt;p>\n\n```pycon\n>>> f()\n1\n```"
