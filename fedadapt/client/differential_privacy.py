"""Release a mean of bounded values with (epsilon, delta)-differential privacy.

The Gaussian mechanism with the least sufficient noise: Balle & Wang 2018, "Improving the Gaussian
mechanism for differential privacy", theorem 8. Neighbours are two data sets of N images that differ
in one of them; N is public. An image moves each of q means in [0, 1] by 1 / N at most, so all
together by sqrt(q) / N (L2). This holds only if no image has an influence on the values of another:
``check_independent`` refuses what is known to break it. docs/pfa-privacy.md has the derivation and
the limits.
"""

import hashlib
import json
import logging
import math
import random
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple, cast

import torch
from torch import Tensor

from fedadapt.client.cohort import Cohort
from fedadapt.datasets.benchmark import MeasuredScaling
from fedadapt.errors import InputError
from fedadapt.messages import Config, Sent
from fedadapt.models.norms import normalised_by_batch
from fedadapt.weights import Weights, row

KEPT = "release"  # the name under which a client keeps its last answer

LEAST, MOST = 1e-6, 1e6  # epsilons for which the calibration is exact in float64

log = logging.getLogger(__name__)


class Guarantee(NamedTuple):
    """What one release promises."""

    epsilon: float
    delta: float

    @property
    def noise(self) -> float:
        """Standard deviation of the noise on each entry, for a sensitivity (L2) of 1."""
        return _noise(*self)

    def after(self, releases: int) -> "Guarantee":
        """What several releases with fresh noise promise together, at the same delta.

        Together they are one Gaussian release of all, sqrt(releases) times as sensitive (Dong, Roth
        & Su 2022, corollary 3.3); epsilon grows more slowly than by adding.
        """
        if releases == 1:
            return self
        epsilon = _accounting().get_epsilon_gaussian(self.noise / math.sqrt(releases), self.delta)
        return Guarantee(float(epsilon), self.delta)


def epsilon_of(charge: float, delta: float) -> float:
    """Epsilon at ``delta`` of Gaussian releases whose 1 / z^2 sum to ``charge``; z as ``noise``."""
    return float(_accounting().get_epsilon_gaussian(1 / math.sqrt(charge), delta))


def charge_of(before: Mapping[str, Weights], after: Mapping[str, Weights]) -> float:
    """1 / z^2 of what a client's answer released; 0: nothing new.

    Args:
        before: The client's state before the answer, without a client axis.
        after: What the answer adds to it.

    """
    if KEPT not in after:
        return 0.0
    count = int(before[KEPT]["releases"]) if KEPT in before else 0
    return (int(after[KEPT]["releases"]) - count) / float(after[KEPT]["noise"]) ** 2


def sensitivity(channels: int, images: int) -> float:
    """The largest L2 distance between the vectors of two neighbours: sqrt(q) / N."""
    return math.sqrt(channels) / images


def release(vector: Tensor, images: int, guarantee: Guarantee, source: random.Random) -> Tensor:
    """``vector`` with noise, back in [0, 1]: cutting off costs no privacy (post-processing).

    Args:
        vector: [q], means over ``images`` images of values in [0, 1].
        images: At least one; it is not protected.
        source: Of the noise; see ``noise_source``.

    """
    scale = guarantee.noise * sensitivity(len(vector), images)
    noise = torch.tensor([source.gauss(0.0, scale) for _ in vector], dtype=torch.float64)
    return (vector.double().cpu() + noise).clamp(0, 1)


def noise_source(seed: int | None, *key: int) -> random.Random:
    """The operating system's entropy; of a ``seed``, the stream of (seed, key).

    A seed repeats a simulation. Whoever knows it can subtract the noise: clients that have
    something to protect are given none.
    """
    if seed is None:
        return random.SystemRandom()
    return random.Random("/".join(map(str, (KEPT, seed, *key))))


