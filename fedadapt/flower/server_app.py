"""The ServerApp: the same run as ``fedadapt simulate``, over Flower nodes."""

from dataclasses import replace
from typing import TYPE_CHECKING

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedadapt.config import RunConfig
from fedadapt.datasets.own.names import OWN
from fedadapt.flower.exit_codes import tells_exit_code

if TYPE_CHECKING:
    from fedadapt.flower.clients_over_grid import GridClients
    from fedadapt.simulations.assembly import Assembly

app = ServerApp()


@app.main()
@tells_exit_code
def main(grid: Grid, context: Context) -> None:
    """Check the settings, wait for the clients, run, write the run folder.

    Raises:
        FedadaptError: one line. Flower takes it for a failed run; a ``SystemExit`` it would not
            notice in its simulation, and call the run completed.

    """
    from fedadapt.flower.clients_over_grid import count_clients
    from fedadapt.flower.telling_clients import TellingClients
    from fedadapt.simulations.check import check
    from fedadapt.simulations.endings import early_endings
    from fedadapt.simulations.results.new_folder import new_folder, opened
    from fedadapt.simulations.run import run

    config = RunConfig.from_mapping(context.run_config)
    own = config.benchmark == OWN
    if not config.clients and not own:
        config = replace(config, clients=count_clients(grid, config))
    check(config, flower=True)
    folder = new_folder(config)
    with opened(folder, resume=False), early_endings(folder):
        tell("waiting for the clients")
        assembly, client_pool = (_with_own_data if own else _of_benchmark)(grid, config)
        run(assembly, TellingClients(client_pool, tell), folder, engine="flower")


def tell(line: str) -> None:
    """A line for ``flwr log``, at once."""
    print(line, flush=True)


def _of_benchmark(grid: Grid, config: RunConfig) -> "tuple[Assembly, GridClients]":
    """Clients that hold rows of a benchmark, which the server has too."""
    from fedadapt.flower.clients_over_grid import GridClients
    from fedadapt.flower.roll_call import BenchmarkRollCall
    from fedadapt.simulations.assembly import assemble

    assembly = assemble(config)
    roll_call = BenchmarkRollCall(grid, config, assembly.benchmark.manifest.hash)
    return assembly, GridClients(grid, config, roll_call, assembly.benchmark.kinds)


def _with_own_data(grid: Grid, config: RunConfig) -> "tuple[Assembly, GridClients]":
    """Clients that have data of their own: the server has a schema, and none of the data."""
    from fedadapt.datasets.own.benchmarks import OnServer
    from fedadapt.datasets.own.tasks import load_server_tasks, own_tasks
    from fedadapt.flower.clients_over_grid import GridClients
    from fedadapt.flower.roll_call import OwnRollCall
    from fedadapt.flower.software import network_facts
    from fedadapt.simulations.assembly import assembled, assembled_tasks

    server = load_server_tasks(config) if config.server_data else None
    roll_call = OwnRollCall(grid, config)
    schema = roll_call.agree(server)
    names = roll_call.roster.names
    config = replace(config, clients=len(names))
    clients = OnServer(OWN, schema, names)
    if server is None:
        assembly = assembled(config, clients)
    else:
        assembly = assembled_tasks(config, own_tasks(clients, schema, server))
    roll_call.confirm(network_facts(assembly.model))
    return assembly, GridClients(grid, config, roll_call, names, roll_call.settings)
