"""Train methods of fluke-fl on a file of ``write.py``, in fluke's own environment.

  path/to/fluke/python benchmarks/beside_fluke/theirs.py seed1.npz runs.jsonl apfl:as-it-is

Variants:
  as-it-is  nothing of fluke is touched: its own order of images, and optimisers that live on from
            round to round
  batches   clients go through their images in our order, and velocities start at 0 in each round
  mended    the same, and what a method does otherwise than its paper is put right: ``MENDED``

A line of JSON for each run goes to the end of the file of results: the accuracy of each client on
its own test by each model that could be called its personal one, after the last round; and the
means that fluke's own log shows.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from typing import Any

import fluke.algorithms.fedala as fedala_module
import numpy as np
import torch
from fluke import DDict, FlukeENV
from fluke.algorithms import CentralizedFL
from fluke.algorithms.apfl import APFL, APFLClient
from fluke.algorithms.ditto import Ditto
from fluke.algorithms.fedala import FedALA, FedALAClient
from fluke.algorithms.fedamp import FedAMP
from fluke.algorithms.fedavg import FedAVG
from fluke.algorithms.fedbabu import FedBABU
from fluke.algorithms.fedproto import FedProto, FedProtoClient, FedProtoServer
from fluke.algorithms.fedrep import FedRep
from fluke.data import FastDataLoader
from fluke.evaluation import ClassificationEval
from fluke.nets import EncoderHeadNet
from fluke.utils import ClientObserver, FederationObserver
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.lr_scheduler import StepLR
from torchmetrics import Accuracy

VARIANTS = ("as-it-is", "batches", "mended")
given: dict[str, np.ndarray] = {}
setting: dict[str, Any] = {}
numbers: dict[str, float] = {}


class Initial(EncoderHeadNet):
    """Our ``mlp`` with the file's initial weights."""

    def __init__(self) -> None:
        weights = {n.removeprefix("weights/"): t for n, t in given.items() if n[:8] == "weights/"}
        first, second, head = (weights[f"{n}.weight"].shape for n in ("body.1", "body.3", "head"))
        body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(first[1], first[0]),
            nn.ReLU(),
            nn.Linear(second[1], second[0]),
            nn.ReLU(),
        )
        super().__init__(encoder=body, head=nn.Linear(head[1], head[0]))
        parts = {"body": "_encoder", "head": "_head"}
        self.load_state_dict(
            {
                f"{parts[n.split('.')[0]]}.{n.split('.', 1)[1]}": torch.from_numpy(t)
                for n, t in weights.items()
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


# -- the clients' images ---------------------------------------------------------------------------


class InOurOrder(FastDataLoader):
    """The file's batches, epoch after epoch; a last batch of one image joins the one before."""

    def __init__(self, *tensors: Tensor, epochs: Iterator[np.ndarray], **more: Any) -> None:
        super().__init__(*tensors, **more)
        self.tensors = tensors  # fluke's has shuffled them where it is to use a part only
        self.epochs = epochs

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        places = torch.from_numpy(next(self.epochs).astype(np.int64))
        ends = list(range(self.batch_size, len(places), self.batch_size))
        if ends and ends[-1] == len(places) - 1:
            ends.pop()
        for begin, end in zip([0, *ends], [*ends, len(places)], strict=True):
            yield tuple(t[places[begin:end]] for t in self.tensors)


def epochs_of(client: int, purposes: list[str], last: str) -> Iterator[np.ndarray]:
    """Every round's epochs, purpose by purpose, then those of the end."""
    for number in range(setting["rounds"]):
        for purpose in purposes:
            yield from given[f"order/{purpose}/{client}"][number]
    if last:
        yield from given[f"order/{last}/{client}"][0]
    while True:  # for what fluke does afterwards, and nobody looks at
        yield given[f"order/train/{client}"][-1, -1]


class Splitter:
    """What fluke asks for the clients' images."""

    def __init__(self, purposes: list[str] | None, last: str) -> None:
        self.purposes, self.last = purposes, last

    def assign(self, clients: int, batch_size: int) -> tuple[Any, None]:
        train, test = [], []
        for client in range(clients):
            more = {"num_labels": 10, "batch_size": batch_size, "shuffle": True}
            if self.purposes is None:
                train.append(FastDataLoader(*of(client, "train"), **more))
            else:
                epochs = epochs_of(client, self.purposes, self.last)
                train.append(InOurOrder(*of(client, "train"), epochs=epochs, **more))
            test.append(FastDataLoader(*of(client, "test"), num_labels=10, batch_size=1000))
        return (train, test), None


def of(client: int, part: str) -> tuple[Tensor, Tensor]:
    return tuple(torch.from_numpy(given[f"{part}/{client}/{n}"]) for n in ("images", "labels"))


# -- what is put right -----------------------------------------------------------------------------


class MendedAPFL(APFLClient):
    """Trains v through the mixture, both at the same point, and keeps v rather than the mixture."""

    def fit(self, override_local_epochs: int = 0) -> float:
        self.optimizer, _ = self._optimizer_cfg(self.model)
        self.pers_optimizer, _ = self._optimizer_cfg(self.personalized_model)
        for _ in range(self.hyper_params.local_epochs):
            for x, y in self.train_set:
                self.optimizer.zero_grad()
                self.pers_optimizer.zero_grad()
                shared = self.hyper_params.loss_fn(self.model(x), y)
                mixed = functional_call(self.model, self.mixture(self.model), (x,))
                (shared + self.hyper_params.loss_fn(mixed, y)).backward()
                self.optimizer.step()
                self.pers_optimizer.step()
        return 0.0

    def mixture(self, model: nn.Module) -> dict[str, Tensor]:
        own = dict(self.personalized_model.named_parameters())
        alpha = self.hyper_params.lam
        return {n: (1 - alpha) * w.detach() + alpha * own[n] for n, w in model.named_parameters()}


class Pulled(torch.optim.SGD):
    """Ditto's personal step, with the momentum of the run; fluke leaves momentum out."""

    def __init__(self, parameters: Any, lam: float, **more: Any) -> None:
        super().__init__(parameters, **more)
        self.lam = lam

    def step(self, anchor: Any) -> None:
        with torch.no_grad():
            for p, w in zip(self.param_groups[0]["params"], anchor, strict=True):
                p.grad.add_(p - w, alpha=self.lam)
        super().step()


class MendedFedProto(FedProtoClient):
    """Class means of all images under the trained network, instead of averages on the way."""

    def _update_protos(self, protos: Any) -> None:
        images, labels = of(self.index, "train")
        self.model.eval()
        with torch.no_grad():
            features = self.model.encoder(images)
        self.counts = labels.bincount(minlength=10).tolist()
        for label in labels.unique().tolist():
            self.prototypes[label] = features[labels == label].mean(0)


class MendedFedProtoServer(FedProtoServer):
    """Averages class means by images; fluke's weighs clients equally."""

    def aggregate(self, eligible: Any, client_models: Any) -> None:
        sent = list(client_models)
        for label in range(10):
            counts = [c.counts[label] for c in eligible]
            if sum(counts):
                parts = [n * p[label] for n, p in zip(counts, sent, strict=True) if n]
                self.prototypes[label] = torch.stack(parts).sum(0) / sum(counts)


class SubsetOfOurs(FedALAClient):
    """Learns its mixture on the file's images in the file's order."""

    def adaptive_local_aggregation(self, server_model: nn.Module) -> None:
        if not hasattr(self, "mixing"):
            self.mixing = self._orders()
        fedala_module.FastDataLoader = partial(InOurOrder, epochs=self.mixing)
        try:
            super().adaptive_local_aggregation(server_model)
        finally:
            fedala_module.FastDataLoader = FastDataLoader

    def _orders(self) -> Iterator[np.ndarray]:
        yield from given[f"order/ala-first/{self.index}"][0]
        yield from given[f"order/ala/{self.index}"][:, 0]


# -- the methods -----------------------------------------------------------------------------------


def with_parts(
    algorithm: type[CentralizedFL], client: type | None = None, server: type | None = None
) -> type[CentralizedFL]:
    """The algorithm with another class of clients or server."""
    members: dict[str, Any] = {}
    if client is not None:
        members["get_client_class"] = lambda self: client
    if server is not None:
        members["get_server_class"] = lambda self: server
    return type(algorithm.__name__, (algorithm,), members)


class Method:
    """How fluke calls a method, and which of its models could be called personal.

    ``purposes`` name the orders that a client of ours uses in a round, in fluke's turn.
    """

    algorithm: type[CentralizedFL] = FedAVG
    purposes: tuple[str, ...] = ("train",)
    last = ""  # the order that is used after the last round
    client: dict[str, Any] = {}  # noqa: RUF012
    server: dict[str, Any] = {"weighted": True}  # noqa: RUF012
    sends_body = False
    has_own_model = False  # fluke is told the network of the clients as well

    def __init__(self, variant: str) -> None:
        self.variant = variant

    def made(self) -> CentralizedFL:
        purposes = None if self.variant == "as-it-is" else list(self.purposes)
        client = {
            "batch_size": setting["batch_size"],
            "local_epochs": setting["local_epochs"],
            "loss": "CrossEntropyLoss",
            "optimizer": {"name": "SGD", "lr": setting["lr"], "momentum": setting["momentum"]},
            "scheduler": {"name": "StepLR", "step_size": 1, "gamma": 1},
        }
        if self.has_own_model:
            client["model"] = "__main__.Initial"  # by its name: one network for each client
        whole = Initial()
        algorithm = self.algorithm(
            setting["clients"],
            Splitter(purposes, self.last),
            DDict(
                client=client | self.client,
                server=dict(self.server),
                model=whole.encoder if self.sends_body else whole,
            ),
        )
        if self.variant != "as-it-is":
            for one in algorithm.clients:
                self.from_rest(one)
        return algorithm

    def from_rest(self, client: Any) -> None:
        """New optimisers whenever the client trains."""
        fit = client.fit

        def anew(*words: Any) -> float:
            client.optimizer = client.scheduler = None
            if hasattr(client, "pers_optimizer"):
                client.pers_optimizer = client.pers_scheduler = None
            self.before_fit(client)
            return fit(*words)

        client.fit = anew

    def before_fit(self, client: Any) -> None:
        """For what is put right there."""

    def before_end(self, algorithm: Any) -> dict[str, list[nn.Module]]:
        """Models after the last round, before fluke's own finish."""
        return {}

    def after_end(self, algorithm: Any) -> dict[str, list[nn.Module]]:
        """Models after fluke's own finish, in which clients receive the last shared model."""
        return {}

    def facts(self, algorithm: Any) -> dict[str, Any]:
        """What else is worth knowing."""
        return {}


class FedAvgMethod(Method):
    def before_end(self, algorithm: Any) -> dict[str, list[nn.Module]]:
        return {"shared": [algorithm.server.model] * setting["clients"]}


class FineTuned(FedAvgMethod):
    last = "fine-tune"

    def __init__(self, variant: str) -> None:
        super().__init__(variant)
        self.client = {"fine_tuning_epochs": setting["tuning"]}

    def after_end(self, algorithm: Any) -> dict[str, list[nn.Module]]:
        return {"personal": [c.model for c in algorithm.clients]}


class FedRepMethod(Method):
    algorithm, purposes = FedRep, ("fedrep", "train")
    sends_body = has_own_model = True

    def __init__(self, variant: str) -> None:
        super().__init__(variant)
        self.client = {"tau": setting["local_epochs"]}

    def after_end(self, algorithm: Any) -> dict[str, list[nn.Module]]:
        return {"personal": [c.model for c in algorithm.clients]}


class DittoMethod(FedAvgMethod):
    algorithm, purposes, has_own_model = Ditto, ("train", "ditto"), True

    def __init__(self, variant: str) -> None:
        super().__init__(variant)
        self.client = {"tau": setting["local_epochs"], "lam": numbers["ditto.lam"]}

    def before_fit(self, client: Any) -> None:
        if self.variant == "mended":
            client.pers_optimizer = Pulled(
                client.personalized_model.parameters(),
                numbers["ditto.lam"],
                lr=setting["lr"],
                momentum=setting["momentum"],
            )
            client.pers_scheduler = StepLR(client.pers_optimizer, 1, gamma=1)

    def before_end(self, algorithm: Any) -> dict[str, list[nn.Module]]:
        own = [c.personalized_model for c in algorithm.clients]
        return super().before_end(algorithm) | {"personal": own}


class FedBabuMethod(Method):
    algorithm, last = FedBABU, "fedbabu"
    sends_body = has_own_model = True

    def __init__(self, variant: str) -> None:
        super().__init__(variant)
        self.client = {"mode": "full", "fine_tuning_epochs": setting["tuning"]}

    def made(self) -> CentralizedFL:
        algorithm = super().made()
        if self.variant == "mended":
            for one in algorithm.clients:
                one.fine_tune = partial(self._tuned_from_the_mean, algorithm, one, one.fine_tune)
        return algorithm

    def _tuned_from_the_mean(self, algorithm: Any, client: Any, tune: Callable[[], None]) -> None:
        client.model.encoder.load_state_dict(algorithm.server.model.state_dict())
        tune()

    def before_end(self, algorithm: Any) -> dict[str, list[nn.Module]]:
        shared = Initial()
        shared.encoder.load_state_dict(algorithm.server.model.state_dict())
        return {"shared": [shared] * setting["clients"]}

    def after_end(self, algorithm: Any) -> dict[str, list[nn.Module]]:
        return {"personal": [c.model for c in algorithm.clients]}


class APFLMethod(FedAvgMethod):
    algorithm, has_own_model = APFL, True
    server = {"weighted": True, "tau": 1}  # noqa: RUF012

    def __init__(self, variant: str) -> None:
        super().__init__(variant)
        self.client = {"lam": numbers["apfl.alpha"]}
        if variant == "mended":
            self.algorithm = with_parts(APFL, MendedAPFL)
        self.average: dict[int, dict[str, Tensor]] = {}  # what v turns out to be
        self.gradients: list[bool] = []

    def before_fit(self, client: Any) -> None:
        self.average.setdefault(client.index, copied(client.personalized_model))

    def made(self) -> CentralizedFL:
        algorithm = super().made()
        if self.variant == "batches":
            for one in algorithm.clients:
                one.fit = partial(self._watched, one, one.fit)
        return algorithm

    def _watched(self, client: Any, fit: Callable[..., float], *words: Any) -> float:
        own = list(client.personalized_model.parameters())
        loss = fit(*words)
        self.gradients.append(any(p.grad is not None for p in own))
        alpha, average = self.client["lam"], self.average[client.index]
        for n, w in client.model.named_parameters():
            average[n] = (1 - alpha) * w.detach() + alpha * average[n]
        return loss

    def before_end(self, algorithm: Any) -> dict[str, list[nn.Module]]:
        own = []
        for client in algorithm.clients:
            model = Initial()
            served = copied(client.personalized_model)
            if self.variant == "mended":
                served = {n: t.detach() for n, t in client.mixture(algorithm.server.model).items()}
            model.load_state_dict(served)
            own.append(model)
        return super().before_end(algorithm) | {"personal": own}

    def facts(self, algorithm: Any) -> dict[str, Any]:
        if self.variant != "batches":
            return {}
        gaps = [
            (t - self.average[c.index][n]).abs().max().item()
            for c in algorithm.clients
            for n, t in copied(c.personalized_model).items()
        ]
        return {
            "v_ever_had_a_gradient": any(self.gradients),
            "furthest_from_running_mean_of_local_models": max(gaps),
        }


class FedALAMethod(FedAvgMethod):
    algorithm = FedALA

    def __init__(self, variant: str) -> None:
        super().__init__(variant)
        # The first mixture is never good enough, so it takes the 100 batches that fluke allows:
        # as many epochs as ours where an epoch has five.
        self.client = {
            "eta": numbers["fedala.eta"],
            "ala_sample_size": numbers["fedala.share"],
            "conergence_threshold": 0.0,
            "loss_window_size": 10,
        }
        if variant != "as-it-is":
            self.algorithm = with_parts(FedALA, SubsetOfOurs)

    def made(self) -> CentralizedFL:
        algorithm = super().made()
        if self.variant != "as-it-is":  # where an epoch is short, 100 batches would be more of them
            for one in algorithm.clients:
                batches = -(-given[f"order/ala/{one.index}"].shape[-1] // setting["batch_size"])
                one.hyper_params.conergence_threshold = torch.inf
                one.hyper_params.loss_window_size = batches * setting["ala_epochs"] - 1
        return algorithm

    def after_end(self, algorithm: Any) -> dict[str, list[nn.Module]]:
        return {"personal": [c.model for c in algorithm.clients]}


class FedProtoMethod(Method):
    algorithm, has_own_model = FedProto, True
    server = {"weighted": True, "n_protos": 10}  # noqa: RUF012

    def __init__(self, variant: str) -> None:
        super().__init__(variant)
        self.client = {"n_protos": 10, "lam": numbers["fedproto.lam"]}
        if variant == "mended":
            self.algorithm = with_parts(FedProto, MendedFedProto, MendedFedProtoServer)

    def before_end(self, algorithm: Any) -> dict[str, list[nn.Module]]:
        clients = algorithm.clients
        return {
            "classifier": [c.model for c in clients],
            "received prototypes": [Nearest(c.model.encoder, c.global_protos) for c in clients],
            "own prototypes": [
                Nearest(c.model.encoder, [c.prototypes[y] for y in range(10)]) for c in clients
            ],
        }


class Nearest(nn.Module):
    """Predicts the class with the nearest prototype, among those there are."""

    def __init__(self, body: nn.Module, prototypes: list[Tensor | None]) -> None:
        super().__init__()
        self.body, self.prototypes = body, prototypes

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        far = torch.full((len(x),), torch.inf)
        apart = [far if p is None else ((features - p) ** 2).mean(1) for p in self.prototypes]
        return -torch.stack(apart, 1)


class FedAMPMethod(Method):
    algorithm, has_own_model = FedAMP, True

    def __init__(self, variant: str) -> None:
        super().__init__(variant)
        # fluke's pull is lam / (2 lr) ||w - u||^2, ours mu / 2 ||w - u||^2.
        self.client = {"lam": numbers["fedamp.mu"] * setting["lr"]}
        self.server = {"sigma": numbers["fedamp.sigma"], "alpha": numbers["fedamp.alpha"]}

    def before_end(self, algorithm: Any) -> dict[str, list[nn.Module]]:
        return {
            "personal": [c.model for c in algorithm.clients],
            "mixture": [c.personalized_model for c in algorithm.clients],
        }


METHODS: dict[str, type[Method]] = {
    "fedavg": FedAvgMethod,
    "fedavg+fine-tune": FineTuned,
    "fedrep": FedRepMethod,
    "ditto": DittoMethod,
    "fedbabu": FedBabuMethod,
    "apfl": APFLMethod,
    "fedala": FedALAMethod,
    "fedproto": FedProtoMethod,
    "fedamp": FedAMPMethod,
}
MENDED = {  # what ``mended`` puts right
    "ditto": "momentum in the personal step as well",
    "fedbabu": "clients fine-tune the last mean, not what they trained themselves",
    "apfl": "v is trained through the mixture, and kept apart from it",
    "fedproto": "prototypes are means under the trained network, averaged by images",
}


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in model.named_parameters()}


# -- a run -----------------------------------------------------------------------------------------


class Log(ClientObserver, FederationObserver):
    """What fluke tells about clients, and a look at them after the last round."""

    def __init__(self, method: Method, algorithm: Any) -> None:
        self.method, self.algorithm = method, algorithm
        self.told: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.accuracy: dict[str, list[float]] = {}

    def client_evaluation(
        self, round: int, client_id: int, phase: str, evals: dict[str, float], **more: Any
    ) -> None:
        self.told[phase][round].append(evals["accuracy"])

    def end_round(self, round: int, **more: Any) -> None:
        if round == setting["rounds"]:
            self.look(self.method.before_end(self.algorithm))

    def look(self, models: dict[str, list[nn.Module]]) -> None:
        self.accuracy |= {name: accuracies(own) for name, own in models.items()}


@torch.no_grad()
def accuracies(models: list[nn.Module]) -> list[float]:
    """Of each client's model on the client's own test."""
    found = []
    for client, model in enumerate(models):
        images, labels = of(client, "test")
        model.eval()
        found.append((model(images).argmax(1) == labels).double().mean().item())
    return found


def run(name: str, variant: str) -> dict[str, Any]:
    environment = FlukeENV()
    environment.set_seed(setting["seed"])
    environment.set_device("cpu")
    environment.set_inmemory(True)
    environment.set_eval_cfg(pre_fit=True, post_fit=True, server=False, locals=False)
    accuracy = Accuracy(task="multiclass", num_classes=10, top_k=1)
    environment.set_evaluator(ClassificationEval(1, 10, accuracy=accuracy))
    method = METHODS[name](variant)
    algorithm = method.made()
    log = Log(method, algorithm)
    algorithm.set_callbacks([log])
    began = time.perf_counter()
    algorithm.run(setting["rounds"], 1.0)
    seconds = time.perf_counter() - began
    log.look(method.after_end(algorithm))
    return {
        "method": name,
        "variant": variant,
        "mended": MENDED.get(name, "") if variant == "mended" else "",
        "seed": setting["seed"],
        "manifest": setting["manifest"],
        "versions": {n: version(n) for n in ("fluke-fl", "torch")},
        "seconds": round(seconds, 1),
        "accuracy": log.accuracy,
        "own_log": {
            phase: {
                ("end" if n < 0 else str(n)): {"mean": sum(v) / len(v), "clients": len(v)}
                for n, v in rounds.items()
            }
            for phase, rounds in log.told.items()
        },
        "facts": method.facts(algorithm),
    }


def main() -> None:
    path, out, *wanted = sys.argv[1:]
    runs = [word.split(":") for word in wanted]
    if any(name not in METHODS or variant not in VARIANTS for name, variant in runs):
        raise SystemExit(f"methods: {', '.join(METHODS)}; variants: {', '.join(VARIANTS)}")
    torch.set_num_threads(1)
    with np.load(path) as file:
        given.update({n: file[n] for n in file.files})
    setting.update(json.loads(str(given.pop("setting"))))
    numbers.update(setting["numbers"])
    for name, variant in runs:
        print(f"{name}, {variant}, seed {setting['seed']}", file=sys.stderr, flush=True)
        found = json.dumps(run(name, variant))
        with open(out, "a") as file:
            file.write(found + "\n")


if __name__ == "__main__":
    main()
