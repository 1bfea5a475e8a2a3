"""The SuperLink's list of nodes, made equal to the keys that lie in the deployment's folder."""

import json

from fedadapt.deploy.certificates import fingerprint, load_public_key
from fedadapt.deploy.folder import Deployment, read_json
from fedadapt.deploy.server.superlink import CONNECTION, flwr
from fedadapt.errors import InputError
from fedadapt.files import write_atomically

KNOWN_ALREADY = "already in use"
"""Of Flower's answer to a key that it knows; a key that was unregistered stays known for ever."""

UNKNOWN_NODE = "?"


def register(deployment: Deployment) -> tuple[list[str], int]:
    """Register the clients that are new, and unregister all nodes whose key is no longer there.

    Returns:
        The names of the clients that were registered, and how many nodes were removed.

    Raises:
        SuperLinkLostError: the SuperLink is not up.

    """
    wanted = {
        fingerprint(load_public_key(deployment.public_keys / f"{client}.pub")): client
        for client in deployment.clients()
    }
    answer = flwr(deployment, "supernode", "list", CONNECTION)
    known = {str(n["node-id"]) for n in answer["nodes"] if n["status"] != "unregistered"}
    # Node ids are the SuperLink's, and it lists no keys: whose they are is remembered here.
    registered = {
        key: node
        for key, node in node_ids(deployment).items()
        if key in wanted and (node in known or node == UNKNOWN_NODE)
    }
    added = []
    for key, client in wanted.items():
        if key in registered:
            continue
        path = str(deployment.public_keys / f"{client}.pub")
        try:
            done = flwr(deployment, "supernode", "register", path, CONNECTION, "--name", client)
        except InputError as error:
            if KNOWN_ALREADY not in str(error):
                raise
            # Registered, but killed before it was remembered: as which node cannot be found out.
            registered[key] = UNKNOWN_NODE
        else:
            registered[key] = str(done["node-id"])
            added.append(client)
        _remember(deployment, registered)
    gone = set() if UNKNOWN_NODE in registered.values() else known - set(registered.values())
    for node in gone:  # the guard refuses their keys in any case
        flwr(deployment, "supernode", "unregister", node, CONNECTION)
    _remember(deployment, registered)
    return added, len(gone)


def node_ids(deployment: Deployment) -> dict[str, str]:
    """Fingerprint of a client's key -> the id of its node."""
    return {k: str(v) for k, v in read_json(deployment.nodes).items()}


def _remember(deployment: Deployment, nodes: dict[str, str]) -> None:
    if nodes != node_ids(deployment):
        write_atomically(deployment.nodes, json.dumps(nodes).encode(), mode=0o600)
