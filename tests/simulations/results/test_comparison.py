import csv
import io
import math

import pytest
from made_up import evaluation
from rich.console import Console

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.records import CommunicationEntry
from fedadapt.simulations.results.comparison import comparison
from fedadapt.simulations.results.summary import summarise
from fedadapt.simulations.results.table_formats import (
    escape_latex,
    plus_minus,
    to_csv,
    to_latex,
    to_markdown,
    write_comparison,
)
from fedadapt.simulations.results.terminal_table import TerminalTable, as_lines


def run(base, tuned, *, manifest="m", unseen=None, **config):
    rows = [evaluation(0, base), evaluation(0, tuned, "base+fine-tune")]
    if unseen is not None:
        rows.append(evaluation(1, unseen, seen=False))
    return summarise(RunConfig(**config), manifest, rows, [], [], 1.0)


def cells(table, line, key):
    place = [column.key for column in table.columns].index(key)
    return table.lines[line].cells[place]


def test_mean_and_spread_over_seeds_are_those_computed_by_hand():
    runs = [run(a, a + 0.1, seed=s) for s, a in ((1, 0.5), (2, 0.6), (3, 0.8))]
    table = comparison(runs)
    assert [(line.strategy, line.label, line.num_seeds) for line in table.lines] == [
        ("fedavg", "base", 3),
        ("fedavg", "base+fine-tune", 3),
    ]
    cell = cells(table, 0, "mean")
    assert cell.mean == pytest.approx(1.9 / 3)
    deviations = [a - 1.9 / 3 for a in (0.5, 0.6, 0.8)]
    assert cell.spread == pytest.approx(math.sqrt(sum(d**2 for d in deviations) / 2))
    assert cells(table, 1, "gain").mean == pytest.approx(0.1)
    assert table.notes == ()


def test_a_single_seed_has_no_spread():
    table = comparison([run(0.5, 0.6)])
    assert cells(table, 0, "mean").spread is None
    assert "±" not in to_markdown(table)


def test_the_best_of_a_column_is_bold_and_equals_share_it():
    table = comparison([run(0.5, 0.9), run(0.7, 0.9, strategy="fedprox")])
    assert [line.cells[0].best for line in table.lines] == [False, True, False, True]
    assert not any(cells(table, i, "share_worse").best for i in range(4))
    assert "**90.00**" in to_markdown(table)
    assert r"$\mathbf{90.00}$" in to_latex(table)


def test_different_clients_are_said_loudly():
    same = [run(0.5, 0.6), run(0.5, 0.6, strategy="fedprox")]
    assert comparison(same).notes == ()
    other = comparison([same[0], run(0.5, 0.6, strategy="fedprox", manifest="other")])
    assert other.notes[0].startswith("NOT the same clients: ")
    for text in (to_markdown(other), to_latex(other), printed(other)):
        assert "NOT the same clients" in text


def test_a_log_has_the_same_table_in_lines_without_colours():
    lines = as_lines(comparison([run(0.5, 0.6), run(0.25, 0.7, strategy="fedprox")]))
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert all(number in text for number in ("50.00", "25.00", "fedprox"))


def test_seeds_may_have_clients_of_their_own():
    assert comparison([run(0.5, 0.6, seed=1), run(0.5, 0.6, seed=2, manifest="n")]).notes == ()


def test_uneven_seeds_and_settings_are_noted():
    runs = [run(0.5, 0.6), run(0.5, 0.6, strategy="fedprox", seed=2, rounds=7)]
    notes = comparison(runs).notes
    assert notes == ("Rows rest on different seeds (fedavg rounds=20: 1; fedprox rounds=7: 2)",)


def test_the_same_run_twice_is_refused():
    with pytest.raises(InputError, match="two runs of fedavg with seed 1"):
        comparison([run(0.5, 0.6), run(0.5, 0.6)])


def test_runs_that_differ_in_arguments_are_rows_of_their_own():
    runs = [run(0.5, 0.6, strategy="fedprox", strategy_args=f"mu={mu}") for mu in (0.1, 1)]
    names = [line.strategy for line in comparison(runs).lines]
    assert names == ["fedprox (mu=0.1)"] * 2 + ["fedprox (mu=1)"] * 2


def test_settings_in_which_runs_differ_are_columns():
    """Also those that one run has and the other left at their defaults."""
    runs = [
        run(0.5, 0.6),
        run(0.5, 0.7, lr=0.01),
        run(0.6, 0.7, lr=0.01, seed=2),
        run(0.5, 0.6, model="cnn", lr=0.01),
    ]
    table = comparison(runs)
    assert table.settings == ("model", "lr")
    assert [(line.label, *line.settings, line.num_seeds) for line in table.lines] == [
        ("base", "mlp", "0.05", 1), ("base+fine-tune", "mlp", "0.05", 1),
        ("base", "mlp", "0.01", 2), ("base+fine-tune", "mlp", "0.01", 2),
        ("base", "cnn", "0.01", 1), ("base+fine-tune", "cnn", "0.01", 1),
    ]  # fmt: skip
    assert "| strategy | client model | model | lr | mean % |" in to_markdown(table)
    assert r"fedavg & base & mlp & 0.05 & $" in to_latex(table)
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [row["lr"] for row in rows] == ["0.05", "0.05", "0.01", "0.01", "0.01", "0.01"]
    assert "0.01" in printed(table)


