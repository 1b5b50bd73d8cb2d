"""Files of others: whatever is read becomes a notebook, or one line tells why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labml_style.rendering import NotebookError
from labml_style.rendering.book import Book
from labml_style.rendering.languages import language
from labml_style.rendering.reading import read
from labml_style.rendering.rows import code_of

CODE = {"cell_type": "code", "source": ["x = 1\r\n", "y"], "outputs": None}


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def sources(path: Path) -> list[str]:
    return [code_of(cell) for cell in read(path)["cells"]]


def test_a_byte_order_mark_is_no_part_of_a_notebook(tmp_path: Path) -> None:
    text = "\ufeff" + json.dumps({"cells": [CODE], "nbformat": 4})
    path = written(tmp_path, "a.ipynb", text)
    assert sources(path) == ["x = 1\ny"]
    Book("").add(path)


def test_what_is_missing_is_filled_in(tmp_path: Path) -> None:
    outputs = [{"output_type": "stream", "text": "a"}, {"output_type": "display_data"}]
    cells = [CODE | {"outputs": outputs}, {"cell_type": "raw", "source": None}]
    notebook = read(written(tmp_path, "a.ipynb", {"cells": cells, "nbformat": 4}))
    code, raw = notebook["cells"]
    assert notebook["metadata"] == code["metadata"] == raw["metadata"] == {}
    assert code["outputs"][0]["name"] == "stdout"
    assert code["outputs"][1]["data"] == code["outputs"][1]["metadata"] == {}
    assert raw["source"] == ""


def test_older_formats_are_upgraded(tmp_path: Path) -> None:
    png = {"output_type": "display_data", "png": "AAAA"}
    code = {"cell_type": "code", "language": "python", "input": "x", "outputs": [png]}
    title = {"cell_type": "heading", "level": 1, "source": ["Old"]}
    for version in (2, 3):
        cells = [code] if version == 2 else [title, code]
        old: dict[str, Any] = {"nbformat": version, "nbformat_minor": 0, "metadata": {}}
        path = written(tmp_path, "a.ipynb", old | {"worksheets": [{"cells": cells}]})
        notebook = read(path)
        assert notebook["nbformat"] == 4
        assert notebook["cells"][-1]["outputs"][0]["data"] == {"image/png": "AAAA"}
        assert sources(path) == ["# Old", "x"][-len(cells) :]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ipynb", '{\n"cells": [}', "a.ipynb, line 2: no JSON"),
        ("a.ipynb", "", "a.ipynb, line 1: no JSON"),
        ("a.ipynb", [1], "a.ipynb: JSON, but no notebook"),
        ("a.ipynb", {"nbformat": 4}, "a.ipynb: it has no list of cells"),
        ("a.ipynb", {"nbformat": 5}, "a.ipynb: nbformat is 5; formats 1 to 4"),
        ("a.ipynb", {"nbformat": 3, "worksheets": 3}, "a.ipynb: format 3, and its"),
        ("a.ipynb", {"cells": [{"cell_type": "x"}]}, "cell 1: cell_type is 'x'"),
        ("a.ipynb", {"cells": [CODE | {"source": 5}]}, "a.ipynb: not formed as"),
        ("a.ipynb", b"{\xff}", "a.ipynb: byte 2 is not UTF-8"),
        ("a.py", "x = 1\ndef f(:\n", "a.py, line 2: invalid syntax"),
        ("a.py", "x = '\0'", "a.py"),
    ],
)
def test_what_is_no_notebook_gives_one_line_that_names_it(
    tmp_path: Path, name: str, content: Any, message: str
) -> None:
    with pytest.raises(NotebookError) as error:
        read(written(tmp_path, name, content), name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_book_reads_so_and_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "a.py", "def f(:\n")
    with pytest.raises(NotebookError, match="^shown.py, line 1: "):
        Book("").add(path, shown="shown.py")


def test_nothing_of_a_module_is_lost_around_its_docstring(tmp_path: Path) -> None:
    text = (
        "#!/usr/bin/env python\n# Licence: free.\n"
        '"""Tools for\nlong <stones>."""; import os\n\nX = os.name\n'
    )
    title, code = sources(written(tmp_path, "a.py", text))
    assert title == "# Tools for long &lt;stones>"
    above = "#!/usr/bin/env python\n# Licence: free."
    assert code == f"{above}\n\nimport os\n\nX = os.name"
    alone = "# Licence.\nx = 1"
    assert sources(written(tmp_path, "b.py", alone)) == [alone]


def test_a_module_with_cells_is_cut_there(tmp_path: Path) -> None:
    text = "# %% [markdown]\n# # Stones\n# %%\nx = 1\n#%% two\n# %matplotlib inline\n"
    path = written(tmp_path, "a.py", text)
    assert sources(path) == ["# Stones", "x = 1", "%matplotlib inline"]


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({}, "python"),
        ({"language_info": {"name": "python", "pygments_lexer": "ipython3"}}, "python"),
        ({"kernelspec": {"language": "python"}}, "python"),
        ({"kernelspec": {"language": "julia"}}, "julia"),
        ({"language_info": {"name": "R", "pygments_lexer": "r"}}, "r"),
        (
            {"language_info": {"name": "polyglot"}, "kernelspec": {"language": "C#"}},
            "c#",
        ),
        ({"language_info": {"name": "Wolfram 13", "pygments_lexer": {}}}, "wolfram 13"),
    ],
)
def test_the_language_of_the_kernel(metadata: dict[str, Any], name: str) -> None:
    assert language({"metadata": metadata}) == name
