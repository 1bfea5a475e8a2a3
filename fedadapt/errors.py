"""The errors that end a run early, each with the exit code of the command line."""

import sys
from unicodedata import category


class FedadaptError(Exception):
    """A message for the user: one line, no traceback."""

    exit_code = 1


class InputError(FedadaptError, ValueError):
    """Bad input, found before any work: the message says what was found and what is allowed.

    People who call the library may catch it as the ``ValueError`` it is. Inside the package an
    ``except ValueError`` must therefore not surround code that raises an ``InputError``.
    """

    exit_code = 2


class RefusedError(InputError):
    """What a client refuses, as the server may know it: a fixed word.

    The message is for the owner of the client and stays in its log, for it may tell of the data.
    """

    def __init__(self, word: str, message: str) -> None:
        """Refuse for the reason ``word``, a key of ``REFUSALS``: no other word travels."""
        self.word = word if word in REFUSALS else "bad-settings"
        super().__init__(message)


REFUSALS = {
    "no-data": "its node has neither images, nor data, nor a partition-id of the run",
    "no-state-dir": "its owner has not said where it may write: node config state-dir",
    "no-images": "its folder of pictures is missing, empty or cannot be read",
    "too-few-pictures": "it has too few pictures to train on, to adapt to and to be tested on",
    "unknown-class": "it has pictures of a class that is not among the run's",
    "bad-class-name": "one of its folders has a name that cannot be a class",
    "no-leave": "its owner does not allow that to be told: node config share",
    "no-schema": "the message does not say the classes and the shape of the pictures",
    "another-shape": "its data have another shape than the run's",
    "foreign-module": "the run names a module that its owner has not allowed: node config modules",
    "foreign-data": "the run names data that are not its owner's: node config benchmark",
    "not-its-run": "the run is of a benchmark, and the client has pictures of its own",
    "bad-settings": "it refuses what the run, its node or its files say; its log tells which",
}
"""Why a client can refuse, by the word that travels: what the server tells of it."""


class QuorumLostError(FedadaptError):
    """Too few clients gave a usable answer, too often."""

    exit_code = 3


class DivergedError(FedadaptError):
    """The model became non-finite."""

    exit_code = 4


class InterruptedRunError(FedadaptError):
    """The run was told to stop: Ctrl-C, SIGTERM or SIGHUP."""

    exit_code = 5


class EvaluationFailedError(FedadaptError):
    """The run has trained, but no client could be evaluated at its end: there is no headline."""

    exit_code = 6


class DiskFullError(FedadaptError, OSError):
    """There is no room for a file; an ``OSError`` for those who handle any trouble with files."""

    exit_code = 7


def ended_by_exit(error: SystemExit) -> FedadaptError:
    """Return the error for code of a run that called ``sys.exit``, with whatever code."""
    from traceback import extract_tb

    frames = extract_tb(error.__traceback__)
    # Weights & Biases, for one, puts a function of its own in the place of sys.exit: who called it?
    replaced = getattr(getattr(sys.exit, "__func__", sys.exit), "__code__", None)
    files = [frame.filename for frame in frames]
    if replaced and replaced.co_filename in files[1:]:
        del frames[files.index(replaced.co_filename, 1) :]
    where = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
    return FedadaptError(
        f"{where}called sys.exit({error.code!r}) in the middle of a run; code that a run uses has "
        "to return, or to raise an error"
    )


def one_line(text: object, limit: int = 300) -> str:
    """Return words of others as one line for a terminal or a log: no control characters, not long.

    What Unicode counts as a control or a format character, or as no character at all, becomes
    ``?``; white space becomes single spaces. None is no words.
    """
    words = "" if text is None else str(text)
    plain = "".join(
        c if not category(c).startswith("C") else " " if c.isspace() else "?" for c in words
    )
    line = " ".join(plain.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def shown(text: object) -> str:
    """A name of somebody else's in quotes, cut short, and without newlines or escapes."""
    word = str(text)
    return repr(word if len(word) <= 80 else f"{word[:77]}...")


def nearest(word: str, known: "list[str] | tuple[str, ...]") -> str:
    """A hint naming the closest known word, or an empty string."""
    from difflib import get_close_matches

    found = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def unknown(where: str, word: str, known: "list[str] | tuple[str, ...]") -> InputError:
    """The error for a name that is in no registry: lists what is."""
    return InputError(f"{where}: unknown {word!r}{nearest(word, known)}; known: {', '.join(known)}")


def need(module: str, what: str, extra: str = "simulation") -> None:
    """Refuse ``what`` where the module that it needs is not installed."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise InputError(f'{what} needs {module}; run pip install "fedadapt[{extra}]"')
