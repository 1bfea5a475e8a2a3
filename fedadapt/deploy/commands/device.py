"""``fedadapt deploy`` on a device: run a client, find out what is wrong, forget."""

from pathlib import Path

import click

from fedadapt.deploy.commands.group import BUNDLE, FOLDER, deploy

HOME = click.option(
    "--home", type=FOLDER, help="where this client keeps what is its own  [~/.fedadapt/NAME]"
)
IMAGES = click.option("--images", type=FOLDER, help="this client's pictures, in folders by class")


@deploy.command()
@click.argument("bundle", type=BUNDLE)
@IMAGES
@HOME
@click.option(
    "--share",
    default="",
    help="what else may be told: classes (their names), normalization; separated by commas",
)
@click.option(
    "--policy", type=click.Path(path_type=Path), help="the owner's file of what may leave"
)
@click.option(
    "--node-config", default="", help="more of Flower's node configuration: key=value ..."
)
@click.option("--wait", is_flag=True, help="wait for a server that is not there yet")
@click.option("--insecure", is_flag=True, hidden=True)
def client(
    bundle: Path,
    images: Path | None,
    home: Path | None,
    share: str,
    policy: Path | None,
    node_config: str,
    wait: bool,
    insecure: bool,
) -> None:
    """Run a client with the bundle that was made for it, until Ctrl-C.

    It is started again whenever it ends. What waiting does not mend (a wrong clock, an unknown
    key, a certificate of another deployment, another version) ends it with one line.
    """
    from fedadapt.deploy.device.client import run_client
    from fedadapt.errors import InputError

    if insecure:
        raise InputError(
            "--insecure: a client speaks to its server over TLS only; the bundle has the "
            "certificate that it needs"
        )
    if images is None and not {"partition-id", "data"} & {
        word.partition("=")[0] for word in node_config.split()
    }:
        raise InputError("images: give the folder with this client's pictures: --images FOLDER")
    run_client(bundle, images, home, share, policy, node_config, click.echo, wait=wait)


@deploy.command()
@click.argument("path", type=BUNDLE, metavar="BUNDLE|DIR")
@IMAGES
@HOME
def doctor(path: Path, images: Path | None, home: Path | None) -> None:
    """Say what is wrong, and what to do: of a client (its bundle), or of a server (its folder)."""
    import tempfile

    from fedadapt.deploy.bundle import install
    from fedadapt.deploy.device.checks import check_device
    from fedadapt.deploy.device.client import home_of
    from fedadapt.deploy.device.connection import check_connection
    from fedadapt.deploy.findings import Finding
    from fedadapt.deploy.folder import SETTINGS, Deployment
    from fedadapt.deploy.server.checks import check_server
    from fedadapt.errors import FedadaptError

    good = True

    def show(finding: Finding) -> None:
        nonlocal good
        good = good and finding.is_good
        click.echo(f"{'ok ' if finding.is_good else 'BAD'}  {finding.line}")

    if (path / SETTINGS).is_file():
        for finding in check_server(Deployment.read(path)):
            show(finding)
    else:
        home, _ = home_of(path, home)
        for finding in check_device(home, images):
            show(finding)
        with tempfile.TemporaryDirectory() as folder:
            for finding in check_connection(install(path, Path(folder) / "identity")):
                show(finding)
    if not good:
        raise FedadaptError("something is wrong; see the lines marked BAD")


@deploy.command()
@click.argument("bundle", type=BUNDLE)
@HOME
@click.option("--older-than", type=click.FloatRange(0), default=30.0, help="days  [30]")
@click.option("--all", "everything", is_flag=True, help="the key, the models, the logs: all of it")
@click.option("--yes", is_flag=True, help="do not ask")
def forget(bundle: Path, home: Path | None, older_than: float, everything: bool, yes: bool) -> None:
    """Remove what this client keeps of runs that are over; with --all, everything."""
    from fedadapt.deploy.device.client import home_of
    from fedadapt.deploy.device.forget import forget_client, forget_runs, old_runs
    from fedadapt.deploy.folder import only_one
    from fedadapt.errors import InputError

    home, name = home_of(bundle, home)
    if not home.is_dir():
        raise InputError(f"{home}: {name} has kept nothing here")
    with only_one(home / "client.lock", f"{home}: this client is running"):
        if everything:
            if not yes:
                click.confirm(f"remove all of {home}, models and key included?", abort=True)
            freed = forget_client(home)
        else:
            folders = old_runs(home, older_than)
            for folder in folders:
                click.echo(folder)
            if folders and not yes:
                click.confirm("remove these?", abort=True)
            freed = forget_runs(folders)
    click.echo(f"{freed / 1e6:.1f} MB removed")
