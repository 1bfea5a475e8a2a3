"""The ServerApp: the same run as ``fedadapt simulate``, over Flower nodes."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedadapt.datasets.own.names import OWN
from fedadapt.flower.real_clients.exit_codes import tells_exit_code

if TYPE_CHECKING:
    from fedadapt.config import RunConfig
    from fedadapt.flower.clients_over_grid import GridClients
    from fedadapt.flower.run_facts.experiment import Experiment
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
    from fedadapt.flower.real_clients.telling_clients import TellingClients
    from fedadapt.flower.real_clients.waits import shorten_waits_of_server
    from fedadapt.flower.run_facts.experiment import Experiment, resumed
    from fedadapt.server.checkpoint import load_latest
    from fedadapt.simulations.check import check
    from fedadapt.simulations.endings import early_endings
    from fedadapt.simulations.results.comparison import comparison
    from fedadapt.simulations.results.new_folder import new_folder, opened
    from fedadapt.simulations.results.terminal_table import as_lines
    from fedadapt.simulations.run import run

    shorten_waits_of_server()
    resume, config = resumed(context.run_config)
    own = config.benchmark == OWN
    if not config.clients and not own:
        config = replace(config, clients=count_clients(grid, config))
    check(config, flower=True)
    if not config.checkpoint_every:  # beside an exchange of seconds a checkpoint takes no time
        config = replace(config, checkpoint_every=1)
    folder = new_folder(config) if resume is None else resume
    with opened(folder, resume=resume is not None), early_endings(folder, engine="flower"):
        if resume is None:
            experiment = Experiment.begin(folder)
        else:
            experiment = Experiment.go_on(folder, load_latest(folder).round)
        tell("waiting for the clients")
        make = _with_own_data if own else _of_benchmark
        assembly, client_pool = make(grid, config, experiment, folder)
        experiment.write_resume_file(folder, assembly.config)
        tell(_memory(assembly))
        told = TellingClients(client_pool, tell)
        summary = run(assembly, told, folder, engine="flower", resume=resume is not None)
        for line in as_lines(comparison([summary])):
            tell(line)
        tell(f"report   {folder / 'report.html'}")


def tell(line: str) -> None:
    """A line for ``flwr log``, at once."""
    print(line, flush=True)


def _memory(assembly: "Assembly") -> str:
    from fedadapt.flower.run_facts.memory import memory_estimate
    from fedadapt.server.sampling import sample
    from fedadapt.weights import num_bytes

    config = assembly.config
    asked = len(sample(assembly.benchmark.seen, config.fraction, config.seed, 1))
    size = num_bytes({n: t.detach() for n, t in assembly.model.state_dict().items()})
    return memory_estimate(size, asked, compared=bool(config.max_update_factor))


def _of_benchmark(
    grid: Grid, config: "RunConfig", experiment: "Experiment", folder: Path
) -> "tuple[Assembly, GridClients]":
    """Clients that hold rows of a benchmark, which the server has too."""
    from fedadapt.flower.clients_over_grid import GridClients
    from fedadapt.flower.roll_call import BenchmarkRollCall
    from fedadapt.simulations.assembly import assemble

    assembly = assemble(config)
    roll_call = BenchmarkRollCall(grid, config, assembly.benchmark.manifest.hash)
    kinds, settings = assembly.benchmark.kinds, experiment.to_config()
    return assembly, GridClients(grid, config, roll_call, kinds, lambda client: settings)


def _with_own_data(
    grid: Grid, config: "RunConfig", experiment: "Experiment", folder: Path
) -> "tuple[Assembly, GridClients]":
    """Clients that have data of their own: the server has a schema, and none of the data."""
    from fedadapt.datasets.own.benchmarks import OnServer
    from fedadapt.datasets.own.server_pictures import ServerPictures, load_server_pictures
    from fedadapt.datasets.own.tasks import ServerTasks, load_server_tasks, own_tasks
    from fedadapt.flower.clients_over_grid import GridClients
    from fedadapt.flower.roll_call import OwnRollCall
    from fedadapt.flower.run_facts.agreement import Agreement
    from fedadapt.flower.software import network_facts
    from fedadapt.simulations.assembly import assembled, assembled_tasks
    from fedadapt.strategies.registry import select

    server: ServerTasks | ServerPictures | None = None
    if config.server_data:
        load = load_server_tasks if select(config).learns_tasks else load_server_pictures
        server = load(config)
    agreement = Agreement.read(folder) if experiment.attempt > 1 else None
    roll_call = OwnRollCall(grid, config, agreement)
    schema = roll_call.agree(server)
    Agreement(roll_call.roster, schema).write(folder)
    names = roll_call.roster.names
    config = replace(config, clients=len(names))
    if isinstance(server, ServerTasks):
        clients = OnServer(schema, names)
        assembly = assembled_tasks(config, own_tasks(clients, schema, server))
    else:
        images = None if server is None else server.images
        assembly = assembled(config, OnServer(schema, names, images))
    roll_call.confirm(network_facts(assembly.model))
    settings = experiment.to_config()
    return assembly, GridClients(
        grid, config, roll_call, names, lambda client: {**roll_call.settings(client), **settings}
    )
