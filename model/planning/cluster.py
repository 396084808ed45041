"""Accelerators by name, and clusters written as `NODESxGPUSxNAME`."""

from __future__ import annotations

import re
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Accelerator:
    """One kind of GPU: memory in GiB and dense tensor FLOP/s in FP16/BF16 with FP32 sums, from the makers' data sheets."""

    name: str
    memory_gib: int
    peak_flops: float

    @property
    def memory(self) -> int:
        """Bytes."""
        return self.memory_gib * GIB


ACCELERATORS = {
    gpu.name: gpu
    for gpu in (
        Accelerator("V100-32G", 32, 125e12),
        Accelerator("T4-16G", 16, 65e12),
        Accelerator("RTX2080Ti-11G", 11, 53.8e12),
        Accelerator("RTX3090-24G", 24, 71e12),
        Accelerator("RTX4090-24G", 24, 165.2e12),
        Accelerator("A100-40G", 40, 312e12),
        Accelerator("A100-80G", 80, 312e12),
        Accelerator("H100-80G", 80, 989.4e12),
        Accelerator("H200-141G", 141, 989.4e12),
    )
}
# As drivers name them; the H100's PCIe and NVL cards and the RTX 3090 Ti have other peaks and are not in the table.
_DRIVER_NAMES = {
    "V100-SXM": "V100",
    "Tesla T4": "T4",
    "2080 Ti": "RTX2080Ti",
    "RTX 3090": "RTX3090",
    "RTX 4090": "RTX4090",
    "A100": "A100",
    "H100 80GB HBM3": "H100",
    "H200": "H200",
}
_SPEC = re.compile(r"(\d+)x(\d+)x([A-Za-z0-9-]+)")


@dataclass(frozen=True)
class Cluster:
    """Equal nodes of equal GPUs."""

    nodes: int
    gpus_per_node: int
    accelerator: Accelerator

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.nodes * self.gpus_per_node

    @classmethod
    def parse(cls, text: str) -> Cluster:
        """Read `96x8xA100-40G`.

        Raises:
            ValueError: another form, or a GPU that is not in `ACCELERATORS`.
        """
        match = _SPEC.fullmatch(text)
        if match is None or match[3] not in ACCELERATORS or not int(match[1]) * int(match[2]):
            known = ", ".join(ACCELERATORS)
            raise ValueError(f"cluster {text!r} is not NODESxGPUSxNAME, as in 96x8xA100-40G; names: {known}")
        return cls(int(match[1]), int(match[2]), ACCELERATORS[match[3]])


def recognise(name: str, memory: int) -> Accelerator | None:
    """The GPU that a driver calls `name`, with `memory` bytes; None where its peak is not in the table."""
    if name.endswith(("3090 Ti", "H200 NVL")):
        return None
    kinds = [kind for known, kind in _DRIVER_NAMES.items() if known in name]
    sizes = [gpu for gpu in ACCELERATORS.values() if kinds and gpu.name.startswith(f"{kinds[0]}-")]
    near = [gpu for gpu in sizes if abs(memory / gpu.memory - 1) < 0.15]
    return near[0] if near else None
