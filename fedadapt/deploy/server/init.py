"""Making a deployment: the authority, the server's certificate, a key and a bundle a client."""

import re
from pathlib import Path

from fedadapt.deploy import certificates
from fedadapt.deploy.bundle import write_bundle
from fedadapt.deploy.folder import SETTINGS, Deployment, check_name
from fedadapt.deploy.server.service_files import write_service_files
from fedadapt.errors import InputError
from fedadapt.files import write_atomically

HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?|::1")


def initialise(
    folder: Path, hosts: tuple[str, ...], clients: int, port: int, control_port: int
) -> Deployment:
    """Make a deployment in a new or an empty folder; all in it is the owner's only.

    Raises:
        InputError: the folder is in use, or a host is not a name or address.

    """
    for host in hosts:
        if not HOST.fullmatch(host):
            raise InputError(f"host: {host!r} is not a name or an address")
    if port == control_port:
        raise InputError(f"port: {port} is also the control port; choose two")
    if (folder / SETTINGS).exists():
        raise InputError(
            f"{folder}: holds a deployment already; add a client with: "
            f"fedadapt deploy add {folder} NAME"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is not an empty folder")
    deployment = Deployment(folder.resolve(), hosts, port, control_port)
    try:
        deployment.make_folders()
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from None
    certificates.make_authority(deployment.authority_key, deployment.ca_certificate)
    renew(deployment)
    for number in range(1, clients + 1):
        add_client(deployment, f"client-{number}")
    write_service_files(deployment)
    deployment.save()  # last: a folder without it is not a deployment
    return deployment


def renew(deployment: Deployment) -> None:
    """Make the server's certificate anew; clients need nothing, they trust the authority."""
    certificates.make_server_certificate(
        deployment.authority_key,
        deployment.ca_certificate,
        deployment.hosts,
        deployment.key,
        deployment.certificate,
    )


def add_client(deployment: Deployment, name: str) -> Path:
    """Make a client's key and bundle; the path of the bundle.

    Raises:
        InputError: there is such a client, or the name is not one.

    """
    check_name(name)
    public = deployment.public_keys / f"{name}.pub"
    if public.exists():
        raise InputError(f"client {name}: is there already; choose another name, or revoke it")
    private_key, public_key = certificates.make_client_key()
    bundle = deployment.bundles / f"{name}.tar"
    write_bundle(
        bundle, name, deployment.address, deployment.ca_certificate.read_bytes(), private_key
    )
    write_atomically(public, public_key, mode=0o600)  # last: from now on it is let in
    return bundle


def revoke_client(deployment: Deployment, name: str) -> None:
    """Take a client's key away; from the next request on it is refused.

    Raises:
        InputError: there is no such client.

    """
    public = deployment.public_keys / f"{name}.pub"
    if not public.is_file():
        known = ", ".join(deployment.clients()) or "none"
        raise InputError(f"client {name!r}: no such client; known: {known}")
    public.unlink()
    (deployment.bundles / f"{name}.tar").unlink(missing_ok=True)
