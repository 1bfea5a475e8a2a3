"""A worker of toy clients, two of whom train."""

from toys import Toys, conv, split, training

from fedadapt.client.adaptations.adabn import AdaBN
from fedadapt.client.adaptations.fine_tune import FineTune
from fedadapt.client.adaptations.none import NoAdaptation
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.shared.fedavg import FedAvg

SPLITS = [split(count, seed=count) for count in (5, 12, 10)]
EVERYWHERE = split(1, test=20, seed=77).test
METHODS = (NoAdaptation(), AdaBN(), FineTune(epochs=1))


def make(splits=SPLITS, adaptations=METHODS, **settings):
    strategy = FedAvg(training=training(), model=conv())
    benchmark = Toys(
        splits, unseen=[2], everywhere=EVERYWHERE, scaling=settings.pop("scaling", None)
    )
    return Worker(benchmark, conv(), strategy, adaptations, seed=3, **settings)
