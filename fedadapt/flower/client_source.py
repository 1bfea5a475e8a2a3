"""Where a client's part of a run comes from: a row of a benchmark, or its owner's own data.

A real client goes by its owner's node configuration: it alone says what is read, where state is
written and which foreign modules are imported. Flower's simulation has no owners.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from flwr.app import Context, RecordDict

from fedadapt.client.state_store import ClientStateStore
from fedadapt.config import RunConfig
from fedadapt.datasets.own.benchmarks import OnClient
from fedadapt.datasets.own.of_run import begin_run, pictures_of_run
from fedadapt.datasets.own.own_data import OwnData, OwnSource, read_own_data
from fedadapt.datasets.own.schema import Schema
from fedadapt.datasets.own.tasks import own_tasks
from fedadapt.errors import InputError, RefusedError
from fedadapt.flower import records
from fedadapt.flower.owner import Owner
from fedadapt.flower.run_facts.experiment import experiment_of, settings_of
from fedadapt.messages import Config
from fedadapt.simulations.assembly import Assembly, assemble, assembled, assembled_tasks

SCHEMA, CLIENT = "schema", "client"
"""Settings of a message to a client with own data: what was agreed on, and its number."""
_MOST_CLIENTS = 2**31


class ClientPart(NamedTuple):
    """What a client needs to answer."""

    assembly: Assembly
    client: int  # its number in the run
    store: ClientStateStore
    data_set: str  # what stays the same as long as answers are about the same images


def client_part(content: RecordDict, context: Context, *, begins: bool = True) -> ClientPart:
    """The part of a run that is on this client; built once in a process.

    Args:
        begins: Pictures that come after this message take part in the next run only.

    Raises:
        RefusedError: The run or the node configuration is not what the owner can allow.

    """
    config, owner = run_config(context), Owner.of(context.node_config)
    owner.check(config)
    if owner.source is None:
        return _row(config, owner, context, records.settings(content))
    settings = records.settings(content)
    schema, number = agreed(settings), settings.get(CLIENT)
    fingerprint = owner.fingerprint()
    if number is None:  # somebody else's server, which knows nothing of numbers
        number = int(fingerprint[:7], 16)
    if type(number) is not int or not 0 <= number < _MOST_CLIENTS:
        raise RefusedError("bad-settings", f"client: number {number!r}")
    store = _store(Path(owner.state), fingerprint, config, context, settings)
    data = own_data(owner.source, schema, pictures_of_run(store.folder))
    if begins and pictures_of_run(store.folder) is None:
        begin_run(store.make(), data.pictures)
    return ClientPart(own_assembly(config, schema, data), number, store, fingerprint)


def run_config(context: Context) -> RunConfig:
    """The run's settings; ``clients = 0`` stands for as many as Flower has nodes."""
    config = RunConfig.from_mapping(settings_of(context.run_config))
    number = context.node_config.get("num-partitions", 0)
    return config if config.clients else replace(config, clients=int(number))


def agreed(settings: Mapping[str, object]) -> Schema:
    """The schema in a message.

    Raises:
        RefusedError: There is none.

    """
    text = settings.get(SCHEMA)
    if not isinstance(text, str):
        raise RefusedError("no-schema", "schema: the message has none")
    try:
        return Schema.from_text(text)
    except InputError as error:
        raise RefusedError("no-schema", str(error)) from None


@lru_cache(maxsize=2)
def own_data(source: OwnSource, schema: Schema, only: frozenset[str] | None) -> OwnData:
    """Read this client's data once in a process."""
    return read_own_data(source, schema, only)


@lru_cache(maxsize=2)
def own_assembly(config: RunConfig, schema: Schema, data: OwnData) -> Assembly:
    """Build everything that this client needs around its own data, once in a process."""
    benchmark = OnClient(schema, data)
    if schema.tasks:
        return assembled_tasks(config, own_tasks(benchmark, schema), on_client=True)
    return assembled(config, benchmark, on_client=True)


def _row(config: RunConfig, owner: Owner, context: Context, settings: Config) -> ClientPart:
    """A row of a benchmark."""
    client = owner.partition
    if not config.clients:
        raise RefusedError("bad-settings", "clients: 0 works where Flower numbers the partitions")
    if client is None or client >= config.clients:
        raise RefusedError(
            "no-data",
            f"node config: partition-id={client} must be below clients={config.clients}",
        )
    state = Path(owner.state) if owner.state else Path(config.out or "runs") / "clients"
    if not owner.simulated:
        config = replace(config, data_root=owner.data_root)
    assembly = assemble(config, on_client=True)
    store = _store(state, str(client), config, context, settings)
    return ClientPart(assembly, client, store, f"{assembly.benchmark.manifest.hash}/{client}")


def _store(
    folder: Path, client: str, config: RunConfig, context: Context, settings: Config
) -> ClientStateStore:
    """Where this client keeps what stays with it.

    Args:
        settings: Of the message, which says what experiment it is of.

    """
    experiment = experiment_of(settings)
    if experiment is None:  # of somebody else's server: every run of Flower is another experiment
        return ClientStateStore(folder, f"{config.experiment}-{context.run_id}", client)
    store = ClientStateStore(folder, f"{config.experiment}-{experiment.id}", client)
    store.begin(experiment.attempt, after=experiment.after)
    return store
