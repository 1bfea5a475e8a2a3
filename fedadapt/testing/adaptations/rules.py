"""What every local adaptation must hold; one function a rule."""

import random
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.testing.adaptations.setups import (
    EXECUTIONS,
    Arguments,
    Setup,
    quick,
    relabelled,
    setups,
)
from fedadapt.testing.assertions import (
    FLOAT64,
    copied,
    require,
    require_close,
    require_finite,
    require_names,
    require_same,
)
from fedadapt.testing.parameters import require_described
from fedadapt.weights import Weights, row, rows


def parameters_explain_themselves(name: str, arguments: Arguments | None = None) -> None:
    """Every parameter has a line of help and refuses what is out of its range with InputError."""
    for part in quick(name, arguments or {}).in_turn():
        require_described(type(part), part.name, partial(_changed, part))


def _changed(adaptation: Adaptation, changes: dict[str, Any]) -> Adaptation:
    return replace(adaptation, **changes)


def models_stay_models(name: str, arguments: Arguments | None = None) -> None:
    """The adapted weights have the names, shapes and types of those received, and are finite."""
    with setups(name, arguments) as cases:
        for setup in cases:
            adapted = setup.adapted(setup.cohort())
            require_names(adapted, setup.weights, setup.label)
            for tensor_name, tensor in setup.weights.items():
                shape, kind = tuple(adapted[tensor_name].shape), adapted[tensor_name].dtype
                same = (shape, kind) == (tuple(tensor.shape), tensor.dtype)
                wanted = f"{tuple(tensor.shape)} {tensor.dtype}"
                where = f"{setup.label}: {tensor_name}"
                require(same, f"{where} is {shape} {kind}, expected {wanted}")
            require_finite(adapted, setup.label)


def arguments_stay_as_they_are(name: str, arguments: Arguments | None = None) -> None:
    """The weights received, the pooled answers and the client's images are not written to."""
    with setups(name, arguments) as cases:
        for setup in cases:
            weights, cohort = setup.weights, setup.cohort()
            pooled = setup.pooled(weights)
            before = copied(weights), None if pooled is None else copied(pooled)
            images = [_images(split) for split in cohort.splits]
            setup.adaptation.adapt(cohort, weights, pooled)
            require_same(weights, before[0], f"{setup.label}: the weights received")
            if pooled is not None and before[1] is not None:
                require_same(pooled, before[1], f"{setup.label}: the pooled answers")
            for client, split, wanted in zip(cohort.clients, cohort.splits, images, strict=True):
                require_same(_tensors(split), wanted, f"{setup.label}: images of client {client}")


def _tensors(split: Split) -> Weights:
    parts = list(zip(split._fields, split, strict=True))
    images = {f"{part} images": examples.inputs for part, examples in parts}
    return images | {f"{part} labels": examples.labels for part, examples in parts}


def _images(split: Split) -> Weights:
    return copied(_tensors(split))


def stacked_is_alone(name: str, arguments: Arguments | None = None) -> None:
    """Clients adapted together, by kernels or by ``vmap``, end as each does alone."""
    with setups(name, arguments) as cases:
        for setup in cases:
            weights = setup.weights
            pooled = setup.pooled(weights)
            for execution in EXECUTIONS:
                cohort = setup.cohort(execution)
                together = setup.adaptation.adapt(cohort, weights, pooled)
                for d, client in enumerate(cohort.clients):
                    one = None if pooled is None else rows(pooled, d, d + 1)
                    only = setup.cohort().only(d)
                    alone = setup.adaptation.adapt(only, rows(weights, d, d + 1), one)
                    where = f"{setup.label}: client {client}, {execution}"
                    require_close(row(together, d), row(alone, 0), where, FLOAT64)


