"""The groups of a run in its folder, on its page and in its figures."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from made_up import evaluation, evaluations, losses
from rich.console import Console

from fedadapt.config import RunConfig
from fedadapt.simulations.report import layer_map as layer_maps
from fedadapt.simulations.report.client_gains import MOST, client_gains, panels_of
from fedadapt.simulations.report.figures import convergence
from fedadapt.simulations.report.group_figures import distance_matrix
from fedadapt.simulations.report.group_section import group_sections
from fedadapt.simulations.report.page.rendering import MISSING
from fedadapt.simulations.report.report import write_report
from fedadapt.simulations.report.style import to_svg
from fedadapt.simulations.results.accuracies import last_accuracies
from fedadapt.simulations.results.groups import FoundGroups, as_text, read_groups
from fedadapt.simulations.results.run_folder import RunFolder
from fedadapt.simulations.run import simulate

SETTINGS = RunConfig(
    benchmark="digits-classes",
    clients=10,
    strategy="pfa",
    strategy_args="federated_rounds=2",
    rounds=4,
    local_epochs=1,
    evaluate_every=1,
    adapt="none,fine-tune",
    adapt_args="fine-tune.epochs=1",
    global_test="none",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with groups, and what it said to the console."""
    folder = tmp_path_factory.mktemp("pfa") / "run"
    folder.mkdir()
    with open(folder.parent / "said", "w+") as file:
        simulate(SETTINGS, folder, console=Console(file=file, width=200))
    return folder


def found(labels, kinds, vectors=None, **metadata):
    """Groups of clients 10, 11, ..."""
    given = {
        "round": 3,
        "quality": 0.5,
        "clients": list(range(10, 10 + len(labels))),
        "labels": labels,
        "kinds": kinds,
        "adjusted_rand_index": 1.0,
        "vectors": [[]] * len(labels) if vectors is None else vectors,
    }
    return FoundGroups.parse(json.dumps(given | metadata))


FOUR = {"labels": [1, 0, 1, 0], "kinds": ["b", "a", "b", "a"], "vectors": [[3], [0], [3.5], [0.25]]}


def test_a_run_with_groups_tells_them_in_its_folder_summary_console_and_page(finished):
    groups = read_groups(finished)
    assert groups.round == 3
    assert groups.vectors.shape == (10, 30)
    summary = json.loads((finished / "summary.json").read_text("utf-8"))
    assert summary["groups"]["num_groups"] == groups.num_groups
    assert summary["groups"]["adjusted_rand_index"] == pytest.approx(groups.agreement, abs=1e-6)
    assert as_text(groups) in (finished.parent / "said").read_text()
    page = (finished / "report.html").read_text("utf-8")
    assert f"{as_text(groups)}." in page
    assert "not measured yet; fedadapt report" in page  # a run is not held up by it
    assert "not complete" not in page


def test_the_report_measures_the_layers_once_and_keeps_them(finished, monkeypatch):
    page = write_report(finished).read_text("utf-8")
    assert "Left out" not in page
    assert "10 channels" in page
    monkeypatch.setattr(layer_maps, "assemble", None)  # the data are gone
    assert write_report(finished).read_text("utf-8") == page


def test_mean_distances_between_groups_stand_behind_the_figure():
    """Group 1 has clients at 0 and 0.25, group 2 at 3 and 3.5: by hand."""
    [section] = group_sections(None, found(**FOUR), measure=False)
    [table] = section.numbers
    assert table.summary == "the numbers: Euclidean distance between clients"
    assert table.heads == ("mean distance", "group 1", "group 2")
    assert table.lines == (("group 1", "0.25", "3.125"), ("group 2", "3.125", "0.5"))
    alone = found([0, 1], ["a", "b"], [[1.0], [3.0]])
    [section] = group_sections(None, alone, measure=False)
    assert section.numbers[0].lines == (("group 1", MISSING, "2"), ("group 2", "2", MISSING))


def test_distances_by_layer_stand_behind_the_map(finished):
    run = RunFolder.read(finished)
    mapped = layer_maps.layer_map(run)
    *_, section = group_sections(run, read_groups(finished), measure=False)
    [table] = section.numbers
    assert table.heads[2:-1] == tuple(f"client {d}" for d in mapped.clients)
    for line, name, distances, ratio in zip(
        table.lines, mapped.layers, mapped.distances[-1], mapped.separation[-1], strict=True
    ):
        assert line[0] == name
        assert [float(text) for text in line[2:-1]] == pytest.approx(distances, rel=1e-3, abs=1e-9)
        assert line[-1] == (MISSING if ratio is None else f"{ratio:.2f}")


