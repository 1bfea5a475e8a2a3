"""What clients do under a Flower strategy: FedAvg's local training, or FedProx's if asked for it.

Flower's FedProx says ``proximal-mu`` in its messages and leaves the term to the client.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fedadapt.client.cohort import Cohort
from fedadapt.messages import Sent, Update
from fedadapt.parameters import from_run
from fedadapt.strategies.base import ClientSide, LocalTraining
from fedadapt.strategies.shared.fedprox import FedProx


@dataclass(frozen=True, kw_only=True)
class StockClient(ClientSide):
    """The client's side; the server's is the Flower strategy."""

    leaves: ClassVar[Mapping[str, str]] = {"train": "the trained model"}

    model: nn.Module = from_run()
    training: LocalTraining = from_run()

    def answer(self, action: str, cohort: Cohort, received: Sent) -> Update:
        mu = float(received.config.get("proximal-mu", 0.0))  # type: ignore[arg-type]
        local = FedProx(model=self.model, training=self.training, mu=mu)
        return local.answer(action, cohort, received)
