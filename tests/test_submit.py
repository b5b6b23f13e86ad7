"""Commands as jobs: of submitit here and on what looks like SLURM, and of Dask, with jobs that fail or die."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from landscape import Result
from landscape.cli import main
from landscape.core import clusters
from landscape.core.shares import in_order
from landscape.store.checkpoints import Run

pytestmark = pytest.mark.slow

#: Warnings of these libraries are not ours.
quiet = pytest.mark.filterwarnings("ignore")


def run(*arguments, status=0):
    """What a command prints."""
    found = CliRunner().invoke(main, list(map(str, arguments)))
    assert found.exit_code == status, found.output
    assert "Traceback" not in found.output
    return found.output


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(clusters, "_FAR", 0.2)
    run("train", "life", "--seeds", "0:5", "--batches", 5, "-o", "run")
    return tmp_path


WALK = ("walk", "--from", "presolve", "--to", "run", "--points", 5)


def assert_whole(path):
    """A walk is that of one process, bit for bit."""
    run(*WALK, "-o", "one.h5")
    one, many = Result.read("one.h5"), Result.read(path)
    assert one.sources == many.sources
    for name in one.values:
        assert np.array_equal(one[name], many[name])
    for name in one.columns:
        assert np.array_equal(one.columns[name], many.columns[name])
    assert "part" not in many.about


@quiet
@pytest.mark.parametrize(("on", "library"), [("local", "submitit"), ("dask", "distributed")])
def test_jobs_make_what_one_process_makes(here, on, library):
    pytest.importorskip(library)
    said = run("submit", "--on", on, "--jobs", 2, "-o", "pairs.h5", *WALK)
    assert "2 jobs begun" in said
    assert said.splitlines()[-1] == "pairs.h5"
    assert not (here / "pairs.h5.jobs").exists()
    assert_whole("pairs.h5")
    assert "--force" in run("submit", "--on", on, "--jobs", 2, "-o", "pairs.h5", *WALK, status=1)


@quiet
def test_more_jobs_than_lines_do_no_harm_and_training_is_that_of_one_process(here):
    pytest.importorskip("submitit")
    run("submit", "--jobs", 7, "-o", "pairs.h5", *WALK)
    assert_whole("pairs.h5")
    train = ("train", "life", "--seeds", "0:20", "--data", "batches", "--batches", 4)
    run("submit", "--jobs", 2, "-o", "shared", *train)
    run(*train, "-o", "alone")
    one, many = Run.open("alone").checkpoint(), Run.open("shared").checkpoint()
    for name, tensor in one.stack.tensors.items():
        assert tensor.equal(many.stack.tensors[name])


def test_parts_that_are_all_of_it_are_whole_though_some_had_nothing_to_do():
    parts = [("a", part("1/4", 0, 2)), ("b", part("2/4", 2, 3))]
    assert in_order(parts[::-1]) == [1, 0]
    with pytest.raises(Exception, match="2/4"):
        in_order(parts[:1])
    with pytest.raises(Exception, match="1/4"):
        in_order(parts[1:])
    with pytest.raises(Exception, match="2/4"):
        in_order([("a", part("1/4", 0, 1)), ("c", part("3/4", 2, 3))])


def part(shard, begin, end):
    return {"shard": shard, "begin": begin, "end": end, "of": 3, "work": "x"}


@quiet
def test_what_a_job_says_when_it_fails_is_one_line_here_and_mended_it_goes_on(here):
    pytest.importorskip("submitit")
    (here / "run").rename(here / "away")
    said = run("submit", "--jobs", 2, "-o", "pairs.h5", *WALK, status=1)
    assert said.splitlines()[-1].startswith("Error: shard 1/2, shard 2/2 failed: ")
    assert not (here / "pairs.h5.jobs").exists()  # nothing was begun, and the mended command is not refused
    (here / "away").rename(here / "run")
    run("submit", "--jobs", 2, "-o", "pairs.h5", *WALK)
    assert_whole("pairs.h5")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--jobs", 2, "-o", "x", "info", "run"), "'info' has no shards"),
        (("--jobs", 2, *WALK), "Missing option '-o'"),
        (("--jobs", 0, "-o", "x", *WALK), "--jobs"),
        (("--jobs", 2, "-o", "x", "walk", "--to", "presolve"), "--from"),
        (("--jobs", 2, "-o", "x", *WALK, "--shard", "1/2"), "--shard of walk"),
        (("--jobs", 2, "-o", "x", *WALK, "-o", "y"), "-o of walk"),
        (("--jobs", 2, "-o", "x", *WALK, "--pionts", 3), "--pionts"),
        (("--jobs", 2, "-o", "x", "--no-wait", *WALK), "--no-wait"),
        (("--jobs", 2, "-o", "x", "--slurm", "a=b", *WALK), "--slurm"),
        (("--jobs", 2, "-o", "x", "--address", "tcp://x:1", *WALK), "--address"),
        (("--jobs", 2, "-o", "x", "--on", "dask", "--minutes", 5, *WALK), "--minutes"),
        (("--jobs", 2, "-o", "x", "--on", "slurm", "--slurm", "ab", *WALK), "'ab' is not KEY=VALUE"),
        (("--jobs", 2, "-o", "x", "train", "life", "--shard", "1/2"), "--shard of train"),
    ],
)
def test_commands_that_make_no_sense_are_refused_at_once(here, arguments, words):
    assert words in run("submit", *arguments, status=2)
    assert not (here / "x.jobs").exists()


def test_no_slurm_and_no_scheduler_are_a_line(here):
    pytest.importorskip("submitit")
    assert "srun" in run("submit", "--on", "slurm", "--jobs", 2, "-o", "x", *WALK, status=1)


@quiet
@pytest.mark.parametrize(
    ("on", "library", "what", "number"),
    [
        ("dask", "distributed", "spawn_main", signal.SIGKILL),
        ("local", "submitit", "submitit.core._submit", signal.SIGKILL),
        ("local", "submitit", "submitit.core._submit", signal.SIGUSR2),  # as SLURM does before it takes a machine away
    ],
)
def test_a_job_that_is_killed_or_whose_time_ends_is_begun_again_and_loses_nothing(here, on, library, what, number):
    pytest.importorskip(library)
    train = ("train", "life", "--seeds", "0:40", "--data", "batches", "--batches", "1000", "--resume-every", "0.2")
    command = [sys.executable, "-m", "landscape", "submit", "--on", on, "--jobs", "2", "-o", "shared", *train]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert wait_for(lambda: list(here.glob("shared.jobs/*of*/step-*10.safetensors")))
        os.kill(working(process.pid, what)[0], number)
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    run(*train, "-o", "alone")
    for step in Run.open("alone").steps():
        name = f"step-{step:08d}.safetensors"
        assert (here / "alone" / name).read_bytes() == (here / "shared" / name).read_bytes()


@quiet
@pytest.mark.parametrize(("on", "library"), [("local", "submitit"), ("dask", "distributed")])
def test_jobs_that_are_stopped_keep_what_they_have(here, on, library):
    pytest.importorskip(library)
    train = ("train", "life", "--seeds", "0:40", "--data", "batches", "--batches", "100000", "--resume-every", "1000")
    command = [sys.executable, "-m", "landscape", "submit", "--on", on, "--jobs", "2", "-o", "shared", *train]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert wait_for(lambda: len(list(here.glob("shared.jobs/*of*/step-*10.safetensors"))) == 2)
        os.killpg(process.pid, signal.SIGINT)  # as at a terminal
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "Error: interrupted: repeat the same command to go on" in said
    assert len(list(here.glob("shared.jobs/*of*/resume.safetensors"))) == 2
    assert not list(here.glob("shared.jobs/*of*/.lock"))


def working(parent, what):
    """Processes of a kind that work for another, its children's children too."""
    found = []
    children = [each.read_text() for each in Path(f"/proc/{parent}/task").glob("*/children")]
    for child in " ".join(children).split():
        found += working(int(child), what)
        if what in Path(f"/proc/{child}/cmdline").read_text():
            found.append(int(child))
    return found


