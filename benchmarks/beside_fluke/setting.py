"""What both sides are given: the benchmark, the training, and each method's own numbers."""

from fedadapt.config import RunConfig

SETTING: dict[str, object] = {
    "benchmark": "mnist",
    "partition": "dirichlet:0.1",
    "clients": 20,
    "examples": 400,  # of a client: 200 to train on, 40 that nobody uses here, 160 to test on
    "adapt_share": 0.1,
    "test_share": 0.4,
    "model": "mlp",
    "rounds": 20,
    "local_epochs": 2,
    "batch_size": 32,
    "lr": 0.05,
    "momentum": 0.5,
}
TUNING = 5  # epochs of fine-tuning, with the rate of training
ALA = 20  # epochs of FedALA's mixture the first time; fluke: 100 batches, which are 20 epochs here
NUMBERS: dict[str, float] = {  # of the methods, in their papers' words
    "ditto.lam": 0.1,
    "apfl.alpha": 0.25,
    "fedala.eta": 1.0,
    "fedala.share": 0.8,
    "fedproto.lam": 1.0,
    "fedamp.mu": 1.0,  # lambda / alpha_k
    "fedamp.sigma": 10.0,
    "fedamp.alpha": 0.5,
}
METHODS: dict[str, dict[str, str]] = {  # our settings of each; the first two are one run of FedAvg
    "fedavg": {"strategy": "fedavg"},
    "fedavg+fine-tune": {
        "strategy": "fedavg",
        "adapt": "none,fine-tune",
        "adapt_args": f"fine-tune.epochs={TUNING} fine-tune.lr=0.05 fine-tune.momentum=0.5",
    },
    "fedrep": {"strategy": "fedrep"},
    "ditto": {"strategy": "ditto", "strategy_args": "lam=0.1"},
    "fedbabu": {
        "strategy": "fedbabu",
        "strategy_args": f"fine-tune-epochs={TUNING} fine-tune-rate=1",
    },
    "apfl": {"strategy": "apfl", "strategy_args": "alpha=0.25"},
    "fedala": {
        "strategy": "fedala",
        "strategy_args": f"rate=1 share=0.8 first-epochs={ALA}",
    },
    "fedproto": {"strategy": "fedproto", "strategy_args": "lam=1"},
    "fedproto, classifier": {
        "strategy": "fedproto",
        "strategy_args": "lam=1 predict=classifier",
    },
    "fedamp": {
        "strategy": "fedamp",
        "strategy_args": "form=published sigma=10 alpha=0.5 mu=1",
    },
}


def config(method: str, seed: int) -> RunConfig:
    """One run of ours: one evaluation, after the last round."""
    words = {"adapt": "none"} | METHODS[method]
    return RunConfig(
        **SETTING,
        **words,
        seed=seed,
        evaluate_every=SETTING["rounds"],
        global_test="none",
        local=False,
        save_models="none",
        device="cpu",
        workers=1,
    )
