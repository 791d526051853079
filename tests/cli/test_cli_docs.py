"""The examples of the documents run; tables in them are what the commands print."""

import doctest
import re
from pathlib import Path

import pytest
from opennpe.cli import format_tables

pytestmark = pytest.mark.fast

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_examples_run(page: Path) -> None:
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not broken


def test_some_examples_ran() -> None:
    assert sum(page.read_text(encoding="utf-8").count(">>> ") for page in PAGES) > 20


def test_the_format_table_is_the_command_s() -> None:
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert format_tables.markdown(format_tables.listing()) in page
