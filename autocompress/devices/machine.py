"""Describes the machine of a measurement; stored with each latency."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

from autocompress.processors import usable_processors

FEATURES = (
    "sse4_2",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)
"""Processor features by which runtimes choose kernels, with the names of Linux."""


def too_many_threads(threads: int) -> list[str]:
    """Why this process cannot time ``threads`` threads; empty if it can."""
    if threads > (processors := usable_processors()):
        return [f"{threads} threads are asked for, but this process has {processors} processors"]
    return []


@cache
def machine() -> dict[str, Any]:
    """Processor, its features, processors that this process may use, and the system."""
    facts = _cpuinfo()
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return {
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "features": [feature for feature in FEATURES if feature in flags],
        "processors": usable_processors(),
        "system": f"{platform.system()} {platform.release()}",
    }


def _cpuinfo() -> dict[str, str]:
    """Keys and values of the first processor in /proc/cpuinfo; empty if there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.split(":", 1) for line in text.split("\n\n", 1)[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in lines}
