"""What DUA's server asks clients for: which importances, and how they come back, or stay."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from fedadapt.client.statistics.importance import Granularity, Kind
from fedadapt.strategies.dua.compression import CODES, Code
from fedadapt.strategies.dua.sparse_upload import Difference


@dataclass(frozen=True, kw_only=True)
class ImportanceRequest:
    """See ``client.importances.importances``."""

    kind: Kind = "mas"
    granularity: Granularity = "sample"
    batch_size: int = 20
    floor: float = 0.0
    upload: str = "fp32"  # in ``client.compression.CODES``, or ``difference``
    share: float = 0.1  # of ``difference``: of the entries that travel
    stays: bool = False  # the client merges by itself: no importance leaves it

    def code(self, sent: Mapping[str, Tensor]) -> Code:
        """How answers travel. ``sent``: what one client received, [...]."""
        if self.upload == "difference":
            return Difference.received(sent, self.share)
        return CODES[self.upload]

    def to_config(self) -> dict[str, Any]:
        """As settings of a message."""
        return {name.replace("_", "-"): value for name, value in asdict(self).items()}

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> "ImportanceRequest":
        """The inverse; other settings are left aside."""
        names = ImportanceRequest.__dataclass_fields__
        return ImportanceRequest(**{name: config[name.replace("_", "-")] for name in names})
