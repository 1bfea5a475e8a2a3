"""Clients a second of every engine on the same work in the same run: `python -m benchmarks.speed`.

Each measurement is a process of its own, and engines take turns (A, B, C, A, B, C, ...), so a slow
minute of the machine is everybody's. Start-up and the first round are left out. Shown are the
median over the repetitions of a process's median round, and the slowest and fastest repetition.
"""

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.process import CORES, Found, measured, python_with_pfl
from benchmarks.ratios import Rates, best_bare, ratio, verdicts
from benchmarks.works import WORKS, Work, parsed

TITLES = {
    "flower": "stock Flower (Ray)",
    "pfl": f"pfl-research, {CORES} processes",
    "bare-1": "bare loop, 1 process",
    "bare": f"bare loop, {CORES} processes",
    "bare-cl": f"bare loop, {CORES} processes, channels last",
    "bare-bf16": f"bare loop, {CORES} processes, channels last, bf16",
    "ours-one-by-one": "fedadapt, one by one",
    "ours-stacked": "fedadapt, stacked",
    "ours-ray": "fedadapt, Ray",
    "ours": "fedadapt",
    "ours-bf16": "fedadapt, bf16",
}
PEERS = ("flower", "pfl")  # they train, and know no queries
QUERIES = ("bare-1", "bare", "ours")
CONVOLUTIONS = ("bare-cl",)
DENSE = ("bare-bf16", "ours-bf16")


def engines_for(work: Work, asked: Sequence[str] = ()) -> list[str]:
    """Those worth comparing, or those asked for that can do the work; in the table's order."""
    trains = work.kind == "train"
    if asked:
        wanted = set(asked) if trains else set(asked) - {*PEERS}
    elif trains:
        wanted = {*TITLES} - {*DENSE, *CONVOLUTIONS}
        wanted |= {*CONVOLUTIONS} if work.model != "mlp" else set()
        wanted |= {*DENSE} if work.dense else set()
    else:
        wanted = {*QUERIES}
    return [engine for engine in TITLES if engine in wanted]


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    pfl = python_with_pfl(given.pfl_python)
    found: dict[str, dict[str, list[Found]]] = {}
    for work in given.work:
        found[work] = {e: [] for e in engines_for(parsed(work), given.engines)}
        if "pfl" in found[work] and not pfl:
            found[work]["pfl"].append(Found([], "not installed: pip install pfl, or --pfl-python"))
        for turn in range(given.repeats):
            for engine, so_far in found[work].items():
                if so_far and not so_far[-1].seconds:
                    continue  # it failed, and would again
                with console.status(f"{work}, repetition {turn + 1}: {TITLES[engine]}"):
                    python = pfl if engine == "pfl" else sys.executable
                    so_far.append(measured(engine, work, given.seconds, python=python))
            if given.json:
                given.json.write_text(json.dumps(_facts(found), indent=1))
        _show(console, parsed(work), found[work])
    console.print(", ".join(f"{name} {value}" for name, value in _where().items()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--work",
        type=_works,
        default=list(WORKS),
        help="separated by commas, W1:1000 for another number of clients (default: all)",
    )
    parser.add_argument(
        "--engines",
        type=_engines,
        default=[],
        help=f"separated by commas, of {', '.join(TITLES)} (default: all)",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a measurement")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    parser.add_argument("--pfl-python", default="", help="interpreter of an environment with pfl")
    return parser


def _works(text: str) -> list[str]:
    words = text.split(",")
    for each in words:
        parsed(each)
    return words


def _engines(text: str) -> list[str]:
    words = text.split(",")
    for each in words:
        if each not in TITLES:
            raise argparse.ArgumentTypeError(f"{each!r}; it is of {', '.join(TITLES)}")
    return words


def rates_of(work: Work, found: Mapping[str, Sequence[Found]]) -> Rates:
    """Clients a second, one number a repetition."""
    return {
        engine: [work.clients / statistics.median(f.seconds) for f in each if f.seconds]
        for engine, each in found.items()
    }


def _show(console: Console, work: Work, found: Mapping[str, Sequence[Found]]) -> None:
    rates = rates_of(work, found)
    beside = {"flower": "times Flower", "pfl": "times pfl", "bare": "times best bare loop"}
    table = Table("engine", "clients/s", "spread", *beside.values(), "")
    for engine, each in rates.items():
        note = found[engine][-1].note if found[engine] else ""
        cells = ["", "", "", "", ""]
        if each:
            others = ("flower", "pfl", best_bare(rates, engine))
            times = [ratio(rates, engine, other) for other in others]
            spread = f"{_rounded(min(each))} to {_rounded(max(each))}"
            cells = [_rounded(statistics.median(each)), spread]
            cells += [f"{t:.2f}" if t else "" for t in times]
        table.add_row(TITLES[engine], *cells, note)
    console.print(f"[bold]{work.name}[/bold]: {work.clients} clients, {work.title}")
    console.print(table)
    for v in verdicts(work.name, rates):
        said = "met" if v.met else "NOT met"
        ours, other = TITLES[v.ours], TITLES[v.beside]
        console.print(f"{ours} / {other}: {v.ratio:.2f}, required {v.required:g}: {said}")


def _rounded(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}"


def _facts(found: Mapping[str, Mapping[str, Sequence[Found]]]) -> dict[str, object]:
    """Everything that was measured, for a file."""
    works = {
        work: {
            engine: {
                "clients per second": rates_of(parsed(work), {engine: each})[engine],
                "seconds of rounds": [f.seconds for f in each],
                "note": each[-1].note if each else "",
            }
            for engine, each in engines.items()
        }
        for work, engines in found.items()
    }
    return {"where": _where(), "works": works}


def _where() -> dict[str, str]:
    """The machine and what is installed."""
    metadata = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "cores": str(CORES), "CPU": _cpu()}
    metadata |= {"python": platform.python_version()}
    for package in ("torch", "flwr", "ray"):
        try:
            metadata[package] = version(package)
        except PackageNotFoundError:
            metadata[package] = "none"
    return metadata


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
