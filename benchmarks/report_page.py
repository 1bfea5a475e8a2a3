"""Size of the report page of a large run, and how long a browser takes to open it.

The run is made up, with everything that a page can hold: accuracies of every client with four
client models after the last round and with two of them after every round, two messages to every
client in every round, and images of every class on every client. Chromium opens the page so many
times, each time with an empty cache and in a process of its own; the time is until the page has
loaded, by which its script has drawn every chart. Beside it is the CPU time of the page's thread,
which does not depend on what else the machine does. Debian's packages ``chromium`` and
``chromium-driver`` are enough; without them only the size is told.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tomli_w
from rich.console import Console
from rich.table import Table

from fedadapt.config import RunConfig
from fedadapt.records import CommunicationEntry, Evaluation, RoundLoss
from fedadapt.simulations.report.label_counts import LABELS
from fedadapt.simulations.report.report import write_report
from fedadapt.simulations.results.parquet import (
    write_communication,
    write_evaluations,
    write_losses,
)
from fedadapt.simulations.results.summary import summarise, write_summary

MOST = 2**20  # bytes of the page of 1,000 clients
SLOWEST = 2.0  # seconds to open it
KINDS = ("plain", "inverted", "rotated", "blurred", "noisy")
CLASSES = 10
IMAGES = 40  # of a client's test
MODELS = {  # a client model -> its adaptation, and what it is worth
    "local": ("local", "none", 0.55),
    "base": ("base", "none", 0.60),
    "personal": ("personal", "none", 0.70),
    "personal+fine-tune": ("personal", "fine-tune", 0.74),
}
EVERY_ROUND = ("base", "personal")


class Opened(NamedTuple):
    """What opening a page once took."""

    seconds: float  # until it has loaded
    cpu: float  # seconds of its thread


def make(folder: Path, clients: int, rounds: int) -> Path:
    """Write a folder as a finished run leaves it; return it."""
    folder.mkdir(parents=True)
    config = RunConfig(
        benchmark="digits-domains",
        strategy="ditto",
        clients=clients,
        rounds=rounds,
        adapt="none,fine-tune",
    )
    (folder / "config.toml").write_text(tomli_w.dumps(config.to_mapping()))
    facts = {"hash": "0" * 64, "engine": "processes", "domains": KINDS}
    (folder / "manifest.json").write_text(json.dumps(facts))
    (folder / LABELS).write_text(json.dumps(_labels(clients), separators=(",", ":")))
    losses = [RoundLoss(r, 2.3 * 0.98**r, clients) for r in range(1, rounds + 1)]
    write_evaluations(folder, _evaluations(clients, rounds))
    write_communication(folder, _messages(clients, rounds))
    write_losses(folder, losses)
    summary = summarise(
        config,
        "0" * 64,
        list(_evaluations(clients, rounds)),
        _messages(clients, rounds),
        losses,
        3600.0,
    )
    write_summary(folder, summary)
    return folder


def _evaluations(clients: int, rounds: int) -> Iterator[Evaluation]:
    random = np.random.default_rng(1)
    offsets = random.normal(0, 0.1, clients)
    for round in range(rounds + 1):
        share = 1 - 0.9 * 0.97**round
        for label, (model, adaptation, worth) in MODELS.items():
            if round < rounds and label not in EVERY_ROUND:
                continue
            noise = random.normal(0, 0.05, clients)
            right = (IMAGES * np.clip(share * worth + offsets + noise, 0, 1)).round() / IMAGES
            for client, accuracy in enumerate(right.tolist()):
                yield Evaluation(
                    round,
                    client,
                    KINDS[client % len(KINDS)],
                    client % 10 > 0,
                    model,
                    adaptation,
                    "test",
                    IMAGES,
                    accuracy,
                    2 * (1 - accuracy),
                )


def _messages(clients: int, rounds: int) -> Iterator[CommunicationEntry]:
    for round in range(1, rounds + 1):
        for client in range(clients):
            late = (client + round) % 97 == 0
            outcome, reason = ("late", "no answer after 60 s") if late else ("accepted", "")
            size = 181_448
            yield CommunicationEntry(
                round, client, "train", outcome, reason, size, 0 if late else size, 0.25
            )
            yield CommunicationEntry(
                round, client, "evaluate", "accepted", "", size, 240, 0.02, "evaluation"
            )


def _labels(clients: int) -> dict[str, object]:
    random = np.random.default_rng(2)
    counts = random.integers(1, 60, (clients, CLASSES, 3)).tolist()
    return {
        "classes": [str(c) for c in range(CLASSES)],
        "clients": {d: [[c, *row] for c, row in enumerate(of)] for d, of in enumerate(counts)},
    }


def opened(page: Path, times: int) -> list[Opened]:
    """Open the page so many times; [] without a browser."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        return []
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    found = []
    for _ in range(times):
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for argument in ("headless=new", "no-sandbox", "disable-gpu", "window-size=1280,1000"):
            options.add_argument(f"--{argument}")
        driver = webdriver.Chrome(options, Service(str(shutil.which("chromedriver"))))
        try:
            driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
            driver.get(page.resolve().as_uri())
            assert driver.execute_script("return document.documentElement.dataset.drawn") == "yes"
            timing = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
            while not (milliseconds := driver.execute_script(timing)):
                time.sleep(0.01)
            metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
            [cpu] = [one["value"] for one in metrics if one["name"] == "TaskDuration"]
            found.append(Opened(milliseconds / 1000, cpu))
        finally:
            driver.quit()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--times", type=int, default=7, help="the page is opened")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        folder = make(Path(place) / "run", given.clients, given.rounds)
        began = time.perf_counter()
        page = write_report(folder)
        wrote, size = time.perf_counter() - began, page.stat().st_size
        found = opened(page, given.times)
    heads = ("page, KB", "written, s", "opened, s: median", "least", "most", "CPU, s: median")
    table = Table("clients", "rounds", *heads)
    seconds = [one.seconds for one in found]
    times = [f"{f(seconds):.2f}" if seconds else "-" for f in (statistics.median, min, max)]
    times.append(f"{statistics.median(one.cpu for one in found):.2f}" if found else "-")
    counts = (f"{given.clients:,}", str(given.rounds))
    table.add_row(*counts, f"{size / 1000:,.0f}", f"{wrote:.1f}", *times)
    Console().print(table)
    if given.clients <= 1_000:
        # Other programs only make it longer: what counts is the page's own time.
        holds = size < MOST and all(one.cpu < SLOWEST for one in found)
        words = "below 1 MiB, and less than 2 s of CPU time to open"
        Console().print(f"{words}: {'holds' if holds else 'DOES NOT HOLD'}", highlight=False)
        if not holds:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
