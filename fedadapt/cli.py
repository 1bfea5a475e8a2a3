"""The command line. Light on purpose: torch is loaded only when something is about to run."""

import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import click
from rich.console import Console
from rich.text import Text

from fedadapt import __version__
from fedadapt.command_help import examples
from fedadapt.config import RunConfig
from fedadapt.deploy.commands import deploy
from fedadapt.errors import DiskFullError, FedadaptError, InputError, ended_by_exit
from fedadapt.files import disk_full, no_room, user_path
from fedadapt.new.command import new
from fedadapt.privacy.command import privacy_inversion
from fedadapt.privacy.ledger_command import ledger
from fedadapt.reproductions.command import reproduce
from fedadapt.runs.start import start
from fedadapt.saved_models.command import export, predict
from fedadapt.simulations.leaks_command import leaks
from fedadapt.simulations.run_options import names_of, prepare, run_options
from fedadapt.simulations.studies.command import compare, tune

if TYPE_CHECKING:
    from fedadapt.simulations.results.text_table import TextTable


class _Commands(click.Group):
    """Turns our errors into one line and an exit code; the traceback stays out of the way."""

    def main(self, *args: Any, **kwargs: Any) -> Never:
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False}) or 0
        except FedadaptError as error:
            _say(f"fedadapt: {error}", error.exit_code)
        except SystemExit as error:  # ours are outside of this; code of others may be in it
            if isinstance(error.__context__, BrokenPipeError):
                sys.exit(error.code)  # `| head` has seen enough
            _say(f"fedadapt: {ended_by_exit(error)}", FedadaptError.exit_code)
        except OSError as error:
            if not no_room(error):
                raise
            _say(f"fedadapt: {disk_full(Path(error.filename or '.'))}", DiskFullError.exit_code)
        except click.exceptions.Abort:
            _say("fedadapt: interrupted", 5)
        except click.ClickException as error:
            _say(f"fedadapt: {error.format_message()}", error.exit_code)
        sys.exit(code)


