"""What clients end up with: their own models, and the states that these are made of."""

from toys import Toys, Trial

from fedadapt.datasets.benchmark import Benchmark
from fedadapt.weights import Weights


def own_models(trial: Trial, benchmark: Benchmark | Toys, round: int = 100) -> Weights:
    """The personal model of every client, those that never trained among them: [D, ...]."""
    clients, kept = range(benchmark.num_clients), trial.client_pool.states()
    cohort = trial.worker.cohort(clients, round, [kept.get(d, {}) for d in clients])
    models = trial.method.models(clients)
    sent = models.get("personal", models["base"])
    return trial.worker.strategy.localise(cohort, sent, "personal")


def kept(trial: Trial, part: str, name: str) -> list[float]:
    """One number that every client that trained has kept, in the order of clients."""
    states = trial.client_pool.states()
    return [states[d][part][name].item() for d in sorted(states)]
