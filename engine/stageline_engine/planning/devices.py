"""Constants of devices for the cost model. All are assumptions: data sheets, scaled by what programs reach of them.

A prediction made with them ranks layer splits and shows proportions; seconds may be off by a factor of two.
"""

from __future__ import annotations

import msgspec

from stageline_engine.core.errors import ConfigurationError

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank computes with."""

    name: str
    memory_bytes: int | None
    """Memory of its own; None for a CPU rank, which shares the machine's."""
    bytes_per_second: float
    """Reading weights and KV from memory."""
    kv_passes: dict[str, float]
    """How long decode attention takes, in readings of the KV that it looks at, by dtype: 1 is a kernel at the limit."""
    flops: dict[str, float]
    """Floating-point operations per second of matrix products, by dtype."""
    layer_seconds: float
    """Fixed time of a layer in a step: launching its operations."""
    hop_seconds: float
    """Handing hidden states to the next stage, and likewise the tokens from the last stage back to the first."""
    hop_bytes_per_second: float
    collective_seconds: float
    """Fixed time of one all-reduce over the tensor-parallel ranks."""
    collective_bytes_per_second: float
    host_seconds: float
    """Work of the engine core between a result and the next plan that no other work hides."""
    constants: str
    """Where the constants come from, for the person who reads a plan."""


CPU_FLOPS_PER_THREAD = 45e9
"""float32 with AVX2 and pre-packed weights: two threads were measured at 92 GFLOP/s."""
CPU_BYTES_PER_SECOND_PER_THREAD = 11e9
CPU_KV_PASSES: dict[str, float] = {"float32": 2, "bfloat16": 3, "float16": 3}
"""float32 is read in place, at half of what memory gives: 5 GB/s measured on one thread. For the others a gather reads
and writes the blocks, and attention reads the copy."""
CPU_LAYER_SECONDS = 250e-6
"""A layer's Python and small operations: 6 to 8 ms measured for 30 layers of one row."""
CPU_16_BIT_SLOWDOWN = 8
"""A CPU without native bfloat16 converts every element."""

_GPU_BANDWIDTH_SHARE = 0.8
_GPU_FLOPS_SHARE = 0.5

_DATA_SHEETS = {
    # name: (GiB of memory, TB/s, dense TFLOP/s in 16 bits, TFLOP/s in float32)
    "B200": (180, 8.0, 2250, 75),
    "H200": (141, 4.8, 989, 67),
    "H100": (80, 3.35, 989, 67),
    "A100-80GB": (80, 2.04, 312, 19.5),
    "A100-40GB": (40, 1.56, 312, 19.5),
    "L40S": (48, 0.864, 362, 91),
    "L4": (24, 0.3, 121, 30),
    "A10": (24, 0.6, 125, 31),
    "T4": (16, 0.32, 65, 8),
}
GPU_NAMES = tuple(_DATA_SHEETS)


def cpu(threads: int) -> Device:
    """A rank that runs ``threads`` threads of a CPU."""
    rate = CPU_FLOPS_PER_THREAD * threads
    return Device(
        name=f"CPU, {threads} thread{'s' if threads > 1 else ''} per rank",
        memory_bytes=None,
        bytes_per_second=CPU_BYTES_PER_SECOND_PER_THREAD * threads,
        flops={"float32": rate, "bfloat16": rate / CPU_16_BIT_SLOWDOWN, "float16": rate / CPU_16_BIT_SLOWDOWN},
        kv_passes=CPU_KV_PASSES,
        layer_seconds=CPU_LAYER_SECONDS,
        hop_seconds=0.5e-3,
        hop_bytes_per_second=1e9,
        collective_seconds=0.3e-3,
        collective_bytes_per_second=1e9,
        host_seconds=0.5e-3,
        constants=f"assumed: {CPU_FLOPS_PER_THREAD / 1e9:.0f} GFLOP/s in float32 and "
        f"{CPU_BYTES_PER_SECOND_PER_THREAD / 1e9:.0f} GB/s per thread",
    )


def gpu(name: str) -> Device:
    """A rank on a GPU of the table; case and a missing ``-80GB`` do not matter.

    Raises:
        ConfigurationError: the table does not have it; names those that it has.
    """
    known = {key.lower(): key for key in _DATA_SHEETS}
    key = known.get(name.lower()) or known.get(f"{name.lower()}-80gb")
    if key is None:
        raise ConfigurationError("--gpus", name, f"give one of {', '.join(GPU_NAMES)}, or --memory")
    gib, terabytes, teraflops_16, teraflops_32 = _DATA_SHEETS[key]
    return Device(
        name=key,
        memory_bytes=int(gib * 2**30),
        bytes_per_second=terabytes * 1e12 * _GPU_BANDWIDTH_SHARE,
        flops={
            "bfloat16": teraflops_16 * 1e12 * _GPU_FLOPS_SHARE,
            "float16": teraflops_16 * 1e12 * _GPU_FLOPS_SHARE,
            "float32": teraflops_32 * 1e12 * _GPU_FLOPS_SHARE,
        },
        kv_passes=dict.fromkeys(DTYPE_BYTES, 1),
        layer_seconds=20e-6,
        hop_seconds=50e-6,
        hop_bytes_per_second=10e9,
        collective_seconds=10e-6,
        collective_bytes_per_second=100e9,
        host_seconds=0.3e-3,
        constants=f"assumed: {_GPU_BANDWIDTH_SHARE:.0%} of the data sheet's bandwidth, {_GPU_FLOPS_SHARE:.0%} of its "
        "FLOP/s, boundaries over a 100 Gb/s network, tensor parallelism inside one node",
    )
