"""Stands between the clients of a deployment and its guard, and writes down what leaves them.

``python recorder.py DIR PORT OUT``: listens on PORT with the certificate of the deployment DIR. It
passes bytes on as they come and breaks a connection off where the guard does, so that a client
meets what it would meet without it. OUT gets a file for each connection.
"""

import asyncio
import itertools
import ssl
import sys
from pathlib import Path

from fedadapt.deploy.folder import Deployment


async def record(deployment: Deployment, port: int, out: Path) -> None:
    """Listen until the process is ended."""
    inwards = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    inwards.load_cert_chain(deployment.certificate, deployment.key)
    outwards = ssl.create_default_context(cafile=str(deployment.ca_certificate))
    numbers = itertools.count()

    async def connected(client, to_client):
        try:
            guard, to_guard = await asyncio.open_connection(
                "localhost", deployment.port, ssl=outwards
            )
        except OSError:
            to_client.close()
            return
        with (out / str(next(numbers))).open("wb", buffering=0) as tape:
            await asyncio.gather(passed(client, to_guard, tape), passed(guard, to_client))

    server = await asyncio.start_server(connected, "127.0.0.1", port, ssl=inwards)
    await server.serve_forever()


async def passed(source, target, tape=None):
    """Pass on what comes from one side until it ends."""
    try:
        while data := await source.read(1 << 16):
            if tape is not None:
                tape.write(data)
            target.write(data)
            await target.drain()
    except OSError:  # broken off: so is the other side
        pass
    finally:
        target.close()


if __name__ == "__main__":
    asyncio.run(record(Deployment.read(Path(sys.argv[1])), int(sys.argv[2]), Path(sys.argv[3])))
