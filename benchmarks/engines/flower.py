"""Stock Flower: its simulation on Ray with its FedAvg, one actor a core."""

import os
from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.clock import Clock, Enough
from benchmarks.engines import flower_client
from benchmarks.works import Work, network, word


def run(work: Work, clock: Clock) -> None:
    """Rounds until the clock has had enough."""
    os.environ[flower_client.WORK] = word(work)
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = Timed(fraction_train=1.0, fraction_evaluate=float(work.evaluated))
        arrays = ArrayRecord(network(work).state_dict())
        try:
            strategy.start(grid=grid, initial_arrays=arrays, num_rounds=10**6)
        except Enough:
            return

    class Timed(FedAvg):
        """Ticks when a round begins."""

        def configure_train(
            self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
        ) -> Iterable[Message]:
            clock.tick(arrays.to_torch_state_dict)
            return super().configure_train(server_round, arrays, config, grid)

    run_simulation(
        server,
        flower_client.app,
        num_supernodes=work.clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
