"""Who may import whom, and what nobody may call: read from the source, nothing is run."""

import ast
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "fedadapt"
FILES = {
    str(p.relative_to(PACKAGE)): ast.parse(p.read_text("utf-8")) for p in PACKAGE.rglob("*.py")
}

LAYERS = (
    (
        "command_help.py", "name_list.py",
        "errors.py", "parameters.py", "registry.py", "config.py", "records.py", "files.py",
        "older_runs.py", "notebook.py", "lr_schedule.py", "random_streams.py",
        "factories.py", "__init__.py",
    ),
    ("weights.py", "messages.py"),
    ("models/", "selectors.py", "objectives.py"),
    ("datasets/",),
    ("saved_models/",),
    ("client/",),
    ("server/",),
    ("strategies/",),
    ("simulations/",),
    ("results.py", "runs/"),
    ("flower/",),
    ("testing/",),
    ("privacy/",),
    ("reproductions/",),
    ("new/",),
    ("deploy/",),
    ("cli.py", "__main__.py"),
)  # fmt: skip
"""As docs/architecture.md has them, lowest first."""

ADAPTERS = {file for file in FILES if file.startswith("flower/")}
"""The only ones that know Flower."""

LIGHT = {
    "__init__.py", "__main__.py", "cli.py", "client/adaptations/registry.py", "config.py",
    "datasets/data_spec.py", "datasets/entries.py", "datasets/feature_shift/spec.py",
    "datasets/listing.py", "datasets/partitioning/limits.py", "datasets/partitioning/spec.py",
    "datasets/partitioning/label_skew.py",
    "datasets/partitioning/size_rules.py", "datasets/partitioning/imbalance.py",
    "datasets/own/__init__.py", "datasets/own/names.py",
    "datasets/registry.py", "datasets/rules.py", "datasets/sources/files.py",
    "datasets/sources/image_folder.py", "datasets/task_incremental/task_entries.py",
    "datasets/task_incremental/task_listing.py", "datasets/task_incremental/task_spec.py",
    "command_help.py",
    "deploy/__init__.py", "deploy/commands/__init__.py", "deploy/commands/device.py",
    "deploy/commands/group.py", "deploy/commands/lab.py", "deploy/commands/server.py",
    "errors.py", "factories.py", "files.py", "lr_schedule.py", "models/limits.py",
    "models/registry.py", "new/command.py", "older_runs.py",
    "parameters.py", "registry.py", "privacy/__init__.py", "privacy/command.py",
    "privacy/ledger_command.py", "client/egress/ledger.py", "client/egress/policy.py",
    "privacy/settings.py", "records.py", "reproductions/catalog.py", "reproductions/command.py",
    "reproductions/dua/claims.py", "reproductions/dua/command.py", "reproductions/dua/plan.py",
    "reproductions/dua/published.py", "reproductions/options.py", "reproductions/pfa/command.py",
    "reproductions/pfa/plan.py", "reproductions/pfa/published.py", "simulations/check.py",
    "simulations/compare.py", "simulations/demo.py", "simulations/run_options.py",
    "simulations/studies/__init__.py", "simulations/studies/command.py",
    "simulations/studies/planned.py", "simulations/studies/runs_left.py",
    "simulations/studies/space.py", "simulations/studies/tuned.py",
    "notebook.py", "runs/__init__.py", "runs/start.py",
    "runs/words.py", "simulations/tracking/registry.py", "simulations/tracking/tracker.py",
    "simulations/results/new_folder.py",
    "strategies/registry.py",
    "saved_models/__init__.py", "saved_models/card.py", "saved_models/command.py",
}  # fmt: skip
"""What the command line loads before it knows that there is something to do."""

HEAVY = {
    "torch", "torchvision", "flwr", "numpy", "sklearn", "pyarrow", "matplotlib", "safetensors",
    "skimage", "cryptography", "httpx", "uvicorn", "starlette",
}  # fmt: skip


def each(files: Iterable[str]) -> Callable[[Callable[[str], None]], Callable[[], None]]:
    """Make one test of all files: thousands of tests would take longer than what they check."""

    def decorate(check: Callable[[str], None]) -> Callable[[], None]:
        def test() -> None:
            failures = {}
            for file in sorted(files):
                try:
                    check(file)
                except AssertionError as error:
                    failures[file] = str(error)
            assert failures == {}

        test.__doc__ = check.__doc__
        return test

    return decorate


def layer(file: str) -> int:
    part = file.split("/")[0] + "/"
    by_file = [n for n, names in enumerate(LAYERS) if file in names]
    found = by_file or [n for n, names in enumerate(LAYERS) if part in names]
    assert len(found) == 1, f"{file}: which layer is it in?"
    return found[0]


