"""The models that a run saves: which ones, where, and a card for each.

Clients' models come out of the final evaluation cohort by cohort and are written at once, so memory
holds those of a few cohorts. An interrupted run evaluates again and writes the same files.
"""

import json
import logging
import math
import platform
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fedadapt import __version__
from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.failures import guarded
from fedadapt.client.state_store import ClientStateStore
from fedadapt.config import RunConfig, parse_arguments
from fedadapt.datasets.own.names import is_own
from fedadapt.datasets.registry import find_benchmark
from fedadapt.datasets.task_incremental.task_entries import find_tasks, is_tasks
from fedadapt.files import write_atomically
from fedadapt.messages import Failure
from fedadapt.parameters import parameters
from fedadapt.records import SERVED
from fedadapt.saved_models.card import FORMAT, Card, label
from fedadapt.saved_models.files import INDEX, MODELS, SUFFIX, encode, relative_path, write
from fedadapt.server.client_pool import EvaluationRequest, ModelStack
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.base import ClientSide
from fedadapt.strategies.selected import settings_of
from fedadapt.weights import Weights, num_bytes, row

ENOUGH = 2**30  # bytes: what ``save-models=auto`` saves at most
AT_ONCE = 2**28  # bytes of the models of a cohort that wait to be written
README = "README.md"

States = Mapping[int, Mapping[str, Weights]]
Models = Mapping[str, Mapping[str, ModelStack]]

log = logging.getLogger(__name__)


