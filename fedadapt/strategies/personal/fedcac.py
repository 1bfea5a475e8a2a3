"""FedCAC: parameters that are critical to a client are averaged with those of few others only.

Wu et al. 2023, "Bold but cautious: unlocking the potential of personalized federated learning
through cautiously aggressive collaboration".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedadapt.client.cohort import Cohort
from fedadapt.messages import Update
from fedadapt.parameters import from_run, param
from fedadapt.strategies.personal_models import PersonalModels, PersonalState
from fedadapt.weights import Weights

NUMBERS_AT_ONCE = 2**24  # of unpacked masks


@dataclass(frozen=True, kw_only=True)
class FedCAC(PersonalModels):
    """Critical parameters averaged with clients that have them in the same places. Wu et al. 2023.

    A parameter is critical to a client if |(w_after - w_before) w_after| of its training is among
    the ``tau`` n largest of its tensor of n numbers. In round t = 1, 2, ... client i collaborates
    with the clients j that answered and whose critical parameters overlap with its own by at least
    mean + (t / beta) (max - mean) of all overlaps, and after round ``beta`` with nobody. Its next
    model is the mean over its collaborators where it is critical, and the mean over all elsewhere;
    the server composes it, which is half the traffic of sending both means, and serves it as the
    personal model. A mask travels as one bit a parameter. The paper asks all clients in each round;
    here an absent client's model stays as it is.

    Buffers are each client's own: batch-norm statistics are never averaged into a personal model.
    A client that never trained has the mean model, statistics included. Of equal sensitivities the
    first ones count, so that a mask has its exact size; ``ties = all`` is the authors' code, which
    marks all that equal the last of them.
    """

    leaves: ClassVar[Mapping[str, str]] = {
        "train": "the trained model, and which of its parameters are critical"
    }
    combined = "when trained"
    client_reports = "which of its parameters are critical"
    rounds: int = from_run(default=1)
    tau: float = param(0.5, "share of critical parameters", at_least=0, at_most=1)
    beta: int | None = param(
        None, "rounds until nobody collaborates (default: a third of all)", at_least=1
    )
    ties: str = param(
        "first", "equally sensitive parameters: first or all count", choices=("first", "all")
    )

    def train(self, cohort: Cohort, received: Weights) -> Update:
        update = super().train(cohort, received)
        masks = {}
        for name in self.beside():
            both = (received[name], update.weights[name])
            before, after = (t.reshape(len(cohort), -1) for t in both)
            masks[name] = packed(critical(sensitivity(before, after), self.tau, self.ties))
        return replace(update, report=masks)

    def beside(self) -> Weights:
        """A mask of each parameter that travels, under every name that it has."""
        named = self.model.named_parameters(remove_duplicate=False)
        sizes = {n: p.numel() for n, p in named if n in self.travels}
        return {n: torch.empty(-(-k // 8), dtype=torch.uint8) for n, k in sizes.items()}

    def combine(
        self, state: PersonalState, clients: Sequence[int], round: int
    ) -> Iterator[Weights]:
        masks = [state.notes(client) for client in clients]
        beta = self.beta or max(1, self.rounds // 3)
        chosen = collaborators(overlaps(masks), round, beta).double()
        means = self.mixtures(state, clients, chosen / chosen.sum(1, keepdim=True))
        for client, bits, mean in zip(clients, masks, means, strict=True):
            own = state.model(client)
            yield own | {
                n: torch.where(unpacked(b, t := mean[n]), t, state.base[n]) for n, b in bits.items()
            }


def sensitivity(before: Tensor, after: Tensor) -> Tensor:
    """Return |(after - before) after|; 0 where a parameter moved by no more than rounding.

    A bias in front of batch norm has no gradient: what would be marked there were chance.
    """
    moved = after - before
    rounding = 64 * torch.finfo(after.dtype).eps * after.abs()
    return (moved * after).abs().where(moved.abs() > rounding, 0.0)


def critical(size: Tensor, tau: float, ties: str = "first") -> Tensor:
    """Mark the floor(tau n) largest numbers of each row, [D, n] -> bool [D, n]."""
    count = int(tau * size.shape[1] + 1e-9)  # 0.29 * 100 is 28.999999999999996
    if not count:
        return torch.zeros_like(size, dtype=torch.bool)
    last = size.kthvalue(size.shape[1] - count + 1, dim=1, keepdim=True).values
    if ties == "all":
        least = size.where(size > 1e-20, torch.inf).amin(1, keepdim=True)
        return size >= torch.where(last <= 1e-10, least, last)
    above, equal = size > last, size == last
    return above | (equal & (equal.cumsum(1) <= count - above.sum(1, keepdim=True)))


def packed(mask: Tensor) -> Tensor:
    """Pack a mask, bool [D, n], into bits: uint8 [D, ceil(n / 8)], the first bit is the highest."""
    bits = nn.functional.pad(mask.to(torch.uint8), (0, -mask.shape[1] % 8))
    return (bits.unflatten(1, (-1, 8)) << _shifts(mask)).sum(2).to(torch.uint8)


def unpacked(bits: Tensor, like: Tensor) -> Tensor:
    """Return the mask that ``packed`` packed, bool, in the shape of ``like``; no client axis."""
    every = (bits.unsqueeze(1) >> _shifts(bits)) & 1
    return every.flatten()[: like.numel()].view(like.shape).bool()


def overlaps(masks: Sequence[Weights]) -> Tensor:
    """Return O_ij = 1 - |M_i - M_j| / (2 |M_i|) of packed masks, [N, N]; 0 where M_i is empty."""
    common = torch.zeros(len(masks), len(masks), dtype=torch.float64)
    for name in masks[0]:
        bits = torch.stack([mask[name] for mask in masks])
        for part in bits.split(max(1, NUMBERS_AT_ONCE // (8 * len(masks))), dim=1):
            ones = ((part.unsqueeze(2) >> _shifts(part)) & 1).flatten(1).float()
            common += (ones @ ones.T).double()
    size = common.diagonal()
    apart = size[:, None] + size[None, :] - 2 * common
    overlap = 1 - apart / (2 * size[:, None].clamp(min=1))
    return overlap.where(size[:, None] > 0, 0.0)


def collaborators(overlap: Tensor, round: int, beta: int) -> Tensor:
    """Return who averages with whom in a round, from 1: bool [N, N]; everybody with itself."""
    alone = torch.eye(len(overlap), dtype=torch.bool)
    others = overlap[~alone]
    if round > beta or not len(others):
        return alone
    mean = others.mean()
    threshold = mean + (round / beta) * (others.max() - mean)
    known = (overlap.diagonal() > 0)[:, None]  # an empty mask overlaps with none
    return alone | ((overlap >= threshold - 1e-9) & known)


def _shifts(like: Tensor) -> Tensor:
    return torch.arange(7, -1, -1, dtype=torch.uint8, device=like.device)
