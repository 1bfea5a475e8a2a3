"""One run from a checked configuration to a complete run folder, on any engine."""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path

import tomli_w
from rich.console import Console

from fedadapt.config import RunConfig
from fedadapt.datasets.own.names import OWN
from fedadapt.errors import InputError
from fedadapt.files import write_atomically
from fedadapt.records import (
    LOCAL,
    CommunicationEntry,
    Confidence,
    Evaluation,
    EvaluationFailure,
    RoundLoss,
)
from fedadapt.server.checkpoint import Checkpoint, check_same_config, load_latest
from fedadapt.server.client_pool import ClientPool
from fedadapt.simulations.assembly import Assembly, assemble, on_server
from fedadapt.simulations.endings import FLOWER, early_endings, resume_command, stopped_by_signals
from fedadapt.simulations.engines.select import engine_for, num_workers
from fedadapt.simulations.estimate import ANNOUNCED, Estimate, announcement, estimate
from fedadapt.simulations.federation import Federation, InitialModel, Population
from fedadapt.simulations.progress import Progress
from fedadapt.simulations.report.figures import picture
from fedadapt.simulations.report.label_counts import write_label_counts
from fedadapt.simulations.report.report import write_report
from fedadapt.simulations.results.finished_journals import drop_journals, restore_journals
from fedadapt.simulations.results.forgetting import forgetting_rows, task_scores
from fedadapt.simulations.results.groups import as_text, read_groups
from fedadapt.simulations.results.journal import journal_rows
from fedadapt.simulations.results.new_folder import opened
from fedadapt.simulations.results.parquet import (
    Rows,
    table_rows,
    write_communication,
    write_confidences,
    write_evaluations,
    write_failures,
    write_losses,
    write_tasks,
)
from fedadapt.simulations.results.rand_index import compared
from fedadapt.simulations.results.saved_models import SavedModels
from fedadapt.simulations.results.serving import chosen_models
from fedadapt.simulations.results.summary import requested, summarise, write_summary
from fedadapt.simulations.round_choice import Watch
from fedadapt.simulations.studies.runs_left import RunsLeft
from fedadapt.simulations.tracking.tracking import Tracking

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


def simulate(
    config: RunConfig,
    folder: Path,
    *,
    resume: bool = False,
    console: Console | None = None,
    alone: Path | None = None,
    watch: Watch | None = None,
    pictures: bool = True,
    left: RunsLeft | None = None,
) -> dict[str, object]:
    """Run on the engine that is asked for; the summary that is in ``summary.json`` too.

    Args:
        alone: The folder of a finished run whose clients, when they train alone, do the same. If
            they are the same clients, its results are taken over.
        watch: Is told the score of each round on adapt images; see ``Federation``.
        pictures: Draw them, and write the report; they take longer than a small run.
        left: The runs of the study that it is one of.

    Raises:
        InputError: See ``run``; or the folder holds something else than this run, or is in use.
        FedadaptError: See ``early_endings`` and ``run``.

    """
    with opened(folder, resume=resume), stopped_by_signals(), early_endings(folder):
        with (console or Console(quiet=True)).status("preparing data and model"):
            assembly = assemble(config)
        # Ray takes SIGTERM for itself when it starts: take it back.
        with engine_for(assembly, folder) as client_pool, stopped_by_signals():
            return run(
                assembly,
                client_pool,
                folder,
                engine=config.engine,
                resume=resume,
                console=console,
                alone=alone,
                watch=watch,
                pictures=pictures,
                left=left,
            )


