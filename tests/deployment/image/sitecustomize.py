"""Imported by every Python of an image under test: finds no module that the image has not.

IMAGE_LACKS is a file with a name of a module a line, QUICK another file of this kind, run as well.
"""

import os
import runpy
import sys
from pathlib import Path

LACKS = frozenset(Path(os.environ["IMAGE_LACKS"]).read_text().split())


class Without:
    """A finder of modules that knows nothing of some."""

    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in LACKS:
            return None
        return self._finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)


sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
runpy.run_path(os.environ["QUICK"])
