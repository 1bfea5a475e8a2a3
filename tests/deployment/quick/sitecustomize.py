"""Imported by every Python of a deployment under test: Flower's waits, shortened.

Flower's SuperNode and ServerApp look for messages every three seconds, and a SuperNode that was
killed counts as connected for a minute. Nothing else is changed.
"""

import sys
import time

_sleep = time.sleep
time.sleep = lambda seconds: _sleep(0.3 if seconds == 3 else seconds)

if any(word.endswith("flower-supernode") for word in sys.orig_argv):
    import flwr.common.constant

    # The least that a SuperLink accepts; a node is away after twice as many seconds.
    flwr.common.constant.HEARTBEAT_DEFAULT_INTERVAL = flwr.common.constant.HEARTBEAT_MIN_INTERVAL
