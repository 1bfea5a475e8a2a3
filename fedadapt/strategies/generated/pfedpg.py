"""pFedPG: the server generates each client's prompts for a transformer that stays as it is.

Yang et al. 2023, "Efficient model personalization in federated learning via client-specific prompt
generation", algorithm 1.
"""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from fedadapt.client.step_rules import Adam
from fedadapt.errors import InputError
from fedadapt.parameters import param
from fedadapt.random_streams import stream
from fedadapt.selectors import head, prompts
from fedadapt.strategies.generated_models import Generated
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class PFedPG(Generated):
    """The server generates prompts for a frozen transformer. Yang et al. 2023, algorithm 1.

    A client's descriptor d attends to a common basis B of K prompts of l numbers:
    P = B + softmax(d Wq (B Wk)^T / sqrt(l)) (B Wv) Wo, added to every row. Clients train P and a
    head of their own from there. K x l numbers go down and up in a round; the head stays on the
    client, and the frozen body comes to it once. An unseen client gets the prompts of the mean
    descriptor and the initial head, which it has to adapt first; with ``new_rounds`` it learns a
    descriptor, prompts and a head, and nothing else moves.

    The network needs prompts, and weights that are worth freezing: ``model=vit-tiny-prompts`` and
    ``weights``. The paper's server has an equation that we know from its description alone: the sum
    with B, the mean over clients, one head of attention, Adam and the initial values are ours. A
    personal model has the prompts that the client trained last; ``serve=generated`` has those that
    it would begin the next round with. The paper trains with lr 0.25, weight decay 0.001 and
    batches of 64.
    """

    personal_is = "on the client"
    client_gets = "once everything else"
    client_keeps = "the prompts that it trained last"
    unseen_get = "prompts of the mean descriptor, or their own (`new-rounds`)"
    hyper_lr: float = param(0.001, "learning rate of the server's Adam", above=0)
    serve: str = param(
        "trained",
        "personal models: as the server makes them, or as the client trained them last",
        choices=("generated", "trained"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(prompts(self.model)) != 1:
            raise InputError(
                "strategy: pfedpg needs a network with prompts, and this one has none; take "
                "model=vit-tiny-prompts, or a network with a layer fedadapt.models.prompts.Prompts"
            )

    @property
    def rule(self) -> Adam:
        return Adam(self.hyper_lr)

    def generated(self, model: nn.Module) -> frozenset[str]:
        return prompts(model)

    def trains(self, model: nn.Module) -> frozenset[str]:
        return prompts(model) | head(model)

    def begin_generator(self, start: Weights, number: int) -> tuple[Weights, Tensor]:
        [basis] = start.values()
        random, width = stream(self.seed, "pfedpg"), basis.shape[1]

        def drawn(rows: int, bound: float) -> Tensor:
            return torch.from_numpy(random.uniform(-bound, bound, (rows, width))).to(basis)

        maps = {name: drawn(width, sqrt(3 / width)) for name in ("query", "key", "value", "out")}
        return {"basis": basis} | maps, drawn(number, sqrt(6 / (1 + width)))

    def generate(self, generator: Weights, codes: Tensor) -> Weights:
        basis = generator["basis"]
        scores = codes @ generator["query"] @ (basis @ generator["key"]).T
        attention = torch.softmax(scores / sqrt(basis.shape[1]), 1)
        offsets = attention @ (basis @ generator["value"]) @ generator["out"]
        [name] = prompts(self.model)
        return {name: basis + offsets.unsqueeze(1)}
