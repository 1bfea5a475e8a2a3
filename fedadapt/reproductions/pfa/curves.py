"""Curves of PFA's methods over rounds, from the first round of the federated model on."""

from fedadapt.reproductions.pfa.plan import LOCAL, Experiment
from fedadapt.reproductions.pfa.results import Results
from fedadapt.simulations.report.study.study import Curve


def curves(experiment: Experiment, results: Results, method: str) -> tuple[Curve, ...]:
    """Return the mean accuracy over clients by round, a curve for each seed.

    All but the baseline go on from the federated model, whose last accuracy is their first one.
    Local baselines count epochs, of which a round has several.
    """
    begin = 0 if method == "Baseline" else experiment.rounds.federated
    scale = 1 / experiment.base.local_epochs if method in LOCAL else 1.0
    drawn = []
    for place, (seed, curve) in enumerate(zip(results.seeds, results.curves[method], strict=True)):
        steps = [begin + step * scale for step in curve.steps]
        means = curve.test.mean(1).tolist()
        if begin:
            steps.insert(0, float(begin))
            means.insert(0, float(results.curves["Baseline"][place].test[-1].mean()))
        drawn.append(Curve(str(seed), tuple(steps), tuple(means)))
    return tuple(drawn)
