"""What a deployment is doing, as tables: its clients, and its runs."""

import datetime

from rich.table import Table

from fedadapt.deploy.certificates import fingerprint, load_public_key
from fedadapt.deploy.folder import Deployment
from fedadapt.deploy.runs.run_status import RunStatus
from fedadapt.deploy.server.traffic import Seen, read_traffic

SHOWN = 8  # digits of a fingerprint
RUNS_SHOWN = 10


def clients_table(deployment: Deployment) -> Table:
    """A row for each client: whether it is connected, and its bytes since the beginning."""
    seen = read_traffic(deployment.traffic)
    table = Table(title="clients", title_justify="left", box=None, header_style="bold")
    for title in ("client", "key", "connected", "last seen", "MB up", "MB down", "refused"):
        table.add_column(title, justify="right" if "MB" in title else "left")
    for name in deployment.clients():
        key = fingerprint(load_public_key(deployment.public_keys / f"{name}.pub"))
        about = seen.get(name, Seen())
        last = datetime.datetime.fromtimestamp(about.last).strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(
            name,
            key[:SHOWN],
            "yes" if about.connected else "no",
            last if about.last else "never",
            f"{about.bytes_up / 1e6:.1f}",
            f"{about.bytes_down / 1e6:.1f}",
            str(about.refused),
        )
    return table


def runs_table(runs: list[RunStatus]) -> Table:
    """A row for each of the last runs."""
    table = Table(title="runs", title_justify="left", box=None, header_style="bold")
    for title in ("run", "status", "MB up", "MB down", "details"):
        table.add_column(title, justify="right" if "MB" in title else "left", overflow="fold")
    for run in runs[:RUNS_SHOWN]:
        up, down = (f"{size / 1e6:.1f}" for size in (run.bytes_up, run.bytes_down))
        table.add_row(run.run, run.status, up, down, run.details)
    return table
