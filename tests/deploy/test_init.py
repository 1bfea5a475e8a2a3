"""What ``fedadapt deploy init`` makes: private files, certificates that hold, bundles that open."""

import datetime
import os
import ssl
import stat

import pytest
from cryptography import x509

from fedadapt.deploy.bundle import install, open_bundle
from fedadapt.deploy.certificates import (
    fingerprint,
    load_client_key,
    load_public_key,
    make_client_key,
)
from fedadapt.deploy.folder import Deployment, natural
from fedadapt.deploy.server.init import add_client, initialise, renew, revoke_client
from fedadapt.errors import InputError


def test_everything_is_readable_by_its_owner_only(made):
    old = os.umask(0)
    os.umask(old)
    for path in (made.folder, *made.folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_deployment_is_read_as_it_was_made(made):
    assert Deployment.read(made.folder) == made
    assert made.clients() == ("client-1", "client-2", "client-3")
    assert made.address == f"localhost:{made.port}"


def test_the_certificate_is_of_the_host_and_of_the_loopback_names(tmp_path):
    hosts = ("fl.example.org", "192.0.2.7")
    deployment = initialise(tmp_path / "d", hosts, 0, 8443, 8000)
    certificate = x509.load_pem_x509_certificate(deployment.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org", "localhost"]
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    assert addresses == ["192.0.2.7", "127.0.0.1", "::1"]
    authority = x509.load_pem_x509_certificate(deployment.ca_certificate.read_bytes())
    certificate.verify_directly_issued_by(authority)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_renewed_certificate_is_of_the_same_authority(deployment):
    before = deployment.certificate.read_bytes()
    renew(deployment)
    assert deployment.certificate.read_bytes() != before
    context = ssl.create_default_context(cafile=str(deployment.ca_certificate))
    assert context.verify_mode == ssl.CERT_REQUIRED
    certificate = x509.load_pem_x509_certificate(deployment.certificate.read_bytes())
    authority = x509.load_pem_x509_certificate(deployment.ca_certificate.read_bytes())
    certificate.verify_directly_issued_by(authority)


def test_a_bundle_holds_the_key_that_the_server_knows(made, bundle):
    known = load_public_key(made.public_keys / "client-1.pub")
    assert fingerprint(load_client_key(bundle.key).public_key()) == fingerprint(known)
    assert bundle.server == made.address
    assert (bundle.host, bundle.port) == ("localhost", made.port)
    assert bundle.ca_certificate.read_bytes() == made.ca_certificate.read_bytes()
    assert (bundle.folder / "client.key.pub").read_bytes() == (
        made.public_keys / "client-1.pub"
    ).read_bytes()


def test_a_bundle_on_a_device_is_private_even_from_a_stick_without_modes(made, tmp_path):
    stick = tmp_path / "stick"
    stick.mkdir()
    _, files = open_bundle(made.bundles / "client-1.tar")
    for name, content in files.items():
        (stick / name).write_bytes(content)
        (stick / name).chmod(0o777)
    bundle = install(stick, tmp_path / "device")
    for path in (bundle.folder, *bundle.folder.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_an_identity_is_not_replaced_by_that_of_another_client(made, bundle):
    with pytest.raises(InputError, match="the key of another client"):
        install(made.bundles / "client-2.tar", bundle.folder)
    assert install(made.bundles / "client-1.tar", bundle.folder) == bundle


def _tar(tmp_path, members):
    import io
    import tarfile

    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content)
            if kind == tarfile.SYMTYPE:
                info.linkname = "/etc/passwd"
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([], "client.toml is missing"),
        ([("x/client.key", b"2", b"")], "not as in a bundle"),  # a link
        ([("x/client.key", b"0", b"x" * 70_000)], "not as in a bundle"),
        ([("x/ca.crt", b"0", b""), ("y/ca.crt", b"0", b"")], "not as in a bundle"),
        (
            [("client.toml", b"0", b"name = 3"), ("ca.crt", b"0", b""), ("client.key", b"0", b"")],
            "has no name",
        ),
    ],
)
def test_a_bundle_that_is_none_is_refused_in_one_line(tmp_path, members, words):
    with pytest.raises(InputError, match=words) as error:
        open_bundle(_tar(tmp_path, members))
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "b.tar"
    path.write_bytes(b"not a tar" * 200)
    with pytest.raises(InputError, match="no bundle of a client"):
        open_bundle(path)
    with pytest.raises(InputError, match="no such file"):
        open_bundle(tmp_path / "nowhere.tar")


