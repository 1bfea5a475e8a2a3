"""What every network must hold; one function a rule."""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import SkipTest

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedadapt.client.stacking import trace
from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.models.build import build_model
from fedadapt.models.mode import evaluating, training_norms
from fedadapt.models.registry import IMAGES, TOKENS, find_network
from fedadapt.models.sequences.inputs import blank, embedding_of_tokens
from fedadapt.selectors import head, head_of
from fedadapt.testing.assertions import copied, require, require_close, require_same
from fedadapt.weights import Weights

NUM_CLASSES = 3
SIDE = 8  # pixels of an image, samples of a series or tokens of a sequence, at least
VOCABULARY = 7
LARGE = 300_000
"""Parameters above which computing is not tried for networks of ours; strangers' always are."""
CLIENTS, BATCH = 3, 4
LIMITS = {"rtol": 1e-6, "atol": 1e-7}
"""Float64 through tens of batch-norm layers over few images, which magnify what is rounded."""

Shape = tuple[int, ...]


def head_is_found(
    name: str, image_shape: Shape | None = None, num_classes: int = NUM_CLASSES
) -> None:
    """The classifier is found, and its tensors are those of the model."""
    model = _without_tensors(name, image_shape, num_classes)
    try:
        layer = head_of(model)
    except ValueError as error:
        raise AssertionError(f"{name}: {error}") from error
    width = getattr(layer, "out_features", num_classes)
    require(width == num_classes, f"{name}: its head has {width} outputs for {num_classes} classes")
    names = head(model)
    require(names, f"{name}: its head has no tensors")
    require(names <= set(model.state_dict()), f"{name}: its head is not a part of it")
    require(names < set(model.state_dict()), f"{name}: it has no tensors but its head's")


def no_tensor_has_two_names(
    name: str, image_shape: Shape | None = None, num_classes: int = NUM_CLASSES
) -> None:
    """No parameter and no layer is used under two names: clients would hold two copies of it."""
    model = _light(name, image_shape, num_classes)
    tensors: list[tuple[str, Tensor]] = list(model.named_parameters(remove_duplicate=False))
    tensors += list(model.named_buffers(remove_duplicate=False))
    first: dict[int, str] = {}
    for tensor_name, tensor in tensors:
        other = first.setdefault(id(tensor), tensor_name)
        require(other == tensor_name, f"{name}: {tensor_name} is the same tensor as {other}")


def forward_gives_logits(
    name: str, image_shape: Shape | None = None, num_classes: int = NUM_CLASSES
) -> None:
    """Inputs [B, ...] give logits [B, classes], for one input and for several."""
    model = _without_tensors(name, image_shape, num_classes)
    for count in (1, 5):
        with evaluating(model), torch.no_grad():
            logits = model(blank(model, image_shape or trial_shape(name), count, "meta"))
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        wanted = (count, num_classes)
        require(shape == wanted, f"{name}: {count} images give {shape}, expected {wanted}")


def initial_weights_follow_the_seed(
    name: str, image_shape: Shape | None = None, num_classes: int = NUM_CLASSES
) -> None:
    """Equal seeds give equal weights, other seeds other ones; torch's generator is not moved."""
    _skip_large(name, image_shape, num_classes)
    before = torch.random.get_rng_state()
    first, again, other = (_build(name, image_shape, num_classes, s) for s in (1, 1, 2))
    moved = not torch.equal(before, torch.random.get_rng_state())
    require(not moved, f"{name}: building it moves torch's global generator")
    require_same(again.state_dict(), first.state_dict(), f"{name}: the same seed again")
    differ = any(not torch.equal(t, other.state_dict()[n]) for n, t in first.state_dict().items())
    require(differ, f"{name}: another seed gives the same weights")


def evaluating_changes_nothing(
    name: str, image_shape: Shape | None = None, num_classes: int = NUM_CLASSES
) -> None:
    """In evaluation mode no tensor changes, and the logits are the same twice, and finite."""
    _skip_large(name, image_shape, num_classes)
    model = _build(name, image_shape, num_classes).double()
    before = copied(model.state_dict())
    images = _inputs(model, image_shape or trial_shape(name))[0]
    with evaluating(model), torch.no_grad():
        first, again = model(images), model(images)
    require_same({"logits": again}, {"logits": first}, f"{name}: the same images again")
    require(bool(first.isfinite().all()), f"{name}: logits that are not finite")
    require_same(model.state_dict(), before, f"{name}: after evaluation")


def state_dict_is_the_whole_model(
    name: str, image_shape: Shape | None = None, num_classes: int = NUM_CLASSES
) -> None:
    """A network of another seed that loads a saved ``state_dict`` computes what this one does."""
    _skip_large(name, image_shape, num_classes)
    model, other = (_build(name, image_shape, num_classes, seed) for seed in (1, 2))
    model, other = model.double(), other.double()
    with tempfile.TemporaryDirectory(prefix="fedadapt-contract-") as folder:
        file = Path(folder) / "model.safetensors"
        save_file({n: t.clone().contiguous() for n, t in model.state_dict().items()}, file)
        other.load_state_dict(load_file(file))
    images = _inputs(model, image_shape or trial_shape(name))[0]
    with evaluating(model), evaluating(other), torch.no_grad():
        logits = {"logits": model(images)}, {"logits": other(images)}
    require_same(logits[1], logits[0], f"{name}: from its saved state_dict")


