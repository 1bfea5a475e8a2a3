"""FedAvg and FedProx: one model for all, trained by all.

McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized data";
Li et al. 2020, "Federated optimization in heterogeneous networks"; batch norm kept on the client:
Li et al. 2021, "FedBN".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn

from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.fit import fit
from fedadapt.client.statistics.batch_norm import batch_norm_statistics
from fedadapt.messages import Answers, Sent, Update
from fedadapt.objectives import Objective, Proximal, cross_entropy
from fedadapt.selectors import norms
from fedadapt.server.aggregation import StreamingMean
from fedadapt.strategies.base import LocalTraining, Metadata, Strategy
from fedadapt.weights import Weights, repeat

MOMENTS = "query.moments"
MOMENTS_BATCH = 64  # images; large enough for steady statistics, small enough for any client


@dataclass(frozen=True, kw_only=True)
class FedAvg(Strategy[Weights]):
    """Clients train from the shared model; the server averages, weighted by examples.

    ``mu`` > 0 makes it FedProx: each client also minimises (mu/2) ||w - w_received||^2.

    ``batch_norm`` says what becomes of batch-norm layers. ``shared``: scale, shift and running
    statistics are averaged like everything else. ``local``: all four stay on the client (FedBN); a
    client that never trained uses the initial ones. ``reestimate``: scale and shift are averaged,
    the statistics are measured anew on the clients' training images under the averaged weights
    (one more exchange a round) and pooled over clients: mean = sum p_k m_k,
    variance = sum p_k (v_k + m_k^2) - mean^2.
    """

    query_types = (MOMENTS,)

    model: nn.Module  # the architecture, for its batch-norm layers; its weights are never read
    training: LocalTraining = field(default_factory=LocalTraining)
    mu: float = 0.0
    batch_norm: str = "shared"

    def begin(self, start: Weights, clients: Sequence[int]) -> Weights:
        return dict(start)

    def actions(self, state: Weights, round: int) -> tuple[str, ...]:
        return ("train", MOMENTS) if self.batch_norm == "reestimate" else ("train",)

    def send(self, state: Weights, action: str, round: int, clients: Sequence[int]) -> Sent:
        return Sent(tuple(clients), repeat(state, len(clients)), {"server-round": round})

    def answer(self, action: str, cohort: Cohort, received: Sent) -> Update:
        if action == MOMENTS:
            schedule = Schedule(MOMENTS_BATCH, 1, "train", MOMENTS)
            statistics = batch_norm_statistics(cohort, received.weights, schedule)
            return Update(statistics, cohort.num_examples)
        start = self.localise(cohort, received.weights)
        objective: Objective = cross_entropy
        # A stock FedProx says so in its message, and clients answer it as they answer ours.
        mu = float(received.config.get("proximal-mu", self.mu))  # type: ignore[arg-type]
        if mu:
            objective = Proximal(mu)
        fitted = fit(
            cohort,
            start,
            self.training.optimizer,
            self.training.schedule,
            objective=objective,
            memory={"anchor": start} if mu else None,
        )
        return Update(
            weights={n: t for n, t in fitted.weights.items() if n not in self._local},
            num_examples=cohort.num_examples,
            metrics={"loss": fitted.loss},
            states={"norms": {n: t for n, t in fitted.weights.items() if n in self._local}}
            if self._local
            else {},
        )

    def expected(self, action: str, sent: Weights) -> Weights:
        if action == MOMENTS:
            statistics = (".running_mean", ".running_var")
            names = {n for n in norms(self.model) if n.endswith(statistics)}
            return {n: t for n, t in sent.items() if n in names}
        return {n: t for n, t in sent.items() if n not in self._local}

    def merge(self, state: Weights, action: str, round: int, answers: Iterable[Answers]) -> Weights:
        mean = StreamingMean()
        for some in answers:
            if some.update is None:
                continue
            arrays = some.update.weights
            if action == MOMENTS:
                arrays = {n: t.double() for n, t in arrays.items()}
                arrays |= {
                    n: v + arrays[_mean_of(n)] ** 2
                    for n, v in arrays.items()
                    if n.endswith(".running_var")
                }
            mean.add(arrays, some.update.num_examples)
        if mean.empty:
            return state
        pooled = mean.result()
        if action == MOMENTS:
            pooled |= {
                n: (s - pooled[_mean_of(n)] ** 2).clamp(min=0)
                for n, s in pooled.items()
                if n.endswith(".running_var")
            }
        return state | {n: t.to(state[n].dtype) for n, t in pooled.items()}

    def models(self, state: Weights, clients: Sequence[int]) -> Mapping[str, Weights]:
        return {"base": repeat(state, len(clients))}

    def localise(self, cohort: Cohort, weights: Weights, model: str = "base") -> Weights:
        if not self._local:
            return weights
        return weights | cohort.state("norms", {n: weights[n] for n in weights if n in self._local})

    def pack(self, state: Weights) -> tuple[dict[str, Tensor], Metadata]:
        return state, {}

    def unpack(self, tensors: dict[str, Tensor], metadata: Metadata) -> Weights:
        return dict(tensors)

    @cached_property
    def _local(self) -> frozenset[str]:
        """Names that never leave a client."""
        return norms(self.model) if self.batch_norm == "local" else frozenset()


def _mean_of(variance: str) -> str:
    return variance.removesuffix("_var") + "_mean"
