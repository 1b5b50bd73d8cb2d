"""What every test shares: the order of tests, and settings of hypothesis."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("house")

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)  # before groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests come first, then what is slow, then the site, then notebooks.

    What shares something that takes long to make, or a port, stays in one process.
    """

    def rank(item: pytest.Item) -> int:
        if item.get_closest_marker("slow"):
            return 1
        if item.path.suffix == ".ipynb":
            return 3
        return 2 if "site" in item.path.parts else 0

    items.sort(key=rank)
    for item in items:
        together = item.get_closest_marker("slow") and item.path.suffix == ".py"
        if together or item.path.stem in ("test_package", "test_plugin"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


# A notebook that holds an error on purpose: it is rendered, not executed.
collect_ignore = ["rendering/fixtures/form.ipynb", "rendering/cases"]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Draw the same numbers in each test, in whatever process and order it runs."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the repository."""
    return ROOT