def moves_only_what_it_says(name: str, arguments: Arguments | None = None) -> None:
    """Tensors that ``moves`` does not name are the same bits afterwards."""
    with setups(name, arguments) as cases:
        for setup in cases:
            cohort = setup.cohort()
            moving = setup.adaptation.moves(cohort.model)
            unknown = moving - set(setup.weights)
            require(
                not unknown, f"{setup.label}: moves names {sorted(unknown)}, which are not there"
            )
            adapted = setup.adapted(cohort)
            held = {n: t for n, t in setup.weights.items() if n not in moving}
            kept = {n: t for n, t in adapted.items() if n not in moving}
            require_same(kept, held, f"{setup.label}: what it does not move")


def works_with_one_image_or_refuses(name: str, arguments: Arguments | None = None) -> None:
    """A client with a single image gets finite weights, or an error that says why in a line.

    Allowed are ``InputError`` and ``ValueError``: batch norm cannot measure one value a channel.
    """
    with setups(name, arguments) as cases:
        for setup in cases:
            whole = setup.cohort().splits[0]
            one = Split(*(Examples(e.inputs[:1], e.labels[:1]) for e in whole))
            cohort = setup.cohort(splits=[one], clients=(0,))
            weights = setup.weights
            pooled = setup.pooled(weights)
            first = None if pooled is None else rows(pooled, 0, 1)
            where = f"{setup.label}: a client with one image"
            try:
                adapted = setup.adaptation.adapt(cohort, rows(weights, 0, 1), first)
            except ValueError as error:
                require(str(error).strip(), f"{where}: an error without a message")
                require("\n" not in str(error).strip(), f"{where}: an error of several lines")
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise AssertionError(
                    f"{where}: {reason}; raise InputError or ValueError"
                ) from error
            else:
                require_finite(adapted, where)


def same_result_twice(name: str, arguments: Arguments | None = None) -> None:
    """The same bits again, under any seed of the global generators, and as the last stage."""
    with setups(name, arguments) as cases:
        for setup in cases:
            first, again = (_seeded(setup, seed) for seed in (1, 2))
            require_same(again, first, f"{setup.label}: a second time")


def stages_end_with_the_result(name: str, arguments: Arguments | None = None) -> None:
    """The last of ``stages`` is epoch 0 and has the weights that ``adapt`` returns."""
    with setups(name, arguments) as cases:
        for setup in cases:
            weights, cohort = setup.weights, setup.cohort()
            *_, (epoch, last) = setup.adaptation.stages(cohort, weights, setup.pooled(weights))
            require(epoch == 0, f"{setup.label}: the last stage is epoch {epoch}, expected 0")
            require_same(last, setup.adapted(cohort), f"{setup.label}: the last stage")


def _seeded(setup: Setup, seed: int) -> Weights:
    """Adapt after seeding the global generators, and put them back as they were."""
    numpy, python = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            random.seed(seed)
            return setup.adapted(setup.cohort())
    finally:
        np.random.set_state(numpy)  # noqa: NPY002
        random.setstate(python)


def never_looks_at_test_images(name: str, arguments: Arguments | None = None) -> None:
    """Other test images and labels leave the result as it is, bit for bit."""
    with setups(name, arguments) as cases:
        for setup in cases:
            cohort = setup.cohort()
            wanted = setup.adapted(cohort)
            other = [_without_test(split) for split in cohort.splits]
            label = f"{setup.label}: with other test images"
            require_same(setup.adapted(setup.cohort(splits=other)), wanted, label)


def _without_test(split: Split) -> Split:
    test = relabelled(split.test)
    return split._replace(test=Examples(torch.full_like(test.inputs, 1e6), test.labels))


def reads_labels_only_if_it_says_so(name: str, arguments: Arguments | None = None) -> None:
    """With ``needs_labels = False`` other labels leave the result as it is, bit for bit."""
    with setups(name, arguments) as cases:
        for setup in cases:
            if setup.adaptation.needs_labels:
                continue
            cohort = setup.cohort()
            wanted = setup.adapted(cohort)
            other = [Split(*(relabelled(e) for e in split)) for split in cohort.splits]
            label = f"{setup.label}: with other labels"
            require_same(setup.adapted(setup.cohort(splits=other)), wanted, label)
