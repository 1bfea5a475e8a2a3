"""The group that every command of a deployment is in, and the kinds of its arguments."""

from pathlib import Path

import click

FOLDER = click.Path(path_type=Path, file_okay=False)
BUNDLE = click.Path(path_type=Path)


@click.group()
def deploy() -> None:
    """Run a federation on real machines: a server, and clients with pictures of their own."""