def run(
    assembly: Assembly,
    client_pool: ClientPool,
    folder: Path,
    *,
    engine: str = "processes",
    resume: bool = False,
    console: Console | None = None,
    alone: Path | None = None,
    watch: Watch | None = None,
    pictures: bool = True,
    left: RunsLeft | None = None,
) -> dict[str, object]:
    """Drive the federation over ``client_pool`` and write everything a run leaves behind.

    Raises:
        InputError, QuorumLostError, DivergedError: see ``Federation``.

    """
    config, benchmark = assembly.config, assembly.benchmark
    checkpoint = _checkpoint(folder, config, benchmark.manifest.hash, engine) if resume else None
    start = {n: t.detach().clone() for n, t in assembly.model.state_dict().items()}
    # Computers of another kind may draw other initial weights; those of a simulation are alike.
    initial = InitialModel(start, is_sent=bool(config.weights) or config.benchmark == OWN)
    has_local = config.local and assembly.tasks is None
    if checkpoint is not None:
        restore_journals(folder)
    with Progress(console, runs=left) as progress, Tracking(config, folder) as tracking:
        present = set(client_pool.ready())
        population = Population(
            tuple(client for client in benchmark.seen if client in present),
            tuple(client for client in sorted(benchmark.unseen) if client in present),
        )
        saved_models = SavedModels(
            config, assembly.worker, folder, on_clients=client_pool.keeps_models
        )
        estimated = announce(assembly, engine, checkpoint.round if checkpoint else 0, console)
        if estimated is not None:
            progress.expect(estimated)
        _describe(assembly, engine, folder)
        federation = Federation(
            config,
            on_server(assembly, folder, progress.learning),
            client_pool,
            population,
            assembly.worker.adaptations,
            folder,
            model=assembly.model,
            central_test=assembly.worker.evaluate_everywhere,
            progress=progress,
            saved_models=saved_models,
            initial=initial if has_local else None,
            alone=known_alone(alone, benchmark.manifest.hash) if has_local and alone else (),
            has_tasks=assembly.selected.learns_tasks,
            watch=watch,
            go_on=resume_command(folder, engine),
            tracking=tracking,
        )
        try:
            if checkpoint is not None:
                federation.resume(checkpoint)
                tracking.begin(after=checkpoint.round)
                checkpoint = None  # it holds files open
            else:
                federation.begin(start)
                tracking.begin()
        except BaseException:
            federation.close()
            raise
        seconds = federation.run()
        progress.phase("writing tables and pictures", 1)
        served = {}
        if config.serve == "best-on-adapt":
            served = chosen_models(journal_rows(folder, Evaluation), federation.last_round)
        saved_models.finish(federation.base_models(), federation.last_round, served)
        _write_results(assembly, federation, folder)
        federation.check_evaluated()  # the model is there; a headline of an earlier round is not
        summary = _write_summary(assembly, folder, seconds, client_pool.withheld)
        if pictures:
            _illustrate(assembly, folder)
        tracking.finish(summary)
        drop_journals(folder)
    if console is not None and (groups := read_groups(folder)) is not None:
        console.print(as_text(groups), highlight=False, soft_wrap=True)
    return summary


def known_alone(folder: Path, manifest: str) -> tuple[Evaluation, ...]:
    """Return what clients got by training alone in a finished run on the same clients.

    Nothing where the clients are others, or where it failed on one of them.
    """
    of_run = json.loads((folder / MANIFEST).read_text("utf-8"))["hash"]
    failures = table_rows(folder, EvaluationFailure)
    if of_run != manifest or any(failure.model == LOCAL for failure in failures):
        return ()
    return tuple(row for row in table_rows(folder, Evaluation) if row.model == LOCAL)


def announce(
    assembly: Assembly, engine: str, finished: int, console: Console | None = None
) -> Estimate | None:
    """Estimate how long the run will take, and say so if that is more than a few minutes.

    Clients of a Flower run compute elsewhere, a server that learns tasks does not know how long
    its experts will train, and on a server that trains on its own images clients do not: of these
    nothing is said.
    """
    if engine == FLOWER or assembly.tasks is not None or assembly.selected.trains_on_server:
        return None
    workers = num_workers(assembly.config, assembly)
    left = assembly.config.rounds - finished
    estimated = estimate(assembly, rounds=max(0, left), workers=workers)
    log.info("estimated: %s", estimated)
    if estimated.total >= ANNOUNCED:
        if console is None:
            log.warning("%s", announcement(estimated, workers))
        else:
            console.print(announcement(estimated, workers), highlight=False, soft_wrap=True)
    return estimated


