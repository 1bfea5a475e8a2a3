"""Imported by every Python of a deployment under test: Flower's waits, shortened.

Flower's SuperNode and ServerApp look for messages every three seconds, and a SuperNode that was
killed counts as connected for a minute. Nothing else is changed.
"""

import sys
import time

_sleep = time.sleep
time.sleep = lambda seconds: _sleep(0.3 if seconds == 3 else seconds)

if any(word.endswith(("real_clients.supernode", "device_executor")) for word in sys.orig_argv):
    import flwr.common.constant

    # A node, or what computes for it, is away after twice as many seconds; Flower takes no less.
    flwr.common.constant.HEARTBEAT_DEFAULT_INTERVAL = flwr.common.constant.HEARTBEAT_MIN_INTERVAL
