"""Runs over a Grid in memory, with clients that have owners: a state folder, and a policy."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import tiny
from fake_grid import FakeGrid, ask
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedadapt.client.egress.ledger import Entry, ledgers
from fedadapt.flower.client_app import app
from fedadapt.flower.clients_over_grid import GridClients
from fedadapt.flower.records import array_record, request
from fedadapt.flower.roll_call import BenchmarkRollCall
from fedadapt.flower.run_facts.experiment import Experiment
from fedadapt.flower.server_app import app as server
from fedadapt.models.networks.vit import vit_tiny
from fedadapt.server.client_pool import EvaluationRequest
from fedadapt.server.exchange import Exchange
from fedadapt.simulations.assembly import Assembly, assemble, initial, on_server


def settings(folder: Path, **changes) -> dict:
    """A run's settings, as Flower has them."""
    return tiny.config(out=str(folder), **changes).to_mapping()


def grid(
    config: Mapping,
    folder: Path,
    policies: Sequence[str | None] = (),
    run_id: int = 1,
    client_app: ClientApp = app,
) -> FakeGrid:
    """Nodes for all clients, client d with a disk of its own and the policy ``policies[d]``."""
    nodes: dict[int, dict] = {}
    count = int(config["clients"])
    for client in range(count):
        disk = folder / f"disk-{client}"
        node = {"partition-id": client, "num-partitions": count, "state-dir": str(disk)}
        text = policies[client] if client < len(policies) else None
        if text is not None:
            disk.mkdir(parents=True, exist_ok=True)
            (disk / "egress.toml").write_text(text)
            node["egress-policy"] = str(disk / "egress.toml")
        nodes[100 * (client + 7) % 613] = node
    return FakeGrid(client_app, nodes, config, run_id)


def serve(nodes: FakeGrid, config: Mapping) -> dict:
    """Run the ServerApp to its end; the summary in its folder."""
    server(nodes, Context(nodes.run_id, 1, {}, RecordDict(), dict(config)))
    folder = Path(str(config.get("resume") or config["out"]))
    return json.loads((folder / "summary.json").read_text())


def entries(folder: Path, client: int) -> list[Entry]:
    """What is in a client's ledger."""
    [ledger] = ledgers(folder / f"disk-{client}")
    return ledger.entries()


class OneClient:
    """Client 2 of 6, asked directly."""

    def __init__(self, folder: Path, policy: str | None = None, **changes) -> None:
        self.folder = folder
        self.config = settings(folder / "out", **{"adapt": "none", **changes})
        self.grid = grid(self.config, folder, [None, None, policy])
        self.node, self.node_config = next(
            (n, c) for n, c in self.grid.nodes.items() if c["partition-id"] == 2
        )
        self.assembly = assemble(
            tiny.config(out=self.config["out"], **{"adapt": "none", **changes})
        )

    def ask(self, kind: str, app: ClientApp = app, **config) -> Message:
        arrays = {"arrays": array_record(self.assembly.model.state_dict())}
        content = request(arrays, {"server-round": 1, **config})
        message = Message(content, self.node, kind)
        return ask(app, message, self.node, self.node_config, self.config)

    @property
    def entries(self) -> list[Entry]:
        return entries(self.folder, 2)


class Driven:
    """A strategy driven over clients of a Grid round by round, without tables and checkpoints."""

    def __init__(self, folder: Path, policies: Sequence[str | None] = (), **changes) -> None:
        assemble.cache_clear()
        self.config = tiny.config(out=str(folder / "out"), **changes)
        self.assembly: Assembly = assemble(self.config)
        self.grid = grid(self.config.to_mapping(), folder, policies)
        manifest = self.assembly.benchmark.manifest.hash
        told = Experiment("ab" * 8).to_config()
        self.clients = GridClients(
            self.grid, self.config, BenchmarkRollCall(self.grid, self.config, manifest),
            self.assembly.benchmark.kinds, lambda client: told,
        )  # fmt: skip
        self.clients.ready()
        (folder / "out").mkdir(parents=True, exist_ok=True)
        self.strategy = on_server(self.assembly, folder / "out")
        self.seen = tuple(self.assembly.benchmark.seen)
        self.everyone = tuple(range(self.config.clients))
        self.strategy.begin(initial(self.assembly.model), self.seen)
        self.communication: list = []

    def rounds(self, number: int) -> None:
        for round in range(1, number + 1):
            exchange = Exchange(
                self.clients, round, min_replies=0.01, max_update_norm=0.0,
                record=self.communication.append, progress=lambda count: None,
            )  # fmt: skip
            self.strategy.round(exchange, self.seen)
            self.round = round

    def evaluations(self, **changes) -> Iterator:
        """The answers to an evaluation of all that the strategy serves."""
        for task, models in self.strategy.models_by_task(self.everyone):
            request = EvaluationRequest(
                round=self.round, clients=self.everyone, models=models, task=task,
                adaptations=("none",), on_client=self.strategy.made_on_client, **changes,
            )  # fmt: skip
            yield from self.clients.evaluate(request)


def prompted(image_shape: tuple[int, int, int], num_classes: int):
    """A network with prompts, of a few numbers."""
    return vit_tiny(image_shape, num_classes, prompts=2, width=8, blocks=1, heads=2)
