"""The pages as such: what is executed, and where links lead."""

import importlib
import re
from pathlib import Path

import pytest

from tests.deploy.pages import FOLDER, PAGES, PROMISED

HERE = Path(__file__).parent
ROOT = FOLDER.parents[1]


@pytest.fixture(scope="module")
def promised():
    """What all tests of this folder say that they execute, asked of them all."""
    for path in HERE.glob("test_*.py"):
        importlib.import_module(f"tests.deploy.{path.stem}")
    return PROMISED


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_executed_by_a_test(page, promised):
    """Commands and files; only what one sees is not."""
    left = [
        str(block)
        for block in page.blocks
        if not block.is_output and (page.name, block.heading) not in promised
    ]
    assert left == []


def test_all_pages_are_looked_at():
    """No page without tests."""
    assert {page.name for page in PAGES} == {path.name for path in FOLDER.iterdir()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fence_is_understood(page):
    """Its number of lines, its language, and a path if it is a file."""
    assert len(re.findall(r"^ *```", page.text, re.M)) == 2 * len(page.blocks)
    for block in page.blocks:
        kind = (block.language in ("sh", "text"), block.path is not None)
        assert kind in ((True, False), (False, True)), str(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """To files, and to headings in them."""
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.text):
        name, _, heading = link.partition("#")
        path = (FOLDER / name).resolve() if name else FOLDER / page.name
        assert path.exists(), link
        if heading:
            assert heading in anchors(path.read_text()), link


def anchors(text):
    """Return what headings are called in links."""
    found = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_readme_leads_to_every_page(page):
    """By its table."""
    if page.name != "README.md":
        assert f"]({page.name})" in (FOLDER / "README.md").read_text()
