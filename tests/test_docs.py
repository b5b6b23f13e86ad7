"""What the documents show works as it stands there."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result as Outcome

from landscape.store.results import Result

pytest.importorskip("sklearn")
DOCS = Path(__file__).parent.parent / "docs"


def test_the_example_of_a_model_of_one_s_own(landscape: Callable[..., Outcome]) -> None:
    """From two state dicts to a figure, by the page alone; the training is shorter here."""
    page = (DOCS / "own_model.md").read_text()
    problem, training, again = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    Path("my_cnn.py").write_text(problem)
    assert "range(200)" in training
    Path("my_training.py").write_text(training.replace("range(200)", "range(5)"))
    Path("again.py").write_text(again)
    commands = [
        shlex.split(line) for line in re.findall(r"^    (\S.*)$", page.split("From two files")[1], re.MULTILINE)
    ]
    assert [command[0] for command in commands[:4]] == ["python", "landscape", "landscape", "landscape"]
    subprocess.run([sys.executable, *commands[0][1:]], check=True, timeout=300)
    for command in commands[1:4]:
        result = landscape(*command[1:])
        assert result.exit_code == 0, result.output
    curves = Result.read(Path("line.h5"), plane=False)
    assert curves.about["batchnorm"]["policy"] == "recalibrate"
    assert Path("line.png").stat().st_size > 10_000
    subprocess.run([sys.executable, "again.py"], check=True, timeout=300)
    np.testing.assert_allclose(Result.read(Path("again.h5"), plane=False).loss, curves.loss, rtol=1e-4)
