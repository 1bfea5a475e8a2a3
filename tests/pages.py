"""Report pages: written for made-up runs, and read again."""

import html.parser
import json

import tomli_w

from fedadapt.config import RunConfig
from fedadapt.simulations.report.report import write_report
from fedadapt.simulations.results.parquet import (
    write_communication,
    write_evaluations,
    write_losses,
)
from fedadapt.simulations.results.summary import summarise, write_summary

ADAPT = "none,adabn-s,fine-tune"


class Page(html.parser.HTMLParser):
    """A page's tags, attributes, scripts and visible text, and the cells of each row of a table."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.text = [], [], [], ""
        self.rows, self._in_cell = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data


def finish(folder, rows, entries=(), means=(), **config):
    """A folder as a finished run leaves it."""
    config = RunConfig(adapt=ADAPT, **config)
    (folder / "config.toml").write_text(tomli_w.dumps(config.to_mapping()))
    metadata = {"name": config.benchmark, "sizes": list(range(500))}
    (folder / "manifest.json").write_text(json.dumps({"hash": "abc123", "facts": metadata}))
    write_evaluations(folder, rows)
    write_communication(folder, entries)
    write_losses(folder, means)
    write_summary(folder, summarise(config, "abc123", rows, entries, means, 1.0))
    return folder


def read(folder):
    return write_report(folder).read_text("utf-8")
