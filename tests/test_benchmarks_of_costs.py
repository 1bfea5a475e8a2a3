"""Costs are counted, fitted and compared as the benchmarks say."""

import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import cluster, cost, gpu, guard, memory, methods, real_work, time_to_accuracy
from benchmarks.accuracy_clock import AccuracyClock
from benchmarks.arithmetic import multiply_adds
from benchmarks.clock import Enough
from benchmarks.cpu_clock import CpuClock
from benchmarks.engines import bare, ours, pfllib
from benchmarks.process import Found
from benchmarks.works import WORKS, Clients, network, parsed, word
from fedadapt.config import RunConfig
from fedadapt.datasets.load import load_benchmark
from fedadapt.errors import InputError

MLP = 64 * 100 + 100 * 100 + 100 * 10  # weights of W1's network
BELOW_FIRST = MLP - 64 * 100  # those through which gradients go down


def few(name, clients=2, **changes):
    return replace(WORKS[name], clients=clients, **changes)


# Arithmetic


def test_products_are_counted_forward_and_backward():
    layer, x = nn.Linear(5, 7), torch.ones(3, 5, requires_grad=True)
    forward = 3 * 5 * 7
    assert multiply_adds(lambda: layer(x)) == forward
    assert multiply_adds(lambda: layer(x).sum().backward()) == 3 * forward
    assert multiply_adds(lambda: layer(x.detach()).sum().backward()) == 2 * forward


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_in_groups_costs_a_group_s_filters_forward_and_backward(groups):
    x = torch.ones(2, 4, 6, 6, requires_grad=True)
    filters = torch.ones(8, 4 // groups, 3, 3, requires_grad=True)
    forward = 2 * 4 * 4 * filters.numel()

    def run(inputs):
        return F.conv2d(inputs, filters, groups=groups)

    assert multiply_adds(lambda: run(x)) == forward
    assert multiply_adds(lambda: run(x).sum().backward()) == 3 * forward
    assert multiply_adds(lambda: run(x.detach()).sum().backward()) == 2 * forward


def test_what_goes_number_by_number_counts_as_nothing():
    x = torch.ones(5, requires_grad=True)
    assert multiply_adds(lambda: (x * x).relu().sum().backward()) == 0


# Methods beside FedAvg


def test_fedavg_s_arithmetic_is_that_of_an_epoch():
    assert methods.counted(WORKS["W1"], "fedavg") == 100 * (2 * MLP + BELOW_FIRST)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("ditto", 2 * (2 * MLP + BELOW_FIRST)),
        ("apfl", 2 * (2 * MLP + BELOW_FIRST)),
        ("pfa", 2 * MLP + BELOW_FIRST),
        # The head is trained over a body without gradients, then the body below the held head.
        ("fedrep", (MLP + 1000) + (2 * MLP + BELOW_FIRST - 1000)),
        # A mixture of heads is learnt on 80 of 100 images, body held, before the round.
        ("fedala", 0.8 * (MLP + 1000) + 2 * MLP + BELOW_FIRST),
        ("none", MLP),
        ("fine-tune", methods.EPOCHS * (2 * MLP + BELOW_FIRST) + MLP),
        ("t3a", MLP + 1.1 * 1000 + MLP),  # features; what the head says of them and itself; test
    ],
)
def test_a_method_s_arithmetic_is_what_it_adds(method, expected):
    assert methods.counted(WORKS["W1"], method) == pytest.approx(100 * expected, rel=1e-9)


def test_merging_experts_costs_each_one_s_importances():
    """Image by image: forward, and gradients by the weights of the body and below the first."""
    per_image = MLP + (MLP - 1000) + BELOW_FIRST
    found = methods.counted(WORKS["W1"], "mas-racl")
    assert found == pytest.approx(2 * 100 * per_image, rel=0.03)


