"""Reports by the number of lines: seconds and memory to make one, its size, and how long Chromium takes to open it.

Each is made by the program in a process of its own, libraries and all (0.2 GiB); memory is the most that the process
held. Chromium is asked where playwright and a browser are installed: until the page has loaded and is drawn, and to
answer one move of the pointer. Prints a table in Markdown. Run with nothing else on the machine. `--smoke` does it with
few lines, in seconds.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from landscape.core.provenance import Source
from landscape.store.results import Result

CODE = """
import sys
from landscape.cli import main
try:
    main(sys.argv[1:], standalone_mode=False)
finally:
    lines = open("/proc/self/status").read().splitlines()
    print(*(line.split()[1] for line in lines if line.startswith("VmHWM:")), file=sys.stderr)
"""

MOVE = """() => {
    const svg = document.querySelector(".curves"), box = svg.getBoundingClientRect(), start = performance.now();
    for (let k = 0; k < 50; k++) svg.dispatchEvent(new PointerEvent("pointermove", {
        bubbles: true, clientX: box.left + (0.2 + 0.012 * k) * box.width, clientY: box.top + box.height / 2 }));
    return (performance.now() - start) / 50;
}"""


def walked(lines: int, points: int) -> Result:
    """Lines from one start to many ends, with hills of random heights and roughness."""
    random, alpha = np.random.default_rng(0), np.linspace(0, 1, points)
    height, end = random.lognormal(size=(lines, 1)), random.lognormal(-4, 1, (lines, 1))
    loss = 1e-4 * (1 - alpha) + end * alpha + height * np.sin(np.pi * alpha) ** 2
    loss *= random.uniform(0.9, 1.1, loss.shape)
    return Result(
        "line",
        {"line": np.arange(lines), "alpha": alpha},
        values={"loss": loss},
        columns={
            "done": np.ones(lines, dtype=bool),
            "l2": np.full(lines, 10.0),
            "from_member": np.zeros(lines, dtype=np.int64),
            "to_member": np.arange(1, lines + 1),
        },
        sources=[
            Source("landmark:top", None, None, "t", "top"),
            *(Source("run/step-00000009.safetensors", 9, k, "d", f"seed {k}") for k in range(lines)),
        ],
        about={"title": "Hills", "loss_unit": "nats"},
    )


def made(folder: Path) -> tuple[float, float]:
    """Seconds and the most memory in GiB of making a page."""
    command = [sys.executable, "-c", CODE, "report", "walk.h5", "--force"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"void: landscape report failed: {done.stderr.strip()[-2000:]}")
    return time.perf_counter() - start, int(done.stderr.split()[-1]) / 2**20


def opened(page: Path) -> str:
    """Seconds until Chromium shows a page, and milliseconds of a move of the pointer; a dash where it is not there."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with contextlib.suppress(ImportError):
        from playwright.sync_api import sync_playwright

        if program is not None:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
                view = browser.new_page(viewport={"width": 1280, "height": 900})
                view.goto("about:blank")
                start = time.perf_counter()
                view.goto(page.as_uri())
                view.evaluate("new Promise(requestAnimationFrame)")
                seconds = time.perf_counter() - start
                move = view.evaluate(MOVE)
                browser.close()
                return f"{seconds:.2f} s, {move:.1f} ms"
    return "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="Few lines, in seconds: does it run?")
    parser.add_argument("--lines", type=int, nargs="*", default=[100, 1000, 10**5, 10**6], help="Numbers of lines.")
    parser.add_argument("--points", type=int, default=51, help="Points of a line.")
    given = parser.parse_args()
    print(f"| lines of {given.points} points | made in | most memory | page | opens in, a move |")
    print("|---|---|---|---|---|")
    for lines in [20, 2500] if given.smoke else given.lines:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            walked(lines, given.points).save(folder / "walk.h5")
            seconds, memory = made(folder)
            page = folder / "report.html"
            size = page.stat().st_size / 1e6
            print(f"| {lines:,} | {seconds:.1f} s | {memory:.2f} GiB | {size:.2f} MB | {opened(page)} |", flush=True)


if __name__ == "__main__":
    main()
