"""Programs in processes of their own, and the memory that they take."""

import subprocess
import sys
from pathlib import Path

import pytest

STATUS = Path("/proc/self/status")

# Not `ru_maxrss`: a process begins with that of its parent, which `exec` does not clear; workers of pytest are large.
PEAK = """
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
"""


def printed(program: str) -> int:
    """The number that a program prints; it may call `peak()`, its own most memory so far in bytes."""
    if not STATUS.exists():
        pytest.skip(f"needs {STATUS}")
    done = subprocess.run([sys.executable, "-c", PEAK + program], capture_output=True, text=True, check=True)
    return int(done.stdout)
