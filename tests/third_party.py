"""What somebody else might plug in: a network, and Flower strategies good and bad."""

import sys
from collections.abc import Iterable

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import nn


def norm_mlp(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    inputs = image_shape[0] * image_shape[1] * image_shape[2]
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, num_classes),
    )


def without_norms(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    inputs = image_shape[0] * image_shape[1] * image_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, num_classes))


class Halfway(FedAvg):
    """Goes a share of the way from the old model to the mean of the new ones."""

    def __init__(self, share: float, note: str = "", **settings) -> None:
        super().__init__(**settings)
        self.share, self.note = share, note

    def configure_train(self, server_round, arrays, config, grid):
        self.before = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        mean, metrics = super().aggregate_train(server_round, replies)
        mixed = {n: old.numpy() + self.share * (mean[n].numpy() - old.numpy())
                 for n, old in self.before.items()}  # fmt: skip
        return ArrayRecord({n: Array(a) for n, a in mixed.items()}), metrics


class Listening(FedAvg):
    """Remembers what the clients said of the model in every round."""

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.heard: list[list[MetricRecord]] = []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]):
        self.heard.append([next(iter(r.content.metric_records.values())) for r in replies])
        return None


class Transposing(FedAvg):
    def aggregate_train(self, server_round, replies):
        mean, metrics = super().aggregate_train(server_round, replies)
        turned = {n: Array(np.asarray(a.numpy().T.copy())) for n, a in mean.items()}
        return ArrayRecord(turned), metrics


class Forgetful(FedAvg):
    def aggregate_train(self, server_round, replies):
        mean, metrics = super().aggregate_train(server_round, replies)
        return ArrayRecord(dict(list(mean.items())[1:])), metrics


class Asking(FedAvg):
    def configure_train(self, server_round, arrays, config, grid: Grid):
        for message in super().configure_train(server_round, arrays, config, grid):
            yield Message(message.content, message.metadata.dst_node_id, "query.secrets")


class Doubling(FedAvg):
    def configure_train(self, server_round, arrays, config, grid: Grid):
        for message in super().configure_train(server_round, arrays, config, grid):
            message.content["more"] = arrays
            yield message


class Starting(FedAvg):
    def start(self, *args, **kwargs):
        return None


NOT_A_STRATEGY = 3


def norm_cnn(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """A convolution with batch norm: a network of every kind of tensor, and of milliseconds."""
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * (height // 2) * (width // 2), num_classes),
    )


class Leaving(FedAvg):
    """Ends the process in the middle of a round, as if all were well."""

    code: object = 0
    line = 0  # of the call below, known once it has been made

    def aggregate_train(self, server_round, replies):
        Leaving.line = sys._getframe().f_lineno + 1
        sys.exit(self.code)
