"""The clients that may take part, by number: a file of the server, or whoever the SuperLink knows.

A client's number in a run is its line on the roster. Without one, clients are numbered in the order
of their fingerprints.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from fedadapt.client.identity import SHORT, is_fingerprint
from fedadapt.errors import InputError, shown

LONGEST_NAME = 40


@dataclass(frozen=True)
class Roster:
    """Clients by number."""

    fingerprints: tuple[str, ...]
    names: tuple[str, ...]  # by which tables and logs call them

    def __len__(self) -> int:
        return len(self.fingerprints)

    @staticmethod
    def read(path: Path) -> "Roster":
        """Read lines ``fingerprint name``; the name may be left out, ``#`` begins a comment.

        Raises:
            InputError: The file cannot be read, or a line is not of that form, or is there twice.

        """
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"roster: {shown(path)} cannot be read: {error}") from None
        fingerprints, names = [], []
        for number, line in enumerate(lines, 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            name = words[1] if len(words) == 2 else words[0][:SHORT]
            if (
                len(words) > 2
                or not is_fingerprint(words[0])
                or not name.isprintable()
                or len(name) > LONGEST_NAME
            ):
                raise InputError(
                    f"roster: {shown(path)}, line {number}: must be 64 hexadecimal digits and a "
                    f"name of at most {LONGEST_NAME} characters"
                )
            if words[0] in fingerprints or name in names:
                raise InputError(f"roster: {shown(path)}, line {number}: is there twice")
            fingerprints.append(words[0])
            names.append(name)
        if not fingerprints:
            raise InputError(f"roster: {shown(path)} names no client")
        return Roster(tuple(fingerprints), tuple(names))

    @staticmethod
    def of(fingerprints: Collection[str], most: int) -> "Roster":
        """Number clients by their fingerprints.

        Args:
            most: No more clients than this, the first ones; 0 for no limit.

        """
        chosen = tuple(sorted(fingerprints)[: most or None])
        length = SHORT  # fingerprints that begin alike are written out further
        while len({name[:length] for name in chosen}) < len(chosen):
            length += 1
        return Roster(chosen, tuple(name[:length] for name in chosen))
