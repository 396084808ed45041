"""The lineage explorer: one page that answers, without a server, which steps and checkpoints saw which document.

`documents` and `history` turn tables and journal into arrays, `columns` packs them into the page, `samples` follows single
samples from the fetched page to the masked row, `page` puts everything together. The page's scripts compute the order of
training by the formula of `ledger.order`, so nothing per sample stands in the page but which documents a sample holds.
"""

from stages.report.explorer.page import explorer

__all__ = ["explorer"]
