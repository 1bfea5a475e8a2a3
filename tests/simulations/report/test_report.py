import json
import random
import re
import shutil

import numpy as np
import pytest
from made_up import ODD_RUNS, communication, evaluation, evaluations, losses
from pages import ADAPT, Page, finish, read

from fedadapt.errors import InputError
from fedadapt.records import CommunicationEntry
from fedadapt.simulations.report import figures as plots
from fedadapt.simulations.report.page.data import HISTORY
from fedadapt.simulations.report.page.rendering import MISSING
from fedadapt.simulations.report.page.style_sheet import CSS
from fedadapt.simulations.report.paper_figures import write_figures
from fedadapt.simulations.report.report import write_report
from fedadapt.simulations.report.study.look import PALETTE
from fedadapt.simulations.report.style import ALONE, BEFORE, COLOURS, WORSE, save_png, to_svg
from fedadapt.simulations.results.accuracies import last_accuracies
from fedadapt.simulations.results.communication import by_action, by_reason
from fedadapt.simulations.results.journal import Journal
from fedadapt.simulations.results.run_folder import RunFolder
from fedadapt.simulations.results.summary import write_summary


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("run"), evaluations(5), communication(5), losses())


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The page of a run whose figures hold areas and raster images."""
    rows = evaluations(450, last_round=2)
    return read(finish(tmp_path_factory.mktemp("large"), rows, communication(20), losses()))


def test_a_finished_run_is_told_in_full(large):
    text = Page(large).text
    assert "not complete" not in text
    final = last_accuracies(evaluations(450, last_round=2), ADAPT.split(","))
    mean = final.where(final.seen).by_label["base+fine-tune"].mean()
    assert f"{100 * mean:.1f}\N{NO-BREAK SPACE}%" in text
    for word in ("Unseen clients", "Convergence", "Client by client", "By kind", "inverted"):
        assert word in text
    for word in ("Clients worst off", "local-epochs", "abc123", "conv1.weight: not finite"):
        assert word in text


def test_the_page_holds_what_its_script_draws(large):
    data = json.loads(Page(large).scripts[0])
    final = last_accuracies(evaluations(450, last_round=2), ADAPT.split(","))
    assert data["labels"] == list(final.labels)
    assert data["clients"]["client"] == final.client.tolist()
    for label, values in final.by_label.items():
        drawn = np.array(data["clients"]["accuracy"][label], float) / data["scale"]
        np.testing.assert_allclose(drawn, values, atol=0.5 / data["scale"])
    [train] = [m for m in data["messages"] if m["action"] == "train"]
    entries = [e for e in communication(20) if e.action == "train"]
    for name, column in (("down", "bytes_down"), ("up", "bytes_up")):
        assert sum(train[name]) == sum(getattr(e, column) for e in entries)
    assert sum(train["unused"]) == sum(e.outcome != "accepted" for e in entries)
    assert [row["round"] for row in data["rounds"]] == [0, 2]
    base = [row.accuracy for row in evaluations(450, last_round=2)
            if (row.label, row.round, row.split) == ("base", 2, "test") and row.seen]  # fmt: skip
    assert data["rounds"][1]["mean"] == pytest.approx(np.mean(base), abs=1e-4)
    assert data["rounds"][1]["low"] == pytest.approx(np.percentile(base, 10), abs=1e-4)


def test_curves_of_clients_are_thinned_and_keep_both_ends(tmp_path):
    rows = [evaluation(d, 0.5 + r / 1000, round=r) for d in range(300) for r in range(401)]
    data = json.loads(Page(read(finish(tmp_path, rows))).scripts[0])
    rounds = data["history_rounds"]
    assert len(rounds) * 300 <= HISTORY
    assert (rounds[0], rounds[-1]) == (0, 400)
    assert len(rounds) == HISTORY // 300
    curve = data["history"][0]["accuracy"][7]
    assert curve == [round(1000 * (0.5 + r / 1000)) for r in rounds]


def test_a_report_asks_nothing_of_the_network(large):
    page = Page(large)
    assert not re.search(r"https?:", large.replace("http://www.w3.org/", ""))  # namespaces
    assert not {"link", "iframe", "object", "img"} & set(page.tags)
    assert not [value for name, value in page.attributes if name in ("src", "href")]
    for words in ("fetch(", "XMLHttpRequest", "import(", "WebSocket", "sendBeacon", "eval("):
        assert not any(words in script for script in page.scripts), words


def test_ids_are_there_once(large):
    ids = [value for name, value in Page(large).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_text_from_files_stays_text(tmp_path):
    evil = "</script><script>alert(1)</script><!--$\\frac{&\"'\u2028"
    rows = [
        evaluation(d, 0.5 + d / 10, label, kind=evil)
        for d in range(3)
        for label in ("base", "base+fine-tune")
    ]
    rows += [row._replace(client=9, kind="]]>-->") for row in rows[:2]]
    entries = [CommunicationEntry(1, 0, evil, "error", evil, 0, 0, 0.0)]
    folder = finish(tmp_path, rows, entries, losses(), strategy=evil)
    (folder / "manifest.json").write_text(json.dumps({evil: {evil: [evil]}}))
    page = Page(read(folder))
    assert page.tags.count("script") == len(page.scripts) == 3
    assert page.text.count(evil) >= 4
    assert "<" not in page.scripts[0]
    data = json.loads(page.scripts[0])
    assert evil in data["kinds"]
    assert data["messages"][0]["action"] == evil


def test_the_same_folder_gives_the_same_report(finished):
    assert read(finished) == read(finished)


FILES = (
    "config.toml",
    "manifest.json",
    "summary.json",
    "clients.parquet",
    "communication.parquet",
    "losses.parquet",
)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_what_is_missing_or_damaged_is_named_and_the_rest_is_read(finished, tmp_path, file, damage):
    run = shutil.copytree(finished, tmp_path / "run")
    if damage == "gone":
        (run / file).unlink()
    else:
        (run / file).write_bytes(b"\x00{")
    found = RunFolder.read(run)
    assert found.missing == (f"no {file}" if damage == "gone" else f"{file} is damaged",)
    parts = (found.config, found.manifest, found.summary)
    tables = (found.evaluations, found.communication, found.losses)
    assert [not part for part in (*parts, *tables)] == [name == file for name in FILES]


@pytest.mark.parametrize("file", ["config.toml", "communication.parquet", "losses.parquet"])
def test_a_single_file_is_enough_for_a_report(finished, tmp_path, file):
    shutil.copy(finished / file, tmp_path)
    text = read(tmp_path)
    assert text.count("This run is not complete: no ") == text.count('class="notice"') == 1
    assert text.count("; no ") == len(FILES) - 2


def test_a_run_that_is_going_on_is_read_from_its_journal(tmp_path):
    rows = evaluations(5)
    with Journal(tmp_path) as journal:
        for row in [*rows, *communication(5)]:
            journal.append(row)
        journal.positions()
        text = read(tmp_path)
    assert "no clients.parquet yet" in text
    assert "base+fine-tune" in text


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_a_run_is_one_line(tmp_path, folder):
    with pytest.raises(InputError, match=r"no such folder|holds no run"):
        write_report(tmp_path / folder)


@pytest.mark.parametrize("case", ODD_RUNS)
def test_odd_runs_have_a_report_and_a_picture(tmp_path, case):
    page = Page(read(finish(tmp_path, ODD_RUNS[case])))
    own = [row for row in ODD_RUNS[case] if row.split == "test"]
    assert len(json.loads(page.scripts[0])["clients"]["client"]) == len({r.client for r in own})
    assert ("Client by client" in page.text) == bool(own)
    assert plots.picture(tmp_path).read_bytes().startswith(b"\x89PNG")


def test_figures_stay_small_for_ten_thousand_clients(tmp_path):
    rows = evaluations(10_000, last_round=2)
    final = last_accuracies(rows, ADAPT.split(","))
    figures = {
        "convergence": plots.convergence(rows, losses(), final),
        "distribution": plots.distribution(final),
        "gains": plots.gains(final, "base+fine-tune"),
        "kinds": plots.kinds(final),
    }
    for name, figure in figures.items():
        assert len(to_svg(figure, name)) < 300_000, name
    before_after = plots.before_and_after(final)
    assert save_png(before_after, tmp_path / "gain.png", dpi=50).stat().st_size > 1000


def bars(figure):
    axes = figure.axes[0]
    return [patch for patch in axes.patches if patch.get_width() == pytest.approx(0.78)]


def test_the_gain_of_every_client_is_drawn_and_the_worse_ones_stand_out():
    before, after = [0.5, 0.5, 0.5, 0.5], [0.9, 0.4, 0.5, 0.7]
    rows = [evaluation(d, a) for d, a in enumerate(before)]
    rows += [evaluation(d, a, "base+fine-tune") for d, a in enumerate(after)]
    random.Random(1).shuffle(rows)
    drawn = bars(plots.gains(last_accuracies(rows), "base+fine-tune"))
    assert [bar.get_height() for bar in drawn] == pytest.approx([40, 20, 0, -10])
    colours = [bar.get_facecolor() for bar in drawn]
    assert len(set(colours[:3])) == 1
    assert colours[3] != colours[0]


def test_a_picture_without_a_base_model_says_how_to_have_one():
    """A run of --adapt fine-tune,kd has no row of the base alone."""
    rows = [evaluation(d, 0.9, "base+fine-tune") for d in range(3)]
    [axes] = plots.before_and_after(last_accuracies(rows)).axes
    said = [note.get_text() for note in axes.texts]
    assert any("not evaluated" in text and "--adapt" in text for text in said)
    [axes] = plots.before_and_after(last_accuracies([])).axes
    assert [note.get_text() for note in axes.texts] == ["no clients"]


@pytest.mark.parametrize("adapted", [False, True])
def test_a_picture_says_over_how_many_clients_its_means_are(adapted):
    rows = [evaluation(d, 0.5) for d in range(3)]
    rows += [evaluation(d, 0.9, "base+fine-tune") for d in range(3)] if adapted else []
    axes = plots.before_and_after(last_accuracies(rows)).axes[0]
    assert axes.get_title(loc="left").startswith("Before and" if adapted else "The base model")
    wanted = "mean over 3 clients: 50.0 %" + (" → 90.0 %" if adapted else "")
    assert wanted in [note.get_text() for note in axes.texts]


def test_a_picture_leaves_the_users_settings_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    to_svg(plots.distribution(last_accuracies(evaluations(3))), "x")
    assert dict(matplotlib.rcParams) == before


def test_the_picture_shows_the_last_label_asked_for_not_the_best():
    rows = [evaluation(0, 0.5), evaluation(0, 0.9, "base+kd"), evaluation(0, 0.1, "base+adabn")]
    assert last_accuracies(rows, ("none", "kd", "adabn")).final == "base+adabn"
    assert last_accuracies(rows, ("none", "adabn", "kd")).final == "base+kd"
    assert last_accuracies(rows[:1]).final is None


def test_gains_are_client_by_client():
    rows = [evaluation(1, 0.5), evaluation(0, 0.25), evaluation(1, 0.75, "base+kd")]
    found = last_accuracies(rows)
    assert found.client.tolist() == [0, 1]
    np.testing.assert_equal(found.gain("base+kd"), [np.nan, 0.25])


def test_the_communication_log_adds_up_by_action_and_reason():
    entries = communication(14)
    (total,) = by_action(entries)
    assert (total.action, total.messages, total.bytes_down) == ("train", 56, 224_000)
    assert sum(total.outcomes.values()) == 56
    assert total.outcomes["accepted"] == 48
    assert total.bytes_up == 48_000
    reasons = by_reason(entries)
    assert [reason.times for reason in reasons] == [2, 2, 2, 2]
    assert all(reason.clients == (3, 10) for reason in reasons)
    assert by_reason([]) == by_action([]) == []


@pytest.mark.slow
def test_figures_for_a_paper_are_files_of_two_formats_that_do_not_change(finished):
    paths = write_figures(finished)
    names = {path.stem for path in paths}
    assert {"convergence", "distribution", "kinds", "gain-base+fine-tune"} <= names
    assert {path.suffix for path in paths} == {".svg", ".pdf"}
    first = [path.read_bytes() for path in paths]
    assert all(b"<svg" in text or text.startswith(b"%PDF") for text in first)
    assert [path.read_bytes() for path in write_figures(finished)] == first


def test_without_anything_evaluated_there_is_no_figure(tmp_path):
    with pytest.raises(InputError, match="nothing has been evaluated yet"):
        write_figures(finish(tmp_path, []))


def luminance(colour: str) -> float:
    """WCAG 2.1's relative luminance of ``#rrggbb``."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("page", ["#ffffff", "#14171d"])
