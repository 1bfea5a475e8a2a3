"""What an inversion attack is asked to do, checked before torch is loaded."""

from dataclasses import dataclass

from fedadapt.errors import InputError, unknown

MEANING = {
    "fm": "the feature map",
    "h_sp": "its sum over width",
    "v_sp": "its sum over height",
    "w_sp": "its sum over both",
    "sparsity": "its share of zeros",
}
"""Properties of a ReLU layer's map, by PFA's names; ``sparsity`` is what a client really sends."""

ORDERED = ("fm", "h_sp", "v_sp", "w_sp")
"""The four of PFA's Fig. 6."""

MOST_LAYERS = 4  # are looked at where none is named


@dataclass(frozen=True, kw_only=True)
class Attack:
    """The attack on one network: which images, through which of its layers, how hard.

    Raises:
        InputError: An unknown property, something given twice, a number out of range.

    """

    images: int = 20
    layers: tuple[int | str, ...] = ()  # numbers in order of execution, or names; () the first four
    properties: tuple[str, ...] = ORDERED
    steps: int = 1000  # of Adam
    seed: int = 1  # which images, and the noise the attack starts from
    learning_rate: float = 0.05  # in units of the network's input
    smoothness: float = 1e-4  # weight of the total variation, beside a relative error of 0 to 1

    def __post_init__(self) -> None:
        for name in self.properties:
            if name not in MEANING:
                raise unknown("properties", name, tuple(MEANING))
        for key, given in (("properties", self.properties), ("layers", self.layers)):
            twice = next((one for one in given if given.count(one) > 1), None)
            if twice is not None:
                raise InputError(f"{key}: {twice} is given twice; once is enough")
        if not self.properties:
            raise InputError(f"properties: nothing given; known: {', '.join(MEANING)}")
        for key, least in (("images", 1), ("steps", 1), ("seed", 0)):
            if getattr(self, key) < least:
                raise InputError(f"{key}: {getattr(self, key)}; it must be >= {least}")


def words(text: str) -> tuple[str, ...]:
    """``"fm, h_sp"`` -> ("fm", "h_sp")."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def layers(text: str) -> tuple[int | str, ...]:
    """``"0,body.3"`` -> (0, "body.3")."""
    return tuple(int(w) if w.lstrip("-").isdecimal() else w for w in words(text))