def test_what_an_adaptation_asks_is_timed_apart():
    assert methods.counted(WORKS["W1"], "ewc?") == 100 * (2 * MLP + BELOW_FIRST)


def test_a_share_is_of_fedavg_s_speed_in_the_same_arithmetic():
    """Three times the arithmetic in four times the time: three quarters of the speed."""
    one = methods.Cost("W1", "ditto", 3.0, [8.0, 4.0, 40.0], [2.0, 1.0, 1.0])
    assert (one.times, one.share) == (4.0, 0.75)
    assert math.isnan(methods.Cost("W1", "nothing", 0.0, [1.0], [1.0]).share)


@pytest.mark.slow
def test_methods_are_shown_beside_fedavg_and_written_down(tmp_path, capsys):
    path = tmp_path / "costs.json"
    words = ["--work", "W1:2", "--methods", "tent,ewc", "--repeats", "1"]
    methods.main([*words, "--json", str(path)])
    assert [one["method"] for one in json.loads(path.read_text())] == ["ewc?", "ewc"]
    assert "ewc?" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--work", "mas"], ["--methods", "dito"]])
def test_methods_refuse_what_is_no_training_or_has_no_name(words, capsys):
    with pytest.raises(SystemExit):
        methods.main(words)
    assert words[1] in capsys.readouterr().err


# Time to accuracy


@pytest.fixture
def real(tmp_path):
    config = RunConfig(
        benchmark="digits-dirichlet", clients=3, examples=100, model="mlp", batch_size=20, lr=0.1
    )
    return real_work.written(config, tmp_path / "digits.npz")


def test_real_work_is_the_clients_images_cut_to_whole_batches(real):
    again = parsed(word(real))
    assert again == real
    clients = Clients(again)
    for d in range(3):
        images, labels = clients.scaled(d)
        assert len(images) == len(labels) == 60
        assert len(labels.unique()) > 1
        assert clients.num_train_examples(d) == 60
    assert not torch.equal(clients.scaled(0)[0], clients.scaled(1)[0])


def test_clients_without_a_whole_batch_are_left_out(tmp_path, monkeypatch):
    config = RunConfig(benchmark="digits-dirichlet", clients=3, examples=20, batch_size=12)
    path = tmp_path / "digits.npz"
    assert real_work.written(config, path).clients == 3
    with pytest.raises(InputError, match="batch-size: 13"):
        real_work.written(replace(config, batch_size=13), path)
    sizes = iter([1, 12, 25])

    def cut(examples, n):
        return replace(examples, inputs=examples.inputs[:n], labels=examples.labels[:n])

    benchmark = load_benchmark(config)
    splits = [s._replace(train=cut(s.train, next(sizes))) for s in map(benchmark.split, range(3))]
    monkeypatch.setattr(type(benchmark), "split", lambda self, client: splits[client])
    monkeypatch.setattr(real_work, "load_benchmark", lambda config: benchmark)
    work = real_work.written(config, path)
    assert [Clients(work).num_train_examples(d) for d in range(work.clients)] == [12, 12]


class Looking(AccuracyClock):
    def __init__(self, work, target=2.0, rounds=3):
        super().__init__(work, target, rounds, 1000.0)


def test_every_engine_s_global_model_is_looked_at_after_each_round(real):
    clock = Looking(real, rounds=4)
    ours.run(real, clock, workers=1)
    assert len(clock.looks) == len(clock.rounds) == 4
    seconds, cpu, accuracies = zip(*clock.looks, strict=True)
    assert sorted(seconds) == list(seconds)
    assert sorted(cpu) == list(cpu)
    assert accuracies[-1] > 0.3
    again = Looking(real, target=accuracies[1], rounds=4)
    ours.run(real, again, workers=1)
    assert [look[2] for look in again.looks] == list(accuracies[: len(again.looks)])
    assert len(again.looks) <= 2


