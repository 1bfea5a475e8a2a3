"""How much privacy a client's noisy answers have cost: remembered over runs, restarts and kills.

Every noisy answer is a Gaussian release of noise multiplier z = sigma / sensitivity. Together they
are one of multiplier 1 / sqrt(sum 1 / z^2), exactly (Dong, Roth & Su 2022, corollary 3.3), so the
sum of 1 / z^2 is what is remembered of a data set, and epsilon is computed of it for any delta.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from fedadapt.client.differential_privacy import Guarantee, epsilon_of
from fedadapt.client.egress.policy import DpBudget, EgressError
from fedadapt.errors import InputError
from fedadapt.files import write_atomically

FORMAT = 1
PATIENCE = 60.0  # seconds to wait for another process that is spending
SLACK = 1e-9  # relative: a budget of exactly n answers is not refused for rounding


class Spent(NamedTuple):
    """Epsilon of a client's noisy answers together."""

    epsilon: float  # of all answers so far
    added: float  # by the last one; over all answers these sum to ``epsilon``


class PrivacyBudget:
    """What answers about one data set have cost; any number of processes may spend of it.

    The record is ``<folder>/privacy-spent.json``, readable by its owner only. It is written, and on
    the disk, before an answer leaves: a crash afterwards wastes budget and never exceeds it.
    """

    def __init__(self, folder: Path, data_set: str) -> None:
        """Find the record.

        Args:
            folder: The client's state folder.
            data_set: What stays the same as long as answers are about the same images.

        """
        self.path = folder / "privacy-spent.json"
        self._data_set = data_set

    def spend(self, charge: float, limit: DpBudget | None, delta: float) -> "Spent":
        """Debit a noisy answer before it leaves; what has been spent with it.

        Args:
            charge: 1 / z^2 of the answer.
            limit: The owner's; None: what is spent is remembered and never refused.
            delta: For epsilon, where there is no limit.

        Raises:
            EgressError: The answer would cost more than is left. Nothing is debited.
            InputError: The record is damaged, or cannot be written. Nothing may be answered.

        """
        if not (charge > 0 and math.isfinite(charge)):
            raise InputError(f"{self.path}: a charge of {charge}; it must be > 0 and finite")
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with FileLock(f"{self.path}.lock", timeout=PATIENCE, mode=0o600):
                return self._spend(charge, limit, delta)
        except Timeout:
            raise InputError(f"{self.path}: another process holds it") from None

    def spent(self, delta: float) -> float:
        """Epsilon of all answers so far; 0 if there was none."""
        charge = self._charge(self._read())
        return epsilon_of(charge, delta) if charge else 0.0

    def _spend(self, charge: float, limit: DpBudget | None, delta: float) -> "Spent":
        record = self._read()
        before = self._charge(record)
        total = before + charge
        if limit is not None and total > _most(limit) * (1 + SLACK):
            raise EgressError("egress: 'epsilon' is spent on this device")
        entry = record.setdefault(self._data_set, {"charge": 0.0, "answers": 0})
        entry["charge"], entry["answers"] = total, int(entry["answers"]) + 1
        text = json.dumps({"format": FORMAT, "data-sets": record}, indent=1, sort_keys=True)
        write_atomically(self.path, text.encode(), mode=0o600)
        at = delta if limit is None else limit.delta
        epsilon = epsilon_of(total, at)
        return Spent(epsilon, epsilon - (epsilon_of(before, at) if before else 0.0))

    def _charge(self, record: dict[str, Any]) -> float:
        return float(record.get(self._data_set, {"charge": 0.0})["charge"])

    def _read(self) -> dict[str, Any]:
        """By data set what was spent; {} where nothing ever was."""
        try:
            told = json.loads(self.path.read_text("utf-8"))
            if told["format"] != FORMAT:
                raise ValueError(f"format {told['format']}; this fedadapt reads {FORMAT}")
            record: dict[str, Any] = told["data-sets"]
            for entry in record.values():
                if not (0 < float(entry["charge"]) < math.inf and int(entry["answers"]) > 0):
                    raise ValueError("its numbers are impossible")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.path}: damaged ({error}); nothing that costs privacy is answered "
                "until it is mended"
            ) from None
        return record


def _most(limit: DpBudget) -> float:
    """The largest sum of 1 / z^2 that keeps within (epsilon, delta)."""
    return Guarantee(limit.epsilon, limit.delta).noise ** -2
