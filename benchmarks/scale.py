"""Time and memory of each verb by the number of seeds, each in a process of its own: straight and flat, or not?

Life's networks of m = 1 are trained on exact data and walked to, and their barriers, outcomes and files read. Memory is
the most that the process held, libraries (0.3 GiB) among it. Prints a table in Markdown. Run with nothing else on the
machine. `--smoke` does it with few seeds, in seconds.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

CODE = """
import sys
from landscape.cli import main
try:
    main(sys.argv[1:], standalone_mode=False)
finally:
    lines = open("/proc/self/status").read().splitlines()
    print(*(line.split()[1] for line in lines if line.startswith("VmHWM:")), file=sys.stderr)
"""


def measured(arguments: Sequence[str], folder: Path) -> tuple[float, float]:
    """Seconds and the most memory in GiB of a verb."""
    start = time.perf_counter()
    command = [sys.executable, "-c", CODE, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"void: landscape {' '.join(arguments)} failed: {done.stderr.strip()[-2000:]}")
    return seconds, int(done.stderr.split()[-1]) / 2**20


def verbs(seeds: int, steps: int, points: int, engine: str) -> dict[str, list[str]]:
    """What is measured."""
    by = ["--engine", engine]
    walk = ["walk", "--from", "presolve", "--to", "run", "--points", str(points), "-o", "walk.h5"]
    train = f"train life --seeds 0:{seeds} --batches {steps} --save-at {steps} -o run".split()
    return {
        f"train, {steps} steps": [*train, *by],
        f"walk, {points} points": [*walk, *by],
        "analyse barriers": ["analyse", "barriers", "walk.h5"],
        "analyse outcomes": ["analyse", "outcomes", "run"],
        "info of the run": ["info", "run"],
        "info of the walk": ["info", "walk.h5"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="Few seeds, in seconds: does it run?")
    parser.add_argument("--seeds", type=int, nargs="*", default=[10**3, 10**4, 10**5], help="Numbers of seeds.")
    parser.add_argument("--steps", type=int, default=3, help="Steps of training.")
    parser.add_argument("--engine", default="auto", help="Of training and walks: auto, or fused (extra fast).")
    parser.add_argument("--points", type=int, default=5, help="Points of a line.")
    given = parser.parse_args()
    columns = [5, 50] if given.smoke else given.seeds
    print("| " + " | ".join(["verb", *(f"{seeds:,} seeds" for seeds in columns)]) + " |")
    print("|---" * (len(columns) + 1) + "|")
    rows: dict[str, list[str]] = {}
    for seeds in columns:
        with tempfile.TemporaryDirectory() as folder:
            for name, arguments in verbs(seeds, given.steps, given.points, given.engine).items():
                seconds, memory = measured(arguments, Path(folder))
                rows.setdefault(name, []).append(f"{seconds:.3g} s, {memory:.2f} GiB")
                print(seeds, name, rows[name][-1], file=sys.stderr, flush=True)
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
