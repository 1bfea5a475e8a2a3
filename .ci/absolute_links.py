"""Write a README whose links lead somewhere wherever it is shown: for a package index.

``python .ci/absolute_links.py README.md https://forge.example/us/fedadapt v0.2.0 > README.pypi.md``
"""

import re
import sys
from pathlib import Path

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|mailto:|#)([^)\s]+)\)")


def absolute(text: str, source: str, tag: str) -> str:
    """Return Markdown whose relative links are those of the files of ``tag`` below ``source``.

    Pictures need the files themselves (``raw``), pages the way a forge shows them (``blob``).
    """

    def link(found: re.Match[str]) -> str:
        kind = "raw" if found[1] else "blob"
        return f"{found[1]}[{found[2]}]({source.rstrip('/')}/{kind}/{tag}/{found[3]})"

    parts = re.split(r"(^```.*?^```)", text, flags=re.MULTILINE | re.DOTALL)  # code stays
    return "".join(part if n % 2 else LINK.sub(link, part) for n, part in enumerate(parts))


if __name__ == "__main__":
    readme, source, tag = sys.argv[1:]
    sys.stdout.write(absolute(Path(readme).read_text("utf-8"), source, tag))
