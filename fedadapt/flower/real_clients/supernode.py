"""Flower's SuperNode, as ``flower-supernode`` starts it, with shorter waits: see ``waits``.

It sees a message as soon as the server has announced it, and most often before the parts of it
are there: Flower then asks again after 1, 3, 7 and 15 seconds.
"""

import sys


def main() -> None:
    """Run the SuperNode with the arguments of this program."""
    from flwr.supernode.cli import flower_supernode

    from fedadapt.flower.real_clients.waits import shorten_waits_of_node

    shorten_waits_of_node()
    sys.argv[0] = "flower-supernode"
    flower_supernode()


if __name__ == "__main__":
    main()
