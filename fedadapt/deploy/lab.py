"""A deployment on one machine, to try it: server, clients and sample pictures, and a first run."""

import time
from collections.abc import Callable
from pathlib import Path

from fedadapt.deploy.folder import private
from fedadapt.deploy.processes import Running, environment, module_command
from fedadapt.deploy.sample_pictures import CLASSES, write_pictures
from fedadapt.deploy.server.init import initialise
from fedadapt.deploy.server.traffic import read_traffic
from fedadapt.errors import FedadaptError

CONNECTED_WITHIN = 300.0  # seconds; a slow machine imports torch once for each client

DEFAULTS = {
    "benchmark": "own",
    "classes": ",".join(CLASSES),
    "model": "cnn",
    "image_size": 16,
    "strategy": "fedavg",
    "rounds": 3,
    "local_epochs": 2,
    "evaluate_every": 3,
}
"""What the first run is, where nothing else is asked for."""

Say = Callable[[str], None]


class Lab:
    """Server and clients as processes of their own, by the commands that real machines use."""

    def __init__(self, folder: Path, clients: int, port: int, control_port: int, say: Say) -> None:
        """Make the deployment and the pictures.

        Raises:
            InputError: the folder is in use.

        """
        self._say = say
        hosts = ("localhost",)
        self.deployment = initialise(folder, hosts, clients, port, control_port)
        self.pictures = write_pictures(
            self.deployment.folder / "pictures", self.deployment.clients()
        )
        self._running: list[Running] = []

    def start(self) -> None:
        """Start the server and the clients, and wait until all are connected.

        Raises:
            FedadaptError: one of them has ended, or did not connect in time.

        """
        deployment = self.deployment
        self._run("server", "server", str(deployment.folder), "--listen", "127.0.0.1")
        for name, images in zip(deployment.clients(), self.pictures, strict=True):
            bundle = deployment.bundles / f"{name}.tar"
            home = deployment.folder / "clients" / name
            self._run(
                name, "client", str(bundle), "--images", str(images), "--home", str(home), "--wait"
            )
        deadline = time.monotonic() + CONNECTED_WITHIN
        while (count := self._connected()) < len(deployment.clients()):
            if time.monotonic() > deadline:
                raise FedadaptError(
                    f"{count} of {len(deployment.clients())} clients are connected after "
                    f"{CONNECTED_WITHIN:g} s; their logs are in {deployment.folder / 'logs'}"
                )
            for process in self._running:
                if (code := process.exit_code) is not None:
                    raise FedadaptError(f"a process ended ({code}); see {deployment.logs}")
            time.sleep(0.5)
        self._say(f"{count} clients are connected")

    def end(self) -> None:
        """End the clients, then the server."""
        for process in reversed(self._running):
            process.end()

    def _run(self, name: str, *words: str) -> None:
        deployment = self.deployment
        command = module_command("fedadapt", "deploy", *words)
        log = private(deployment.logs) / f"lab-{name}.log"
        self._running.append(Running(command, log, environment(deployment.flower_home), self._hear))

    def _hear(self, line: str) -> None:
        self._say(f"  {line}")

    def _connected(self) -> int:
        return sum(seen.connected for seen in read_traffic(self.deployment.traffic).values())