def test_a_folder_in_use_is_left_alone(made, tmp_path):
    with pytest.raises(InputError, match="holds a deployment already"):
        initialise(made.folder, ("localhost",), 1, 8443, 8000)
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        initialise(tmp_path, ("localhost",), 1, 8443, 8000)
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("host", ["", "a b", "-x", "x/y", "x\n", "a" * 300])
def test_a_host_that_is_no_name_is_refused(tmp_path, host):
    with pytest.raises(InputError, match="not a name or an address"):
        initialise(tmp_path / "d", (host,), 1, 8443, 8000)


@pytest.mark.parametrize("name", ["", "../x", "a b", "-a", "x" * 41, "ä"])
def test_a_client_name_that_is_no_file_name_is_refused(deployment, name):
    with pytest.raises(InputError, match="a name has 1 to 40"):
        add_client(deployment, name)


def test_clients_are_added_and_revoked(deployment):
    path = add_client(deployment, "garden")
    assert open_bundle(path)[0]["name"] == "garden"
    assert "garden" in deployment.clients()
    with pytest.raises(InputError, match="is there already"):
        add_client(deployment, "garden")
    revoke_client(deployment, "garden")
    assert deployment.clients() == ("client-1", "client-2", "client-3")
    assert not path.exists()
    with pytest.raises(InputError, match="known: client-1, client-2, client-3"):
        revoke_client(deployment, "garden")


def test_clients_are_sorted_as_people_count():
    assert sorted(["c-10", "c-9", "b"], key=natural) == ["b", "c-9", "c-10"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hosts = []\nport=1\ncontrol-port=2", "hosts is"),
        ("hosts = ['x']\nport=0\ncontrol-port=2", "port is 0"),
        ("hosts = ['x']\nport=true\ncontrol-port=2", "port is True"),
        ("port = 3", "has no hosts"),
        ("x = [", "deployment.toml"),
    ],
)
def test_damaged_settings_are_named(tmp_path, text, words):
    (tmp_path / "deployment.toml").write_text(text)
    with pytest.raises(InputError, match=words):
        Deployment.read(tmp_path)


def test_keys_of_another_kind_are_refused(tmp_path):
    private, public = make_client_key()
    path = tmp_path / "key"
    path.write_bytes(public)
    with pytest.raises(InputError, match="not a private key"):
        load_client_key(path)
    path.write_bytes(private)
    with pytest.raises(InputError, match="not a public key"):
        load_public_key(path)
    with pytest.raises(InputError, match="take the key from the bundle"):
        load_client_key(tmp_path / "nowhere")


def test_flower_reads_the_keys_as_its_own(made, bundle):
    """The private key on the SuperNode, the public one at its registration."""
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.cli.supernode.register import try_load_public_key
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes, uses_nist_ec_curve

    key = load_ssh_private_key(bundle.key.read_bytes(), None)
    assert uses_nist_ec_curve(key.public_key())
    assert try_load_public_key(made.public_keys / "client-1.pub") == public_key_to_bytes(
        key.public_key()
    )


def test_a_certificate_is_valid_on_a_clock_that_is_a_little_late(made):
    """The authority's signs the server's and nothing below it."""
    now = datetime.datetime.now(datetime.UTC)
    for path in (made.certificate, made.ca_certificate):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        assert certificate.not_valid_before_utc < now - datetime.timedelta(hours=20)
    authority = x509.load_pem_x509_certificate(made.ca_certificate.read_bytes())
    limits = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (limits.ca, limits.path_length) == (True, 0)


@pytest.mark.parametrize(
    ("host", "address"),
    [("fl.example.org", "fl.example.org:8443"), ("192.0.2.7", "192.0.2.7:8443"),
     ("2001:db8::1", "[2001:db8::1]:8443"), ("::1", "[::1]:8443")],
)  # fmt: skip
def test_an_address_of_any_kind_arrives_at_the_clients(tmp_path, host, address):
    deployment = initialise(tmp_path / "d", (host,), 1, 8443, 8000)
    assert deployment.address == address
    bundle = install(deployment.bundles / "client-1.tar", tmp_path / "identity")
    assert (bundle.server, bundle.host, bundle.port) == (address, host, 8443)


def test_the_two_ports_are_two(tmp_path):
    with pytest.raises(InputError, match="port: 8443 is also the control port; choose two"):
        initialise(tmp_path / "d", ("localhost",), 1, 8443, 8443)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("server", ["localhost", "localhost:0", "localhost:65536", ":8443", "a:b"])
def test_a_bundle_whose_address_is_none_is_refused(tmp_path, server):
    settings = f'name="x"\nserver="{server}"\nfedadapt="1"\nflwr="1"'.encode()
    members = [("client.toml", b"0", settings), ("ca.crt", b"0", b""), ("client.key", b"0", b"")]
    with pytest.raises(InputError, match="is not host:port"):
        open_bundle(_tar(tmp_path, members))
