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


def follow(clone: Path, home: Path, log: Path) -> dict[str, float]:
    """Seconds by section, of following the page in a new clone at `clone`."""
    subprocess.run(["git", "clone", "--quiet", documents.ROOT, clone], check=True)
    home.mkdir(exist_ok=True)
    script = ["set -eu", "now() { date +%s.%N; }", "echo $(now) >&3"]
    for typed in sections().values():
        script += [*(f"{each} </dev/null" if "<<" not in each else each for each in typed), "echo $(now) >&3"]
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    command = ["bash", "-c", "exec 3>&1 1>&2\n" + "\n".join(script)]
    with log.open("w") as told:
        done = subprocess.run(
            command, cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=told, text=True, check=False
        )
    if done.returncode:
        sys.exit(f"{PAGE}: exit status {done.returncode}\n{log.read_text()[-3000:]}")
    times = [float(time) for time in done.stdout.split()]
    return {title: end - begin for title, begin, end in zip(sections(), times, times[1:], strict=False)}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        first, second = (follow(place / name, place / "home", place / f"{name}.log") for name in ("first", "second"))
        wanted = set(re.findall(r"-o (\S+\.(?:png|html))", documents.pages()[PAGE]))
        if missing := sorted(name for name in wanted if not (place / "second" / name).exists()):
            sys.exit(f"{PAGE}: nothing has made {', '.join(missing)}")
    print("| section | seconds | pip has kept its downloads |\n|---|---|---|")
    for title, seconds in first.items():
        print(f"| {title} | {seconds:.0f} | {second[title]:.0f} |")
    print(f"| all | {sum(first.values()):.0f} | {sum(second.values()):.0f} |")


if __name__ == "__main__":
    main()
