"""Public names are found when they are asked for."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import labml_style
from labml_style import TransformerXL, TransformerXLConfig, generate, load, part, save
from labml_style.generation import generate as own

LAZY = """
import sys
import labml_style
heavy = {"torch", "numpy", "matplotlib", "safetensors"}
assert not heavy & sys.modules.keys(), "the package alone"
assert {"TransformerXL", "generate", "save", "load"} <= {*dir(labml_style)}
assert not hasattr(labml_style, "Nothing")
assert not heavy & sys.modules.keys(), "asked for what there is"
from labml_style import part
assert part("a:B", bias=2).options == {"bias": 2}
from labml_style import generate
assert "torch" in sys.modules and "matplotlib" not in sys.modules
assert "torch._dynamo" not in sys.modules
"""


def test_a_name_is_that_of_its_chapter() -> None:
    assert generate is own
    names = [name for name in labml_style.__all__ if name != "__version__"]
    assert len(names) == len(set(names)) > 12
    for name in names:
        found = getattr(labml_style, name)
        assert getattr(importlib.import_module(found.__module__), name) is found
    assert {*labml_style.__all__} <= {*dir(labml_style)}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'labml_style' has no attribute 'Gate'"):
        _ = labml_style.Gate
    with pytest.raises(ImportError, match="Gate"):
        exec("from labml_style import Gate")


def test_importing_the_package_imports_no_torch(root: Path) -> None:
    command = [sys.executable, "-c", LAZY]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_few_lines_are_a_model(tmp_path: Path) -> None:
    import torch

    sizes = dict(vocabulary=11, d_model=8, heads=2, layers=1, d_ff=8)
    head = part("labml_style.transformer_xl:Head")
    config = TransformerXLConfig(**sizes, segment_length=4, memory_length=4, head=head)
    model = load(save(TransformerXL(config), tmp_path / "model"))
    prompt = torch.tensor([[1, 2, 3]])
    assert generate(model, prompt, 5, seed=0).shape == (1, 8)
