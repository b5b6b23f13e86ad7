"""Other people's checkpoints as state dicts: single files, and models in the Hugging Face layout.

A file is a `.safetensors` or what `torch.save` wrote, with the state dict at top level or under a usual key.
"""

import dataclasses
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from landscape.core.errors import DamagedFile, LandscapeError, Unsupported, few
from landscape.core.files import Stamp, is_there, replacing
from landscape.core.reading import DOCUMENT, most_bytes, opened, read_json
from landscape.store.pickles import read_pickle, require_file

__all__ = [
    "ENDINGS",
    "INDEX",
    "WRAPPERS",
    "StateDict",
    "checkpoint_files",
    "is_adapter",
    "leading",
    "mapped",
    "model_weights",
    "natural",
    "read_safetensors",
    "read_state_dict",
    "state_dict_of",
    "unusable",
    "write_safetensors",
]

#: End of the name of a file that lists the shards of a model.
INDEX = ".index.json"

#: File endings that are read as checkpoints.
ENDINGS = (".safetensors", ".pt", ".pth", ".pyt", ".ckpt", ".bin")

#: Keys under which training scripts keep the state dict: Lightning and many scripts, PyTorch's tutorials, this
#: project's first study, timm and fairseq, pytorch-cifar, others, DeepSpeed, BasicSR.
_KEYS = ("state_dict", "model_state_dict", "model_state", "model_dict", "model", "net", "network", "module", "params")

#: Keys of weights averaged over training steps: read where there are no others, named where there are.
_AVERAGED = ("state_dict_ema", "ema_state_dict", "model_ema", "ema", "params_ema")

#: Prefixes with which a wrapper of the whole network marks all names, and the wrapper.
WRAPPERS = {"module.": "DataParallel or DistributedDataParallel", "_orig_mod.": "torch.compile"}

