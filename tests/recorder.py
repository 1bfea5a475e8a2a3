"""A proxy between the clients of a deployment and its guard, that writes down all that passes.

``python recorder.py DIR PORT OUT``: listens on PORT with the certificate of the deployment DIR.
"""

import ssl
import sys
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from fedadapt.deploy.folder import Deployment

BETWEEN_NEIGHBOURS = {"host", "content-length", "transfer-encoding", "connection"}


def recorder(deployment, out):
    guard = httpx.AsyncClient(
        base_url=f"https://localhost:{deployment.port}",
        verify=ssl.create_default_context(cafile=str(deployment.ca_certificate)),
        timeout=120,
    )

    async def passed(request):
        body = await request.body()
        headers = {k: v for k, v in request.headers.items() if k not in BETWEEN_NEIGHBOURS}
        answer = await guard.request(
            request.method, request.url.path, content=body, headers=headers
        )
        with out.open("ab") as file:
            file.write(f"\n>>> {request.method} {request.url.path} {headers}\n".encode() + body)
            file.write(b"\n<<< " + answer.content)
        kept = {k: v for k, v in answer.headers.items() if k not in BETWEEN_NEIGHBOURS}
        return Response(answer.content, answer.status_code, kept)

    return Starlette(routes=[Route("/{path:path}", passed, methods=["GET", "POST"])])


if __name__ == "__main__":
    deployment = Deployment.read(Path(sys.argv[1]))
    uvicorn.run(
        recorder(deployment, Path(sys.argv[3])), host="127.0.0.1", port=int(sys.argv[2]),
        ssl_certfile=str(deployment.certificate), ssl_keyfile=str(deployment.key),
        log_level="warning",
    )  # fmt: skip
