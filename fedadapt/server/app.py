"""The ServerApp: the same run as ``fedadapt simulate``, over Flower nodes."""

from dataclasses import replace

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedadapt.config import RunConfig
from fedadapt.errors import FedadaptError

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Check the settings, wait for the devices, run, write the run folder."""
    from fedadapt.server.grid_fleet import GridFleet, count_devices
    from fedadapt.simulations.assembly import assemble
    from fedadapt.simulations.checking import check
    from fedadapt.simulations.folders import new_folder
    from fedadapt.simulations.run import run

    try:
        config = RunConfig.from_mapping(context.run_config)
        if not config.devices:
            config = replace(config, devices=count_devices(grid, config))
        check(config)
        assembly = assemble(config)
        folder = new_folder(config)
        fleet = GridFleet(grid, config, assembly.benchmark.manifest.hash)
        run(assembly, fleet, folder, engine="flower")
    except FedadaptError as error:
        raise SystemExit(f"fedadapt: {error}") from None
