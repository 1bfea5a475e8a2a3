"""The ServerApp: the same run as ``fedadapt simulate``, over Flower nodes."""

from dataclasses import replace

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedadapt.config import RunConfig
from fedadapt.flower.exit_codes import tells_exit_code

app = ServerApp()


@app.main()
@tells_exit_code
def main(grid: Grid, context: Context) -> None:
    """Check the settings, wait for the clients, run, write the run folder.

    Raises:
        FedadaptError: one line. Flower takes it for a failed run; a ``SystemExit`` it would not
            notice in its simulation, and call the run completed.

    """
    from fedadapt.flower.clients_over_grid import GridClients, count_clients
    from fedadapt.flower.telling_clients import TellingClients
    from fedadapt.simulations.assembly import assemble
    from fedadapt.simulations.check import check
    from fedadapt.simulations.results.new_folder import new_folder
    from fedadapt.simulations.run import run

    config = RunConfig.from_mapping(context.run_config)
    if not config.clients:
        config = replace(config, clients=count_clients(grid, config))
    check(config, flower=True)
    assembly = assemble(config)
    folder = new_folder(config)
    client_pool = GridClients(grid, config, assembly.benchmark.manifest.hash)
    run(assembly, TellingClients(client_pool, tell), folder, engine="flower")


def tell(line: str) -> None:
    """A line for ``flwr log``, at once."""
    print(line, flush=True)
