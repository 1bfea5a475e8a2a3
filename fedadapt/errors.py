"""The errors that end a run early, each with the exit code of the command line."""


class FedadaptError(Exception):
    """A message for the user: one line, no traceback."""

    exit_code = 1


class InputError(FedadaptError, ValueError):
    """Bad input, found before any work: the message says what was found and what is allowed.

    People who call the library may catch it as the ``ValueError`` it is. Inside the package an
    ``except ValueError`` must therefore not surround code that raises an ``InputError``.
    """

    exit_code = 2


class QuorumLostError(FedadaptError):
    """Too few clients gave a usable answer, too often."""

    exit_code = 3


class DivergedError(FedadaptError):
    """The model became non-finite."""

    exit_code = 4


class InterruptedRunError(FedadaptError):
    """The user stopped the run; a checkpoint is there."""

    exit_code = 5


class EvaluationFailedError(FedadaptError):
    """The run has trained, but no client could be evaluated at its end: there is no headline."""

    exit_code = 6


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
