"""The plotting library that is inlined into the page: Observable Plot, drawn without a network.

It draws SVG, which prints and can be copied, has hover and pointing built in, and takes a chart in
a few declarative lines; with what it needs of d3 it is 275 KB. ``docs/releasing.md`` says how
``observable_plot.json`` is made of the published package. It is JSON because Flower ships apps
without ``.js`` files.
"""

import json
from functools import cache
from pathlib import Path


@cache
def library() -> str:
    """Return the script of the library, which defines ``Plot``, after its licence."""
    bundle = json.loads((Path(__file__).parent / "observable_plot.json").read_text("utf-8"))
    return f"/* {bundle['name']} {bundle['version']}, {bundle['licence']} */\n{bundle['script']}"