class SavedModels:
    """Chooses, writes and lists the models of one run."""

    def __init__(
        self, config: RunConfig, worker: Worker, folder: Path, *, on_clients: bool = False
    ) -> None:
        """Start without any file.

        Args:
            folder: The folder of the run.
            on_clients: Clients keep their models on their own disks, the base model among them.

        """
        self._config = config
        self._worker = worker
        self._folder = folder
        self._on_clients = on_clients
        self._cards: dict[Path, Card] = {}  # of the files written
        self._templates: dict[tuple[int, str], Card] = {}  # what cards have in common is held once

    def plan(
        self,
        clients: Sequence[int],
        models_of_one: Iterable[tuple[int, Mapping[str, Weights]]],
        states: States,
        adaptations: Sequence[str],
    ) -> tuple[tuple[str, ...], int]:
        """Choose the models that the final evaluation is to collect.

        Args:
            clients: Those that will be evaluated.
            models_of_one: The models of the first of them, for each task: [1, ...].
            states: The client states, where they are known here.
            adaptations: Names of the local adaptations of the run.

        Returns:
            The labels of the models, and how many clients may be evaluated at a time.

        """
        mode = self._config.save_models
        if mode in ("base", "none") or not clients:
            return (), 0
        labels: list[str] = []
        size = in_memory = common = 0
        for task, sent in models_of_one:
            on_client = {
                name: sent["base"] for name in self._worker.at(task).strategy.made_on_client
            }
            models = on_client | {name: w for name, w in sent.items() if name not in on_client}
            for name, weights in models.items():
                same_for_all = name == "base" and not self._on_clients
                wanted = (
                    []
                    if same_for_all and not self._differs_on_clients(task, weights, states)
                    else ["none"]
                )
                if mode != "personal":
                    wanted += [word for word in adaptations if word != "none"]
                model = row(weights, 0)
                for word in wanted:
                    size += len(encode(model, self.card(clients[0], name, task, word)))
                if name == "base":
                    common += len(encode(model, self.card(None, name, task)))
                in_memory = max(in_memory, num_bytes(weights) * len(wanted) * len(models))
                labels += [label(name, word) for word in wanted]
        total = size * len(clients) + common
        if mode == "auto" and total > ENOUGH:
            log.warning(
                "save-models: the models of %d clients would take %.1f GiB, more than %.0f GiB: "
                "only the base model is saved; save-models=all saves all of them",
                len(clients),
                total / 2**30,
                ENOUGH / 2**30,
            )
            return (), 0
        return tuple(dict.fromkeys(labels)), max(1, AT_ONCE // max(1, in_memory))

    def _differs_on_clients(self, task: int, base: Weights, states: States) -> bool:
        """Return whether clients change the base model before they use it."""
        client = next((client for client, parts in states.items() if parts), None)
        if client is None:
            return False
        worker = self._worker.at(task)

        def changed() -> bool:
            cohort = worker.cohort([client], 0, [states[client]])
            used = worker.strategy.localise(cohort, base, "base")
            return any(used[n] is not base[n] for n in used)

        differs = guarded(changed)
        return True if isinstance(differs, Failure) else differs

    def write(self, request: EvaluationRequest, models: Models) -> None:
        """Write the models with which the clients of a request were evaluated."""
        for card, weights in self.with_cards(request.round, request.task, models):
            write(self._folder, weights, card)
            self._note(card)

    def with_cards(self, round: int, task: int, models: Models) -> Iterator[tuple[Card, Weights]]:
        """Yield each client's models one by one, each with its card."""
        for name, adapted in models.items():
            for adaptation, stack in adapted.items():
                for d, client in enumerate(stack.clients.tolist()):
                    accuracy = float(stack.accuracy[d])
                    card = replace(
                        self.card(client, name, task, adaptation, round),
                        accuracy=None if math.isnan(accuracy) else accuracy,
                        num_images=int(stack.num_images[d]),
                    )
                    yield card, row(stack.weights, d)

    def add_base(self, model: str, weights: Weights, round: int) -> None:
        """Write another model that is the same for all, [...]."""
        if self._config.save_models != "none":
            card = self.card(None, model, 0, round=round)
            write(self._folder, weights, card)
            self._note(card)

    def finish(
        self,
        bases: Iterable[tuple[int, Weights]],
        round: int,
        served: Mapping[int, tuple[str, str]] | None = None,
    ) -> None:
        """Write the base models and the lists of all files.

        Files of an earlier evaluation are removed.

        Args:
            bases: (task, weights [...]) of each base model.
            round: The last round, for the cards.
            served: Client -> the model and the adaptation it chose, where clients chose.

        """
        if self._config.save_models != "none":
            for task, weights in bases:
                card = self.card(None, "base", task, round=round)
                write(self._folder, weights, card)
                self._note(card)
        models = self._folder / MODELS
        for path in models.rglob(f"*{SUFFIX}"):
            if path.relative_to(models) not in self._cards:
                path.unlink()
        if self._cards:
            write_atomically(models / INDEX, self._index(served or {}).encode())
            write_atomically(models / README, self._readme().encode())
        else:
            for name in (INDEX, README):
                (models / name).unlink(missing_ok=True)

    def card(
        self, client: int | None, model: str, task: int, adaptation: str = "none", round: int = 0
    ) -> Card:
        """Return the card of a model, without its accuracy."""
        if (task, adaptation) not in self._templates:
            self._templates[task, adaptation] = self._template(task, adaptation)
        template = self._templates[task, adaptation]
        if template.run["round"] != round:
            template = replace(template, run={**template.run, "round": round})
            self._templates[task, adaptation] = template
        kinds = self._worker.at(task).benchmark.kinds
        domain = "" if client is None else kinds[client]
        return replace(template, model=model, client=client, domain=domain)

    def _template(self, task: int, adaptation: str) -> Card:
        """Return what the cards of a task and an adaptation have in common."""
        config, worker = self._config, self._worker.at(task)
        benchmark = worker.benchmark
        return Card(
            network=config.model,
            image_shape=benchmark.image_shape,
            classes=tuple(benchmark.classes),
            mean=benchmark.scaling.mean,
            std=benchmark.scaling.std,
            unit=benchmark.scaling.unit,
            vocabulary=benchmark.vocabulary,
            reading=_reading(config),
            adaptation=adaptation,
            adaptation_arguments=_arguments(worker.adaptations, adaptation),
            method=_method(config, worker.strategy),
            task=task if self._worker.has_tasks else None,
            run={
                "benchmark": benchmark.name,
                "manifest": self._worker.benchmark.manifest.hash,
                "seed": config.seed,
                "round": 0,
                "precision": config.precision,
            },
            versions=_versions(),
        )

    def _sorted(self) -> list[tuple[Path, Card]]:
        def order(item: tuple[Path, Card]) -> tuple[int, str, int]:
            card = item[1]
            return card.task or 0, card.label, -1 if card.client is None else card.client

        return sorted(self._cards.items(), key=order)

    def _note(self, card: Card) -> None:
        self._cards[relative_path(card)] = card

    def _index(self, served: Mapping[int, tuple[str, str]]) -> str:
        """Return ``cards.json``: what all models of a task have in common, and a row for each."""
        common = {str(card.task): card.common() for card in self._cards.values()}
        if list(common) == ["None"]:
            common = common["None"]
        rows = [
            {
                "file": str(path),
                "client": card.client,
                "domain": card.domain,
                "model": card.model,
                "adaptation": card.adaptation,
                "task": card.task,
                "accuracy_on_adapt_images": card.accuracy,
                "adapt_images": card.num_images,
            }
            for path, card in self._sorted()
        ]
        document = {
            "format": FORMAT,
            "clients": self._worker.benchmark.num_clients,
            "common": common,
            "adaptations": {a.name: _arguments([a], a.name) for a in self._worker.adaptations},
            "models": rows,
        }
        if served:
            document[SERVED] = {str(client): list(words) for client, words in served.items()}
        return json.dumps(document, indent=1)

    def _readme(self) -> str:
        """Return ``models/README.md``, a description of the saved models."""
        groups: dict[tuple[int | None, str], list[Card]] = {}
        for _, card in self._sorted():
            model = card.label if card.client is not None else ""
            groups.setdefault((card.task, model), []).append(card)
        example = self._sorted()[-1][1]
        lines = [
            "# Models of this run",
            "",
            f"Network `{example.network}`, {len(example.classes)} classes, images of "
            f"{' x '.join(map(str, example.image_shape))}; trained with `{self._config.strategy}` "
            f"on `{self._config.benchmark}`.",
            "",
            "| files | models | mean accuracy on the clients' adapt images, % |",
            "| --- | ---: | ---: |",
        ]
        for (_, model), cards in groups.items():
            path = relative_path(cards[0])
            shown = path.with_name(f"<client>{SUFFIX}") if model else path
            lines.append(f"| `{shown}` | {len(cards)} | {_mean_accuracy(cards)} |")
        lines += [
            "",
            "Every file is in the safetensors format and has a card in its header; `cards.json` "
            "lists them all. To load one:",
            "",
            "```python",
            *example.loading(str(self._folder)),
            "```",
            "",
            "The network takes normalised images: `model.card.images(paths)` reads files as it "
            "takes them. On the command line:",
            "",
            "```bash",
            f"fedadapt predict {_options(example, self._folder)} photo.png",
            f"fedadapt export {_options(example, self._folder)} --format onnx --out model.onnx",
            "```",
        ]
        if self._on_clients:
            lines += ["", "Each client keeps its own models in its state folder."]
        return "\n".join(lines) + "\n"


def keep_models(
    config: RunConfig,
    worker: Worker,
    store: ClientStateStore,
    when: tuple[int, int],
    models: Models,
) -> None:
    """Write a client's models to its own disk, in its state folder.

    An error of the disk is only logged.

    Args:
        when: The round and the task.

    """
    if not models:
        return
    round, task = when
    cards = SavedModels(config, worker, store.folder, on_clients=True)
    try:
        folder = store.make()
        for card, weights in cards.with_cards(round, task, models):
            write(folder, weights, card, private=True)
    except OSError as error:
        log.warning("the models of this client could not be kept: %s", error)


def _reading(config: RunConfig) -> str:
    """Return how the benchmark resizes its image files: a key of ``saved_models.images``."""
    if is_own(config.benchmark):
        return "middle-bicubic"
    if is_tasks(config.benchmark):
        scenes = find_tasks(config.benchmark).indoor
        return "shorter-side-bilinear" if scenes else "middle-bilinear"
    return "middle-bicubic" if find_benchmark(config.benchmark).is_folder else "middle-bilinear"


def _arguments(adaptations: Sequence[Adaptation], name: str) -> dict[str, Any]:
    """Return the parameters of an adaptation of the run; {} for any other name.

    Those of a composition have its parts' names in front.
    """
    return {
        (key if part is adaptation else f"{part.name}.{key}"): getattr(part, key)
        for adaptation in adaptations
        if adaptation.name == name
        for part in adaptation.in_turn()
        for key in parameters(type(part))
    }


def _method(config: RunConfig, strategy: ClientSide) -> dict[str, Any]:
    """Return the strategy with all its arguments, and the settings of the run that it uses."""
    arguments = {name: getattr(strategy, name) for name in parameters(type(strategy))}
    for key, value in parse_arguments(config.strategy_args, "strategy-args").items():
        arguments[key.replace("-", "_")] = value
    used = settings_of(type(strategy))
    settings = {key: value for key, value in config.to_mapping().items() if key in used}
    return {"strategy": config.strategy, "arguments": arguments, "settings": settings}


def _versions() -> dict[str, str]:
    return {
        "fedadapt": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def _mean_accuracy(cards: Sequence[Card]) -> str:
    known = [card.accuracy for card in cards if card.accuracy is not None]
    return f"{100 * sum(known) / len(known):.2f}" if known else "-"


def _options(card: Card, folder: Path) -> str:
    words = [shlex.quote(str(folder))]
    words += [f"--client {card.client} --model {card.model}"] if card.client is not None else []
    words += [f"--adaptation {shlex.quote(card.adaptation)}"] if card.adaptation != "none" else []
    words += [f"--task {card.task}"] if card.task is not None else []
    return " ".join(words)