def test_the_accuracy_is_that_of_the_model_on_all_test_images(real):
    clock, model = Looking(real), network(real).eval()
    with np.load(real.data) as file:
        images = Clients(real).scaling(torch.from_numpy(file["test/images"]))
        labels = torch.from_numpy(file["test/labels"])
    right = (model(images).argmax(1) == labels).double().mean().item()
    assert clock.accuracy(model.state_dict) == pytest.approx(right)


def test_the_bare_loop_weighs_clients_by_their_images(real):
    loop = bare.Loop(real, channels_last=False, bf16=False)
    loop.data[0] = tuple(t[:20] for t in loop.data[0])
    loop.examples = sum(len(labels) for _, labels in loop.data)
    start, total = loop.flat(), torch.zeros_like(loop.flat())
    alone = []
    for d in range(3):
        torch.manual_seed(d)
        loop.compute(start, range(d, d + 1), total)
        alone.append(total / len(loop.data[d][1]))
    mean = (alone[0] + 3 * alone[1] + 3 * alone[2]) / 7
    assert loop.examples == 140
    weighted = sum(w * n for w, n in zip(alone, (20, 60, 60), strict=True)) / loop.examples
    torch.testing.assert_close(weighted, mean)
    assert set(loop.named(start)) == set(network(real).state_dict())


def test_a_target_takes_the_rounds_until_it_and_the_first_counts_as_the_others():
    looks = [(10.0, 20.0, 0.1), (12.0, 23.0, 0.4), (14.0, 26.0, 0.6), (16.0, 29.0, 0.9)]
    assert time_to_accuracy.reached(looks, 0.5) == (3, 6.0, 9.0)
    assert time_to_accuracy.reached(looks, 0.1) == (1, 2.0, 3.0)
    assert time_to_accuracy.reached(looks, 0.95) is None
    assert time_to_accuracy.reached([(5.0, 6.0, 1.0)], 0.5) == (1, 5.0, 6.0)
    assert time_to_accuracy.reached([(1.0, 1.0, 0.0), (3.0, 3.0, 1.0)], 0.5) == (2, 3.0, 3.0)


def test_engines_take_turns_on_one_file_and_what_is_missing_is_said(monkeypatch, tmp_path, capsys):
    asked = []

    def measured(engine, work, seconds, *, python, more):
        asked.append((engine, work, tuple(more)))
        fast = 1.0 if engine == "ours" else 4.0
        return Found([fast] * 2, "", [(fast, fast, 0.2), (2 * fast, 2 * fast, 0.8)])

    def written(config, path):
        assert (config.partition, config.batch_size, config.local_epochs) == (
            "dirichlet:0.1",
            10,
            5,
        )
        return few("W2", data=str(path), examples=70)

    monkeypatch.setattr(time_to_accuracy, "measured", measured)
    monkeypatch.setattr(time_to_accuracy.real_work, "written", written)
    path = tmp_path / "times.json"
    words = ["--data", "mnist", "--models", "cnn", "--clients", "20", "--target", "0.7"]
    time_to_accuracy.main([*words, "--engines", "flower", "fluke", "ours", "--json", str(path)])
    assert [engine for engine, *_ in asked] == ["flower", "ours"]
    assert len({work for _, work, _ in asked}) == 1
    assert asked[0][2] == ("--target", "0.7", "--rounds", "200")
    shown = capsys.readouterr().out
    assert "--fluke-python" in shown
    assert "4.00" in shown
    assert [one["reached"]["rounds"] for one in json.loads(path.read_text())] == [2, 2]


# What a round costs


def test_a_cost_model_finds_the_numbers_that_made_its_points():
    made = cost.Model(0.02, 0.003, 0.0005)

    def used(clients, workers):
        main, others = 0.02 + 0.0005 * clients, 0.003 * clients
        return cost.Used(main + others, 0.0, 9.0) if workers == 1 else cost.Used(main, others, 9.0)

    rounds = {point: used(*point) for point in [(10, 1), (100, 1), (10, 2), (100, 2)]}
    found = cost.fitted(rounds)
    assert (found.fixed, found.client, found.message) == pytest.approx((0.02, 0.003, 0.0005))
    assert found(1000, 4) == pytest.approx(0.02 + 0.75 + 0.5)
    for (clients, workers), one in rounds.items():
        assert made(clients, workers) == pytest.approx(one.path(workers))


