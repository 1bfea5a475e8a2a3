"""What every command prints on a terminal of 80 and of 120 columns: whole words, whole numbers.

All commands run in one process on one pseudo-terminal, whose width is changed between them; what
they print is read by a terminal emulator, as a person would see it.
"""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections import Counter
from pathlib import Path

import pytest

from fedadapt.cli import main

pyte = pytest.importorskip("pyte")
pytestmark = pytest.mark.timeout(600)  # one process prints all of it, on a busy machine too

WIDE = 400  # columns: nothing needs to wrap there
WIDTHS = (80, 120)
RUN = ["simulate", "--clients", "4", "--rounds", "1", "--model", "mlp", "--adapt", "none,fine-tune",
       "--evaluate-every", "1", "--workers", "0"]  # fmt: skip
COMMANDS = [
    [], ["-V"],
    *([name, "--help"] for name in (
        "simulate", "compare", "tune", "demo", "report", "watch", "reproduce", "predict", "export",
        "new", "ledger", "leaks", "privacy-inversion", "deploy", "benchmarks", "models",
        "strategies", "adaptations")),
    *(["deploy", name, "--help"] for name in main.commands["deploy"].commands),
    ["strategies"], ["strategies", "pfa"], ["adaptations"], ["adaptations", "fine-tune"],
    ["models"], ["models", "cnn"], ["benchmarks"], ["benchmarks", "digits-classes"],
    ["simulate", "--strategy", "fedavgg"], ["ledger", "--explain"],
]  # fmt: skip

LISTS = ("", "deploy --help", "strategies", "adaptations", "models", "benchmarks")

CHILD = """
import fcntl, json, os, struct, sys, termios
from fedadapt.cli import main
for width, arguments in json.loads(sys.argv[1]):
    sys.stdout.flush()
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 200, width, 0, 0))
    print("\\x1e", end="", flush=True)
    try:
        main(arguments, prog_name="fedadapt")
    except SystemExit:
        pass
    sys.stdout.flush()
    print("\\x1e", end="", flush=True)
"""


