"""Everything that knows Flower: the two apps, its records, ours as Flower's, Flower's as ours."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedadapt.flower.ours_as_flower import as_flower

__all__ = ["as_flower"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from fedadapt.flower import ours_as_flower

        return getattr(ours_as_flower, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