def test_settings_of_what_is_recorded_and_where_it_is_run_tell_no_runs_apart():
    table = comparison([run(0.5, 0.6, seed=1), run(0.5, 0.6, seed=2, curves=True, workers=3)])
    assert table.settings == ()
    assert {line.num_seeds for line in table.lines} == {2}


def test_a_summary_of_an_earlier_version_has_the_settings_that_it_names():
    old = run(0.5, 0.6, lr=0.1)
    del old["settings"]
    assert comparison([old, run(0.5, 0.6, rounds=7)]).settings == ("rounds",)


def test_training_alone_is_one_row_for_runs_of_the_same_settings():
    def alone(value, **config):
        rows = [evaluation(0, 0.5), evaluation(0, value, "local")]
        return summarise(RunConfig(**config), "m", rows, [], [], 1.0)

    runs = [alone(0.3, lr=0.1), alone(0.3, lr=0.1, strategy="ditto"), alone(0.2, lr=0.2)]
    runs += [alone(0.4, lr=0.3), alone(0.45, lr=0.3, strategy="ditto")]
    lines = comparison(runs).lines
    assert [(n.strategy, *n.settings) for n in lines if n.label == "local"] == [
        ("no federation", "0.1"), ("no federation", "0.2"), ("fedavg", "0.3"), ("ditto", "0.3"),
    ]  # fmt: skip


def test_unseen_clients_have_a_column_only_where_there_are_some():
    assert "unseen" not in {c.key for c in comparison([run(0.5, 0.6)]).columns}
    table = comparison([run(0.5, 0.6, unseen=0.25)])
    assert cells(table, 0, "unseen").mean == 0.25
    assert cells(table, 1, "unseen").mean is None


@pytest.mark.parametrize("summaries", [[], [{"strategy": "fedavg"}]])
def test_nothing_to_compare_is_one_line(summaries):
    with pytest.raises(InputError, match="compare: "):
        comparison(summaries)


def test_latex_prints_every_sign_as_it_is():
    assert escape_latex(r"a_b & 50% $x^2$ #1 {~} \n") == (
        r"a\_b \& 50\% \$x\textasciicircum{}2\$ \#1 \{\textasciitilde{}\} \textbackslash{}n"
    )


def test_latex_has_booktabs_rules_and_as_many_cells_as_columns():
    table = comparison([run(0.5, 0.6, strategy="my_module:A&B"), run(0.5, 0.7)])
    text = to_latex(table)
    assert r"my\_module:A\&B" in text
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}") == 1
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in body} == {len(table.columns) + 1}


def test_markdown_cells_cannot_break_the_table():
    table = comparison([run(0.5, 0.6, strategy="a|b<i>*c*")])
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(table.columns) + 3}
    assert r"a\|b\<i\>\*c\*" in lines[2]


def test_csv_gives_the_numbers_back():
    table = comparison([run(0.5, 0.6, seed=1), run(0.7, 0.6, seed=2)])
    first, second = csv.DictReader(io.StringIO(to_csv(table)))
    assert (first["strategy"], first["label"], first["seeds"]) == ("fedavg", "base", "2")
    assert float(first["mean"]) == 0.6
    assert float(first["mean_std"]) == pytest.approx(0.141421)
    assert float(second["share_worse"]) == 0.5
    assert "," not in first["mb_up"]


def printed(table, width=200):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(TerminalTable(table))
    return console.export_text()


def test_the_terminal_shows_names_as_they_are():
    text = printed(comparison([run(0.5, 0.6, strategy="[bold]x[/bold]")]))
    assert "[bold]x[/bold]" in text
    assert "60.00" in text


def test_a_run_fits_a_terminal_of_80_columns_with_every_number_whole():
    table = comparison([run(0.5, 1.0, clients=100)])
    text = printed(table, width=80)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "100.00" in text
    assert "fedavg, benchmark digits-classes" in text


def test_personal_models_beside_local_fit_80_columns_too():
    """The widest table of a run: a gain over local as well, a global test, the longest name."""
    labels = {"local": 0.625, "base": 0.1, "base+fine-tune": 1.0, "personal+fine-tune": 0.7}
    rows = [evaluation(0, accuracy, label) for label, accuracy in labels.items()]
    rows.append(evaluation(0, 0.1, split="global"))
    entry = CommunicationEntry(1, 0, "train", "accepted", "", 178_900_000, 178_900_000, 0.0)
    table = comparison([summarise(RunConfig(), "m", rows, [entry], [], 1.0)])
    lines = printed(table, width=80).splitlines()
    assert max(map(len, lines)) <= 80
    for line in lines:
        if line.startswith(("base", "personal")):
            assert line.split()[-2:] == ["178.9", "178.9"], line


