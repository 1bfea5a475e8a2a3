"""How far apart clients are as seen from each ReLU layer, by few or many channels: PFA's figure 7.

Liu et al. 2021, section 5.5. It is measured after a run, from its base model and images of clients.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from fedadapt.client.statistics.sparsity import Activation, sparsity_vectors, trace
from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Benchmark
from fedadapt.errors import InputError
from fedadapt.models.meta import on_meta
from fedadapt.models.sequences.inputs import blank
from fedadapt.simulations.assembly import Assembly, assemble
from fedadapt.simulations.results.parquet import put
from fedadapt.simulations.results.run_folder import RunFolder
from fedadapt.strategies.pfa.strategy import PFA
from fedadapt.weights import Weights, repeat

LAYER_MAP = "layer_map.json"
BASE = Path("models") / "base.safetensors"

NUMBERS = (10, 20, 30)  # of channels, as in the paper
PER_KIND = 2  # clients of a kind: the paper's clients 1, 2, 6, 7, ...
MOST_KINDS = 8

Matrix = list[list[float | None]]


@dataclass(frozen=True)
class LayerMap:
    """Distances of some clients to the first of them, for each number of channels and layer."""

    model: str  # SHA-256 of the base model's file
    clients: list[int]  # kind by kind; the first one is the reference
    kinds: list[str]  # of these clients
    layers: list[str]  # ReLU layers, in order of execution
    channels: list[int]  # of each layer; where there are fewer than q, all of them are taken
    numbers: list[int]  # q
    distances: list[list[list[float]]]  # [Q][L][D], Euclidean
    separation: Matrix  # [Q][L]; see ``separation``


def layer_map(run: RunFolder, *, measure: bool = True) -> LayerMap:
    """Return the map of a run, which is measured and written unless the folder has it already.

    Args:
        measure: False: only a map that is in the folder.

    Raises:
        InputError: There is no map and it cannot be measured: no base model, no data, or other data
            than the run's.

    """
    path = run.folder / BASE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{BASE}: {error.strerror}; a finished run has one") from None
    digest = hashlib.sha256(content).hexdigest()
    written = _written(run.folder / LAYER_MAP)
    if written is not None and written.model == digest:
        return written
    if not measure:
        raise InputError(f"{LAYER_MAP}: not measured yet; fedadapt report {run.folder} does it")
    assembly = _assembled(run)
    new = measured(assembly, _weights(content, assembly), digest)
    put(run.folder / LAYER_MAP, json.dumps(asdict(new)).encode())
    return new


def measured(assembly: Assembly, base: Weights, digest: str = "") -> LayerMap:
    """Measure the map of a run.

    The channels are those that PFA draws for each layer; a smaller number takes the first of them.

    Args:
        assembly: The run.
        base: The federated model, [...].
        digest: SHA-256 of the base model's file.

    Raises:
        InputError: The strategy is not PFA or promises privacy, or all clients are of one kind.

    """
    pfa: Any = assembly.worker.strategy
    if not pfa.compares_layers:
        raise InputError(f"strategy: {assembly.config.strategy} compares no layers; pfa does")
    if pfa.dp_epsilon:
        raise InputError("strategy-args: dp_epsilon: exact distances would tell what it hides")
    clients = first_of_each_kind(assembly.benchmark)
    kinds = [assembly.benchmark.kinds[d] for d in clients]
    activations = _activations(pfa)
    vectors = _vectors(assembly, base, activations, clients, pfa.epsilon)
    distances, apart = [], []
    drawn = [
        replace(pfa, layer=i, q=max(NUMBERS), random=False).channels
        for i in range(len(activations))
    ]
    for number in NUMBERS:
        chosen = [v[:, c[:number]] for v, c in zip(vectors, drawn, strict=True)]
        distances.append([np.linalg.norm(v - v[0], axis=1).tolist() for v in chosen])
        apart.append([separation(v, kinds) for v in chosen])
    return LayerMap(
        model=digest,
        clients=clients,
        kinds=kinds,
        layers=[_name(a) for a in activations],
        channels=[a.channels for a in activations],
        numbers=list(NUMBERS),
        distances=distances,
        separation=apart,
    )


def first_of_each_kind(benchmark: Benchmark) -> list[int]:
    """Return the first two training clients of each kind, of at most eight kinds, kind by kind."""
    of_kind: dict[str, list[int]] = {}
    for client in benchmark.seen:
        of_kind.setdefault(benchmark.kinds[client], []).append(client)
    if len(of_kind) < 2:
        raise InputError("clients: all are of one kind; a map of layers shows kinds come apart")
    return [d for members in islice(of_kind.values(), MOST_KINDS) for d in members[:PER_KIND]]


def separation(vectors: NDArray[np.float64], kinds: Sequence[str]) -> float | None:
    """Return the mean distance between clients of different kinds divided by that within kinds.

    None where no two clients are of one kind, all are, or those of one kind do not differ at all.

    Args:
        vectors: [D, q].
        kinds: The kind of each client, [D].

    """
    first, second = np.triu_indices(len(kinds), 1)
    distances = np.linalg.norm(vectors[first] - vectors[second], axis=1)
    names = np.array(kinds, dtype=object)
    same = names[first] == names[second]
    if not same.any() or same.all() or not distances[same].any():
        return None
    return float(distances[~same].mean() / distances[same].mean())


def _assembled(run: RunFolder) -> Assembly:
    config = replace(RunConfig.from_mapping(run.config, "config.toml"), device="auto")
    if config.data_root and not Path(config.data_root).is_dir():
        config = replace(config, data_root="")  # of the machine the run was on
    assembly = assemble(config, on_client=True)
    if assembly.benchmark.manifest.hash != run.manifest.get("hash"):
        raise InputError("data: not those of the run (its manifest differs); restore the files")
    return assembly


def _weights(content: bytes, assembly: Assembly) -> Weights:
    try:
        weights = load(content)
    except SafetensorError as error:
        raise InputError(f"{BASE}: {error}; it is damaged") from None
    wanted = {n: t.shape for n, t in assembly.model.state_dict().items()}
    if {n: t.shape for n, t in weights.items()} != wanted:
        raise InputError(f"{BASE}: not the weights of model={assembly.config.model}")
    return weights


def _activations(pfa: PFA) -> list[Activation]:
    """Return all layers that can be compared, in order of execution, without computing them."""
    empty = on_meta(pfa.model).eval()
    with torch.no_grad():
        inputs = blank(empty, pfa.image_shape, device="meta")
        return trace(empty, lambda: empty(inputs), pfa.epsilon)


def _vectors(
    assembly: Assembly,
    base: Weights,
    activations: Sequence[Activation],
    clients: Sequence[int],
    epsilon: float,
) -> list[NDArray[np.float64]]:
    """Return the sparsity of every channel, an array [D, C] for each layer.

    The images of a client pass through the network once for each block.
    """
    worker = assembly.worker
    base = {n: t.to(worker.compute) for n, t in base.items()}
    blocks = dict.fromkeys(a.path.split(".")[0] for a in activations)
    rows: list[dict[int, Tensor]] = []
    for client in clients:
        cohort = worker.cohort([client], round=0)
        weights = worker.strategy.localise(cohort, repeat(base, 1))
        by_activation: dict[int, Tensor] = {}
        for block in blocks:
            inside = [i for i, a in enumerate(activations) if a.path.split(".")[0] == block]
            vectors = sparsity_vectors(cohort, weights, layer=block, epsilon=epsilon)[0]
            by_activation |= zip(
                inside, vectors.split([activations[i].channels for i in inside]), strict=True
            )
        rows.append(by_activation)
    return [torch.stack([row[i] for row in rows]).numpy() for i in range(len(activations))]


def _name(activation: Activation) -> str:
    call = f", call {activation.call + 1}" if activation.call else ""
    return f"{activation.path}{call}"


def _written(path: Path) -> LayerMap | None:
    try:
        metadata: dict[str, Any] = json.loads(path.read_text("utf-8"))
        written = LayerMap(**metadata)
        shape = (len(written.numbers), len(written.layers), len(written.clients))
        shapes = [np.array(m, dtype=float).shape for m in (written.distances, written.separation)]
        return written if shapes == [shape, shape[:2]] else None
    except (OSError, ValueError, TypeError):
        return None
