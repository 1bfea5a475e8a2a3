"""pFedHN: a hypernetwork on the server makes each client's weights from an embedding.

Shamsian et al. 2021, "Personalized federated learning using hypernetworks", algorithm 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedadapt.client.fit import Sgd
from fedadapt.errors import InputError
from fedadapt.parameters import param
from fedadapt.random_streams import stream
from fedadapt.selectors import head
from fedadapt.strategies.generated_models import Generated
from fedadapt.weights import Weights

MOST = 2**29  # numbers; a step holds them several times: weights, velocities, gradients


@dataclass(frozen=True, kw_only=True)
class PFedHN(Generated):
    """A hypernetwork on the server makes each client's weights. Shamsian et al. 2021, algorithm 1.

    Layers of ReLUs see the client's embedding, and a linear layer for each tensor makes it. That
    takes ``hidden`` times the memory of a model, so it is for small networks. The model goes down
    and up; nothing but running statistics stays on a client, and with ``local_head`` the classifier
    (pFedHN-PC). A client that never trained gets what is made of the mean embedding, or with
    ``new_rounds`` of an embedding that it learns with the hypernetwork held.

    The authors' step is of one client, from weights just made. Here the clients of a round train
    side by side from the same hypernetwork, so their steps one after the other would add up to
    several times the way that they agree on: at the authors' rates the server diverges. A round is
    one step instead, by the mean over its clients, and its rate does not depend on their number.
    Unlike the authors', it leaves the embeddings of all other clients alone. The biases of the last
    layers begin at the common initial model, which their weights, drawn as usual, disturb a little.
    """

    client_gets = "once the statistics"
    unseen_get = "what is made of the mean embedding, or of one that they learn (`new-rounds`)"
    hyper_lr: float = param(0.2, "learning rate of the server", above=0)
    hyper_momentum: float = param(0.5, "its momentum", at_least=0, below=1)
    hyper_decay: float = param(0.001, "its weight decay", at_least=0)
    clip: float = param(50.0, "largest norm of a step's gradient on the server", above=0)
    hidden: int = param(100, "width of the hidden layers of the hypernetwork", at_least=1)
    layers: int = param(3, "number of its hidden layers", at_least=1)
    embedding: int | None = param(
        None, "numbers in an embedding (default: 1 + a quarter of the clients)", at_least=1
    )
    local_head: bool = param(False, "classifiers stay on the clients: pFedHN-PC")

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = self.hidden * sum(p.numel() for p in self.model.parameters())
        if numbers > MOST:
            raise InputError(
                f"pfedhn: a hypernetwork of {numbers:,} numbers, hidden={self.hidden} times those "
                f"of the network; at most {MOST:,}: take a smaller network or fewer hidden"
            )

    @property
    def rule(self) -> Sgd:
        return Sgd(self.hyper_lr, self.hyper_momentum, self.hyper_decay)

    def generated(self, model: nn.Module) -> frozenset[str]:
        kept = head(model) if self.local_head else frozenset()
        return frozenset(n for n, _ in model.named_parameters()) - kept

    def begin_generator(self, start: Weights, number: int) -> tuple[Weights, Tensor]:
        random = stream(self.seed, "pfedhn")
        like = next(iter(start.values()))
        width = self.embedding or 1 + number // 4
        codes = torch.from_numpy(random.standard_normal((number, width))).to(like)
        generator: Weights = {}

        def add(name: str, inputs: int, outputs: int, bias: Tensor | None = None) -> None:
            """A linear layer as PyTorch draws it."""
            bound = 1 / sqrt(inputs)
            drawn = random.uniform(-bound, bound, (outputs, inputs + 1))
            both = torch.from_numpy(drawn).to(like)
            generator[f"{name}.weight"] = both[:, :-1].contiguous()
            generator[f"{name}.bias"] = both[:, -1].clone() if bias is None else bias.clone()

        for i in range(self.layers):
            add(f"hidden.{i}", self.hidden if i else width, self.hidden)
        for name, tensor in start.items():
            add(f"out.{name}", self.hidden, tensor.numel(), tensor.flatten())
        return generator, codes

    def generate(self, generator: Weights, codes: Tensor) -> Weights:
        def linear(name: str, x: Tensor) -> Tensor:
            return F.linear(x, generator[f"{name}.weight"], generator[f"{name}.bias"])

        hidden = codes
        for i in range(self.layers):
            hidden = F.relu(linear(f"hidden.{i}", hidden))
        return {
            n: linear(f"out.{n}", hidden).view(len(codes), *p.shape)
            for n, p in self.model.named_parameters()
            if f"out.{n}.bias" in generator
        }

    def limited(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        norm = torch.stack([g.norm() for g in gradients]).norm()
        return gradients if norm <= self.clip else [g * (self.clip / norm) for g in gradients]
