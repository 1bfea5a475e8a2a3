"""What server and clients with own data agreed on, so that a run that goes on has the same."""

import json
from pathlib import Path
from typing import NamedTuple

from fedadapt.datasets.own.schema import Schema
from fedadapt.errors import InputError
from fedadapt.files import write_atomically
from fedadapt.flower.roster import Roster

FILE = "agreement.json"


class Agreement(NamedTuple):
    """Who takes part under which number, and what all data are used as."""

    roster: Roster
    schema: Schema

    @staticmethod
    def read(folder: Path) -> "Agreement":
        """Read that of a run folder.

        Raises:
            InputError: There is none, or it is damaged.

        """
        path = folder / FILE
        try:
            told = json.loads(path.read_text("utf-8"))
            roster = Roster(tuple(told["fingerprints"]), tuple(told["names"]))
            return Agreement(roster, Schema.from_text(told["schema"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: {error}; without it the run cannot go on") from None

    def write(self, folder: Path) -> None:
        """Write it into a run folder."""
        told = {
            "fingerprints": self.roster.fingerprints,
            "names": self.roster.names,
            "schema": self.schema.to_text(),
        }
        write_atomically(folder / FILE, json.dumps(told).encode())