def type_checking_only(tree: ast.Module) -> set[ast.AST]:
    """Nodes under ``if TYPE_CHECKING:``, which are never run."""
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If)
              and isinstance(n.test, ast.Name) and n.test.id == "TYPE_CHECKING"]  # fmt: skip
    return {inner for block in blocks for part in block.body for inner in ast.walk(part)}


@cache
def imports(file: str, *, at_load: bool = False) -> tuple[str, ...]:
    """Dotted names that a file imports; ``at_load``: as soon as it is imported itself."""
    return tuple(_imports(file, at_load))


def _imports(file: str, at_load: bool) -> Iterator[str]:
    tree = FILES[file]
    left_out = type_checking_only(tree)
    if at_load:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                left_out |= set(ast.walk(node))
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are written in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def ours(dotted: str) -> str | None:
    """The file of the package that an import is of."""
    parts = dotted.split(".")
    if parts[0] != "fedadapt":
        return None
    for length in (len(parts), len(parts) - 1):
        path = "/".join(parts[1:length])
        for candidate in (f"{path}.py", f"{path}/__init__.py" if path else "__init__.py"):
            if candidate in FILES:
                return candidate
    raise AssertionError(f"{dotted} is no file of the package")


@each(FILES)
def test_nothing_imports_upwards(file):
    # The package's own names are imported when they are asked for, from wherever they are.
    for dotted in imports(file, at_load=file == "__init__.py"):
        target = ours(dotted)
        if target is None or target == "__init__.py":
            continue
        assert layer(target) <= layer(file), f"{file} imports {dotted}"


@each(FILES)
def test_flower_is_known_to_the_adapters_only_and_ray_to_its_engine(file):
    roots = {dotted.split(".")[0] for dotted in imports(file)}
    assert ("ray" in roots) == (file == "simulations/engines/ray_clients.py")
    assert "ray" not in {d.split(".")[0] for d in imports(file, at_load=True)}
    if file == "client/failures.py":  # makes an error reply, where Flower has called it
        assert "flwr" not in {d.split(".")[0] for d in imports(file, at_load=True)}
    elif file not in ADAPTERS:
        assert "flwr" not in roots


def loaded_with(file: str) -> set[str]:
    """All files of the package that are run when this one is imported."""
    found: set[str] = set()
    waiting = {file}
    while waiting:
        file = waiting.pop()
        parts = file.split("/")
        packages = {"/".join([*parts[:depth], "__init__.py"]) for depth in range(len(parts))}
        found.add(file)
        wanted = {target for dotted in imports(file, at_load=True) if (target := ours(dotted))}
        waiting |= (wanted | packages) - found
    return found


@each(LIGHT)
def test_the_command_line_loads_nothing_heavy(file):
    """Neither itself nor through anything that comes with it."""
    roots = {dotted.split(".")[0] for f in loaded_with(file) for dotted in imports(f, at_load=True)}
    assert HEAVY & roots == set()


@each(set(FILES) - ADAPTERS)
def test_flower_is_loaded_by_who_asks_for_it_only(file):
    """The in-process engine does without; what uses an adapter imports it where it uses it."""
    assert loaded_with(file) & ADAPTERS == set()


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@each(FILES)
def test_nothing_that_comes_from_outside_can_be_run(file):
    """No pickle, no evaluation, no loader that would do either."""
    forbidden = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "yaml"}
    found = set(imports(file))
    assert forbidden & {dotted.split(".")[0] for dotted in found} == set()
    loaders = {"torch.load", "torch.jit.load", "numpy.load"}  # called by their full names, below
    assert loaders & found == set()
    for name, call in calls(FILES[file]):
        given = {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert name not in ("eval", "exec", "compile", "__import__"), f"{file}: {name}"
        assert name != "torch.jit.load", file
        assert not name.startswith("torch.hub.load"), file
        if name == "torch.load":
            assert given.get("weights_only") == "True", file
        if name in ("np.load", "numpy.load"):
            assert given.get("allow_pickle", "False") == "False", file
        assert given.get("shell", "False") == "False", f"{file}: {name}"


@each(FILES)
def test_input_is_never_checked_with_assert(file):
    """``python -O`` leaves them out. What is asserted here is only for the type checker."""
    checks = [n for n in ast.walk(FILES[file]) if isinstance(n, ast.Assert)]
    allowed = [n for n in checks if "is not None" in ast.unparse(n.test)
               or "isinstance" in ast.unparse(n.test)]  # fmt: skip
    assert [ast.unparse(n) for n in checks if n not in allowed] == []
