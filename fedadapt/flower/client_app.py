"""The ClientApp: what a client does when the server asks. The engines in one process skip it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedadapt import __version__
from fedadapt.client.egress.budget import PrivacyBudget
from fedadapt.client.egress.ledger import Ledger
from fedadapt.client.egress.policy import FACTS as OF_POLICY
from fedadapt.client.egress.policy import Policy
from fedadapt.client.failures import guard
from fedadapt.client.state_store import ClientStateStore
from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.flower import records
from fedadapt.flower.egress import Declared, Device, Egress, costing, debited
from fedadapt.flower.experiment import experiment_of, settings_of, without_experiment
from fedadapt.messages import Config
from fedadapt.server.checks import Expected
from fedadapt.simulations.assembly import Assembly, assemble
from fedadapt.simulations.collected_models import CollectedModels
from fedadapt.simulations.results.saved_models import keep_models
from fedadapt.weights import Weights, is_finite, row

FACTS = frozenset({"clients", "partition-id", "version", "manifest", "num-examples", *OF_POLICY})
"""All that an answer to the server's own queries may say."""

OF_THE_SERVER = ("query.count", "query.hello")
"""Asked of every client whatever the run; all other queries are a strategy's or an adaptation's."""


class RunClientApp(ClientApp):
    """Answers every query that the run's strategy or an adaptation declares, by whatever name.

    Flower has an app's queries registered when its module is imported, before the run is known.
    """

    def __call__(self, message: Message, context: Context) -> Message:
        kind = message.metadata.message_type
        if kind.startswith("query.") and kind not in OF_THE_SERVER:
            return egress(message, context, lambda m, c: guard(m, c, answer))
        return super().__call__(message, context)


def _device(context: Context) -> Device:
    """The owner's policy, and the ledger in the owner's folder."""
    folder = context.node_config.get("state-dir")
    ledger = Ledger(Path(str(folder)), _name(context)) if folder else None
    return Device(Policy.of(context.node_config), ledger)


def _declared(message: Message, context: Context) -> Declared:
    """What the run's strategy and adaptations say that an answer consists of."""
    kind = message.metadata.message_type
    if kind in OF_THE_SERVER:
        return Declared(facts=FACTS)
    assembly, client = _self(context)
    sent = records.received(message.content, client)
    answer = assembly.worker.declared(kind, sent)
    arrays = {records.ARRAYS: answer.weights, records.REPORT: answer.report}
    return Declared({n: Expected.of(w) for n, w in arrays.items()}, answer.metrics)


egress = Egress(_device, _declared)
app = RunClientApp(mods=[egress, guard])