def test_files_hold_what_the_renderers_give(tmp_path):
    table = comparison([run(0.5, 0.6)])
    paths = write_comparison(tmp_path, table)
    assert [p.name for p in paths] == ["comparison.md", "comparison.tex", "comparison.csv"]
    assert [p.read_text("utf-8") for p in paths] == [
        to_markdown(table),
        to_latex(table),
        to_csv(table),
    ]


def test_spreads_wrap_below_their_means_and_are_never_cut():
    runs = [
        run(a, 1.0, seed=s, strategy=n)
        for s, a in ((1, 0.5), (2, 0.6))
        for n in ("fedavg", "fedprox")
    ]
    for summary in runs:
        summary |= {"global_test": {"base": 0.7}, "bytes_down": 987_654_321}
    text = printed(comparison(runs), width=80)
    assert "…" not in text
    for number in ("55.00", "±7.07", "100.00", "±0.00", "fedprox", "987.7"):
        assert number in text


def alone(local, base=0.5, tuned=0.6, *, missing=False, **config):
    rows = [evaluation(d, base) for d in range(2)]
    rows += [evaluation(d, local, "local") for d in range(2)]
    rows += [evaluation(d, tuned, "base+fine-tune") for d in range(1 if missing else 2)]
    entry = CommunicationEntry(1, 0, "train", "accepted", "", 10**6, 10**6, 0.0)
    return summarise(RunConfig(**config), "m", rows, [entry], [], 1.0)


def test_training_alone_is_one_row_for_all_strategies_and_nothing_travels_for_it():
    table = comparison([alone(0.7, tuned=0.8), alone(0.7, base=0.4, strategy="fedprox")])
    assert [(line.strategy, line.label) for line in table.lines] == [
        ("no federation", "local"), ("fedavg", "base"), ("fedavg", "base+fine-tune"),
        ("fedprox", "base"), ("fedprox", "base+fine-tune"),
    ]  # fmt: skip
    assert cells(table, 0, "gain").mean is None  # over which of the two?
    assert [cells(table, i, "mb_up").mean for i in (0, 1)] == [0, 10**6]
    assert cells(table, 2, "over_local").mean == pytest.approx(0.1)
    assert cells(table, 4, "over_local").mean == pytest.approx(-0.1)


def test_strategies_that_differ_in_what_training_alone_gives_keep_their_rows():
    table = comparison([alone(0.7), alone(0.6, strategy="fedprox")])
    found = [(line.strategy, line.label) for line in table.lines if line.label == "local"]
    assert found == [("fedavg", "local"), ("fedprox", "local")]


def test_a_run_alone_has_training_alone_as_its_first_row():
    assert comparison([alone(0.7)]).lines[0].label == "local"


def test_the_number_of_clients_is_a_column_where_rows_differ_in_it():
    assert "num_clients" not in {c.key for c in comparison([alone(0.7)]).columns}
    table = comparison([alone(0.7, missing=True)])
    assert [cells(table, i, "num_clients").mean for i in range(3)] == [2, 2, 1]


def words_of(table) -> list[str]:
    """Every number of a table as it is printed, spreads apart."""
    cells = [
        (cell, column)
        for line in table.lines
        for cell, column in zip(line.cells, table.columns, strict=True)
    ]
    return [word for pair in cells for word in plus_minus(*pair, "±").split() if word != "-"]


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_no_number_is_cut_or_lost_at_any_width(width):
    """Traffic of five figures, a spread of two, and names that differ in their arguments."""
    entry = CommunicationEntry(1, 0, "train", "accepted", "", 17_890_000_000, 1_787_900_000, 0.0)
    labels = {"local": 0.625, "base": 0.1, "base+fine-tune": 1.0, "personal+fine-tune": 0.7}
    summaries = []
    for seed, shift in ((1, 0.0), (2, -0.05)):
        for strategy in ("pfa", "mas-racl with-a-long-argument=0.125"):
            rows = [evaluation(0, max(0, a + shift), label) for label, a in labels.items()]
            rows.append(evaluation(0, 0.1 + shift, split="global"))
            config = RunConfig(seed=seed)
            made = summarise(config, f"m{seed}", rows, [entry], [], 1.0)
            summaries.append(made | {"strategy": strategy})
    table = comparison(summaries)
    text = printed(table, width=width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    shown = text.split()
    for word in words_of(table):
        assert word in shown or f"{word}" in text, word
    assert "17890.0" in text


def test_a_column_that_says_the_same_in_each_row_is_said_once():
    text = printed(comparison([run(0.5, 0.6)]), width=80)
    head = text.splitlines()[1]
    assert "MB" not in head
    assert "MB up: 0.0 in each row" in " ".join(text.split())


def test_columns_that_do_not_fit_stand_in_a_second_table_with_the_same_names():
    table = comparison([run(0.5, 0.6), run(0.4, 0.7, strategy="fedprox")])
    narrow, wide = printed(table, width=36), printed(table, width=200)
    assert narrow.count("client model") > wide.count("client model") == 1
    assert narrow.count("fedprox") == narrow.count("client model")