def _checkpoint(folder: Path, config: RunConfig, manifest: str, engine: str) -> Checkpoint:
    """The state to go on from; refused where the settings or the data are not what they were."""
    checkpoint = load_latest(folder)
    begun_with = RunConfig().to_mapping() | checkpoint.config  # a key may be newer than the run
    check_same_config(begun_with, config.to_mapping())
    if config.lr_schedule == "cosine" and begun_with["rounds"] != config.rounds:
        raise InputError(
            f"resume: rounds was {begun_with['rounds']}, is {config.rounds}; a cosine runs over "
            "the rounds that a run begins with"
        )
    try:
        written = json.loads((folder / MANIFEST).read_text("utf-8"))
        begun, begun_on = written["hash"], str(written["engine"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder / MANIFEST}: {error}; without it no run goes on") from None
    if (begun_on == FLOWER) != (engine == FLOWER):
        raise InputError(
            f"resume: the run began with {begun_on} and cannot go on with {engine}, since part of "
            f"it is where its clients are; go on with: {resume_command(folder, begun_on)}"
        )
    if begun != manifest:
        raise InputError(
            f"resume: the data are not those the run began with (manifest {begun[:12]}, now "
            f"{manifest[:12]}); restore the files or start a new run"
        )
    return checkpoint


def _describe(assembly: Assembly, engine: str, folder: Path) -> None:
    """What the run is, before it begins or goes on (with more rounds, say)."""
    settings = tomli_w.dumps(assembly.config.to_mapping())
    write_atomically(folder / "config.toml", settings.encode())
    manifest = assembly.benchmark.manifest
    metadata = {"hash": manifest.hash, "engine": engine, **manifest.metadata}
    text = json.dumps(metadata, indent=1, sort_keys=True, default=str)
    write_atomically(folder / MANIFEST, text.encode())
    if assembly.tasks is None:  # of a task-incremental benchmark it would be the first task alone
        write_label_counts(folder, assembly.benchmark)


def _write_results(assembly: Assembly, federation: Federation, folder: Path) -> None:
    """The tables and the model: what there is however the final evaluation went."""
    config = assembly.config
    # Rows are read anew by each who goes through them: they need not fit in memory.
    evaluations = Rows(lambda: journal_rows(folder, Evaluation))
    write_evaluations(folder, evaluations)
    write_communication(folder, journal_rows(folder, CommunicationEntry))
    write_losses(folder, journal_rows(folder, RoundLoss))
    write_failures(folder, journal_rows(folder, EvaluationFailure))
    if config.confidence:
        write_confidences(folder, journal_rows(folder, Confidence))
    if assembly.tasks is not None:
        write_tasks(folder, forgetting_rows(task_scores(evaluations, requested(config))))
    for name, metadata in federation.describe().items():
        text = json.dumps(metadata | compared(metadata, assembly.benchmark.kinds), indent=1)
        write_atomically(folder / f"{name}.json", text.encode())


def _write_summary(
    assembly: Assembly, folder: Path, seconds: float, withheld: Mapping[str, int]
) -> dict[str, object]:
    """The headline."""
    config = assembly.config
    evaluations = Rows(lambda: journal_rows(folder, Evaluation))
    summary = summarise(
        config,
        assembly.benchmark.manifest.hash,
        evaluations,
        journal_rows(folder, CommunicationEntry),
        journal_rows(folder, RoundLoss),
        seconds,
        journal_rows(folder, EvaluationFailure),
        journal_rows(folder, Confidence),
        by_task=assembly.tasks is not None,
        withheld=withheld,
    )
    if (groups := read_groups(folder)) is not None:
        summary["groups"] = groups.headline
    write_summary(folder, summary)
    return summary


def _illustrate(assembly: Assembly, folder: Path) -> None:
    """The picture and the report."""
    began = time.perf_counter()
    evaluations = Rows(lambda: journal_rows(folder, Evaluation))
    picture(folder, requested(assembly.config), evaluations)
    write_report(folder, measure=False)
    log.info("pictures and report took %.1f s", time.perf_counter() - began)
