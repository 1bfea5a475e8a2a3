"""Canaries in a client's data are found in nothing that leaves it, whoever asks, whatever fails."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from flwr.common.serde import message_to_proto
from over_grid import Driven, OneClient
from PIL import Image

from fedadapt.client.adaptations.registry import ADAPTATIONS
from fedadapt.client.adaptations.registry import find as adaptation
from fedadapt.flower import egress, records
from fedadapt.flower.grid_over_clients import flower_identity
from fedadapt.messages import Failure
from fedadapt.simulations.assembly import assemble
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.registry import STRATEGIES, find, is_flowers

FILE, LABEL, DOMAIN, WORDS = "kanarie-file", "kanarie-label", "kanarie-domain", "kanarie-words"
SIDE = 8  # pixels

NOT_ASKED = {"query.direction", "query.pseudo_labels"}
"""Queries that come under circumstances of their own: they are asked directly, below."""

TASKS = [n for n in STRATEGIES.ours if not is_flowers(find(n)) and find(n).learns_tasks]
OTHERS = [n for n in STRATEGIES.ours if n not in TASKS]
UNMEASURED = {"fedsa-lora", "taper-server", "pfedpg"}  # they refuse batch-norm=reestimate
SILENT = {"local", "fedbn", "lg-fedavg", "fedproto", "fedsa-lora"}
"""Strategies that share no batch norm, so that there is nothing to measure anew."""

CHANGES: dict[str, dict] = {
    "pfa": {"strategy_args": "federated_rounds=1 groups=2", "rounds": 2},
    "ifca": {"strategy_args": "clusters=2 restarts=1 trial_rounds=1", "rounds": 3},
    "taper": {"rounds": 3},
    "taper-server": {"server_share": 0.2, "rounds": 4},
    "pfedhn": {"strategy_args": "new_rounds=1", "unseen": 0.34},
    "pfedpg": {"model": "over_grid:prompted", "strategy_args": "new_rounds=1", "unseen": 0.34},
    "qfedavg": {"strategy_args": "client_learning_rate=0.05"},
    "krum": {"strategy_args": "num_malicious_nodes=0"},
    "multikrum": {"strategy_args": "num_malicious_nodes=0 num_nodes_to_select=2"},
    "bulyan": {"strategy_args": "num_malicious_nodes=0"},
}


@pytest.fixture(autouse=True)
def _task(monkeypatch, caplog):
    caplog.set_level(logging.CRITICAL)
    tiny.without_pictures(monkeypatch)
    assemble.cache_clear()
    with flower_identity():
        yield


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Two domains of two classes with 12 pictures each, all names and all pictures canaries."""
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(5)
    for domain in (f"{DOMAIN}-a", f"{DOMAIN}-b"):
        for label in (f"{LABEL}-0", f"{LABEL}-1"):
            place = folder / domain / label
            place.mkdir(parents=True)
            for number in range(12):
                pixels = draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{FILE}-{number}.png")
    return folder


def traces(inputs: torch.Tensor, scaling) -> Iterator[bytes]:
    """Bytes by which a picture would be known: a row of each, as read, and as the network sees it.

    Args:
        inputs: [N, C, H, W], uint8.

    """
    seen = scaling(inputs)
    for picture, scaled in zip(inputs, seen, strict=True):
        yield picture[0, 0].numpy().tobytes()
        yield picture.permute(1, 2, 0)[0].numpy().tobytes()
        for kind in (torch.float32, torch.float64, torch.float16):
            yield scaled[0, 0].to(kind).numpy().tobytes()


def left(grid) -> list[bytes]:
    """All replies of a grid, as they are on the wire."""
    return [message_to_proto(reply).SerializeToString() for reply in grid.replies]


def assert_clean(messages: list[bytes], canaries: list[bytes]) -> None:
    assert messages
    for message in messages:
        assert [canary for canary in canaries if canary in message] == []


def canaries_of(run) -> list[bytes]:
    words = [word.encode() for word in (FILE, LABEL, DOMAIN, WORDS, "kanarie")]
    benchmark = run.assembly.benchmark
    rows: list[bytes] = []
    for client in run.everyone:
        for part in benchmark.split(client):
            rows += traces(part.inputs[:3], benchmark.scaling)
    assert len({*rows}) > 20  # the pictures differ
    return words + rows


STRICT = ""


def drive(folder: Path, name: str, **changes) -> Driven:
    run = Driven(folder, [STRICT] * 3, strategy=name, clients=3, adapt="none",
                 **{"rounds": 1, **changes})  # fmt: skip
    run.rounds(run.config.rounds)
    return run


