"""How many images of which class a client has: as they are on its three sides, or nothing."""

import numpy as np
import pytest
import tiny
import torch

from fedadapt.datasets.benchmark import Benchmark
from fedadapt.datasets.load import load_benchmark
from fedadapt.simulations.report import label_counts
from fedadapt.simulations.report.label_counts import LABELS, read_label_counts, write_label_counts


@pytest.fixture(scope="module")
def benchmark():
    return load_benchmark(tiny.config(benchmark="digits-classes"))


def test_they_are_those_of_the_three_sets(tmp_path, benchmark):
    write_label_counts(tmp_path, benchmark)
    read = read_label_counts(tmp_path)
    assert read.classes == tuple(benchmark.classes)
    assert sorted(read.of_client) == list(range(benchmark.num_clients))
    for client, rows in read.of_client.items():
        sides = [side.labels for side in benchmark.split(client)]
        classes = torch.cat(sides).unique().tolist()
        wanted = [(c, *(int((labels == c).sum()) for labels in sides)) for c in classes]
        assert rows == wanted
        assert len(classes) == 2  # what the benchmark is about; the other eight have no row


def test_a_benchmark_that_does_not_know_and_one_that_is_too_large_have_none(
    tmp_path, benchmark, monkeypatch
):
    monkeypatch.setattr(label_counts, "MOST", benchmark.num_clients - 1)
    write_label_counts(tmp_path, benchmark)
    assert not (tmp_path / LABELS).exists()
    monkeypatch.setattr(label_counts, "MOST", benchmark.num_clients)
    monkeypatch.setattr(type(benchmark), "label_counts", Benchmark.label_counts)
    write_label_counts(tmp_path, benchmark)
    assert not (tmp_path / LABELS).exists()
    assert read_label_counts(tmp_path) is None


def test_a_class_has_a_row_wherever_its_images_are_and_the_most_clients_still_have_a_file(
    tmp_path, monkeypatch
):
    """Client 1 is tested on a class that it does not train on."""

    class Known:
        num_clients, classes = 2, ("a", "b", "c")

        def label_counts(self, client):
            return np.array([[3, 0, 0], [1, 0, 0], [0, 2, 0]]) * (client + 1)

    monkeypatch.setattr(label_counts, "MOST", 2)
    write_label_counts(tmp_path, Known())
    read = read_label_counts(tmp_path)
    assert read.of_client == {
        0: [(0, 3, 1, 0), (1, 0, 0, 2)], 1: [(0, 6, 2, 0), (1, 0, 0, 4)],
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "[]", '{"classes": ["a"]}', '{"classes": 3, "clients": {}}',
                                  '{"classes": [], "clients": {"x": []}}',
                                  '{"classes": [], "clients": {"0": [[1, 2]]}}'])  # fmt: skip
def test_a_damaged_file_is_none(tmp_path, text):
    (tmp_path / LABELS).write_text(text)
    assert read_label_counts(tmp_path) is None