def test_a_cost_is_never_below_zero():
    """The main process of fewer clients used more: a slope below 0 would fit best."""
    rounds = {(10, 2): cost.Used(2.0, 1.0, 0.0), (100, 2): cost.Used(1.0, 10.0, 0.0)}
    found = cost.fitted(rounds)
    assert found.message == 0.0
    assert 1.0 < found.fixed < 2.0
    assert found.client == pytest.approx(0.1)


@pytest.mark.parametrize("points", [[(1, 1), (2, 1), (3, 1)], [(10, 1), (10, 2)]])
def test_too_few_rounds_make_no_cost_model(points):
    with pytest.raises(ValueError, match="two numbers of clients"):
        cost.fitted({point: cost.Used(1.0, 1.0, 1.0) for point in points})


def test_the_processor_time_of_workers_is_told_apart_from_the_main_process_s():
    clock = CpuClock(0.0)
    clock.tick()
    clock.tick()
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        while sum(map(memory.cpu_seconds, [child.pid])) < 0.1:
            time.sleep(0.02)
        with pytest.raises(Enough):
            clock.tick()
    finally:
        child.kill()
        child.wait()
    [(main, workers)] = clock.facts["looks"]
    assert workers >= 0.09
    assert main < workers


def test_the_share_outside_the_actors_is_of_all_processor_time():
    spent = cluster.Spent(actors=9.0, everything=12.0, shared=2**20, jobs=0, answers=2**21)
    assert spent.outside == 0.25


def test_a_start_up_of_a_million_clients_is_judged_by_the_processor_s_time():
    def one(clients, cpu):
        return memory.Measured(clients, 2**30, 3, 500.0, 400.0, cpu)

    [(words, holds)] = memory.verdicts([one(1_000_000, 59.0)])
    assert holds
    assert "59 CPU s" in words
    assert [holds for _, holds in memory.verdicts([one(1_000_000, 61.0)])] == [False]


# The guard


def test_the_guard_says_what_got_slower_than_what_is_kept():
    def at(ratio):
        return {"clients": 2, "times the bare loop": ratio, "CPU ms a client": 1.0,
                "of the bare loop": ratio}  # fmt: skip

    shown = guard.table(
        {"W1": at(3.4), "W2": at(1.0), "W3": at(2.0)}, {"W1": at(4.2), "W2": at(1.1)}
    )
    assert list(shown.columns[-1].cells) == ["SLOWER", "", ""]
    assert list(shown.columns[-2].cells) == ["4.20", "1.10", ""]


def test_the_guard_keeps_ratios_for_each_kind_of_processor(monkeypatch, tmp_path):
    kept = tmp_path / "guard.json"
    kept.write_text('{"of another kind": {"works": {"W1": {}}}, "here": {"works": {"W2": {}}}}')
    monkeypatch.setattr(guard, "KEPT", kept)
    monkeypatch.setattr(guard, "CLIENTS", {"W1": 2})
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "here")
    guard.main(["--repeats", "1", "--keep"])
    found = json.loads(kept.read_text())
    assert found["of another kind"] == {"works": {"W1": {}}}
    assert list(found["here"]["works"]) == ["W1"]


