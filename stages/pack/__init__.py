"""Packs token shards and instruction samples into training sequences, with provenance.

Reads:    data/encode (train), data/instruct
Writes:   data/pack: samples-*.arrow, pieces-*.parquet, pack.json (docs/data.md)
Params:   pack
Promises: every sample can be made again alone from (seed, epoch, sample), which `glm replay` does; each text token of a sample
          is traced to a document; with `truncation: keep_all` no target is cut; memory does not grow with the corpus; the
          bytes do not depend on the number of workers.

`model.masking` defines a sample, `kernel` makes many at once, `sources` finds their tokens, `shard` writes one shard of them,
`build` lays them out; `definition` makes any one again, `replay` shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.pack.params import Params

if TYPE_CHECKING:
    from stages._runner import StageIO

__all__ = ["Params", "run"]


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Pack every epoch, its self-supervised rows first, its instruction sequences behind; see `build`, which loads numba."""
    from stages.pack.build import build

    return build(params, io)