@app.query("count")
def count(message: Message, context: Context) -> Message:
    """How many clients there are, for a run that did not say."""
    settings = {"clients": _config(context).clients}
    return Message(records.request({}, settings), reply_to=message)


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Who this client is; the server refuses a client that does not fit the run."""
    assembly, client = _self(context)
    facts: Config = {
        "partition-id": client,
        "version": __version__,
        "manifest": assembly.benchmark.manifest.hash,
        "num-examples": assembly.benchmark.num_train_examples(client),
        **Policy.of(context.node_config).to_config(),
    }
    return Message(records.request({}, facts), reply_to=message)


def answer(message: Message, context: Context) -> Message:
    """Compute the answer to ``train``, or to a query that the run declares; refuse any other."""
    assembly, client = _self(context)
    sent = records.received(message.content, client)
    store = _store(assembly.config, context, client, sent.config)
    sent = sent._replace(config=without_experiment(sent.config))
    round = int(sent.config.get("server-round", 0))  # type: ignore[arg-type]
    action = message.metadata.message_type
    states = store.load(round, action)
    update = assembly.worker.answer(action, round, sent, [states])
    new_states = {part: row(weights, 0) for part, weights in update.states.items()}
    epsilon = _debited(action, states, new_states, assembly, context, client)
    if new_states and all(is_finite(weights) for weights in new_states.values()):
        store.save({**states, **new_states}, round, action)
    return Message(costing(records.answer(update), epsilon), reply_to=message)


app.train()(answer)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Results of the models received, adapted as asked; a stock strategy gets plain metrics."""
    assembly, client = _self(context)
    content = message.content
    config = records.settings(content)
    if "adaptations" not in config:
        return answer(message, context)
    models = {
        ("base" if name == records.ARRAYS else name): {
            n: t.unsqueeze(0) for n, t in records.tensors(record).items()
        }
        for name, record in content.array_records.items()
        if not name.startswith(records.POOLED)
    }
    pooled = {
        name.removeprefix(records.POOLED): records.tensors(record)
        for name, record in content.array_records.items()
        if name.startswith(records.POOLED)
    }
    wanted, store = config["adaptations"], _store(assembly.config, context, client, config)
    round, task = int(config["server-round"]), int(config.get("task", 0))  # type: ignore[arg-type]
    collected = CollectedModels(config.get("collect", ()))  # type: ignore[arg-type]
    evaluated = assembly.worker.at(task).evaluate(
        round,
        [client],
        models,
        [store.load()],
        adaptations=assembly.worker.methods(wanted),  # type: ignore[arg-type]
        pooled=pooled,
        on_global=bool(config["on-global"]),
        curves=bool(config.get("curves", False)),
        held_out=bool(config.get("held-out", False)),
        confidence=bool(config.get("confidence", False)),
        on_client=config.get("on-client", []),  # type: ignore[arg-type]
        collected=collected if collected.wanted else None,
    )
    keep_models(assembly.config, assembly.worker, store, (round, task), collected.models)
    return Message(records.rows_record(*evaluated), reply_to=message)


def _config(context: Context) -> RunConfig:
    """The run's settings; ``clients = 0`` stands for as many as Flower has nodes."""
    config = RunConfig.from_mapping(settings_of(context.run_config))
    if config.clients:
        return config
    if "num-partitions" not in context.node_config:
        raise InputError("clients: 0 works where Flower numbers the partitions; give their number")
    return replace(config, clients=int(context.node_config["num-partitions"]))


def _self(context: Context) -> tuple[Assembly, int]:
    """The part of the run that is on this client; built once in a process."""
    config = _config(context)
    if "partition-id" not in context.node_config:
        raise InputError('node config: no partition-id; give --node-config "partition-id=0"')
    client = int(context.node_config["partition-id"])
    if not 0 <= client < config.clients:
        raise InputError(
            f"node config: partition-id={client} must be below clients={config.clients}"
        )
    return assemble(config, on_client=True), client


def _name(context: Context) -> str:
    """The name under which this client keeps its files."""
    return str(context.node_config.get("partition-id", context.node_id))


def _debited(
    action: str,
    states: Mapping[str, Weights],
    new_states: Mapping[str, Weights],
    assembly: Assembly,
    context: Context,
    client: int,
) -> float:
    """Debit what an answer reveals of this client's images; see ``egress.debited``."""
    policy, folder = Policy.of(context.node_config), context.node_config.get("state-dir")
    data_set = f"{assembly.benchmark.manifest.hash}/{client}"
    budget = PrivacyBudget(Path(str(folder)), data_set) if folder else None
    return debited(action, states, new_states, policy, budget)


def _store(config: RunConfig, context: Context, client: int, settings: Config) -> ClientStateStore:
    """Where this client keeps what stays with it; node config ``state-dir`` says where.

    Args:
        settings: Of the message, which says what experiment it is of.

    """
    folder = Path(
        str(context.node_config.get("state-dir") or Path(config.out or "runs", "clients"))
    )
    experiment = experiment_of(settings)
    if experiment is None:  # of somebody else's server: every run of Flower is another experiment
        name = f"{config.experiment}-{context.run_id}"
        return ClientStateStore(folder, name, str(client))
    store = ClientStateStore(folder, f"{config.experiment}-{experiment.id}", str(client))
    store.begin(experiment.attempt, after=experiment.after)
    return store
