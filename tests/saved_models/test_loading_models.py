"""Loading a saved model: by run, client, adaptation, model and task, or by its file."""

from pathlib import Path

import pytest
import tiny
import torch

import fedadapt
from fedadapt.errors import InputError
from fedadapt.models.build import make_network
from fedadapt.saved_models.card import Card
from fedadapt.saved_models.files import find, in_words, read, write

SHAPE = (1, 4, 4)


def card(**changes) -> Card:
    given = {
        "network": "mlp", "image_shape": SHAPE, "classes": ("cat", "dog"), "mean": (0.25,),
        "std": (0.5,), "reading": "middle-bilinear",
    }  # fmt: skip
    return Card(**(given | changes))


def weights(seed: int) -> dict[str, torch.Tensor]:
    return make_network("mlp", SHAPE, 2, seed=seed).state_dict()


@pytest.fixture
def run(tmp_path) -> Path:
    """A run that has base, personal (of client 1 only) and adapted models of clients 0 and 1."""
    write(tmp_path, weights(0), card())
    write(tmp_path, weights(1), card(client=1, model="personal"))
    for client in (0, 1):
        write(tmp_path, weights(10 + client), card(client=client, adaptation="adabn"))
    (tmp_path / "models" / "cards.json").write_text('{"clients": 3}')
    return tmp_path


def is_of(network: torch.nn.Module, seed: int) -> bool:
    return tiny.same_bits(dict(network.state_dict()), weights(seed))


def test_the_model_asked_for_is_loaded(run):
    assert is_of(fedadapt.load(run), 0)
    assert is_of(fedadapt.load(str(run), client=0), 0)  # the base model is everybody's
    assert is_of(fedadapt.load(run, client=1), 1)  # personal where there is one
    assert is_of(fedadapt.load(run, client=1, model="base"), 0)
    assert is_of(fedadapt.load(run, client=1, adaptation="adabn"), 11)
    assert is_of(fedadapt.load(run / "models" / "base+adabn" / "0.safetensors"), 10)


def test_it_is_in_evaluation_mode_and_knows_its_card(run):
    network = fedadapt.load(run, client=1)
    assert not any(module.training for module in network.modules())
    assert network.card == card(client=1, model="personal")
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    assert network.card.scaling(pixels).flatten().tolist() == pytest.approx([-0.5, 1.5])


def test_loading_draws_from_nobody_s_generator(run):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    fedadapt.load(run)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_copied_file_is_complete(run, tmp_path_factory):
    copied = tmp_path_factory.mktemp("elsewhere") / "mine.safetensors"
    copied.write_bytes((run / "models" / "personal" / "1.safetensors").read_bytes())
    assert is_of(fedadapt.load(copied), 1)


def test_a_model_of_a_task_is_found(tmp_path):
    for task in (0, 1):
        write(tmp_path, weights(task), card(task=task))
        write(tmp_path, weights(10 + task), card(task=task, client=4, model="personal"))
    assert is_of(fedadapt.load(tmp_path, task=1), 1)
    assert is_of(fedadapt.load(tmp_path, client=4, task=0), 10)
    for task, line in ((None, "none was given"), (5, "there is no 5")):
        with pytest.raises(InputError, match=f"^task: {line}; .* has tasks 0 to 1$"):
            fedadapt.load(tmp_path, client=4, task=task)


