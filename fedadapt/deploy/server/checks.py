"""What the operator looks at when something does not work: the server's own state."""

import datetime
import shutil
import ssl
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version

from fedadapt import __version__
from fedadapt.deploy.certificates import RENEW_BEFORE, expires
from fedadapt.deploy.device.checks import LEAST_FREE
from fedadapt.deploy.findings import Finding
from fedadapt.deploy.folder import Deployment
from fedadapt.deploy.server.superlink import is_up
from fedadapt.deploy.server.traffic import read_traffic


def check_server(deployment: Deployment) -> Iterator[Finding]:
    """Look at everything, one after the other."""
    yield Finding("version", True, f"fedadapt {__version__}, flwr {version('flwr')}")
    yield _modes(deployment)
    yield _certificate(deployment)
    yield _disk(deployment)
    if not is_up(deployment):
        remedy = f"start it: fedadapt deploy server {deployment.folder}"
        text = f"127.0.0.1:{deployment.control_port} does not answer"
        yield Finding("SuperLink", False, text, remedy)
        return
    yield Finding("SuperLink", True, f"answers on 127.0.0.1:{deployment.control_port}")
    yield from _guard(deployment)
    yield _clients(deployment)


def _modes(deployment: Deployment) -> Finding:
    """Nothing in the folder may be read by anybody else."""
    for path in (deployment.folder, *deployment.folder.rglob("*")):
        try:
            mode = stat.S_IMODE(path.lstat().st_mode)
        except FileNotFoundError:
            continue  # a temporary file
        private = deployment.folder == path or deployment.runs not in path.parents
        if private and not path.is_symlink() and mode & 0o077:
            text = f"{path} can be read by others ({mode:o})"
            return Finding("files", False, text, f"chmod -R go= {deployment.folder}")
    return Finding("files", True, "are their owner's only")


def _certificate(deployment: Deployment) -> Finding:
    left = expires(deployment.certificate) - datetime.datetime.now(datetime.UTC)
    if left <= datetime.timedelta(0):
        return Finding("certificate", False, "has ended", "start the server again, which renews it")
    if left < RENEW_BEFORE:
        remedy = "start the server again, which renews it"
        return Finding("certificate", False, f"ends in {left.days} days", remedy)
    names = ", ".join(deployment.hosts)
    return Finding("certificate", True, f"of {names} ends in {left.days} days")


def _disk(deployment: Deployment) -> Finding:
    free = shutil.disk_usage(deployment.folder).free
    text = f"{free / 2**20:,.0f} MiB free at {deployment.folder}"
    remedy = f"at least {LEAST_FREE / 2**20:,.0f} MiB are needed"
    return Finding("disk", free >= LEAST_FREE, text, "" if free >= LEAST_FREE else remedy)


def _guard(deployment: Deployment) -> Iterator[Finding]:
    """Whether the guard answers, and refuses what is not a device's call."""
    context = ssl.create_default_context(cafile=str(deployment.ca_certificate))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    start = f"https://127.0.0.1:{deployment.port}/v1/control/start-run"
    try:
        with opener.open(urllib.request.Request(start, data=b""), timeout=5.0) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    except OSError as error:
        remedy = f"is the server running? its log is {deployment.logs / 'guard.log'}"
        reason = getattr(error, "reason", error)
        yield Finding("guard", False, f"port {deployment.port} is closed ({reason})", remedy)
        return
    yield Finding("guard", True, f"answers on port {deployment.port}")
    if status == 403:
        yield Finding("control", True, f"cannot be reached through port {deployment.port}")
    else:
        text = f"port {deployment.port} answered {status} to an operator's call"
        yield Finding("control", False, text, "is another program on that port? end it")


def _clients(deployment: Deployment) -> Finding:
    seen = read_traffic(deployment.traffic)
    names = deployment.clients()
    away = [name for name in names if name not in seen or not seen[name].connected]
    text = f"{len(names) - len(away)} of {len(names)} are connected"
    if away:
        remedy = "on each of them: fedadapt deploy doctor BUNDLE"
        return Finding("clients", False, f"{text}; away: {', '.join(away)}", remedy)
    return Finding("clients", True, text)
