"""The models that a run saves are those it evaluated: every client, model and adaptation."""

import json
import logging
from pathlib import Path

import pytest
import tiny
import torch

import fedadapt
from fedadapt.records import Evaluation
from fedadapt.saved_models.card import label
from fedadapt.saved_models.files import read
from fedadapt.simulations.assembly import assemble
from fedadapt.simulations.results import saved_models
from fedadapt.simulations.results.parquet import read_evaluations

NORM_CNN = "third_party:norm_cnn"
COMMON = {
    "benchmark": "digits-domains",
    "model": NORM_CNN,
    "adapt": "none,adabn,fine-tune",
    "adapt_args": "fine-tune.epochs=2",
    "rounds": 2,
    "local_epochs": 3,
    "lr": 0.2,
    "workers": 1,
}
LOCAL = {**COMMON, "batch_norm": "local", "unseen": 0.34}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    tiny.without_pictures(monkeypatch)


def files(folder: Path) -> dict[str, bytes]:
    models = folder / "models"
    return {str(p.relative_to(models)): p.read_bytes() for p in models.rglob("*") if p.is_file()}


def labels(folder: Path) -> set[str]:
    """Labels of the clients' models."""
    return {Path(name).parent.name for name in files(folder) if "/" in name}


def final_rows(folder: Path) -> list[Evaluation]:
    rows = [r for r in read_evaluations(folder) if r.split == "test"]
    last = max(r.round for r in rows)
    return [r for r in rows if (r.round, r.epoch) == (last, 0)]


def accuracy(network: torch.nn.Module, client: int, folder: Path, task: int = 0) -> float:
    """On the client's own test images, which are found as the run found them."""
    config = fedadapt.RunConfig.from_toml(folder / "config.toml")
    test = assemble(config).worker.at(task).benchmark.split(client).test
    with torch.no_grad():
        found = network(network.card.scaling(test.inputs)).argmax(1)
    return (found == test.labels).double().mean().item()


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """Batch-norm layers that stay on the client: nobody's base model is the server's."""
    with pytest.MonkeyPatch.context() as patch:
        tiny.without_pictures(patch)
        folder = tmp_path_factory.mktemp("local")
        tiny.run(folder, **LOCAL)
    return folder


METHODS = {
    "fedavg": COMMON,
    "fedbn": LOCAL,
    "pfa": {**COMMON, "strategy": "pfa", "strategy_args": "federated_rounds=1"},
    "flower": {**COMMON, "strategy": "fedadam", "strategy_args": "eta=0.1"},
    "without none": {**COMMON, "adapt": "fine-tune"},
}


@pytest.mark.parametrize("name", METHODS)
def test_loading_reproduces_the_accuracy_of_every_client_model_and_adaptation(name, tmp_path):
    tiny.run(tmp_path, **METHODS[name])
    rows = final_rows(tmp_path)
    seen = {(row.model, row.adaptation) for row in rows}
    assert len(seen) == (3 if name != "without none" else 1) * (2 if name == "pfa" else 1)
    different = {row.accuracy for row in rows}
    assert len(different) > 3
    for row in rows:
        network = fedadapt.load(tmp_path, row.client, row.adaptation, row.model)
        assert not network.training
        assert accuracy(network, row.client, tmp_path) == row.accuracy, row


@pytest.mark.parametrize("merge_on", ["server", "client"])
def test_models_of_each_task_are_saved(merge_on, tmp_path):
    """The personal model that a client merges itself is saved as the client merged it."""
    tiny.run(
        tmp_path, benchmark="digits-tasks", clients=3, model=NORM_CNN, strategy="mas-racl",
        strategy_args=f"merge_on={merge_on} epochs=1", adapt="none,adabn", rounds=2, examples=40,
        workers=1,
    )  # fmt: skip
    rows = final_rows(tmp_path)
    assert {(row.label, row.task) for row in rows} == {
        (label(model, adaptation), task)
        for model in ("base", "personal")
        for adaptation in ("none", "adabn")
        for task in (0, 1)
    }
    for row in rows:
        network = fedadapt.load(tmp_path, row.client, row.adaptation, row.model, row.task)
        assert accuracy(network, row.client, tmp_path, row.task) == row.accuracy, row
        assert len(network.card.classes) == 2
    personal = [read(tmp_path / f"models/task-0/personal/{d}.safetensors")[0] for d in (0, 1)]
    assert not tiny.same_bits(*personal)


def test_processes_save_what_one_process_saves(tmp_path):
    """To the bit, where the same clients are computed together."""
    one, three = tmp_path / "one", tmp_path / "three"
    tiny.run(one, **LOCAL, cohort_size=1)
    tiny.run(three, **{**LOCAL, "workers": 3}, cohort_size=1)
    assert changed(files(one), files(three), one, three) == set()


def test_a_resumed_run_leaves_the_same_models(local, tmp_path):
    tiny.run_interrupted(tmp_path, **LOCAL)
    assert not (tmp_path / "models").exists()
    tiny.run(tmp_path, resume=True, **LOCAL)
    assert changed(files(tmp_path), files(local), tmp_path, local) == set()


def changed(found: dict, wanted: dict, folder: Path, other: Path) -> set[str]:
    """Files that differ, apart from the folder that their texts name."""
    assert found.keys() == wanted.keys()
    plain = {n: c.replace(bytes(folder), b"") for n, c in found.items()}
    return {n for n, c in wanted.items() if c.replace(bytes(other), b"") != plain[n]}


def test_a_model_is_the_client_s_own_where_norms_stay_on_the_client(local):
    base = tiny.base(local)
    own = [read(local / f"models/base/{client}.safetensors")[0] for client in range(6)]
    assert all(torch.equal(weights["0.weight"], base["0.weight"]) for weights in own)
    unseen = set(json.loads((local / "manifest.json").read_text())["unseen"])
    kept = {d for d, w in enumerate(own) if not torch.equal(w["1.weight"], base["1.weight"])}
    assert kept == set(range(6)) - unseen


