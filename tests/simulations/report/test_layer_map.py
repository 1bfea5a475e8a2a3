"""The map of layers: what it holds, when it is measured, and when it cannot be."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import tomli_w
import torch
from safetensors.torch import save_file
from toys import assert_same_bits

from fedadapt.client.statistics.sparsity import sparsity_vectors
from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.simulations.assembly import assemble
from fedadapt.simulations.report import layer_map as layer_maps
from fedadapt.simulations.report.group_figures import layers
from fedadapt.simulations.report.layer_map import (
    BASE,
    LAYER_MAP,
    first_of_each_kind,
    layer_map,
    measured,
    separation,
)
from fedadapt.simulations.results.run_folder import RunFolder
from fedadapt.weights import repeat

SETTINGS = RunConfig(benchmark="digits-classes", clients=10, strategy="pfa", rounds=4)


@pytest.fixture
def run(tmp_path):
    """A folder as a run leaves it, as far as the map is concerned; nothing was trained."""
    assembly = assemble(SETTINGS)
    (tmp_path / "config.toml").write_text(tomli_w.dumps(SETTINGS.to_mapping()))
    (tmp_path / "manifest.json").write_text(json.dumps({"hash": assembly.benchmark.manifest.hash}))
    (tmp_path / "models").mkdir()
    save_file(assembly.model.state_dict(), tmp_path / BASE)
    return RunFolder.read(tmp_path)


def test_without_its_data_or_its_model_the_map_is_left_out_in_one_line(run):
    def refused(match, **change):
        with pytest.raises(InputError, match=match):
            layer_map(replace(run, **change))

    refused("nowhere/at/all", config=run.config | {"benchmark": "folder:/nowhere/at/all"})
    refused("not those of the run", manifest={"hash": "another"})
    refused("unknown key 'colour'", config=run.config | {"colour": "red"})
    refused("not the weights of model=cnn", config=run.config | {"model": "cnn"})
    (run.folder / BASE).write_bytes(b"damaged")
    refused("it is damaged")
    (run.folder / BASE).unlink()
    refused("^models/base.safetensors: No such file or directory; a finished run has one$")
    assert not (run.folder / LAYER_MAP).exists()


def test_a_data_folder_of_another_machine_is_not_insisted_on(run):
    away = replace(run, config=run.config | {"data-root": "/nowhere/at/all"})
    assert layer_map(away) == layer_map(run)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": 1}'])
def test_a_damaged_or_outdated_map_is_measured_anew(run, text):
    fresh = layer_map(run)
    (run.folder / LAYER_MAP).write_text(text)
    assert layer_map(run) == fresh


def test_the_map_of_another_model_is_not_taken(run):
    fresh = layer_map(run)
    stale = asdict(fresh) | {"model": "another", "layers": ["x"] * len(fresh.layers)}
    (run.folder / LAYER_MAP).write_text(json.dumps(stale))
    with pytest.raises(InputError, match="not measured yet"):
        layer_map(run, measure=False)
    assert layer_map(run) == fresh
    assert layer_map(run, measure=False) == fresh


def test_the_map_holds_what_pfa_would_have_compared():
    """In one pass over all layers; layer by layer it is the same, with the channels PFA draws."""
    config = replace(SETTINGS, model="cnn", seed=3)
    assembly = assemble(config)
    start = {n: t.clone() for n, t in assembly.model.state_dict().items()}
    found = measured(assembly, start)
    assert_same_bits(assembly.model.state_dict(), start)
    pfa = assembly.worker.strategy
    cohort = assembly.worker.cohort(found.clients, round=0)
    assert len(found.layers) > 1
    for i, name in enumerate(found.layers):
        for q, number in enumerate(found.numbers):
            drawn = replace(pfa, layer=i, q=30).channels[:number]
            weights = repeat(start, len(cohort))
            wanted = sparsity_vectors(cohort, weights, layer=i, channels=drawn)
            same = sparsity_vectors(cohort, weights, layer=name, channels=drawn)
            torch.testing.assert_close(wanted, same)
            distance = (wanted - wanted[0]).norm(dim=1)
            torch.testing.assert_close(distance, torch.tensor(found.distances[q][i]).double())
            assert found.separation[q][i] == pytest.approx(separation(wanted.numpy(), found.kinds))


def test_two_training_clients_of_each_kind_are_compared_kind_by_kind():
    benchmark = assemble(replace(SETTINGS, clients=20, unseen=0.2)).benchmark
    chosen = first_of_each_kind(benchmark)
    kinds = [benchmark.kinds[d] for d in chosen]
    assert not set(chosen) & benchmark.unseen
    assert kinds == sorted(kinds, key=kinds.index)
    assert all(kinds.count(kind) <= 2 for kind in kinds)
    assert set(kinds) == {benchmark.kinds[d] for d in benchmark.seen}
    alike = assemble(replace(SETTINGS, partition="iid")).benchmark
    with pytest.raises(InputError, match="all are of one kind"):
        first_of_each_kind(alike)


def test_a_private_run_is_not_measured_afterwards():
    private = replace(SETTINGS, strategy_args="dp_epsilon=1.0", normalization="unit")
    with pytest.raises(InputError, match="dp_epsilon"):
        measured(assemble(private), {})


def test_separation_is_the_distance_between_kinds_over_that_within():
    vectors = np.array([[0.0], [1.0], [10.0], [11.0]])
    assert separation(vectors, ["a", "a", "b", "b"]) == pytest.approx(10.0)
    assert separation(vectors, ["a", "b", "c", "d"]) is None  # no two of one kind
    assert separation(vectors, ["a"] * 4) is None
    assert separation(np.zeros((3, 1)), ["a", "a", "b"]) is None  # 0 / 0


def test_the_map_is_drawn_relative_to_the_farthest_client_of_a_layer():
    drawn = layers(
        layer_maps.LayerMap(
            model="",
            clients=[0, 1, 5],
            kinds=["a", "a", "b"],
            layers=["body.2", "body.5"],
            channels=[8, 8],
            numbers=[10],
            distances=[[[0, 1, 4], [0, 0, 0]]],
            separation=[[2.5, None]],
        )
    )
    np.testing.assert_allclose(drawn.axes[0].images[0].get_array(), [[0, 0.25, 1], [0, 0, 0]])
    texts = [text.get_text() for text in drawn.axes[0].texts]
    assert "2.5\N{MULTIPLICATION SIGN}" in texts
    assert "\N{EN DASH}" in texts
