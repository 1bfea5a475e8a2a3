"""One deployment for all tests of this folder: a server, and three clients, over TLS.

To start it takes most of a minute. Each test gets it with all clients connected and nothing
planned for them; what a test ends is started again before the next one.
"""

import os
import re
import shutil
import threading
from pathlib import Path

import pytest
from machines import Machines

from fedadapt.deploy.sample_pictures import write_pictures
from fedadapt.simulations.results.parquet import read_communication

CLIENTS = ("client-1", "client-2", "client-3")
PACS = Path(os.environ.get("FEDADAPT_DATA", "nowhere")) / "pacs"
PER_CLASS = 12  # pictures of PACS


class Bench(Machines):
    """Machines with pictures, on which runs are made."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, len(CLIENTS))
        self.classes, self.tasks, self.picture_side = write_all_pictures(self)

    def restore(self) -> None:
        """All clients connected, and nothing planned."""
        for kind in ("count", "answers", "plan"):
            for path in self.folder.glob(f"*.{kind}"):
                path.unlink()
        for name in CLIENTS:
            if name not in self.processes:
                self.start_client(name)
        self.wait_connected(*CLIENTS)

    def plan(self, client: str, number: int, what: str) -> None:
        """Say what the n-th training of a client does, from now on."""
        (self.folder / f"{client}-{number}.plan").write_text(what)

    def go_on(self, client: str, number: int) -> None:
        """Let a client that dawdles go on."""
        (self.folder / f"{client}-{number}.plan").unlink()

    def trainings(self, client: str, what: str = "count") -> int:
        """How often a client has begun to train in this test; ``answers``: has done so."""
        path = self.folder / f"{client}.{what}"
        return len(path.read_text()) if path.exists() else 0

    def run(self, *words: object) -> tuple[int, str, Path]:
        """A run of a small network to its end: exit code, what it said, its folder."""
        code, said = self.deploy(*self.words_of_run(*words))
        return code, said, self.newest_run()

    def words_of_run(self, *words: object) -> tuple[object, ...]:
        """The command of ``run``."""
        return (
            "run", self.server, "--classes", ",".join(self.classes), "--model", "mlp",
            "--image-size", "12", "--local-epochs", "1", "--adapt", "none", "--no-local",
            "--save-models", "none", "--evaluate-every", "9", *words,
        )  # fmt: skip

    def run_beside(self, *words: object) -> "Beside":
        """The same, while the test goes on."""
        return Beside(lambda: self.run(*words))

    def newest_run(self) -> Path:
        return max((self.server / "runs").iterdir(), key=os.path.getmtime)

    def number_of_run(self) -> str:
        """Flower's number of the run of which the first client was asked last."""
        return re.findall(r"run (\d+), round", self.said("client-1"))[-1]


class Beside:
    """A call in a thread of its own."""

    def __init__(self, call) -> None:
        self._results = []
        self._thread = threading.Thread(target=lambda: self._results.append(call()))
        self._thread.start()

    def result(self):
        self._thread.join()
        [result] = self._results
        return result


def write_all_pictures(bench: Machines) -> tuple[tuple[str, ...], Path, str]:
    """Pictures of each client, and tasks for the server; classes, tasks, side in pixels.

    PACS where there is one, a domain each: art paintings, cartoons and photos, and sketches for the
    server. Else handwritten digits that look different.
    """
    root = bench.pictures("")
    owners = (*CLIENTS, "server")
    if PACS.is_dir():
        domains = ("art_painting", "cartoon", "photo", "sketch")
        labels = tuple(sorted(path.name for path in (PACS / domains[0]).iterdir()))
        side = "32"
        for name, domain in zip(owners, domains, strict=True):
            for label in labels:
                (root / name / label).mkdir(parents=True)
                for path in sorted((PACS / domain / label).iterdir())[:PER_CLASS]:
                    shutil.copy(path, root / name / label)
    else:
        labels, side = tuple("0123456789"), "16"
        write_pictures(root, owners, 60)
    tasks = bench.folder / "tasks"
    for number, of_task in enumerate((labels[: len(labels) // 2], labels[len(labels) // 2 :])):
        (tasks / f"task-{number}").mkdir(parents=True)
        for label in of_task:
            (tasks / f"task-{number}" / label).symlink_to(root / "server" / label)
    return labels, tasks, side


def outcomes(folder: Path) -> dict[tuple[int, int], tuple[str, str]]:
    """Client, as people count, and round -> what came of its training."""
    return {
        (row.client + 1, row.round): (row.outcome, re.sub(" incident=.*", "", row.reason))
        for row in read_communication(folder)
        if row.action == "train"
    }


@pytest.fixture(scope="session")
def deployed(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("bench"))
    try:
        bench.start_server()
        bench.restore()
        yield bench
    finally:
        bench.end_all()


@pytest.fixture
def bench(deployed):
    deployed.restore()
    return deployed
