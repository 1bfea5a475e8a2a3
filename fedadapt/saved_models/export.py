"""A saved model for other runtimes: ONNX, a ``torch.export`` program, or plain safetensors.

The exported graphs take images as floats between 0 and 1 (pixel / 255), float32 [N, C, H, W] with
any N, normalise them themselves and return logits [N, classes]. Every file is loaded again and
compared with the network on a batch of images before it gets its name.
"""

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor, nn

from fedadapt.errors import FedadaptError, InputError, unknown
from fedadapt.files import write_atomically
from fedadapt.models.mode import evaluating
from fedadapt.saved_models.card import Card
from fedadapt.saved_models.files import KEY, encode

TOLERANCE = 1e-4  # of logits, beside 1e-4 of their size
BATCHES = (1, 5)  # images in the batches that are compared
IMAGES, LOGITS = "images", "logits"


class Normalised(nn.Module):
    """A network that takes images between 0 and 1, or measurements, and normalises them itself.

    Tokens stay as they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, card: Card) -> None:
        super().__init__()
        self.network = network
        self.normalises = bool(card.mean)
        shape = (-1, *[1] * (len(card.image_shape) - 1))
        for name, values in (("mean", card.mean), ("std", card.std)):
            tensor = torch.tensor(values)
            self.register_buffer(name, tensor.view(shape) if values else tensor)

    def forward(self, images: Tensor) -> Tensor:
        if self.normalises:
            images = (images - self.mean) / self.std
        logits: Tensor = self.network(images)
        return logits


def export(network: nn.Module, card: Card, form: str, out: Path) -> None:
    """Write ``network`` to ``out`` in the form of a key of ``FORMATS``.

    Raises:
        InputError: An unknown format, a package that is not installed, or no folder to write to.
        FedadaptError: The network cannot be exported, or the file does not say what it says.

    """
    if form not in FORMATS:
        raise unknown("format", form, tuple(FORMATS))
    _check_installed(form)
    if not out.parent.is_dir():
        raise InputError(f"{out}: there is no folder {out.parent}; make it first")
    if out.is_dir():
        raise InputError(f"{out}: is a folder; name a file")
    with evaluating(network), torch.no_grad():
        try:
            with _quietly():
                content = FORMATS[form](network, card)
        except FedadaptError:
            raise
        except Exception as error:  # exporters raise anything for what they cannot do
            reason = " ".join(str(error).split())[:200]
            raise FedadaptError(
                f"{form}: the network {card.network!r} cannot be exported "
                f"({type(error).__name__}: {reason})"
            ) from error
    write_atomically(out, content)


def _onnx(network: nn.Module, card: Card) -> bytes:
    import onnx
    import onnxruntime

    whole = Normalised(network, card).eval()
    program = torch.onnx.export(
        whole,
        (_images(card, 2),),
        dynamo=True,
        verbose=False,
        input_names=[IMAGES],
        output_names=[LOGITS],
        dynamic_shapes={IMAGES: {0: torch.export.Dim("batch")}},
    )
    if program is None:
        raise FedadaptError("onnx: PyTorch returned no program")
    made = program.model_proto
    onnx.helper.set_model_props(made, {KEY: json.dumps(card.to_json())})
    onnx.checker.check_model(made)
    content: bytes = made.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def again(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([LOGITS], {IMAGES: images.numpy()})[0])

    _compare("onnx", again, whole, card)
    return content


def _torch_export(network: nn.Module, card: Card) -> bytes:
    whole = Normalised(network, card).eval()
    program = torch.export.export(
        whole, (_images(card, 2),), dynamic_shapes={IMAGES: {0: torch.export.Dim("batch")}}
    )
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"card.json": json.dumps(card.to_json())})
    content = buffer.getvalue()
    loaded = torch.export.load(io.BytesIO(content)).module()
    _compare("torch-export", loaded, whole, card)
    return content


def _safetensors(network: nn.Module, card: Card) -> bytes:
    from safetensors.torch import load

    state = network.state_dict()
    content = encode(state, card)
    again = load(content)
    if again.keys() != state.keys() or not all(torch.equal(again[n], state[n]) for n in state):
        raise FedadaptError("safetensors: the file does not hold the network's tensors")
    return content


FORMATS: Mapping[str, Callable[[nn.Module, Card], bytes]] = {
    "onnx": _onnx,
    "torch-export": _torch_export,
    "safetensors": _safetensors,
}

NEEDED = {"onnx": ("onnx", "onnxruntime", "onnxscript")}
"""Packages that a format needs beside PyTorch."""


def _check_installed(form: str) -> None:
    for package in NEEDED.get(form, ()):
        if importlib.util.find_spec(package) is None:
            raise InputError(f'{form}: {package} is not installed; pip install "fedadapt[export]"')


def _images(card: Card, count: int) -> Tensor:
    """Inputs to try a program on, the same each time: images between 0 and 1, or tokens."""
    generator = torch.Generator().manual_seed(count)
    if card.vocabulary:
        return torch.randint(card.vocabulary, (count, *card.image_shape), generator=generator)
    return torch.rand(count, *card.image_shape, generator=generator)


def _compare(form: str, again: Callable[[Tensor], Tensor], network: nn.Module, card: Card) -> None:
    """Refuse a program whose logits are not the network's, on batches of several sizes."""
    for count in BATCHES:
        images = _images(card, count)
        exported, original = again(images), network(images)
        if exported.shape != original.shape or not torch.allclose(
            exported, original, rtol=TOLERANCE, atol=TOLERANCE
        ):
            raise FedadaptError(
                f"{form}: the exported program does not compute what the network computes; "
                "nothing was written"
            )


@contextmanager
def _quietly() -> Iterator[None]:
    """Exporters print and warn about their own workings."""
    exporting = logging.getLogger("torch.onnx")
    level = exporting.level
    exporting.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        exporting.setLevel(level)
