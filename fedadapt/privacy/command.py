"""``fedadapt privacy-inversion``. Light: torch is loaded when the attack is about to begin."""

import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from fedadapt.config import RunConfig
from fedadapt.datasets.data_spec import check_data
from fedadapt.datasets.registry import find_benchmark
from fedadapt.errors import InputError
from fedadapt.files import user_path
from fedadapt.models.limits import check_model
from fedadapt.parameters import parameters
from fedadapt.privacy.settings import MEANING, ORDERED, Attack, layers, words

if TYPE_CHECKING:
    from fedadapt.privacy.analysis import Analysis

NEEDED = {"skimage": "scikit-image", "matplotlib": "matplotlib"}
WITHOUT_RUN = ("benchmark", "model", "weights", "normalization", "image_size")
MOST_CLIENTS = 100

UNITS = {"psnr": ("PSNR, dB", 1), "ssim": ("SSIM", 3), "misfit": ("misfit", 4)}
"""How a measure is shown: its title and decimals."""


def _attack_option(name: str) -> Callable[[Any], Any]:
    """Make the option of a parameter of ``Attack``."""
    described = parameters(Attack)[name]
    return click.option(
        f"--{described.key}",
        name,
        type=described.scalar,
        default=described.default,
        help=f"{described.param.help}  [{described.default}]",
    )


@click.command("privacy-inversion", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--run",
    "run",
    type=click.Path(path_type=Path),
    help="attack the base model of the run in this folder, with images of its clients",
)
@click.option("--benchmark", help="without a run: where the images come from  [digits-classes]")
@click.option("--data-root", help="folder with real data sets (default: $FEDADAPT_DATA)")
@click.option("--model", help="without a run: the network; see `fedadapt models`  [cnn]")
@click.option("--weights", help="without a run: its weights: imagenet, or a .safetensors/.pth file")
@click.option(
    "--normalization",
    type=click.Choice(("auto", "data", "imagenet", "symmetric", "unit")),
    help="without a run: the scaling it expects  [auto]",
)
@click.option("--image-size", type=int, help="without a run: resize images to so many pixels")
@_attack_option("images")
@click.option(
    "--layers",
    "layers_text",
    default="",
    help="ReLU layers, by number in order of execution or by name, separated by commas  "
    "[the first four]",
)
@click.option(
    "--properties",
    "properties_text",
    default=",".join(ORDERED),
    help=f"what the attacker has, of {', '.join(MEANING)}  [{','.join(ORDERED)}]",
)
@_attack_option("steps")
@_attack_option("seed")
@_attack_option("learning_rate")
@_attack_option("smoothness")
@click.option("--device", type=click.Choice(("auto", "cpu", "cuda")), default="auto", help="[auto]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="folder for inversion.json and inversion.png  [RUN/privacy, or runs/privacy-<benchmark>]",
)
def privacy_inversion(
    run: Path | None,
    layers_text: str,
    properties_text: str,
    device: str,
    out: Path | None,
    **options: Any,
) -> None:
    """Try to get images back from what a ReLU layer says of them (PFA, section 5.4).

    Inverts the feature map (fm), its sums over width, height and both (h_sp, v_sp, w_sp); prints
    how like the originals the results are, layer by layer.
    """
    for module, package in NEEDED.items():
        if find_spec(module) is None:
            raise InputError(f'{package}: not installed; run pip install "fedadapt[simulation]"')
    if "" not in sys.path:
        sys.path.insert(0, "")  # module:factory of the folder one works in
    effort = {key: options.pop(key) for key in parameters(Attack)}
    attack = Attack(layers=layers(layers_text), properties=words(properties_text), **effort)
    chosen = {key: value for key, value in options.items() if value is not None}
    config = _without_run(chosen, attack) if run is None else _of_run(run, chosen)
    check_model(config)
    check_data(config)
    base = None if run is None else run / "models" / "base.safetensors"
    folder = _folder(out, run, config)
    _attack(config, base, attack, device, folder)


def _without_run(chosen: dict[str, Any], attack: Attack) -> RunConfig:
    """Settings without a run: as many clients as images, so that each client has one image."""
    config = RunConfig(**{"model": "cnn", "seed": attack.seed, "clients": 1, **chosen})
    domains = find_benchmark(config.benchmark).domains
    clients = max(min(attack.images, MOST_CLIENTS), domains)
    return RunConfig.from_mapping(config.to_mapping() | {"clients": clients})


