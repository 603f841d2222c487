"""Pages that quote numbers quote those of the result files."""

import pytest

from benchmarks.pages import PAGES, filled


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_numbers_in_the_page_are_those_of_the_result_files(page) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<!-- numbers:" in text
    assert filled(text) == text
