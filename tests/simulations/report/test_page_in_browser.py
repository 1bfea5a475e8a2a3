"""The report page in Chromium: what is drawn, sorted, found, pointed at and opened."""

import json
import re

import numpy as np
import pytest
from browser import Browser, chromium
from made_up import ODD_RUNS, communication, evaluations, losses
from pages import ADAPT, finish

from fedadapt.simulations.report.report import write_report
from fedadapt.simulations.results.accuracies import last_accuracies

pytestmark = pytest.mark.xdist_group("browser")

CLIENTS = 40
ROWS = evaluations(CLIENTS)
FINAL = last_accuracies(ROWS, ADAPT.split(","))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return write_report(finish(folder, ROWS, communication(CLIENTS), losses())).resolve()


@pytest.fixture(scope="module")
def window():
    driver = chromium()
    yield Browser(driver)
    driver.quit()


@pytest.fixture
def browser(window, page):
    window.open(page)
    return window


def column(browser, number: int) -> list[str]:
    return browser.texts(f"#clients-table tbody td:nth-child({number})")


def number(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-").removesuffix(" %"))


def test_everything_is_drawn_and_nothing_goes_wrong(browser):
    assert browser.run("return document.documentElement.dataset.drawn") == "yes"
    charts = browser.run(
        "return [...document.querySelectorAll('.chart')].filter(c => c.offsetParent)"
        ".map(c => c.querySelectorAll('svg').length)"
    )
    assert charts == [1] * 4  # convergence, loss, clients, kinds
    assert browser.errors() == []
    unlabelled = "return document.querySelectorAll('.chart svg:not([aria-label])').length"
    labels = browser.run(
        "return [...document.querySelectorAll('.chart > *')].map(c => c.ariaLabel)"
    )
    assert all(label for label in labels if label is not None), unlabelled


def test_the_table_holds_every_client_with_its_numbers(browser):
    assert column(browser, 1) == [str(client) for client in FINAL.client]
    shown = [number(text) for text in column(browser, 6)]
    np.testing.assert_allclose(shown, 100 * FINAL.by_label["base+fine-tune"], atol=0.051)
    gains = [number(text) for text in column(browser, 7)]
    np.testing.assert_allclose(gains, 100 * FINAL.gain("base+fine-tune"), atol=0.051)


def test_a_click_on_a_head_sorts_and_another_turns_the_order_round(browser):
    head = "#clients-table th:nth-child(7) button"
    browser.find(head).click()
    gains = [number(text) for text in column(browser, 7)]
    assert gains == sorted(gains)
    assert browser.find("#clients-table th:nth-child(7)").get_attribute("aria-sort") == "ascending"
    browser.find(head).click()
    assert [number(text) for text in column(browser, 7)] == sorted(gains, reverse=True)


def test_clients_are_found_by_number_kind_and_harm(browser):
    browser.type("#clients-filter", "7")
    assert column(browser, 1) == ["7"]
    browser.type("#clients-filter", "rotated unseen")
    expected = [
        str(client)
        for client, kind, seen in zip(FINAL.client, FINAL.kind, FINAL.seen, strict=True)
        if kind == "rotated" and not seen
    ]
    assert column(browser, 1) == expected
    assert browser.texts("#clients-count") == [f"{len(expected)} of {CLIENTS} clients"]
    browser.type("#clients-filter", " ")
    browser.find("#clients-worse").click()
    harmed = FINAL.client[FINAL.gain("base+fine-tune") < -1e-6]
    assert column(browser, 1) == [str(client) for client in harmed]


@pytest.mark.parametrize("view", ["before", "gain", "distribution"])
def test_the_switches_change_the_chart_and_its_note(browser, view):
    browser.pick("#pick-view", view)
    browser.pick("#pick-label", "base+adabn-s")
    mean = 100 * FINAL.by_label["base+adabn-s"].mean()
    [note] = browser.texts("#clients-note")
    assert f"{mean:.1f} %" in note
    harmed = int((FINAL.gain("base+adabn-s") < -1e-6).sum())
    assert note.endswith(f"worse off: {harmed}")
    assert browser.texts("#clients-table th:nth-child(7) button") == ["gain of base+adabn-s"]
    assert browser.run("return document.querySelectorAll('#clients-chart svg').length") == 1
    assert browser.errors() == []


def test_pointing_at_a_mark_tells_whose_it_is_and_marks_its_row(browser):
    from selenium.webdriver import ActionChains

    marks = "#clients-chart g[aria-label=dot] circle"
    chart = browser.find("#clients-chart")
    browser.run("arguments[0].scrollIntoView({block: 'center'})", chart)
    dot = browser.driver.find_elements("css selector", marks)[CLIENTS // 2]
    ActionChains(browser.driver).move_to_element(dot).perform()
    [tip] = browser.texts("#clients-chart g[aria-label=tip]")
    client = int(re.search(r"client (\d+)", tip)[1])
    [place] = np.flatnonzero(FINAL.client == client)
    assert f"base {100 * FINAL.by_label['base'][place]:.1f} %" in tip
    assert FINAL.kind[place] in tip
    assert browser.texts("tr.looked td:first-child") == [str(client)]
    assert browser.run("return document.querySelectorAll('circle.ring').length") == 1


def test_a_client_has_a_page_of_its_own(browser, page):
    browser.run("document.getElementById('row-10').click()")
    assert browser.find("#client").is_displayed()
    assert browser.texts("#client-title") == ["Client 10"]
    assert browser.run("return location.hash") == "#client=10"
    rows = browser.run(
        "return [...document.querySelectorAll('#client-messages tbody tr')]"
        ".map(r => [...r.cells].map(c => c.textContent))"
    )
    sent = [entry for entry in communication(CLIENTS) if entry.client == 10]
    assert sum(int(row[2]) for row in rows) == len(sent)
    curve = browser.run(
        "return [...document.querySelectorAll('#client-rounds tbody tr')]"
        ".map(r => [...r.cells].map(c => c.textContent))"
    )
    told = {row.round: row.accuracy for row in ROWS if row.client == 10 and row.label == "base"}
    assert [int(round) for round, _ in curve] == sorted(told)
    for round, accuracy in curve:
        assert number(accuracy.replace("\N{NO-BREAK SPACE}", " ")) == pytest.approx(
            100 * told[int(round)], abs=0.11
        )
    up = sum(float(row[4].replace(",", "")) for row in rows)
    assert up == pytest.approx(sum(entry.bytes_up for entry in sent) / 1e6, abs=0.1)
    browser.find("#client-close").click()
    assert not browser.find("#client").is_displayed()
    browser.driver.get(f"file://{page}#client=3")
    browser.driver.refresh()
    assert browser.texts("#client-title") == ["Client 3"]


def test_on_a_telephone_nothing_is_wider_than_the_screen(window, page):
    window.open(page, width=390, height=844)
    assert window.run("return document.documentElement.scrollWidth") <= 390
    assert window.run("return window.innerWidth") == 390
    assert window.run("return document.querySelector('#clients-chart svg').clientWidth") <= 390


def test_dark_and_print_have_colours_and_parts_of_their_own(browser):
    background = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(background)
    browser.media("screen", "dark")
    assert browser.run(background) != light
    browser.media("print", "dark")
    assert browser.run(background) == light  # paper is white
    controls = "return getComputedStyle(document.querySelector('.controls')).display"
    assert browser.run(controls) == "none"


def test_paper_cuts_no_column_and_prints_colours_that_mean_something(browser):
    browser.media("print", "light")
    wide = browser.run(
        "const m = document.querySelector('main'); m.style.width = '720px';"
        "const wide = [...document.querySelectorAll('table')].filter(t => t.offsetParent)"
        ".map(t => t.scrollWidth); m.style.width = ''; return Math.max(...wide)"
    )
    assert wide <= 720  # A4 without its margins
    adjusted = "return getComputedStyle(document.querySelector('.legend i')).printColorAdjust"
    assert browser.run(adjusted) == "exact"
    heads, cells = (
        browser.run("return getComputedStyle(document.querySelector(arguments[0])).fontSize", css)
        for css in ("#clients-table th", "#clients-table td")
    )
    assert heads == cells


def test_pictures_are_readable_on_a_telephone_and_the_page_is_no_wider(window, tmp_path):
    """Those of groups, which are drawn once for all screens, are scrolled inside their frame."""
    folder = finish(tmp_path, ROWS, strategy="pfa")
    metadata = {
        "round": 3, "quality": 0.5, "clients": list(range(CLIENTS)), "kinds": ["a", "b"] * 20,
        "labels": [0, 1] * 20, "vectors": [[float(c % 2 + c / 100)] for c in range(CLIENTS)],
    }  # fmt: skip
    (folder / "groups.json").write_text(json.dumps(metadata))
    window.open(write_report(folder).resolve(), width=390, height=844)
    widths = window.run(
        "return [...document.querySelectorAll('figure[role=img] svg')].map(s => s.clientWidth)"
    )
    assert widths
    assert min(widths) >= 600
    assert window.run("return document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("case", ODD_RUNS)
def test_odd_runs_open_without_an_error(window, tmp_path, case):
    window.open(write_report(finish(tmp_path, ODD_RUNS[case])).resolve())
    assert window.run("return document.documentElement.dataset.drawn") == "yes"
    assert window.errors() == []
