"""`landscape report RUN|FILE... -o PAGE`: one interactive page of runs and results."""

from pathlib import Path

import click

from landscape.cli.config import config_file
from landscape.cli.flags import in_flags, running
from landscape.cli.options import chosen_problem, problem_choice
from landscape.cli.terminal import remark_unfinished, say
from landscape.core.locks import writing

__all__ = ["command"]


@click.command(
    "report",
    epilog="""\b
        Examples:
          landscape report analyses/presolve--first.h5 -o first.html
          landscape report checkpoints/first analyses/presolve--first.h5 -o all.html""",
)
@click.argument("sources", metavar="RUN|FILE...", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default="report.html", help="The HTML file to write.")
@click.option("--force", is_flag=True, help="Replace what is there.")
@click.option("--title", help="Title of the page. [default: the problems]")
@problem_choice
@config_file
def command(
    sources: tuple[str, ...],
    output: Path,
    force: bool,
    title: str | None,
    problem: str | None,
    options: tuple[str, ...],
) -> None:
    """One interactive page of runs and results, which opens in any browser, needs no network and can be sent to others.

    What is pointed at lights up in every view: lines with their barriers, the matrix of barriers and the
    disconnectivity graph, groups of members that compute the same, planes with a slider along the training, training
    curves, outcomes against steps, and tables that sort and filter. A RUN is a directory that train, sweep or import
    made; a FILE is what walk, connect or plane wrote. Those of several problems have a section each. Of very many lines
    it draws bands, and says so.
    """
    from landscape.web.report import require_free, written

    path, params = require_free(output, overwrite=force), running(click.get_current_context())
    remark_unfinished(*sources)
    with writing(output):
        known = chosen_problem(problem, options)
        say(written(sources, path, title=title, problem=known, said=lambda text: in_flags(text, params)))
