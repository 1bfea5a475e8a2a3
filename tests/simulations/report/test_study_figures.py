"""The figures of a study for a paper: what is drawn are its numbers, in the right place."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from fedadapt.simulations.report.study import figures
from fedadapt.simulations.report.study.figures import write_study_figures
from fedadapt.simulations.report.study.look import PALETTE
from fedadapt.simulations.report.study.study import Curve, Entry, Study
from fedadapt.simulations.report.style import WORSE

CLIENTS = 20
RANDOM = np.random.default_rng(3)
LEVEL = {"a": 0.9, "b": 0.6, "c": 0.59, "d": 0.2}


def entry(name: str, **changes) -> Entry:
    accuracy = {c: LEVEL[name] + 0.05 * float(RANDOM.random()) for c in range(CLIENTS)}
    curves = tuple(
        Curve(
            str(seed), (0.0, 5.0, 10.0), tuple(LEVEL[name] * s + 0.01 * seed for s in (0.5, 0.8, 1))
        )
        for seed in (1, 2, 4)
    )
    return Entry(**{
        "name": name, "by_seed": (LEVEL[name] - 0.02, LEVEL[name], LEVEL[name] + 0.05),
        "megabytes": 100 * LEVEL[name], "seconds": 7 * LEVEL[name], "accuracy": accuracy,
        "gain": {c: a - 0.6 for c, a in accuracy.items()}, "curves": curves, **changes,
    })  # fmt: skip


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(what="Comparison", title="t", line="", notes=(), settings=(), columns=(),
                 entries=tuple(map(entry, LEVEL)), reference="training alone")  # fmt: skip


def of(study: Study, tmp_path, monkeypatch) -> dict:
    """The axes of each figure as it is handed to be written, by name."""
    kept = {}
    monkeypatch.setattr(figures, "write_drawn", lambda folder, found: kept.update(found) or [])
    write_study_figures(tmp_path, study)
    return {name: figure.axes[0] for name, figure in kept.items()}


@pytest.fixture
def drawn(study, tmp_path, monkeypatch):
    return of(study, tmp_path, monkeypatch)


def test_there_is_a_figure_for_all_that_is_known(drawn):
    assert list(drawn) == ["curves", "cost-bytes", "cost-seconds", "gains", "ranks"]


def test_a_curve_is_the_mean_over_seeds_and_its_band_ends_at_the_lowest_and_the_highest(drawn):
    axes = drawn["curves"]
    assert [line.get_label() for line in axes.lines] == list(LEVEL)
    for line, band, level in zip(axes.lines, axes.collections, LEVEL.values(), strict=True):
        means = 100 * (level * np.array([0.5, 0.8, 1]) + 0.01 * np.mean([1, 2, 4]))
        np.testing.assert_allclose(line.get_ydata(), means)
        assert list(line.get_xdata()) == [0, 5, 10]
        corners = band.get_paths()[0].vertices
        at_end = corners[corners[:, 0] == 10][:, 1]
        np.testing.assert_allclose([at_end.min(), at_end.max()], [100 * level + 1, 100 * level + 4])


@pytest.mark.parametrize(("name", "cost"), [("cost-bytes", 100), ("cost-seconds", 7)])
def test_costs_are_marks_with_a_line_from_the_lowest_seed_to_the_highest(drawn, name, cost):
    lines = drawn[name].lines
    for spread, mark, level in zip(lines[::2], lines[1::2], LEVEL.values(), strict=True):
        np.testing.assert_allclose(spread.get_xdata(), [cost * level] * 2)
        np.testing.assert_allclose(spread.get_ydata(), [100 * level - 2, 100 * level + 5])
        np.testing.assert_allclose(mark.get_xdata(), [cost * level])
        np.testing.assert_allclose(mark.get_ydata(), [100 * level + 1])


def test_gains_have_a_mark_a_client_and_those_worse_off_stand_out(drawn, study):
    axes = drawn["gains"]
    for row, (found, marks) in enumerate(zip(study.entries, axes.collections, strict=True)):
        gains = 100 * np.array([*found.gain.values()])
        segments = np.array(marks.get_segments())
        np.testing.assert_allclose(segments[:, 0, 0], gains)
        np.testing.assert_allclose(segments[:, :, 1], [[row - 0.3, row + 0.3]] * CLIENTS)
        colours = [to_hex(colour) for colour in marks.get_colors()]
        assert colours == [WORSE if gain < 0 else PALETTE[row] for gain in gains]
    means = [line for line in axes.lines if line.get_marker() not in ("None", "")]
    for found, mean in zip(study.entries, means, strict=True):
        assert mean.get_xdata()[0] == pytest.approx(100 * np.mean([*found.gain.values()]))


def test_ranks_are_in_order_and_a_bar_reaches_over_those_that_do_not_differ(drawn, study):
    axes, found = drawn["ranks"], study.ranks(0)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", "c", "d"]
    np.testing.assert_allclose([line.get_xdata()[0] for line in axes.lines], found.mean)
    assert found.alike == ((1, 2),)
    bar, scale = (np.array(lines.get_segments()) for lines in axes.collections)
    assert bar[0][:, 1].tolist() == [0.75, 2.25]
    assert bar[0][0, 0] > max(found.mean)
    np.testing.assert_allclose(scale[0][:, 0], [1, 1 + found.difference])


def small(**changes) -> Study:
    return Study(what="Sweep", title="t", line="", notes=(), settings=(), columns=(), **changes)


def test_a_setting_has_a_line_for_each_method_in_the_order_of_its_values(tmp_path, monkeypatch):
    points = [("a", 0.1), ("a", 0.001), ("b", 0.1), ("a", 0.01), ("b", 0.01)]
    entries = tuple(
        Entry(name=name, series=name, label="base", point={"lr": lr, "model": "mlp"},
              by_seed=(lr, lr + 0.2))
        for name, lr in points
    )  # fmt: skip
    axes = of(small(entries=entries, axes=("lr", "model")), tmp_path, monkeypatch)
    assert set(axes) == {"setting-lr", "setting-model"}
    one, other = axes["setting-lr"].lines
    assert (one.get_label(), other.get_label()) == ("a · model mlp · base", "b · model mlp · base")
    assert list(one.get_xdata()) == [0.001, 0.01, 0.1]
    np.testing.assert_allclose(one.get_ydata(), [10.1, 11, 20])
    corners = axes["setting-lr"].collections[0].get_paths()[0].vertices
    at_end = corners[corners[:, 0] == 0.1][:, 1]
    np.testing.assert_allclose([at_end.min(), at_end.max()], [10, 30])
    assert axes["setting-lr"].get_xscale() == "log"
    assert [text.get_text() for text in axes["setting-lr"].get_xticklabels()] == [
        "0.1", "0.001", "0.01"]  # fmt: skip
    words = axes["setting-model"]
    assert len(words.lines) == 5  # at each learning rate
    assert [text.get_text() for text in words.get_xticklabels()] == ["mlp"]


def test_published_is_hollow_beside_measured_with_its_seeds(tmp_path, monkeypatch):
    entries = (
        Entry(name="a", by_seed=(0.5, 0.7), published=0.65),
        Entry(name="b", by_seed=(0.4,)),
        Entry(name="c", by_seed=(0.8,), published=0.75),
    )
    axes = of(small(entries=entries), tmp_path, monkeypatch)["published"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "c"]
    marks = [(line.get_markerfacecolor() == "none", line.get_xdata()[0], line.get_ydata()[0])
             for line in axes.lines]  # fmt: skip
    assert marks == [
        (False, pytest.approx(60), 0), (True, pytest.approx(65), 0),
        (False, pytest.approx(80), 1), (True, pytest.approx(75), 1),
    ]  # fmt: skip
    spread = np.array(axes.collections[0].get_segments())[0]
    np.testing.assert_allclose(spread[:, 0], [50, 70])


def test_tasks_are_a_picture_for_each_row_with_a_number_in_each_cell(tmp_path, monkeypatch):
    matrix = ((0.5, None), (0.25, 1.0))
    entries = (Entry(name="RACL", label="mas-racl: personal", matrix=matrix), Entry(name="x"))
    found = of(small(entries=entries), tmp_path, monkeypatch)
    assert list(found) == ["tasks-RACL-mas-racl-personal"]
    axes = found["tasks-RACL-mas-racl-personal"]
    cells = {text.get_position(): text.get_text() for text in axes.texts if text.get_text()}
    numbers = {place: text for place, text in cells.items() if text[0].isdigit()}
    assert numbers == {(0, 0): "50.0", (0, 1): "25.0", (1, 1): "100.0"}
    assert [text.get_text() for text in axes.get_yticklabels()] == ["after 1", "after 2"]
