"""The request for importances that DUA's server sends to clients."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from fedadapt.client.statistics.importance import Granularity
from fedadapt.client.statistics.measures import Kind
from fedadapt.strategies.dua.compression import CODES, Code
from fedadapt.strategies.dua.sparse_upload import Difference


@dataclass(frozen=True, kw_only=True)
class ImportanceRequest:
    """Which importances a client computes, and how it sends them.

    The first four fields are arguments of ``client.statistics.importance.importances``.
    """

    kind: Kind = "mas"
    granularity: Granularity = "sample"
    batch_size: int = 20
    floor: float = 0.0
    upload: str = "fp32"  # a key of ``compression.CODES``, or ``difference``
    share: float = 0.1  # of the entries that travel with ``difference``
    stays: bool = False  # the client merges, and no importance leaves it

    def code(self, sent: Mapping[str, Tensor]) -> Code:
        """Return the code of the answers; ``sent`` is what one client received, [...]."""
        if self.upload == "difference":
            return Difference.received(sent, self.share)
        return CODES[self.upload]

    def to_config(self) -> dict[str, Any]:
        """Return the request as settings of a message."""
        return {name.replace("_", "-"): value for name, value in asdict(self).items()}

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> "ImportanceRequest":
        """Read a request from the settings of a message; other settings are ignored."""
        names = ImportanceRequest.__dataclass_fields__
        return ImportanceRequest(**{name: config[name.replace("_", "-")] for name in names})
