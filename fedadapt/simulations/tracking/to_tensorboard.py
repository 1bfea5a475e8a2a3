"""TensorBoard: event files below the run folder, written without any server."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedadapt.simulations.tracking.tracker import TrackedRun, Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
HEADLINE = {"test/base/accuracy": 0.0}  # what its page of hyper-parameters shows beside them


class TensorBoard(Tracker):
    """Scalars by round, hyper-parameters, the pictures as images and the summary as text.

    A run that goes on hides what was written after the checkpoint that it goes on from.
    """

    _writer: "SummaryWriter"

    def begin(self, run: TrackedRun) -> str:
        """Open a file of events in ``tensorboard`` below the run folder."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        purged = run.round if run.id else None
        self._writer = SummaryWriter(str(run.folder / FOLDER), purge_step=purged)
        if not run.id:
            for record in hparams(dict(run.settings), HEADLINE)[:2]:
                self._writer.file_writer.add_summary(record)  # type: ignore[attr-defined]
            self._text("settings", run.settings, 0)
        self._writer.flush()
        return FOLDER

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        """Add a scalar for each metric."""
        self._round = round
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, round)
        self._writer.flush()

    def finish(self, summary: Mapping[str, object], files: Sequence[Path]) -> None:
        """Add the pictures and the summary; the report, which is a page, by where it is."""
        import numpy as np
        from PIL import Image
        from torch.utils.tensorboard.summary import hparams

        last = int(str(summary["evaluated_round"]))
        for file in files:
            if file.suffix == ".png":
                with Image.open(file) as image:
                    pixels = np.asarray(image.convert("RGB"))
                name = f"figures/{file.stem}"
                self._writer.add_image(name, pixels, last, dataformats="HWC")
        self._text("summary", summary, last)
        self._text("files", {file.name: str(file) for file in files}, last)
        end = hparams({}, {})[2]
        self._writer.file_writer.add_summary(end)  # type: ignore[attr-defined]
        self._writer.close()

    def stop(self, reason: str) -> None:
        """Close the file; a run that goes on opens another one in the same folder."""
        self._writer.close()

    def _text(self, name: str, values: Mapping[str, object], round: int) -> None:
        text = json.dumps(values, indent=1, default=str)
        block = "\n".join(f"    {line}" for line in text.splitlines())  # Markdown: as it is
        self._writer.add_text(name, block, round)