def test_a_name_that_no_disk_takes_is_written_in_another_way(tmp_path):
    write(tmp_path, weights(3), card(client=0, adaptation="mine.tent:Tent"))
    [file] = (tmp_path / "models").rglob("*.safetensors")
    assert file.parent.name == "base+mine.tent%3ATent"
    assert is_of(fedadapt.load(tmp_path, 0, "mine.tent:Tent"), 3)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"client": 7}, "client: 7; RUN has clients 0 to 2"),
        ({"client": -1}, "client: -1; RUN has clients 0 to 2"),
        (
            {"client": 0, "model": "personal"},
            "RUN: no model personal of client 0; there are those of clients 1",
        ),
        (
            {"client": 2, "adaptation": "adabn"},
            "RUN: no model personal+adabn or base+adabn of client 2; there are those of clients "
            "0 to 1",
        ),
        (
            {"client": 1, "adaptation": "ewc"},
            "RUN: no model personal+ewc or base+ewc of client 1; there are: base+adabn, personal",
        ),
        (
            {"client": 2, "adaptation": "ewc"},
            "RUN: no model of client 2; there are base+adabn, personal of clients 0 to 1",
        ),
        (
            {"adaptation": "adabn"},
            "RUN: personal+adabn is a client's own model; say whose with the number of a client",
        ),
        ({"client": 0, "task": 1}, "task: 1; RUN is no task-incremental run, leave it away"),
    ],
)
def test_what_is_not_there_is_one_line_that_says_what_is(run, arguments, line):
    with pytest.raises(InputError) as error:
        fedadapt.load(run, **arguments)
    assert str(error.value).replace(str(run), "RUN") == line


def test_folders_without_models_are_one_line(tmp_path):
    with pytest.raises(InputError, match="no such folder; name the folder of a run, or one model"):
        find(tmp_path / "nowhere", 1)
    with pytest.raises(InputError, match=r"no models are saved there; .*save-models=none"):
        find(tmp_path, 1)
    write(tmp_path, weights(0), card())
    with pytest.raises(InputError, match=r"only the base model was saved; run with save-models=al"):
        find(tmp_path, 1, "adabn")
    with pytest.raises(InputError, match="is one model; leave client"):
        find(tmp_path / "models" / "base.safetensors", 1)


def test_files_that_are_no_saved_models_are_one_line(run, tmp_path):
    from safetensors.torch import save_file

    base = run / "models" / "base.safetensors"
    base.write_bytes(base.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read"):
        fedadapt.load(run)
    save_file({"x": torch.zeros(1)}, base)
    with pytest.raises(InputError, match="has no card"):
        fedadapt.load(run)
    save_file({"x": torch.zeros(1)}, base, {"fedadapt-card": '{"format": 1}'})
    with pytest.raises(InputError, match=r"its card is damaged .KeyError: 'input'.$"):
        fedadapt.load(run)
    save_file({"x": torch.zeros(1)}, base, {"fedadapt-card": '{"format": 2}'})
    with pytest.raises(InputError, match=r"its card has format 2; this fedadapt reads 1$"):
        fedadapt.load(run)
    write(run, {"x": torch.zeros(1)}, card())
    with pytest.raises(InputError, match="does not fit the network 'mlp' of its card") as error:
        fedadapt.load(run)
    assert "\n" not in str(error.value)


def test_rows_of_a_stack_are_saved_as_they_are(tmp_path):
    """Views of one piece of memory, laid out in any way."""
    stack = torch.arange(48.0).view(2, 2, 3, 4)
    given = {"a": stack[1].permute(2, 0, 1), "b": stack[1], "n": torch.tensor([4, 5])[1]}
    write(tmp_path, given, card())
    found, _ = read(tmp_path / "models" / "base.safetensors")
    assert tiny.same_bits(found, given)


def test_a_card_survives_the_way_out_and_in_again():
    import json

    full = card(
        model="personal", adaptation="fine-tune", adaptation_arguments={"epochs": 3, "lr": 0.1},
        method={"strategy": "pfa", "arguments": {"groups": 2}}, client=3, domain="blurred", task=1,
        run={"seed": 1, "manifest": "abc"}, accuracy=0.75, num_images=12, versions={"torch": "2"},
    )  # fmt: skip
    for one in (full, card()):
        assert Card.of_json(json.dumps(one.to_json()), "x") == one
    assert full.loading("r")[1] == (
        'model = fedadapt.load("r", client=3, adaptation="fine-tune", model="personal", task=1)'
    )


@pytest.mark.parametrize(
    ("numbers", "words"),
    [([], ""), ([4], "4"), ([0, 1, 2, 7, 9, 10], "0 to 2, 7, 9 to 10"),
     (range(0, 20, 2), "0, 2, 4, 6, 8, ...")],
)  # fmt: skip
def test_numbers_are_shown_in_few_words(numbers, words):
    assert in_words(numbers) == words
