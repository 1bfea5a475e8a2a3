"""Stock Flower's side of the clients, as its tutorials have it: a ClientApp with a DataLoader."""

import os
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.works import Clients, Work, network, parsed

WORK = "FEDADAPT_BENCHMARK_WORK"  # tells the actors what to load

app = ClientApp()


@lru_cache(maxsize=1)
def _clients(word: str) -> tuple[Work, list[TensorDataset]]:
    """All images, once in each actor."""
    work = parsed(word)
    clients = Clients(work)
    return work, [TensorDataset(*clients.scaled(d)) for d in range(work.clients)]


def _received(message: Message, context: Context) -> tuple[Work, TensorDataset, nn.Module]:
    torch.set_num_threads(1)
    work, data = _clients(os.environ[WORK])
    model = network(work)
    arrays: Any = message.content["arrays"]
    model.load_state_dict(arrays.to_torch_state_dict())
    return work, data[int(context.node_config["partition-id"])], model


def _reply(message: Message, arrays: dict[str, Any], metrics: dict[str, float]) -> Message:
    content = RecordDict({**arrays, "metrics": MetricRecord(metrics)})  # type: ignore[arg-type]
    return Message(content=content, reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    work, data, model = _received(message, context)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), work.lr, work.momentum)
    for images, labels in DataLoader(data, batch_size=work.batch, shuffle=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
    metrics = {"loss": loss.item(), "num-examples": len(data)}
    return _reply(message, {"arrays": ArrayRecord(model.state_dict())}, metrics)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    _, data, model = _received(message, context)
    model.eval()
    with torch.no_grad():
        right = sum(
            int((model(images).argmax(1) == labels).sum())
            for images, labels in DataLoader(data, batch_size=100)
        )
    return _reply(message, {}, {"accuracy": right / len(data), "num-examples": len(data)})
