"""The page in a browser: loads without a word, zooms, and its sliders move."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from topk_plugin.report.build import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs Chromium and its driver (Debian: chromium, chromium-driver)",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(browser: Any, runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(list(runs), path)
    resize(browser, 1200)
    browser.get(path.as_uri())
    WebDriverWait(browser, 60).until(
        lambda b: b.execute_script("return document.documentElement.dataset.drawn === 'yes'")
    )
    return browser


def resize(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def view(page: Any) -> list[float]:
    """The steps in view, the same in every chart and heatmap."""
    found = page.execute_script(
        "return [...document.querySelectorAll('.chart, .heatmap')].map("
        "f => [Number(f.dataset.from), Number(f.dataset.to)])"
    )
    assert all(each == pytest.approx(found[0]) for each in found)
    return found[0]


def test_it_loads_without_a_word_and_draws_everything(page: Any) -> None:
    assert page.get_log("browser") == []
    assert page.title == "<b>gate and plain"
    counts = page.execute_script(
        "return ['.chart canvas', '.heatmap canvas', '.slider img', '.chart'].map("
        "s => document.querySelectorAll(s).length)"
    )
    assert counts[0] == counts[3] >= 7
    assert counts[1:3] == [2, 3]
    painted = page.execute_script(
        "return [...document.querySelectorAll('canvas')].map(c => c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data.some(v => v > 0))"
    )
    assert all(painted)


def test_a_step_slider_shows_other_pictures_of_both_runs(page: Any) -> None:
    def shown() -> list[str]:
        return page.execute_script(
            "const s = document.querySelector('[data-group=samples]');"
            "return [...s.querySelectorAll('img')].map(i => i.src)"
            ".concat([...s.querySelectorAll('figcaption')].map(f => f.textContent))"
        )

    before = shown()
    assert before[2:] == ["<b>gate, step 24", "plain, step 24"]
    page.execute_script(
        "const i = document.querySelector('[data-group=samples] input');"
        "i.value = 0; i.dispatchEvent(new Event('input'))"
    )
    after = shown()
    assert after[2:] == ["<b>gate, step 8", "plain, step 8"]
    assert not set(before[:2]) & set(after[:2])


def test_a_drag_zooms_all_charts_and_the_button_goes_back(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    whole = view(page)
    assert whole == [0, 24]
    over = page.find_element("css selector", "[data-group=losses] .u-over")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", over)
    quarter = over.size["width"] // 4
    drag = ActionChains(page).move_to_element_with_offset(over, -quarter, 0).click_and_hold()
    drag.move_by_offset(quarter, 3).move_by_offset(quarter, 3).release().perform()
    low, high = view(page)
    assert low == pytest.approx(6, abs=1)
    assert high == pytest.approx(18, abs=1)
    page.find_element("id", "reset").click()
    assert view(page) == whole
    assert page.get_log("browser") == []


def test_the_controls_zoom_smooth_and_change_the_scale(page: Any) -> None:
    def move(name: str, value: float) -> None:
        page.execute_script(
            "const i = document.getElementById(arguments[0]); i.value = arguments[1];"
            "i.dispatchEvent(new Event('input'))",
            *(name, value),
        )

    move("from", 500)
    assert view(page) == pytest.approx([12, 24], abs=0.1)
    move("to", 100)  # never before "from"
    low, high = view(page)
    assert 0 < high - low < 0.1
    page.find_element("id", "reset").click()
    move("smoothing", 0.9)
    smoothing = page.execute_script("return document.querySelector('.chart').dataset.smoothing")
    assert float(smoothing) == 0.9
    log = page.find_element("id", "log")
    log.click()
    assert view(page) == [0, 24]
    log.click()
    assert page.get_log("browser") == []


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_sticks_out_of_a_phone_or_a_screen(page: Any, width: int) -> None:
    resize(page, width)
    page.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
    )
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
