"""FedProto: clients share what their features of each class are on average, and no weights.

Tan et al. 2022, "FedProto: Federated prototype learning across heterogeneous clients", equations 5
to 8.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.fit import fit
from fedadapt.client.statistics.features import features_of
from fedadapt.errors import InputError
from fedadapt.messages import Update
from fedadapt.objectives import View, cross_entropy
from fedadapt.parameters import param
from fedadapt.selectors import everything, linear_head
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights

SUMS, SHARES = "prototypes/sums", "prototypes/shares"
BATCH = 64  # images whose features are computed at once
NEVER = -1e9  # the logit of a class that nobody has an image of


@dataclass(frozen=True, kw_only=True)
class FedProto(SharedModel):
    """Class means of features are shared and pull at every client's; no weights. Tan et al. 2022.

    Each client trains a network of its own on F + lam ||z - P_y||^2 / F, F features z and P_y the
    mean over all clients of class y, where there is one. Then it sends its own class means, of all
    its training images in evaluation mode, and how many there are. They are averaged by images, as
    in the paper (the authors' code weighs clients equally). What travels for that are two tables
    whose means over clients have them as a quotient: sum_y z / n and n_y / n.

    Nothing else leaves a client, batch norm included. It is served its own network with the nearest
    prototype as the head 2 P z - ||P||^2; while there is none, its own classifier. A client that
    never trained has the initial network below this head, and the base model is the initial one.
    The family sends that with every message, for clients that come late.
    """

    personal = "on client"
    leaves: ClassVar[Mapping[str, str]] = {
        "train": "sums of the features of each class and the class shares; no weights"
    }
    unseen_get = "the initial body below the nearest prototype"
    personal_of_all = True  # of the prototypes, too
    lam: float = param(1.0, "strength of the pull towards the prototypes", at_least=0)
    predict: str = param(
        "prototypes",
        "the nearest prototype, or the client's own classifier",
        choices=("prototypes", "classifier"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if linear_head(self.model)[1] is None:
            raise InputError("strategy: fedproto needs a head with a bias, and this has none")

    def stays(self, model: nn.Module) -> frozenset[str]:
        return everything(model)

    def extras(self, start: Weights) -> Weights:
        sums = torch.zeros_like(start[linear_head(self.model)[0]])
        return {SUMS: sums, SHARES: sums[:, 0].clone()}

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        prototypes = {"p": quotient(shared[SUMS], shared[SHARES]), "share": shared[SHARES]}
        fitted = fit(
            cohort,
            self.base_model(shared),
            *self.local(),
            objective=Pulled(self.lam),
            memory={"prototypes": prototypes},
        )
        tables = class_tables(cohort, fitted.weights)
        update = self.sending(cohort, fitted)
        return replace(update, weights=update.weights | tables)

    def personal_model(self, cohort: Cohort, shared: Weights) -> Weights:
        network = self.base_model(shared)
        if self.predict == "classifier":
            return network
        weight, bias = linear_head(self.model)
        assert bias is not None
        p, known = quotient(shared[SUMS], shared[SHARES]), shared[SHARES] > 0
        some = known.any(1, keepdim=True)
        distance = torch.where(known, -(p**2).sum(2), torch.full_like(network[bias], NEVER))
        return network | {
            weight: torch.where(some.unsqueeze(2), 2 * p, network[weight]),
            bias: torch.where(some, distance, network[bias]),
        }


@dataclass(frozen=True)
class Pulled:
    """Task loss + lam ||z - P_y||^2 / F, where class y has a prototype. Equation 7."""

    lam: float

    def __call__(self, view: View) -> Tensor:
        prototypes, labels = view.memory["prototypes"], view.batch.labels
        clients = torch.arange(len(labels), device=labels.device).unsqueeze(1)
        gap = ((view.features - prototypes["p"][clients, labels]) ** 2).mean(2)
        known = prototypes["share"][clients, labels] > 0
        return cross_entropy(view) + self.lam * (gap * known).mean(1)


def quotient(sums: Tensor, shares: Tensor) -> Tensor:
    """The class means [D, C, F]; 0 for a class that nobody has an image of."""
    has = shares > 0
    means = sums / torch.where(has, shares, torch.ones_like(shares)).unsqueeze(2)
    return torch.where(has.unsqueeze(2), means, torch.zeros_like(means))


def class_tables(cohort: Cohort, weights: Weights) -> Weights:
    """Sums of the features of a class [D, C, F] and its images [D, C], by all images."""
    like = weights[linear_head(cohort.model)[0]]
    sums, shares = [], []
    for own in features_of(cohort, weights, Schedule(BATCH, purpose="prototypes")):
        belongs = nn.functional.one_hot(own.labels, like.shape[1]).to(like)  # [N, C]
        sums.append(belongs.T @ own.values.to(like) / len(belongs))
        shares.append(belongs.mean(0))
    return {SUMS: torch.stack(sums), SHARES: torch.stack(shares)}
