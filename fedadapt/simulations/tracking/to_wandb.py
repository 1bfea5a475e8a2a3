"""Weights & Biases: a run in the project that WANDB_PROJECT names; without a key, offline."""

import logging
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedadapt.simulations.tracking.tracker import TrackedRun, Tracker

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

PROJECT = "fedadapt"  # default of WANDB_PROJECT
ROUND = "round"


class WandB(Tracker):
    """Settings, metrics by round, and the report, the pictures and all files as an artifact.

    Offline, its files are in ``wandb`` below the run folder, and ``wandb sync`` uploads them. What
    is printed, the code and the machine are not recorded.
    """

    _run: "wandb.Run"

    def begin(self, run: TrackedRun) -> str:
        """Begin a run, or go on with the one that has the id."""
        import wandb

        id = run.id or secrets.token_hex(4)
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        if mode == "offline":
            log.info("track: wandb: offline; upload with: wandb sync %s/wandb/*", run.folder)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.folder.name,
            id=id,
            resume="allow" if run.id and mode != "offline" else None,
            dir=str(run.folder),
            mode=mode,
            config=dict(run.settings),
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                save_code=False,
                x_disable_stats=True,
                x_disable_machine_info=True,
            ),
        )
        self._run.define_metric("*", step_metric=ROUND)
        return id

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics; their step is the metric ``round``."""
        self._run.log({ROUND: round, **metrics})

    def finish(self, summary: Mapping[str, object], files: Sequence[Path]) -> None:
        """Show report and pictures, attach all files, and end the run."""
        import wandb

        shown: dict[str, Any] = {}
        for file in files:
            if file.suffix == ".png":
                shown[f"figures/{file.stem}"] = wandb.Image(str(file))
            elif file.suffix == ".html":
                shown[file.stem] = wandb.Html(file.read_text("utf-8"), inject=False)
        if shown:
            self._run.log(shown)
        artifact = wandb.Artifact(re.sub(r"[^\w.-]+", "-", f"run-{self._run.id}"), type="run")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)
        self._run.finish()

    def stop(self, reason: str) -> None:
        """End the run as failed; it may be gone on with."""
        self._run.summary["stopped"] = reason
        self._run.finish(exit_code=1)


def _has_key() -> bool:
    """Whether somebody has logged in, or given a key; nobody is asked for one."""
    import wandb

    return bool(os.environ.get("WANDB_API_KEY") or wandb.setup().settings.api_key or _in_netrc())


def _in_netrc() -> bool:
    import netrc

    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host for host in hosts)
