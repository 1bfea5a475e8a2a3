"""A hook of MkDocs: links between notebooks and pages, which work in a clone, work on the site too.

MkDocs resolves the links of Markdown; notebooks come to it as HTML.
"""

import posixpath
import re
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.utils import get_relative_url

LINK = re.compile(r'href="(?!https?:)([^"#]+\.(?:ipynb|md))(#[^"]*)?"')


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Turn links to source files into links to their pages; one that leads nowhere is an error."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html

    def link(found: re.Match[str]) -> str:
        target = posixpath.join(posixpath.dirname(page.file.src_uri), found[1])
        file = files.get_file_from_path(posixpath.normpath(target))
        if file is None:
            raise PluginError(f"{page.file.src_uri}: {found[1]} is not there")
        return f'href="{get_relative_url(file.url, page.url)}{found[2] or ""}"'

    return LINK.sub(link, html)
