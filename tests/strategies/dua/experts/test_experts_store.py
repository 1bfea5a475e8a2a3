"""Experts on disk: nothing is trained twice, and nothing that is not what it should be is used."""

import json
import shutil

import pytest
from lessons import SEED, TASKS, experts, network, task, whole
from toys import as_they_are, assert_same_bits

from fedadapt.errors import FedadaptError, InputError
from fedadapt.strategies.dua.experts import training as module
from fedadapt.strategies.dua.experts.store import ExpertStore
from fedadapt.strategies.dua.experts.training import load_experts, train_experts

SETTINGS = whole("ewc", epochs=2, batch_size=5)


def same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert_same_bits(one.weights, other.weights)
        assert_same_bits(one.importance, other.importance)
        assert one._replace(body={}, head={}, importance={}) == other._replace(
            body={}, head={}, importance={}
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "experts"
    return folder, experts(SETTINGS, folder=folder)


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained[0], tmp_path / "experts")


@pytest.fixture
def learnt(monkeypatch):
    """The names of the tasks that are trained."""
    names, learn = [], module.learn

    def noting(network, cohort, task, *rest):
        names.append(task.name)
        return learn(network, cohort, task, *rest)

    monkeypatch.setattr(module, "learn", noting)
    return names


@pytest.mark.parametrize("method", ["imm", "mas", "lwf", "joint"])
def test_what_is_loaded_is_what_was_trained(method, tmp_path, learnt):
    settings = whole(method, epochs=2)
    first = experts(settings, folder=tmp_path)
    learnt.clear()
    same(experts(settings, folder=tmp_path), first)
    same(load_experts(tmp_path), first)
    assert learnt == []


def test_a_folder_changes_no_number(trained):
    same(trained[1], experts(SETTINGS))


def test_training_that_was_cut_off_goes_on_as_if_it_had_not_been(trained, tmp_path, learnt):
    def stop(epoch):
        if epoch.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experts(SETTINGS, folder=tmp_path, progress=stop)
    assert [e.name for e in load_experts(tmp_path)] == ["task 1"]
    learnt.clear()
    same(experts(SETTINGS, folder=tmp_path), trained[1])
    assert learnt == ["task 2", "task 3"]


def test_one_more_task_needs_its_own_images_only(trained, tmp_path, learnt):
    experts(SETTINGS, TASKS[:2], folder=tmp_path)
    learnt.clear()
    previous = load_experts(tmp_path)
    same(experts(SETTINGS, TASKS[2:], previous=previous, folder=tmp_path), trained[1])
    assert learnt == ["task 3"]
    same(experts(SETTINGS, folder=tmp_path), trained[1])
    same(experts(SETTINGS, TASKS[:1], folder=tmp_path), trained[1][:1])
    assert learnt == ["task 3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": whole("ewc", epochs=3, batch_size=5)}, "settings.epochs was 2, is 3"),
        ({"seed": 8}, f"seed was {SEED}, is 8"),
        ({"tasks": [task(1, train=25)]}, r"images was \[24, 12\], is \[25, 12\]; data was"),
        ({"tasks": [TASKS[0]._replace(classes=("x", "y"))]}, "classes was"),
        ({"tasks": [TASKS[1]]}, 'task was "task 1", is "task 2"'),
        ({"network": network(seed=1)}, "after was"),
    ],
)
def test_what_was_trained_otherwise_is_refused_naming_the_difference(folder, changes, message):
    given = {"network": network(), "tasks": TASKS[:1], "training": SETTINGS, "seed": SEED}
    given |= changes
    with pytest.raises(InputError, match=rf"expert 1 was trained otherwise \(.*{message}") as error:
        train_experts(**given, scaling=as_they_are, folder=folder)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("give another folder")


def test_another_image_is_another_task(folder):
    other = TASKS[0]._replace(train=task(1).train)
    other.train.inputs[3, 0, 1, 1] += 1
    with pytest.raises(InputError, match="data was"):
        experts(SETTINGS, [other], folder=folder)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("expert-02.safetensors", cut),
        ("expert-02.safetensors", flip),
        ("expert-02.safetensors", lambda p: p.unlink()),
        ("expert-02.safetensors", lambda p: p.write_bytes(b"")),
        ("experts.json", cut),
        ("experts.json", lambda p: p.write_text("[]")),
        ("experts.json", lambda p: p.write_text('{"format": 1, "experts": 3}')),
        ("experts.json", lambda p: p.write_text('{"format": 1, "experts": {"a": {}}}')),
        ("experts.json", lambda p: p.write_bytes(b"\xff\xfe")),
    ],
)
def test_a_damaged_file_is_one_clear_line(folder, name, harm):
    harm(folder / name)
    with pytest.raises(InputError, match=rf"{name}: damaged, .*; remove the folder to") as error:
        experts(SETTINGS, folder=folder)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError):
        load_experts(folder)


def test_an_expert_that_is_written_again_leaves_none_that_followed_from_the_old_one(
    folder, trained
):
    store = ExpertStore(folder)
    assert store.numbers == [1, 2, 3]
    store.save(2, trained[1][1], {"another": "history"})
    assert ExpertStore(folder).numbers == [1, 2]


@pytest.mark.parametrize("field", ["seed", "number", "task"])
def test_facts_that_were_edited_are_noticed(folder, field):
    path = folder / "experts.json"
    content = json.loads(path.read_text())
    content["experts"]["1"]["facts"][field] = "other"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"experts.json says otherwise"):
        load_experts(folder)


def test_a_newer_format_and_an_empty_folder_are_said(folder, tmp_path):
    (folder / "experts.json").write_text('{"format": 2, "experts": {}}')
    with pytest.raises(InputError, match=r"experts.json: format 2; this fedadapt reads 1"):
        load_experts(folder)
    with pytest.raises(InputError, match="0 experts"):
        load_experts(tmp_path / "nothing")


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FedadaptError, match="experts"):
        experts(SETTINGS, TASKS[:1], folder=tmp_path / "file" / "experts")
