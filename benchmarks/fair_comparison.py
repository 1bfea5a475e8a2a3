"""Every strategy on the same clients, tuned by the same budget.

Each strategy gets the same number of trials: all pairs of three learning rates and three values of
its one most important parameter, on tuning seeds of their own. The pair with the highest mean
accuracy on held-out *adapt* images is run with other seeds, and only these runs are tested. Every
trial is a run folder: what is there is not run again, so the script can be stopped at any time.

  python -m benchmarks.fair_comparison --out fair/digits --settings "benchmark=digits-dirichlet"
  python -m benchmarks.fair_comparison --out fair/cifar10 --settings "benchmark=cifar10 clients=20
  partition=dirichlet:0.1 examples=500 model=cnn rounds=50"

`--values 2` tries the first two values only, so six trials instead of nine, and `--tuning-rounds`
makes the trials shorter than the runs that are reported. Settings are those of `fedadapt simulate`.
The table goes to `OUT/table.md`, the numbers to `OUT/table.json`; shorter trials to `OUT/tuning`.
"""

import argparse
import json
import os
import resource
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fedadapt.config import RunConfig
from fedadapt.errors import FedadaptError, InputError
from fedadapt.parameters import Scalar
from fedadapt.records import HELD_OUT, LOCAL, Evaluation
from fedadapt.simulations.results.parquet import table_rows
from fedadapt.simulations.run import simulate

KNOBS: dict[str, tuple[str, tuple[float | int, ...]]] = {
    "local": ("", ()),
    "fedavg": ("", ()),
    "fedprox": ("mu", (0.01, 0.1, 1.0)),
    "scaffold": ("", ()),
    "fedper": ("", ()),
    "fedrep": ("head-epochs", (1, 5, 10)),
    "lg-fedavg": ("", ()),
    "fedbabu": ("fine-tune-rate", (0.04, 0.2, 1.0)),
    "ditto": ("lam", (0.01, 0.1, 1.0)),
    "apfl": ("alpha", (0.1, 0.25, 0.5)),
    "pfedme": ("lam", (5.0, 10.0, 15.0)),
    "per-fedavg": ("steps", (1, 5, 10)),
    "fedrod": ("head-rate", (0.2, 1.0, 5.0)),
    "fedala": ("rate", (1.0, 10.0, 100.0)),
    "fedproto": ("lam", (0.1, 1.0, 3.0)),
    "fedamp": ("s", (0.25, 1.0, 4.0)),
    "fedfomo": ("candidates", (2, 5, 10)),
    "fedpac": ("lam", (0.0, 0.1, 1.0)),
    "fedcac": ("tau", (0.3, 0.5, 0.7)),
    "fedloge": ("frame-norm", (0.1, 1.0, 2.0)),
    "pfedgate": ("budget", (0.3, 0.5, 1.0)),
    "embedding": ("rate", (0.1, 1.0, 3.0)),
    "pfedhn": ("hyper-lr", (0.05, 0.2, 0.5)),
    "taper": ("bases", (2, 4, 8)),
    "pfa": ("q", (10, 30, 50)),
    "ifca": ("clusters", (2, 4, 8)),
    "cfl": ("first-round", (3, 5, 10)),
    "pacfl": ("threshold", (20.0, 40.0, 60.0)),
}
"""Strategy -> its most important parameter and three values; none: more learning rates instead."""

LEFT_OUT = {
    "taper-server": "trains on images of the server, which no other strategy has",
    "fedbn": "fedavg on a network without batch norm",
    "pfedpg": "needs a transformer with prompts, and weights",
    "fedit": "needs weights that are worth freezing",
    "ffa-lora": "needs weights that are worth freezing",
    "fedsa-lora": "needs weights that are worth freezing",
}

VALUES = 3  # of the parameter; where there is none, as many learning rates for each that is given


class Trial(NamedTuple):
    """One run to be made, or made."""

    strategy: str
    rate: float
    value: float | int | None  # of the strategy's parameter
    seed: int

    @property
    def arguments(self) -> str:
        knob = KNOBS[self.strategy][0]
        return f"{knob}={self.value}" if knob else ""

    @property
    def name(self) -> str:
        value = "" if self.value is None else f"-{KNOBS[self.strategy][0]}{self.value:g}"
        return f"{self.strategy}-lr{self.rate:g}{value}-seed{self.seed}"


