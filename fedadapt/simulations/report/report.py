"""``report.html``: a run on one page, which needs no other file."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import numpy as np

from fedadapt.records import Outcome
from fedadapt.simulations.report.client_gains import client_gains
from fedadapt.simulations.report.group_section import group_sections
from fedadapt.simulations.report.notes import at_the_end, on_the_way
from fedadapt.simulations.report.page.data import colours, page_data
from fedadapt.simulations.report.page.rendering import percent, points, render
from fedadapt.simulations.report.style import to_svg
from fedadapt.simulations.results.accuracies import Accuracies, last_accuracies
from fedadapt.simulations.results.calibration import COVERAGES, Sureness, sureness
from fedadapt.simulations.results.communication import (
    ActionTotal,
    FailureTotal,
    ReasonTotal,
    by_action,
    by_failure,
    by_reason,
)
from fedadapt.simulations.results.parquet import put
from fedadapt.simulations.results.run_folder import RunFolder
from fedadapt.simulations.results.serving import chosen_models
from fedadapt.simulations.results.summary import by_label, per_kind, with_failed

REPORT = "report.html"
CLIENTS_LISTED = 10
REASONS_LISTED = 20
WORDS_LISTED = 400  # characters of a manifest's fact; lists of all clients are longer


def write_report(folder: Path, *, measure: bool = True) -> Path:
    """Write ``report.html`` into a run folder and return its path; see ``report_page``."""
    return put(folder / REPORT, report_page(folder, measure=measure).encode())


def report_page(folder: Path, *, measure: bool) -> str:
    """Return the page of a run as HTML.

    For an unfinished run the page shows what is there, from journals too, and a notice says what
    is missing.

    Args:
        folder: The run folder.
        measure: If a run has groups, measure its map of layers. This needs the run's data and
            passes over the images of some clients. If False, the map is shown only if it has been
            measured before.

    Raises:
        InputError: The folder holds nothing of a run, or a library for reports is missing.

    """
    run = RunFolder.read(folder)
    accuracies = last_accuracies(run.evaluations, run.adaptations)
    pictures = _drawn(run, accuracies) | _groups(run, accuracies, measure=measure)
    travelled = by_action(run.communication)
    numbers = _numbers(run, accuracies, travelled)
    words = _words(run) | numbers | pictures | _communication(run, travelled)
    data = page_data(run, accuracies, pictures["sureness"])
    of_label = {f"c{i}": colour for i, colour in enumerate(pictures["colours"].values())}
    return render(
        "run", words | {"rounds": data["rounds"], "losses": data["losses"]}, data, of_label
    )


def data_size(count: int) -> str:
    """Return bytes in the unit that needs few digits, such as ``11.8 GB``."""
    power = 9 if count >= 1e9 else 6
    return f"{count / 10**power:.1f}\N{NO-BREAK SPACE}{'GB' if power == 9 else 'MB'}"


def _words(run: RunFolder) -> dict[str, Any]:
    """Return the title, the notice, the configuration and the manifest of a run."""
    names = [
        str(run.config[key]) for key in ("benchmark", "strategy", "model") if key in run.config
    ]
    line = [
        f"{run.config[key]} {word}"
        for key, word in (("clients", "clients"), ("rounds", "rounds"))
        if key in run.config
    ]
    line += [
        f"{key.replace('-', ' ')} {run.config[key]}"
        for key in ("seed", "batch-norm")
        if key in run.config
    ]
    if isinstance(seconds := run.summary.get("seconds"), int | float):
        line.append(f"{seconds:,.0f} s")
    notice = ""
    if run.missing:
        notice = f"This run is not complete: {'; '.join(run.missing)}. Shown is what is there."
    metadata = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in run.manifest.items()
    }
    return {
        "folder": run.folder.resolve().name,
        "title": " · ".join(names) or run.folder.resolve().name,
        "line": " · ".join(line),
        "notice": notice,
        "config": {k: json.dumps(v, ensure_ascii=False) for k, v in run.config.items()},
        "manifest": {k: _cut(v) for k, v in metadata.items()},
    }


def _numbers(
    run: RunFolder, accuracies: Accuracies, travelled: list[ActionTotal]
) -> dict[str, Any]:
    """Return tables of accuracies by label and by kind, and of the clients with the worst ones."""
    seen, final = accuracies.where(accuracies.seen), accuracies.final
    everybody = last_accuracies(run.evaluations, run.adaptations, split="global")
    accuracy = by_label(seen)
    failed = {failure.label for failure in run.failures if failure.round == accuracies.round}
    return {
        "round": accuracies.round,
        "evaluated": bool(run.evaluations),
        "asked": at_the_end(run, accuracies),
        "labels": accuracies.labels,
        "final": final,
        "accuracy": with_failed(accuracy, failed, run.adaptations) if accuracy else {},
        "unseen": by_label(accuracies.where(~accuracies.seen)),
        "global_test": {
            label: metadata["mean"]
            for label, metadata in by_label(everybody.where(everybody.seen)).items()
        },
        "cards": _cards(run, accuracy, final, travelled),
        "kinds": per_kind(accuracies),
        "worst_off": _clients(accuracies, accuracies.by_label.get(final or "base"), final),
        "most_harmed": [
            row
            for row in _clients(accuracies, accuracies.gain(final) if final else None, final)
            if row["gain"] is not None and row["gain"] < 0
        ],
    }


def _cards(
    run: RunFolder,
    accuracy: dict[str, dict[str, Any]],
    final: str | None,
    travelled: list[ActionTotal],
) -> list[dict[str, Any]]:
    """Return the headline numbers: those of the final label compared with the base's."""
    cards = []
    base = accuracy.get("base")
    after = accuracy.get(final or "") or base
    if after:
        name = final if final and after is not base else "base"
        compared = base is not None and after is not base
        for key, title in (("mean", "Mean accuracy"), ("worst10", "Worst 10 % of clients")):
            note = (
                f"with {name}; {percent(base[key])} with base"
                if compared and base
                else f"with {name}"
            )
            cards.append({"name": title, "value": percent(after[key]), "note": note})
        if compared:
            harmed = round(after["share_worse"] * after["num_clients"])
            cards.append(
                {"name": "Mean gain", "value": points(after["gain"]), "note": "points over base"}
            )
            cards.append(
                {
                    "name": "Made worse",
                    "value": f"{harmed} of {after['num_clients']}",
                    "note": "clients of the training, below what base gave them",
                    "worse": harmed > 0,
                }
            )
        cards += _over_local(after, name)
    if run.groups is not None:
        index = run.groups.agreement
        agree = "" if index is None else f"; adjusted Rand index {index:.2f} against the kinds"
        card = {
            "name": "Groups",
            "value": str(run.groups.num_groups),
            "note": f"{run.groups.how}{agree}",
        }
        cards.append(card)
    if travelled:
        training = [t for t in travelled if t.phase == "training"]
        up, down = sum(t.bytes_up for t in training), sum(t.bytes_down for t in training)
        note = f"{data_size(down)} down, all clients together; without evaluation"
        cards.append({"name": "Sent by the clients", "value": data_size(up), "note": note})
    return [{"worse": False} | card for card in cards]