def release_once(
    cohort: Cohort,
    asked: Sent,
    measure: Callable[[], Tensor],
    guarantee: Guarantee,
    seed: int | None = None,
) -> tuple[Tensor, Weights]:
    """Return the clients' answers, and what they keep (under ``KEPT``) to repeat the same answers.

    A question is the model with all settings but the round. A client that is asked the same
    question again repeats its answer, which reveals nothing new; only another question has fresh
    noise and spends budget.

    Args:
        asked: The models, [D, ...], and the settings as they came from the server.
        measure: Computes the exact vectors, [D, q], in [0, 1]: means over the training images of
            values that each depend on the model and on one image alone.
        seed: Of the noise; None for the operating system's entropy.

    Returns:
        Vectors [D, q], float32, and ``question``, ``vector``, ``releases`` and ``noise``, the
        multiplier, each [D, ...].

    Raises:
        InputError: An image has an influence on the values of others; see ``check_independent``.

    """
    check_independent(cohort)
    before = [states.get(KEPT) for states in cohort.states or ({},) * len(cohort)]
    questions = [_fingerprint(asked, d) for d in range(len(cohort))]
    exact: Tensor | None = None
    said, counts = [], []
    for d, (old, query) in enumerate(zip(before, questions, strict=True)):
        count = 0 if old is None else int(old["releases"])
        if old is not None and torch.equal(old["question"].cpu(), query):
            vector = old["vector"].cpu()
        else:
            exact = measure() if exact is None else exact
            source = noise_source(seed, cohort.round, cohort.clients[d])
            vector = release(exact[d], len(cohort.splits[d].train), guarantee, source).float()
            count += 1
            log.info(
                "client %d: release %d; in all epsilon %.3g at delta %.3g",
                *(cohort.clients[d], count, *guarantee.after(count)),
            )
        said.append(vector)
        counts.append(count)
    vectors = torch.stack(said)
    return vectors, {
        "question": torch.stack(questions),
        "vector": vectors,
        "releases": torch.tensor(counts),
        "noise": torch.full((len(cohort),), guarantee.noise, dtype=torch.float64),
    }


def check_independent(cohort: Cohort) -> None:
    """Refuse clients on which one image would change the values of other images.

    Raises:
        InputError: The scaling was measured on the clients' images, or the network normalises by
            the statistics of its batch.

    """
    if isinstance(cohort.scaling, MeasuredScaling):
        raise InputError(
            "dp_epsilon: the images are scaled by the mean and deviation of the clients' own "
            "images, so one image changes all vectors and the noise would not cover it; set "
            "normalization to unit, symmetric or imagenet"
        )
    mixing = normalised_by_batch(cohort.model)
    if mixing:
        raise InputError(
            f"dp_epsilon: the batch norm {mixing[0]!r} keeps no running statistics, so one image "
            "changes the activations of others and the noise would not cover it; set "
            "track_running_stats=True"
        )


def promised(config: Config, own: Guarantee) -> Guarantee | None:
    """The stricter of the server's guarantee and the client's own; None where neither has one.

    A client that was set up with an epsilon never releases anything with less noise.
    """
    asked = Guarantee(float(config.get("dp-epsilon", 0)), float(config.get("dp-delta", 1)))  # type: ignore[arg-type]
    given = [each for each in (asked, own) if each.epsilon]
    if not given:
        return None
    strict = Guarantee(min(g.epsilon for g in given), min(g.delta for g in given))
    check(strict)
    return strict


def check(guarantee: Guarantee) -> None:
    """Refuse a guarantee that cannot be given, before any work.

    Raises:
        InputError: epsilon or delta is out of range, or dp-accounting is not installed.

    """
    if not LEAST <= guarantee.epsilon <= MOST:
        raise InputError(
            f"dp_epsilon: {guarantee.epsilon}; it must be {LEAST:g} to {MOST:g}, or 0 for no noise"
        )
    if not 0 < guarantee.delta < 1:
        raise InputError(f"dp_delta: {guarantee.delta}; it must be a number > 0 and < 1")
    _accounting()


@lru_cache
def _noise(epsilon: float, delta: float) -> float:
    return float(_accounting().get_sigma_gaussian(epsilon, delta))


def _accounting() -> ModuleType:
    """Import Google's library when it is first needed: it takes a second."""
    try:
        import dp_accounting
    except ImportError:
        raise InputError(
            'dp_epsilon: dp-accounting is not installed; pip install "fedadapt[privacy]"'
        ) from None
    return cast(ModuleType, dp_accounting)


def _fingerprint(asked: Sent, index: int) -> Tensor:
    """SHA-256 of the question to one client, [32], uint8."""
    settings = {k: v for k, v in asked.config.items() if k != "server-round"}
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(row(asked.weights, index).items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return torch.frombuffer(bytearray(found.digest()), dtype=torch.uint8)
