"""Keep the images of clients that are expensive to make, up to a number of bytes."""

from collections.abc import Callable, Hashable

from fedadapt.datasets.benchmark import Split


class SplitCache:
    """Splits by key. A split that does not fit any more is made again each time."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._splits: dict[Hashable, Split] = {}

    def get(self, key: Hashable, make: Callable[[], Split], *, keep: bool) -> Split:
        """The split of ``key``, made where it is not there.

        Args:
            keep: Whether it is expensive enough to be kept.

        """
        if key in self._splits:
            return self._splits[key]
        split = make()
        size = sum({id(part): part.inputs.numel() for part in split}.values())
        if keep and self._bytes + size <= self._most_bytes:
            self._splits[key] = split
            self._bytes += size
        return split
