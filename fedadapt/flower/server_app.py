"""The ServerApp: the same run as ``fedadapt simulate``, over Flower nodes."""

from dataclasses import replace

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Check the settings, wait for the clients, run, write the run folder.

    Raises:
        FedadaptError: one line. Flower takes it for a failed run; a ``SystemExit`` it would not
            notice in its simulation, and call the run completed.

    """
    from fedadapt.flower.clients_over_grid import GridClients, count_clients
    from fedadapt.flower.experiment import Experiment, resumed
    from fedadapt.server.checkpoint import load_latest
    from fedadapt.simulations.assembly import assemble
    from fedadapt.simulations.check import check
    from fedadapt.simulations.results.new_folder import new_folder
    from fedadapt.simulations.run import run

    resume, config = resumed(context.run_config)
    if not config.clients:
        config = replace(config, clients=count_clients(grid, config))
    check(config, flower=True)
    if not config.checkpoint_every:  # beside an exchange of seconds a checkpoint takes no time
        config = replace(config, checkpoint_every=1)
    assembly = assemble(config)
    if resume is None:
        folder = new_folder(config)
        experiment = Experiment.begin(folder, config)
    else:
        folder = resume
        experiment = Experiment.go_on(folder, load_latest(folder).round)
    client_pool = GridClients(grid, config, assembly.benchmark.manifest.hash, experiment)
    run(assembly, client_pool, folder, engine="flower", resume=resume is not None)
