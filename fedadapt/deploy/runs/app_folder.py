"""The app that is submitted to Flower: settings only; the code is what is installed.

``flwr run`` ships the folder that it is given to every device. Nothing of a run is shipped here
but the names of the two apps and the defaults of the settings: a device runs the code that its
owner has installed on it, and the handshake compares versions.
"""

from importlib.metadata import version
from pathlib import Path

import tomli_w

from fedadapt import __version__
from fedadapt.config import RunConfig
from fedadapt.deploy.folder import private
from fedadapt.files import write_atomically

RESUME = "resume"
"""The run folder to go on with: a key beside those of ``RunConfig``."""

LICENSE = "fedadapt: settings of a run; the code is that of the package fedadapt.\n"


def write_app(folder: Path) -> Path:
    """Write the app into ``folder``; the folder."""
    minor = ".".join(version("flwr").split(".")[:2])
    document = {
        "project": {
            "name": "fedadapt-run",
            "version": __version__,
            "description": "A run of fedadapt on real clients.",
            "license": {"file": "LICENSE"},
            "dependencies": [f"flwr>={minor}.0"],
        },
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "fedadapt",
                    "fab-format-version": 1,
                    "flwr-version-target": version("flwr"),
                    "components": {
                        "serverapp": "fedadapt.flower.server_app:app",
                        "clientapp": "fedadapt.flower.client_app:app",
                    },
                    "config": RunConfig().to_mapping() | {"clients": 0, RESUME: ""},
                }
            }
        },
    }
    private(folder)
    write_atomically(folder / "pyproject.toml", tomli_w.dumps(document).encode(), mode=0o600)
    write_atomically(folder / "LICENSE", LICENSE.encode(), mode=0o600)
    return folder
