"""What the owner of a client says: its node configuration, which no run can overrule."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedadapt.client.identity import fingerprint_of, own_identity
from fedadapt.config import RunConfig, adaptations_of
from fedadapt.datasets.own.cut import Shares
from fedadapt.datasets.own.names import OWN, is_own
from fedadapt.datasets.own.own_data import OwnSource
from fedadapt.errors import RefusedError, nearest, shown

SHARED = ("classes", "normalization")
"""What ``share`` can allow to be told: names of classes, sums of the channels of all pictures."""

KEYS = {
    "partition-id": "which client of the benchmark this is; Flower's simulation sets it",
    "num-partitions": "how many there are; Flower's simulation sets it, and an owner never does",
    "images": "the owner's folder of pictures, `<class>/*.jpg` and `unlabelled/*.jpg`",
    "data": "instead of `images`: a data source, `module:factory` or by its name",
    "state-dir": "where the client keeps what stays with it: needed on a real client",
    "key": "the node's key (its `.pub` beside it): the client is who its fingerprint says",
    "egress-policy": "the owner's TOML file of what may leave; see docs/egress.md",
    "share": f"what else may be told, of {', '.join(SHARED)}; nothing where it is not given",
    "modules": "foreign modules that a run may name as model, strategy or adaptation",
    "benchmark": "the `folder:` or `module:` benchmark that a run may name, with partition-id",
    "data-root": "the folder of real data sets, with partition-id",
    "adapt-share": "share of the pictures for adaptation, of the first cut (0.2)",
    "test-share": "share of the pictures for the test, of the first cut (0.2)",
}
"""Every key of a node's configuration that is ours, and what it says."""


@dataclass(frozen=True)
class Owner:
    """One node's configuration, checked.

    Attributes:
        simulated: Flower's simulation made the node: nobody owns it, and the run says everything.

    """

    simulated: bool
    partition: int | None
    source: OwnSource | None  # the owner's data
    state: str
    key: str = ""
    share: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()
    benchmark: str = ""
    data_root: str = ""

    @staticmethod
    def of(node_config: Mapping[str, object]) -> "Owner":
        """Read a node's configuration.

        Raises:
            RefusedError: An unknown key or a bad value.

        """
        for key in node_config:
            if key not in KEYS:
                raise _bad(f"unknown key {key!r}{nearest(key, tuple(KEYS))}")
        texts = {
            key: str(node_config.get(key, ""))
            for key in ("images", "data", "state-dir", "key", "benchmark", "data-root")
        }
        simulated = "num-partitions" in node_config
        partition = node_config.get("partition-id")
        if partition is not None and (type(partition) is not int or partition < 0):
            raise _bad(f"partition-id={partition!r} must be a whole number from 0")
        given = [key for key in ("images", "data") if texts[key]]
        if len(given) + (partition is not None) > 1:
            raise _bad("partition-id, images, data: give one of them")
        if not simulated and not texts["state-dir"]:
            raise RefusedError(
                "no-state-dir", "node config: no state-dir; give --node-config 'state-dir=\"/...\"'"
            )
        share = _words(node_config, "share")
        for word in sorted(share - {*SHARED}):
            raise _bad(f"share: {shown(word)}; known: {', '.join(SHARED)}")
        source = None
        if given:
            source = OwnSource(
                images=texts["images"], data=texts["data"], state=texts["state-dir"],
                shares=_shares(node_config),
            )  # fmt: skip
        return Owner(
            simulated, partition if isinstance(partition, int) else None, source,
            texts["state-dir"], texts["key"], share, _words(node_config, "modules"),
            texts["benchmark"], texts["data-root"],
        )  # fmt: skip

    def fingerprint(self) -> str:
        """Who this client is, 64 hexadecimal digits."""
        if self.key:
            return fingerprint_of(Path(self.key))
        return own_identity(Path(self.state))

    def check(self, config: RunConfig) -> None:
        """Refuse a run that names data or modules which are the owner's to name.

        Raises:
            RefusedError: It does.

        """
        if self.source is None and self.partition is None:
            raise RefusedError("no-data", "node config: give images, data or partition-id")
        if self.source is not None and config.benchmark != OWN:
            raise RefusedError(
                "not-its-run", f"benchmark: {shown(config.benchmark)}; this client has own data"
            )
        if self.source is None and is_own(config.benchmark):
            raise RefusedError("no-images", "node config: the run is on own data; give images")
        if self.simulated:
            return
        named = [config.model, config.strategy]
        named += [part for chain in adaptations_of(config.adapt) for part in chain.split("+")]
        for name in named:
            module = name.partition(":")[0].split(".")[0]
            if ":" in name and module not in {*self.modules, "fedadapt", "flwr"}:
                raise RefusedError(
                    "foreign-module",
                    f"{shown(name)}: module {module} is not among modules="
                    f"{','.join(sorted(self.modules)) or 'none'}",
                )
        if ":" in config.benchmark and config.benchmark != self.benchmark:
            raise RefusedError(
                "foreign-data",
                f"benchmark: {shown(config.benchmark)} is not that of the node config",
            )

    def allows(self, what: str) -> None:
        """Refuse to tell what the owner has not allowed to be told.

        Raises:
            RefusedError: ``what`` is not in ``share``.

        """
        if what not in self.share:
            raise RefusedError("no-leave", f"share: {what} is asked for and not among them")


def _bad(message: str) -> RefusedError:
    return RefusedError("bad-settings", f"node config: {message}")


def _words(node_config: Mapping[str, object], key: str) -> frozenset[str]:
    words = str(node_config.get(key, "")).split(",")
    return frozenset(word.strip() for word in words if word.strip())


def _shares(node_config: Mapping[str, object]) -> Shares:
    values = []
    for key in ("adapt-share", "test-share"):
        value = node_config.get(key, 0.2)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise _bad(f"{key}={value!r} must be above 0 and below 1")
        values.append(float(value))
    if sum(values) >= 1:
        raise _bad("adapt-share, test-share: nothing is left to train on")
    return Shares(*values)
