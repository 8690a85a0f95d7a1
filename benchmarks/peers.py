"""The libraries that are compared, one small class each. A library is imported when its class is made, not before.

All four have: name, version, set_threads(n), and what `functional.py` needs to build a call.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .cases import Arrays


class Unavailable(Exception):
    """The library cannot take part; the message says why."""


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken install may raise anything
        raise Unavailable(f"cannot import {name} ({type(error).__name__}: {error})") from error


class Fastnn:
    name = "fastnn"

    def __init__(self) -> None:
        import fastnn
        import fastnn.functional

        self.lib = fastnn
        self.version: str = fastnn.__version__

    def set_threads(self, threads: int) -> None:
        self.lib.set_num_threads(threads)

    def function(self, op: str) -> Callable[..., Any]:
        return getattr(self.lib.functional, op)

    def tensor(self, array: np.ndarray, requires_grad: bool = False, channels_last: bool = False) -> Any:
        if channels_last and array.ndim == 4:
            array = np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        return self.lib.tensor(array, requires_grad=requires_grad)

    def numpy(self, value: Any) -> np.ndarray:
        return value if isinstance(value, np.ndarray) else value.detach().numpy()


class Torch:
    name = "torch"

    def __init__(self) -> None:
        self.lib = _import("torch")
        self.version: str = self.lib.__version__

    def set_threads(self, threads: int) -> None:
        self.lib.set_num_threads(threads)

    def function(self, op: str) -> Callable[..., Any]:
        return getattr(self.lib.nn.functional, op, None) or getattr(self.lib, op)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        self.lib._dynamo.reset()  # every case starts with an empty cache, so none falls back to eager at the limit
        return self.lib.compile(function, dynamic=False)

    def tensor(self, array: np.ndarray, requires_grad: bool = False, channels_last: bool = False) -> Any:
        if array.dtype.name == "bfloat16":
            tensor = self.lib.from_numpy(array.view(np.uint16).copy()).view(self.lib.bfloat16)
        else:
            tensor = self.lib.tensor(array)
        if channels_last and array.ndim == 4:
            tensor = tensor.contiguous(memory_format=self.lib.channels_last)
        return tensor.requires_grad_(requires_grad) if requires_grad else tensor

    def numpy(self, value: Any) -> np.ndarray:
        value = value.detach()
        return (value.float() if value.dtype == self.lib.bfloat16 else value).numpy()


class OnnxRuntime:
    name = "onnxruntime"

    def __init__(self) -> None:
        self.lib = _import("onnxruntime")
        self.onnx = _import("onnx")
        self.lib.set_default_logger_severity(4)  # an op that it lacks is reported as an exception too
        self.version: str = self.lib.__version__
        self.threads = 0

    def set_threads(self, threads: int) -> None:
        self.threads = threads

    def session(self, nodes: Sequence[Any], inputs: Arrays, constants: Arrays, outputs: Sequence[str] = ("y",)) -> Any:
        """A session that runs these nodes; constants become initializers, which it may pack once."""
        helper, numpy_helper = self.onnx.helper, self.onnx.numpy_helper

        def value(name: str, dtype: np.dtype, shape: tuple[int, ...] | None) -> Any:
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)

        graph = helper.make_graph(
            list(nodes),
            "benchmark",
            [value(name, a.dtype, a.shape) for name, a in inputs.items()],
            [value(name, np.dtype(np.float32), None) for name in outputs],
            [numpy_helper.from_array(a, name) for name, a in constants.items()],
        )
        # The newest versions that onnxruntime of two years can read.
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        options = self.lib.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        return self.lib.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Jax:
    name = "jax"

    def __init__(self) -> None:
        self.lib = _import("jax")
        self.version: str = self.lib.__version__
        self.threads = 0

    def set_threads(self, threads: int) -> None:
        """Sizes XLA's thread pool, which is made with the backend and stays as it is from then on."""
        if self.threads not in (0, threads):
            raise Unavailable(f"XLA runs on {self.threads} threads in this process and cannot change to {threads}")
        if self.threads == 0:
            before = os.environ.get("PJRT_NPROC")
            os.environ["PJRT_NPROC"] = str(threads)
            try:
                self.lib.config.update("jax_platforms", "cpu")
                self.lib.devices()
            finally:
                del os.environ["PJRT_NPROC"]
                if before is not None:
                    os.environ["PJRT_NPROC"] = before
            self.threads = threads

    def tensor(self, array: np.ndarray) -> Any:
        # A copy: a CPU array made from numpy without one may share its memory, and a donated argument is overwritten.
        return self.lib.numpy.array(array, copy=True)

    def numpy(self, value: Any) -> np.ndarray:
        return np.asarray(value)


PEERS: dict[str, type] = {cls.name: cls for cls in (Torch, OnnxRuntime, Jax)}


def open_peers(names: Sequence[str], threads: int) -> tuple[list[Any], dict[str, str]]:
    """The peers that can take part with this many threads, and the reason for each that cannot.

    Raises:
      ValueError: a name is not one of PEERS.
    """
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise ValueError(f"--against: no peer {', '.join(unknown)}; expected some of {', '.join(PEERS)}")
    found, missing = [], {}
    for name in names:
        try:
            peer = PEERS[name]()
            peer.set_threads(threads)
        except Unavailable as reason:
            missing[name] = str(reason)
        else:
            found.append(peer)
    return found, missing
