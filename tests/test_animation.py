"""Animations: read back frame by frame."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result as Outcome
from PIL import Image
from test_plane_figures import VALLEY, path_of, surface, through, trajectory

import landscape
from landscape import figures
from landscape.core.errors import LandscapeError, Unsupported
from landscape.core.provenance import Source
from landscape.figures.animation import _caption, _Film
from landscape.figures.planes import Scale
from landscape.store.results import Result


def frames(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """Pictures of a GIF, and how long each is shown, in milliseconds."""
    with Image.open(path) as film:
        pictures, durations = [], []
        for number in range(film.n_frames):
            film.seek(number)
            pictures.append(np.asarray(film.convert("RGB")).astype(int))
            durations.append(film.info["duration"])
        assert film.info["loop"] == 0
    return pictures, durations


def film(result: Result, **options: Any) -> _Film:
    return _Film(result, result.trajectory, None, len(result.trajectory), options.get("style", figures.SCREEN))


def test_a_checkpoint_is_a_frame_and_only_what_moves_differs(tmp_path: Path) -> None:
    path = trajectory(6).animate(tmp_path / "a.gif", fps=4)
    pictures, durations = frames(path)
    assert len(pictures) == 6
    assert durations == [250] * 5 + [2250]
    for before, after in itertools.pairwise(pictures):
        changed = (before != after).any(axis=2)
        assert 0.0005 < changed.mean() < 0.08
        assert not changed[-60:].any(), "the caption stands still"
        assert changed[:, : changed.shape[1] // 2].any()
        assert changed[:, changed.shape[1] // 2 :].any()
    assert (pictures[0][2, 2] == 255).all()
    assert path.stat().st_size < 200_000


def test_a_frame_is_what_a_figure_of_all_of_it_would_show() -> None:
    """What moves is drawn over a picture that was drawn once; the slow way draws everything anew."""
    result = trajectory(6)
    quick = film(result)
    early, late = quick.frame(2), quick.frame(5)
    assert (quick.frame(2) == early).all(), "nothing of a later frame stays"
    for artist in quick._moving.values():
        artist.set_animated(False)
        artist.set_zorder(10)
    quick.frame(5)
    quick._canvas.draw()
    slow = np.asarray(quick._canvas.buffer_rgba())[..., :3]
    assert np.abs(slow.astype(int) - late).max() <= 1


def test_what_moves_lies_at_the_checkpoints() -> None:
    result = trajectory(6)
    made = film(result)
    made.frame(3)
    x, y = made._moving["line"].get_data()
    np.testing.assert_allclose(np.stack([x, y], 1), [(mark.x, mark.y) for mark in result.trajectory[:4]])
    np.testing.assert_allclose(made._moving["here"].get_offsets(), [(result.trajectory[3].x, result.trajectory[3].y)])
    steps, losses = made._moving["curve"].get_data()
    np.testing.assert_allclose(steps, [0, 10, 20, 30])
    np.testing.assert_allclose(losses, [0.1, 1.1, 2.1, 3.1])
    assert made._moving["title"].get_text() == "step 30: loss 3.1"
    assert made._right.get_yscale() == "log"
    assert made._right.get_xlabel() == "steps of training"


def test_many_checkpoints_are_thinned_and_the_file_stays_small(tmp_path: Path) -> None:
    """As large as it gets: 150 frames, on a fine grid."""
    result = trajectory(400)
    pictures, durations = frames(result.animate(tmp_path / "a.gif"))
    assert len(pictures) == 150
    assert sum(durations) == pytest.approx(8000 + 2000, abs=20)
    assert (tmp_path / "a.gif").stat().st_size < 2_000_000
    said = _caption(result, Scale.of(result), result.trajectory, 150)
    assert said.endswith("Of 400 checkpoints 150 have a frame.")


@pytest.mark.parametrize(
    ("pace", "frames", "each"),
    [
        ({"fps": 50}, 7, [20] * 7),
        ({"fps": 3}, 3, [330, 340, 330]),
        ({"seconds": 1.0}, 8, [130, 120] * 4),
        ({}, 100, [80] * 100),
    ],
)
def test_durations_add_up_to_what_is_asked_for(pace: dict[str, float], frames: int, each: Sequence[int]) -> None:
    found = figures.Pace(**pace).durations(frames)
    found[-1] -= 2000
    asked = frames / pace["fps"] if "fps" in pace else pace.get("seconds", 8.0)
    assert sum(found) == pytest.approx(1000 * asked, abs=5)
    assert sorted(found) == sorted(each)


def test_a_film_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    one, other = (trajectory(4).animate(tmp_path / name).read_bytes() for name in ("a.gif", "b.gif"))
    assert one == other


def test_a_film_for_a_paper_has_no_caption_and_fits_its_column(tmp_path: Path) -> None:
    for columns, width in ((1, 3.5), (2, 7.2)):
        pictures, _ = frames(trajectory(3).animate(tmp_path / f"{columns}.gif", style=figures.paper(columns)))
        assert pictures[0].shape[1] == pytest.approx(110 * width, abs=1)


def test_checkpoints_that_are_zero_infinite_or_outside_of_the_plane(tmp_path: Path) -> None:
    marks = list(path_of(5))
    marks[1] = dataclasses.replace(marks[1], loss=np.inf)
    marks[2] = dataclasses.replace(marks[2], loss=0.0)
    marks[3] = dataclasses.replace(marks[3], x=99.0)
    result = surface(VALLEY, tuple(marks), kind="trajectory", places=["run#3"], explained=[0.75, 0.2])
    made = film(result)
    made.frame(4)
    _, losses = made._moving["curve"].get_data()
    assert np.isnan(losses).tolist() == [False, True, False, False, False]
    assert 0 < losses[2] < 0.1, "on the floor"
    assert "0" in [label.get_text() for label in made._right.get_yticklabels()]
    assert len(made._moving["dots"].get_offsets()) == 4
    assert "zeros on the dotted line" in _caption(result, Scale.of(result), result.trajectory, 5)
    assert len(frames(result.animate(tmp_path / "a.gif"))[0]) == 5
    none = [dataclasses.replace(mark, loss=np.nan) for mark in marks]
    with pytest.raises(LandscapeError, match="no checkpoint on the trajectory has a finite loss"):
        surface(VALLEY, tuple(none), kind="trajectory", places=["run#3"], explained=[0.75, 0.2]).animate("never.gif")


def test_networks_without_steps_are_numbered() -> None:
    marks = [dataclasses.replace(mark, source=Source("a.pt", None, None, "d", "a")) for mark in path_of(4)]
    made = film(surface(VALLEY, tuple(marks), kind="trajectory", places=["run#3"], explained=[0.75, 0.2]))
    made.frame(3)
    assert made._moving["curve"].get_data()[0].tolist() == [0, 1, 2, 3]
    assert made._right.get_xlabel() == "checkpoint"


def test_wrong_films_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "there.gif").touch()
    wrong: list[tuple[Result, str, dict[str, Any], str]] = [
        (through(), "a.gif", {}, "no trajectory to animate.*landscape plane --trajectory 'RUN#SEED' -o plane.h5"),
        (trajectory(), "a.mp4", {}, r"written as GIF, not \.mp4"),
        (trajectory(), "there.gif", {}, "there.gif exists"),
        (trajectory(), "a.gif", {"fps": 60}, "fps"),
        (trajectory(), "a.gif", {"fps": 0}, "fps"),
        (trajectory(), "a.gif", {"fps": float("nan")}, "fps"),
        (trajectory(), "a.gif", {"seconds": 0.0}, "seconds"),
        (trajectory(), "a.gif", {"seconds": 0.05}, "6 frames in 0.05 s are more than 50 a second.*at least 0.12"),
        (trajectory(), "a.gif", {"fps": 2, "seconds": 3}, "leave one out"),
    ]
    for result, name, options, message in wrong:
        with pytest.raises((LandscapeError, Unsupported), match=message) as error:
            landscape.animate(result, tmp_path / name, **options)
        assert "\n" not in str(error.value)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["there.gif"]


def test_bad_paces_are_errors_of_usage(landscape: Callable[..., Outcome], tmp_path: Path) -> None:
    trajectory().save(tmp_path / "plane.h5")
    for options in (("--fps", "60"), ("--fps", "a"), ("--seconds", "0"), ("--seconds", "0.05"), ("--seconds", "a")):
        done = landscape("animate", "plane.h5", *options)
        assert done.exit_code == 2, options
        assert options[0] in done.stderr
    done = landscape("animate", "plane.h5", "--fps", "2", "--seconds", "3")
    assert (done.exit_code, "--fps and --seconds say the same twice" in done.stderr) == (2, True)
    assert [each.name for each in tmp_path.iterdir()] == ["plane.h5"]
