"""The owner's node configuration: what a run cannot overrule on a real client."""

import pytest
from flwr.app import Context, RecordDict

from fedadapt.config import RunConfig
from fedadapt.datasets.own.cut import Shares
from fedadapt.errors import REFUSALS, RefusedError
from fedadapt.flower import client_source, records
from fedadapt.flower.owner import Owner

OWN = {"images": "/pictures", "state-dir": "/state"}
ROW = {"partition-id": 0, "state-dir": "/state"}
SIMULATED = {"partition-id": 0, "num-partitions": 3}


def word_of(node_config: dict, **run) -> str:
    """The word with which a client refuses a run; empty where it does not."""
    try:
        Owner.of(node_config).check(RunConfig(**{"clients": 3, **run}))
    except RefusedError as error:
        refusal = error
    else:
        return ""
    assert "\n" not in str(refusal)
    assert refusal.word in REFUSALS
    return refusal.word


@pytest.mark.parametrize(
    ("node_config", "word"),
    [
        (OWN, ""),
        (ROW | {"benchmark": "x"}, "not-its-run"),
        ({"images": "/pictures"}, "no-state-dir"),
        ({"partition-id": 0}, "no-state-dir"),
        ({"state-dir": "/state"}, "no-data"),
        ({}, "no-state-dir"),
        (OWN | {"image": "/x"}, "bad-settings"),
        (OWN | {"data": "a:b"}, "bad-settings"),
        (OWN | {"partition-id": 0}, "bad-settings"),
        (OWN | {"share": "classes,names"}, "bad-settings"),
        (OWN | {"share": "classes, normalization"}, ""),
        (OWN | {"test-share": 0.9}, "bad-settings"),
        (OWN | {"test-share": "many"}, "bad-settings"),
        ({"partition-id": -1, "state-dir": "/s"}, "bad-settings"),
        ({"partition-id": "0", "state-dir": "/s"}, "bad-settings"),
    ],
)
def test_a_node_is_refused_by_its_own_word(node_config, word):
    found = word_of(node_config, benchmark="own")
    assert found == ("no-images" if word == "not-its-run" else word)


@pytest.mark.parametrize(
    ("node_config", "run", "word"),
    [
        (OWN, {"benchmark": "digits-classes"}, "not-its-run"),
        (OWN, {"benchmark": "own:/etc"}, "not-its-run"),
        (OWN, {"model": "evil:factory"}, "foreign-module"),
        (OWN, {"strategy": "evil.inner:Strategy"}, "foreign-module"),
        (OWN, {"adapt": "none,fine-tune+evil:Adaptation"}, "foreign-module"),
        (OWN | {"modules": "good"}, {"adapt": "none,good:A+evil:B"}, "foreign-module"),
        (OWN | {"modules": "good"}, {"adapt": "none,fine-tune+good:A"}, ""),
        (OWN | {"modules": "good, evil"}, {"model": "evil.inner:factory"}, ""),
        (OWN | {"modules": "evil"}, {"model": "evil2:factory"}, "foreign-module"),
        (OWN, {"strategy": "flwr.serverapp.strategy:FedAvg"}, ""),
        (ROW, {"benchmark": "folder:/home"}, "foreign-data"),
        (ROW, {"benchmark": "evil:data"}, "foreign-data"),
        (ROW | {"benchmark": "folder:/mine"}, {"benchmark": "folder:/home"}, "foreign-data"),
        (ROW | {"benchmark": "folder:/mine"}, {"benchmark": "folder:/mine"}, ""),
        (ROW, {"benchmark": "digits-classes"}, ""),
        (SIMULATED, {"benchmark": "folder:/home", "model": "evil:factory"}, ""),
    ],
)
def test_the_owner_alone_says_what_is_read_and_imported(node_config, run, word):
    assert word_of(node_config, **{"benchmark": "own", **run}) == word


def test_shares_and_leave_are_the_owner_s():
    owner = Owner.of(OWN | {"adapt-share": 0.3, "test-share": 0.1, "share": "classes"})
    assert owner.source.shares == Shares(0.3, 0.1)
    owner.allows("classes")
    with pytest.raises(RefusedError) as refused:
        owner.allows("normalization")
    assert refused.value.word == "no-leave"


def test_where_the_data_of_a_row_lie_the_owner_alone_says(monkeypatch):
    read = []

    def assemble(config, *, on_client):
        read.append(config.data_root)
        raise RefusedError("no-data", "enough is known")

    monkeypatch.setattr(client_source, "assemble", assemble)
    run = RunConfig(clients=3, data_root="/etc").to_mapping()
    for node_config in (ROW | {"data-root": "/mine"}, ROW):
        with pytest.raises(RefusedError, match="enough"):
            client_source.client_part(
                records.request({}, {}), Context(1, 1, node_config, RecordDict(), run)
            )
    assert read == ["/mine", ""]
