"""PFA in a Flower app that knows nothing of fedadapt's runs: your network, your data, your loop.

The ServerApp starts ``as_flower(PFA(...))``; the ClientApp is ordinary Flower and answers
``train``, ``evaluate`` and, with one vector, ``query.sparsity``. Run it with ``flwr run`` by naming
``server`` and ``client`` as the components of your app.
"""

import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from torch import nn

from fedadapt.client import sparsity
from fedadapt.client.fit import Sgd
from fedadapt.flower import as_flower
from fedadapt.strategies.base import LocalTraining
from fedadapt.strategies.pfa.strategy import PFA

client = ClientApp()
server = ServerApp()


def network() -> nn.Module:
    """Yours."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2))


def data(client: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Yours. Here: two kinds of clients, lighter and darker images, with opposite labels."""
    images = 2 * torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(client)) - 1
    labels = (images[:, 0, 0, 0] > 0).long()
    return (images + 0.5, labels) if client % 2 == 0 else (images - 0.5, 1 - labels)


@client.train()
def train(message: Message, context: Context) -> Message:
    """Any training you like."""
    images, labels = data(int(context.node_config["partition-id"]))
    model = network()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": float(len(images)), "loss": loss.item()})
    arrays = ArrayRecord(model.state_dict())
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@client.query("sparsity")
def tell(message: Message, context: Context) -> Message:
    """How often each of the channels asked for is zero on this client's images."""
    images, _ = data(int(context.node_config["partition-id"]))
    asked = message.content.config_records["config"]
    model = network()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    vector = sparsity(model, images, layer=asked["layer"], channels=asked["channels"])
    report = ArrayRecord({"sparsity": Array(vector.float().numpy())})
    metrics = MetricRecord({"num-examples": 1.0})
    return Message(RecordDict({"report": report, "metrics": metrics}), reply_to=message)


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """How good the model of this client's group is here."""
    images, labels = data(int(context.node_config["partition-id"]))
    model = network()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    with torch.no_grad():
        right = (model(images).argmax(1) == labels).float().mean().item()
    metrics = MetricRecord({"num-examples": float(len(images)), "accuracy": right})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Five rounds together, then groups, then five rounds inside each group."""
    model = network()
    pfa = PFA(
        model=model,
        image_shape=(1, 4, 4),
        training=LocalTraining(optimizer=Sgd(0.1)),
        federated_rounds=5,
    )
    flower = as_flower(pfa, min_nodes=len(list(grid.get_node_ids())))
    arrays = ArrayRecord(model.state_dict())
    result = flower.start(grid=grid, initial_arrays=arrays, num_rounds=10)
    for number in (5, 10):
        accuracy = result.evaluate_metrics_clientapp[number]["accuracy"]
        print(f"round {number}: {100 * accuracy:.0f} % on the clients")
    found = pfa.describe(flower.state)["groups"]
    print(f"{found['num_groups']} groups: {found['labels']} of nodes {found['clients']}")
