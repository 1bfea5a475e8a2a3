"""Networks, one family a file; every one of ours is a ``body`` followed by a linear ``head``.

Importing this package costs nothing: ``catalog`` needs no torch, ``build`` does.
"""
