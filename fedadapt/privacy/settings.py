"""The settings of an inversion attack, checked before torch is loaded."""

from dataclasses import dataclass

from fedadapt.errors import InputError, unknown
from fedadapt.parameters import check_parameters, param

MEANING = {
    "fm": "the feature map",
    "h_sp": "its sum over width",
    "v_sp": "its sum over height",
    "w_sp": "its sum over both",
    "sparsity": "its share of zeros",
}
"""Properties of a ReLU layer's map, by PFA's names; clients of PFA send ``sparsity``."""

ORDERED = ("fm", "h_sp", "v_sp", "w_sp")
"""The four of PFA's Fig. 6."""

MOST_LAYERS = 4  # that are attacked where none is named


@dataclass(frozen=True, kw_only=True)
class Attack:
    """The attack on one network: its images, its layers and the effort.

    Raises:
        InputError: An unknown property, something given twice, a number out of range.

    """

    images: int = param(20, "images to attack", at_least=1)
    layers: tuple[int | str, ...] = ()  # numbers in order of execution, or names; () the first four
    properties: tuple[str, ...] = ORDERED
    steps: int = param(1000, "steps of Adam", at_least=1)
    seed: int = param(1, "fixes the images and the noise the attack starts from", at_least=0)
    learning_rate: float = param(0.05, "step size, in units of the network's input", above=0)
    smoothness: float = param(
        1e-4, "weight of the total variation, beside a relative error of 0 to 1", at_least=0
    )

    def __post_init__(self) -> None:
        check_parameters(self)
        for name in self.properties:
            if name not in MEANING:
                raise unknown("properties", name, tuple(MEANING))
        for key, values in (("properties", self.properties), ("layers", self.layers)):
            twice = next((one for one in values if values.count(one) > 1), None)
            if twice is not None:
                raise InputError(f"{key}: {twice} is given twice; once is enough")
        if not self.properties:
            raise InputError(f"properties: nothing given; known: {', '.join(MEANING)}")


def words(text: str) -> tuple[str, ...]:
    """Read ``"fm, h_sp"`` as ("fm", "h_sp")."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def layers(text: str) -> tuple[int | str, ...]:
    """Read ``"0,body.3"`` as (0, "body.3")."""
    return tuple(int(w) if w.lstrip("-").isdecimal() else w for w in words(text))
