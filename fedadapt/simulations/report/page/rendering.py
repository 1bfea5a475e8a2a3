"""Fill a page: template, data as JSON, script and plotting library become one file."""

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fedadapt.errors import InputError
from fedadapt.simulations.report.page.charts_script import CHARTS
from fedadapt.simulations.report.page.client_script import CLIENT
from fedadapt.simulations.report.page.clients_script import CLIENTS
from fedadapt.simulations.report.page.frame import FRAME
from fedadapt.simulations.report.page.library import library
from fedadapt.simulations.report.page.run_template import RUN_PAGE
from fedadapt.simulations.report.page.shared_script import SHARED
from fedadapt.simulations.report.page.study_charts_script import STUDY_CHARTS
from fedadapt.simulations.report.page.study_script import STUDY
from fedadapt.simulations.report.page.study_template import STUDY_PAGE
from fedadapt.simulations.report.page.style_sheet import CSS
from fedadapt.simulations.report.page.table_script import TABLE

if TYPE_CHECKING:
    import jinja2

MISSING = "\N{EN DASH}"
TEMPLATES = {"frame": FRAME, "run": RUN_PAGE, "study": STUDY_PAGE}
SCRIPTS = {"run": (SHARED, CLIENTS, TABLE, CLIENT, CHARTS), "study": (SHARED, STUDY_CHARTS, STUDY)}
BEGIN = (
    '"use strict";\n(() => {\nconst run = JSON.parse(document.getElementById("data").textContent);'
)
END = 'document.documentElement.dataset.drawn = "yes";\n})();\n'


def render(
    page: str, words: Mapping[str, Any], data: Mapping[str, Any], colours: Mapping[str, str]
) -> str:
    """Return a page as HTML that needs no other file.

    Args:
        page: ``run`` or ``study``.
        words: What the template is filled with; all text is escaped.
        data: What the page's script draws.
        colours: Of the variables of the style sheet, by their names: ``c0`` is ``var(--c0)``.

    Raises:
        InputError: jinja2 is not installed.

    """
    environment = _environment()
    from markupsafe import Markup

    variables = "".join(f"--{name}: {colour}; " for name, colour in colours.items())
    return environment.get_template(page).render(
        **words,
        css=Markup(CSS),
        own_colours=Markup(f":root {{ {variables}}}") if variables else "",
        data=Markup(as_script(data)),
        library=Markup(library()),
        script=Markup("\n".join((BEGIN, *SCRIPTS[page], END))),
    )


@cache
def _environment() -> "jinja2.Environment":
    try:
        import jinja2
    except ImportError:
        raise InputError(
            'jinja2: not installed; reports need it: pip install "fedadapt[simulation]"'
        ) from None
    # Names of kinds, reasons and settings come from files: all text is escaped, figures are not.
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
        lstrip_blocks=False,
    )
    environment.filters |= {"percent": percent, "points": points, "megabytes": megabytes}
    return environment


def as_script(data: Mapping[str, Any]) -> str:
    """Return JSON that can stand inside a ``<script>`` element, whatever words are in it."""
    text = json.dumps(_finite(data), separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def percent(share: float | None) -> str:
    """Return a share as text: 0.8431 is ``84.3 %``."""
    return (
        MISSING if share is None or math.isnan(share) else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"
    )


def points(share: float | None) -> str:
    """Return a difference as text: 0.0431 is ``+4.3``; a loss has a true minus sign."""
    return (
        MISSING
        if share is None or math.isnan(share)
        else f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")
    )


def megabytes(count: int) -> str:
    """Return bytes in units of 10^6, with as many digits as are meaningful."""
    return f"{count / 1e6:,.{2 if count < 1e8 else 0}f}"


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
