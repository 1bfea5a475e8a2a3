"""All settings that decide which images each client holds, read once. No torch, no numpy."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedadapt.config import RunConfig
from fedadapt.datasets.entries import IMAGES, NATURAL, DataEntry
from fedadapt.datasets.feature_shift.spec import Shift, parse_shift
from fedadapt.datasets.partitioning.imbalance import Imbalance, parse_imbalance
from fedadapt.datasets.partitioning.limits import (
    LEAST_IMAGES,
    check_partition,
    check_split,
    divided_by_flower,
    too_many_clients,
)
from fedadapt.datasets.partitioning.size_rules import Quantity, parse_quantity
from fedadapt.datasets.partitioning.spec import Partition, parse_partition
from fedadapt.datasets.registry import find_benchmark
from fedadapt.datasets.sources.files import check_root, folder_of, npz_stands_in
from fedadapt.datasets.sources.image_folder import list_images
from fedadapt.errors import InputError, need

UNDECIDED = ""
FALLBACK = "dirichlet:0.3"
"""The partition of a user's data that belong to nobody, where nothing says."""


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The data of a run: a benchmark, its rules of skew, and the sizes of the clients' sets."""

    entry: DataEntry
    root: str  # the data root as given; empty: ``$FEDADAPT_DATA``
    partition: Partition
    shift: Shift
    quantity: Quantity
    imbalance: Imbalance
    written: Mapping[str, str]  # the four rules as they were written, for the manifest
    split: str  # client, ungrouped, pooled or official
    clients: int
    unseen: float
    adapt_share: float
    test_share: float
    examples: int
    server_share: float
    image_size: int  # 0: as the images are
    normalization: str  # auto, data, imagenet, symmetric, unit
    weights: str  # the network's initial weights, which ``normalization=auto`` goes by
    seed: int

    @property
    def name(self) -> str:
        """The benchmark, as it was named."""
        return self.entry.name

    @staticmethod
    def of(config: RunConfig) -> "DataSpec":
        """Read the settings of a run.

        Raises:
            InputError: No such benchmark, or a rule that cannot be read.

        """
        entry = find_benchmark(config.benchmark)
        written = {
            # Where nothing says, the data themselves do once they are open: see ``resolved``.
            "partition": config.partition or entry.partition or UNDECIDED,
            "shift": config.shift or entry.shift,
            "quantity": config.quantity or "even",
            "imbalance": config.imbalance or "none",
        }
        return DataSpec(
            entry=entry,
            root=config.data_root,
            partition=parse_partition(written["partition"] or FALLBACK),
            shift=parse_shift(written["shift"]),
            quantity=parse_quantity(written["quantity"]),
            imbalance=parse_imbalance(written["imbalance"]),
            written=written,
            split=entry.split if config.split == "auto" else config.split,
            clients=config.clients,
            unseen=config.unseen,
            adapt_share=config.adapt_share,
            test_share=config.test_share,
            examples=config.examples,
            server_share=config.server_share,
            image_size=config.image_size,
            normalization=config.normalization,
            weights=config.weights,
            seed=config.seed,
        )

    def resolved(self, owners: int) -> "DataSpec":
        """The same once the data are open, and it is known how many they belong to.

        Args:
            owners: The number of those whose data these are; 0 where they belong to nobody.

        """
        partition, written = self.partition, dict(self.written)
        if written["partition"] == UNDECIDED:
            written["partition"] = NATURAL if owners else FALLBACK
            partition = parse_partition(written["partition"])
        return replace(self, partition=partition, written=written)


def check_data(config: RunConfig) -> DataSpec:
    """Refuse everything about the data that can be refused without opening them.

    Files that are not there but could be downloaded are left to ``load_benchmark``.

    Raises:
        InputError: One line naming the key or the file, and what to do.

    """
    spec = DataSpec.of(config)
    entry = spec.entry
    check_partition(entry, spec.partition, spec.clients)
    if 0 < spec.examples < LEAST_IMAGES:
        raise InputError(
            f"examples: {spec.examples} is too few; a client needs {LEAST_IMAGES}: one image to "
            "train on, one to adapt to, one for its test (0: all there are)"
        )
    check_image_size(spec.image_size)
    check_split(entry, spec.split, spec.partition, spec.quantity)
    check_kind(spec, entry.kind)
    if entry.folders:
        list_images(folder_of(entry, spec.root))
    elif entry.files:
        check_root(entry.name, spec.root)
    counted = bool(entry.num_train) and not entry.sampled and not npz_stands_in(entry, spec.root)
    if counted and spec.clients * LEAST_IMAGES > entry.num_train:
        raise too_many_clients(spec.clients, entry.num_train // LEAST_IMAGES, entry.name)
    decided = spec.written["partition"] != UNDECIDED
    if decided and not entry.sampled and divided_by_flower(spec.partition, spec.quantity):
        need("flwr_datasets", f"partition {spec.written['partition']}")
    check_shift(spec.shift)
    return spec


def check_kind(spec: DataSpec, kind: str) -> None:
    """Refuse settings that are for images, where inputs are something else.

    Args:
        kind: ``images``, ``series`` or ``tokens``; empty where it is not known yet.

    """
    if kind in ("", IMAGES):
        return
    what = {"series": "measurements", "tokens": "tokens"}[kind]
    for key, given, default in (
        ("shift", spec.written["shift"], "none"),
        ("image-size", spec.image_size, 0),
    ):
        if given != default:
            raise InputError(f"{key}: {given} applies to images; {spec.name} has {what}")
    allowed = ("auto", "data", "unit") if kind == "series" else ("auto",)
    if spec.normalization not in allowed:
        raise InputError(
            f"normalization: {spec.normalization} does not apply to {what}, which {spec.name} "
            f"has; use {' or '.join(allowed)}"
        )


def check_image_size(image_size: int) -> None:
    """Refuse images that are too small or too large; 0 leaves them as they are."""
    if image_size and not 4 <= image_size <= 1024:
        raise InputError(f"image-size: {image_size} is out of range; it must be 4 to 1024, or 0")


def check_shift(shift: Shift) -> None:
    """Refuse a shift whose libraries are not installed."""
    if "spatter" in shift.changes:
        need("cv2", "the spatter corruption")


def resolved_normalization(normalization: str, weights: str) -> str:
    """Return what ``auto`` stands for: ImageNet's scaling with weights, else ``data``."""
    if normalization != "auto":
        return normalization
    return "imagenet" if weights else "data"
