"""Things by name: ours, those of installed packages, and anybody's ``module:Class``.

A registry is a table ``name -> "module:attribute"``. Nothing is imported before it is asked for,
and a name without something behind it cannot exist. Packages add names of their own with an entry
point of the registry's group; they rank equally with ours.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fedadapt.errors import InputError, unknown


@dataclass(frozen=True)
class Registry:
    """Names of one kind of thing.

    Args:
        kind: What they are, as messages call it: ``strategy``.
        group: The entry-point group of other packages: ``fedadapt.strategies``.
        ours: Name -> ``module:attribute`` of our own.

    """

    kind: str
    group: str
    ours: Mapping[str, str]

    def names(self) -> tuple[str, ...]:
        """All names that can be given; ours first. Nothing is imported."""
        theirs = sorted(point.name for point in self._points() if point.name not in self.ours)
        return (*self.ours, *dict.fromkeys(theirs))

    def path(self, name: str) -> str:
        """The ``module:attribute`` behind a name.

        Raises:
            InputError: There is none, or ``name`` is not of the form ``module:attribute``, or its
                module cannot be found.

        """
        if name in self.ours:
            return self.ours[name]
        for point in self._points():
            if point.name == name:
                return point.value
        if ":" not in name:
            raise unknown(self.kind, name, (*self.names(), "module:Class"))
        module, _, attribute = name.partition(":")
        if not all(part.isidentifier() for part in [*module.split("."), attribute]):
            raise InputError(f"{self.kind}: {name!r} is not of the form module:Class")
        if not _is_there(module):
            raise InputError(
                f"{self.kind}: there is no module {module!r} on the Python path; run from its "
                "folder or install it"
            )
        return name

    def name_of(self, thing: type) -> str:
        """The first name of a class: ours, an installed package's, or else ``module:Class``."""
        path = f"{thing.__module__}:{thing.__qualname__}"
        for name, ours in self.ours.items():
            if ours == path:
                return name
        theirs = sorted(point.name for point in self._points() if point.value == path)
        return theirs[0] if theirs else path

    def find(self, name: str) -> Any:
        """What a name stands for, imported now.

        Raises:
            InputError: See ``path``; or it cannot be imported.

        """
        path = self.path(name)
        try:
            return import_path(path)
        except Exception as error:  # a stranger's module may raise anything
            reason = (str(error).strip() or "no message").splitlines()[0]
            raise InputError(
                f"{self.kind}: {name}: cannot import {path}: {type(error).__name__}: {reason}"
            ) from error

    def _points(self) -> tuple[EntryPoint, ...]:
        return tuple(entry_points(group=self.group))


def import_path(path: str) -> Any:
    """Import ``module:attribute``; whatever the import raises is passed on."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module.split(".")[0]) is not None
    except (ImportError, ValueError):
        return False
