"""The networks there are, and what can be refused before torch is imported."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from fedadapt.config import RunConfig
from fedadapt.errors import InputError, nearest, unknown

WEIGHT_FILES = (".safetensors", ".pth")
MAX_WIDTH = 4.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One network as ``fedadapt models`` shows it."""

    name: str
    description: str
    usual_shape: tuple[int, int, int]  # (C, H, W) that num_parameters is for
    num_parameters: int | None  # with 10 classes; None: depends on the width
    min_size: int  # pixels of the shorter side
    batch_norm: bool
    imagenet: str = ""  # torchvision's name for its weights; empty: it has none


MOBILENET = "mobilenetv2-"
ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="mlp",
        description="two hidden layers of 100",
        usual_shape=(1, 28, 28),
        num_parameters=89_610,
        min_size=1,
        batch_norm=False,
    ),
    Entry(
        name="lenet",
        description="LeNet-5 with ReLU",
        usual_shape=(1, 28, 28),
        num_parameters=61_706,
        min_size=4,
        batch_norm=False,
    ),
    Entry(
        name="cnn",
        description="two 3x3 convolutions (32, 64), a layer of 128",
        usual_shape=(1, 28, 28),
        num_parameters=421_642,
        min_size=4,
        batch_norm=False,
    ),
    Entry(
        name="vgg11",
        description="VGG-11 convolutions, average pool (PFA)",
        usual_shape=(3, 32, 32),
        num_parameters=9_231_114,
        min_size=32,
        batch_norm=True,
        imagenet="VGG11_BN_Weights.IMAGENET1K_V1",
    ),
    Entry(
        name="mobilenetv2-0.25",
        description="MobileNetV2, a quarter of the width (PFA)",
        usual_shape=(3, 32, 32),
        num_parameters=250_922,
        min_size=1,
        batch_norm=True,
    ),
    Entry(
        name="mobilenetv2-0.35",
        description="MobileNetV2, about a third of the width",
        usual_shape=(3, 32, 32),
        num_parameters=408_938,
        min_size=1,
        batch_norm=True,
    ),
    Entry(
        name="mobilenetv2-1.0",
        description="MobileNetV2; any other width works as well",
        usual_shape=(3, 224, 224),
        num_parameters=2_236_682,
        min_size=1,
        batch_norm=True,
        imagenet="MobileNet_V2_Weights.IMAGENET1K_V1",
    ),
    Entry(
        name="squeezenet1_1",
        description="SqueezeNet 1.1, linear head",
        usual_shape=(3, 224, 224),
        num_parameters=727_626,
        min_size=17,
        batch_norm=False,
        imagenet="SqueezeNet1_1_Weights.IMAGENET1K_V1",
    ),
    Entry(
        name="alexnet",
        description="AlexNet with its fully connected layers (DUA)",
        usual_shape=(3, 224, 224),
        num_parameters=57_044_810,
        min_size=63,
        batch_norm=False,
        imagenet="AlexNet_Weights.IMAGENET1K_V1",
    ),
    Entry(
        name="vgg11-fc",
        description="VGG-11 with its fully connected layers (DUA)",
        usual_shape=(3, 224, 224),
        num_parameters=128_807_306,
        min_size=32,
        batch_norm=False,
        imagenet="VGG11_Weights.IMAGENET1K_V1",
    ),
    Entry(
        name="vgg11-bn-fc",
        description="the same with batch normalisation (DUA)",
        usual_shape=(3, 224, 224),
        num_parameters=128_812_810,
        min_size=32,
        batch_norm=True,
        imagenet="VGG11_BN_Weights.IMAGENET1K_V1",
    ),
    Entry(
        name="resnet18",
        description="ResNet-18",
        usual_shape=(3, 224, 224),
        num_parameters=11_181_642,
        min_size=1,
        batch_norm=True,
        imagenet="ResNet18_Weights.IMAGENET1K_V1",
    ),
)
_BY_NAME = {entry.name: entry for entry in ENTRIES}


