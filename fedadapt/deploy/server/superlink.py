"""The operator's side of Flower: the command line of the SuperLink, and calls of ``flwr``."""

import json
import subprocess
from pathlib import Path
from typing import Any

import tomli_w

from fedadapt.deploy.folder import Deployment
from fedadapt.deploy.processes import environment, program
from fedadapt.errors import FedadaptError, InputError
from fedadapt.files import write_atomically

CONNECTION = "deployment"
"""What Flower's own configuration calls the connection to this SuperLink."""

LONGEST_CALL = 120.0  # seconds that a call of flwr may take


class SuperLinkLostError(FedadaptError):
    """The SuperLink does not answer, or has lost the run."""

    exit_code = 8


def superlink_command(deployment: Deployment) -> list[str]:
    """Loopback only, TLS, authentication of nodes, and a database that a restart finds again."""
    return [
        program("flower-superlink"),
        "--host", "127.0.0.1",
        "--port", str(deployment.control_port),
        "--database", str(deployment.database),
        "--ssl-ca-certfile", str(deployment.ca_certificate),
        "--ssl-certfile", str(deployment.certificate),
        "--ssl-keyfile", str(deployment.key),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip


def is_up(deployment: Deployment) -> bool:
    """Whether the SuperLink answers, on the operator's port."""
    import ssl
    import urllib.error
    import urllib.request

    context = ssl.create_default_context(cafile=str(deployment.ca_certificate))
    request = f"https://127.0.0.1:{deployment.control_port}/health"
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(request, timeout=5.0) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def flwr(deployment: Deployment, *words: str) -> dict[str, Any]:
    """Call ``flwr WORDS --format json``; what it answers.

    Raises:
        SuperLinkLostError: the SuperLink cannot be reached.
        InputError: Flower refused, with its words.

    """
    _configure(deployment)
    command = [program("flwr"), *words, "--format", "json"]
    try:
        done = subprocess.run(
            command, env=environment(deployment.flower_home), cwd=deployment.flower_home,
            capture_output=True, text=True, timeout=LONGEST_CALL, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SuperLinkLostError(f"flwr {words[0]}: no answer in {LONGEST_CALL:g} s") from None
    answer = _parsed(done.stdout)
    if done.returncode == 0 and answer is not None and answer.get("success", True):
        return answer
    reason = str((answer or {}).get("error-message") or done.stderr or done.stdout).strip()
    line = " ".join(reason.split()) or f"exit {done.returncode}"
    if "unavailable" in line.lower() or "connection" in line.lower():
        raise SuperLinkLostError(
            "the SuperLink does not answer; is the server running? "
            f"fedadapt deploy server {deployment.folder}"
        )
    raise InputError(f"flwr {words[0]}: {line[:400]}")


def _parsed(text: str) -> dict[str, Any] | None:
    """The JSON object in what Flower printed; words may stand before it."""
    start = text.find("{")
    while start >= 0:
        try:
            value, _ = json.JSONDecoder().raw_decode(text[start:])
        except ValueError:
            start = text.find("{", start + 1)
            continue
        return value if isinstance(value, dict) else None
    return None


def _configure(deployment: Deployment) -> Path:
    """Write Flower's own configuration, with absolute paths: the folder may have been moved."""
    connection = {
        "address": f"127.0.0.1:{deployment.control_port}",
        "root-certificates": str(deployment.ca_certificate),
    }
    content = tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}})
    path = deployment.flower_home / "config.toml"
    if not path.is_file() or path.read_text("utf-8") != content:
        write_atomically(path, content.encode(), mode=0o600)
    return path
