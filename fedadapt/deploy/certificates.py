"""Certificates and keys: an authority of the deployment's own, and an EC key for each client.

The authority signs the server's certificate and nothing else. Clients are known by their public
key alone, which is how Flower authenticates its SuperNodes; their keys are in OpenSSH's format.
"""

import base64
import datetime
import hashlib
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

from fedadapt.errors import InputError
from fedadapt.files import write_atomically

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

AUTHORITY_YEARS, SERVER_DAYS = 10, 730
RENEW_BEFORE = datetime.timedelta(days=30)
SLOW_CLOCKS = datetime.timedelta(days=1)
"""Certificates begin so long ago: a device whose clock is a little late should not refuse them."""

ALWAYS = ("localhost", "127.0.0.1", "::1")
"""Names of the server that its certificate has beside those that were given."""


def make_authority(key_path: Path, certificate_path: Path) -> None:
    """Make the authority's key and its certificate, which every client is given."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("fedadapt deployment authority")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    lifetime = datetime.timedelta(days=365 * AUTHORITY_YEARS)
    certificate = (
        _builder(name, name, key.public_key(), lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_path, _pem(key))
    _write(certificate_path, _encoded(certificate))


def make_server_certificate(
    authority_key: Path,
    authority_certificate: Path,
    hosts: tuple[str, ...],
    key_path: Path,
    certificate_path: Path,
    lifetime: datetime.timedelta = datetime.timedelta(days=SERVER_DAYS),
) -> None:
    """Make the server's key and certificate, for its ``hosts`` and the loopback names.

    Raises:
        InputError: the authority's key or certificate is missing or damaged.

    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        signer = load_pem_private_key(authority_key.read_bytes(), None)
        authority = x509.load_pem_x509_certificate(authority_certificate.read_bytes())
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}; the authority is needed") from None
    except (ValueError, TypeError) as error:
        raise InputError(f"{authority_key}: not the key of an authority ({error})") from None
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise InputError(f"{authority_key}: not an EC key")
    key = ec.generate_private_key(ec.SECP256R1())
    names = [_general_name(host) for host in dict.fromkeys((*hosts, *ALWAYS))]
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=False, crl_sign=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _builder(_name(hosts[0][:64]), authority.subject, key.public_key(), lifetime)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    _write(key_path, _pem(key))
    _write(certificate_path, _encoded(certificate))


def expires(certificate_path: Path) -> datetime.datetime:
    """When a certificate ends (UTC).

    Raises:
        InputError: it cannot be read.

    """
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
    except OSError as error:
        raise InputError(f"{certificate_path}: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{certificate_path}: not a certificate in PEM format") from None
    return certificate.not_valid_after_utc


def make_client_key() -> tuple[bytes, bytes]:
    """A client's private and public key on P-384, both in OpenSSH's format."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return private, public + b"\n"


def load_client_key(path: Path) -> "ec.EllipticCurvePrivateKey":
    """A client's private key.

    Raises:
        InputError: the file is missing, or holds something else.

    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; take the key from the bundle") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(f"{path}: not a private key in OpenSSH's format") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"{path}: not an EC key; take the key from the bundle")
    return key


def public_bytes(key: "ec.EllipticCurvePublicKey") -> bytes:
    """A public key as Flower's SuperNodes send it: PEM, subject public key info."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def load_public_key(path: Path) -> "ec.EllipticCurvePublicKey":
    """A client's public key, as it lies on the server.

    Raises:
        InputError: the file holds something else.

    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        key = load_ssh_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: not a public key in OpenSSH's format ({error})") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InputError(f"{path}: not an EC key")
    return key


def fingerprint(key: "ec.EllipticCurvePublicKey") -> str:
    """The SHA-256 of a key as OpenSSH has it, 64 hex digits: who the client is in every run."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    text = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return hashlib.sha256(base64.b64decode(text.split()[1])).hexdigest()


def _builder(
    subject: "x509.Name",
    issuer: "x509.Name",
    key: "ec.EllipticCurvePublicKey",
    lifetime: datetime.timedelta,
) -> "x509.CertificateBuilder":
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SLOW_CLOCKS)
        .not_valid_after(now + lifetime)
    )


def _name(common: str) -> "x509.Name":
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "fedadapt"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _general_name(host: str) -> "x509.GeneralName":
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: "ec.EllipticCurvePrivateKey") -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _encoded(certificate: "x509.Certificate") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, content, mode=0o600)
