"""What a file or directory is of all that this package writes, in words for whoever gives it to a verb that reads
another.
"""

import contextlib
from pathlib import Path
from typing import Any

from landscape.core.errors import LandscapeError, Unsupported
from landscape.core.reading import opened, read_json

__all__ = ["SEALS", "document_of", "is_document", "refuse_others"]

#: First lines of results, and those of files of schema 1 after ours.
SEALS = (b"landscape result", b"landscape curves", b"landscape surface")

#: Of what `landscape analyse VERB -o` writes: an entry that no other has, the verb, and which verb of `landscape plot`
#: draws it, or what it was read from, with the entry that names that.
_DOCUMENTS = (
    ("barriers", "barriers", "barriers", "file"),
    ("merges", "passes", "passes", "files"),
    ("outcomes", "outcomes", "outcomes", "run"),
    ("counts", "convergence", "incidence", "place"),
    ("levels", "clusters", "clusters", "run"),
    ("symmetry", "symmetry", "", ""),
    ("cells", "success", "", ""),
    ("eigenpairs", "curvature", "density", ""),
    ("curvature", "curvature", "walk", "file"),
    ("populations", "mechanism", "mechanism", ""),
)

_OTHER = "a JSON file of something else"

#: What other programs read, by its ending.
_EXPORTED = {
    ".csv": "a table",
    ".npz": "arrays for NumPy",
    ".vtp": "geometry for ParaView",
    ".vts": "geometry for ParaView",
}

#: Beginnings of pictures: PNG, and SVG as matplotlib writes it.
_PICTURES = (b"\x89PNG", b"<?xml")


def _named(path: Path) -> str | None:
    """What is there, and which verb takes it; None for what is not one of ours, or does not look like it."""
    if path.is_dir():
        if (path / "sweep.json").is_file():
            return "a sweep, a directory of runs: landscape plot success draws it"
        return "a run: landscape plot outcomes draws it" if (path / "run.json").is_file() else None
    head = _head(path)
    if head.startswith(SEALS):
        return "a result: landscape plot walk draws lines, landscape plot plane planes"
    if told := _EXPORTED.get(path.suffix):
        return told
    if head.startswith(_PICTURES):
        return "a picture"
    if path.suffix == ".safetensors" or head.startswith(b"PK"):
        return "a checkpoint: landscape plot outcomes draws it"
    with contextlib.suppress(LandscapeError):
        return _of_document(path, read_json(path)) if is_document(path) else None
    return None


def is_document(path: Path) -> bool:
    """Whether a file looks like a JSON object."""
    return _head(path).lstrip().startswith(b"{")


def _head(path: Path) -> bytes:
    with contextlib.suppress(LandscapeError), opened(path) as file:
        return file.read(64)
    return b""


def document_of(path: Path, verb: str) -> dict[str, Any]:
    """The document that `landscape analyse VERB -o` wrote; raises `Unsupported` for any other file."""
    key = next(key for key, name, *_ in _DOCUMENTS if name == verb)
    wanted = f"what landscape analyse {verb} -o wrote"
    try:
        document = read_json(path)
    except LandscapeError:
        refuse_others(path, wanted)
        raise
    if not isinstance(document, dict) or key not in document:
        told = _of_document(path, document) if isinstance(document, dict) else _OTHER
        raise Unsupported(f"{path} is {told}; give {wanted} here")
    return document


def _of_document(path: Path, document: dict[str, Any]) -> str:
    if path.name in ("run.json", "sweep.json"):
        return f"a part of a {path.stem}: give the directory that it is in"
    for key, verb, plot, of in _DOCUMENTS:
        if key in document:
            wrote = f"what landscape analyse {verb} wrote"
            places = document.get(of, path)
            listed = " ".join(map(str, places)) if isinstance(places, list) else places
            return wrote + (f": landscape plot {plot} {listed} draws it" if plot else "")
    return _OTHER


def refuse_others(path: Path, wanted: str) -> None:
    """Raise `Unsupported`, saying what is there, if it is one of ours: `wanted` is what it should be."""
    if told := _named(path):
        raise Unsupported(f"{path} is {told}; give {wanted} here")
