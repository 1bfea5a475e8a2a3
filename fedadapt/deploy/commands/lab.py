"""``fedadapt deploy lab``: everything on one machine, to see it work."""

from pathlib import Path
from typing import Any

import click

from fedadapt.command_help import RunCommand
from fedadapt.deploy.commands.group import FOLDER, deploy
from fedadapt.simulations.run_options import config_of, given_keys, prepare, run_options


@deploy.command(cls=RunCommand)
@click.argument("folder", type=FOLDER, metavar="DIR", default=Path("lab"))
@run_options("clients", "out")
@click.option("--clients", type=click.IntRange(2, 8), default=3, help="how many  [3]")
@click.option("--port", type=click.IntRange(1, 65_535), default=8443, help="of the guard  [8443]")
@click.option(
    "--control-port", type=click.IntRange(1, 65_535), default=8000, help="of the SuperLink  [8000]"
)
@click.option("--keep", is_flag=True, help="leave server and clients running, until Ctrl-C")
@click.option("--verbose", is_flag=True, help="log what is done and why")
def lab(
    folder: Path,
    clients: int,
    port: int,
    control_port: int,
    keep: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Try it: a server and three clients with sample pictures on this machine, and a short run.

    By the commands that real machines use, with TLS and keys. Takes some minutes.
    """
    import time

    from fedadapt.deploy.lab import DEFAULTS, Lab
    from fedadapt.deploy.runs.run import run

    prepare(verbose)
    given = {name: value for name, value in options.items() if value is not None}
    chosen = {**DEFAULTS, **given, "clients": clients}
    config = config_of(chosen)
    bench = Lab(folder, clients, port, control_port, click.echo)
    try:
        bench.start()
        out = run(bench.deployment, config, given_keys(given), click.echo)
        click.echo(f"run folder     {out}")
        click.echo(f"clients' own   {bench.deployment.folder / 'clients'}/*/state")
        if keep:
            click.echo(
                f"running until Ctrl-C; in another terminal: fedadapt deploy run {folder} ..."
            )
            while True:
                time.sleep(1.0)
    except KeyboardInterrupt:
        click.echo("ends")
    finally:
        bench.end()


@deploy.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def pictures(folder: Path, names: tuple[str, ...]) -> None:
    """Write sample pictures (handwritten digits) for clients: DIR/NAME/<digit>/*.png."""
    from fedadapt.deploy.folder import check_name
    from fedadapt.deploy.sample_pictures import write_pictures

    for own in write_pictures(folder, tuple(check_name(name) for name in names)):
        click.echo(own)
