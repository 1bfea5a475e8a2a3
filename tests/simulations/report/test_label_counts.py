"""How many images of which class a client has: as they are on its three sides, or nothing."""

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


@pytest.mark.parametrize("text", ["", "[]", '{"classes": ["a"]}', '{"classes": 3, "clients": {}}',
                                  '{"classes": [], "clients": {"x": []}}',
                                  '{"classes": [], "clients": {"0": [[1, 2]]}}'])  # fmt: skip
def test_a_damaged_file_is_none(tmp_path, text):
    (tmp_path / LABELS).write_text(text)
    assert read_label_counts(tmp_path) is None
