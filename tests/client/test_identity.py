"""Who a client is: the fingerprint of its key, or a secret that it keeps."""

import base64
import hashlib
import shutil
import subprocess

import pytest

from fedadapt.client.identity import FILE, fingerprint_of, is_fingerprint, own_identity
from fedadapt.errors import RefusedError


def test_an_identity_is_made_once_and_outlives_everything_but_its_file(tmp_path):
    first = own_identity(tmp_path / "new" / "state")
    assert is_fingerprint(first)
    assert own_identity(tmp_path / "new" / "state") == first
    assert own_identity(tmp_path / "other") != first
    secret = (tmp_path / "other" / FILE).read_text()
    assert secret != own_identity(tmp_path / "other")  # what is kept is not what is told
    assert (tmp_path / "other" / FILE).stat().st_mode & 0o077 == 0


def test_a_damaged_identity_is_refused_and_not_replaced(tmp_path):
    own_identity(tmp_path)
    (tmp_path / FILE).write_text("damaged")
    with pytest.raises(RefusedError, match="bring it back"):
        own_identity(tmp_path)


def test_a_fingerprint_is_that_of_the_blob_in_the_public_key(tmp_path):
    blob = b"\0\0\0\x13ecdsa-sha2-nistp384"
    line = f"ecdsa-sha2-nistp384 {base64.b64encode(blob).decode()} me@here\n"
    (tmp_path / "key.pub").write_text(line)
    (tmp_path / "key").write_text("never read")
    wanted = hashlib.sha256(blob).hexdigest()
    assert fingerprint_of(tmp_path / "key") == fingerprint_of(tmp_path / "key.pub") == wanted


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen here")
def test_it_is_what_ssh_keygen_shows(tmp_path):
    key = str(tmp_path / "key")
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", key], check=True)
    shown = subprocess.run(["ssh-keygen", "-lf", key], check=True, capture_output=True, text=True)
    encoded = shown.stdout.split()[1].removeprefix("SHA256:")
    assert base64.b64decode(encoded + "=").hex() == fingerprint_of(tmp_path / "key")


@pytest.mark.parametrize("content", ["", "one", "ssh-rsa not-base64!", None])
def test_what_is_no_key_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "key.pub").write_text(content)
    with pytest.raises(RefusedError, match="is no public key of OpenSSH"):
        fingerprint_of(tmp_path / "key")
