"""The SuperLink's list of nodes, made equal to the keys that lie in the deployment's folder."""

import json
from typing import NamedTuple

from fedadapt.deploy.certificates import fingerprint, load_public_key
from fedadapt.deploy.folder import Deployment, read_json
from fedadapt.deploy.server.superlink import CONNECTION, flwr
from fedadapt.errors import InputError
from fedadapt.files import write_atomically

KNOWN_ALREADY = "already in use"
"""Of Flower's answer to a key that it knows; a key that was unregistered stays known for ever."""


class Registered(NamedTuple):
    """What has changed on the SuperLink."""

    added: list[str]  # names of clients that were registered
    removed: int  # nodes whose key is no longer there
    revoked: list[str]  # names of clients whose key was revoked once: no SuperLink takes it again


def register(deployment: Deployment) -> Registered:
    """Register the clients that are new, and unregister all nodes whose key is no longer there.

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
        key: node for key, node in node_ids(deployment).items() if key in wanted and node in known
    }
    added: list[str] = []
    in_use: list[str] = []
    for key, client in wanted.items():
        if key in registered:
            continue
        path = str(deployment.public_keys / f"{client}.pub")
        try:
            done = flwr(deployment, "supernode", "register", path, CONNECTION, "--name", client)
        except InputError as error:
            if KNOWN_ALREADY not in str(error):
                raise
            in_use.append(key)
        else:
            registered[key] = str(done["node-id"])
            added.append(client)
            _remember(deployment, registered)
    nobodys = known - set(registered.values())
    if len(nobodys) == len(in_use) == 1:  # killed after it was registered, before that was noted
        registered[in_use.pop()] = nobodys.pop()
    revoked = [wanted[key] for key in in_use] if not nobodys else []
    gone = set() if in_use else nobodys  # which of several is whose cannot be found out
    for node in gone:  # the guard refuses their keys in any case
        flwr(deployment, "supernode", "unregister", node, CONNECTION)
    _remember(deployment, registered)
    return Registered(added, len(gone), revoked)


def told_of(revoked: list[str], deployment: Deployment) -> str:
    """Say in a line what to do about clients whose key was revoked once."""
    return (
        f"{', '.join(revoked)}: a key that was revoked is not taken again; make another: "
        f"fedadapt deploy revoke {deployment.folder} {revoked[0]}, then "
        f"fedadapt deploy add {deployment.folder} {revoked[0]}"
    )


def node_ids(deployment: Deployment) -> dict[str, str]:
    """Fingerprint of a client's key -> the id of its node."""
    return {k: str(v) for k, v in read_json(deployment.nodes).items()}


def _remember(deployment: Deployment, nodes: dict[str, str]) -> None:
    if nodes != node_ids(deployment):
        write_atomically(deployment.nodes, json.dumps(nodes).encode(), mode=0o600)