def captured(calls, folder: Path) -> list[str]:
    """What each call of (width, arguments) sends to the terminal, byte for byte."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 200, 80, 0, 0))
    names = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "FEDADAPT_DATA")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(calls)],
        stdin=follower, stdout=follower, stderr=follower, cwd=folder, close_fds=True,
        env={**environment, "TERM": "xterm-256color", "LANG": "C.UTF-8", "PYTHONUTF8": "1",
             "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    os.close(follower)
    data = b""
    while True:
        try:
            block = os.read(leader, 65536)
        except OSError:  # the child has closed its side
            break
        if not block:
            break
        data += block
    os.close(leader)
    assert child.wait() == 0, data.decode()[-2000:]
    return data.decode().split("\x1e")[1::2]


def seen(text: str, width: int) -> tuple[list[str], list[str]]:
    """The lines that are on the screen at the end, and those that had to be broken by it."""
    screen = pyte.Screen(width, 2 + text.count("\n") + len(text) // width)
    pyte.Stream(screen).feed(text)
    lines = [line.rstrip() for line in screen.display]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    printed = [line.rsplit("\r", 1)[-1] for line in plain.replace("\r\n", "\n").split("\n")]
    return [line for line in lines if line], [
        line for line in printed if len(line.rstrip()) > width
    ]


def words(lines: list[str]) -> Counter[str]:
    """Words and numbers, without rules and boxes."""
    return Counter(re.findall(r"[^\s─━│┃╭╮╰╯]+", " ".join(lines)))


@pytest.fixture(scope="module")
def screens(tmp_path_factory):
    calls = [(width, arguments) for arguments in COMMANDS for width in (WIDE, *WIDTHS)]
    texts = captured(calls, tmp_path_factory.mktemp("terminal"))
    assert len(texts) == len(calls)
    return {(" ".join(a), w): seen(text, w) for (w, a), text in zip(calls, texts, strict=True)}


def joined(lines: list[str]) -> list[str]:
    """A break after a hyphen splits no word."""
    return re.sub(r"(?<=\w-)\n\s*", "", "\n".join(lines)).split("\n")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "command", [" ".join(arguments) for arguments in COMMANDS if " ".join(arguments) not in LISTS]
)
def test_no_word_is_split_and_nothing_is_lost(screens, command, width):
    lines, broken = screens[command, width]
    wide, _ = screens[command, WIDE]
    assert not broken
    assert lines
    missing = words(joined(wide)) - words(joined(lines))
    assert not missing, "\n".join(lines)
    assert not any("…" in word for word in words(lines) - words(wide))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", LISTS)
def test_a_list_has_a_line_each_and_says_where_one_is_shortened(screens, command, width):
    """All of one is shown with its name, so a line may end early; it does so after a word."""
    lines, broken = screens[command, width]
    wide, _ = screens[command, WIDE]
    assert not broken
    assert len(lines) >= len(wide)
    text = " ".join(" ".join(lines).split())
    for whole in wide:
        said = " ".join(whole.split()) in text  # prose goes on in the next line
        assert said or any(is_beginning(line.split(), whole.split()) for line in lines), whole


def is_beginning(found: list[str], whole: list[str]) -> bool:
    """Whether a line is all of another one, or its first words and a mark that it goes on."""
    if found == whole or not found[-1].endswith("..."):
        return found == whole
    kept = [*found[:-1], *([found[-1].removesuffix("...")] if found[-1] != "..." else [])]
    return len(kept) >= 2 and kept == whole[: len(kept)]


def numbers(lines: list[str]) -> Counter[str]:
    return Counter(re.findall(r"\d+\.\d+", " ".join(lines)))


SMALL = RUN[1:]
TINY = ["--clients", "2", "--examples", "20", "--epochs", "1", "--lr", "0.02"]
MAKING = {
    "run": [*RUN, "--out", "r"],
    "compare": ["compare", "--strategies", "fedavg; ditto lam=0.5", "--seeds", "1,2", *SMALL,
                "--out", "c"],
    "reproduce": ["reproduce", "dua-digits", "--rounds", "2", "--seeds", "7", *TINY, "--out", "d"],
    "tune": ["tune", "--strategies", "fedavg; ditto", "--space", "lr=0.1", "--seeds", "11", *SMALL,
             "--out", "t"],
}  # fmt: skip
"""Commands that take seconds: run once, at 80 columns."""

SHOWING = {
    "compare": ["compare", "c"],
    "reproduce": MAKING["reproduce"],  # its runs are there: it prints their tables
    "tune": MAKING["tune"],
    "leaks": ["leaks", "--clients", "4"],
    "predict": ["predict", "r", "--client", "1", "picture.png"],
    "export": ["export", "r", "--client", "1", "--format", "safetensors", "--out", "model"],
    "report": ["report", "r", "c"],
}
"""Commands whose output at any width holds what it holds on a wide terminal."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What each of them prints, by its name and the width; and where."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("made")
    Image.new("L", (8, 8), 128).save(folder / "picture.png")
    calls = {(name, 0): (80, words) for name, words in MAKING.items()}
    calls |= {(n, w): (w, words) for n, words in SHOWING.items() for w in (WIDE, *WIDTHS)}
    texts = captured(list(calls.values()), folder)
    assert len(texts) == len(calls)
    return {key: seen(text, calls[key][0]) for key, text in zip(calls, texts, strict=True)}, folder


@pytest.mark.slow
def test_a_run_tells_every_accuracy_and_where_its_report_is(made):
    screens, folder = made
    lines, broken = screens["run", 0]
    assert not broken
    text = "\n".join(lines)
    assert "report   r/report.html" in text
    summary = json.loads((folder / "r" / "summary.json").read_text("utf-8"))
    for label, of_label in summary["accuracy"].items():
        assert label in text
        assert f"{100 * of_label['mean']:.2f}" in numbers(lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MAKING if name != "run"])
def test_what_is_made_fits_80_columns_and_says_where_it_is(made, name):
    screens, _ = made
    lines, broken = screens[name, 0]
    assert not broken
    out = MAKING[name][-1]
    assert f"{out}/" in "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", SHOWING)
def test_tables_hold_every_word_and_number_at_any_width(made, name, width):
    screens, _ = made
    wide, _ = screens[name, WIDE]
    lines, broken = screens[name, width]
    assert not broken
    assert wide
    assert not set(numbers(wide)) - set(numbers(lines)), "\n".join(lines)
    missing = set(words(joined(wide))) - set(words(joined(lines)))
    assert not missing, "\n".join(lines)
    assert not any("…" in word for word in set(words(lines)) - set(words(wide)))
