"""What takes seconds to import, for the server whose forks are the ranks of a test."""

from __future__ import annotations

import model.parallel.pipeline
import stages.pretrain.engine

__all__ = ["model", "stages"]
