"""An adaptation of somebody else's, in a file of its own: what it does, and that it is plugged in.

It is ``examples/pseudo_labels.py``, which no file of the package knows.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from click.testing import CliRunner
from test_examples import EXAMPLES
from toys import assert_close, assert_same_bits, cohort, conv, initials, split

from fedadapt.cli import main
from fedadapt.client.adaptations.adabn import AdaBN
from fedadapt.client.adaptations.registry import build
from fedadapt.client.api import adapt
from fedadapt.selectors import norms
from fedadapt.simulations.results.parquet import read_evaluations
from fedadapt.testing import adaptation_contract

NAME = "pseudo_labels:PseudoLabels"
SPLITS = [split(count, adapt=16, test=7, seed=count) for count in (5, 12, 10)]


@pytest.fixture
def pseudo(monkeypatch):
    """The module, as it is found from its own folder."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "pseudo_labels", raising=False)
    import pseudo_labels

    return pseudo_labels


def test_the_example_is_short():
    assert len((EXAMPLES / "pseudo_labels.py").read_text("utf-8").splitlines()) <= 30


def test_the_gradient_is_that_of_cross_entropy_with_the_surest_class(pseudo):
    logits = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    value = pseudo.own_labels(SimpleNamespace(logits=logits))  # all of a view that it looks at
    assert value.shape == (2,)
    value.sum().backward()
    surest = logits.detach().argmax(-1)
    each = [torch.nn.functional.cross_entropy(logits[d].detach(), surest[d]) for d in range(2)]
    torch.testing.assert_close(value.detach(), torch.stack(each))
    wanted = logits.detach().softmax(-1) - torch.nn.functional.one_hot(surest, 3)
    torch.testing.assert_close(logits.grad, wanted / 4)


def test_without_learning_it_is_adabn(pseudo):
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    still = pseudo.PseudoLabels(lr=0.0).adapt(members, weights)
    adabn = AdaBN().adapt(members, weights)
    counted = {n for n in adabn if not n.endswith("num_batches_tracked")}
    assert_same_bits({n: still[n] for n in counted}, {n: adabn[n] for n in counted})


def test_it_moves_batch_norm_only_towards_surer_predictions(pseudo):
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    adapted = pseudo.PseudoLabels(lr=0.05, epochs=20).adapt(members, weights)
    moved = {n for n in weights if not torch.equal(adapted[n], weights[n])}
    assert moved == norms(conv())

    def unsure(models, client):
        model = conv().double()
        model.load_state_dict({n: t[client] for n, t in models.items()})
        logits = model.eval()(SPLITS[client].adapt.inputs)
        return pseudo.own_labels(SimpleNamespace(logits=logits[None])).item()

    start = AdaBN().adapt(members, weights)
    assert all(unsure(adapted, d) < unsure(start, d) for d in range(3))


@pytest.mark.parametrize("execution", ["per-client", "stacked-kernels", "vmap"])
def test_stacked_it_is_what_it_is_alone(pseudo, execution):
    weights, method = initials(conv(), 3), pseudo.PseudoLabels(lr=0.05)
    together = method.adapt(cohort(conv(), SPLITS, execution), weights)
    for d in range(3):
        alone = method.adapt(
            cohort(conv(), SPLITS).only(d), {n: t[[d]] for n, t in weights.items()}
        )
        assert_close({n: t[[d]] for n, t in together.items()}, alone)


def test_it_needs_no_labels_and_batch_norm(pseudo):
    model, images = conv().double(), SPLITS[0].adapt.inputs
    adapted = adapt(model, images, method=NAME, epochs=1)
    assert not torch.equal(adapted.state_dict()["body.1.bias"], model.state_dict()["body.1.bias"])


@pytest.mark.parametrize("check", adaptation_contract, ids=lambda check: check.__name__)
@pytest.mark.usefixtures("pseudo")
def test_it_keeps_the_contract_of_adaptations(check):
    check(NAME)


def simulated(folder: Path, name: str, *more: str) -> dict[str, float]:
    """Adaptation -> mean accuracy of the base model after it, of a run by the command line."""
    options = {"adapt": f"none,adabn,{name}", "model": tiny.NORM_MLP, "adapt-args": "", "rounds": 1}
    words = tiny.options(**options, out=folder)
    result = CliRunner().invoke(main, ["simulate", *words, *more])
    assert result.exit_code == 0, result.output
    assert f"base+{name}" in json.loads((folder / "summary.json").read_text())["accuracy"]
    last = [r for r in read_evaluations(folder) if r.round == 1 and r.split == "test"]
    return {(r.client, r.adaptation): r.loss for r in last}


@pytest.fixture
def plain(tmp_path_factory, pseudo, monkeypatch):
    tiny.without_pictures(monkeypatch)
    return simulated(tmp_path_factory.mktemp("named") / "run", NAME)


def test_named_module_and_class_it_is_a_row_of_the_tables(plain):
    assert {name for _, name in plain} == {"none", "adabn", NAME}
    assert all(plain[d, NAME] != plain[d, "adabn"] for d in range(6))


def test_its_arguments_come_after_its_name(plain, tmp_path):
    """With a rate of 0 it is AdaBN, client by client."""
    still = simulated(
        tmp_path / "run",
        NAME,
        "--adapt-args",
        f"{NAME}.lr=0",
    )
    assert [still[d, NAME] for d in range(6)] == [still[d, "adabn"] for d in range(6)]
    assert [still[d, "adabn"] for d in range(6)] == [plain[d, "adabn"] for d in range(6)]


def installed(folder: Path, **points: str) -> None:
    """Lay out in ``folder`` what an installed package with these entry points leaves there."""
    information = folder / "somebodys_adaptations-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: somebodys-adaptations\nVersion: 1.0\n", "utf-8"
    )
    lines = ["[fedadapt.adaptations]", *(f"{name} = {path}" for name, path in points.items())]
    (information / "entry_points.txt").write_text("\n".join(lines) + "\n", "utf-8")


def test_an_installed_package_gives_it_a_name_that_ranks_with_ours(pseudo, tmp_path, monkeypatch):
    tiny.without_pictures(monkeypatch)
    installed(tmp_path, **{"pseudo-labels": NAME, "broken": "nowhere:Broken"})
    monkeypatch.syspath_prepend(tmp_path)
    assert pseudo.PseudoLabels().name == build("pseudo-labels", {}, "here").name == "pseudo-labels"
    losses = simulated(tmp_path / "run", "pseudo-labels", "--adapt-args", "pseudo-labels.epochs=2")
    assert all(losses[d, "pseudo-labels"] != losses[d, "adabn"] for d in range(6))
    said = CliRunner().invoke(main, ["adaptations"], env={"COLUMNS": "200"}).output
    assert "cannot import nowhere:Broken" in said  # and the list goes on
    [line] = [line for line in said.splitlines() if line.startswith("pseudo-labels ")]
    assert "with predictions as labels" in line
    alone = CliRunner().invoke(main, ["adaptations", "pseudo-labels"]).output
    assert "pseudo-labels.lr" in alone
    refused = CliRunner().invoke(main, ["simulate", "--adapt", "pseudo-label"])
    assert "unknown 'pseudo-label'; did you mean 'pseudo-labels'?" in refused.output