def _say(line: str, code: int) -> Never:
    if sys.stderr.isatty():  # a terminal would break it anywhere; a log keeps it as one line
        width = shutil.get_terminal_size().columns
        line = textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
    click.echo(line, err=True)
    sys.exit(code)


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, "-V", "--version", prog_name="fedadapt")
@click.pass_context
def main(context: click.Context) -> None:
    """Personalised federated learning: a model for every client, and what it was worth."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


main.add_command(new)
main.add_command(privacy_inversion)
main.add_command(ledger)
main.add_command(reproduce)
main.add_command(leaks)
main.add_command(predict)
main.add_command(export)
main.add_command(compare)
main.add_command(tune)
main.add_command(deploy)


@main.command(
    **examples(
        "fedadapt simulate",
        "fedadapt simulate --strategy pfa --benchmark digits-domains --clients 25",
        "fedadapt simulate --strategy ditto --strategy-args lam=0.5 --lr 0.1",
        "fedadapt simulate --benchmark mnist --partition dirichlet:0.1 --model cnn",
        "fedadapt simulate --adapt none,fine-tune --adapt-args fine-tune.epochs=10",
        "fedadapt simulate --resume runs/digits-classes-fedavg-1 --rounds 60",
    )
)
@run_options()
@click.option("--resume", type=click.Path(path_type=Path), help="go on with the run in this folder")
@click.option("--verbose", is_flag=True, help="log what is done and why")
def simulate(resume: Path | None, verbose: bool, **options: Any) -> None:
    """Train, personalise and evaluate on simulated clients; write a run folder.

    Without options: a hundred clients with handwritten digits, each seeing two of the ten classes.
    """
    prepare(verbose)
    begun = start(options, resume)
    console = Console(stderr=True)
    console.print(_headline(begun.config, begun.folder), soft_wrap=True)
    summary = begun.carry_out(console)
    _show(summary, begun.folder)


def _headline(config: RunConfig, folder: Path) -> Text:
    """What runs; only settings that it uses."""
    from fedadapt.strategies.registry import select

    rounds = f"{config.rounds} rounds"
    if "local-epochs" in select(config).settings:
        rounds += f" of {config.local_epochs} local epochs"
    return Text.assemble(
        (config.strategy, "bold"),
        " on ",
        (config.benchmark, "bold"),
        f": {config.clients or 'all'} clients, {config.model}, {rounds} -> {folder}",
    )


def _show(summary: dict[str, Any], folder: Path) -> None:
    from fedadapt.simulations.results.comparison import comparison
    from fedadapt.simulations.results.terminal_table import TerminalTable

    Console().print(TerminalTable(comparison([summary])))
    if "tasks" in summary:
        Console().print(_by_task(summary["tasks"]))
    click.echo(f"picture  {folder / 'gain.png'}")
    click.echo(f"report   {folder / 'report.html'}")


def _by_task(tasks: dict[str, Any]) -> "TextTable":
    """Accuracy on each task at the end, and what was forgotten on the way."""
    from fedadapt.simulations.results.text_table import TextTable

    last = [scores["matrix"][-1] for scores in tasks.values()]
    of_task = [f"task {t + 1}" for t in range(len(last[0]))]
    heads = ("client model", "accuracy", "forgetting", "over all T", *of_task)
    lines = []
    for (label, scores), row in zip(tasks.items(), last, strict=True):
        cells = (scores["accuracy"], scores["forgetting"], scores["forgetting_over_all"], *row)
        lines.append((label, *(f"{100 * cell:.2f}" for cell in cells)))
    return TextTable("by task, %; forgetting in points", heads, lines, names=1)


@main.command()
@click.option("--benchmark", default="digits-domains", help="built-in data set  [digits-domains]")
@click.option("--seed", default=1, help="fixes data assignment, weights and batches  [1]")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/demo"), help="  [runs/demo]"
)
@click.option("--verbose", is_flag=True, help="log what is done and why")
def demo(benchmark: str, seed: int, out: Path, verbose: bool) -> None:
    """Is federating worth something? Local, FedAvg, FedAvg + fine-tune and PFA on the same clients.

    A hundred clients with 30 handwritten digits each; about a minute. One table and one picture.
    """
    from fedadapt.simulations import demo as demonstration
    from fedadapt.simulations.check import check
    from fedadapt.simulations.results.terminal_table import TerminalTable

    prepare(verbose)
    folder = user_path(out, "out")
    runs = demonstration.plan(benchmark, seed, folder)
    for run in runs:
        check(run)
    table, files = demonstration.carry_out(runs, folder, Console(stderr=True))
    Console().print(TerminalTable(table))
    for file in files:
        click.echo(file)


@main.command()
@click.argument(
    "folders", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="FOLDER..."
)
@click.option("--figures", is_flag=True, help="also each figure as SVG and PDF, for a paper")
def report(folders: tuple[Path, ...], figures: bool) -> None:
    """Write report.html of run folders again, finished or not, or of a folder of finished runs.

    Of a run of PFA it also measures which layers tell clients apart, where its data are at hand.
    A folder of runs, as of `fedadapt compare`, gets a page that compares them.
    """
    for folder in folders:
        if not user_path(folder, "report").is_dir():
            raise InputError(f"{folder}: no such folder; name the folder of a run")
    from fedadapt.simulations.studies.report import pages

    for folder in folders:
        for path in pages(folder, figures=figures):
            click.echo(path)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0: any that is free  [0]")
def watch(folder: Path, port: int) -> None:
    """Show the report page of a run while the run goes on, on this computer only; Ctrl-C ends it.

    The page is loaded anew when the run has something new. The run itself is not touched.
    """
    from fedadapt.simulations.report.watch import server

    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the folder of a run")
    with server(folder, port) as serving:
        click.echo(f"http://127.0.0.1:{serving.server_address[1]}/")
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            click.echo("no longer watching; the run goes on")


@main.command()
@click.argument("name", required=False, shell_complete=names_of("benchmark"))
@click.option(
    "--data-root", default="", help="folder with real data sets (default: $FEDADAPT_DATA)"
)
def benchmarks(name: str | None, data_root: str) -> None:
    """List the data sets and whether they are here, or show one: sizes, where its files must be."""
    from fedadapt.datasets.task_incremental.benchmark_list import listing

    Console().print(listing(name, data_root))


@main.command()
@click.argument("name", required=False, shell_complete=names_of("model"))
def models(name: str | None) -> None:
    """List the networks, or show one with its sizes.

    NAME may also be that of an installed package, or module:factory.
    """
    from fedadapt.models.listing import listing

    Console().print(listing(name))


@main.command()
@click.argument("name", required=False, shell_complete=names_of("adapt"))
def adaptations(name: str | None) -> None:
    """List the local adaptations, or show one with its arguments.

    NAME may also be that of an installed package, or module:Class.
    """
    from fedadapt.client.adaptations.listing import listing

    prepare(verbose=False)
    Console().print(listing(name))


@main.command()
@click.argument("name", required=False, shell_complete=names_of("strategy"))
def strategies(name: str | None) -> None:
    """List the strategies, or show one with its arguments.

    NAME may also be that of an installed package, or module:Class.
    """
    from fedadapt.strategies.listing import listing

    prepare(verbose=False)
    Console().print(listing(name))
