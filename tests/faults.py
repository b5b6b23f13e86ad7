"""A campaign of faults: what is lost, accepted wrongly or told badly when programs die, files change and writers meet?

    python tests/faults.py [--kills 1000] [--mutations 10000] [--lines 1000] [--pairs 200] [--signals 100]
        [--workers 100] [--seed 0]

Every trial runs a verb in a process of its own, forked from this one, in a folder of its own. The time of day and the
command that files record are the same in all, so that a run that was interrupted and repeated must give the same bytes
as one that was not.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import click
import torch
from safetensors.torch import load_file

from landscape.cli import main as program
from landscape.cli.commands import _VERBS
from landscape.core import provenance

#: Seconds after which a trial hangs, and what a trial leaves that says so. Bytes of address space of a trial.
HANGS, HUNG, SPACE = 60, "hung", 16 * 2**30

#: Names of what is no output: locks of the dead, which the next writer takes over.
LOCKS = (".lock",)


@dataclasses.dataclass(frozen=True)
class Verb:
    """A command with what must lie there before it, made by other commands."""

    name: str
    line: str
    before: tuple[str, ...] = ()


_RUN = "train life --seeds 0:3 --batches 6 -o run"
_MANY = "train life --seeds 0:24 --batches 6 -o run"
_WALK = "walk --from presolve --to run --points 5 -o walk.h5"
VERBS = (
    Verb("train", "train life --seeds 0:3 --batches 6 --save-at 0,3,6 --resume-every 0 -o out"),
    Verb("train --force", "train life --seeds 0:3 --batches 6 --resume-every 0 -o run --force", (_RUN,)),
    Verb("sweep", "sweep life --grid lr=1e-2,1e-3 --seeds 0:2 --batches 3 --resume-every 0 -o out"),
    Verb("import", "import foreign.pt --problem life -o out", (_RUN,)),
    Verb(
        "import --force",
        "import foreign.pt --problem life -o out --force",
        (_RUN, "import foreign.pt --problem life -O m_factor=1 -o out"),
    ),
    Verb("walk", "walk --from presolve --to run --points 5 -o out.h5", (_RUN,)),
    Verb("walk --force", "walk --from presolve --to run --points 7 -o walk.h5 --force", (_RUN, _WALK)),
    Verb("walk --certify", "walk --from presolve --to run --points 5 --certify 1e-2 -o out.h5", (_RUN,)),
    Verb("plane", "plane --through presolve run/#0 run/#1 --points 3 -o out.h5", (_RUN,)),
    Verb("connect", "connect --from run/#0 --to run/#1 --budget 400 --points 11 -o out.h5", (_RUN,)),
    Verb("polish", "polish run/#0 --steps 10 -o out", (_RUN,)),
    Verb("average", "average run/#0 run/#1 -o out.safetensors", (_RUN,)),
    Verb("analyse", "analyse barriers walk.h5 -o out.json", (_RUN, _WALK)),
    Verb("plot", "plot walk walk.h5 -o out.png", (_RUN, _WALK)),
    Verb("plot --force", "plot walk walk.h5 -o out.png --force", (_RUN, _WALK, "plot walk walk.h5 -o out.png")),
)

#: Verbs that read, by the file that they read.
READERS = {
    "run/run.json": (
        "info run",
        "analyse outcomes run",
        "walk --from presolve --to run --points 3 -o new.h5",
    ),
    "run/step-00000006.safetensors": (
        "info run",
        "analyse clusters run",
        "walk --from presolve --to run --points 3 -o new.h5",
    ),
    "run/optimizer.safetensors": ("train life --start run --batches 8 --seeds 0:3 -o new",),
    "walk.h5": ("info walk.h5", "analyse barriers walk.h5", "plot walk walk.h5 -o new.png"),
    "cut/resume.safetensors": ("train life --seeds 0:3 --batches 6 --resume-every 0 -o cut",),
    "foreign.pt": (
        "walk --from presolve --to foreign.pt --points 3 -o new.h5 --problem life",
        "import foreign.pt --problem life -o new",
    ),
    "config.toml": ("train life --config config.toml -o new",),
}


def quiet() -> None:
    """A child's streams, time and limits; every child is told from others by its folder alone."""
    os.setpgid(0, 0)
    provenance.stamp = lambda: {"created": "2000-01-01T00:00:00+00:00", "command": ["landscape"], "versions": {}}  # type: ignore[assignment]
    resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(1)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a trial ended: its exit status, negative for a signal, what it printed, and its seconds."""

    status: int
    out: str
    err: str
    seconds: float

    @property
    def clean(self) -> bool:
        """One of the documented exit statuses, without a traceback or a mistake of ours."""
        told = "Traceback" not in self.err and "unexpected, " not in self.err
        return told and self.status in (0, 1, 2, 75, 130)


def begin(line: str | Sequence[str], folder: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Start a verb in a folder; its output goes to files there, in `.said`."""
    arguments = line.split() if isinstance(line, str) else list(line)
    said = folder.with_name(f"{folder.name}.said")
    said.mkdir(exist_ok=True)
    if child := os.fork():
        return child
    try:
        os.chdir(folder)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        quiet()
        prepare()
        program(arguments, prog_name="landscape")
    except SystemExit as error:
        sys.stdout.flush()
        os._exit(error.code if isinstance(error.code, int) else 1)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(99)
    os._exit(98)