def wait_for(look, seconds=120):
    end = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


#: What of SLURM is called: jobs run here, or wait as long as there is a file `hold`; `states` has what became of them.
_SLURM = {
    "sbatch": """
import os, re, subprocess, sys
script = open(sys.argv[-1]).read()
open("script.txt", "w").write(script)
os.makedirs("states", exist_ok=True)
job = str(100 + len(os.listdir("states")))
array = re.search("--array=0-([0-9]+)", script)
for task in range(int(array[1]) + 1 if array else 1):
    name = f"{job}_{task}" if array else job
    environment = {**os.environ, "SLURM_JOB_ID": job, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}
    environment |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": str(task)} if array else {}
    held = os.path.exists("hold")
    open(f"states/{name}", "w").write("PENDING" if held else "RUNNING")
    if not held:
        command = f"bash {sys.argv[-1]} ; echo COMPLETED > states/{name}"
        subprocess.Popen(command, shell=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(f"Submitted batch job {job}")
""",
    "srun": """
import os, sys
at = next(number for number, each in enumerate(sys.argv) if "python" in each)
os.execv(sys.argv[at], sys.argv[at:])
""",
    "sacct": """
import os
print("JobID|State|NodeList")
for name in os.listdir("states"):
    print(f"{name}|{open('states/' + name).read().strip()}|")
""",
}


@pytest.fixture
def slurm(here, monkeypatch):
    """A directory of programs that are called as those of SLURM."""
    folder = here / "bin"
    folder.mkdir()
    for name, text in _SLURM.items():
        (folder / name).write_text(f"#!{sys.executable}\n{text}")
        (folder / name).chmod((folder / name).stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return here


@quiet
def test_an_array_of_slurm_is_submitted_once_and_waited_for_later(slurm):
    pytest.importorskip("submitit")
    options = ("submit", "--on", "slurm", "--jobs", 2, "--minutes", 30, "--slurm", "partition=long", "-o", "pairs.h5")
    (slurm / "hold").touch()
    said = run(*options, "--no-wait", *WALK)
    assert "2 jobs begun" in said
    assert "the jobs go on" in said
    script = (slurm / "script.txt").read_text()
    for words in ("--partition=long", "--time=30", "--cpus-per-task=1", "--array=0-1"):
        assert words in script
    assert "0 jobs begun, 2 on their way" in run(*options, "--no-wait", *WALK)
    said = run(*options, "--no-wait", *WALK[:-1], 7, status=1)
    assert "holds jobs of another command, with 5 where this one has 7" in said
    (slurm / "hold").unlink()
    for job in (slurm / "states").iterdir():
        job.write_text("CANCELLED")
    assert "pairs.h5" in run(*options, *WALK)
    assert_whole("pairs.h5")
