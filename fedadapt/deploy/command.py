"""``fedadapt deploy``: a federation of real machines. Nothing heavy is loaded for ``--help``."""

from pathlib import Path
from typing import Any

import click

from fedadapt.simulations.run_options import config_of, given_keys, prepare, run_options

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group()
def deploy() -> None:
    """Run a federation on real machines: a server, and clients with pictures of their own."""


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
    from fedadapt.deploy.init import initialise

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
    from fedadapt.deploy.server import serve

    serve(Deployment.read(folder), listen, click.echo)


BUNDLE = click.Path(path_type=Path)
HOME = click.option(
    "--home", type=FOLDER, help="where this client keeps what is its own  [~/.fedadapt/NAME]"
)
IMAGES = click.option("--images", type=FOLDER, help="this client's pictures, in folders by class")


@deploy.command()
@click.argument("bundle", type=BUNDLE)
@IMAGES
@HOME
@click.option("--node-config", default="", help="more of Flower's node configuration: key=value ...")
@click.option("--insecure", is_flag=True, hidden=True)
def client(
    bundle: Path, images: Path | None, home: Path | None, node_config: str, insecure: bool
) -> None:
    """Run a client with the bundle that was made for it, until Ctrl-C.

    It is started again whenever it ends. What waiting does not mend (a wrong clock, an unknown
    key, a certificate of another deployment, another version) ends it with one line.
    """
    from fedadapt.deploy.client import run_client
    from fedadapt.errors import InputError

    if insecure:
        raise InputError(
            "--insecure: a client speaks to its server over TLS only; the bundle has the "
            "certificate that it needs"
        )
    if images is None and "partition-id" not in node_config:
        raise InputError("images: give the folder with this client's pictures: --images FOLDER")
    run_client(bundle, images, home, node_config, click.echo)


@deploy.command()
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
    from fedadapt.deploy.run import run as run_it

    prepare(verbose)
    deployment = Deployment.read(folder)
    config = config_of({"clients": len(deployment.clients()) or None, **_given(options)})
    out = run_it(deployment, config, given_keys(options), click.echo, resume=resume)
    click.echo(f"run folder  {out}")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
