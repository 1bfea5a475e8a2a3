"""Networks by name: our table, those of installed packages, and ``module:factory``.

A network is a function of ``num_classes`` and, where it has such a parameter, ``image_shape``; see
``docs/models.md``. Packages add theirs by an entry point of the group ``fedadapt.models``. No
torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedadapt.errors import InputError
from fedadapt.registry import Registry

IMAGES, SERIES, TOKENS = "images", "series", "tokens"
"""Kinds of inputs: [C, H, W]; real numbers of another shape, as [C, T]; whole numbers [T]."""
USUAL_VOCABULARY = 80
"""Different tokens, LEAF's letters, that the parameters of a network for tokens are counted for."""

MAX_WIDTH = 4.0
MOBILENET = "mobilenetv2-"
_MOBILENETV2 = "fedadapt.models.networks.mobilenetv2:mobilenetv2"
_MOBILENETV2_NAMES = "fedadapt.models.networks.mobilenetv2:torchvision_names"


@dataclass(frozen=True, kw_only=True)
class NetworkEntry:
    """What is known of a network without building it."""

    name: str
    factory: str  # ``module:function``, called with image_shape, num_classes and ``arguments``
    description: str
    usual_shape: tuple[int, ...]  # (C, H, W), or that of another input, that num_parameters is for
    num_parameters: int | None  # with 10 classes; None: depends on the width
    min_size: int  # pixels of the shorter side, or samples of a time series
    batch_norm: bool
    imagenet: str = ""  # torchvision's name for its weights; empty: it has none
    arguments: Mapping[str, float] = field(default_factory=dict)
    renames: str = ""  # ``module:function`` that gives torchvision's names to a weights file
    takes: tuple[str, ...] = (IMAGES,)  # kinds of inputs: images, series, tokens


