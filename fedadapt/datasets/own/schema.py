"""What server and clients agree on before anything is trained: the shape of data nobody shares."""

import json
from dataclasses import asdict, dataclass
from hashlib import sha256

from fedadapt.datasets.benchmark import MeasuredScaling, Scaling
from fedadapt.errors import InputError

MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Schema:
    """Classes in the order of the network's outputs, and how pictures become its input."""

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]  # (C, H, W)
    mean: tuple[float, ...]  # of each channel, of 0 to 1
    std: tuple[float, ...]
    measured: bool = False  # whether mean and std were measured on the clients' pictures
    tasks: tuple[
        tuple[str, tuple[str, ...]], ...
    ] = ()  # of a server that learns them: name, classes

    @property
    def scaling(self) -> Scaling:
        """From stored bytes to a network's input."""
        return (MeasuredScaling if self.measured else Scaling)(self.mean, self.std)

    @property
    def hash(self) -> str:
        """Equal for equal schemas, hexadecimal."""
        return sha256(self.to_text().encode()).hexdigest()

    def to_text(self) -> str:
        """As it travels; ``from_text`` is the inverse."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_text(text: str) -> "Schema":
        """Read what ``to_text`` wrote.

        Raises:
            InputError: It is none.

        """
        try:
            values = json.loads(text)
            schema = Schema(
                tuple(map(str, values["classes"])),
                tuple(map(int, values["image_shape"])),  # type: ignore[arg-type]
                tuple(map(float, values["mean"])),
                tuple(map(float, values["std"])),
                values["measured"] is True,
                tuple((str(name), tuple(map(str, of_task))) for name, of_task in values["tasks"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"schema: malformed, {type(error).__name__}") from None
        channels = schema.image_shape[0] if len(schema.image_shape) == 3 else 0
        if (
            not 1 <= channels == len(schema.mean) == len(schema.std)
            or not 2 <= len(schema.classes) <= MOST_CLASSES
            or len({*schema.classes}) < len(schema.classes)
            or (schema.tasks and _classes_of(schema.tasks) != schema.classes)
            or not all(1 <= side <= 4096 for side in schema.image_shape)
            or not all(0 < std <= 1e6 for std in schema.std)
            or not all(abs(mean) <= 1e6 for mean in schema.mean)
        ):
            raise InputError("schema: its classes, its shape or its scaling cannot be used")
        return schema


def _classes_of(tasks: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[str, ...]:
    return tuple(name for _, classes in tasks for name in classes)
