"""Which runs a table consists of, and where its rows are found in them."""

from pathlib import Path

import pytest

from fedadapt.config import parse_arguments
from fedadapt.errors import InputError
from fedadapt.reproductions.dua.command import experiment
from fedadapt.reproductions.dua.plan import EXPERIMENTS
from fedadapt.strategies.registry import find


def planned(name: str = "dua-digits", **given: object):
    wanted, folder = experiment(name, given)
    return wanted, list(wanted.runs(folder))


def test_a_run_of_racl_shows_imm_too():
    wanted, runs = planned(seeds="7")
    assert [run.strategy for run in runs] == ["mas-racl", "fim-racl"]
    assert [(r.method, r.strategy, r.label) for r in wanted.rows] == [
        ("MAS-RACL", "mas-racl", "personal"),
        ("MAS-IMM", "mas-racl", "base"),
        ("FIM-RACL", "fim-racl", "personal"),
        ("FIM-IMM", "fim-racl", "base"),
    ]


def test_table_2_is_a_part_of_table_3_and_of_its_runs():
    _, two = planned(table="2")
    _, three = planned(table="3")
    assert two == three


def test_table_4_has_every_adaptation_on_every_method_and_task_experts_fine_tuned():
    wanted, runs = planned("dua-cifar10", seeds="7")
    assert len(wanted.rows) == 8 * 3 + 1
    adapt = {run.strategy: run.config.adapt for run in runs}
    assert adapt.pop("task-experts") == "none,fine-tune"
    assert set(adapt.values()) == {"none,adabn,adabn-s"}
    [experts] = [row for row in wanted.rows if row.strategy == "task-experts"]
    assert experts.label == "base+fine-tune"


def test_every_row_is_of_a_run_that_serves_it():
    for name in EXPERIMENTS:
        for table in "234":
            wanted, runs = planned(name, table=table)
            adapted = {run.strategy: run.config.adapt.split(",") for run in runs}
            for row in wanted.rows:
                model, _, adaptation = row.label.partition("+")
                assert model == "base" or find(row.strategy).personal
                assert (adaptation or "none") in adapted[row.strategy]


def test_seeds_and_draws_multiply_and_share_experts():
    _, runs = planned(seeds="7,8", draws="1,2,3", epochs=2, lr=0.02)
    assert len({run.config.out for run in runs}) == len(runs) == 2 * 3 * 2
    given = [parse_arguments(run.config.strategy_args, "") for run in runs]
    assert {g.get("draw", 1) for g in given} == {1, 2, 3}
    assert {(g["preset"], g["epochs"], g["lr"]) for g in given} == {("paper", 2, 0.02)}
    assert len({g["expert_folder"] for g in given}) == 1


def test_a_folder_of_experts_may_have_blanks():
    _, runs = planned(experts="my experts")
    assert parse_arguments(runs[0].config.strategy_args, "")["expert_folder"] == "my experts"


def test_defaults_are_the_papers():
    numbers, _ = planned("dua-numbers")
    assert (numbers.seeds, numbers.draws, numbers.base.clients) == ((7, 8, 9), (1,), 2)
    scenes, _ = planned("dua-catprior", table="4")
    assert (scenes.base.model, scenes.base.weights) == ("vgg11-bn-fc", "imagenet")
    assert (scenes.draws, scenes.base.rounds) == ((1, 2, 3, 4, 5), 4)
    assert len(scenes.published) == 25


def test_a_network_without_imagenet_weights_starts_without():
    wanted, _ = planned("dua-cifar10", model="mobilenetv2-0.25")
    assert wanted.base.weights == ""
    assert wanted.published == {}


def test_the_released_code_does_not_resize_what_it_spoils():
    assert planned("dua-transprior", preset="released")[0].base.shift == "native-corruptions:3"
    assert planned("dua-transprior")[0].base.shift == ""


def test_presets_and_networks_have_folders_of_their_own():
    folders = {
        experiment("dua-digits", g)[1] for g in ({}, {"preset": "released"}, {"model": "cnn"})
    }
    assert len(folders) == 3
    assert experiment("dua-digits", {"out": Path("here")})[0].experts == Path("here/experts")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"table": "5"}, "table: unknown '5'; known: 1, 2, 3, 4"),
        ({"seeds": "7,7"}, "seeds: '7,7'; give different whole numbers"),
        ({"draws": "x"}, "draws: 'x'; give different whole numbers"),
    ],
)
def test_what_cannot_be_planned_is_one_line(given, said):
    with pytest.raises(InputError, match=said) as caught:
        planned(**given)
    assert "\n" not in str(caught.value)