def wait(child: int, folder: Path, since: float, limit: float = HANGS) -> Ended:
    """The end of a verb, by force if it takes too long."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() - since > limit:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Ended(97, "", HUNG, limit)
        time.sleep(0.001)
    said = folder.with_name(f"{folder.name}.said")
    files = [said / name for name in ("out", "err")]  # which a child that was killed at once has not
    out, err = (file.read_text(errors="replace") if file.exists() else "" for file in files)
    return Ended(os.waitstatus_to_exitcode(status), out, err, time.monotonic() - since)


def run(line: str | Sequence[str], folder: Path, prepare: Callable[[], None] = lambda: None) -> Ended:
    """Run a verb to its end."""
    since = time.monotonic()
    return wait(begin(line, folder, prepare), folder, since)


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of all files, by name; of locks nothing."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.endswith(LOCKS)
    }


@contextlib.contextmanager
def copied(folder: Path) -> Iterator[Path]:
    """A folder like another, for one trial."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as new:
        place = Path(new) / "here"
        shutil.copytree(folder, place, symlinks=True)
        yield place


def prepared(verb: Verb, root: Path) -> Path:
    """The folder that a verb begins in."""
    folder = root / verb.name.replace(" ", "").replace("-", "") / "begun"
    folder.mkdir(parents=True)
    for line in verb.before:
        done = run(line, folder)
        assert done.status == 0, (line, done)
        foreign(folder)
    return folder


def foreign(folder: Path) -> None:
    """A checkpoint as other programs write it, if there is a run."""
    if (path := folder / "run" / "step-00000006.safetensors").exists():
        torch.save({name: tensor[0].clone() for name, tensor in load_file(path).items()}, folder / "foreign.pt")


def counting(folder: Path, at: int | None = None, report: Path | None = None) -> Callable[[], None]:
    """Count what a verb does to files in its folder, and kill it before number `at`; the count goes to `report`."""
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def prepare() -> None:
        seen = [0]
        inside = os.fspath(folder.resolve())
        here = os.path.realpath(os.getcwd())

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event == "open":
                path, _, flags = arguments
                changes = isinstance(flags, int) and bool(flags & writes)
            elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.link"):
                path, changes = arguments[0], True
            else:
                return
            if not changes or not isinstance(path, str | bytes | os.PathLike):
                return
            if not os.path.join(here, os.fsdecode(path)).startswith(inside):
                return
            seen[0] += 1
            if seen[0] - 1 == at:
                os.kill(os.getpid(), signal.SIGKILL)
            if report is not None:
                os.pwrite(descriptor, f"{seen[0]:8d}".encode(), 0)

        descriptor = os.open(report, os.O_RDWR | os.O_CREAT) if report is not None else -1
        sys.addaudithook(hook)

    return prepare