@pytest.mark.parametrize("colour", [BEFORE, ALONE, WORSE, *dict.fromkeys((*COLOURS, *PALETTE))])
def test_colours_of_charts_stand_out_on_a_light_and_a_dark_page(colour, page):
    darker, lighter = sorted((luminance(colour), luminance(page)))
    assert (lighter + 0.05) / (darker + 0.05) >= 3
    assert page in CSS


def test_the_curve_of_the_base_model_is_over_clients_of_the_training(tmp_path):
    rows = [evaluation(d, 0.5, round=r) for d in range(4) for r in (1, 2)]
    rows += [evaluation(9, 1.0, round=r, seen=False) for r in (1, 2)]
    data = json.loads(Page(read(finish(tmp_path, rows))).scripts[0])
    assert [(row["mean"], row["clients"]) for row in data["rounds"]] == [(0.5, 4), (0.5, 4)]


def test_a_run_that_learns_tasks_has_each_task_after_each_task(tmp_path):
    """On the page as rows and as a table, and as a figure for a paper."""
    folder = finish(tmp_path, [evaluation(d, 0.5, "personal") for d in range(3)])
    summary = json.loads((folder / "summary.json").read_text())
    scores = {"accuracy": 0.75, "forgetting": 0.2, "forgetting_over_all": 0.1,
              "matrix": [[0.8, None], [0.6, 0.9]]}  # fmt: skip
    write_summary(folder, summary | {"tasks": {"personal": scores}})
    page = Page(read(folder))
    data = json.loads(page.scripts[0])
    assert data["task_labels"] == ["personal"]
    assert [(row["after"], row["task"], row["accuracy"]) for row in data["tasks"]] == [
        (0, 0, 0.8), (1, 0, 0.6), (1, 1, 0.9)
    ]  # fmt: skip
    rows = [[cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in page.rows]
    assert ["client model", "accuracy", "forgetting", "task 1", "task 2"] in rows
    assert ["personal", "75.0 %", "+20.0", "60.0 %", "90.0 %"] in rows
    assert ["client model", "after task", "task 1", "task 2"] in rows
    assert ["personal", "1", "80.0 %", MISSING] in rows
    assert ["personal", "2", "60.0 %", "90.0 %"] in rows
    assert "tasks-personal" in {path.stem for path in write_figures(folder)}


def test_curves_of_a_run_with_tasks_are_means_over_the_tasks_of_a_client(tmp_path):
    rows = [
        evaluation(d, accuracy + 0.1 * d, round=r, task=task)
        for r in (1, 2)
        for d in range(2)
        for task, accuracy in ((0, 0.2 * r), (1, 0.4 * r))
    ]
    data = json.loads(Page(read(finish(tmp_path, rows))).scripts[0])
    assert [(row["mean"], row["clients"]) for row in data["rounds"]] == [(0.35, 2), (0.65, 2)]
    [curve] = data["history"]
    assert curve["accuracy"] == [[300, 600], [400, 700]]


def test_behind_the_curves_of_accuracy_and_loss_are_their_numbers(finished):
    page = Page(read(finished))
    for row in losses():
        assert [str(row.round), f"{row.loss:.4f}", "80"] in page.rows
    of_rounds = {row[0] for row in page.rows if len(row) == 5 and row[-1] == "4"}
    assert {"0", "2", "10"} <= of_rounds  # mean and deciles over the four clients of the training


def test_what_is_told_of_a_client_is_its_own(tmp_path):
    """Clients whose numbers are not their places, one unseen, with messages and images."""
    rows = [
        evaluation(client, accuracy, label, round=2, seen=client != 9, num_examples=10 * client)
        for client, accuracies in ((4, (0.1, 0.2)), (7, (0.3, 0.4)), (9, (0.5, 0.6)))
        for label, accuracy in zip(("base", "personal"), accuracies, strict=True)
    ]
    rows += [evaluation(7, 0.9, "personal+fine-tune", round=2, epoch=3)]  # on the way
    entries = [
        CommunicationEntry(1, 9, "train", "accepted", "", 10, 3, 0.0),
        CommunicationEntry(1, 7, "train", "late", "x", 20, 0, 0.0),
        CommunicationEntry(2, 7, "train", "accepted", "", 30, 4, 0.0),
        CommunicationEntry(2, 5, "train", "accepted", "", 99, 99, 0.0),  # has no results
        CommunicationEntry(2, 7, "evaluate", "accepted", "", 50, 1, 0.0, "evaluation"),
    ]
    folder = finish(tmp_path, rows, entries)
    counts = {"classes": ["a", "b"], "clients": {4: [[1, 5, 6, 7]], 9: [[0, 1, 2, 3]]}}
    (folder / "labels.json").write_text(json.dumps(counts))
    data = json.loads(Page(read(folder)).scripts[0])
    assert data["clients"]["client"] == [4, 7, 9]
    assert data["clients"]["seen"] == [1, 1, 0]
    assert data["clients"]["images"] == [40, 70, 90]
    assert data["clients"]["accuracy"]["base"] == [1000, 3000, 5000]
    assert data["clients"]["accuracy"]["personal"] == [2000, 4000, 6000]
    assert "personal+fine-tune" not in data["clients"]["accuracy"]
    assert data["images_by_class"] == [[1, 5, 6, 7], [], [0, 1, 2, 3]]
    training, evaluating = data["messages"]
    assert training == {"action": "train", "phase": "training", "times": [0, 2, 1],
                        "down": [0, 50, 10], "up": [0, 4, 3], "unused": [0, 1, 0]}  # fmt: skip
    assert evaluating["down"] == [0, 50, 0]
    [row] = data["rounds"]
    assert (row["mean"], row["clients"]) == (0.2, 2)  # of those that took part
    assert (row["low"], row["high"]) == (0.12, 0.28)
