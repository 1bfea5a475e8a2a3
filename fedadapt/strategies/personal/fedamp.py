"""FedAMP: each client trains near a mixture of the models that are most like its own.

Huang et al. 2021, "Personalized cross-silo federated learning on non-IID data", algorithm 1 and
its heuristic form.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedadapt.client.cohort import Cohort
from fedadapt.client.fit import fit
from fedadapt.messages import Update
from fedadapt.objectives import Proximal
from fedadapt.parameters import param
from fedadapt.strategies.personal_models import PersonalModels, PersonalState
from fedadapt.weights import Weights

SAME = 1e-12  # of the squared lengths of two models: a smaller squared distance is rounding
AT_ONCE = 2**27  # bytes of models that are in memory to be compared, in float64, and as many more


@dataclass(frozen=True, kw_only=True)
class FedAMP(PersonalModels):
    """Each client trains near a mixture of all models, those like its own first. Huang et al. 2021.

    The server has every client's last model w_j and sends u_i = sum_j xi_ij w_j. Client i goes on
    from its own w_i, which it keeps, and minimises F_i(w) + (mu / 2) ||w - u_i||^2; ``mu`` is the
    paper's lambda / alpha_k. What it trained is its personal model. Models of clients that are not
    sampled take part as they are. A client that never trained is sent and served the mean. With
    ``cloud`` the mixtures are evaluated too; some codes report those as the method's models. Batch
    norm is mixed like everything else, but distances are of parameters alone. All pairs of models
    are compared in each round, which takes time in proportion to N^2.

    ``form`` says what xi is, where d_ij^2 = ||w_i - w_j||^2 and there are N models:

    - ``scale-free``, ours: xi_ij = exp(-d_ij^2 / (s m)) / (N - 1) with m the median of all d^2, and
      xi_ii is the rest: u_i is a proper average whatever the network and the round.
    - ``published``: xi_ij = alpha exp(-d_ij^2 / sigma) / sigma, and xi_ii is the rest. Sigma has
      the unit of a squared distance, and distances grow from round to round: too small a sigma
      isolates everybody. With alpha > sigma / (N - 1) xi_ii is negative for models that are close.
    - ``heur``, HeurFedAMP: xi_ii = own, and the rest is shared by exp(cosine cos(w_i, w_j)).
    """

    combined = "when sent"
    client_keeps = "its own model"
    mu: float = param(1.0, "strength of the pull towards the mixture", at_least=0)
    form: str = param(
        "scale-free", "how models are mixed", choices=("scale-free", "published", "heur")
    )
    s: float = param(1.0, "scale-free: scale of squared distances, in median ones", above=0)
    sigma: float = param(1.0, "published: scale of squared distances", above=0)
    alpha: float | None = param(
        None, "published: step size (default: sigma / (N - 1), a proper average)", above=0
    )
    cosine: float = param(10.0, "heur: factor of the cosine", at_least=0)
    own: float = param(0.05, "heur: share of a client's own model", at_least=0, at_most=1)
    cloud: bool = param(False, "evaluate the mixtures u_i too, as model cloud")

    def train(self, cohort: Cohort, received: Weights) -> Update:
        own = cohort.state("model", received)
        pull, near = Proximal(self.mu), {"anchor": received}
        fitted = fit(cohort, own, *self.local(), objective=pull, memory=near)
        return self.sending(cohort, fitted).keeping(model=fitted.weights)

    def combine(
        self, state: PersonalState, clients: Sequence[int], round: int
    ) -> Iterator[Weights]:
        names = {n for n, _ in self.model.named_parameters()} & self.travels
        place = {client: row for row, client in enumerate(state.clients)}
        known = [place[client] for client in clients if client in place]
        shares = self.shares(products(state, names))[known] if known else torch.zeros(0, 0)
        mixed = self.mixtures(state, state.clients, shares)
        for client in clients:
            yield state.base | next(mixed) if client in place else state.base

    def more_models(
        self, state: PersonalState, clients: Sequence[int]
    ) -> Mapping[str, Iterator[Weights]]:
        return {"cloud": self.combine(state, clients, 0)} if self.cloud else {}

    def shares(self, products: Tensor) -> Tensor:
        """Return xi of models with these inner products, [N, N]; each row sums to 1."""
        count, length = len(products), products.diagonal().sqrt()
        if count == 1:
            return torch.ones_like(products)
        alone = torch.eye(count, dtype=torch.bool)
        if self.form == "heur":
            cos = products / (length[:, None] * length[None, :]).clamp(min=1e-300)
            others = (self.cosine * cos).masked_fill(alone, -torch.inf).softmax(1)
            return (1 - self.own) * others + self.own * alone
        apart = squared_distances(products)
        if self.form == "scale-free":
            scale, most = self.s * apart[~alone].median().item(), 1 / (count - 1)
        else:
            scale = self.sigma
            most = 1 / (count - 1) if self.alpha is None else self.alpha / self.sigma
        others = most * (-apart / max(scale, 1e-300)).exp().masked_fill(alone, 0)
        return others + alone * (1 - others.sum(1))


def products(state: PersonalState, names: Collection[str]) -> Tensor:
    """Return the inner products of all models over tensors ``names``, [N, N], float64."""
    order, clients = sorted(names), state.clients
    size = sum(state.model(clients[0])[n].numel() for n in order)

    def flat(some: Sequence[int]) -> Tensor:
        rows = torch.empty(len(some), size, dtype=torch.float64)
        for row, model in zip(rows, map(state.model, some), strict=True):
            torch.cat([model[n].double().flatten() for n in order], out=row)
        return rows

    inner = torch.zeros(len(clients), len(clients), dtype=torch.float64)
    some = max(1, AT_ONCE // max(1, 8 * size))
    for i in range(0, len(clients), some):
        left = flat(clients[i : i + some])
        for j in range(0, i + 1, some):
            right = left if i == j else flat(clients[j : j + some])
            inner[i : i + some, j : j + some] = left @ right.T
    return inner.tril() + inner.tril(-1).T


def squared_distances(products: Tensor) -> Tensor:
    """Return ||w_i - w_j||^2 of models with these inner products, [N, N]."""
    length = products.diagonal()
    both = length[:, None] + length[None, :]
    apart = both - 2 * products
    return apart.where(apart > SAME * both, 0.0)
