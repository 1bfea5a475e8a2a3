"""A server that dies over Flower goes on from its run folder, and clients keep what they kept."""

import json
import logging
import os
import tomllib
from pathlib import Path

import over_grid
import pytest
import tiny
from flwr.app import Message
from safetensors.torch import load_file

from fedadapt.errors import InputError, InterruptedRunError
from fedadapt.flower.grid_over_clients import flower_identity
from fedadapt.flower.run_facts.experiment import Experiment, experiment_of, without_experiment
from fedadapt.server.checkpoint import load_latest
from fedadapt.simulations.assembly import assemble
from fedadapt.simulations.results.parquet import read_communication, read_evaluations

KEEPING = {"model": tiny.NORM_MLP, "batch_norm": "local", "adapt": "none", "rounds": 4,
           "clients": 3, "fraction": 1.0, "evaluate_every": 1}  # fmt: skip


@pytest.fixture(autouse=True)
def _task(monkeypatch, caplog):
    caplog.set_level(logging.CRITICAL)
    tiny.without_pictures(monkeypatch)
    assemble.cache_clear()
    with flower_identity():
        yield


def resume_settings(folder: Path) -> dict:
    """What ``flwr run --run-config <folder>/resume.toml`` hands to server and clients."""
    return tomllib.loads((folder / "resume.toml").read_text())


def killed(nodes, config: dict, message_type: str, number: int) -> None:
    """Run the server in a process of its own, which is killed before so many messages arrive.

    The clients of that exchange that were asked before have answered, and kept what they keep.
    """
    child = os.fork()
    if child == 0:
        try:
            seen = [0]

            def dying(reply: Message) -> Message:
                seen[0] += 1
                if seen[0] == number:
                    os._exit(137)
                return reply

            for node in nodes.nodes:
                nodes.faults[message_type, node] = dying
            over_grid.serve(nodes, config)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137


def assert_same_run(found: Path, wanted: Path) -> None:
    files = [sorted((folder / "models").rglob("base.safetensors")) for folder in (found, wanted)]
    assert len(files[0]) == len(files[1]) > 0
    for here, there in zip(*files, strict=True):
        assert tiny.same_bits(load_file(here), load_file(there))
    assert read_evaluations(found) == read_evaluations(wanted)
    told = [[e[:7] for e in read_communication(folder)] for folder in (found, wanted)]
    assert told[0] == told[1]  # every message once, also of the round that was cut off


@pytest.mark.parametrize(
    ("changes", "message_type", "number"),
    [
        # in round 3, when two of three clients have trained; 0: as often as the engine thinks right
        (KEEPING | {"checkpoint_every": 0}, "train", 8),
        (KEEPING | {"strategy": "ditto"}, "train", 5),
        (KEEPING | {"strategy": "pfedhn", "strategy_args": "serve=trained",
                    "batch_norm": "shared"}, "train", 5),
        ({"benchmark": "digits-tasks", "strategy": "fim-racl", "adapt": "none", "clients": 3,
          **tiny.UNTRAINED, "strategy_args": "epochs=1 merge_on=client"}, "query.importance", 5),
    ],
    ids=["fedbn", "ditto", "pfedhn", "racl"],
)  # fmt: skip
def test_a_killed_server_goes_on_and_ends_as_if_it_had_never_died(
    tmp_path, changes, message_type, number
):
    config = over_grid.settings(tmp_path / "whole" / "out", **changes)
    over_grid.serve(over_grid.grid(config, tmp_path / "whole"), config)
    assemble.cache_clear()
    config = over_grid.settings(tmp_path / "cut" / "out", **changes)
    killed(over_grid.grid(config, tmp_path / "cut"), config, message_type, number)
    out = tmp_path / "cut" / "out"
    if message_type == "train":  # of three clients in each round: nothing is done twice
        assert load_latest(out).round == (number - 1) // 3
    again = resume_settings(out)
    over_grid.serve(over_grid.grid(again, tmp_path / "cut", run_id=2), again)
    assert_same_run(out, tmp_path / "whole" / "out")
    if "merge_on" in str(changes):
        kept = [
            sorted((tmp_path / name).glob("disk-*/experiment-*/client-*/round-*"))[-1]
            for name in ("whole", "cut")
        ]
        sums = [load_file(path) for path in kept]
        assert tiny.same_bits(*sums)  # no expert is in the sums twice


@pytest.mark.slow
def test_it_can_die_again_and_again(tmp_path):
    config = over_grid.settings(tmp_path / "whole" / "out", **KEEPING)
    over_grid.serve(over_grid.grid(config, tmp_path / "whole"), config)
    config = over_grid.settings(tmp_path / "cut" / "out", **KEEPING)
    out = tmp_path / "cut" / "out"
    for number in (1, 5, 1):  # in round 1, in round 2, in round 2 again
        killed(over_grid.grid(config, tmp_path / "cut"), config, "train", number)
        config = resume_settings(out)
    over_grid.serve(over_grid.grid(config, tmp_path / "cut"), config)
    assert_same_run(out, tmp_path / "whole" / "out")
    assert json.loads((out / "experiment.json").read_text())["attempt"] == 4


