"""The ServerApp: the same run as ``fedadapt simulate``, over Flower nodes."""

from dataclasses import replace

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedadapt.config import RunConfig

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Check the settings, wait for the clients, run, write the run folder.

    Raises:
        FedadaptError: one line. Flower takes it for a failed run; a ``SystemExit`` it would not
            notice in its simulation, and call the run completed.

    """
    from fedadapt.flower.clients_over_grid import GridClients, count_clients
    from fedadapt.simulations.assembly import assemble
    from fedadapt.simulations.check import check
    from fedadapt.simulations.endings import early_endings
    from fedadapt.simulations.results.new_folder import new_folder, opened
    from fedadapt.simulations.run import run

    config = RunConfig.from_mapping(context.run_config)
    if not config.clients:
        config = replace(config, clients=count_clients(grid, config))
    check(config, flower=True)
    assembly = assemble(config)
    folder = new_folder(config)
    with opened(folder, resume=False), early_endings(folder):
        client_pool = GridClients(grid, config, assembly.benchmark.manifest.hash)
        run(assembly, client_pool, folder, engine="flower")