def _of_run(run: Path, chosen: dict[str, Any]) -> RunConfig:
    """The settings of a run, whose data may have moved."""
    extra = [key.replace("_", "-") for key in WITHOUT_RUN if key in chosen]
    if extra:
        raise InputError(f"{extra[0]}: a run has its own; leave --{extra[0]} or --run away")
    for needed in (run / "config.toml", run / "models" / "base.safetensors"):
        if not needed.is_file():
            raise InputError(f"run: {needed} is not there; name the folder of a finished run")
    settings = RunConfig.from_toml(run / "config.toml").to_mapping()
    moved = {"data-root": chosen["data_root"]} if "data_root" in chosen else {}
    return RunConfig.from_mapping(settings | {"weights": ""} | moved)


def _folder(out: Path | None, run: Path | None, config: RunConfig) -> Path:
    name = re.sub(r"[^\w.-]+", "-", config.benchmark)
    default = Path("runs") / f"privacy-{name}" if run is None else run / "privacy"
    folder = default if out is None else user_path(out, "out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out: {folder}: {error.strerror}") from None
    return folder


def _attack(
    config: RunConfig, base: Path | None, attack: Attack, device: str, folder: Path
) -> None:
    from fedadapt.privacy.analysis import analyse, write_json
    from fedadapt.privacy.picture import write_picture
    from fedadapt.privacy.progress import Progress
    from fedadapt.privacy.victim import load_victim
    from fedadapt.simulations.assembly import compute_device

    where = compute_device(device)
    console = Console(stderr=True)
    with console.status("preparing images and network"):
        victim = load_victim(config, base, attack.images, attack.seed)
    with Progress(console) as progress:
        analysis = analyse(
            victim, attack, device=where, started=progress.begin, progress=progress.advance
        )
    source = {
        "benchmark": config.benchmark,
        "model": config.model,
        "weights": str(base or config.weights) or "random",
    }
    files = (
        write_json(folder / "inversion.json", analysis, victim, attack, source),
        write_picture(folder, analysis),
    )
    Console().print(_table(analysis))
    for number, layer in analysis.layers.items():
        click.echo(f"ReLU {number}  {layer.path}, {layer.channels} channels")
    for measure in ("psnr", "ssim"):
        click.echo(_verdict(analysis, measure))
        if len(analysis.layers) > 1:
            falling = [p for p in analysis.properties if analysis.falling(p, measure)]
            click.echo(f"{measure.upper()}: falls from layer to layer for {_listed(falling)}")
    for file in files:
        click.echo(file)


def _table(analysis: "Analysis") -> Table:
    """Mean and spread over the images; a line for a layer and property."""
    table = Table(
        title=f"inverted: {len(analysis.originals)} images, mean ± standard deviation",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    table.add_column("layer", no_wrap=True)
    table.add_column("property", no_wrap=True)
    for title, _ in UNITS.values():
        table.add_column(title, justify="right", no_wrap=True)
    for number in analysis.layers:
        for name in analysis.properties:
            cells = [
                "{0.mean:.{1}f} ± {0.std:.{1}f}".format(analysis.spread(number, name, key), digits)
                for key, (_, digits) in UNITS.items()
            ]
            title = f"ReLU {number}" if name == analysis.properties[0] else ""
            table.add_row(title, name, *cells)
        table.add_section()
    grey = [f"{analysis.blind[key].mean:.{UNITS[key][1]}f}" for key in ("psnr", "ssim")]
    table.add_row("mid-grey", "none", *grey, "")
    return table


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none of them"


def _verdict(analysis: "Analysis", measure: str) -> str:
    """Whether the paper's order holds, in one line."""
    order = f"{measure.upper()}: fm > {{h_sp, v_sp}} > w_sp at the first ReLU"
    holds = analysis.ordered(measure)
    if holds is None:
        return f"{order}: not judged; it takes layer 0 and all of {', '.join(ORDERED)}"
    count = analysis.ordered_images(measure)
    word = "holds" if holds else "does not hold"
    return f"{order}: {word} on average; in {count} of {len(analysis.originals)} images"
