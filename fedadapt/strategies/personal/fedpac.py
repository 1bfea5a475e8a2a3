"""FedPAC: features are aligned by shared class means, and heads are mixed for each client.

Xu, Tong and Huang 2023, "Personalized federated learning with feature alignment and classifier
collaboration", algorithm 1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.fit import fit
from fedadapt.client.statistics.features import features_of
from fedadapt.messages import Update
from fedadapt.parameters import param
from fedadapt.selectors import all_but, head, linear_head
from fedadapt.strategies.personal_models import PersonalModels, PersonalState
from fedadapt.strategies.shared.fedproto import BATCH, SHARES, SUMS, Pulled, class_tables, quotient
from fedadapt.weights import Weights, stack

NUMBERS_AT_ONCE = 2**24  # of quadratic programmes that are solved together
LEAST = 1e-3  # a smaller share of a head is none, as in the authors' code


@dataclass(frozen=True, kw_only=True)
class FedPAC(PersonalModels):
    """A shared body with aligned features; heads are mixed for each client. Xu et al. 2023.

    Client i receives the mean body, its own mixed head and the class means P of the features. It
    measures H_i, the sum of the features of each class by all its images, and
    v_i = (mean ||z||^2 - ||H_i||^2) / n_i under that model. It trains the head for ``head_epochs``
    with the rate ``head_lr``, then the body for the run's local epochs on
    F_i + lam ||z - P_y||^2 / F, and sends both, H_i, v_i and its new class means. Bodies are
    averaged by examples, class means by images. The next head of client i is sum_j a_j h_j over
    those that answered, with a on the simplex where a' Q a is least,
    Q_jk = v_j [j = k] + <H_i - H_j, H_i - H_k>: the bias and the variance of the mixture.

    The personal model is the mean body with the client's mixed head; an absent client's head stays
    as it is, and a client that never trained has the mean head. Class means and H tell the server
    how a client's labels are distributed. Where the same images have other labels for each client,
    shared class means are harmful. Solving takes time in proportion to the cube of the number of
    clients that answered.
    """

    leaves: ClassVar[Mapping[str, str]] = {
        "train": "the trained model; sums of features by class, their variance, and class shares"
    }
    combined = "when trained"
    client_reports = "sums and spread of its features"
    unseen_get = "the mean body with the mean head"
    lam: float = param(1.0, "strength of the pull of features to their class's mean", at_least=0)
    head_epochs: int = param(1, "epochs on the head, before the body", at_least=1)
    head_lr: float = param(0.1, "learning rate of the head", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        linear_head(self.model)

    def keeps(self, model: nn.Module) -> frozenset[str]:
        return head(model)

    def extras(self, start: Weights) -> Weights:
        sums = torch.zeros_like(start[linear_head(self.model)[0]])
        return {SUMS: sums, SHARES: sums[:, 0].clone()}

    def train(self, cohort: Cohort, received: Weights) -> Update:
        network = {n: t for n, t in received.items() if n not in (SUMS, SHARES)}
        optimizer, schedule = self.local("fedrep")  # the batches of FedRep's head
        headed = fit(
            cohort,
            network,
            replace(optimizer, learning_rate=self.head_lr),
            schedule._replace(epochs=self.head_epochs),
            trainable=head,
        )
        known = received[SHARES]
        fitted = fit(
            cohort,
            headed.weights,
            *self.local(),
            objective=Pulled(self.lam),
            trainable=all_but(head),
            memory={"prototypes": {"p": quotient(received[SUMS], known), "share": known}},
        )
        update = self.sending(cohort, fitted)
        tables = class_tables(cohort, fitted.weights)
        return replace(
            update, weights=update.weights | tables, report=self._statistics(cohort, network)
        )

    def beside(self) -> Weights:
        shape = self.model.state_dict()[linear_head(self.model)[0]].shape
        return {"H": torch.zeros(shape).double(), "v": torch.zeros(()).double()}

    def combine(
        self, state: PersonalState, clients: Sequence[int], round: int
    ) -> Iterator[Weights]:
        notes = [state.notes(client) for client in clients]
        features = torch.stack([note["H"].flatten() for note in notes])
        variances = torch.stack([note["v"] for note in notes])
        return self.mixtures(state, clients, head_shares(features, variances))

    def _statistics(self, cohort: Cohort, weights: Weights) -> Weights:
        """Measure H [D, C, F] and v [D], float64, of the training images."""
        statistics = []
        for own in features_of(cohort, weights, Schedule(BATCH, purpose="fedpac")):
            z, count = own.values.double(), len(own.labels)
            classes = weights[linear_head(self.model)[0]].shape[1]  # of [D, C, F]
            sums = z.new_zeros(classes, z.shape[1]).index_add_(0, own.labels, z) / count
            statistics.append(
                {"H": sums, "v": (z.square().sum() / count - sums.square().sum()) / count}
            )
        return stack(statistics)


def head_shares(features: Tensor, variances: Tensor) -> Tensor:
    """Return the share a of each head j in the next head of each client i, [N, N].

    Args:
        features: H of each client as a vector, [N, C F].
        variances: v of each client, [N].

    """
    gram, count = features @ features.T, len(features)
    of_some = []
    for some in torch.arange(count).split(max(1, NUMBERS_AT_ONCE // count**2)):
        own = gram[some]  # <H_i, H_j>
        bias = gram.diagonal()[some][:, None, None] - own[:, :, None] - own[:, None, :] + gram
        of_some.append(least_on_simplex(bias + torch.diag(variances)))
    shares = torch.cat(of_some)
    shares = shares.where(shares >= LEAST, 0.0)
    return shares / shares.sum(1, keepdim=True)


def least_on_simplex(quadratic: Tensor, steps: int = 500) -> Tensor:
    """Return the a >= 0 of sum 1 where a' Q a is least, for each Q [B, N, N]: [B, N].

    By projected gradient from equal shares, with steps of 1 / (2 L), L the largest
    eigenvalue, until nothing moves any more.
    """
    largest = torch.linalg.eigvalsh(quadratic).amax(1).clamp(min=1e-300)[:, None]
    a = torch.full(quadratic.shape[:2], 1 / quadratic.shape[1], dtype=quadratic.dtype)
    for _ in range(steps):
        moved = on_simplex(a - (quadratic @ a.unsqueeze(2)).squeeze(2) / largest)
        if torch.equal(moved, a):
            break
        a = moved
    return a


def on_simplex(points: Tensor) -> Tensor:
    """Return the nearest point of the simplex to each row of ``points``, [B, N]."""
    falling = points.sort(dim=1, descending=True).values
    excess = falling.cumsum(1) - 1
    rank = torch.arange(1, points.shape[1] + 1, dtype=points.dtype)
    last = (falling * rank > excess).sum(1, keepdim=True)  # how many are above 0
    return (points - excess.gather(1, last - 1) / last).clamp(min=0)
