"""What the package says it offers is there, described, and cheap to import."""

import doctest
import importlib
import inspect
import pkgutil

import pytest
import tiny

import fedadapt

PACKAGES = ["fedadapt"] + [
    f"fedadapt.{name}"
    for name in ("models", "datasets", "client", "server", "strategies", "simulations")
]
MODULES = sorted(m.name for m in pkgutil.walk_packages(fedadapt.__path__, "fedadapt."))
IMPORTABLE = [name for name in MODULES if not name.endswith("__main__")]


@pytest.mark.parametrize("name", PACKAGES)
def test_public_names_are_there_and_described(name):
    package = importlib.import_module(name)
    assert package.__doc__
    names = getattr(package, "__all__", [])
    assert len(set(names)) == len(names)
    for public in names:
        found = getattr(package, public)
        assert public == "__version__" or inspect.getdoc(found), public


@pytest.mark.parametrize("name", IMPORTABLE)
def test_every_module_says_what_it_is(name):
    module = importlib.import_module(name)
    first = (module.__doc__ or "").strip().splitlines()
    assert first, name
    assert len(first[0]) > 10


@pytest.mark.parametrize("name", IMPORTABLE)
def test_examples_in_docstrings_are_true(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0


def test_importing_the_package_loads_neither_torch_nor_flower():
    light = "import sys, fedadapt, fedadapt.cli, fedadapt.adaptations, fedadapt.records;"
    heavy = {"torch", "flwr", "ray", "sklearn", "matplotlib"}
    other = tiny.python("-c", f"{light} print({heavy!r} & sys.modules.keys())")
    assert other.communicate(timeout=60) == ("set()\n", "")


def test_a_device_needs_neither_ray_nor_what_draws_pictures():
    """The ClientApp and all it loads, with what only a simulation installs made unimportable."""
    absent = ("ray", "datasets", "flwr_datasets", "pyarrow", "matplotlib", "jinja2", "cv2")
    program = f"import sys; sys.modules |= dict.fromkeys({absent!r}); import fedadapt.client.app"
    other = tiny.python("-c", program)
    _, trouble = other.communicate(timeout=100)
    assert (other.returncode, trouble) == (0, "")
