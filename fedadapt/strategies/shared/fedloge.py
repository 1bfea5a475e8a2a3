"""FedLoGe: one head for all and one for each client, on features that a fixed classifier shapes.

Xiao et al. 2024, "FedLoGe: Joint local and generic federated learning under long-tailed data",
algorithm 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedadapt.client.cohort import Cohort
from fedadapt.client.fit import fit
from fedadapt.errors import InputError
from fedadapt.messages import Update
from fedadapt.objectives import View, cross_entropy
from fedadapt.parameters import from_run, param
from fedadapt.selectors import linear_head
from fedadapt.server.sparse_frame import sparse_frame
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights

FRAME = "frame"  # the fixed classifier, [C, F]
ABSENT = -1e9  # bias of a class that a client has no image of


@dataclass(frozen=True, kw_only=True)
class FedLoGe(SharedModel):
    """A body trained below a fixed frame, a head for all and one's own. Xiao et al. 2024.

    The body minimises the cross-entropy of ``sparse_frame``, a classifier whose classes are equally
    far apart; the server makes it of the seed, sends it with the model and nobody changes it. On
    features that send no gradient back learn the shared head psi, averaged like the body, and the
    personal head phi, which begins as the psi that was received and stays on its client. Row norms
    of psi grow with the frequency of classes, so they are replaced when models are made: in the
    base model by ``scale``, in a personal one by those of phi, |phi_c| psi_c, to which phi is
    added. A class that the client has no training image of is never predicted there: its row is 0
    and its bias is -1e9, so that a loss on such images says nothing. A client that never trained
    gets the base model. Batch norm is as the run says.

    The norms of the frame are 0.1 in the authors' runs of 500 rounds, with which the body learns
    too slowly for short ones. They tell absent classes from test labels, we from training labels.
    """

    personal = "on client"
    client_keeps = "its personal head"
    unseen_get = "the shared model"
    personal_of_all = True
    frame_norm: float = param(
        1.0, "norm of the fixed classifier's rows; the paper: 0.1, over 500 rounds", above=0
    )
    sparsity: float = param(0.6, "share of zeros in the fixed classifier", at_least=0, below=1)
    scale: float = param(1.7, "norm of the rows of the base model's head", above=0)
    added: str = param(
        "own",
        "what is added to a realigned head: own (as the authors' script) or shared (their text)",
        choices=("own", "shared"),
    )
    seed: int = from_run(default=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        weight, bias = linear_head(self.model)
        num_classes, num_features = self.model.get_parameter(weight).shape
        if bias is None:
            raise InputError("fedloge: the head needs a bias, which rules out absent classes")
        if num_features < num_classes:
            raise InputError(
                f"fedloge: {num_features} features cannot hold a frame of {num_classes} classes; "
                "it needs a network with at least as many features as classes"
            )

    def extras(self, start: Weights) -> Weights:
        weight = start[self._head[0]]
        frame = sparse_frame(*weight.shape, self.sparsity, self.frame_norm, self.seed)
        return {FRAME: frame.to(weight)}

    def fixed(self, model: nn.Module) -> frozenset[str]:
        return frozenset({FRAME})

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        frame = {FRAME: shared[FRAME]}
        fitted = fit(
            cohort,
            {n: t for n, t in shared.items() if n != FRAME},
            *self.local(),
            objective=self.objective,
            extra=self._own(cohort, shared),
            memory={FRAME: frame},
        )
        return self.sending(cohort, fitted).keeping(head=fitted.extra)

    def objective(self, view: View) -> Tensor:
        """The sum of three losses that share no parameter."""
        z, (weight, bias) = view.features, self._head
        loss = cross_entropy(view.with_logits(_logits(z, view.memory[FRAME][FRAME])))
        for prefix in ("", "own/"):
            w, b = view.params[prefix + weight], view.params[prefix + bias]
            logits = _logits(z.detach(), w) + b.unsqueeze(1)
            loss = loss + cross_entropy(view.with_logits(logits))
        return loss

    def base_model(self, shared: Weights) -> Weights:
        weight = self._head[0]
        base = super().base_model(shared)
        return base | {weight: self.scale * base[weight] / _norms(base[weight])}

    def personal_model(self, cohort: Cohort, shared: Weights) -> Weights:
        (weight, bias), own = self._head, self._own(cohort, shared)
        added = own if self.added == "own" else {f"own/{n}": shared[n] for n in self._head}
        head = {
            weight: _norms(own[f"own/{weight}"]) * shared[weight] + added[f"own/{weight}"],
            bias: shared[bias] + added[f"own/{bias}"],
        }
        absent = _counts(cohort, shared[bias].shape[1]) == 0
        head[weight] = head[weight].masked_fill(absent.unsqueeze(2), 0)
        head[bias] = head[bias].masked_fill(absent, ABSENT)
        base, trained = self.base_model(shared), cohort.has("head").to(absent.device)
        return base | {
            n: torch.where(trained.reshape(-1, *[1] * (t.dim() - 1)), t, base[n])
            for n, t in head.items()
        }

    @property
    def _head(self) -> tuple[str, str]:
        weight, bias = linear_head(self.model)
        return weight, str(bias)

    def _own(self, cohort: Cohort, shared: Weights) -> Weights:
        return cohort.state("head", {f"own/{n}": shared[n] for n in self._head})


def _logits(features: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("dbf,dcf->dbc", features, weight)


def _norms(weight: Tensor) -> Tensor:
    """Of each class's row: [..., C, F] -> [..., C, 1]."""
    return weight.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def _counts(cohort: Cohort, num_classes: int) -> Tensor:
    """Training images of each class on each client: [D, C]."""
    counts = [torch.bincount(s.train.labels, minlength=num_classes) for s in cohort.splits]
    return torch.stack(counts)