def stacked_is_alone(
    name: str, image_shape: Shape | None = None, num_classes: int = NUM_CLASSES
) -> None:
    """Clients computed together have the logits, gradients and buffers that each has alone.

    By kernels where there is one for every layer, else by ``vmap``, as in a run. Dropout is off.
    """
    _skip_large(name, image_shape, num_classes)
    model = _build(name, image_shape, num_classes).double()
    network = trace(model)
    for label, mode in (("evaluation", evaluating), ("training", training_norms)):
        stacked, images = _stack(model), _inputs(model, image_shape or trial_shape(name))
        with mode(model):
            try:
                together = _computed(model, network, stacked, images)
            except Exception as error:
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                raise AssertionError(f"{name}: clients cannot be stacked: {reason}") from error
            for d in range(CLIENTS):
                one = {n: t[d : d + 1].clone() for n, t in _stack(model).items()}
                alone = _alone(model, one, images[d], mode)
                how = "kernels" if network is not None else "vmap"
                where = f"{name}: client {d}, {label} mode, {how}"
                of_client = {n: t[d] for n, t in together.items()}
                require_close(of_client, alone, where, LIMITS)


def _computed(
    model: nn.Module, network: Callable[..., Tensor] | None, stacked: Weights, images: Tensor
) -> Weights:
    """Logits, gradients and buffers of all clients, each [D, ...]."""
    names = [n for n, _ in model.named_parameters()]
    moving = {n: stacked[n].detach().requires_grad_() for n in names}
    weights = stacked | moving
    if network is not None:
        logits = network(weights, images)
    else:

        def one(client_weights: Weights, inputs: Tensor) -> Tensor:
            out: Tensor = functional_call(model, client_weights, (inputs,))
            return out

        logits = vmap(one)(weights, images)
    return _results(logits, moving, {n: t for n, t in weights.items() if n not in moving})


def _alone(
    model: nn.Module,
    one: Weights,
    images: Tensor,
    mode: Callable[[nn.Module], AbstractContextManager[nn.Module]],
) -> Weights:
    """The same of one client, without a client axis."""
    names = {n for n, _ in model.named_parameters()}
    moving = {n: t[0].detach().requires_grad_() for n, t in one.items() if n in names}
    held = {n: t[0] for n, t in one.items() if n not in names}
    with mode(model):
        logits = functional_call(model, held | moving, (images,))
    return _results(logits, moving, held)


def _results(logits: Tensor, moving: Weights, held: Weights) -> Weights:
    """What is compared; the loss looks at every logit in its own way."""
    factors = torch.linspace(-1, 1, logits.shape[-1] * logits.shape[-2], dtype=logits.dtype)
    loss = (logits * factors.view(logits.shape[-2:])).tanh().sum()
    tensors = list(moving.values())
    grads = torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)
    gradients = {f"gradient of {n}": g for n, g in zip(moving, grads, strict=True)}
    return {"logits": logits.detach(), **gradients, **{n: t.detach() for n, t in held.items()}}


def _stack(model: nn.Module) -> Weights:
    """A model for each client around the network's own."""
    generator = torch.Generator().manual_seed(1)

    def near(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.clone()
        noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
        return tensor + 0.02 * noise

    return {
        n: torch.stack([near(t) for _ in range(CLIENTS)]) for n, t in model.state_dict().items()
    }


def trial_shape(name: str) -> Shape:
    """The shape of the inputs that a network is tried with: small ones of the kind that it takes.

    Those of networks that are not ours are grey images, if nothing is said.
    """
    entry = find_network(name)
    if entry is None:
        return 1, SIDE, SIDE
    side = max(SIDE, entry.min_size)
    if entry.takes[0] == IMAGES:
        return entry.usual_shape[0], side, side
    return (*entry.usual_shape[:-1], side)


def _inputs(model: nn.Module, shape: Shape) -> Tensor:
    """Inputs of all clients, [CLIENTS, BATCH, *shape]: noise in float64, or tokens."""
    generator = torch.Generator().manual_seed(2)
    embedding = embedding_of_tokens(model)
    if embedding is not None:
        most = embedding.num_embeddings
        return torch.randint(0, most, (CLIENTS, BATCH, *shape), generator=generator)
    return torch.randn(CLIENTS, BATCH, *shape, generator=generator, dtype=torch.float64)


def _build(name: str, image_shape: Shape | None, num_classes: int, seed: int = 1) -> nn.Module:
    shape, entry = image_shape or trial_shape(name), find_network(name)
    # Who takes tokens is known of ours; a stranger's takes them where its shape is (T,).
    takes_tokens = len(shape) == 1 if entry is None else TOKENS in entry.takes
    vocabulary = VOCABULARY if takes_tokens else 0
    try:
        return build_model(RunConfig(model=name, seed=seed), shape, num_classes, vocabulary)
    except InputError as error:
        raise AssertionError(f"{name} is refused: {error}") from error


def _light(name: str, image_shape: Shape | None, num_classes: int) -> nn.Module:
    """The network; one of ours, whatever its size, is built on the meta device."""
    with torch.device("meta") if ":" not in name else torch.device("cpu"):
        return _build(name, image_shape, num_classes)


def _without_tensors(name: str, image_shape: Shape | None, num_classes: int) -> nn.Module:
    return _light(name, image_shape, num_classes).to("meta")


def _skip_large(name: str, image_shape: Shape | None, num_classes: int) -> None:
    if ":" in name:
        return
    model = _without_tensors(name, image_shape, num_classes)
    count = sum(p.numel() for p in model.parameters())
    if count > LARGE:
        raise SkipTest(f"{name} has {count:,} parameters; computing is tried with smaller networks")
