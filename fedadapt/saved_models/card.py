"""The card of a saved model: everything that is needed to use its file, and where it came from.

A card lies in the header of the safetensors file itself, so a file that is copied elsewhere is
still complete. No torch here until a method needs it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedadapt.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from fedadapt.datasets.benchmark import Scaling

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of one saved model.

    Attributes:
        network: A name of ``fedadapt models``, or ``module:factory``.
        image_shape: Of the inputs that the network takes: (C, H, W) of images.
        classes: Class names in the order of the logits.
        mean: Of the normalisation, one value a channel: input = (pixel / 255 - mean) / std; empty
            where inputs stay as they are.
        std: See ``mean``.
        reading: How image files are brought to ``image_shape``; see ``images.read``.
        model: ``base`` or ``personal``.
        adaptation: The name of the local adaptation; ``none`` for the model as the client got it.
        adaptation_arguments: Its parameters.
        method: The strategy by name, its arguments, and the settings of the run that it uses.
        client: None for the model that is the same for all.
        domain: The client's domain by construction of the benchmark; empty where it has none.
        task: The number of the task of a task-incremental run; None otherwise.
        run: Benchmark, manifest hash, seed, number of rounds and arithmetic of the run.
        accuracy: On the client's *adapt* images, in [0, 1]; None where it was not measured.
        num_images: How many images ``accuracy`` was measured on.
        versions: Of the libraries that made the model.
        unit: What stands in the place of 255 where inputs are no images: 1.
        vocabulary: Number of different tokens; 0 where inputs are no tokens.

    """

    network: str
    image_shape: tuple[int, ...]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    reading: str
    model: str = "base"
    adaptation: str = "none"
    adaptation_arguments: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)
    client: int | None = None
    domain: str = ""
    task: int | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    accuracy: float | None = None
    num_images: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    unit: float = 255.0
    vocabulary: int = 0

    @property
    def label(self) -> str:
        """``base``, ``personal+adabn``: as in the tables of the run."""
        return label(self.model, self.adaptation)

    @property
    def scaling(self) -> "Scaling":
        """From pixels 0 to 255, uint8 [..., C, H, W], to the network's input."""
        from fedadapt.datasets.benchmark import Scaling

        return Scaling(self.mean, self.std, self.unit, max(0, len(self.image_shape) - 1))

    @property
    def takes_images(self) -> bool:
        """Whether the network takes images, rather than measurements or tokens."""
        return self.unit == 255.0

    def images(self, paths: Sequence[str | Path]) -> "Tensor":
        """Read image files as the network takes them: float32 [N, C, H, W], normalised.

        Raises:
            InputError: A file is no image that can be read.

        """
        from fedadapt.saved_models.images import read

        if not self.takes_images:
            raise InputError(
                f"images: the network {self.network!r} takes "
                f"{'tokens' if self.vocabulary else 'numbers'} {list(self.image_shape)}, no images"
            )
        channels, height, width = self.image_shape
        return self.scaling(read(paths, (channels, height, width), self.reading))

    def loading(self, run: str = "RUN") -> list[str]:
        """Three lines of Python that load the model and use it."""
        words = [json.dumps(run)]
        words += [f"client={self.client}"] if self.client is not None else []
        words += [f"adaptation={json.dumps(self.adaptation)}"] if self.adaptation != "none" else []
        words += [f'model="{self.model}"'] if self.client is not None else []
        words += [f"task={self.task}"] if self.task is not None else []
        return [
            "import fedadapt",
            f"model = fedadapt.load({', '.join(words)})",
            'logits = model(model.card.images(["photo.png"]))'
            if self.takes_images
            else "logits = model(model.card.scaling(inputs))",
        ]

    def common(self) -> dict[str, Any]:
        """What is equal for all models of a run (and of a task), as JSON."""
        return {
            "network": {
                "name": self.network,
                "image_shape": list(self.image_shape),
                "num_classes": len(self.classes),
                **({"vocabulary": self.vocabulary} if self.vocabulary else {}),
            },
            "classes": list(self.classes),
            "input": {
                "shape": list(self.image_shape),
                "mean": list(self.mean),
                "std": list(self.std),
                "formula": self._formula,
                "reading": self.reading,
                **({} if self.takes_images else {"unit": self.unit}),
            },
            "method": dict(self.method),
            "run": dict(self.run),
            "versions": dict(self.versions),
        }

    @property
    def _formula(self) -> str:
        if self.takes_images:
            return "(pixel / 255 - mean) / std"
        return "(value - mean) / std" if self.mean else "as it is"

    def to_json(self) -> dict[str, Any]:
        """The whole card as JSON; ``of_json`` is the inverse."""
        return {
            "format": FORMAT,
            "model": self.model,
            "adaptation": {"name": self.adaptation, **self.adaptation_arguments},
            "client": self.client,
            "domain": self.domain,
            "task": self.task,
            "accuracy_on_adapt_images": self.accuracy,
            "adapt_images": self.num_images,
            **self.common(),
            "load": self.loading(),
        }

    @staticmethod
    def of_json(text: str, where: str) -> "Card":
        """Read a card.

        Args:
            where: What the message begins with, such as the file.

        Raises:
            InputError: It is damaged, or of a newer format.

        """
        try:
            card = json.loads(text)
            if card["format"] != FORMAT:
                raise InputError(
                    f"{where}: its card has format {card['format']}; this fedadapt reads {FORMAT}"
                )
            image_input = card["input"]
            adaptation = dict(card["adaptation"])
            return Card(
                network=str(card["network"]["name"]),
                image_shape=tuple(int(side) for side in image_input["shape"]),
                classes=tuple(str(name) for name in card["classes"]),
                mean=tuple(float(x) for x in image_input["mean"]),
                std=tuple(float(x) for x in image_input["std"]),
                reading=str(image_input["reading"]),
                model=str(card["model"]),
                adaptation=str(adaptation.pop("name")),
                adaptation_arguments=adaptation,
                method=dict(card["method"]),
                client=_whole(card["client"]),
                domain=str(card["domain"]),
                task=_whole(card["task"]),
                run=dict(card["run"]),
                accuracy=_number(card["accuracy_on_adapt_images"]),
                num_images=int(card["adapt_images"]),
                versions=dict(card["versions"]),
                unit=float(image_input.get("unit", 255.0)),
                vocabulary=int(card["network"].get("vocabulary", 0)),
            )
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{where}: its card is damaged ({type(error).__name__}: {error})"
            ) from None


def label(model: str, adaptation: str) -> str:
    """The name of a model in the tables of a run: ``base``, ``base+fine-tune``, ``personal``."""
    return model if adaptation == "none" else f"{model}+{adaptation}"


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
