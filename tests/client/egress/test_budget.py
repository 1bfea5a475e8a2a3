"""Epsilon is remembered, refused when spent, and never exceeded by races or kills."""

import json
import math
import multiprocessing
import os
import stat

import pytest

from fedadapt.client.differential_privacy import Guarantee, charge_of, epsilon_of
from fedadapt.client.egress.budget import PrivacyBudget
from fedadapt.client.egress.policy import DpBudget, EgressError
from fedadapt.errors import InputError

DELTA = 1e-5
ANSWER = Guarantee(1.0, DELTA).noise ** -2  # 1 / z^2 of one answer with epsilon 1


def limit(epsilon):
    return DpBudget(epsilon=epsilon, delta=DELTA)


def test_one_answer_costs_its_epsilon_and_several_what_their_composition_costs(tmp_path):
    budget = PrivacyBudget(tmp_path, "pictures")
    assert budget.spent(DELTA) == 0
    for count in (1, 2, 3):
        told = budget.spend(ANSWER, None, DELTA).epsilon
        assert told == pytest.approx(Guarantee(1.0, DELTA).after(count).epsilon, rel=1e-9)
        assert budget.spent(DELTA) == pytest.approx(told)
    assert told < 3  # less than by adding


def test_answers_with_different_noise_compose_by_the_sum_of_inverse_squares(tmp_path):
    budget = PrivacyBudget(tmp_path, "pictures")
    budget.spend(1 / 4.0**2, None, DELTA)
    assert budget.spend(1 / 3.0**2, None, DELTA).epsilon == pytest.approx(
        epsilon_of(1 / 4.0**2 + 1 / 3.0**2, DELTA)
    )
    # z = 4 and z = 3 are one release of z = 12 / 5.
    assert budget.spent(DELTA) == pytest.approx(epsilon_of(1 / 2.4**2, DELTA))


def test_a_budget_of_exactly_so_many_answers_allows_them_and_no_more(tmp_path):
    most = limit(Guarantee(1.0, DELTA).after(3).epsilon)
    for _ in range(3):
        PrivacyBudget(tmp_path, "pictures").spend(ANSWER, most, DELTA)  # a new process each time
    before = (tmp_path / "privacy-spent.json").read_bytes()
    with pytest.raises(EgressError, match=r"^egress: 'epsilon' is spent on this device$"):
        PrivacyBudget(tmp_path, "pictures").spend(ANSWER, most, DELTA)
    assert (tmp_path / "privacy-spent.json").read_bytes() == before
    PrivacyBudget(tmp_path, "others").spend(ANSWER, most, DELTA)  # other images have their own


def test_epsilon_is_told_at_the_delta_of_the_owner(tmp_path):
    most = DpBudget(epsilon=9.0, delta=1e-7)
    told = PrivacyBudget(tmp_path, "pictures").spend(ANSWER, most, DELTA)
    assert told.epsilon == told.added == pytest.approx(epsilon_of(ANSWER, 1e-7))


def test_a_cheaper_answer_is_still_allowed_when_a_dear_one_is_not(tmp_path):
    budget, most = PrivacyBudget(tmp_path, "pictures"), limit(1.2)
    budget.spend(ANSWER, most, DELTA)
    with pytest.raises(EgressError):
        budget.spend(ANSWER, most, DELTA)
    budget.spend(ANSWER / 100, most, DELTA)


def _race(folder, start, results):
    start.wait()
    try:
        PrivacyBudget(folder, "pictures").spend(ANSWER, limit(1.0), DELTA)
        results.put("spent")
    except EgressError:
        results.put("refused")


def test_of_two_processes_one_gets_the_last_answer(tmp_path):
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=_race, args=(tmp_path, start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    found = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert found == ["refused"] * 3 + ["spent"]


def _spend_some(folder, start, results):
    budget = PrivacyBudget(folder, "pictures")
    start.wait()
    results.put([budget.spend(ANSWER, None, DELTA).added for _ in range(8)])


def test_what_processes_add_at_once_sums_to_what_is_spent(tmp_path):
    """So that the ledger of a client, whose answers may be computed side by side, is exact."""
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    processes = [
        context.Process(target=_spend_some, args=(tmp_path, start, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    start.set()
    added = [one for _ in processes for one in results.get(timeout=60)]
    for process in processes:
        process.join()
    assert sum(added) == pytest.approx(Guarantee(1.0, DELTA).after(16).epsilon, rel=1e-9)
    assert PrivacyBudget(tmp_path, "pictures").spent(DELTA) == pytest.approx(sum(added), rel=1e-9)


@pytest.mark.parametrize("step", ["file-written", "file-fsynced", "file-renamed"])
def test_a_kill_wastes_budget_or_spends_none_and_never_loses_what_was_spent(tmp_path, step):
    """And the lock of a killed process is free again."""
    budget = PrivacyBudget(tmp_path, "pictures")
    budget.spend(ANSWER, None, DELTA)
    child = os.fork()
    if child == 0:
        os.environ["FEDADAPT_CRASH_AT"] = step
        budget.spend(ANSWER, None, DELTA)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137
    count = 2 if step == "file-renamed" else 1
    assert budget.spent(DELTA) == pytest.approx(Guarantee(1.0, DELTA).after(count).epsilon)
    budget.spend(ANSWER, None, DELTA)


def test_only_the_owner_can_read_the_record(tmp_path):
    budget = PrivacyBudget(tmp_path / "state", "pictures")
    budget.spend(ANSWER, None, DELTA)
    assert stat.S_IMODE(budget.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(budget.path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        json.dumps({"format": 2, "data-sets": {}}),
        json.dumps({"format": 1}),
        json.dumps({"format": 1, "data-sets": {"pictures": {"charge": -1.0, "answers": 1}}}),
        json.dumps({"format": 1, "data-sets": {"pictures": {"charge": 0.1}}}),
        '{"format": 1, "data-sets": {"pictures": {"charge": NaN, "answers": 1}}}',
    ],
)
def test_a_damaged_record_is_no_new_budget(tmp_path, text):
    (tmp_path / "privacy-spent.json").write_text(text)
    with pytest.raises(InputError, match="damaged"):
        PrivacyBudget(tmp_path, "pictures").spend(ANSWER, limit(100.0), DELTA)


@pytest.mark.parametrize("charge", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_charge_is_refused(tmp_path, charge):
    with pytest.raises(InputError, match="charge"):
        PrivacyBudget(tmp_path, "pictures").spend(charge, None, DELTA)


def test_the_charge_of_an_answer_is_what_is_new_in_it():
    import torch

    def kept(releases, noise):
        return {"release": {"releases": torch.tensor(releases), "noise": torch.tensor(noise)}}

    assert charge_of({}, {}) == 0
    assert charge_of({}, kept(1, 2.0)) == 0.25
    assert charge_of(kept(1, 5.0), kept(2, 2.0)) == 0.25
    assert charge_of(kept(2, 2.0), kept(2, 2.0)) == 0  # the same question, the same answer