#: Element types that are read. Others, such as 8-bit floating point, mean nothing without scales kept elsewhere.
_TYPES = frozenset(
    {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bool}
    | {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
)

#: Weights of an adapter as peft keeps it: a part of a network.
_ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")

#: Weights of a model in the Hugging Face layout, whole or as shards with an index, the preferred first.
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_MODEL = (*_WHOLE[:1], "model.safetensors.index.json", *_WHOLE[1:], "pytorch_model.bin.index.json")
_SHARD = re.compile(r".*-\d+-of-\d+\.(safetensors|bin)")

#: What training scripts of that layout keep beside the weights.
_COMPANION = re.compile(
    r"(optimizer|scheduler|scaler|training_args|sampler|rng_state|random_states)(_\d+)*\.(bin|pt|pth)"
)


#: Bytes of a safetensors file from which on it is mapped, not read: its tensors are then loaded as they are used, and
#: are those of the file as it is at that moment.
MAPPED_BYTES = 2**30


@dataclasses.dataclass(frozen=True, eq=False)
class StateDict:
    """Tensors by name, and what the reader should know of how they were read, a line each; an `adapter` is a part."""

    tensors: Mapping[str, Tensor]
    remarks: tuple[str, ...] = ()
    adapter: bool = False


def read_state_dict(path: Path, key: str = "") -> StateDict:
    """The state dict in a file, there under a `key`, or in a directory in the Hugging Face layout, of which each shard
    is read once.

    Raises `Unsupported` for what holds no state dict of dense, real tensors or wants to run code, `DamagedFile` for
    what is damaged, `LandscapeError` for what is not there.
    """
    weights = model_weights(path) if path.is_dir() else path
    if weights is None:
        raise LandscapeError(f"{path} is a directory: give a checkpoint file in it")
    contents = _shards(weights) if weights.name.endswith(INDEX) else _contents(weights)
    found = state_dict_of(path, contents, key)
    return dataclasses.replace(found, adapter=is_adapter(weights))


def is_adapter(path: Path) -> bool:
    """Whether a file holds an adapter as peft writes it."""
    return path.name in _ADAPTER


def _contents(path: Path) -> Any:
    return read_safetensors(path)[0] if path.suffix == ".safetensors" else read_pickle(path)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; raises `DamagedFile` if it is none."""
    require_file(path)
    _require_header(path)
    large = _is_mapped(path)
    try:
        with opened(path) as found, safetensors.safe_open(_utf8(path, found), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        return {name: each if large else each.clone() for name, each in tensors.items()}, metadata
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise DamagedFile(f"{path} is damaged or no safetensors file ({error}): restore it or make it again") from error


def _utf8(path: Path, file: BinaryIO) -> str:
    """A path under which the library, which takes UTF-8 alone, finds a file that is open."""
    written = str(path)
    return written if written.encode(errors="ignore").decode() == written else f"/dev/fd/{file.fileno()}"


def _require_header(path: Path) -> None:
    """Raise `DamagedFile` unless the header of a safetensors file, which is JSON, is as long as one of tensors."""
    with opened(path) as file:
        length = int.from_bytes(file.read(8), "little")
        most = min(2 * int(most_bytes(DOCUMENT)), path.stat().st_size - 8)
    if length > most:
        raise DamagedFile(
            f"{path} is damaged or no safetensors file (its header should have {length:,} bytes, {most:,} at most): "
            "restore it or make it again"
        )


def mapped(path: Path) -> tuple[Stamp, ...]:
    """The files that are mapped where a path is read: large safetensors files, of a model's directory each shard."""
    weights = (model_weights(path) if path.is_dir() else path) or path
    files = weights.parent.glob("*.safetensors") if weights.name.endswith(INDEX) else [weights]
    return tuple(Stamp.of(file) for file in files if _is_mapped(file))


def _is_mapped(path: Path) -> bool:
    return path.suffix == ".safetensors" and path.is_file() and path.stat().st_size >= MAPPED_BYTES


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a state dict, atomically."""
    with replacing(path) as temporary:
        try:
            dense, storages = dict[str, Tensor](), set[int]()
            for name, tensor in tensors.items():
                each = tensor.detach().cpu().contiguous()
                storage = each.untyped_storage().data_ptr()
                dense[name] = each.clone() if storage in storages else each  # the format has a place for each alone
                storages.add(storage)
            safetensors.torch.save_file(dense, temporary, metadata=dict(metadata))
        except safetensors.SafetensorError as error:  # such as a full disk
            raise LandscapeError(f"cannot write {path}: {error}") from error


def state_dict_of(path: Path, found: Any, key: str = "") -> StateDict:
    """The state dict in what was read from `path`: under the `key` or the usual ones, without the prefixes of wrappers.

    Prefixes go only where all names carry them. Raises `Unsupported` for what is no state dict of dense tensors, and,
    with all of them, for one that holds several.
    """
    if key:
        whole, found = found, _under(found, key)
        if not isinstance(found, Mapping):
            held = list(_state_dicts(whole)) or (list(map(str, whole)) if isinstance(whole, Mapping) else [])
            raise LandscapeError(f"{path} has no state dict under {key}; there are {few(held) or 'none'}")
        path = Path(f"{path}::{key}")
    found, remarks = _unpacked(path, found)
    every = {str(name): value for name, value in found.items()} if isinstance(found, Mapping) else {}
    tensors = {name: value for name, value in every.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = f"; its keys are {few(every)}" if every else ""
        raise Unsupported(
            f"{path} holds no state dict, neither at top level nor under {', '.join(_KEYS)}{keys}; "
            "save model.state_dict()"
        )
    if others := [f"{name} ({type(value).__name__})" for name, value in every.items() if name not in tensors]:
        remarks.append(f"{len(others)} of its entries are no tensors and left out: {few(others)}")
    if odd := [f"{name} ({kind})" for name, tensor in tensors.items() if (kind := unusable(tensor))]:
        raise Unsupported(
            f"{path} holds other tensors than dense ones of plain numbers: {few(odd)}; convert them first"
        )
    if "n_averaged" in tensors and len(tensors) > 1 and _all_begin(tensors.keys() - {"n_averaged"}, "module."):
        del tensors["n_averaged"]
        remarks.append("its averaged weights (AveragedModel) are read without their counter n_averaged")
    for prefix in _wrappers(tensors):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        remarks.append(f"all names begin with {prefix} ({WRAPPERS[prefix]}) and are read without it")
    return StateDict({name: tensor.detach() for name, tensor in tensors.items()}, tuple(remarks))


def _unpacked(path: Path, found: Any) -> tuple[Any, list[str]]:
    """What stands under the usual keys, also nested, or is the only state dict; and remarks."""
    remarks: list[str] = []
    while isinstance(found, Mapping):
        plain, averaged = ([key for key in keys if _holds_tensors(found.get(key))] for keys in (_KEYS, _AVERAGED))
        alone = any(isinstance(value, Tensor) for value in found.values())
        others = [] if plain or averaged or alone else list(_state_dicts(found))
        if several := plain if len(plain) > 1 else others if len(others) > 1 else []:
            raise Unsupported(
                f"{path} holds several state dicts, under {few(several, 12)}: choose one, such as {path}::{several[0]}"
            )
        if plain and averaged:
            where = ", ".join(averaged)
            remarks.append(f"it holds averaged weights too, which are not read: ::{where} behind the path chooses them")
        elif averaged:
            remarks.append(f"its weights are averaged ones, under {averaged[0]}")
        elif others:
            remarks.append(f"its only state dict is read, under {others[0]}")
            return _under(found, others[0]), remarks
        if not plain + averaged:
            break
        beside = [key for key in found if key not in (*plain, *averaged) and key in _state_dicts(found)]
        if beside:
            remarks.append(
                f"it is read under {(plain + averaged)[0]}: ::{', '.join(beside)} behind the path chooses others"
            )
        found = found[(plain + averaged)[0]]
    return found, remarks


def _holds_tensors(found: Any) -> bool:
    if not isinstance(found, Mapping):
        return False
    return any(isinstance(value, Tensor) for value in found.values()) or any(
        _holds_tensors(found.get(key)) for key in (*_KEYS, *_AVERAGED)
    )


def _state_dicts(found: Any, where: str = "") -> Iterator[str]:
    """Where in a nested document state dicts stand, dots between keys; those of optimizers have numbers for keys."""
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        return
    if where and any(isinstance(value, Tensor) and value.is_floating_point() for value in found.values()):
        yield where
        return
    for key, value in found.items():
        yield from _state_dicts(value, f"{where}.{key}" if where else key)


def _under(found: Any, key: str) -> Any:
    """What stands under a key, whose dots lead deeper or belong to names; usual keys before it may be left out. None if
    nothing does.
    """
    if not isinstance(found, Mapping):
        return None
    if key in found:
        return found[key]
    for head in (key[:place] for place, sign in enumerate(key) if sign == "."):
        if (deeper := _under(found.get(head), key[len(head) + 1 :])) is not None:
            return deeper
    start = f"{key}."
    names = [name for name in found if isinstance(name, str) and name.startswith(start)]
    if names:
        return {name.removeprefix(start): found[name] for name in names}
    return next((deeper for each in _KEYS if (deeper := _under(found.get(each), key)) is not None), None)


def unusable(tensor: Tensor) -> str:
    """Why a tensor cannot be a parameter or a buffer of a walk; empty if it can."""
    if tensor.is_meta:
        return "without data, on the meta device"
    if is_traceable_wrapper_subclass(tensor):  # no numbers of its own, such as one in pieces on many devices
        return type(tensor).__name__ + (", gather it: full_tensor()" if hasattr(tensor, "full_tensor") else "")
    if tensor.layout != torch.strided or tensor.is_nested:
        return "nested" if tensor.is_nested else "sparse"
    if tensor.is_quantized:
        return "quantized"
    return "" if tensor.dtype in _TYPES else str(tensor.dtype).removeprefix("torch.")


def _all_begin(names: Iterable[str], prefix: str) -> bool:
    return all(name.startswith(prefix) and name != prefix for name in names)


def _wrappers(names: Collection[str]) -> Iterator[str]:
    """Prefixes of wrappers that all names carry, the outermost first."""
    while prefix := next((prefix for prefix in WRAPPERS if _all_begin(names, prefix)), ""):
        yield prefix
        names = [name.removeprefix(prefix) for name in names]


def leading(names: Collection[str]) -> Iterator[str]:
    """What of all names may be an attribute around the network, as Lightning modules have one: `model.`.

    The first component, if it is common to all; then with the prefixes of wrappers behind it, such as
    `model._orig_mod.`.

    >>> list(leading(["net._orig_mod.weight", "net._orig_mod.bias"]))
    ['net.', 'net._orig_mod.']
    """
    prefix = next(iter(names), "").partition(".")[0] + "."
    if _all_begin(names, prefix):
        yield prefix
        for wrapper in _wrappers([name.removeprefix(prefix) for name in names]):
            prefix += wrapper
            yield prefix


# ----------------------------------------------------------------------------------------------------------------------


def model_weights(directory: Path) -> Path | None:
    """The file or index of the one model that a directory holds in the Hugging Face layout; None for a plain folder.

    Raises `Unsupported` for a distributed checkpoint, with the command that converts it, and `LandscapeError` for
    shards without an index.
    """
    if (directory / ".metadata").exists() or any(directory.glob("*.distcp")):
        raise Unsupported(
            f"{directory} is a distributed checkpoint: convert it with "
            f"`python -m torch.distributed.checkpoint.format_utils dcp_to_torch {directory} FILE.pt` and give FILE.pt"
        )
    there = {file.name for file in _files(directory)}
    if adapter := [name for name in _ADAPTER if name in there and (directory / "adapter_config.json").exists()]:
        return directory / adapter[0]
    indexes = [name for name in _MODEL if name not in _WHOLE and is_there(directory / name)]
    whole = [name for name in _WHOLE if name in there]
    others = [name for name in there if name not in _WHOLE and not _SHARD.fullmatch(name)]
    alone = (directory / "config.json").exists() or all(_COMPANION.fullmatch(name) for name in others)
    if indexes or (whole and alone):
        return directory / next(name for name in _MODEL if name in (*whole, *indexes))
    if shards := sorted(name for name in there if _SHARD.fullmatch(name)):
        raise LandscapeError(
            f"{directory} holds shards of one model ({shards[0]}) without their index, model.safetensors.index.json "
            "or pytorch_model.bin.index.json: copy that too"
        )
    return None


def checkpoint_files(directory: Path) -> list[Path]:
    """The checkpoints in a plain folder, in natural order; `.bin`, as data have too, only where there are no others."""
    files = sorted(_files(directory), key=natural)
    return [file for file in files if file.suffix != ".bin"] or files


def natural(path: Path) -> tuple[list[int | str], str]:
    """A key to sort by: 2 before 10."""
    pieces = re.split(r"(\d+)", str(path))
    return [int(piece) if number % 2 else piece for number, piece in enumerate(pieces)], str(path)


def _files(directory: Path) -> list[Path]:
    return [file for file in directory.iterdir() if file.suffix in ENDINGS and file.is_file()]


def _shards(index: Path) -> dict[str, Tensor]:
    """All tensors that an index lists, each shard read once."""
    document = read_json(index)
    where = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(where, dict) or not where or not all(isinstance(file, str) for file in where.values()):
        raise DamagedFile(f"{index} is damaged: it has no weight_map from tensors to files; restore it")
    if odd := [file for file in where.values() if Path(file).name != file]:
        raise DamagedFile(f"{index} is damaged: {json.dumps(odd[0])} is no file beside it")
    files = sorted(set(where.values()))
    if missing := [file for file in files if not is_there(index.parent / file)]:
        raise LandscapeError(
            f"{index.parent} lacks {len(missing)} of {len(files)} shards that its index lists: {few(missing)}; "
            "fetch them too"
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        path = index.parent / file
        found = _contents(path)
        if not isinstance(found, Mapping):
            raise Unsupported(f"{path} holds no state dict")
        listed = {name for name, shard in where.items() if shard == file}
        if absent := sorted(listed - found.keys()):
            raise DamagedFile(f"{path} lacks tensors that the index lists: {few(absent)}; fetch it again")
        if more := [str(name) for name in found if name not in listed]:
            raise DamagedFile(
                f"{path} holds tensors that the index does not list there: {few(more)}; "
                "index and shards are not of one model, fetch both again"
            )
        tensors |= found
    return {name: tensors[name] for name in where}