def names() -> tuple[str, ...]:
    """The networks of the table; ``mobilenetv2-<width>`` takes other widths too."""
    return tuple(_BY_NAME)


def find(model: str) -> Entry | None:
    """What is known of ``model``; None for ``module:factory``, about which nothing is.

    Raises:
        InputError: Unknown or malformed.

    """
    if ":" in model:
        factory_name(model)
        return None
    if model in _BY_NAME:
        return _BY_NAME[model]
    if model == MOBILENET.rstrip("-") or model.startswith(MOBILENET):
        width = mobilenet_width(model)
        for entry in ENTRIES:
            if entry.name.startswith(MOBILENET) and mobilenet_width(entry.name) == width:
                return replace(entry, name=model)
        return replace(
            _BY_NAME["mobilenetv2-1.0"],
            name=model,
            description=f"MobileNetV2, {width:g} of the width",
            num_parameters=None,
            imagenet="",
        )
    raise unknown("model", model, (*names(), "module:factory"))


def mobilenet_width(model: str) -> float:
    """``mobilenetv2-0.25`` -> 0.25."""
    text = model.removeprefix(MOBILENET)
    width = float(text) if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII) else 0.0
    if not 0 < width <= MAX_WIDTH:
        raise InputError(
            f"model: {model!r} is not {MOBILENET}<width>; the width is a number above 0 and at "
            f"most {MAX_WIDTH:g}, e.g. mobilenetv2-0.25"
        )
    return width


def factory_name(model: str) -> tuple[str, str]:
    """``package.module:function`` -> its two names."""
    module, _, function = model.partition(":")
    if not (all(part.isidentifier() for part in module.split(".")) and function.isidentifier()):
        raise InputError(
            f"model: {model!r} is not of the form module:factory; for example mynets.small:make"
        )
    return module, function


def check(config: RunConfig) -> None:
    """Refuse what cannot work, in milliseconds.

    Raises:
        InputError: An unknown network, a missing weights file, images too small, or a policy for
            batch normalisation on a network without.

    """
    entry = find(config.model)
    _check_weights(config, entry)
    if entry is not None:
        if config.image_size:
            check_size(entry, config.image_size, config.image_size)
        check_norms(config, entry.batch_norm)


def check_size(entry: Entry, height: int, width: int) -> None:
    """Refuse images from which the network's pooling would leave nothing."""
    if min(height, width) < entry.min_size:
        raise InputError(
            f"model: {entry.name!r} needs images of at least {entry.min_size} x {entry.min_size} "
            f"pixels, these have {height} x {width}; resize them with image-size={entry.min_size}"
        )


def check_norms(config: RunConfig, has_batch_norm: bool) -> None:
    """Refuse a policy for batch normalisation where there is none."""
    if has_batch_norm:
        return
    lacks = f"needs a network with batch normalisation, {config.model!r} has none"
    with_norms = ", ".join(entry.name for entry in ENTRIES if entry.batch_norm)
    if config.batch_norm != "shared":
        raise InputError(
            f"batch-norm: {config.batch_norm} {lacks}; use shared or one of {with_norms}"
        )


def _check_weights(config: RunConfig, entry: Entry | None) -> None:
    weights = config.weights
    if not weights:
        return
    if weights == "imagenet":
        if entry is None or not entry.imagenet:
            having = ", ".join(known.name for known in ENTRIES if known.imagenet)
            raise InputError(
                f"weights: there are no imagenet weights for {config.model!r}; give a "
                f".safetensors or .pth file, or use one of {having}"
            )
        return
    path = Path(weights).expanduser()
    if path.suffix not in WEIGHT_FILES:
        raise InputError(
            f"weights: {weights!r} is neither imagenet nor a .safetensors or .pth file"
            f"{nearest(weights, ('imagenet',))}"
        )
    if not path.is_file():
        raise InputError(f"weights: no file {weights!r}; give the path of an existing file")
