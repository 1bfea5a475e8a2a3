"""``fedadapt report``: the page of a run, or that of a comparison of the runs in a folder."""

from collections.abc import Iterator
from pathlib import Path

from fedadapt.errors import InputError
from fedadapt.simulations.report.paper_figures import write_figures
from fedadapt.simulations.report.report import write_report
from fedadapt.simulations.report.study.figures import write_study_figures
from fedadapt.simulations.report.study.page import write_study
from fedadapt.simulations.results.summary import SUMMARY
from fedadapt.simulations.studies.made_runs import CONFIG, read_run, run_folders
from fedadapt.simulations.studies.study_of_runs import study_of_runs
from fedadapt.simulations.studies.table import table_of

REPRODUCTION = "reproduction.json"


def pages(folder: Path, *, figures: bool) -> Iterator[Path]:
    """Write the page of a folder, and with ``figures`` each figure as SVG and PDF; yield the paths.

    Raises:
        InputError: The folder holds nothing of a run, or a reproduction, whose command writes it.

    """
    if (folder / REPRODUCTION).is_file():
        raise InputError(
            f"{folder}: is of a reproduction; the same `fedadapt reproduce` writes its page again, "
            "with --figures its figures too, and runs nothing twice"
        )
    is_run = any((folder / name).is_file() for name in (SUMMARY, CONFIG))
    if is_run or not any(folder.glob(f"*/{SUMMARY}")):
        yield write_report(folder)
        if figures:
            yield from write_figures(folder)
        return
    runs = [read_run(path) for path in run_folders([folder])]
    study = study_of_runs(table_of(runs), runs, folder)
    yield write_study(folder, study)
    if figures:
        yield from write_study_figures(folder, study)