class Table:
    """What was tried of each kind, and what came of it; the first few of what went wrong."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.wrong: list[str] = []

    def add(self, kind: str, outcome: str, said: str = "") -> None:
        """Count a trial; all outcomes but `ok...` are wrong."""
        self.counts.setdefault(kind, Counter())[outcome] += 1
        if not outcome.startswith("ok"):
            self.wrong.append(f"{kind}: {outcome}: {said}"[:600])

    def print(self) -> None:
        """A row a kind."""
        names = sorted({name for count in self.counts.values() for name in count})
        print(f"{'kind':30} {'tried':>7} " + " ".join(f"{name:>18}" for name in names))
        for kind, count in self.counts.items():
            print(f"{kind:30} {count.total():7} " + " ".join(f"{count[name]:18}" for name in names))
        for line in self.wrong[:40]:
            print(line)


def repeated(table: Table, kind: str, verb: Verb, place: Path, whole: dict[str, str], how: str) -> None:
    """Give the same command again, and compare all bytes with those of a call that nothing interrupted."""
    there = contents(place)
    already = all(there.get(name) == digest for name, digest in whole.items())
    again = run(verb.line, place)
    if already and again.status == 1 and ("exists" in again.err or "finished" in again.err):
        table.add(kind, "ok, was done")
    elif again.status != 0:
        table.add(
            kind, "refused" if again.clean else "badly told", f"{verb.line} {how}: {again.status} {again.err[-300:]}"
        )
    elif (now := contents(place)) != whole:
        table.add(
            kind,
            "other bytes",
            f"{verb.line} {how}: {[n for n in now.keys() | whole.keys() if now.get(n) != whole.get(n)]}",
        )
    else:
        table.add(kind, "ok, went on")


def kills(table: Table, root: Path, count: int, random_: random.Random) -> None:
    """Kill each verb before it changes a file, at each place in turn or at some, then at random times, and give the
    command again.
    """
    each = max(1, count // len(VERBS))
    for verb in VERBS:
        folder = prepared(verb, root)
        with copied(folder) as place:
            report = place.with_name("count")
            done = run(verb.line, place, counting(place, report=report))
            assert done.status == 0, (verb, done)
            events, whole = int(report.read_text()), contents(place)
        places = list(range(events)) if events <= each else sorted(random_.sample(range(events), each))
        for at in places:
            with copied(folder) as place:
                dead = run(verb.line, place, counting(place, at))
                if dead.status != -signal.SIGKILL:
                    table.add(f"kill {verb.name}", "not killed", f"{verb.line} at {at} of {events}: {dead}")
                    continue
                repeated(table, f"kill {verb.name}", verb, place, whole, f"killed at {at} of {events}")
        for _ in range(each - len(places)):
            with copied(folder) as place:
                since, until = time.monotonic(), random_.uniform(0, 1.1 * done.seconds)
                child = begin(verb.line, place)
                time.sleep(until)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                wait(child, place, since)
                repeated(table, f"kill {verb.name}", verb, place, whole, f"killed after {until:.3f} s")


def signals(table: Table, root: Path, count: int, random_: random.Random) -> None:
    """Send signals at any time, twice to some, and give the command again."""
    for verb in VERBS[:10]:
        folder = root / "signals" / verb.name.replace(" ", "").replace("-", "")
        folder.parent.mkdir(exist_ok=True)
        shutil.copytree(prepared(verb, root / "signals" / "prepared"), folder)
        with copied(folder) as place:
            done, whole = run(verb.line, place), contents(place)
        for _ in range(max(1, count // 10)):
            number = random_.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
            with copied(folder) as place:
                since = time.monotonic()
                child = begin(
                    verb.line, place, lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None
                )
                time.sleep(random_.uniform(0, 1.1 * done.seconds))
                for _ in range(random_.choice([1, 1, 2])):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, number)
                ended = wait(child, place, since)
                # Before the program listens a signal ends it as it ends any other.
                if not ended.clean and ended.status not in (-number, 128 + number):
                    table.add(f"{number.name}", "badly told", f"{verb.line}: {ended}")
                    continue
                repeated(table, number.name, verb, place, whole, f"{number.name} {ended.status}")


def mutated(content: bytes, name: str, random_: random.Random) -> tuple[str, bytes]:
    """A file with one thing changed."""
    how = random_.choice(
        ["bit", "bit", "byte", "cut", "zeros", "double", "word"] + ["field"] * (4 if name.endswith("json") else 0)
    )
    data, place = bytearray(content), random_.randrange(len(content))
    if how == "bit":
        data[place] ^= 1 << random_.randrange(8)
    elif how == "byte":
        data[place] = random_.randrange(256)
    elif how == "cut":
        del data[place:]
    elif how == "zeros":
        data[place : place + 512] = bytes(len(data[place : place + 512]))
    elif how == "double":
        data[place:place] = data[place : place + 64]
    elif how == "word":
        data[place : place + 8] = random_.randbytes(8)
    else:
        document = json.loads(content)
        at, key = document, random_.choice(list(document))
        while isinstance(at[key], dict) and at[key] and random_.random() < 0.8:
            at = at[key]
            key = random_.choice(list(at))
        value = random_.choice([None, -1, 1e308, "x", [], {}, True, 10**30, "$\\frac", "\x1b[2J", "absent"])
        if value == "absent":
            del at[key]
        else:
            at[key] = value
        return f"field {key} = {value!r}", json.dumps(document).encode()
    return f"{how} at {place}", bytes(data)


def mutations(table: Table, root: Path, count: int, random_: random.Random) -> None:
    """Change a file, and let the verbs that read it do so: an error, or what the unchanged file gives."""
    folder = root / "mutations" / "begun"
    folder.mkdir(parents=True)
    for line in (_RUN, _WALK):
        assert run(line, folder).status == 0
    cut = Verb("", "train life --seeds 0:3 --batches 6 --resume-every 0 -o cut")
    with copied(folder) as place:
        report = place.with_name("count")
        run(cut.line, place, counting(place, report=report))
        events = int(report.read_text())
    for at in range(events // 2, events):
        run(cut.line, folder, counting(folder, at))
        if (folder / "cut" / "resume.safetensors").exists():
            break
        shutil.rmtree(folder / "cut")
    foreign(folder)
    (folder / "config.toml").write_text('seeds = "0:3"\nbatches = 6\nlr = 0.01\nbatch_size = 32\noptimizer = "adam"\n')
    usual: dict[str, tuple[Ended, dict[str, str]]] = {}
    for lines in READERS.values():
        for line in lines:
            with copied(folder) as place:
                usual[line] = run(line, place), contents(place)
                assert usual[line][0].status == 0, (line, usual[line][0])
    trials = [(name, line) for name, lines in READERS.items() for line in lines]
    for number in range(count):
        name, line = trials[number % len(trials)]
        how, changed = mutated((folder / name).read_bytes(), name, random_)
        with copied(folder) as place:
            (place / name).write_bytes(changed)
            ended = run(line, place)
            kind, said = f"mutate {Path(name).name}", f"{line}, {how}: {ended.status} {ended.err[-300:]}"
            was, there = usual[line]
            mine, theirs = ({k: v for k, v in each.items() if k != name} for each in (contents(place), there))
            if not ended.clean:
                table.add(kind, HUNG if ended.err == HUNG else "badly told", said)
            elif ended.seconds > 10:
                table.add(kind, "slow", said)
            elif ended.status:
                table.add(kind, "ok, refused")
            elif changed == (folder / name).read_bytes() or (ended.out == was.out and mine == theirs):
                table.add(kind, "ok, the same")
            elif name.endswith((".toml", ".pt")):
                table.add(kind, "ok, another file")  # which nothing seals
            else:
                table.add(kind, "accepted", said)


#: What people and scripts may write where a value belongs.
VALUES = (
    "0", "-1", "1e999", "nan", "", " ", "x", "0:10", "10:0", "0:1:0", "a,b", "1,,2", "run", "walk.h5", "nowhere",
    "run/@9", "run/#x", "run/#0", "presolve", "..", "/", "/dev/null", "é", "$x^", "\x1b[31m", "%s{}", "--help",
    "1e-300", "99999999999999999999", "True", "null", "3x3", "1:2:3:4", "@", "#", "::", "*", "[", "life", "B3/S23",
    "json", "out.h5", "out.png", "1", "1000000", "10000000", "1000000000000", "0:10000000", "100000x100000",
    "lr=1e-300,1e300", "m_factor=1000000", "steps=1000000",
)  # fmt: skip


def lines(table: Table, root: Path, count: int, random_: random.Random) -> None:
    """Random command lines: options of a verb with odd values."""
    folder = root / "lines" / "begun"
    folder.mkdir(parents=True)
    for line in (_RUN, _WALK):
        assert run(line, folder).status == 0
    commands: list[tuple[list[str], click.Command]] = []

    def gather(names: list[str], command: click.Command) -> None:
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=names[-1] if names else "landscape")
            for name in command.list_commands(context):
                if (found := command.get_command(context, name)) is not None:
                    gather([*names, name], found)
        else:
            commands.append((names, command))

    gather([], program)
    for _ in range(count):
        names, command = random_.choice(commands)
        line = list(names)
        for parameter in random_.sample(command.params, min(len(command.params), random_.randrange(5))):
            if isinstance(parameter, click.Option):
                line.append(parameter.opts[0])
                if not parameter.is_flag:
                    line.append(random_.choice(VALUES))
            else:
                line.append(random_.choice(VALUES))
        if random_.random() < 0.7:
            line += [
                random_.choice(["run", "walk.h5", "presolve"]) for p in command.params if isinstance(p, click.Argument)
            ]
        with copied(folder) as place:
            ended = run(line, place)
        if ended.err == HUNG:
            table.add("command line", "ok, long work" if _is_long(line) else HUNG, " ".join(line))
        elif not ended.clean:
            table.add("command line", "badly told", f"{line}: {ended.status} {ended.err[-300:]}")
        else:
            table.add("command line", "ok, done" if ended.status == 0 else "ok, refused")


def _is_long(line: Sequence[str]) -> bool:
    """Work that takes as long as it was asked to: nothing hangs."""
    return line[0] in ("train", "sweep", "validate", "connect", "polish")


def pairs(table: Table, root: Path, count: int, random_: random.Random) -> None:
    """Two writers of one output at once: one is done, the other too or refused, and the bytes are those of one."""
    for verb in VERBS:
        base = root / "pairs" / verb.name.replace(" ", "").replace("-", "")
        folder = prepared(verb, base)
        with copied(folder) as place:
            assert run(verb.line, place).status == 0
            whole = contents(place)
        for _ in range(max(1, count // len(VERBS))):
            with copied(folder) as place:
                since = time.monotonic()
                second = place.with_name("second")
                os.symlink(place, second)
                children = [begin(verb.line, place)]
                time.sleep(random_.choice([0, 0.001, 0.01, 0.05, 0.1]))
                children.append(begin(verb.line, second))
                ended = [wait(child, where, since) for child, where in zip(children, (place, second), strict=True)]
                said = f"{verb.line}: {[(each.status, each.err[-200:]) for each in ended]}"
                if not all(each.clean for each in ended):
                    table.add(f"pair {verb.name}", "badly told", said)
                elif not any(each.status == 0 for each in ended):
                    table.add(f"pair {verb.name}", "both refused", said)
                elif contents(place) != whole:
                    table.add(f"pair {verb.name}", "mixed", said)
                else:
                    table.add(
                        f"pair {verb.name}",
                        "ok, one after another" if all(each.status == 0 for each in ended) else "ok, one refused",
                    )


#: What two workers do for a few seconds.
SHARED = (
    Verb("walk", "walk --from run --to run --pairs all --points 201 --workers 2 -o out.h5", (_MANY,)),
    Verb("plane", "plane --through run/#0 run/#1 run/#2 --points 101 --workers 2 -o out.h5", (_MANY,)),
    Verb("train", "train life --seeds 0:40 --batches 400 --resume-every 0.2 --workers 2 -o out"),
    Verb("sweep", "sweep life --grid lr=1e-1,1e-2,1e-3 --seeds 0:4 --batches 200 --workers 2 -o out"),
)


def unstamped(folder: Path) -> dict[str, str]:
    """`contents`, without when and by which command a run was begun: workers say the true time."""
    for file in folder.rglob("run.json"):
        document = json.loads(file.read_text())
        file.write_text(
            json.dumps({k: v for k, v in document.items() if k not in ("created", "command", "versions", "sha256")})
        )
    return contents(folder)


def workers(table: Table, root: Path, count: int, random_: random.Random) -> None:
    """Kill a worker at any time: the bytes are those of a call of which none was killed."""
    for verb in SHARED:
        folder = prepared(verb, root / "workers")
        with copied(folder) as place:
            done = run(verb.line, place)
            assert done.status == 0, (verb, done)
            whole = unstamped(place)
        for _ in range(max(1, count // len(SHARED))):
            with copied(folder) as place:
                since = time.monotonic()
                child, killed = begin(verb.line, place), 0
                time.sleep(random_.uniform(0, done.seconds))
                with contextlib.suppress(OSError):  # all may be over
                    crew = Path(f"/proc/{child}/task/{child}/children").read_text().split()
                    if crew:
                        os.kill(int(random_.choice(crew)), signal.SIGKILL)
                        killed = 1
                ended = wait(child, place, since)
                said = f"{verb.line}: {ended.status} {ended.err[-300:]}"
                if ended.status:
                    table.add(f"worker {verb.name}", HUNG if ended.err == HUNG else "refused", said)
                elif unstamped(place) != whole:
                    table.add(f"worker {verb.name}", "other bytes", said)
                else:
                    table.add(f"worker {verb.name}", "ok, went on" if killed else "ok, was done")


def main() -> None:
    """Run the campaign, print the table; exit status 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = {
        "kills": (kills, 1000),
        "signals": (signals, 200),
        "mutations": (mutations, 10000),
        "lines": (lines, 1000),
        "pairs": (pairs, 200),
        "workers": (workers, 100),
    }
    for name, (_, count) in kinds.items():
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"seed {given.seed}")
    table, began = Table(), time.monotonic()
    os.environ["LANDSCAPE_CONFIG_HOME"] = tempfile.mkdtemp()
    for verb in _VERBS:  # every child has them then
        program.get_command(click.Context(program), verb)
    try:
        for name, (kind, _) in kinds.items():
            if count := getattr(given, name):
                with tempfile.TemporaryDirectory() as root:
                    kind(table, Path(root), count, random.Random(given.seed))
    finally:
        table.print()
        print(f"{time.monotonic() - began:.0f} s")
    sys.exit(bool(table.wrong))


if __name__ == "__main__":
    main()
