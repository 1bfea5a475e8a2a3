"""The commands of docker/compose.yaml, one after the other, with nothing but what the images have.

There is no Docker here: paths and the name of the server are put in, and every Python refuses to
import what the Dockerfile does not install for its image, by name or for something else.
"""

import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from dockerfile import requirements
from machines import free_ports
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.deployment

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker" / "compose.yaml"
IN_BASE = {"fedadapt", "pip", "setuptools", "wheel"}  # ours, and what comes with python:slim


def modules_without(stage: str) -> set[str]:
    """The modules that are installed here, and that an image has not."""
    known: set[tuple[str, str]] = set()

    def add(requirement: Requirement) -> None:
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in known:
                continue
            known.add((name, extra))
            for line in importlib.metadata.requires(name) or ():
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    add(needed)

    for requirement in requirements(stage):
        add(requirement)
    has = {name for name, _ in known} | IN_BASE
    modules = importlib.metadata.packages_distributions()
    return {
        module for module, packages in modules.items()
        if not {canonicalize_name(package) for package in packages} & has
    }  # fmt: skip


class Lab:
    """The services of the compose file as processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.compose = yaml.safe_load(COMPOSE.read_text())
        self.port, self.control_port = map(str, free_ports(2))
        self.processes: list[subprocess.Popen[bytes]] = []
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "fedadapt").write_text(
            f'#!/bin/sh\nexec {sys.executable} -m fedadapt "$@"\n'
        )
        (folder / "bin" / "fedadapt").chmod(0o755)
        for name in ("deployment", "bundles", "pictures", "home"):
            (folder / name).mkdir()
        for stage in ("client", "server"):
            (folder / f"{stage}-lacks").write_text("\n".join(modules_without(stage)))

    def here(self, text: str, service: str = "") -> str:
        """A word or a script of the compose file, with the paths and the address of this test."""
        text = text.replace("/state", f"/state-{service}")
        text = re.sub(r"(?<![\w.])/(deployment|bundles|pictures|state)", rf"{self.folder}/\1", text)
        ports = f"--port {self.port} --control-port {self.control_port}"
        return text.replace("--host server", f"--host localhost {ports}")

    def environment(self, image: str) -> dict[str, str]:
        stage = image.removeprefix("fedadapt-")
        return os.environ | {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "image"), str(ROOT)]),
            "IMAGE_LACKS": str(self.folder / f"{stage}-lacks"),
            "QUICK": str(Path(__file__).parent / "quick" / "sitecustomize.py"),
            "HOME": str(self.folder / "home"),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, command: list[str], image: str) -> str:
        done = subprocess.run(
            command, env=self.environment(image), cwd=self.folder, text=True, timeout=600,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def start(self, service: str) -> None:
        words = self.compose["services"][service]
        command = ["fedadapt", *(self.here(word, service) for word in words["command"])]
        with (self.folder / f"{service}.out").open("wb") as out:
            self.processes.append(
                subprocess.Popen(
                    [str(self.folder / "bin" / command[0]), *command[1:]],
                    env=self.environment(words["image"]), cwd=self.folder,
                    stdout=out, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip

    def wait(self, service: str, words: str) -> None:
        deadline = time.monotonic() + 240
        out = self.folder / f"{service}.out"
        while words not in out.read_text():
            assert all(process.poll() is None for process in self.processes), out.read_text()
            assert time.monotonic() < deadline, out.read_text()
            time.sleep(0.2)

    def end(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            process.wait(60)


def test_the_lab_of_the_compose_file_runs_by_its_own_commands(tmp_path):
    """From making keys to a report on the server, and a model on every client."""
    lab = Lab(tmp_path / "lab")
    services = lab.compose["services"]
    try:
        setup = services["setup"]
        script = lab.here(setup["command"][0])
        lab.run([*setup["entrypoint"], script], setup["image"])
        lab.run([*setup["entrypoint"], script], setup["image"])  # as at the next `up`
        lab.start("server")
        lab.wait("server", "server is up")
        clients = [name for name in services if name.startswith("client")]
        for name in clients:
            lab.start(name)
        for name in clients:
            lab.wait(name, " is connected to ")
        [words] = re.findall(r"fedadapt (deploy run .*)", COMPOSE.read_text())
        command = [str(lab.folder / "bin" / "fedadapt"), *shlex.split(lab.here(words))]
        said = lab.run(command, services["server"]["image"])
        assert "round 3, train: 3 of 3 answered" in said
        folder = Path(said.split("run folder")[-1].strip())
        assert (folder / "report.html").stat().st_size > 10_000
        for name in clients:
            models = (lab.folder / f"state-{name}").rglob("models/**/*.safetensors")
            assert list(models), name
    finally:
        lab.end()


def test_the_image_of_a_client_lacks_what_only_a_server_needs():
    assert {"ray", "pyarrow", "matplotlib", "pandas", "pytest"} <= modules_without("client")
    assert {"ray", "pandas", "pytest"} <= modules_without("server")
    needed = {"torch", "flwr", "click", "rich", "numpy", "PIL", "cryptography", "filelock"}
    assert not needed & modules_without("client")
