"""The page in a real browser: it fits a phone, sorts and filters, and runs nothing that a model wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, missing
from report_pages import JOB

from qwenlong_core.report.build import build_page

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def show(browser, tmp_path) -> Any:
    """``show(html, width)``: the opened page, and everything that its console said."""

    def opened(text: str, width: int = 1280) -> tuple[Any, list[str]]:
        path: Path = tmp_path / "page.html"
        path.write_text(text)
        page, said = browser.new_page(viewport={"width": width, "height": 900}), []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"file://{path}")
        return page, said

    return opened


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(inputs, show, width):
    page, said = show(build_page(JOB, inputs), width)
    assert page.evaluate("document.documentElement.scrollWidth") == width and said == []


def column(page: Any, section: str, name: str) -> list[str]:
    return page.locator(f"#{section} table").first.locator(f'td[data-name="{name}"]').all_inner_texts()


def test_a_table_is_sorted_by_numbers_and_back(inputs, show):
    page, _ = show(build_page(JOB, inputs))
    gain = page.locator("#gain").get_by_role("button", name="gain", exact=True)
    before = column(page, "gain", "gain")
    gain.click()
    ascending = column(page, "gain", "gain")
    values = [float(text.split()[0]) for text in ascending]
    assert values == sorted(values) and len(values) > 1
    gain.click()
    assert column(page, "gain", "gain")[0] == ascending[-1]
    gain.click()
    assert column(page, "gain", "gain") == before


def test_what_has_no_value_comes_last_both_ways(inputs, show):
    page, _ = show(build_page(JOB, inputs))
    button = page.locator("#scores").get_by_role("button", name="gain over base").first
    for _ in range(2):
        button.click()
        assert column(page, "scores", "stage") == ["sft", "base"]


def test_samples_are_filtered_and_shown_again(inputs, show):
    page, _ = show(build_page(JOB, inputs), 390)
    page.get_by_label("Domain").select_option("reading")
    page.get_by_label("Outcome").select_option("lost")
    shown = page.locator(".item:visible")
    assert page.locator("output").inner_text() == f"{shown.count()} of 12 shown" and 0 < shown.count() < 6
    assert all("reading" in text and "lost" in text for text in shown.locator("summary").all_inner_texts()[:1])
    page.get_by_role("button", name="Show all").click()
    page.get_by_text("12 of 12 shown").wait_for()


def test_the_contents_lead_to_their_sections(inputs, show):
    page, _ = show(build_page(JOB, inputs))
    page.get_by_role("navigation").get_by_text("Sample answers").click()
    top = page.locator("#samples h2").bounding_box()["y"]
    assert 0 <= top < 60


def test_what_gets_past_the_escaping_is_still_not_run_nor_fetched(inputs, show):
    """As if a fault let a completion through unescaped: the page's policy is the second wall."""
    hostile = (
        '<script>window.pwned = 1</script><img src="http://127.0.0.1:9/x" onerror="window.pwned = 2">'
        '<a id="trap" href="javascript:window.pwned = 3">x</a>'
        '<iframe srcdoc="<script>parent.pwned=4</script>"></iframe>'
        "<style>body { display: none }</style>"
    )
    page, said = show(build_page(JOB, inputs).replace("<header>", hostile + "<header>"))
    page.locator("#trap").click()
    page.wait_for_timeout(200)
    assert page.evaluate("window.pwned") is None
    assert page.locator("h1").is_visible(), "the foreign style did not apply"
    assert sum("Content Security Policy" in line for line in said) >= 4
