"""Nothing imports upwards, Flower is met in the adapters only, nothing from outside is run."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fedadapt"
FILES = sorted(PACKAGE.rglob("*.py"))

ADAPTERS = {
    "client.app",
    "client.records",
    "server.app",
    "server.grid_fleet",
    "server.fleet_grid",
    "server.replies",
    "strategies.flower",
    "simulations.foreign",
}
LAYERS = [
    {"", "errors", "files", "config", "records", "adaptations"},
    {"weights", "messages"},
    {"models", "selectors", "objectives"},
    {"datasets"},
    {"client"},
    {"server"},
    {"strategies"},
    {"simulations"},
    {"cli", "__main__"},
]


def name_of(path: Path) -> str:
    """``client.fit``; the package itself is the empty name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def level(module: str) -> int:
    first = module.split(".")[0]
    return next(number for number, layer in enumerate(LAYERS) if first in layer)


def imports(path: Path, *, everywhere: bool) -> Iterator[str]:
    """Modules imported; without ``everywhere`` only when the module itself is."""

    def set_apart(node: ast.AST) -> bool:
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        return typing or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)

    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                yield str(child.module)
            elif everywhere or not set_apart(child):
                yield from visit(child)

    return visit(ast.parse(path.read_text("utf-8")))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_imports_upwards(path):
    module = name_of(path)
    if module in ADAPTERS:
        return
    for imported in imports(path, everywhere=False):
        if imported.startswith("fedadapt."):
            below = imported.removeprefix("fedadapt.")
            assert level(below) <= level(module), f"{module} imports {below}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_flower_is_met_in_the_adapters_only(path):
    found = {name.split(".")[0] for name in imports(path, everywhere=True)}
    assert "ray" not in found
    if name_of(path) not in ADAPTERS | {"client.guard"}:
        assert "flwr" not in found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_that_comes_in_is_executed(path):
    found = {name.split(".")[0] for name in imports(path, everywhere=True)}
    assert not found & {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "yaml"}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in {"eval", "exec", "compile", "__import__"}
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called == "torch.load":
            assert given.get("weights_only") == "True"
        if called == "np.load":
            assert given.get("allow_pickle") == "False"