# The card


def test_a_card_says_all_that_is_needed(local):
    weights, card = read(local / "models/base+fine-tune/2.safetensors")
    assert card.label == "base+fine-tune"
    assert (card.client, card.network, card.image_shape) == (2, NORM_CNN, (1, 8, 8))
    assert card.classes == tuple("0123456789")
    benchmark = assemble(tiny.config(**LOCAL)).benchmark
    assert (card.mean, card.std) == (benchmark.scaling.mean, benchmark.scaling.std)
    assert card.domain == benchmark.kinds[2]
    assert card.adaptation_arguments["epochs"] == 2
    assert card.method["strategy"] == "fedavg"
    assert card.method["settings"]["local-epochs"] == 3
    assert card.run["manifest"] == benchmark.manifest.hash
    assert card.run["round"] == 2
    assert card.versions.keys() == {"fedadapt", "torch", "python"}
    adapt = benchmark.split(2).adapt
    assert card.num_images == len(adapt)
    network = fedadapt.load(local, 2, "fine-tune")
    found = network(card.scaling(adapt.inputs)).argmax(1)
    assert card.accuracy == (found == adapt.labels).double().mean()
    assert weights.keys() == network.state_dict().keys()


def test_a_card_s_three_lines_load_its_model(local):
    _, card = read(local / "models/base+adabn/3.safetensors")
    lines = card.loading(str(local))
    assert len(lines) == 3
    scope = {}
    exec(lines[0] + "\n" + lines[1], scope)
    assert scope["model"].card == card


def test_the_index_and_the_readme_list_what_is_there(local):
    index = json.loads((local / "models" / "cards.json").read_text())
    written = {n for n in files(local) if n.endswith(".safetensors")}
    assert {row["file"] for row in index["models"]} == written
    assert len(written) == 1 + 3 * 6
    for row in index["models"]:
        _, card = read(local / "models" / row["file"])
        assert row["accuracy_on_adapt_images"] == card.accuracy
        assert index["common"] == card.common()
    text = (local / "models" / "README.md").read_text()
    for name in ("base.safetensors", "base+fine-tune/<client>.safetensors"):
        assert f"| `{name}` |" in text
    assert "fedadapt predict" in text


# Which models


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("all", {"personal", "base+fine-tune", "personal+fine-tune"}),
        ("personal", {"personal"}),
        ("base", set()),
    ],
)
def test_as_many_models_are_saved_as_are_asked_for(mode, wanted, tmp_path):
    changes = {**METHODS["pfa"], "adapt": "none,fine-tune", "rounds": 2}
    tiny.run(tmp_path, **changes, save_models=mode)
    assert labels(tmp_path) == wanted
    assert "base.safetensors" in files(tmp_path)


def test_none_saves_none_and_removes_those_of_before(local, tmp_path, caplog):
    tiny.run(tmp_path, **LOCAL, save_models="personal")
    assert labels(tmp_path) == {"base"}
    tiny.run(tmp_path, resume=True, **LOCAL, save_models="none")
    assert files(tmp_path) == {}
    assert caplog.text == ""


def test_the_size_is_told_before_and_a_limit_is_kept(local, tmp_path, monkeypatch, caplog):
    """With a limit of what the files take all are saved; with one byte less the base alone."""
    size = sum(len(c) for n, c in files(local).items() if n.endswith(".safetensors"))
    monkeypatch.setattr(saved_models, "ENOUGH", round(1.01 * size))
    tiny.run(tmp_path / "all", **LOCAL)
    assert files(tmp_path / "all").keys() == files(local).keys()
    monkeypatch.setattr(saved_models, "ENOUGH", round(0.99 * size))
    with caplog.at_level(logging.WARNING):
        tiny.run(tmp_path / "base", **LOCAL)
    assert files(tmp_path / "base").keys() == {"base.safetensors", "cards.json", "README.md"}
    assert caplog.text.count("save-models: the models of 6 clients would take") == 1
    tiny.run(tmp_path / "asked", **LOCAL, save_models="all")
    assert files(tmp_path / "asked").keys() == files(local).keys()


def test_few_clients_are_computed_together_where_models_are_large(local, tmp_path, monkeypatch):
    """What waits to be written is bounded, and the models are the same."""
    monkeypatch.setattr(saved_models, "AT_ONCE", 1)
    counts = []
    add = saved_models.SavedModels.write

    def counted(self, request, models):
        counts.extend({len(stack.clients) for of in models.values() for stack in of.values()})
        add(self, request, models)

    monkeypatch.setattr(saved_models.SavedModels, "write", counted)
    tiny.run(tmp_path, **LOCAL)
    assert counts == [1] * 6
    for name in ("base/1.safetensors", "base+fine-tune/4.safetensors"):
        found, wanted = (read(folder / "models" / name)[0] for folder in (tmp_path, local))
        torch.testing.assert_close(found, wanted)


def test_a_client_whose_evaluation_failed_has_no_model(tmp_path, monkeypatch):
    from fedadapt.simulations.worker import Worker

    evaluate = Worker.evaluate

    def failing(self, round, clients, *given, **more):
        if 4 in clients and more.get("collected") is not None:
            raise RuntimeError("no")
        return evaluate(self, round, clients, *given, **more)

    monkeypatch.setattr(Worker, "evaluate", failing)
    tiny.run(tmp_path, **COMMON)
    assert {n for n in files(tmp_path) if n.startswith("base+adabn/")} == {
        f"base+adabn/{d}.safetensors" for d in (0, 1, 2, 3, 5)
    }
