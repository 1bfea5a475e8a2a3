"""A federation of toys in a folder, whose clients can be lost and which can be stopped anywhere."""

import math

from toys import Toys, assert_same_bits, conv, initial, split, training

from fedadapt.client.adaptations.adabn import AdaBN
from fedadapt.client.adaptations.ewc import Ewc
from fedadapt.client.adaptations.fine_tune import FineTune
from fedadapt.client.adaptations.none import NoAdaptation
from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Examples
from fedadapt.records import CommunicationEntry, Evaluation, RoundLoss
from fedadapt.server.checkpoint import load_latest
from fedadapt.server.client_states import ClientStates
from fedadapt.simulations.alone import TrainingAlone, local_epochs
from fedadapt.simulations.engines.in_process import InProcessClients
from fedadapt.simulations.engines.processes import ProcessClients
from fedadapt.simulations.federation import Federation, InitialModel, Population
from fedadapt.simulations.progress import Progress
from fedadapt.simulations.results.journal import journal_rows
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.base import ServerSide
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.strategies.stateful import StrategyWithState

SPLITS = [split(count, seed=count) for count in (5, 12, 10, 7, 9, 8)]
EVERYWHERE = split(1, test=20, seed=77).test
METHODS = (NoAdaptation(), AdaBN(), FineTune(epochs=1), Ewc(epochs=1, lam=1.0))
SETTINGS = RunConfig(rounds=4, fraction=0.5, evaluate_every=2, checkpoint_every=1, seed=5)
START = initial(conv())


class Faulty(InProcessClients):
    """Stops or loses clients in the rounds told."""

    def __init__(self, *arguments, stop=None, lose=None, **settings):
        super().__init__(*arguments, **settings)
        self.stop = stop  # (action, round): Ctrl-C after its first answer
        self.lose = lose or {}  # round -> number of clients whose answers are lost

    def ask(self, action, round, sent, expected):
        for position, answers in enumerate(super().ask(action, round, sent, expected)):
            if position >= self.lose.get(round, 0):
                yield answers
            if (action, round) == self.stop:
                raise KeyboardInterrupt

    def evaluate(self, request):
        for answers in super().evaluate(request):
            yield answers
            if ("evaluate", request.round) == self.stop:
                raise KeyboardInterrupt


def corrupted(own):
    return own._replace(train=Examples(own.train.inputs * math.nan, own.train.labels))


class Run:
    """A federation of toys in a folder."""

    def __init__(
        self, folder, config=SETTINGS, *, splits=SPLITS, unseen=(5,), batch_norm="local",
        stop=None, lose=None, adaptations=METHODS, num_workers=0, initial_is_sent=False,
        strategy=FedAvg, watch=None, **engine,
    ):  # fmt: skip
        model = conv()
        strategy = strategy(
            training=training(0.1, 2, momentum=0.5), model=model, batch_norm=batch_norm
        )
        benchmark = Toys(splits, unseen=unseen, everywhere=EVERYWHERE)
        how = {"execution": engine.pop("execution", "sequential")}
        alone = TrainingAlone(strategy.training, local_epochs(config), START)
        worker = Worker(
            benchmark, model, strategy, adaptations, seed=config.seed, alone=alone, **how
        )
        self.folder = folder
        server = ServerSide(config=config, tasks=None, folder=folder, compute=worker.compute)
        self.method = StrategyWithState(strategy.prepare(server))
        if num_workers:
            engine |= {"num_workers": num_workers, "client_states": ClientStates()}
            self.client_pool = ProcessClients(worker, **engine)
        else:
            self.client_pool = Faulty(worker, stop=stop, lose=lose, **engine)
        self.federation = Federation(
            config,
            self.method,
            self.client_pool,
            Population(tuple(benchmark.seen), tuple(unseen)),
            adaptations,
            folder,
            model=model,
            central_test=worker.evaluate_everywhere,
            progress=Progress(),
            initial=InitialModel(START, is_sent=initial_is_sent) if config.local else None,
            watch=watch,
        )

    def go(self, resume=False):
        with self.client_pool:
            if resume:
                self.federation.resume(load_latest(self.folder))
            else:
                self.federation.begin(START)
            self.federation.run()
        return self

    @property
    def state(self):
        return self.method.pack()[0]

    @property
    def states(self):
        return self.client_pool.states()

    def rows(self, kind):
        found = list(journal_rows(self.folder, kind))
        return [r._replace(seconds=0.0) for r in found] if kind is CommunicationEntry else found

    @property
    def everything(self):
        return [self.rows(kind) for kind in (Evaluation, CommunicationEntry, RoundLoss)]


def assert_same_run(found, wanted):
    assert_same_bits(found.state, wanted.state)
    assert found.states.keys() == wanted.states.keys()
    for d, parts in wanted.states.items():
        assert_same_bits(found.states[d]["norms"], parts["norms"])
    assert found.everything == wanted.everything
