"""``fedadapt ledger``: what has left a client, and what may. Light until it explains."""

from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from fedadapt.client.egress.ledger import Entry, Ledger, ledgers
from fedadapt.client.egress.policy import Policy
from fedadapt.errors import InputError


@click.command()
@click.argument("state_dir", type=click.Path(path_type=Path), required=False)
@click.option("--records", is_flag=True, help="list every array and number with its name and shape")
@click.option(
    "--explain",
    is_flag=True,
    help="what a message may hold, for each strategy and query, instead of what has left",
)
@click.option("--strategy", help="with --explain: of this strategy alone; also module:Class")
@click.option(
    "--policy",
    type=click.Path(path_type=Path),
    help="with --explain: an egress policy; say what it allows",
)
def ledger(
    state_dir: Path | None,
    records: bool,
    explain: bool,
    strategy: str | None,
    policy: Path | None,
) -> None:
    """List what has left a client, message by message; the list is checked on the way.

    STATE_DIR is the client's state-dir. An entry is written before its message is sent;
    "unconfirmed" is a message of a process that ended before it could say that it was sent.
    """
    if explain:
        if state_dir is not None or records:
            raise InputError("--explain: lists what may leave; leave STATE_DIR and --records out")
        _explain(strategy, None if policy is None else Policy.from_toml(policy))
        return
    if strategy or policy is not None:
        raise InputError("--strategy, --policy: they go with --explain")
    if state_dir is None:
        raise InputError("STATE_DIR: name the state-dir of a client, or give --explain")
    for each in ledgers(state_dir.expanduser()):
        _show(each, records)


def _show(of_client: Ledger, records: bool) -> None:
    entries = of_client.entries()
    console = Console()
    table = Table(title=f"{of_client.path}", title_justify="left", box=None, header_style="bold")
    for column in ("time", "run", "round", "message", "what left", "bytes", "epsilon", ""):
        table.add_column(column, justify="right" if column in ("bytes", "epsilon") else "left")
    for entry in entries:
        table.add_row(
            entry.time.removesuffix("+00:00"),
            entry.run[:8],
            str(entry.round),
            entry.type,
            "\n".join(_parts(entry) if records else [_in_short(entry)]),
            f"{entry.bytes:,}",
            f"{entry.epsilon:.3g}" if entry.epsilon else "",
            "" if entry.confirmed else "unconfirmed",
        )
    console.print(table)
    total = sum(entry.bytes for entry in entries)
    epsilon = sum(entry.epsilon for entry in entries)
    line = f"{len(entries)} messages, {total:,} bytes"
    click.echo(line + (f", epsilon {epsilon:.3g}" if epsilon else ""))


def _in_short(entry: Entry) -> str:
    """``arrays: 6, metrics: 2``, or why there was no answer."""
    if entry.outcome != "answer":
        return entry.outcome
    counts = Counter(part.record for part in entry.parts)
    left = ", ".join(f"{record}: {count}" for record, count in counts.items()) or "nothing"
    return left + (f"; withheld: {', '.join(entry.withheld)}" if entry.withheld else "")


def _parts(entry: Entry) -> list[str]:
    if entry.outcome != "answer":
        return [entry.outcome]
    return [
        f"{part.record}/{part.name} {part.dtype} {list(part.shape)} {part.bytes}"
        for part in entry.parts
    ] + [f"withheld: {name}" for name in entry.withheld]


def _explain(strategy: str | None, policy: Policy | None) -> None:
    from fedadapt.strategies.leaving import leaving

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("message", "asked by", "an answer holds", *(["allowed"] if policy else [])):
        table.add_column(column, overflow="fold")
    for row in leaving(strategy):
        cells = [row.message, ", ".join(row.asked_by), row.holds]
        if policy is not None:
            message = row.message.startswith(("query.", "train", "evaluate"))
            cells.append(("yes" if policy.allows(row.message) else "no") if message else "")
        table.add_row(*cells)
    Console().print(table)
