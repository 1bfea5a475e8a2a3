"""The ClientApp: what a client does when the server asks. The engines in one process skip it."""

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedadapt.client.egress.budget import PrivacyBudget
from fedadapt.client.egress.ledger import Ledger
from fedadapt.client.egress.policy import FACTS as OF_POLICY
from fedadapt.client.egress.policy import Policy
from fedadapt.client.failures import guard
from fedadapt.datasets.own.own_data import (
    channel_sums,
    class_names,
    image_shape,
    read_own_data,
)
from fedadapt.errors import RefusedError
from fedadapt.flower import records
from fedadapt.flower.client_source import SCHEMA, agreed, client_part, run_config
from fedadapt.flower.egress import Declared, Device, Egress, costing, debited
from fedadapt.flower.owner import Owner
from fedadapt.flower.riding import joined, split
from fedadapt.flower.run_facts.experiment import without_experiment
from fedadapt.flower.software import network_facts, software
from fedadapt.messages import Config
from fedadapt.server.checks import Expected
from fedadapt.simulations.collected_models import CollectedModels
from fedadapt.simulations.results.saved_models import keep_models
from fedadapt.weights import is_finite, row

FACTS = {
    "query.count": frozenset({"clients"}),
    "query.hello": frozenset(
        {"version", "code", "flwr", "torch", "partition-id", "manifest", "client", "image-shape",
         "network", "initial", "num-examples", *OF_POLICY}
    ),
    "query.classes": frozenset({"classes"}),
    "query.normalization": frozenset({"total", "squares", "pixels"}),
}  # fmt: skip
"""All that an answer to the server's own queries may say."""

OF_THE_SERVER = tuple(FACTS)
"""Asked of every client whatever the run; all other queries are a strategy's or an adaptation's."""


class RunClientApp(ClientApp):
    """Answers every query that the run's strategy or an adaptation declares, by whatever name.

    Flower has an app's queries registered when its module is imported, before the run is known.
    """

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message, or both messages in it; see ``riding``."""
        own, rider = split(message)
        if rider is None:
            return self._answered(message, context)
        # The model that came is tried before it is trained: the client's state is that of the
        # round that it ended.
        tried = self._answered(rider, context)
        return joined(message, self._answered(own, context), tried)

    def _answered(self, message: Message, context: Context) -> Message:
        kind = message.metadata.message_type
        if kind.startswith("query.") and kind not in OF_THE_SERVER:
            return egress(message, context, lambda m, c: guard(m, c, answer))
        return super().__call__(message, context)


def _device(context: Context) -> Device:
    """The owner's policy, and the ledger in the owner's folder."""
    policy = Policy.of(context.node_config)
    try:
        owner = Owner.of(context.node_config)
    except RefusedError:  # the answer says so, and holds nothing
        return Device(policy, None)
    if not owner.state:
        return Device(policy, None)
    name = str(owner.partition) if owner.source is None else owner.fingerprint()
    return Device(policy, Ledger(Path(owner.state), name))


def _declared(message: Message, context: Context) -> Declared:
    """What the run's strategy and adaptations say that an answer consists of."""
    kind = message.metadata.message_type
    if kind in OF_THE_SERVER:
        return Declared(facts=FACTS[kind])
    part = client_part(message.content, context)
    answer = part.assembly.worker.declared(kind, records.received(message.content, part.client))
    arrays = {records.ARRAYS: answer.weights, records.REPORT: answer.report}
    return Declared({n: Expected.of(w) for n, w in arrays.items()}, answer.metrics)


egress = Egress(_device, _declared)
app = RunClientApp(mods=[egress, guard])


@app.query("count")
def count(message: Message, context: Context) -> Message:
    """How many clients there are, for a run that did not say."""
    clients = run_config(context).clients
    if not clients:
        raise RefusedError("bad-settings", "clients: 0, and this node is of no simulation")
    return Message(records.request({}, {"clients": clients}), reply_to=message)


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Who this client is and what it runs; the server leaves out a client that does not fit.

    A client with own data is asked again when there is a schema: it then builds its network.
    """
    config, owner = run_config(context), Owner.of(context.node_config)
    owner.check(config)
    facts: dict[str, bool | int | float | str | list[int] | list[float] | list[str]] = {
        **software(),
        **Policy.of(context.node_config).to_config(),
    }
    if owner.source is None:
        part = client_part(message.content, context)
        benchmark = part.assembly.benchmark
        facts |= {"partition-id": part.client, "manifest": benchmark.manifest.hash}
        facts["num-examples"] = benchmark.num_train_examples(part.client)
    else:
        facts["client"] = owner.fingerprint()
        facts["image-shape"] = list(image_shape(owner.source, config.image_size))
        if SCHEMA in records.settings(message.content):
            part = client_part(message.content, context, begins=False)
            facts |= network_facts(part.assembly.model)
            facts["num-examples"] = part.assembly.benchmark.num_train_examples(part.client)
    return Message(records.request({}, facts), reply_to=message)


@app.query("classes")
def classes(message: Message, context: Context) -> Message:
    """The names of the classes of which this client has data, if its owner allows it."""
    owner = Owner.of(context.node_config)
    owner.check(run_config(context))
    owner.allows("classes")
    if owner.source is None:
        raise RefusedError("not-its-run", "classes: those of a benchmark are known")
    names = list(class_names(owner.source))
    return Message(records.request({}, {"classes": names}), reply_to=message)


@app.query("normalization")
def normalization(message: Message, context: Context) -> Message:
    """Sums of each channel over all training pictures, if the owner allows it; no picture's own."""
    owner = Owner.of(context.node_config)
    owner.check(run_config(context))
    owner.allows("normalization")
    if owner.source is None:
        raise RefusedError("not-its-run", "normalization: that of a benchmark is known")
    data = read_own_data(owner.source, agreed(records.settings(message.content)))
    sums = channel_sums(data.split.train)
    told: Config = {"total": sums.total, "squares": sums.squares, "pixels": sums.pixels}
    return Message(records.request({}, told), reply_to=message)


def answer(message: Message, context: Context) -> Message:
    """Compute the answer to ``train``, or to a query that the run declares; refuse any other."""
    assembly, client, store, data_set = client_part(message.content, context)
    sent = records.received(message.content, client)
    sent = sent._replace(config=without_experiment(sent.config))
    round = int(sent.config.get("server-round", 0))  # type: ignore[arg-type]
    action = message.metadata.message_type
    states = store.load(round, action)  # an exchange that is done again begins as it did
    update = assembly.worker.answer(action, round, sent, [states])
    new_states = {part: row(weights, 0) for part, weights in update.states.items()}
    policy, folder = Policy.of(context.node_config), Owner.of(context.node_config).state
    budget = PrivacyBudget(Path(folder), data_set) if folder else None
    epsilon = debited(action, states, new_states, policy, budget)
    if new_states and all(is_finite(weights) for weights in new_states.values()):
        store.save({**states, **new_states}, round, action)
    return Message(costing(records.answer(update), epsilon), reply_to=message)


app.train()(answer)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Results of the models received, adapted as asked; a stock strategy gets plain metrics."""
    content = message.content
    assembly, client, store, _ = client_part(content, context)
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
    wanted = config["adaptations"]
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
    # The kind of a client, its domain say, is its owner's: the server tells of what it knows.
    results = [result._replace(kind="") for result in evaluated.rows]
    told = records.rows_record(results, evaluated.failures, evaluated.confidences)
    return Message(told, reply_to=message)