def _over_local(after: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return a headline number that compares the final label with training alone."""
    if after["over_local"] is None:
        return []
    below = round(after["share_below_local"] * after["num_clients"])
    note = f"points with {name}; {below} of {after['num_clients']} clients do better alone"
    value = points(after["over_local"])
    worse = after["over_local"] < 0
    return [{"name": "Over training alone", "value": value, "note": note, "worse": worse}]


def _clients(
    accuracies: Accuracies, by: "np.ndarray[Any, np.dtype[np.float64]] | None", final: str | None
) -> list[dict[str, Any]]:
    """Return a row for each of the clients with the lowest values of ``by`` [D], lowest first."""
    if by is None:
        return []
    order = [int(d) for d in np.argsort(by, kind="stable") if not np.isnan(by[d])][:CLIENTS_LISTED]
    missing = np.full(len(accuracies), np.nan)
    base, after = (
        accuracies.by_label.get("base", missing),
        accuracies.by_label.get(final or "base", missing),
    )
    gain = after - base
    return [
        {
            "client": int(accuracies.client[d]),
            "kind": accuracies.kind[d],
            "seen": bool(accuracies.seen[d]),
            "num_examples": int(accuracies.num_examples[d]),
            "base": float(base[d]),
            "after": float(after[d]),
            "gain": None if np.isnan(gain[d]) else float(gain[d]),
        }
        for d in order
    ]


def _drawn(run: RunFolder, accuracies: Accuracies) -> dict[str, Any]:
    """Return the tables that stand for what the page's script draws."""
    tasks = run.summary.get("tasks", {})
    return {
        "convergence_note": on_the_way(run),
        "num_clients": len(accuracies),
        "colours": colours(accuracies.labels),
        "sureness": sureness_of(run, accuracies),
        "coverages": COVERAGES.tolist(),
        "tasks": tasks,
        "num_tasks": max((len(scores["matrix"]) for scores in tasks.values()), default=0),
    }


def _groups(run: RunFolder, accuracies: Accuracies, *, measure: bool) -> dict[str, Any]:
    """Return the figures about groups as inline SVG, of runs that have groups."""
    from markupsafe import Markup

    sections: list[dict[str, Any]] = []
    if run.groups is None:
        return {"figures": sections}
    for section in group_sections(run, run.groups, measure=measure):
        figures = list(section.figures)
        if not sections and (together := client_gains(accuracies)) is not None:
            figures.insert(0, together)
        names = (f"f{len(sections)}-{i}" for i in range(len(figures)))
        svgs = [Markup(to_svg(*pair)) for pair in zip(figures, names, strict=True)]
        facts = {"title": section.title, "note": section.note, "groups": section.groups}
        sections.append({**facts, "svgs": svgs, "numbers": section.numbers})
    return {"figures": sections}


def sureness_of(run: RunFolder, accuracies: Accuracies) -> dict[str, Sureness]:
    """Return how sure the models of the last evaluated round are, by label; {} if not recorded."""
    last = (row for row in run.confidences if row.round == accuracies.round)
    chosen = chosen_models(run.evaluations, accuracies.round)
    return sureness(last, run.adaptations, chosen)


def _communication(run: RunFolder, travelled: list[ActionTotal]) -> dict[str, Any]:
    """Return the traffic by action, and why answers and evaluations are missing."""
    reasons = by_reason(run.communication)
    failures = by_failure(run.failures)
    return {
        "failures": [_reason(total) for total in failures[:REASONS_LISTED]],
        "communication": travelled,
        "outcomes": get_args(Outcome),
        "reasons": [_reason(total) for total in reasons[:REASONS_LISTED]],
        "more_reasons": max(0, len(reasons) - REASONS_LISTED),
    }


def _reason(total: ReasonTotal | FailureTotal) -> dict[str, Any]:
    listed = {"clients": _listed(total.clients), "rounds": _listed(total.rounds)}
    return total._asdict() | listed


def _listed(numbers: Iterable[int], most: int = 8) -> str:
    """Return ``1, 2, 3``; a long list ends in how many more there are."""
    words = [str(number) for number in numbers]
    rest = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + rest


def _cut(text: str) -> str:
    return text if len(text) <= WORDS_LISTED else f"{text[:WORDS_LISTED]} …"
