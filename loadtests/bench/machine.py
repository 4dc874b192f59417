"""What the figures were measured on: processor, its vector instructions, cores, system, Python."""

import os
import platform
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
VECTORS = ("avx", "amx", "fma", "f16c", "sse4", "asimd", "sve", "i8mm", "bf16")


def machine() -> dict[str, Any]:
    """As JSON; what the system does not tell is left empty."""
    info = _cpuinfo(CPUINFO.read_text()) if CPUINFO.exists() else {}
    flags = info.get("flags", info.get("Features", "")).split()
    return {
        "processor": info.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "flags": sorted(flag for flag in flags if flag.startswith(VECTORS)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _cpuinfo(text: str) -> dict[str, str]:
    """Of the first processor."""
    lines = text.partition("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}
