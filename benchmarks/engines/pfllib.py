"""PFLlib: FedAvg as in a copy of its repository, which is no package and has to be pointed at."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.clock import Clock, Enough
from benchmarks.works import CLASSES, Clients, Work, network

FOLDER = "FEDADAPT_BENCHMARK_PFLLIB"  # of the repository


def run(work: Work, clock: Clock) -> None:
    """Rounds until the clock has had enough."""
    if work.momentum:
        raise SystemExit("PFLlib's clients have no momentum")
    sys.path.insert(0, str(Path(os.environ[FOLDER]) / "system"))
    from flcore.clients import clientbase
    from flcore.servers import serverbase
    from flcore.servers.serveravg import FedAvg

    torch.set_num_threads(1)  # it has one process; a second thread waits more than it helps
    clients = Clients(work)
    pairs = [list(zip(*clients.scaled(d), strict=True)) for d in range(work.clients)]

    def read(_dataset: str, client: int, *_: object, **__: object) -> list[Any]:
        return pairs[client]

    clientbase.read_client_data = serverbase.read_client_data = read

    class Ticking(FedAvg):  # type: ignore[misc]
        """Ticks where PFLlib evaluates: once a round, when clients have the new model."""

        def evaluate(self, *_: object, **__: object) -> None:
            clock.tick(self.global_model.state_dict)

    server = Ticking(_arguments(work), times=0)
    try:
        server.train()
    except Enough:
        return


def _arguments(work: Work) -> SimpleNamespace:
    """What PFLlib's command line makes of its defaults, and the work."""
    return SimpleNamespace(
        algorithm="FedAvg",
        dataset=work.name,
        model=network(work),
        device="cpu",
        num_classes=len(CLASSES),
        num_clients=work.clients,
        batch_size=work.batch,
        local_learning_rate=work.lr,
        local_epochs=1,
        global_rounds=10**6,
        eval_gap=1,
        join_ratio=1.0,
        random_join_ratio=False,
        learning_rate_decay=False,
        learning_rate_decay_gamma=0.99,
        client_drop_rate=0.0,
        train_slow_rate=0.0,
        send_slow_rate=0.0,
        time_select=False,
        time_threthold=10000.0,
        auto_break=False,
        top_cnt=100,
        goal="test",
        save_folder_name="items",
        dlg_eval=False,
        dlg_gap=100,
        batch_num_per_client=2,
        num_new_clients=0,
        fine_tuning_epoch_new=0,
        few_shot=0,
    )
