"""Questions about documents, steps and checkpoints; `Ledger` answers them."""

from ledger.query.ledger import Ledger

__all__ = ["Ledger"]
