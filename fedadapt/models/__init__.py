"""Networks, one family a file; every one of ours is a ``body`` followed by a linear ``head``.

Importing this package costs nothing: ``registry`` and ``limits`` need no torch, ``build`` does.
"""