ENTRIES: tuple[NetworkEntry, ...] = (
    NetworkEntry(
        name="mlp",
        factory="fedadapt.models.networks.mlp:mlp",
        description="two hidden layers of 100",
        usual_shape=(1, 28, 28),
        num_parameters=89_610,
        min_size=1,
        batch_norm=False,
        takes=(IMAGES, SERIES),
    ),
    NetworkEntry(
        name="lenet",
        factory="fedadapt.models.networks.lenet:lenet",
        description="LeNet-5 with ReLU",
        usual_shape=(1, 28, 28),
        num_parameters=61_706,
        min_size=4,
        batch_norm=False,
    ),
    NetworkEntry(
        name="cnn",
        factory="fedadapt.models.networks.cnn:cnn",
        description="two 3x3 convolutions (32, 64), a layer of 128",
        usual_shape=(1, 28, 28),
        num_parameters=421_642,
        min_size=4,
        batch_norm=False,
    ),
    NetworkEntry(
        name="vit-tiny",
        factory="fedadapt.models.networks.vit:vit_tiny",
        description="vision transformer: 4 blocks of width 64",
        usual_shape=(1, 28, 28),
        num_parameters=205_066,
        min_size=2,
        batch_norm=False,
    ),
    NetworkEntry(
        name="vit-tiny-prompts",
        factory="fedadapt.models.networks.vit:vit_tiny",
        arguments={"prompts": 10},
        description="the same with 10 prompts (pFedPG)",
        usual_shape=(1, 28, 28),
        num_parameters=205_706,
        min_size=2,
        batch_norm=False,
    ),
    NetworkEntry(
        name="vgg11",
        factory="fedadapt.models.networks.vgg:vgg11",
        description="VGG-11 convolutions, average pool (PFA)",
        usual_shape=(3, 32, 32),
        num_parameters=9_231_114,
        min_size=32,
        batch_norm=True,
        imagenet="VGG11_BN_Weights.IMAGENET1K_V1",
    ),
    NetworkEntry(
        name="mobilenetv2-0.25",
        factory=_MOBILENETV2,
        arguments={"width": 0.25},
        description="MobileNetV2, a quarter of the width (PFA)",
        usual_shape=(3, 32, 32),
        num_parameters=250_922,
        min_size=1,
        batch_norm=True,
        renames=_MOBILENETV2_NAMES,
    ),
    NetworkEntry(
        name="mobilenetv2-0.35",
        factory=_MOBILENETV2,
        arguments={"width": 0.35},
        description="MobileNetV2, about a third of the width",
        usual_shape=(3, 32, 32),
        num_parameters=408_938,
        min_size=1,
        batch_norm=True,
        renames=_MOBILENETV2_NAMES,
    ),
    NetworkEntry(
        name="mobilenetv2-1.0",
        factory=_MOBILENETV2,
        arguments={"width": 1.0},
        description="MobileNetV2; any other width works as well",
        usual_shape=(3, 224, 224),
        num_parameters=2_236_682,
        min_size=1,
        batch_norm=True,
        imagenet="MobileNet_V2_Weights.IMAGENET1K_V1",
        renames=_MOBILENETV2_NAMES,
    ),
    NetworkEntry(
        name="squeezenet1_1",
        factory="fedadapt.models.networks.squeezenet:squeezenet1_1",
        description="SqueezeNet 1.1, linear head",
        usual_shape=(3, 224, 224),
        num_parameters=727_626,
        min_size=17,
        batch_norm=False,
        imagenet="SqueezeNet1_1_Weights.IMAGENET1K_V1",
    ),
    NetworkEntry(
        name="alexnet",
        factory="fedadapt.models.networks.alexnet:alexnet",
        description="AlexNet with its fully connected layers (DUA)",
        usual_shape=(3, 224, 224),
        num_parameters=57_044_810,
        min_size=63,
        batch_norm=False,
        imagenet="AlexNet_Weights.IMAGENET1K_V1",
    ),
    NetworkEntry(
        name="vgg11-fc",
        factory="fedadapt.models.networks.vgg:vgg11_fc",
        description="VGG-11 with its fully connected layers (DUA)",
        usual_shape=(3, 224, 224),
        num_parameters=128_807_306,
        min_size=32,
        batch_norm=False,
        imagenet="VGG11_Weights.IMAGENET1K_V1",
    ),
    NetworkEntry(
        name="vgg11-bn-fc",
        factory="fedadapt.models.networks.vgg:vgg11_bn_fc",
        description="the same with batch normalisation (DUA)",
        usual_shape=(3, 224, 224),
        num_parameters=128_812_810,
        min_size=32,
        batch_norm=True,
        imagenet="VGG11_BN_Weights.IMAGENET1K_V1",
    ),
    NetworkEntry(
        name="resnet18",
        factory="fedadapt.models.networks.resnet:resnet18",
        description="ResNet-18",
        usual_shape=(3, 224, 224),
        num_parameters=11_181_642,
        min_size=1,
        batch_norm=True,
        imagenet="ResNet18_Weights.IMAGENET1K_V1",
    ),
    NetworkEntry(
        name="har-cnn",
        factory="fedadapt.models.sequences.har_cnn:har_cnn",
        description="two 1-D convolutions (16, 32), for time series",
        usual_shape=(9, 128),
        num_parameters=3_754,
        min_size=1,
        batch_norm=True,
        takes=(SERIES,),
    ),
    NetworkEntry(
        name="char-gru",
        factory="fedadapt.models.sequences.char_gru:char_gru",
        description="embedding of 8, a GRU of 128, for tokens",
        usual_shape=(80,),
        num_parameters=54_922,
        min_size=1,
        batch_norm=False,
        takes=(TOKENS,),
    ),
)
"""An entry here, its factory and a test are all that a new network of ours needs."""

NETWORKS = Registry(
    "model",
    "fedadapt.models",
    {entry.name: entry.factory for entry in ENTRIES},
    form="module:factory",
)

_BY_NAME = {entry.name: entry for entry in ENTRIES}


def find_network(model: str) -> NetworkEntry | None:
    """The entry of ``model``; None for a user's network, of which nothing is known.

    Raises:
        InputError: There is no such network, or its module cannot be found.

    """
    if model in _BY_NAME:
        return _BY_NAME[model]
    if model != MOBILENET.rstrip("-") and not model.startswith(MOBILENET):
        NETWORKS.path(model)
        return None
    width = mobilenet_width(model)
    for entry in ENTRIES:
        if entry.factory == _MOBILENETV2 and entry.arguments["width"] == width:
            return replace(entry, name=model)
    return replace(
        _BY_NAME["mobilenetv2-1.0"],
        name=model,
        arguments={"width": width},
        description=f"MobileNetV2, {width:g} of the width",
        num_parameters=None,
        imagenet="",
    )


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