def check(run: Driven) -> None:
    """Nothing that was declared was withheld, and no canary left."""
    assert {e.outcome for e in run.communication} <= {"accepted"}
    failures: list[Failure] = []
    for answers in run.evaluations(on_global=False):
        failures += answers.failures.values()
    assert failures == []
    for reply in run.grid.replies:
        assert egress.WITHHELD not in reply.content
    assert_clean(left(run.grid), canaries_of(run))


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_no_canary_leaves_by_any_message_of_a_strategy(tmp_path, pictures, name):
    """And all that the strategy needs is declared."""
    changes = {"model": tiny.NORM_MLP, **CHANGES.get(name, {})}
    if not is_flowers(find(name)) and name not in UNMEASURED:
        changes["batch_norm"] = "reestimate"
    run = drive(tmp_path, name, benchmark=f"folder:{pictures}", **changes)
    check(run)
    kinds = {kind for kind, _ in run.grid.sent}
    queries = () if is_flowers(find(name)) else find(name).query_types
    training = set() if name == "taper-server" else {"train"}
    wanted = {"query.hello", "evaluate", *training, *queries} - NOT_ASKED
    assert kinds == wanted - ({"query.moments"} if name in SILENT else set())


@pytest.mark.parametrize("name", TASKS)
def test_no_canary_leaves_by_any_message_of_a_strategy_that_learns_tasks(tmp_path, name):
    run = drive(tmp_path, name, benchmark="digits-tasks", **tiny.UNTRAINED,
                strategy_args="epochs=1", rounds=1)  # fmt: skip
    check(run)


ASKING = [name for name in ADAPTATIONS.ours if adaptation(name)().query() is not None]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("query.direction", {"strategy": "cfl"}),
        ("query.pseudo_labels", {"strategy": "taper-server", "server_share": 0.2, "rounds": 4}),
        *[(adaptation(name)().query().action, {"adapt": f"none,{name}"}) for name in ASKING],
    ],
)
def test_no_canary_leaves_by_a_query_under_circumstances_of_its_own(
    tmp_path, pictures, kind, changes
):
    """A client that never trains; what an adaptation asks before the final evaluation."""
    some = OneClient(tmp_path, "", clients=3, benchmark=f"folder:{pictures}", **changes)
    reply = some.ask(kind)
    assert set(reply.content) >= {"metrics"}
    assert reply.content.array_records
    assert egress.WITHHELD not in reply.content
    some.everyone = (0, 1, 2)
    assert_clean([message_to_proto(reply).SerializeToString()], canaries_of(some))


@pytest.mark.parametrize("kind", ["query.hello", "train", "evaluate", "query.moments"])
@pytest.mark.parametrize(
    "error", [ValueError, OSError, type(f"{LABEL}".replace("-", "_") * 20, (Exception,), {})]
)
def test_no_text_of_an_exception_leaves(tmp_path, pictures, monkeypatch, kind, error):
    """Not of one that a library raises over a file of the owner's; nor a type of any length."""
    some = OneClient(tmp_path, "", clients=3, benchmark=f"folder:{pictures}")

    def fail(*_, **__):
        raise error(f"{WORDS}: /home/{FILE}.jpg")

    monkeypatch.setattr(Worker, "_split", fail)
    monkeypatch.setattr("fedadapt.flower.client_app.software", fail)
    asked = {"adaptations": ["none"], "on-global": False} if kind == "evaluate" else {}
    reply = some.ask(kind, **asked)
    assert reply.has_error()
    assert_clean([message_to_proto(reply).SerializeToString()], canaries_of_words())


def test_a_hostile_strategy_cannot_send_a_picture(tmp_path, pictures, monkeypatch):
    """Neither as an array of its own, nor behind a declared one, nor as metrics."""
    some = OneClient(tmp_path, "", clients=3, benchmark=f"folder:{pictures}")
    some.everyone = (2,)
    picture = some.assembly.benchmark.split(2).train.inputs[:1]
    whole = records.answer

    def spied(update):
        content = whole(update)
        content["more"] = records.array_record({"picture": picture})
        content["arrays"][f"{FILE}.png"] = content["arrays"]["head.bias"]
        numbers = [float(n) for n in picture.flatten()]
        content["metrics"]["pixels"] = numbers
        raw = picture.numpy().tobytes()
        content["words"] = records.config_record({"path": f"{LABEL}/{FILE}", "raw": raw})
        return content

    monkeypatch.setattr(records, "answer", spied)
    reply = some.ask("train")
    assert reply.content[egress.WITHHELD]["parts"] == 4
    as_numbers = torch.tensor(picture[0, 0, 0].tolist()).double().numpy().tobytes()
    canaries = [*canaries_of(some), as_numbers]
    assert_clean([message_to_proto(reply).SerializeToString()], canaries)


def canaries_of_words() -> list[bytes]:
    return [word.encode() for word in (FILE, LABEL, DOMAIN, WORDS, "kanarie", "/home/")]