def test_the_matrix_is_sorted_by_group_then_kind_then_client_and_groups_are_framed():
    groups = found([1, 0, 1, 0, 1], ["a", "b", "c", "b", "a"], [[3], [0], [5], [0.5], [3.25]])
    left = distance_matrix(groups).axes[0]
    (image,) = left.images
    drawn = [0.0, 0.5, 3.0, 3.25, 5.0]  # clients 11, 13, then 10, 14 of kind a, then 12
    np.testing.assert_allclose(image.get_array(), np.abs(np.subtract.outer(drawn, drawn)))
    assert [t.get_text() for t in left.get_xticklabels()] == ["11", "13", "10", "14", "12"]
    assert [t.get_text() for t in left.get_yticklabels()] == ["b", "a", "c"]
    assert left.get_yticks().tolist() == [0.5, 2.5, 4]
    frames = [(p.get_xy(), p.get_width(), p.get_height()) for p in left.patches]
    assert frames == [((-0.5, -0.5), 2, 2), ((1.5, 1.5), 3, 3)]


ODD = {
    "one client": {"labels": [0], "kinds": ["a"], "vectors": [[0.5, 1]]},
    "all alike": {"labels": [0] * 5, "kinds": ["a"] * 5, "vectors": [[0.5]] * 5},
    "every client a group": {"labels": [0, 1, 2], "kinds": list("abc"), "vectors": [[0], [1], [2]]},
    "odd names": {"labels": [0, 1], "kinds": ["$\\x{", "<i>" * 20], "vectors": [[0], [1]]},
    "no names": {"labels": [0, 1], "kinds": ["", ""], "vectors": [[0], [1]]},
}


@pytest.mark.parametrize("case", ODD)
def test_odd_groups_have_a_figure(case):
    assert "<svg" in to_svg(distance_matrix(found(**ODD[case])), "x")


def test_the_matrix_of_many_clients_stays_small():
    count = 3000
    vectors = np.random.default_rng(1).random((count, 2)).round(3).tolist()
    groups = found(
        [d % 50 for d in range(count)], [f"kind {d % 50}" for d in range(count)], vectors
    )
    assert len(to_svg(distance_matrix(groups), "x")) < 3_000_000


def test_groups_are_told_in_words_and_by_kind():
    groups = found([0, 0, 0, 1], ["a", "b", "b", "c"], adjusted_rand_index=0.4)
    assert [tuple(row) for row in groups.rows] == [
        (1, 3, (("b", 2), ("a", 1))),
        (2, 1, (("c", 1),)),
    ]
    assert as_text(groups) == (
        "2 groups of 4 clients, found by sparsity, from round 3 on; silhouette 0.50; "
        "adjusted Rand index 0.40 against the kinds"
    )
    one_kind = found([0, 1], ["a", "a"], quality=None, method="random")
    assert as_text(one_kind) == "2 groups of 2 clients, drawn at random, from round 3 on"


@pytest.mark.parametrize(
    "change",
    [
        {"labels": [0]},
        {"kinds": ["a"]},
        {"vectors": [[1], [1, 2]]},
        {"clients": []},
        {"round": "x"},
    ],
)
def test_groups_that_do_not_fit_together_are_damaged(tmp_path, change):
    metadata = {
        "round": 1,
        "quality": None,
        "clients": [0, 1],
        "labels": [0, 1],
        "vectors": [[], []],
    }
    assert FoundGroups.parse(json.dumps(metadata)).num_groups == 2
    with pytest.raises(ValueError, match=r".") as caught:
        FoundGroups.parse(json.dumps(metadata | change))
    assert not isinstance(caught.value, json.JSONDecodeError)
    (tmp_path / "groups.json").write_text(json.dumps(metadata | change))
    (tmp_path / "manifest.json").write_text("{}")
    assert "groups.json is damaged" in RunFolder.read(tmp_path).missing


def test_random_groups_have_a_table_and_no_distances(finished, tmp_path):
    groups = found([0, 1, 0], ["a", "b", "a"], method="random", quality=None)
    metadata = {
        "round": 3, "method": "random", "quality": None, "clients": groups.clients.tolist(),
        "labels": [0, 1, 0], "kinds": ["a", "b", "a"], "vectors": [[], [], []],
    }  # fmt: skip
    (tmp_path / "groups.json").write_text(json.dumps(metadata))
    (tmp_path / "config.toml").write_bytes((finished / "config.toml").read_bytes())
    page = write_report(tmp_path).read_text("utf-8")
    assert "drawn at random" in page
    assert "How different clients look" not in page
    assert "Clients seen from each layer" not in page


