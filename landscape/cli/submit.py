"""`landscape submit --jobs N COMMAND...`: a command's shards as jobs, and what they make put together."""

import contextlib
import dataclasses
import itertools
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from landscape.cli.merge import merged
from landscape.cli.options import output
from landscape.cli.terminal import Progress, interruptible, remark, say
from landscape.core.clusters import Cluster, opened
from landscape.core.errors import DamagedFile, LandscapeError, Mismatch, few
from landscape.core.files import differences, is_there, refuse_existing, write_document
from landscape.core.locks import writing
from landscape.core.reading import read_document

__all__ = ["command"]

#: Verbs that have shards, and whether they write directories.
_VERBS = {"walk": False, "plane": False, "train": True, "sweep": True}

#: How often a shard is tried whose job ends without a word.
_TRIES = 3

_SCHEMA, _DOCUMENT = 1, {"command": [str, ...], "jobs": int, "processors": int, "ids": {}}


@dataclasses.dataclass(frozen=True)
class Shard:
    """The job of one shard, wherever it runs; its last word goes to a file beside its output if it fails."""

    arguments: tuple[str, ...]
    output: str
    here: str
    processors: int

    @property
    def said(self) -> Path:
        """Where it is told what went wrong."""
        return Path(f"{self.output}.error")

    @property
    def idle(self) -> Path:
        """Where it is told that there are fewer parts than jobs."""
        return Path(f"{self.output}.idle")

    @property
    def is_finished(self) -> bool:
        """Whether its output is whole, or there is nothing to do."""
        path = Path(self.output)
        if is_there(self.idle):
            return True
        if is_there(path / "sweep.json"):
            from landscape.training.sweep import Sweep

            return all(cell.finished for cell in Sweep.open(path).cells())
        if is_there(path / "run.json"):
            from landscape.store.checkpoints import Run

            run = Run.open(path)
            return run.document["training"]["batches"] in run.steps()
        return is_there(path) and not path.is_dir()

    def __call__(self) -> None:
        """Do it: what another process still does is waited for, what is finished is left as it is."""
        from landscape.cli.commands import main
        from landscape.core.devices import using_threads

        os.chdir(self.here)
        directory, path = _VERBS[self.arguments[0]], Path(self.output)
        log = Path(f"{self.output}.log").open("a", buffering=1)  # noqa: SIM115
        told = contextlib.redirect_stdout(log), contextlib.redirect_stderr(log)
        alone = writing(path, directory=directory, wait=7 * 86400)
        with log, told[0], told[1], alone, using_threads(self.processors):
            if self.is_finished:
                return
            self.said.unlink(missing_ok=True)
            before, sys.argv = sys.argv, ["landscape", *self.arguments]
            try:
                main.main(list(self.arguments), "landscape", standalone_mode=False)
            except click.ClickException as error:
                if error.exit_code in (1, 2):
                    self.said.write_text(error.format_message())
                raise
            finally:
                sys.argv = before
            if not self.is_finished:  # there are fewer parts than jobs
                self.idle.touch()

    def checkpoint(self) -> Any:
        """What is done when SLURM takes the machine away: the same again, which goes on with what is kept."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@click.command(
    "submit",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="""\b
        Examples:
          landscape submit --jobs 2 -o analyses/pairs.h5 walk --from presolve --to checkpoints/first/
          landscape submit --on dask --jobs 2 -o checkpoints/many train life --seeds 0:64 --data batches --batches 50
          landscape submit --on slurm --jobs 16 --minutes 240 -o analyses/all.h5 walk --from a/ --to a/ --pairs all""",
)
@click.option(
    "--on",
    type=click.Choice(["local", "slurm", "dask"]),
    default="local",
    help="Processes of this machine, to try it out; SLURM (both by submitit: extra slurm); or Dask (extra dask).",
)
@click.option("--jobs", type=click.IntRange(1, 100_000), required=True, help="Shards, each a job.")
@click.option("--processors", type=click.IntRange(1, 1024), default=1, help="Of each job, and its threads.")
@click.option(
    "--minutes", type=click.IntRange(1), help="Time of a job; then it is begun again, and goes on. [default: 1440]"
)
@click.option("--slurm", "options", multiple=True, metavar="KEY=VALUE", help="Option of sbatch, such as gres=gpu:1.")
@click.option("--address", help="Of a Dask scheduler, such as tls://head:8786. [default: workers of this machine]")
@click.option("--wait/--no-wait", default=True, help="Whether to wait; the same command later goes on waiting.")
@output("What all jobs make together. [required]")
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="walk|plane|train|sweep ...")
def command(
    arguments: tuple[str, ...],
    *,
    on: Any,
    jobs: int,
    processors: int,
    minutes: int | None,
    options: tuple[str, ...],
    address: str | None,
    wait: bool,
    output: Path | None,
    force: bool,
) -> None:
    """Divide a command of landscape among jobs, and put together what they make.

    The command is that of one process, without --shard, -o and --force. A job that is killed is begun again and goes
    on with what it kept; so does all of it when the same command is given again. What belongs to the jobs, and what
    they say, is in OUTPUT.jobs/ until all are finished.
    """
    if output is None:
        raise click.UsageError("Missing option '-o': name what the jobs are to make.")
    _require_sense(on, minutes, options, address, wait=wait)
    _require_shards(arguments)
    found = [each.partition("=") for each in options]
    if wrong := [each for each, (key, equals, _) in zip(options, found, strict=True) if not (key and equals)]:
        raise click.BadParameter(f"{wrong[0]!r} is not KEY=VALUE, such as partition=long", param_hint="'--slurm'")
    folder = output.with_name(f"{output.name}.jobs")
    refuse_existing(output, force=force)
    shards = _shards(arguments, folder, jobs, processors)
    again = "repeat the same command to go on" + (" without --force" if force else "")
    with writing(folder, directory=True), interruptible(again):
        ids = _begun(folder, arguments, jobs, processors, force=force)
        cluster = opened(
            on,
            folder / "cluster",
            processors=processors,
            minutes=minutes or 1440,
            at_once=min(jobs, max(1, (os.cpu_count() or 1) // processors)),
            address=address,
            options={key: value for key, _, value in found},
        )
        cancel = True
        try:
            _submit(cluster, shards, folder, ids)
            if not wait:
                remark("the jobs go on: repeat the same command without --no-wait to put together what they make")
                return
            _wait(cluster, shards, folder)
            cancel = False
        finally:
            cluster.close(cancel=cancel)
        merged([Path(shard.output) for shard in shards.values() if not is_there(shard.idle)], output, force=force)
        shutil.rmtree(folder)
    say(output)


def _require_sense(on: str, minutes: int | None, options: Sequence[str], address: str | None, *, wait: bool) -> None:
    """Raise `click.UsageError` for options that would be ignored."""
    if on != "slurm" and options:
        raise click.UsageError("--slurm is for jobs of SLURM: add --on slurm, or leave it out.")
    if on != "slurm" and not wait:
        raise click.UsageError("--no-wait is for jobs of SLURM, which go on without this process: leave it out.")
    if on != "dask" and address is not None:
        raise click.UsageError("--address is that of a Dask scheduler: add --on dask, or leave it out.")
    if on == "dask" and minutes is not None:
        raise click.UsageError("--minutes is for jobs of submitit; tasks of Dask have no end: leave it out.")


def _require_shards(arguments: Sequence[str]) -> None:
    """Raise `click.UsageError` for a command that makes no sense, or has no shards."""
    from landscape.cli.commands import main

    verb, *rest = arguments
    if verb not in _VERBS:
        raise click.UsageError(f"{verb!r} has no shards: write one of {', '.join(_VERBS)}, and its options behind it.")
    context = click.get_current_context()
    assert context.parent is not None
    found: click.Command | None = main.get_command(context.parent, verb)
    assert found is not None
    inner = found.make_context(verb, list(rest), parent=context.parent)
    while isinstance(found, click.Group):
        name, found, rest = found.resolve_command(inner, [*inner._protected_args, *inner.args])
        assert found is not None
        inner = found.make_context(name, rest, parent=inner)
    for name, flag in (("shard", "--shard"), ("output", "-o"), ("force", "--force")):
        if inner.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            where = "leave it out" if name == "shard" else f"write it before {verb}"
            raise click.UsageError(f"{flag} of {verb} is given by `landscape submit`: {where}.")


def _shards(arguments: Sequence[str], folder: Path, jobs: int, processors: int) -> dict[int, Shard]:
    ending = "" if _VERBS[arguments[0]] else ".h5"
    found = {}
    for number in range(1, jobs + 1):
        path = str(folder / f"{number:0{len(str(jobs))}d}-of-{jobs}{ending}")
        found[number] = Shard((*arguments, "--shard", f"{number}/{jobs}", "-o", path), path, os.getcwd(), processors)
    return found


def _begun(folder: Path, arguments: Sequence[str], jobs: int, processors: int, *, force: bool) -> dict[int, str]:
    """What jobs are called that an earlier process has submitted."""
    document = {"command": list(arguments), "jobs": jobs, "processors": processors}
    place = folder / "submit.json"
    if force or not is_there(place):
        others = [each for each in folder.iterdir() if each.name != ".lock"]
        if others and not is_there(place):
            raise LandscapeError(f"{folder} holds something else: choose another output with `output`")
        for each in others:
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        write_document(place, {"schema": _SCHEMA, **document, "ids": {}})
        return {}
    there = read_document(place, _SCHEMA, _DOCUMENT)
    if there["command"] != document["command"]:
        pairs = itertools.zip_longest(there["command"], arguments, fillvalue="nothing")
        was, now = next((was, now) for was, now in pairs if was != now)
        raise Mismatch(
            f"{folder} holds jobs of another command, with {was} where this one has {now}: choose another output, or "
            "replace it with --force"
        )
    if different := differences({key: there[key] for key in document}, document):
        raise Mismatch(
            f"{folder} holds jobs of other work: {different}. Choose another output, or replace it with --force"
        )
    numbers = {str(number): number for number in range(1, jobs + 1)}
    if odd := [name for name in there["ids"] if name not in numbers or not isinstance(there["ids"][name], str)]:
        raise DamagedFile(f"{place} is damaged: there is no job {odd[0]} with such a name: replace it with --force")
    return {numbers[number]: name for number, name in there["ids"].items()}


def _submit(cluster: Cluster, shards: Mapping[int, Shard], folder: Path, ids: Mapping[int, str]) -> None:
    """Begin what is not finished, and not on its way."""
    todo = {number: shard for number, shard in shards.items() if not shard.is_finished}
    known = cluster.known({number: name for number, name in ids.items() if number in todo})
    fresh = {number: shard for number, shard in todo.items() if number not in known}
    _note(folder, {**known, **(cluster.submit(fresh) if fresh else {})})
    remark(f"{len(fresh)} jobs begun, {len(known)} on their way, {len(shards) - len(todo)} finished")


def _note(folder: Path, ids: Mapping[int, str]) -> None:
    document = read_document(folder / "submit.json", _SCHEMA, _DOCUMENT)
    document["ids"] |= {str(number): name for number, name in ids.items()}
    write_document(folder / "submit.json", {"schema": _SCHEMA, **document})


def _wait(cluster: Cluster, shards: Mapping[int, Shard], folder: Path) -> None:
    """Until all are finished; raises `LandscapeError` with what the first that failed says."""
    progress, tries = Progress("submit", "jobs"), dict.fromkeys(shards, 1)
    wrong: dict[int, str] = {}
    for number in cluster.ended():
        shard = shards[number]
        if is_there(shard.said):
            wrong[number] = shard.said.read_text(errors="replace")
        elif not shard.is_finished:
            if tries[number] < _TRIES:
                remark(f"the job of shard {number}/{len(shards)} has died: it is begun again")
                tries[number] += 1
                _note(folder, cluster.submit({number: shard}))
            else:
                wrong[number] = f"its job died {_TRIES} times"
        progress(sum(each.is_finished for each in shards.values()), len(shards))
    if wrong:
        first, log = min(wrong), ""
        kept = [each for each in folder.iterdir() if each.name.endswith((".h5", ".parts", ".idle")) or _is_begun(each)]
        if kept:
            log = f" (more in {shards[first].output}.log)"
        else:  # a mistake in the command is in nobody's way
            for each in [each for each in folder.iterdir() if each.name != ".lock"]:
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        which = few([f"shard {number}/{len(shards)}" for number in sorted(wrong)])
        raise LandscapeError(f"{which} failed: {wrong[first]}{log}")


def _is_begun(place: Path) -> bool:
    """Whether a job has begun a run or a sweep there."""
    return place.is_dir() and any(is_there(place / name) for name in ("run.json", "sweep.json"))
