"""The program as a user meets it: help, output, exit codes, and the one line of every error."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from click.testing import Result as Outcome

from landscape.cli import main
from landscape.cli.commands import _VERBS
from landscape.store.checkpoints import Run, read_tensors, write_tensors
from landscape.store.results import Result

Program = Callable[..., Outcome]

SMALL = ("--seeds", "0:3", "--batches", "5")


@pytest.fixture
def here(run: Run, tmp_path: Path) -> Path:
    """A copy of the small run as `checkpoints/small`, relative to the folder of the program."""
    path = Path("checkpoints/small")
    shutil.copytree(run.path, tmp_path / path)
    return path


def fails(result: Outcome, text: str, status: int = 1) -> None:
    """One clear line on stderr, nothing on stdout, no traceback."""
    assert result.exit_code == status, result.output
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert text in lines[0]
    assert result.stderr.splitlines()[-1] == lines[0]
    assert result.stdout == ""


def commands(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The program, its verbs, and their subcommands."""
    if not isinstance(command, click.Group):
        return [path]
    context = click.Context(command)
    found = [path]
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        found += commands(child, (*path, name))
    return found


@pytest.mark.parametrize("path", commands(main), ids=" ".join)
def test_every_command_has_help(landscape: Program, path: tuple[str, ...]) -> None:
    result = landscape(*path, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    assert len(result.stdout.splitlines()) > 5


@pytest.mark.parametrize("path", [path for path in commands(main) if path], ids=" ".join)
def test_every_option_says_what_it_does(path: tuple[str, ...]) -> None:
    command: click.Command | None = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    assert command is not None
    assert [o.name for o in command.params if isinstance(o, click.Option) and not o.help] == []


def test_the_readme_shows_every_verb() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    assert [verb for verb in _VERBS if f"`{verb}`" not in text] == []


def test_help_and_import_need_no_torch() -> None:
    code = "import sys, landscape.cli\n{}\nassert not {{'torch', 'numpy', 'scipy', 'matplotlib'}} & sys.modules.keys()"
    for body in ("", "landscape.cli.main(['--help'], standalone_mode=False)"):
        subprocess.run([sys.executable, "-c", code.format(body)], check=True, stdout=subprocess.DEVNULL)


def test_a_walk_loads_no_part_of_scipy_and_no_matplotlib(here: Path, landscape: Program) -> None:
    code = (
        "import gc, sys, landscape.cli\n"
        f"landscape.cli.main(['walk', '--from', 'presolve', '--to', '{here}', '-o', 'w.h5'], standalone_mode=False)\n"
        "assert gc.isenabled()\n"
        "print(*[f'scipy.{each}' for each in ('optimize', 'stats', 'special') if f'scipy.{each}' in sys.modules])\n"
        "print(*{'matplotlib'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["w.h5"]


@pytest.mark.slow
def test_from_training_to_figures(landscape: Program) -> None:
    result = landscape("train", "life", *SMALL, "-o", "checkpoints/first")
    assert result.exit_code == 0, result.output
    assert result.stdout == "checkpoints/first\n"
    assert "solved by 0 of 3" in result.stderr
    assert Run.open(Path("checkpoints/first")).steps() == [0, 1, 2, 5]

    result = landscape("walk", "--from", "presolve", "--to", "checkpoints/first/")
    assert result.exit_code == 0, result.output
    assert result.stdout == "analyses/presolve--first.h5\n"
    curves = Result.read(Path(result.stdout.strip()))
    assert len(curves) == 3
    assert curves.done.all()
    assert curves.about["landmarks"] == {"presolve": "presolve:hat"}

    result = landscape("analyse", "barriers", "analyses/presolve--first.h5")
    assert result.exit_code == 0, result.output
    assert "3 lines, 51 points each; loss in nats per cell" in result.stdout
    assert "above_chord: max over alpha of" in result.stdout
    (height,) = [line.split() for line in result.stdout.splitlines() if line.startswith("above_chord ")]
    assert height[4] == "-"
    document = json.loads(landscape("analyse", "barriers", "analyses/presolve--first.h5", "--json").stdout)
    assert len(document["barriers"]["above_chord"]) == 3

    result = landscape("analyse", "outcomes", "checkpoints/first", "-o", "outcomes.json")
    assert result.exit_code == 0, result.output
    assert "solved by 0 of 3 (0.0 %, 95 % interval 0.0 to 56.1 %)" in result.stdout
    assert json.loads(Path("outcomes.json").read_text())["solved"]["total"] == 3

    assert "agreement with truth tables" in landscape("analyse", "clusters", "checkpoints/first").stdout

    result = landscape("plot", "walk", "analyses/presolve--first.h5")
    assert result.stdout == "plots/presolve--first.png\nplots/presolve--first.svg\n"
    for verb, name in (
        ("outcomes", "checkpoints/first"),
        ("clusters", "checkpoints/first"),
        ("groups", "checkpoints/first"),
        ("rule", "B3/S23V"),
    ):
        result = landscape("plot", verb, name)
        assert result.exit_code == 0, result.output
        assert all(Path(path).stat().st_size > 1000 for path in result.stdout.split())

    result = landscape("verify", "checkpoints/first")
    assert result.exit_code == 0, result.output
    assert "512 of 512" in result.stdout

    for path, kind in (("analyses/presolve--first.h5", "curves of a walk"), ("checkpoints/first", "run")):
        assert landscape("info", path).stdout.startswith(f"kind: {kind}\n")
    file = "checkpoints/first/step-00000005.safetensors"
    assert json.loads(landscape("info", file, "--json").stdout)["parameters"] == 25


@pytest.mark.slow
def test_places_of_a_walk(landscape: Program, here: Path) -> None:
    for place, lines in (
        (f"{here}/@20", 24),
        (f"{here}/#7", 1),
        (f"{here}/@0#3", 1),
        (f"{here}/step-00000060.safetensors", 24),
    ):
        result = landscape("walk", "--from", "presolve", "--to", place, "--points", "3", "-o", "x.h5", "--force")
        assert result.exit_code == 0, result.output
        assert len(Result.read(Path("x.h5"), plane=False)) == lines
    result = landscape(
        "walk", "--from", f"{here}/@0", "--to", here, "--range", "-0.25:1.25", "--points", "7", "-o", "y.h5"
    )
    assert result.exit_code == 0, result.output
    assert Result.read(Path("y.h5"), plane=False).alpha.tolist() == [-0.25, 0, 0.25, 0.5, 0.75, 1, 1.25]
    result = landscape("walk", "--from", f"{here}/@0", "--to", f"{here}/#7", "--points", "2")
    assert result.stdout == "analyses/small@0--small-7.h5\n"


def test_plain_state_dicts_walk_with_a_problem(landscape: Program, run: Run) -> None:
    Path("theirs").mkdir()
    for seed in range(3):
        torch.save(run.checkpoint().stack.state_dict(seed), f"theirs/{seed}.pt")
    fails(
        landscape("walk", "--from", "presolve", "--to", "theirs"),
        "does not say its problem: name it with --problem, such as --problem my_module:NAME",
    )
    result = landscape("walk", "--from", "presolve", "--to", "theirs", "--problem", "life", "--points", "3")
    assert result.exit_code == 0, result.output
    curves = Result.read(Path("analyses/presolve--theirs.h5"), plane=False)
    assert [curves.sources[i].label for i in curves["to_member"]] == ["0", "1", "2"]


def test_options_from_a_file(landscape: Program) -> None:
    Path("options.toml").write_text('seeds = "0:2"\nbatches = 3\nm-factor = 2\nsigmoid = false\n')
    result = landscape("train", "life", "--config", "options.toml", "--batches", "1", "-o", "run")
    assert result.exit_code == 0, result.output
    document = Run.open(Path("run")).document
    assert document["training"]["batches"] == 1, "the command line has the last word"
    assert document["problem"]["config"]["m_factor"] == 2
    assert document["problem"]["config"]["sigmoid"] is False
    Path("options.toml").write_text("batchez = 3\n")
    fails(landscape("train", "life", "--config", "options.toml"), "no option 'batchez', did you mean batches?", 2)


@pytest.mark.parametrize(
    ("arguments", "text", "status"),
    [
        (("train", "lif"), "there is no problem 'lif': did you mean life?", 1),
        (("train", "my.module:X"), "cannot load problem 'my.module:X'", 1),
        (("train", "life", "--rule", "B3S23"), "'B3S23' is no rule", 1),
        (("train", "life", "--rule", "B3/S9V"), "counts 9 neighbours, but a cell has 4", 1),
        (("train", "life", "--seeds", "5:5"), "'5:5' is empty", 2),
        (("train", "life", "--seeds", "1,x"), "'x' is no seed", 2),
        (("train", "life", "--seeds", "1,1"), "seed 1 is repeated", 1),
        (("train", "life", "--seeds", "0:3", "--data-seeds", "0:2"), "3 seeds but 2 data seeds", 1),
        (("train", "life", "--lr", "-1"), "--lr is -1.0, it must be positive", 1),
        (("train", "life", "--momentum", "0.5"), "--momentum goes with --optimizer sgd", 1),
        (("train", "life", "--steps", "2", "--data", "exact"), "has no exact loss to train on: use --data batches", 1),
        (("train", "life", "--steps", "0"), "0 is not in the range x>=1", 2),
        (("train", "life", "--d-factor", "0.5"), "leaves no block: raise --d-factor", 1),
        (("train", "life", "--board", "10"), "'10' is no board: write HEIGHTxWIDTH", 1),
        (("train", "life", "--board", "100000x2"), "write HEIGHTxWIDTH, such as 10x10, up to 4096", 1),
        (("train", "life", "--d-factor", "inf"), "--d-factor is inf, it must be at least 0 and finite", 1),
        (("train", "life", "--seeds", "0:99999999999"), "has 99999999999 seeds: at most", 2),
        (("train", "life", "--seeds", "0:10000000"), "has 10000000 seeds: at most 2000000 fit a run", 2),
        (("train", "life", "--seeds", "0:2000000,2000000:2000001"), "2,000,001 seeds are too many for one run", 1),
        (("train", "life", "--seeds", "0,0", "--data-seeds", "1,2"), "seed 0 is repeated with the same data", 1),
        (("train", "life", "--resume-every", "nan"), "--resume-every is nan, it must be at least 0", 1),
        (("train", ".life:Life"), "cannot load problem '.life:Life'", 1),
        (("walk", "--from", "a", "--to", "b", "--points", "9999999999"), "is not in the range", 2),
        (("train", "life", "--density", "1.5"), "a density of 1.5 is no probability", 1),
        (("train", "life", "--batches", "3", "--save-at", "9"), "--save-at names step 9", 1),
        (("train", "life", "--activation", "tanh"), "'tanh' is not one of", 2),
        (("walk", "--from", "presolve"), "Missing option '--to'", 2),
        (("walk", "--from", "presolve", "--to", "nowhere/"), "nowhere does not exist: give a landmark", 1),
        (
            ("walk", "--from", "presolve", "--to", "presolve:post"),
            "presolve, presolve:post do not exist; if they are landmarks, name their problem",
            1,
        ),
        (("walk", "--from", "a", "--to", "b", "--range", "x"), "'x' is no range: write LOW:HIGH", 2),
        (("walk", "--from", "a", "--to", "b", "-O", "m=1"), "-O goes with --problem", 2),
        (
            ("walk", "--from", "presolve", "--to", "presolve", "--problem", "life", "-O", "m_facto=1"),
            "did you mean m_factor?",
            1,
        ),
        (("verify", "life", "--rule", "B13/S2"), "birth counts 1, 3 are no interval", 1),
        (("analyse", "barriers", "none.h5"), "none.h5 does not exist", 1),
        (("analyse", "outcomes", "none"), "none does not exist", 1),
        (("plot", "rule", "B3"), "'B3' is no rule", 1),
        (("info", "none"), "none does not exist", 1),
        (("fly",), "No such command 'fly'", 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input(landscape: Program, arguments: tuple[str, ...], text: str, status: int) -> None:
    fails(landscape(*arguments), text, status)
    assert list(Path().iterdir()) == []


#: Verbs that read places, with what they take besides; of those that are not named here a place is the one argument.
PLACED = {
    ("average",): ("-o", "out.safetensors"),
    ("merge",): ("-o", "out.h5"),
    ("export",): ("-o", "out.csv"),
    ("import",): ("--problem", "life", "-o", "out"),
    ("walk",): ("--to", "nowhere-2", "--from"),
    ("connect",): ("--to", "nowhere-2", "--from"),
    ("plane",): ("--at", "nowhere-2", "--at", "nowhere-3", "--at"),
    ("train", "life"): (*SMALL, "--start"),
    ("sweep", "life"): (*SMALL, "--grid", "lr=0.1", "--start"),
}
NO_READERS = ("train", "sweep", "submit", "verify", "validate", "example", "completion")
READERS = [
    verb for verb in commands(main) if verb in PLACED or not (verb in [(), ("plot", "rule")] or verb[0] in NO_READERS)
]


@pytest.mark.parametrize("verb", [verb for verb in READERS if verb not in [("analyse",), ("plot",)]], ids=" ".join)
@pytest.mark.parametrize("place", ["nowhere", "nowhere/there.h5"])
def test_every_verb_says_of_a_place_that_is_not_there_that_it_does_not_exist(
    landscape: Program, verb: tuple[str, ...], place: str
) -> None:
    fails(landscape(*verb, *PLACED.get(verb, ()), place), "not exist")
    assert list(Path().iterdir()) == []


@pytest.fixture(scope="module")
def kinds(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file or directory of each kind that verbs write."""
    folder = tmp_path_factory.mktemp("kinds")
    os.symlink(run.path, folder / "run")
    here, program = os.getcwd(), CliRunner()
    os.chdir(folder)
    try:
        for command in (
            "sweep life --seeds 0:2 --batches 2 --grid lr=0.1 -o sweep",
            "walk --from presolve --to run -o lines.h5 --points 5",
            "plane --at run/#0 --at run/#1 --at run/#2 -o plane.h5 --points 3",
            "analyse barriers lines.h5 -o barriers.json --bound-lines 0",
            "analyse passes lines.h5 -o passes.json",
            "analyse outcomes run -o outcomes.json",
            "analyse convergence run/#0 -o convergence.json",
            "analyse clusters run -o clusters.json",
            "analyse symmetry run -o symmetry.json",
            "analyse success run -o success.json --samples 4",
            "analyse curvature run/#0 --density -o density.json",
            "analyse curvature lines.h5 -o curvature.json",
            "plot walk lines.h5 -o picture.png",
        ):
            result = program.invoke(main, command.split())
            assert result.exit_code == 0, result.output
    finally:
        os.chdir(here)
    (folder / "mechanism.json").write_text('{"populations": []}')
    (folder / "other.json").write_text('{"a": 1}')
    return folder


#: What each verb of `analyse` and `plot` takes, by the names above; the rest is refused.
TAKES = {
    ("analyse", "barriers"): "lines.h5",
    ("analyse", "passes"): "lines.h5",
    ("analyse", "curvature"): "run lines.h5",
    ("analyse", "success"): "run sweep",
    ("plot", "walk"): "lines.h5",
    ("plot", "plane"): "plane.h5",
    ("plot", "barriers"): "lines.h5",
    ("plot", "passes"): "lines.h5",
    ("plot", "density"): "density.json",
    ("plot", "mechanism"): "run mechanism.json",
    ("plot", "success"): "sweep",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "verb", [verb for verb in READERS if len(verb) == 2 and verb[0] in ("analyse", "plot")], ids=" ".join
)
def test_every_verb_says_what_a_file_of_another_kind_is(landscape: Program, verb: tuple[str, ...], kinds: Path) -> None:
    for path in sorted(kinds.iterdir()):
        if path.name not in TAKES.get(verb, "run").split() and path.suffix != ".svg":
            result = landscape(*verb, path)
            fails(result, str(path))
            assert "damaged" not in result.stderr
            assert " is " in result.stderr
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--from", "presolve:bump"), "design 'bump' is made for relu, not for leaky_relu"),
        (("--from", "presolve:tent"), "no design is called 'tent'"),
        (("--from", "nothing"), "nothing does not exist; as a landmark: life has no landmark 'nothing'"),
        (("--from", "presolve+noise:x"), "'noise:x' is no choice for spare filters"),
        (("--from", "presolve+noise:9"), "does not solve the problem"),
        (("--from", "presolve", "--range", "0.5:1"), "must contain both ends of the line, 0 and 1"),
        (("--from", "checkpoints/small/@7"), "has no checkpoint of step 7; it has 0, 20, 60"),
        (("--from", "checkpoints/small/#99"), "has no member with seed 99; it has seeds 0 to 23"),
        (
            ("--from", "presolve", "--problem", "life", "-O", "m_factor=2"),
            "net.0.0.weight has shape [2, 1, 3, 3] where the network has [4, 1, 3, 3]",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_places(landscape: Program, here: Path, arguments: tuple[str, ...], text: str) -> None:
    fails(landscape("walk", *arguments, "--to", here, "-o", "out.h5"), text)
    assert not Path("out.h5").exists()
    assert not Path("out.h5.parts").exists()


def test_members_that_do_not_pair(landscape: Program, here: Path) -> None:
    assert landscape("train", "life", *SMALL, "-o", "three").exit_code == 0
    fails(landscape("walk", "--from", "three", "--to", here), "3 members and 24 members do not pair")
    result = landscape("walk", "--from", "three", "--to", here, "--pairs", "all", "--points", "2", "-o", "all.h5")
    assert result.exit_code == 0, result.output
    assert len(Result.read(Path("all.h5"), plane=False)) == 72


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(landscape: Program, here: Path) -> None:
    fails(landscape("walk", "--from", "presolve", "--to", here, "--device", "cuda"), "there is no CUDA device here")


def test_damaged_and_empty_input(landscape: Program, here: Path) -> None:
    assert landscape("walk", "--from", "presolve", "--to", here, "-o", "walk.h5").exit_code == 0
    walk = Path("walk.h5").read_bytes()
    Path("walk.h5").write_bytes(walk[: len(walk) // 2])
    fails(landscape("analyse", "barriers", "walk.h5"), "walk.h5 is damaged")
    file = here / "step-00000060.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-5] + bytes([good[-5] ^ 1]) + good[-4:])
    fails(landscape("info", here), "does not match its SHA-256")
    file.write_bytes(good[:100])
    fails(landscape("walk", "--from", "presolve", "--to", here), "is damaged or no safetensors file")
    for step in here.glob("step-*"):
        step.unlink()
    fails(landscape("walk", "--from", "presolve", "--to", here), "is an empty run, it has no checkpoint yet")
    Path("empty").mkdir()
    fails(landscape("walk", "--from", "presolve", "--to", "empty"), "is no run (no run.json) and holds no checkpoints")


def test_nan_in_a_checkpoint(landscape: Program, here: Path) -> None:
    file = here / "step-00000060.safetensors"
    tensors, document = read_tensors(file)
    tensors["net.0.2.bias"][5] = float("nan")
    write_tensors(file, tensors, document)
    fails(landscape("walk", "--from", "presolve", "--to", here), "1 of 24 members")
    fails(landscape("walk", "--from", "presolve", "--to", here), "first seed 5 in net.0.2.bias")


def test_nothing_is_replaced_without_force(landscape: Program, here: Path) -> None:
    walk = ("walk", "--from", "presolve", "--to", here, "--points", "3", "-o", "walk.h5")
    assert landscape(*walk).exit_code == 0
    before = Path("walk.h5").read_bytes()
    fails(landscape(*walk), "walk.h5 exists: choose another output with -o, or replace it with --force")
    assert Path("walk.h5").read_bytes() == before
    assert landscape(*walk, "--force").exit_code == 0
    train = ("train", "life", *SMALL, "-o", "run")
    assert landscape(*train).exit_code == 0
    fails(landscape(*train), "run is finished")
    fails(landscape(*train, "--lr", "0.5"), "training.lr is 0.01 there and 0.5 here")
    assert landscape(*train, "--lr", "0.5", "--force").exit_code == 0
    fails(landscape("train", "life", *SMALL, "-o", "."), ". exists and is no run")


def test_force_checks_first_and_leaves_what_is_not_of_the_run(landscape: Program) -> None:
    train = ("train", "life", *SMALL, "-o", "run")
    assert landscape(*train).exit_code == 0
    Path("run/notes.txt").write_text("mine")
    fails(landscape("train", "life", "--seeds", "1,1", "-o", "run", "--force"), "seed 1 is repeated")
    assert Run.open(Path("run")).steps() == [0, 1, 2, 5]
    assert landscape(*train, "--lr", "0.5", "--force").exit_code == 0
    assert Path("run/notes.txt").read_text() == "mine"


def test_types_in_an_options_file(landscape: Program) -> None:
    for line, text in (
        ("batches = 10.7", "'10.7' is not a valid integer range"),
        ("batches = true", "'True' is not a valid integer range"),
        ("lr = [1, 2]", "option 'lr' takes a single value, not [1, 2]"),
        ("sigmoid = 1", "option 'sigmoid' is true or false, not 1"),
    ):
        Path("options.toml").write_text(line)
        fails(landscape("train", "life", "--config", "options.toml", "-o", "run"), text, 2)
    Path("options.toml").write_text("no-sigmoid = true\nseeds = [3, 5]\nbatches = 2\nsave-at = [0, 1]")
    result = landscape("train", "life", "--config", "options.toml", "-o", "run")
    assert result.exit_code == 0, result.output
    document = Run.open(Path("run")).document
    assert document["problem"]["config"]["sigmoid"] is False
    assert document["seeds"] == [3, 5]
    assert document["training"]["save_at"] == [0, 1]


def test_a_folder_of_different_problems(landscape: Program) -> None:
    for rule in ("B3/S23V", "B3/S23"):
        name = rule.replace("/", "")
        assert landscape("train", "life", "--rule", rule, *SMALL, "-o", name).exit_code == 0
        Path("mixed").mkdir(exist_ok=True)
        shutil.copy(Path(name) / "step-00000005.safetensors", Path("mixed") / f"{name}.safetensors")
    fails(landscape("walk", "--from", "presolve", "--to", "mixed"), "holds checkpoints of different problems: rule is")


def test_a_line_from_a_point_to_itself_is_flat(landscape: Program, here: Path) -> None:
    assert landscape("walk", "--from", here, "--to", here, "-o", "self.h5").exit_code == 0
    curves = Result.read(Path("self.h5"), plane=False)
    assert (curves.loss == curves.loss[:, :1]).all()
    result = landscape("plot", "walk", "self.h5")
    assert result.exit_code == 0, result.output


def test_one_end_of_many_lines_has_no_interval(landscape: Program, here: Path) -> None:
    assert landscape("walk", "--from", f"{here}/@0", "--to", f"{here}/#3", "-o", "one.h5").exit_code == 0
    found = json.loads(landscape("analyse", "barriers", "one.h5", "--json").stdout)
    assert found["summary"]["above_chord"]["median_interval"] == [None, None]


def test_names_that_look_like_something_else(landscape: Program, here: Path) -> None:
    shutil.copytree(here, "r#1")
    shutil.copytree(here, "r")
    Path("r/step-abc.safetensors").touch()
    for place, lines in (("r#1", 24), ("r/#1", 1), ("r", 24)):
        result = landscape(
            "walk", "--from", "presolve+noise:0.0001", "--to", place, "-o", "x.h5", "--points", "2", "--force"
        )
        assert result.exit_code == 0, result.output
        assert len(Result.read(Path("x.h5"), plane=False)) == lines


def test_where_nothing_can_be_written(landscape: Program, here: Path) -> None:
    Path("file").touch()
    fails(landscape("walk", "--from", "presolve", "--to", here, "-o", "file/walk.h5"), "cannot write file/walk.h5")
    fails(landscape("train", "life", *SMALL, "-o", "file/run"), "cannot write file/run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_to_write(landscape: Program, here: Path) -> None:
    Path("locked").mkdir(mode=0o500)
    fails(landscape("walk", "--from", "presolve", "--to", here, "-o", "locked/walk.h5"), "Permission denied")


def test_what_is_unexpected_is_one_line_and_a_traceback_on_demand(
    landscape: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landscape.problems.life.Life.landmarks", lambda *_: 1 // 0)
    result = landscape("verify", "life")
    fails(result, "unexpected, ZeroDivisionError: integer division or modulo by zero. This is a mistake in landscape")
    monkeypatch.setenv("LANDSCAPE_DEBUG", "1")
    assert isinstance(landscape("verify", "life").exception, ZeroDivisionError)


def test_a_landmark_that_fails_is_told(landscape: Program) -> None:
    result = landscape("verify", "life", "--steps", "3", "--boards", "200")
    assert result.exit_code == 1
    assert "Error: presolve:post does not solve the problem" in result.stderr
    assert "sampled boards" in result.stdout


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 20])
def test_verify_over_many_steps(landscape: Program, steps: int) -> None:
    boards = ["--boards", "64"] if steps > 1 else []
    result = landscape("verify", "life", "--steps", str(steps), *boards, "--landmark", "presolve", "--json")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    assert found["solves"]
    assert found["sampled"] == (steps > 1)


def interrupt(*_: object) -> None:
    """Ctrl-C."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("verb", _VERBS)
def test_ctrl_c_while_a_verb_is_loaded_is_one_line(
    landscape: Program, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landscape.cli.commands.importlib.import_module", interrupt)
    fails(landscape(verb), "interrupted", 130)


@pytest.mark.parametrize(
    "verb",
    [
        ("train", "life"),
        ("walk",),
        ("connect",),
        ("plane",),
        ("analyse", "outcomes"),
        ("plot", "clusters"),
        ("polish",),
    ],
    ids=" ".join,
)
def test_ctrl_c_while_a_place_is_read_is_one_line(
    landscape: Program, verb: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("problems.places", "training.plan", "store.checkpoints"):
        monkeypatch.setattr(f"landscape.{module}.load", interrupt)
    fails(landscape(*verb, *PLACED.get(verb, ()), here), "interrupted", 130)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "by", "status"), [(2, "", 130), (15, " by SIGTERM", 75), (1, " by SIGHUP", 75)])
def test_what_is_stopped_can_be_taken_up_again(
    number: int, by: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "landscape", "train", "life", "--seeds", "0:40", "--batches", "5000", "-o", "run"]
    # What runs in the background of a shell inherits that it ignores the signal.
    heeded = functools.partial(signal.signal, number, signal.SIG_DFL)
    process = subprocess.Popen(
        [*command, "--resume-every", "600"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heeded
    )
    log = tmp_path / "run" / "log.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < 3:
        time.sleep(0.01)
    monkeypatch.chdir(tmp_path)
    second = CliRunner().invoke(main, command[3:])
    assert second.exit_code == 1
    assert f"run is being written by process {process.pid} on " in second.stderr
    process.send_signal(number)
    assert process.communicate()[1] == f"Error: interrupted{by}: repeat the same command to go on with run\n"
    assert process.returncode == status
    assert (tmp_path / "run" / "resume.safetensors").exists()
    result = CliRunner().invoke(main, command[3:])
    assert result.exit_code == 0, result.output
    assert Run.open(tmp_path / "run").steps()[-1] == 5000