def test_the_guard_measures_ours_beside_the_bare_loop(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(guard, "CLIENTS", {"W1": 2})
    guard.main(["--repeats", "1", "--json", str(tmp_path / "speed.json")])
    [(kind, report)] = json.loads((tmp_path / "speed.json").read_text()).items()
    assert kind == torch.backends.cpu.get_cpu_capability()
    [(name, one)] = report["works"].items()
    assert name == "W1"
    assert one["times the bare loop"] > 0
    assert "W1" in capsys.readouterr().out


# The card's script


@pytest.mark.slow
def test_a_rehearsal_without_a_card_is_right_and_leaves_its_results(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "REHEARSED", {"W1": 2})
    monkeypatch.setattr(gpu, "ADAPTATIONS", ("t3a",))
    monkeypatch.setattr(gpu, "REPEATS", 1)
    monkeypatch.setattr(gpu, "limits_of", lambda device, size: dict.fromkeys(
        ("multiply-adds, float32", "bytes"), 1e12))  # fmt: skip
    path = tmp_path / "gpu.json"
    gpu.main(["--device", "cpu", "--json", str(path)])
    facts = json.loads(path.read_text())
    assert facts["checks"]["W1"] == {"alike": True, "furthest": 0.0, "clients": 2}
    assert set(facts["speeds"]) == {"W1", "sparsity", "mas", "t3a, W1"}
    assert all(one["of the bandwidth"] > 0 for one in facts["speeds"].values())
    assert "t3a" in capsys.readouterr().out


def test_traffic_is_what_operations_read_and_write_and_views_are_free():
    x, y = torch.ones(10), torch.ones(1).expand(10)
    with gpu.Traffic() as traffic:
        x.view(2, 5).t()
    assert traffic.bytes == 0
    with gpu.Traffic() as traffic:
        x + y
    assert traffic.bytes == 4 * (10 + 1 + 10)


def test_an_end_is_not_waited_for_beyond_the_target(real):
    clock = Looking(real, target=0.0)
    clock.tick(network(real).state_dict)
    with pytest.raises(Enough):
        clock.tick(network(real).state_dict)


# PFLlib, of which only the interface is here


PFLLIB = {
    "clients/clientbase.py": "def read_client_data(*words, **named): raise FileNotFoundError",
    "servers/serverbase.py": "def read_client_data(*words, **named): raise FileNotFoundError",
    "servers/serveravg.py": """
import torch
from flcore.clients import clientbase
from flcore.servers import serverbase

class FedAvg:
    def __init__(self, args, times):
        self.args, self.global_model, self.sizes = args, args.model, []
        for client in range(args.num_clients):
            self.sizes.append(len(serverbase.read_client_data(args.dataset, client, is_train=True)))

    def train(self):
        for number in range(self.args.global_rounds + 1):
            if number % self.args.eval_gap == 0:
                self.evaluate()
            for client in range(self.args.num_clients):
                pairs = clientbase.read_client_data(self.args.dataset, client, is_train=True)
                images, labels = (torch.stack(column) for column in zip(*pairs))
                loss = torch.nn.functional.cross_entropy(self.global_model(images), labels)
                for p, g in zip(
                    self.global_model.parameters(),
                    torch.autograd.grad(loss, list(self.global_model.parameters())),
                ):
                    p.data -= self.args.local_learning_rate * g

    def evaluate(self, acc=None, loss=None):
        raise AssertionError("the clock looks at the model instead")
""",
}


def test_pfllib_is_given_the_clients_and_stops_when_the_clock_has_had_enough(
    real, tmp_path, monkeypatch
):
    for name, text in PFLLIB.items():
        path = tmp_path / "system" / "flcore" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv(pfllib.FOLDER, str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    clock = Looking(replace(real, momentum=0.0), rounds=2)
    try:
        pfllib.run(replace(real, momentum=0.0), clock)
    finally:
        torch.set_num_threads(1)
        for name in [name for name in sys.modules if name.partition(".")[0] == "flcore"]:
            del sys.modules[name]
    assert len(clock.looks) == 2
    assert clock.looks[1][2] != clock.looks[0][2]
    with pytest.raises(SystemExit, match="momentum"):
        pfllib.run(real, clock)
