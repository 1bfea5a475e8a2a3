"""A defect of each kind breaks its rule of the contract, and else only rules that depend on it."""

from unittest import SkipTest

import pytest

from fedadapt.testing import adaptation_contract, network_contract, strategy_contract

STRATEGIES = {
    "Right": set(),
    "ForgetsItsState": {"restores_from_a_checkpoint"},
    "MeansOverTheCohort": {"stacked_is_alone", "client_states_survive"},
    "OtherwiseInAProcess": {"any_engine_is_any_engine"},
    "ExpectsLess": {"answers_are_as_expected", "trains_as_a_flower_strategy"},
    "LastClientWins": {"order_of_answers_does_not_matter"},
    "BeginsAgainWithoutAnswers": {"round_without_answers_changes_nothing"},
    "WritesIntoAnswers": {"arguments_stay_as_they_are"},
    "WritesIntoReceivedWeights": {
        "arguments_stay_as_they_are",
        "stacked_is_alone",
        "client_states_survive",
        "trains_as_a_flower_strategy",
    },
    "MovesTheGlobalGenerator": {"draws_from_the_cohort_only"},
    "UsesTheGlobalGenerator": {
        "draws_from_the_cohort_only",
        "stacked_is_alone",
        "any_engine_is_any_engine",
        "restores_from_a_checkpoint",
        "client_states_survive",
        "trains_as_a_flower_strategy",
    },
    "NothingForStrangers": {"unseen_clients_are_served"},
    "CannotTravel": {"trains_as_a_flower_strategy"},
    "LosesThePersonalModel": {"client_states_survive"},
    "AllOrNone": {"client_states_survive"},
    "SaysNothing": {"parameters_explain_themselves"},
    "ChecksNothing": {"parameters_explain_themselves"},
}
ADAPTATIONS = {
    "RightAdaptation": set(),
    "AdaptationWithoutHelp": {"parameters_explain_themselves"},
    "DropsAName": {"models_stay_models"},
    "WritesInPlace": {"arguments_stay_as_they_are"},
    "MeansOverClients": {"stacked_is_alone"},
    "MovesMore": {"moves_only_what_it_says"},
    "NeedsTwoImages": {"works_with_one_image_or_refuses"},
    "DrawsAnew": {
        "same_result_twice",
        "stacked_is_alone",
        "stages_end_with_the_result",
        "never_looks_at_test_images",
        "reads_labels_only_if_it_says_so",
    },
    "StopsTooEarly": {"stages_end_with_the_result"},
    "LooksAtTheTest": {"never_looks_at_test_images"},
    "ReadsLabels": {"reads_labels_only_if_it_says_so"},
}
NETWORKS = {
    "right_network": set(),
    "head_is_another_layer": {"head_is_found"},
    "tied": {check.__name__ for check in network_contract},  # refused wherever it is built
    "one_image_loses_its_axis": {"forward_gives_logits"},
    "unseeded": {"initial_weights_follow_the_seed"},
    "counts_in_evaluation": {"evaluating_changes_nothing", "stacked_is_alone"},
    "hides_a_number": {"state_dict_is_the_whole_model"},
    "branches_on_values": {"stacked_is_alone"},
}


def broken(contract, name) -> set[str]:
    """The rules that raise AssertionError."""
    found = set()
    for check in contract:
        try:
            check(f"contract_defects:{name}")
        except AssertionError:
            found.add(check.__name__)
        except SkipTest:
            pass
    return found


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_defect_of_a_strategy_breaks_its_rule(name):
    assert broken(strategy_contract, name) == STRATEGIES[name]


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_a_defect_of_an_adaptation_breaks_its_rule(name):
    assert broken(adaptation_contract, name) == ADAPTATIONS[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_defect_of_a_network_breaks_its_rule(name):
    assert broken(network_contract, name) == NETWORKS[name]


@pytest.mark.parametrize(
    ("contract", "table"),
    [
        (strategy_contract, STRATEGIES),
        (adaptation_contract, ADAPTATIONS),
        (network_contract, NETWORKS),
    ],
)
def test_there_is_a_defect_for_every_rule(contract, table):
    assert {check.__name__ for check in contract} == set().union(*table.values())
