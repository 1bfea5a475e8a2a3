"""pFedGate: every client's own gates make a sparse model of the shared one.

Chen et al. 2023, "Efficient personalized federated learning via sparse model-adaptation",
sections 4 and 5.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from fedadapt.client.blocks import Blocks
from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.fit import Fitted, fit
from fedadapt.client.gates import GateLayer
from fedadapt.client.step_rules import Optimizer
from fedadapt.messages import Update
from fedadapt.models.mode import evaluating, training
from fedadapt.models.sequences.inputs import refuse_tokens
from fedadapt.objectives import Outputs, View, cross_entropy
from fedadapt.parameters import from_run, param
from fedadapt.selectors import everything, nothing
from fedadapt.strategies.base import Metadata
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights

KEPT = "gate/kept"  # share of the weights that are not 0 in the model a client is served
USED = "gate/used"  # blocks that a client has used, and so trained, in a round: 1, or 0
MOST_IMAGES = 1024  # that gates are computed of at once; a client with fewer uses all of them


@dataclass(frozen=True, kw_only=True)
class PFedGate(SharedModel):
    """Gates of each client choose blocks of the shared model within a budget. Chen et al. 2023.

    Each parameter is cut into ``blocks`` blocks, of which the first is always used. A client's gate
    layer makes two numbers in (0, 1) a block of a batch of images: inputs normalised by channel,
    then for each number a linear layer, normalisation over the batch, a sigmoid, and the mean over
    images. The blocks of greatest importance that fit ``budget`` are used (exactly up to 16,384
    scalars, see ``client.blocks``), multiplied by the other number. The gradient of the choice is
    passed to the importances. One step moves the shared weights and the gate layer.

    Gates never leave their client. What it sends is the model, and which blocks it used in any
    batch: a block is the mean of those that used it. (A message has the size of the whole model;
    ``mean_share_changed`` in ``gates.json`` is the share that would have to travel.)

    The paper computes gates of each test batch, so that a prediction depends on what else is in the
    batch. Here a client is served one network, with the gates of its training images taken as one
    batch: the paper's ablation with gates for a client, which it reports as the weaker one (EMNIST
    84.8 instead of 87.3 %, CIFAR-100 33.5 instead of 39.7 %). Normalisation is therefore always by
    the images at hand, and the layer has no running statistics; where the paper has switchable
    normalisation of the input, this has batch normalisation. A client that never trained learns
    gates alone, for ``new_epochs``, with the shared model held. Batch norm of the network is
    cut like everything else, and its statistics are as the run says. There is no weight decay, for
    it would change every block.
    """

    personal = "on client"
    client_keeps = "its gate layer"
    unseen_get = "the shared model with gates that they learn"
    ignores = frozenset({"weight-decay"})

    image_shape: tuple[int, ...] = from_run()
    budget: float = param(
        0.5, "share of the weights that a client uses at most", above=0, at_most=1
    )
    blocks: int = param(5, "blocks of a parameter", at_least=2)
    gate_rate: float | None = param(None, "learning rate of the gates (default: lr)", above=0)
    knapsack: str = param("exact", "how blocks are chosen", choices=("exact", "greedy"))
    aggregation: str = param(
        "blocks", "a block's mean: of those that changed it, or of all", choices=("blocks", "dense")
    )
    new_epochs: int = param(20, "epochs in which a new client learns its gates", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_tokens(self.model, "pfedgate", "makes its gates of inputs that it normalises")

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        fitted = self._fitted(cohort, self.base_model(shared), *self.local())
        gate = {n: fitted.extra[n] for n in self._layer.shapes}
        used = fitted.extra[USED]
        update = self.sending(cohort, fitted).keeping(gate=gate)
        kept = self._cut.share(self._served(cohort, gate)).to(used)
        return replace(update, weights=update.weights | {USED: used, KEPT: kept})

    def loss(self, view: View) -> Tensor:
        """The loss of the gated network, which is the only one that is computed."""
        weights = dict(view.memory.get("held", {})) | view.params
        gates = self.gates(view.params, view.batch.inputs)
        with torch.no_grad():  # beside the training, as batch norm keeps its statistics
            used = view.params[USED]
            used.copy_(torch.maximum(used, (gates != 0).to(used)))
        tensors = {n: weights[n] * t for n, t in self._cut.spread(gates).items()}
        logits = view.apply(tensors)
        return cross_entropy(replace(view, outputs=lambda: Outputs(logits, None)))

    def gates(self, gate: Weights, inputs: Tensor) -> Tensor:
        """Return what each client's blocks are multiplied by, of one batch: [D, blocks]."""
        value, importance = self._layer(gate, inputs)
        capacity, greedy = int(self.budget * self._cut.total), self.knapsack == "greedy"
        chosen = self._cut.best(importance.detach(), capacity, greedy=greedy)
        return value * (chosen + (importance - importance.detach()))

    def extras(self, start: Weights) -> Weights:
        like = next(t for t in start.values() if t.is_floating_point())
        return {USED: like.new_zeros(len(self._cut.sizes)), KEPT: like.new_zeros(())}

    def moved(self, before: Weights, mean: Weights) -> Weights:
        """The mean over those that changed a block; the others have sent it as it was.

        With d their changes and s the share of examples they have, the mean over all is before +
        s d.
        """
        if self.aggregation == "dense":
            return mean
        next_ones = dict(mean)
        for name, shares in self._cut.spread(mean[USED].unsqueeze(0)).items():
            if name in mean:
                old, new, share = before[name], mean[name], shares[0]
                among = old + (new - old) / torch.where(share > 0, share, torch.ones_like(share))
                next_ones[name] = torch.where(share == 1, new, torch.where(share > 0, among, old))
        return next_ones

    def personal_model(self, cohort: Cohort, shared: Weights) -> Weights:
        network = self.base_model(shared)
        if cohort.has("gate").all():
            gate = self._kept(cohort, network)
        else:
            optimizer, schedule = self.local("gate")
            schedule = schedule._replace(epochs=self.new_epochs)
            held = {n: network[n] for n in self._cut.shapes}
            learnt = self._fitted(cohort, network, optimizer, schedule, held).extra
            gate = cohort.state("gate", {n: learnt[n] for n in self._layer.shapes})
        gates = self._cut.spread(self._served(cohort, gate))
        return network | {n: network[n] * t for n, t in gates.items()}

    def describe(self, state: Weights) -> dict[str, Metadata]:
        sizes, used = self._cut.sizes, state[USED].double()
        sent = float(used @ torch.tensor(sizes, dtype=torch.float64)) / self._cut.total
        described: Metadata = {
            "weights": self._cut.total,
            "most_weights_used": int(self.budget * self._cut.total),
            "mean_share_served": state[KEPT].item(),
            "mean_share_changed": sent,
            "blocks": {"sizes": list(sizes), "changed_by_share_of_clients": used.tolist()},
        }
        return {"gates": described}

    def _fitted(
        self,
        cohort: Cohort,
        network: Weights,
        optimizer: Optimizer,
        schedule: Schedule,
        held: Weights | None = None,
    ) -> Fitted:
        """Train gates, and the network unless its weights are ``held``."""
        rate = optimizer.learning_rate if self.gate_rate is None else self.gate_rate
        gate = self._kept(cohort, network)
        used = next(iter(gate.values())).new_zeros(len(cohort), len(self._cut.sizes))
        return fit(
            cohort,
            network,
            replace(optimizer, weight_decay=0.0, rates=dict.fromkeys(gate, rate)),
            schedule,
            objective=self.loss,
            trainable=everything if held is None else nothing,
            memory={} if held is None else {"held": held},
            extra=gate | {USED: used},
            mode=training if held is None else evaluating,
        )

    def _served(self, cohort: Cohort, gate: Weights) -> Tensor:
        """Return the gates of each client's training images as one batch, [D, blocks]."""
        some = cohort.subset(purpose="gates", most=MOST_IMAGES)
        of_client: dict[int, Tensor] = {}
        with torch.no_grad():
            for groups in some.steps(Schedule(MOST_IMAGES, purpose="gates")):
                for members, batch in groups:
                    own = {n: t[members] for n, t in gate.items()}
                    of_client |= zip(members, self.gates(own, batch.inputs), strict=True)
        return torch.stack([of_client[d] for d in range(len(cohort))])

    def _kept(self, cohort: Cohort, shared: Weights) -> Weights:
        """Return each client's gate layer; drawn by its own stream where it has none yet."""
        if cohort.has("gate").all():
            return cohort.state("gate", {})
        like = next(t for t in shared.values() if t.is_floating_point())
        rows = [self._layer.drawn(cohort.generator(d, "gate")) for d in range(len(cohort))]
        drawn = {n: torch.stack([row[n] for row in rows]).to(like) for n in rows[0]}
        return cohort.state("gate", drawn)

    @cached_property
    def _layer(self) -> GateLayer:
        return GateLayer(self.image_shape, len(self._cut.sizes))

    @cached_property
    def _cut(self) -> Blocks:
        least = min(max(1 / self.blocks, 0.1), self.budget)
        shapes = {n: tuple(t.shape) for n, t in self.model.named_parameters()}
        return Blocks.of(shapes, self.blocks, least)
