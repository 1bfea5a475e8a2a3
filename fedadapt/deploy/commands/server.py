"""``fedadapt deploy`` on the server: make a deployment, serve it, run on it, see how it is."""

from pathlib import Path
from typing import Any

import click

from fedadapt.command_help import RunCommand
from fedadapt.config import DEPLOYED, RunConfig
from fedadapt.datasets.own.names import OWN
from fedadapt.deploy.commands.group import BUNDLE, FOLDER, deploy
from fedadapt.simulations.run_options import config_of, given_keys, prepare, run_options


@deploy.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    required=True,
    help="name or address by which clients reach the server; more may be given",
)
@click.option("--clients", type=click.IntRange(0, 10_000), default=5, help="how many  [5]")
@click.option("--port", type=click.IntRange(1, 65_535), default=8443, help="for clients  [8443]")
@click.option(
    "--control-port",
    type=click.IntRange(1, 65_535),
    default=8000,
    help="for the operator, on this machine only  [8000]",
)
def init(folder: Path, hosts: tuple[str, ...], clients: int, port: int, control_port: int) -> None:
    """Make certificates, a key and a bundle for each client, units of systemd, a compose file."""
    from fedadapt.deploy.server.init import initialise

    deployment = initialise(folder, hosts, clients, port, control_port)
    click.echo(f"{deployment.folder}: a server at {deployment.address} and {clients} clients")
    for bundle in sorted(deployment.bundles.glob("*.tar")):
        click.echo(f"carry to its client: {bundle}")
    click.echo(f"now start it: fedadapt deploy server {folder}")


@deploy.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("--listen", default="0.0.0.0", help="address the guard listens on  [0.0.0.0]")
def server(folder: Path, listen: str) -> None:
    """Run the server: Flower's SuperLink, and the guard that devices reach; until Ctrl-C."""
    from fedadapt.deploy.folder import Deployment
    from fedadapt.deploy.server.services import serve

    serve(Deployment.read(folder), listen, click.echo)


@deploy.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.argument("name")
def add(folder: Path, name: str) -> None:
    """Make a key and a bundle for one more client; the server may be running."""
    from fedadapt.deploy.folder import Deployment
    from fedadapt.deploy.server.init import add_client

    deployment = Deployment.read(folder)
    click.echo(f"carry to its client: {add_client(deployment, name)}")
    _register(deployment)


@deploy.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.argument("name")
def revoke(folder: Path, name: str) -> None:
    """Let a client in no more, from its next request on; the server may be running."""
    from fedadapt.deploy.folder import Deployment
    from fedadapt.deploy.server.init import revoke_client

    deployment = Deployment.read(folder)
    revoke_client(deployment, name)
    click.echo(f"{name} is refused from now on")
    _register(deployment)


def _register(deployment: Any) -> None:
    """Tell the SuperLink which clients there are, if it is running; it is told at each start."""
    from fedadapt.deploy.server.registration import register, told_of
    from fedadapt.deploy.server.superlink import is_up

    if is_up(deployment) and (revoked := register(deployment).revoked):
        click.echo(told_of(revoked, deployment))


@deploy.command(cls=RunCommand)
@click.argument("folder", type=FOLDER, metavar="DIR")
@run_options()
@click.option("--resume", type=BUNDLE, help="go on with the run in this folder")
@click.option("--verbose", is_flag=True, help="log what is done and why")
def run(folder: Path, resume: Path | None, verbose: bool, **options: Any) -> None:
    """Run on the clients that are connected, with the same options as ``simulate``.

    It is followed until its end, and its run folder brought to --out. Exit codes are those of
    docs/reliability.md; 8 is a server that is gone.
    """
    from fedadapt.deploy.folder import Deployment
    from fedadapt.deploy.runs.run import run as run_it

    prepare(verbose)
    deployment = Deployment.read(folder)
    given = {name: value for name, value in options.items() if value is not None}
    home = given.pop("out", None)
    if resume is not None:
        config = config_of(given, RunConfig.from_toml(resume / "config.toml"))
    else:
        config = _bounded({"clients": len(deployment.clients()) or None, **given})
    out = run_it(
        deployment,
        config,
        given_keys(given),
        click.echo,
        out=None if home is None else Path(home),
        resume=resume,
    )
    click.echo(f"run folder  {out}")


def _bounded(given: dict[str, Any]) -> RunConfig:
    """Return the settings of a new run, with those bounds of ``DEPLOYED`` that its method uses."""
    from fedadapt.simulations.unused import OF_STRATEGIES
    from fedadapt.strategies.registry import select

    given = {"benchmark": OWN, **given}
    unused = OF_STRATEGIES - select(config_of(given)).settings
    bounds = {k.replace("-", "_"): v for k, v in DEPLOYED.items() if k not in unused}
    return config_of({**bounds, **given})


@deploy.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.argument("number", metavar="RUN")
def stop(folder: Path, number: str) -> None:
    """Stop a run, and what its clients are computing."""
    from fedadapt.deploy.folder import Deployment
    from fedadapt.deploy.runs.run import stop as stop_it

    stop_it(Deployment.read(folder), number)


@deploy.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
def status(folder: Path) -> None:
    """Show the clients of a deployment, what each has sent and got, and the runs."""
    from rich.console import Console

    from fedadapt.deploy.folder import Deployment
    from fedadapt.deploy.runs.run_status import all_runs
    from fedadapt.deploy.runs.status import clients_table, runs_table
    from fedadapt.deploy.server.superlink import is_up

    deployment = Deployment.read(folder)
    Console().print(clients_table(deployment))
    if is_up(deployment):
        Console().print(runs_table(all_runs(deployment)))
    else:
        click.echo(f"the server is not running: fedadapt deploy server {folder}")
