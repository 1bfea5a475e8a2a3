"""The page of a sweep in Chromium: sorted, found, chosen, pointed at; on telephone and paper."""

import base64

import made_study
import pytest
from browser import Browser, chromium

from fedadapt.simulations.report.study.page import write_study
from fedadapt.simulations.studies.made_runs import read_run
from fedadapt.simulations.studies.study_of_runs import study_of_runs
from fedadapt.simulations.studies.table import table_of

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    runs = [read_run(path) for path in made_study.make(folder, (0.01, 0.1))]
    return write_study(folder, study_of_runs(table_of(runs), runs, folder)).resolve()


@pytest.fixture(scope="module")
def window():
    driver = chromium()
    yield Browser(driver)
    driver.quit()


@pytest.fixture
def browser(window, page):
    window.open(page)
    return window


def rows(browser) -> list[str]:
    """The titles of the rows of the table that can be seen, from above."""
    return browser.run(
        "return [...document.querySelectorAll('#entries tbody tr')].filter(r => !r.hidden)"
        ".map(r => [...r.cells].slice(1, 4).map(c => c.textContent).join(' '))"
    )


def test_everything_is_drawn_and_nothing_goes_wrong(browser):
    assert browser.run("return document.documentElement.dataset.drawn") == "yes"
    names = browser.run(
        "return [...document.querySelectorAll('[data-chart]')].filter(c => c.querySelector('svg'))"
        ".map(c => c.dataset.chart)"
    )
    assert names == ["curves", "axis", "ranks", "bytes", "seconds", "gains"]
    labels = browser.run(
        "return [...document.querySelectorAll('[data-chart] > *')].map(c => c.ariaLabel)"
    )
    assert all(labels)
    assert browser.errors() == []


def test_a_click_on_a_head_sorts_by_its_numbers(browser):
    [at] = [i for i, text in enumerate(browser.texts("#entries th"), 1) if text == "mean %"]
    head = browser.find(f"#entries th:nth-child({at}) button")
    values = lambda: [float(text.split()[0]) for text in browser.texts(  # noqa: E731
        f"#entries td:nth-child({at})")]  # fmt: skip
    browser.run("arguments[0].click()", head)
    assert values() == sorted(values())
    browser.run("arguments[0].click()", head)
    assert values() == sorted(values(), reverse=True)
    assert browser.find(f"#entries th:nth-child({at})").get_attribute("aria-sort") == "descending"


def test_rows_are_found_by_their_words(browser):
    every = rows(browser)
    browser.type("#find", "ditto fine-tune")
    assert rows(browser) == [row for row in every if row.startswith("ditto base+fine-tune")]
    assert browser.texts("#count") == [f"2 of {len(every)} rows"]


def marks(browser, chart: str) -> set[int]:
    """Which rows have a mark in a chart."""
    names = browser.run(
        "return [...document.querySelectorAll(arguments[0])].map(g => g.ariaDescription)",
        f"[data-chart={chart}] g[aria-description]",
    )
    return {int(name.removeprefix("row ")) for name in names}


def test_rows_are_taken_out_of_the_charts_and_put_back(browser):
    whole = marks(browser, "bytes")
    browser.run("document.querySelector('tr[data-entry=\"3\"] input').click()")
    assert marks(browser, "bytes") == whole - {3}
    assert browser.texts("#shown")[0].startswith(f"{len(whole) - 1} of ")
    browser.run("document.getElementById('none').click()")
    assert marks(browser, "bytes") == set()
    assert browser.texts("[data-chart=bytes]") == ["No row that is shown has this."]
    browser.run("document.getElementById('all').click()")
    assert marks(browser, "bytes") == whole
    assert browser.errors() == []


def test_pointing_at_a_row_fades_the_others_in_every_chart(browser):
    from selenium.webdriver import ActionChains

    row = browser.find("tr[data-entry='2']")
    browser.run("arguments[0].scrollIntoView({block: 'center'})", row)
    ActionChains(browser.driver).move_to_element(row).perform()
    faded = browser.run(
        "return [...document.querySelectorAll('[data-chart=gains] g[aria-description]')]"
        ".filter(g => g.style.opacity === '').map(g => g.ariaDescription)"
    )
    assert set(faded) == {"row 2"}


def test_pointing_at_a_mark_tells_the_client_and_a_click_shows_it_with_every_row(browser):
    from selenium.webdriver import ActionChains

    chart = browser.find("[data-chart=gains]")
    browser.run("arguments[0].scrollIntoView({block: 'center'})", chart)
    marks = "[data-chart=gains] g[aria-label=rule] line"
    mark = browser.driver.find_elements("css selector", marks)[4]
    ActionChains(browser.driver).move_to_element(mark).click().perform()
    [tip] = browser.texts("[data-chart=gains] g[aria-label=tip]")[:1] or [""]
    assert browser.find("#client").is_displayed()
    [title] = browser.texts("#client-title")
    number = title.removeprefix("Client ")
    assert not tip or f"client {number}" in tip
    link = browser.find("#client tbody a").get_attribute("href")
    assert link.endswith(f"/report.html#client={number}")
    assert len(browser.texts("#client tbody tr")) == len(rows(browser))
    browser.run("document.getElementById('client-close').click()")
    assert not browser.find("#client").is_displayed()


def test_on_a_telephone_nothing_is_wider_than_the_screen(window, page):
    window.open(page, width=390, height=844)
    assert window.run("return document.documentElement.scrollWidth") <= 390
    widths = window.run(
        "return [...document.querySelectorAll('[data-chart] svg')].map(s => s.clientWidth)"
    )
    assert max(widths) <= 390


def test_paper_has_every_chart_whole_in_the_order_of_the_page(browser):
    """The page as PDF, as a browser prints it: text is read out of its pages in order."""
    browser.media("print", "dark")
    white = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert white == "rgb(255, 255, 255)"
    controls = browser.run("return getComputedStyle(document.querySelector('.controls')).display")
    assert controls == "none"
    wide = browser.run(
        "const m = document.querySelector('main'); m.style.width = '720px';"
        "const wide = [...document.querySelectorAll('table')].filter(t => t.offsetParent)"
        ".map(t => t.scrollWidth); m.style.width = ''; return Math.max(...wide)"
    )
    assert wide <= 720  # A4 without its margins: no column is cut
    pdf = base64.b64decode(browser.driver.print_page())
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") in range(2, 8)
