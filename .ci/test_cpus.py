"""Run the tests marked `bitwise` under each instruction set that this machine has, with one thread and with two.

PyTorch and MKL choose their kernels by the processor; here they are told to choose as on older ones.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path

#: Values of each setting, and the flag of /proc/cpuinfo that they need.
ATEN = {"default": "sse2", "avx2": "avx2", "avx512": "avx512f"}
MKL = {"SSE4_2": "sse4_2", "AVX2": "avx2", "AVX512": "avx512f"}
THREADS = (1, 2)


def main() -> int:
    """Exit status: 1 if tests fail under a setting."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    flags = {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split(":")[1].split()}
    if not flags:
        print("no /proc/cpuinfo with flags here: only the processor's own instruction sets are tried")
    aten = {"ATEN_CPU_CAPABILITY": available("ATEN_CPU_CAPABILITY", ATEN, flags)}
    mkl = {"MKL_ENABLE_INSTRUCTIONS": available("MKL_ENABLE_INSTRUCTIONS", MKL, flags)}
    if "GenuineIntel" not in text:
        print("left out: MKL_ENABLE_INSTRUCTIONS, which MKL heeds on Intel's processors alone")
        mkl = {}
    settings = {**aten, **mkl, "OMP_NUM_THREADS": [str(count) for count in THREADS]}
    failed = []
    for values in itertools.product(*settings.values()):
        chosen = {name: value for name, value in zip(settings, values, strict=True) if value is not None}
        name = " ".join(f"{key}={value}" for key, value in chosen.items())
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "-m", "bitwise", "--numprocesses", "auto", "tests"]
        if subprocess.run(
            command, env={**os.environ, "HYPOTHESIS_PROFILE": "few", "LANDSCAPE_UNCHECKED": "1", **chosen}, check=False
        ).returncode:
            failed.append(name)
    print(f"failed under {'; '.join(failed)}" if failed else "bitwise the same under each of them")
    return 1 if failed else 0


def available(setting: str, values: dict[str, str], flags: set[str]) -> list[str | None]:
    """The values that this processor can do, the rest said; one that leaves the choice to the library if none is."""
    if lacking := [value for value, flag in values.items() if flags and flag not in flags]:
        print(f"left out, which this processor lacks: {setting}={', '.join(lacking)}")
    return [value for value, flag in values.items() if flag in flags] or [None]


if __name__ == "__main__":
    sys.exit(main())
