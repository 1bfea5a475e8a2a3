"""FedFomo: each client mixes into its own model those of others that do better on its images.

Zhang et al. 2021, "Personalized federated learning with first order model optimization".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedadapt.client.candidates import join_models, split_models
from fedadapt.client.cohort import Cohort
from fedadapt.client.evaluation import evaluate
from fedadapt.client.fit import fit
from fedadapt.messages import Update
from fedadapt.parameters import from_run, param
from fedadapt.random_streams import stream
from fedadapt.strategies.personal_models import PersonalModels, PersonalState
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class FedFomo(PersonalModels):
    """Clients mix in others' models that do better on their adapt images. Zhang et al. 2021.

    Client i receives the models w_j of some others, without their names. With the losses L of its
    adapt images, a_j = (L(w_i) - L(w_j)) / ||w_i - w_j|| where that is positive, else 0, and these
    shares sum to 1 (or all are 0): w_i becomes w_i + sum_j a_j (w_j - w_i), and is trained. What
    it trained is its personal model, which it sends with the shares. The server adds up the shares
    that i gave to each j, and sends it the models of the largest sums; each of them is replaced by
    a random one with a probability that falls from round to round. Models of clients that are not
    sampled are candidates as they are.

    Down go as many models as there are ``candidates``, which the server holds for all clients of a
    round at once: choose fewer of them, or a smaller ``fraction``, where they are large. A model is
    judged and mixed with its batch-norm statistics; distances are of parameters alone. A client
    that never trained is served the mean, and starts from the first candidate. The paper sets
    training images aside to judge by; ours are the adapt images, never trained on nor tested.
    """

    leaves: ClassVar[Mapping[str, str]] = {
        "train": "the trained model, and how much it takes of each other model it was sent"
    }
    combined = "when sent"
    # A client starts from what is its own.
    ignores = frozenset({"max-update-norm", "max-update-factor"})
    client_gets = "later those of `candidates` others"
    client_keeps = "its own model"
    client_reports = "its shares of the models received"
    seed: int = from_run(default=1)
    candidates: int = param(5, "models of others that a client receives", at_least=0)
    epsilon: float = param(0.3, "probability of a random candidate", at_least=0, at_most=1)
    epsilon_decay: float = param(0.05, "by how much it falls each round", at_least=0, at_most=1)

    def train(self, cohort: Cohort, received: Weights) -> Update:
        models = [self.localise(cohort, model) for model in split_models(received)]
        own = cohort.state("model", models[0])
        shares = self._shares(cohort, own, models[: self.candidates])
        fitted = fit(cohort, mixed(own, models, shares), *self.local())
        update = self.sending(cohort, fitted).keeping(model=fitted.weights)
        return replace(update, report={"shares": shares} if self.candidates else {})

    def beside(self) -> Weights:
        if not self.candidates:
            return {}
        return {"shares": torch.zeros(self.candidates, dtype=torch.float64)}

    def noted(self, state: PersonalState, round: int, client: int, report: Weights) -> Weights:
        """The shares that the client gave to each of the others, added up over rounds."""
        given = self.given(state, client)
        for other, share in zip(
            self.chosen(state, client, round), report.get("shares", ()), strict=False
        ):
            given[other] = given.get(other, 0.0) + float(share)
        others = sorted(given)
        shares = torch.tensor([given[other] for other in others], dtype=torch.float64)
        return {"others": torch.tensor(others, dtype=torch.int64), "shares": shares}

    def combine(
        self, state: PersonalState, clients: Sequence[int], round: int
    ) -> Iterator[Weights]:
        for client in clients:
            models = [state.base | state.model(d) for d in self.chosen(state, client, round)]
            yield join_models(models or [state.base])

    def answered(self, sent: Weights) -> Weights:
        return {n.removeprefix("0/"): t for n, t in sent.items() if n.startswith("0/")}

    def given(self, state: PersonalState, client: int) -> dict[int, float]:
        """Return the sum of the shares that a client has given to each other one."""
        notes = state.notes(client)
        if not notes:
            return {}
        return dict(zip(notes["others"].tolist(), notes["shares"].tolist(), strict=True))

    def chosen(self, state: PersonalState, client: int, round: int) -> list[int]:
        """Name the clients whose models a client receives in a round, as many for each client.

        The best ones first, ties at random. A function of the state before the round: what a client
        answers is put down to those that it was sent.
        """
        others = [other for other in state.clients if other != client]
        given, draw = self.given(state, client), stream(self.seed, "fedfomo", round, client)
        at_random = [others[k] for k in draw.permutation(len(others))]
        left = sorted(at_random, key=lambda other: -given.get(other, 0.0))
        epsilon = max(0.0, self.epsilon - self.epsilon_decay * (round - 1))
        count = min(self.candidates, len(state.clients) - 1)
        return [
            left.pop(int(draw.integers(len(left))) if draw.random() < epsilon else 0)
            for _ in range(count)
        ]

    def _shares(self, cohort: Cohort, own: Weights, models: Sequence[Weights]) -> Tensor:
        """Return a of each candidate, [D, candidates], float64; 0 where there are fewer models."""
        shares = torch.zeros(len(cohort), self.candidates, dtype=torch.float64)
        mine = _losses(cohort, own)
        for k, model in enumerate(models):
            better, apart = mine - _losses(cohort, model), self._distance(own, model)
            # A gain within rounding is none: of equal models it would be divided by nothing.
            rounding = 64 * torch.finfo(next(iter(own.values())).dtype).eps
            gains = (better > rounding * mine) & (apart > 0)
            shares[:, k] = (better / apart).where(gains, 0.0)
        shares = shares.nan_to_num(nan=0.0, posinf=1e300)  # own loss infinite: all gain alike
        total = shares.sum(1, keepdim=True)
        return (shares / total).where(total > 0, 0.0)

    def _distance(self, own: Weights, other: Weights) -> Tensor:
        """Return ||own - other|| over parameters, [D], float64."""
        names = [n for n, _ in self.model.named_parameters()]
        ways = [(own[n].double() - other[n].double()).reshape(len(own[n]), -1) for n in names]
        return torch.stack([way.square().sum(1) for way in ways]).sum(0).sqrt().cpu()


def mixed(own: Weights, models: Sequence[Weights], shares: Tensor) -> Weights:
    """Return own + sum_k shares[:, k] (models[k] - own), [D, ...]; integers are its own."""
    result = dict(own)
    for n, t in own.items():
        if t.is_floating_point():
            for k in range(min(len(models), shares.shape[1])):
                share = shares[:, k].to(t).view(-1, *[1] * (t.dim() - 1))
                result[n] = result[n] + share * (models[k][n] - t)
    return result


def _losses(cohort: Cohort, model: Weights) -> Tensor:
    """Return the mean loss of each client's adapt images, [D], float64."""
    scores = evaluate(cohort, model, cohort.part("adapt"))
    return torch.tensor([score.loss for score in scores], dtype=torch.float64)
