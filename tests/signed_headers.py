"""What a device signs its calls with."""

import base64
import datetime
import time

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fedadapt.deploy.certificates import load_client_key, public_bytes


def headers_of(key_path, clock=0.0):
    """Of a client with this key, whose clock differs by so many seconds."""
    key = load_client_key(key_path)
    now = datetime.datetime.fromtimestamp(time.time() + clock, datetime.UTC).isoformat()
    signature = key.sign(now.encode(), ec.ECDSA(hashes.SHA256()))
    return {
        "flwr-public-key": base64.b64encode(public_bytes(key.public_key())).decode(),
        "flwr-timestamp": now,
        "flwr-signature": base64.b64encode(signature).decode(),
    }
