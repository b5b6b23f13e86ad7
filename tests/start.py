"""Follows docs/start.md to the letter and says how long it takes: `make start`.

Each block runs as it stands, one after another in one shell, in a fresh clone of what is committed, with an empty home
and no other programs than those of the system: nothing of this environment but where pip finds packages (`PIP_...`),
and nothing that pip has kept. Then all of it once more in another clone, with what pip has kept of the first: the
difference is the download. Prints a table in Markdown; exits with 1 at the first block that fails.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import documents

PAGE = "docs/start.md"


def sections() -> dict[str, list[str]]:
    """What a reader types, by the titles of the page; a block of Python is a file, or goes to `python`."""
    text = documents.pages()[PAGE]
    titles = {number: line[3:] for number, line in enumerate(text.splitlines(), 1) if line.startswith("## ")}
    found: dict[str, list[str]] = {}
    for example in documents.markdown(PAGE, text):
        typed = example.text
        if example.language == "python":
            typed = f"{f'cat > {example.file}' if example.file else 'python -'} <<'END'\n{typed}\nEND"
        found.setdefault(titles[max(line for line in titles if line < example.line)], []).append(typed)
    return found


def follow(clone: Path, home: Path, log: Path) -> dict[str, tuple[float, float]]:
    """Seconds, and seconds of processors, by section, of following the page in a new clone at `clone`."""
    subprocess.run(["git", "clone", "--quiet", documents.ROOT, clone], check=True)
    home.mkdir(exist_ok=True)
    script = ["exec 3>&1 1>&2", "set -eu", "now() { date +%s.%N >&3; times >&3; }", "now"]
    for typed in sections().values():
        script += [*(f"{each} </dev/null" if "<<" not in each else each for each in typed), "now"]
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    command = ["bash", "-c", "\n".join(script)]
    with log.open("w") as told:
        done = subprocess.run(
            command, cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=told, text=True, check=False
        )
    if done.returncode:
        sys.exit(f"{PAGE}: exit status {done.returncode}\n{log.read_text()[-3000:]}")
    lines = done.stdout.splitlines()  # of each moment: the time, the shell's own processor time, that of its children
    times = [float(line) for line in lines[::3]]
    busy = [sum(60 * float(m) + float(s) for m, s in re.findall(r"(\d+)m([\d.]+)s", line)) for line in lines[2::3]]
    spent = [(t2 - t1, b2 - b1) for t1, t2, b1, b2 in zip(times, times[1:], busy, busy[1:], strict=False)]
    return dict(zip(sections(), spent, strict=True))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        first, second = (follow(place / name, place / "home", place / f"{name}.log") for name in ("first", "second"))
        wanted = set(re.findall(r"-o (\S+\.(?:png|html))", documents.pages()[PAGE]))
        if missing := sorted(name for name in wanted if not (place / "second" / name).exists()):
            sys.exit(f"{PAGE}: nothing has made {', '.join(missing)}")
    print("| section | seconds | of processors | with what pip kept | of processors |\n|---|---|---|---|---|")
    for title in first:
        print(f"| {title} | {' | '.join(f'{seconds:.0f}' for seconds in (*first[title], *second[title]))} |")
    totals = [sum(column) for each in (first, second) for column in zip(*each.values(), strict=True)]
    print(f"| all | {' | '.join(f'{seconds:.0f}' for seconds in totals)} |")


if __name__ == "__main__":
    main()
