"""``fedadapt watch``: the report page of a run while the run goes on, from a server on loopback."""

import hashlib
import http.server
from http import HTTPStatus
from pathlib import Path

from fedadapt.errors import FedadaptError, InputError
from fedadapt.simulations.report.report import report_page
from fedadapt.simulations.results.run_folder import CONFIG

HOST = "127.0.0.1"
SECONDS = 4  # between two looks of the page for something new

# The page is loaded anew when the run's files have changed; what a reader has switched and where
# the page was scrolled to is put back by the page's own script and by the browser.
LIVE = """<script>
const here = document.currentScript.dataset.version;
setInterval(async () => {
  try {
    const version = await (await fetch("version")).text();
    if (version !== here && !document.querySelector(":focus-within input")) location.reload();
  } catch { document.title = "ended: " + document.title.replace(/^ended: /, ""); }
}, %d);
</script>"""


def server(folder: Path, port: int = 0) -> http.server.ThreadingHTTPServer:
    """Return a server of the page of a run, bound but not yet serving; port 0 is any free one.

    It answers ``/`` with the page as of now and ``/version`` with a word that changes whenever the
    run's files do. Nothing else is served, and nobody but this computer is.

    Raises:
        InputError: The folder holds nothing of a run, or the port is taken.

    """
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder}: no run has begun there; name the folder of a run")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer the page or its version."""
            if not _is_local(self.headers.get("Host", "")):
                # A page of somebody else's that calls itself by a name of its own.
                self._answer(HTTPStatus.FORBIDDEN, "only on this computer", "text/plain")
            elif self.path == "/version":
                self._answer(HTTPStatus.OK, version(folder), "text/plain")
            elif self.path == "/":
                self._page()
            elif self.path == "/favicon.ico":  # a browser asks for it, whatever the page says
                self._answer(HTTPStatus.NO_CONTENT, "", "image/x-icon")
            else:
                self._answer(HTTPStatus.NOT_FOUND, "there is only one page", "text/plain")

        def _page(self) -> None:
            now = version(folder)
            try:
                page = report_page(folder, measure=False)
            except FedadaptError as error:
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, str(error), "text/plain")
                return
            live = (LIVE % (1000 * SECONDS)).replace("<script>", f'<script data-version="{now}">')
            self._answer(HTTPStatus.OK, page.replace("</body>", f"{live}\n</body>"), "text/html")

        def _answer(self, status: HTTPStatus, text: str, kind: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the page asks every few seconds."""

    try:
        return http.server.ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise InputError(f"port: {port} cannot be used ({error.strerror}); give another") from None


def version(folder: Path) -> str:
    """Return a word that is another one as soon as a file of the run has changed."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _is_local(host: str) -> bool:
    return host.rpartition(":")[0] in (HOST, "localhost") or host in (HOST, "localhost")