@pytest.mark.parametrize(
    ("more", "figures", "layers"),
    [
        ({}, 0, False),
        ({"distances": [[0, 50, 4], [50, 0, 51], [4, 51, 0]], "unit": "angle, degrees"}, 1, False),
        ({"vectors": [[0.1], [0.9], [0.2]], "layer": "first"}, 1, True),
    ],
    ids=["members alone", "distances", "vectors of a layer"],
)
def test_a_page_shows_of_any_method_what_it_tells(finished, tmp_path, more, figures, layers):
    metadata = {
        "round": 1, "quality": None, "clients": [4, 5, 6], "labels": [0, 1, 0],
        "kinds": ["a", "b", "a"], "found_by": "principal angles",
    }  # fmt: skip
    (tmp_path / "groups.json").write_text(json.dumps(metadata | more))
    (tmp_path / "config.toml").write_bytes((finished / "config.toml").read_bytes())
    page = write_report(tmp_path, measure=False).read_text("utf-8")
    assert "2 groups of 3 clients, found by principal angles, from round 1 on" in page
    assert page.count("How different clients look") == figures
    assert ("angle, degrees" in page) == ("unit" in more)
    assert ("Clients seen from each layer" in page) == layers


def test_distances_that_are_told_are_those_drawn():
    told = found([0, 1, 0], ["a", "b", "a"], distances=[[0, 5, 4], [5, 0, 6], [4, 6, 0]])
    assert told.distances(np.array([2, 0])).tolist() == [[0, 4], [4, 0]]
    vectors = found([0, 1], ["a", "b"], [[0.0, 3.0], [4.0, 0.0]])
    assert vectors.distances(np.array([0, 1])).tolist() == [[0, 5], [5, 0]]
    with pytest.raises(ValueError, match="reshape"):
        found([0, 1], ["a", "b"], distances=[[0, 1]])


def curves(figure):
    return {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}


def test_personal_models_go_on_from_the_base_where_groups_were_made():
    rows = [evaluation(d, 0.2 + d / 10, round=r) for d in (0, 1) for r in (0, 1, 2, 3, 4)]
    rows += [evaluation(d, 0.6, "personal", round=r) for d in (0, 1) for r in (3, 4)]
    rows += [evaluation(0, 0.9, "personal", round=4, split="adapt")]
    rows += [evaluation(0, 0.9, "personal+fine-tune", round=4, epoch=5)]
    final = last_accuracies(rows)
    drawn = curves(convergence(rows, losses(4), final, found(**FOUR)))
    assert drawn["personal"] == [[2, pytest.approx(25)], [3, 60], [4, 60]]
    assert [point[0] for point in drawn["base"]] == [0, 1, 2, 3, 4]
    lines = convergence(rows, losses(4), final, found(**FOUR)).axes[0].lines
    assert any(list(line.get_xdata()) == [2, 2] for line in lines)
    assert "personal" in curves(convergence(rows, losses(4), final))  # at the end, a mark
    assert len(curves(convergence(rows, losses(4), final))["personal"]) == 1


def test_regrouped_personal_models_keep_their_whole_curve():
    rows = [evaluation(0, 0.5, round=r) for r in range(5)]
    rows += [evaluation(0, 0.7, "personal", round=r) for r in (1, 2, 3, 4)]
    drawn = curves(convergence(rows, [], last_accuracies(rows), found(**FOUR)))
    assert drawn["personal"] == [[1, 70], [2, 70], [3, 70], [4, 70]]


def test_gains_of_all_methods_stand_side_by_side_for_each_client():
    labels = ("base+kd", "personal", "personal+kd")
    gains = {"base+kd": [0.1, 0.2], "personal": [0.3, -0.1], "personal+kd": [0.0, 0.4]}
    rows = [evaluation(d, 0.5, kind="ba"[d]) for d in (0, 1)]
    rows += [evaluation(d, 0.5 + gains[x][d], x, kind="ba"[d]) for x in labels for d in (0, 1)]
    assert [some for _, some in panels_of(("base", *labels))] == [
        ["base+kd", "personal"],
        ["personal+kd"],
    ]
    above, below = client_gains(last_accuracies(rows)).axes
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in above.containers}
    assert [h for bars in above.containers for h in [b.get_height() for b in bars]] == (
        pytest.approx([20, -10, 10, 30])  # client 1, of kind a, before client 0
    )
    assert set(heights) >= {"base+kd", "personal"}
    assert [t.get_text() for t in above.get_xticklabels()] == ["1", "0"]
    assert above.get_ylim() == below.get_ylim()


def test_there_is_no_picture_of_too_many_clients_or_of_the_base_alone():
    assert client_gains(last_accuracies(evaluations(MOST + 1))) is None
    assert client_gains(last_accuracies(evaluations(MOST))) is not None
    assert client_gains(last_accuracies(evaluations(3, adaptations=("none",)))) is None
    assert client_gains(last_accuracies([])) is None


def test_ids_do_not_collide_on_a_page_with_groups(finished):
    page = (finished / "report.html").read_text("utf-8")
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert Path(finished / "groups.json").is_file()
