"""The first command: four models of the same clients, in one table and one picture."""

import numpy as np
import pytest
import tiny
from rich.console import Console

from fedadapt.config import RunConfig
from fedadapt.simulations import demo
from fedadapt.simulations.report.side_by_side import side_by_side
from fedadapt.simulations.results.summary import read_summary


def test_the_demo_is_a_hundred_clients_with_thirty_images_each():
    fedavg, pfa = demo.plan("digits-domains", 1, tiny.Path("runs/demo"))
    for config in (fedavg, pfa):
        assert (config.clients, config.examples, config.rounds, config.model) == (
            100, 30, 20, "mlp",
        )  # fmt: skip
        assert config.local
    assert (fedavg.strategy, fedavg.adapt, pfa.strategy) == ("fedavg", "none,fine-tune", "pfa")


def test_it_leaves_one_table_and_one_picture_and_does_not_run_twice(tmp_path, monkeypatch):
    tiny.without_pictures(monkeypatch)
    small = RunConfig.from_mapping(tiny.SETTINGS | {"adapt-args": ""})
    monkeypatch.setattr(demo, "SETTINGS", small)
    runs = demo.plan("digits-domains", 1, tmp_path)
    table, files = demo.carry_out(runs, tmp_path, Console(quiet=True))
    assert [line.label for line in table.lines] == list(demo.NAMES.values())
    assert {file.name for file in files} == {"demo.md", "demo.tex", "demo.csv", "demo.png"}
    means = {column.key: i for i, column in enumerate(table.columns)}["mean"]
    fedavg, pfa = (read_summary(tiny.Path(run.out))["accuracy"] for run in runs)
    wanted = [fedavg["local"], fedavg["base"], fedavg["base+fine-tune"], pfa["personal"]]
    assert [line.cells[means].mean for line in table.lines] == [w["mean"] for w in wanted]
    monkeypatch.setattr("fedadapt.simulations.run.simulate", None)  # a second call runs nothing
    again, _ = demo.carry_out(runs, tmp_path, Console(quiet=True))
    assert again.lines == table.lines


def bars(axes) -> dict[float, float]:
    return {
        round(bar.get_x() + bar.get_width() / 2, 6): bar.get_height()
        for bar in axes.containers[0].patches
    }


def test_the_picture_counts_clients_and_what_they_gain_over_training_alone():
    values = {
        "alone": np.array([0.5, 0.5, 1.0, np.nan]),
        "other": np.array([0.5, 1.0, 0.5, 0.5]),
    }
    figure = side_by_side(values, {"alone": "local", "other": "base"}, "alone")
    alone, _, other, over = figure.axes
    assert bars(alone) == {50: 2, 100: 1}
    assert bars(other) == {50: 3, 100: 1}
    assert bars(over) == {-50: 1, 0: 1, 50: 1}
    words = " ".join(text.get_text() for text in over.texts)
    assert "worse off: 1 of 3" in words
    assert "better off: 1 of 3" in words


@pytest.mark.parametrize("count", [1, 3])
def test_equal_clients_are_one_bar(count):
    values = {"alone": np.full(count, 0.5), "other": np.full(count, 0.5)}
    figure = side_by_side(values, {"alone": "local", "other": "base"}, "alone")
    assert bars(figure.axes[0]) == {50: count}
