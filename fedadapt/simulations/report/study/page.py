"""``report.html`` of a study: its rows as one table, everything that is drawn as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedadapt.simulations.report.page.rendering import render
from fedadapt.simulations.report.study.look import GLYPHS, colours, signs
from fedadapt.simulations.report.study.ranks import Ranks
from fedadapt.simulations.report.study.study import Entry, Study
from fedadapt.simulations.results.parquet import put

REPORT = "report.html"
VALUES = 120_000  # accuracies of clients that a page holds; of more, every so manieth client
SCALE = 10_000  # accuracies are whole numbers of these
STEPS = 200  # of a curve that a page holds
ROWS = 25  # of a curve in its table


def write_study(folder: Path, study: Study) -> Path:
    """Write the page of a study into its folder and return the path."""
    return put(folder / REPORT, study_page(folder, study).encode())


def study_page(folder: Path, study: Study) -> str:
    """Return the page of a study as HTML that needs no other file.

    Raises:
        InputError: A library for reports is missing.

    """
    of_entry = colours(study.entries)
    of_population = [study.ranks(place) for place in range(len(study.populations))]
    held = _clients(study)
    words = {
        "folder": folder.resolve().name,
        "title": f"{study.what}: {study.title}",
        "line": study.line,
        "notice": " ".join(f"{note.rstrip('.')}." for note in study.notes),
        "study": study,
        "glyphs": [GLYPHS[sign] for sign in signs(study.entries)],
        "ranks": [
            (study.populations[place], found)
            for place, found in enumerate(of_population)
            if found is not None
        ],
        "curves": _curve_table(study.entries),
        "gains": [(entry, _quantiles(entry.gain)) for entry in study.entries if entry.gain],
        "left_out": held["every"],
    }
    data = {
        "scale": SCALE,
        "step": study.step,
        "reference": study.reference,
        "axes": study.axes,
        "populations": study.populations,
        "ranks": [None if found is None else _ranks(found) for found in of_population],
        "clients": held["clients"],
        "entries": [
            _entry(entry, sign, held["clients"][entry.population])
            for entry, sign in zip(study.entries, signs(study.entries), strict=True)
        ],
    }
    return render("study", words, data, {f"c{i}": colour for i, colour in enumerate(of_entry)})


def _entry(entry: Entry, sign: str, clients: Sequence[int]) -> dict[str, Any]:
    return {
        "title": entry.title,
        "label": entry.label,
        "sign": sign,
        "population": entry.population,
        "by_seed": [round(value, 6) for value in entry.by_seed],
        "published": entry.published,
        "megabytes": entry.megabytes,
        "seconds": entry.seconds,
        "accuracy": _whole(entry.accuracy, clients),
        "gain": _whole(entry.gain, clients),
        "curves": [
            {
                "seed": curve.seed,
                "steps": [curve.steps[i] for i in _thinned(len(curve.steps), STEPS)],
                "values": [round(curve.values[i], 4) for i in _thinned(len(curve.steps), STEPS)],
            }
            for curve in entry.curves
        ],
        "matrix": entry.matrix,
        "forgetting": entry.forgetting,
        "series": entry.series,
        "point": entry.point,
        "links": [link._asdict() for link in entry.links],
    }


def _clients(study: Study) -> dict[str, Any]:
    """Return which clients of each population are drawn, and that each of so many is."""
    of: list[list[int]] = []
    count = 0
    for place in range(len(study.populations)):
        members = [entry for entry in study.entries if entry.population == place]
        clients = sorted({client for entry in members for client in entry.accuracy})
        count += len(clients) * len(members)
        of.append(clients)
    every = -(-count // VALUES) if count else 1
    return {"every": every, "clients": [clients[::every] for clients in of]}


def _whole(values: Mapping[int, float], clients: Sequence[int]) -> list[int | None]:
    if not values:
        return []
    return [round(values[c] * SCALE) if c in values else None for c in clients]


def _ranks(found: Ranks) -> dict[str, Any]:
    return {**found._asdict(), "mean": [round(rank, 4) for rank in found.mean]}


def _thinned(count: int, most: int) -> list[int]:
    """Return places 0..count-1, or ``most`` of them with both ends."""
    if count <= most:
        return list(range(count))
    return sorted({*np.linspace(0, count - 1, most).round().astype(int).tolist()})


def _curve_table(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return the mean over seeds at each step, for the table that stands for the curves."""
    shown = [entry for entry in entries if entry.curves]
    steps = sorted({step for entry in shown for curve in entry.curves for step in curve.steps})
    steps = [steps[i] for i in _thinned(len(steps), ROWS)]
    rows = []
    for step in steps:
        at = [
            [v for c in e.curves for s, v in zip(c.steps, c.values, strict=True) if s == step]
            for e in shown
        ]
        rows.append((f"{step:g}", [float(np.mean(values)) if values else None for values in at]))
    return {"entries": shown, "rows": rows}


def _quantiles(gain: Mapping[int, float]) -> dict[str, Any]:
    values = np.array(list(gain.values()))
    low, tenth, median, ninth, high = np.quantile(values, (0, 0.1, 0.5, 0.9, 1)).tolist()
    return {
        "mean": float(values.mean()),
        "quantiles": (low, tenth, median, ninth, high),
        "worse": int((values < -1e-6).sum()),
        "clients": len(values),
    }