def test_going_on_in_this_process_would_drop_what_clients_keep_and_is_refused(tmp_path):
    config = over_grid.settings(tmp_path / "out", **KEEPING | {"rounds": 1})
    over_grid.serve(over_grid.grid(config, tmp_path), config)
    with pytest.raises(InputError) as refused:
        tiny.run(tmp_path / "out", resume=True, **KEEPING | {"rounds": 1, "checkpoint_every": 1})
    assert str(refused.value) == (
        "resume: the run began with flower and cannot go on with processes, since part of it is "
        f"where its clients are; go on with: flwr run . --run-config {tmp_path}/out/resume.toml"
    )


def test_a_run_that_began_here_cannot_go_on_over_flower(tmp_path):
    tiny.run(tmp_path / "out", **KEEPING | {"rounds": 1})
    config = over_grid.settings(tmp_path / "out", **KEEPING | {"rounds": 1})
    nodes = over_grid.grid(config, tmp_path)
    with pytest.raises(InputError, match=r"resume: .*: no run over Flower is there"):
        over_grid.serve(nodes, config | {"resume": str(tmp_path / "out")})
    assert nodes.sent == []


def test_the_advice_of_a_failed_run_is_the_one_that_works(tmp_path):
    def interrupted(reply):
        raise KeyboardInterrupt

    config = over_grid.settings(tmp_path / "out", **KEEPING)
    nodes = over_grid.grid(config, tmp_path)
    nodes.faults["train", next(iter(nodes.nodes))] = interrupted
    with pytest.raises(InterruptedRunError) as ended:
        over_grid.serve(nodes, config)
    assert str(ended.value) == (
        f"interrupted; go on with: flwr run . --run-config {tmp_path}/out/resume.toml (exit code 5)"
    )


def test_other_settings_than_the_run_began_with_are_refused(tmp_path):
    config = over_grid.settings(tmp_path / "out", **KEEPING | {"rounds": 1})
    over_grid.serve(over_grid.grid(config, tmp_path), config)
    again = resume_settings(tmp_path / "out") | {"lr": 0.5}
    with pytest.raises(InputError, match=r"resume: other settings .*lr was 0\.05, is 0\.5"):
        over_grid.serve(over_grid.grid(again, tmp_path), again)


def test_more_rounds_go_on_with_what_clients_kept(tmp_path):
    config = over_grid.settings(tmp_path / "whole" / "out", **KEEPING)
    over_grid.serve(over_grid.grid(config, tmp_path / "whole"), config)
    config = over_grid.settings(tmp_path / "grown" / "out", **KEEPING | {"rounds": 2})
    over_grid.serve(over_grid.grid(config, tmp_path / "grown"), config)
    assemble.cache_clear()
    again = resume_settings(tmp_path / "grown" / "out") | {"rounds": 4}
    over_grid.serve(over_grid.grid(again, tmp_path / "grown", run_id=9), again)
    bases = [tiny.base(tmp_path / name / "out") for name in ("whole", "grown")]
    assert tiny.same_bits(*bases)


def test_a_new_run_begins_anew_on_clients_that_kept_something(tmp_path):
    found = []
    for number in (1, 2):
        config = over_grid.settings(tmp_path / f"out-{number}", **KEEPING)
        over_grid.serve(over_grid.grid(config, tmp_path), config)
        found.append(tiny.base(tmp_path / f"out-{number}"))
    assert tiny.same_bits(*found)


def test_a_longer_interval_between_checkpoints_than_clients_remember_is_refused(tmp_path):
    config = over_grid.settings(tmp_path / "out", **KEEPING | {"checkpoint_every": 2})
    with pytest.raises(InputError, match="checkpoint-every: 2; clients of Flower remember"):
        over_grid.serve(over_grid.grid(config, tmp_path), config)


def test_every_start_of_the_server_is_an_attempt_of_its_own(tmp_path):
    begun = Experiment.begin(tmp_path)
    assert begun == Experiment(begun.id, 1, 0)
    assert Experiment.go_on(tmp_path, 3) == Experiment(begun.id, 2, 3)
    assert Experiment.go_on(tmp_path, 1) == Experiment(begun.id, 3, 1)


def test_what_a_message_says_of_its_experiment_is_no_setting_of_the_strategy():
    """A noisy answer is to a question; the same question of a later attempt is the same."""
    settings = {**Experiment("ab", 2, 5).to_config(), "server-round": 3}
    assert experiment_of(settings) == Experiment("ab", 2, 5)
    assert without_experiment(settings) == {"server-round": 3}
    assert experiment_of({"server-round": 3}) is None
    assert experiment_of({"experiment": 3, "attempt": 1, "goes-on-after": 0}) is None
