"""Save and load state dicts as safetensors files.

The format (https://github.com/huggingface/safetensors): an 8-byte little-endian header length, a JSON header with
dtype, shape and byte range per name, then the raw little-endian data. It runs no code on loading, and the names and
shapes are torch's, so the same file loads into the torch model of the same shape and the other way round.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .tensor import Tensor

# safetensors' dtype -> numpy's name of it: the dtypes of a Tensor, so that what is saved can be loaded.
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}


def save(state_dict: Mapping[str, Tensor | np.ndarray], path: str | os.PathLike[str]) -> None:
    """Writes a state dict to a safetensors file; a reader sees the old file or the whole new one, never a part.

    Args:
        state_dict: names to Tensors or numpy arrays of any shape (also 0-d, empty and non-contiguous) and any dtype of
            a Tensor. Values that share memory (tied weights) are written once per name.
        path: the file, by convention `*.safetensors`; its folder must exist.

    The file is readable by `safetensors.torch.load_file`, `safetensors.numpy.load_file` and `fastnn.load`.

    Raises:
        TypeError: state_dict is not a mapping from str to Tensors or arrays (the message names the key).
        ValueError: a key is "__metadata__", which the format reserves.
        NotImplementedError: a dtype that Tensors do not have.
        OSError: the file cannot be written.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"save: state_dict is a {type(state_dict).__name__}; expected a mapping from names to Tensors or numpy "
            "arrays such as module.state_dict()"
        )
    arrays = {key: _to_array(key, value) for key, value in state_dict.items()}

    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    with atomic_path(path) as temporary:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        try:
            # "pt" says that names and layouts are torch's; transformers refuses files that do not say it.
            save_file(arrays, temporary, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"save: cannot write {os.fspath(path)}: {error}") from error
        temporary.chmod(mode)  # safetensors makes the file private (0600): give it the mode that umask asks for


def load(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Reads a safetensors file, whoever wrote it, into a dict from names to Tensors on the CPU.

    The Tensors own their memory and do not require gradients; dtypes and shapes are those of the file. The format
    keeps no order of names. Give the result to `module.load_state_dict`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a safetensors file, or it is truncated or corrupt.
        NotImplementedError: a tensor has a dtype that Tensors do not have (the message names the key).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load: there is no file {path}")

    import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy, which safetensors looks up by name
    from safetensors import SafetensorError, safe_open

    from .tensor import from_numpy

    tensors = {}
    try:
        with safe_open(path, framework="np") as file:
            for key in file.keys():
                dtype = file.get_slice(key).get_dtype()
                if dtype not in _DTYPES:
                    raise NotImplementedError(
                        f"load: {key!r} in {path} has dtype {dtype}; expected one of {', '.join(_DTYPES)}; "
                        "convert it before saving"
                    )
                tensors[key] = from_numpy(file.get_tensor(key))
    except SafetensorError as error:
        raise ValueError(
            f"load: {path} is not a complete safetensors file ({error}); expected a file written by fastnn.save or by "
            "safetensors; save it again or copy it again from its source"
        ) from error
    return tensors


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a fresh path beside `path` to write to, and moves it over `path` when the block ends without an error."""
    target = Path(os.path.realpath(path))  # a symbolic link stays one; what it points to is replaced
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: folder {target.parent} does not exist; create it first")
    temporary = target.with_name(f".fastnn-{os.urandom(8).hex()}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _to_array(key: object, value: object) -> np.ndarray:
    """The C-contiguous array to write for one entry, or an error that names it."""
    from .tensor import Tensor

    if not isinstance(key, str):
        raise TypeError(f"save: state_dict has the key {key!r} of type {type(key).__name__}; expected str")
    if key == "__metadata__":
        raise ValueError(
            "save: state_dict has the key '__metadata__', which the safetensors format reserves; rename it"
        )
    array = value.detach().numpy() if isinstance(value, Tensor) else value
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"save: state_dict[{key!r}] is a {type(value).__name__}; expected a fastnn Tensor or a numpy array; "
            "convert numbers and lists with numpy.asarray, and flatten nested dicts into one with longer names"
        )
    if array.dtype.name not in _DTYPES.values():
        kind = TypeError if array.dtype.kind in "OSUMm" else NotImplementedError
        raise kind(
            f"save: state_dict[{key!r}] has dtype {array.dtype}; expected one of {', '.join(_DTYPES.values())}; "
            "convert it with astype"
        )
    return np.asarray(array, order="C")  # not ascontiguousarray, which makes 0-d arrays 1-d
