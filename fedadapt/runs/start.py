"""A run that is begun or gone on with: the same from the command line and from Python. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from fedadapt.config import RunConfig
from fedadapt.errors import FedadaptError, InputError
from fedadapt.files import user_path
from fedadapt.simulations.run_options import config_of, given_keys


class Start(NamedTuple):
    """A run that has been checked and has a folder; nothing has been computed."""

    config: RunConfig
    folder: Path
    resume: bool

    def carry_out(self, console: Console | None) -> dict[str, Any]:
        """Compute the run; its summary.

        A new folder in which nothing was done is removed.

        Raises:
            FedadaptError: See ``simulations.run.simulate``.

        """
        from fedadapt.simulations.run import simulate

        try:
            return simulate(self.config, self.folder, resume=self.resume, console=console)
        except FedadaptError:
            if not self.resume and not any(self.folder.iterdir()):
                self.folder.rmdir()
            raise


def start(options: Mapping[str, Any], resume: Path | None) -> Start:
    """Check the settings of a run and make its folder.

    Args:
        options: Values by the names of ``RunConfig``'s fields; None: not given.
        resume: The folder of the run to go on with, whose settings are those that it has.

    Raises:
        InputError: See ``check`` and ``new_folder``; or there is no run to go on with.

    """
    from fedadapt.simulations.check import check
    from fedadapt.simulations.results.new_folder import new_folder

    given = dict(options)
    if resume is None:
        config = config_of(given)
        check(config, given_keys(given))
        return Start(config, new_folder(config), resume=False)
    folder = user_path(resume, "resume")
    saved = folder / "config.toml"
    if not saved.is_file():
        raise InputError(f"resume: {saved} is not there; name the folder of a run")
    if given.get("out"):
        raise InputError(f"out: a run goes on where it is, in {folder}; leave --out away")
    config = config_of(given, RunConfig.from_toml(saved))
    check(config, given_keys(given))
    return Start(config, folder, resume=True)
