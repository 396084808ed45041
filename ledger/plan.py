"""The data plan (`data/pretrain/plan.json`): everything that turns a step of training into rows of packed samples."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ledger import LedgerError, canonical_json
from ledger.order import Int64, Order
from ledger.schedule import BatchRamp


@dataclass(frozen=True)
class DataPlan:
    """Order and batch ramp over one packed data set, for a number of steps.

    Attributes:
        order: which row each consumption index reads.
        ramp: which consumption indices each step takes.
        steps: length of the training.
        pack_manifest_sha256: SHA-256 of `data/pack/manifest.json`, the data set that the rows belong to.
    """

    order: Order
    ramp: BatchRamp
    steps: int
    pack_manifest_sha256: str

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the data of a step. `steps` is left out: a longer training begins with the same data."""
        deciding = {key: value for key, value in asdict(self).items() if key != "steps"}
        return hashlib.sha256(canonical_json(deciding).encode()).hexdigest()

    def rows(self, step: int) -> Int64:
        """Rows of the packed samples that `step` (from 0) trains on, in the order of consumption, shape [batch]."""
        first, end = self.ramp.consumed([step, step + 1])
        return self.order.rows(np.arange(first, end))

    def to_json(self) -> str:
        """The text of plan.json."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "plan.json") -> DataPlan:
        """The inverse of `to_json`.

        Raises:
            LedgerError: not JSON, or a field is missing, unknown or out of range.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            order, ramp = Order(**data.pop("order")), BatchRamp(**data.pop("ramp"))
            return cls(order=order, ramp=ramp, **data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LedgerError(f"{where}: not a data plan: {error}. Remedy: run the pretrain stage again") from error

    @classmethod
    def read(cls, path: Path) -> DataPlan:
        """The plan in a file; raises LedgerError as `from_json` does, or if the file is absent."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"), str(path))
        except FileNotFoundError as error:
            raise LedgerError(f"{path}: no such file. Remedy: run the pretrain stage, which writes it") from error