def trials(
    strategy: str, rates: Sequence[float], seed: int, num_values: int = VALUES
) -> list[Trial]:
    """Return as many trials for every strategy: rates x values, or as many rates."""
    knob, values = KNOBS[strategy]
    if knob:
        first = values[:num_values]
        return [Trial(strategy, rate, value, seed) for rate, value in product(rates, first)]
    low, high = min(rates), max(rates)
    spread = np.geomspace(low / 3, high * 3, len(rates) * num_values)
    return [Trial(strategy, float(f"{rate:.3g}"), None, seed) for rate in spread]


def run(trial: Trial, folder: Path, settings: Mapping[str, Scalar]) -> None:
    """Make the run of a trial, unless it is there; its CPU seconds are written beside it."""
    out = folder / trial.name
    if (out / "summary.json").is_file():
        return
    config = RunConfig.from_mapping(
        {
            "save-models": "none", "local": False, **settings, "serve": "best-on-adapt",
            "strategy": trial.strategy, "strategy-args": trial.arguments, "lr": trial.rate,
            "seed": trial.seed, "workers": 1,
        }
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    before = _cpu_seconds()
    try:
        simulate(config, out, resume=(out / "config.toml").is_file(), pictures=False)
    except FedadaptError as error:
        (folder / f"{trial.name}.failed").write_text(f"{error}\n")
        print(f"{trial.name}: {error}", file=sys.stderr)
        return
    _cpu(folder, trial).write_text(f"{_cpu_seconds() - before:.1f}\n")


def parse_words(text: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of "key=value key=value".

    Raises:
        InputError: A word is no pair.

    """
    for word in text.split():
        key, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"settings: {word!r}; each must be key=value")
        yield key, value


def _typed(key: str, text: str) -> Scalar:
    """A setting in the type of its default."""
    default = RunConfig().to_mapping().get(key)
    if isinstance(default, bool):
        return text == "true"
    return type(default)(text) if isinstance(default, int | float) else text


def _cpu_seconds() -> float:
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _cpu(folder: Path, trial: Trial) -> Path:
    return folder / f"{trial.name}.cpu-seconds"


class Scores(NamedTuple):
    """Accuracies of one run, by label: client by client, in the order of clients."""

    test: dict[str, np.ndarray]
    held_out: dict[str, np.ndarray]


def scores(folder: Path) -> Scores | None:
    """Read the last round of a run; None where it failed."""
    try:
        rows = [row for row in table_rows(folder, Evaluation) if row.client >= 0 and not row.epoch]
    except Exception:
        return None
    last = max(row.round for row in rows)
    found: dict[str, dict[str, list[float]]] = {"test": {}, HELD_OUT: {}}
    for row in sorted(rows, key=lambda row: row.client):
        if row.round == last and row.split in found:
            found[row.split].setdefault(row.label, []).append(row.accuracy)
    return Scores(*({n: np.array(v) for n, v in some.items()} for some in found.values()))


def own_label(found: Scores) -> str:
    """Return what a method is chosen by: its personal model, or fine-tuning of the one for all."""
    return "personal" if "personal" in found.held_out else "base+fine-tune"


def best(made: Sequence[Trial], folder: Path) -> Trial | None:
    """Return the trial, of any seed, whose rate and value did best on adapt images."""
    means: dict[tuple[float, float | int | None], list[float]] = {}
    for trial in made:
        found = scores(folder / trial.name)
        mean = float(found.held_out[own_label(found)].mean()) if found else -np.inf
        means.setdefault((trial.rate, trial.value), []).append(mean)
    if not means:
        return None
    pair = max(means, key=lambda key: float(np.mean(means[key])))
    return Trial(made[0].strategy, *pair, 0) if np.isfinite(np.mean(means[pair])) else None


def row(chosen: Trial, seeds: Sequence[int], folder: Path, local: dict[int, np.ndarray]) -> dict:
    """Return the numbers of one strategy: means over seeds, and the spread of the mean."""
    found = {seed: scores(folder / chosen._replace(seed=seed).name) for seed in seeds}
    whole = {seed: some for seed, some in found.items() if some is not None}
    if not whole:
        return {}
    label = own_label(next(iter(whole.values()))).partition("+")[0]
    summaries = [
        json.loads((folder / chosen._replace(seed=seed).name / "summary.json").read_text())
        for seed in whole
    ]

    def mean(name: str) -> float | None:
        values = [some.test[name].mean() for some in whole.values() if name in some.test]
        return float(np.mean(values)) if values else None

    final = f"{label}+fine-tune"
    served = [some.test["served"] for some in whole.values()]
    worse = [(s < local[seed] - 1e-6).mean() for seed, s in zip(whole, served, strict=True)]
    worst = [np.sort(s)[: -(-len(s) // 10)].mean() for s in served]
    seconds = [float(_cpu(folder, chosen._replace(seed=seed)).read_text()) for seed in whole]
    return {
        "lr": chosen.rate,
        "arguments": chosen.arguments,
        "seeds": len(whole),
        "before": mean(label),
        "fine-tune": mean(final),
        "std of fine-tune": float(np.std([some.test[final].mean() for some in whole.values()])),
        "served": float(np.mean([s.mean() for s in served])),
        "worst10": float(np.mean(worst)),
        "below local": float(np.mean(worse)),
        "MB": float(np.mean([(s["bytes_up"] + s["bytes_down"]) / 1e6 for s in summaries])),
        "CPU s": float(np.mean(seconds)),
    }


def as_markdown(table: dict[str, dict]) -> str:
    """Return the table for a page; accuracies in percent."""
    columns = [
        "strategy",
        "lr",
        "argument",
        "before",
        "fine-tuned",
        "served",
        "worst-10-%",
        "below-local",
        "MB",
        "CPU-s",
    ]
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for name, values in table.items():
        before = "-" if values["before"] is None else f"{100 * values['before']:.2f}"
        after = f"{100 * values['fine-tune']:.2f} ± {100 * values['std of fine-tune']:.2f}"
        lines.append(
            f"| `{name}` | {values['lr']:g} | {values['arguments'] or '-'} | {before} | {after} | "
            f"{100 * values['served']:.2f} | {100 * values['worst10']:.2f} | "
            f"{100 * values['below local']:.0f} % | {values['MB']:.0f} | {values['CPU s']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs and the table")
    parser.add_argument("--settings", default="", help='of all runs, "key=value key=value"')
    parser.add_argument("--strategies", default=",".join(KNOBS), help="separated by commas")
    parser.add_argument("--learning-rates", default="0.01,0.03,0.1")
    parser.add_argument("--tuning-seeds", default="101,102")
    parser.add_argument("--seeds", default="1,2,3", help="whose tests are reported")
    parser.add_argument("--values", type=int, choices=(1, 2, 3), default=VALUES,
                        help="of each strategy's parameter")  # fmt: skip
    parser.add_argument("--tuning-rounds", type=int, help="of a trial; else as of all runs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side")
    given = parser.parse_args(argv)
    settings = {key: _typed(key, text) for key, text in parse_words(given.settings)}
    names = [name.strip() for name in given.strategies.split(",")]
    unknown = sorted(set(names) - KNOBS.keys())
    if unknown:
        parser.error(f"strategies: no {unknown[0]}; there are {', '.join(KNOBS)}")
    rates = [float(rate) for rate in given.learning_rates.split(",")]
    tuning = [int(seed) for seed in given.tuning_seeds.split(",")]
    seeds = [int(seed) for seed in given.seeds.split(",")]
    if "local" not in names:
        names.insert(0, "local")  # what the others are held against

    tuning_folder, tuning_settings = given.out, settings
    if given.tuning_rounds:
        tuning_folder = given.out / "tuning"
        rounds = {"rounds": given.tuning_rounds, "evaluate-every": given.tuning_rounds}
        tuning_settings = settings | rounds

    def make(every: Iterable[Trial], folder: Path, settings: Mapping[str, Scalar]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        how = {"mp_context": get_context("spawn"), "initializer": _one_thread}
        with ProcessPoolExecutor(given.jobs, **how) as pool:
            for done in [pool.submit(run, trial, folder, settings) for trial in every]:
                done.result()

    tried = {n: [t for seed in tuning for t in trials(n, rates, seed, given.values)] for n in names}
    make((t for some in tried.values() for t in some), tuning_folder, tuning_settings)
    chosen = {n: pick for n in names if (pick := best(tried[n], tuning_folder)) is not None}
    make(
        (pick._replace(seed=seed) for pick in chosen.values() for seed in seeds),
        given.out,
        settings,
    )
    local = {}
    for seed in seeds:
        found = scores(given.out / chosen[LOCAL]._replace(seed=seed).name)
        if found is None:
            parser.error(f"local failed with seed {seed}; nothing to hold the others against")
        local[seed] = found.test["personal"]
    rows = {n: row(pick, seeds, given.out, local) for n, pick in chosen.items()}
    table = {name: numbers for name, numbers in rows.items() if numbers}
    (given.out / "table.json").write_text(json.dumps(table, indent=1))
    (given.out / "table.md").write_text(as_markdown(table))
    print(as_markdown(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
