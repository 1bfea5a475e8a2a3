"""The ServerApp: the same run as ``fedadapt simulate``, over Flower nodes."""

from dataclasses import replace

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedadapt.config import RunConfig

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Check the settings, wait for the devices, run, write the run folder.

    Raises:
        FedadaptError: one line. Flower takes it for a failed run; a ``SystemExit`` it would not
            notice in its simulation, and call the run completed.

    """
    from fedadapt.server.grid_fleet import GridFleet, count_devices
    from fedadapt.simulations.assembly import assemble
    from fedadapt.simulations.checking import check
    from fedadapt.simulations.folders import new_folder
    from fedadapt.simulations.run import run

    config = RunConfig.from_mapping(context.run_config)
    if not config.devices:
        config = replace(config, devices=count_devices(grid, config))
    check(config)
    assembly = assemble(config)
    folder = new_folder(config)
    fleet = GridFleet(grid, config, assembly.benchmark.manifest.hash)
    run(assembly, fleet, folder, engine="flower")
