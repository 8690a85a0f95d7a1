"""Types of the compiled module. tests/test_package.py compares them with it; tools/make_stubs.py writes the ops."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .tensor import Tensor

class TensorBase:
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def strides(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def device(self) -> str: ...
    @property
    def ndim(self) -> int: ...
    requires_grad: bool
    grad: Tensor | None
    @property
    def is_leaf(self) -> bool: ...
    @property
    def grad_fn(self) -> Node | None: ...
    @property
    def _version(self) -> int: ...
    def numpy(self) -> np.ndarray: ...
    def detach(self) -> Tensor: ...
    def item(self) -> bool | int | float: ...
    def numel(self) -> int: ...
    def data_ptr(self) -> int: ...
    def _is_contiguous(self) -> bool: ...
    def _is_sole_owner(self) -> bool: ...
    def _take_history(self, source: TensorBase, /) -> None: ...
    def _as_subclass(self, type: type[TensorBase], /) -> TensorBase: ...
    def _bump_version(self) -> None: ...

class Node:
    @property
    def saved(self) -> tuple[Any, ...]: ...
    @property
    def needs_input_grad(self) -> tuple[bool, ...]: ...
    @property
    def name(self) -> str: ...

class Op:
    @property
    def name(self) -> str: ...
    @property
    def forward(self) -> Callable[..., Any]: ...
    @property
    def record(self) -> Callable[..., tuple[Any, tuple[Any, ...]]] | None: ...
    @property
    def backward(self) -> Callable[[Node, Any], Any] | None: ...
    traced: Callable[..., Any] | None
    def torch_forward(self, ctx: Any, *args: Any) -> Any: ...
    def torch_backward(self, ctx: Any, *grads: Any) -> tuple[Any, ...]: ...
    def torch_run(self, *args: Any) -> Any: ...
    def torch_run_backward(
        self, needs: tuple[bool, ...], values: tuple[Any, ...], tensors: tuple[Any, ...], /, *grads: Any
    ) -> tuple[Any, ...]: ...
    def __new__(
        cls,
        name: str,
        forward: Callable[..., Any],
        record: Callable[..., tuple[Any, tuple[Any, ...]]] | None = None,
        backward: Callable[[Node, Any], Any] | None = None,
    ) -> Op: ...
    def __call__(self, *args: Any) -> Any: ...

compiler: str
cuda_build: str
cuda_missing: str

def set_num_threads(n: int, /) -> None: ...
def get_num_threads() -> int: ...
def set_isa(name: str, /) -> None: ...
def get_isa() -> str: ...
def set_precision(name: str, /) -> None: ...
def get_precision() -> str: ...
def available_isas() -> list[str]: ...
def built_isas() -> list[str]: ...
def kernel_rows() -> list[tuple[str, str]]: ...
def memory_stats() -> dict[str, int]: ...
def empty_cache() -> None: ...
def set_cache_limit(bytes: int, /) -> None: ...
def load_cuda(path: str, /) -> None: ...
def cuda_loaded() -> bool: ...
def cuda_emulated() -> bool: ...
def cuda_device_count() -> int: ...
def cuda_info(index: int, /) -> dict[str, Any]: ...
def cuda_memory_stats(index: int, /) -> dict[str, int]: ...
def cuda_synchronize(device: str, /) -> None: ...
def cuda_capturing() -> bool: ...
def set_wgmma(on: bool, /) -> None: ...
def get_wgmma() -> bool: ...

class CudaGraph:
    def __init__(self, device: str, /) -> None: ...
    def end(self) -> None: ...
    def abandon(self) -> None: ...
    def replay(self) -> None: ...

def current_stream(device: str, /) -> int: ...
def stream_wait(tensor: Tensor, consumer: int, /) -> None: ...
def set_implicit_device(device: str, /) -> None: ...
def get_implicit_device() -> str: ...
def set_tensor_type(type: type[TensorBase], /) -> None: ...
def set_bfloat16(dtype: np.dtype[Any], /) -> None: ...
def set_foreign_handler(handler: Callable[[Op, tuple[Any, ...]], Any], /) -> None: ...
def instance_method(function: Callable[..., Any], /) -> Any: ...
def attach_torch(hooks: ModuleType, /) -> None: ...
def set_accumulate(
    add: Callable[..., Tensor], add_in_place: Callable[..., None], copy: Callable[[Tensor], Tensor], /
) -> None: ...
def record_leaves(list: list[tuple[Tensor, bool]] | None, /) -> list[tuple[Tensor, bool]] | None: ...
def grad_enabled() -> bool: ...
def set_grad_enabled(on: bool, /) -> bool: ...
def backward(tensor: Tensor, gradient: Tensor, /) -> None: ...
def from_numpy(array: np.ndarray, /) -> Tensor: ...
def to_dlpack(tensor: Tensor, versioned: bool, /) -> Any: ...
def from_dlpack(capsule: Any, /) -> Tensor: ...
def basic_index(tensor: TensorBase, index: tuple[Any, ...], /) -> Tensor | None: ...

# ops
def activation(function: str, input: Tensor, a: float, b: float, /) -> Tensor: ...
def activation_backward(function: str, saved: Tensor, grad: Tensor, a: float, b: float, /) -> Tensor: ...
def adagrad_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    sums: Sequence[Tensor],
    steps: Sequence[Tensor],
    lr: float,
    lr_decay: float,
    weight_decay: float,
    eps: float,
    maximize: bool,
    /,
) -> None: ...
def adam_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
    /,
) -> None: ...
def adaptive_avg_pool2d(input: Tensor, output_size: Sequence[int], /) -> Tensor: ...
def adaptive_avg_pool2d_backward(
    grad: Tensor, input_shape: Sequence[int], channels_last: bool, output_size: Sequence[int], /
) -> Tensor: ...
def adaptive_max_pool2d(input: Tensor, output_size: Sequence[int], /) -> Tensor: ...
def adaptive_max_pool2d_backward(
    grad: Tensor, position: Tensor, input_shape: Sequence[int], channels_last: bool, output_size: Sequence[int], /
) -> Tensor: ...
def adaptive_max_pool2d_indices(
    position: Tensor, input_shape: Sequence[int], channels_last: bool, output_size: Sequence[int], /
) -> Tensor: ...
def adaptive_max_pool2d_positions(input: Tensor, output_size: Sequence[int], /) -> tuple[Tensor, Tensor, bool]: ...
def add(input: Tensor | float, other: Tensor | float, /) -> Tensor: ...
def add_in_place(target: Tensor, other: Tensor | float, /) -> None: ...
def amax(input: Tensor, dim: Sequence[int], keepdim: bool, /) -> Tensor: ...
def amin(input: Tensor, dim: Sequence[int], keepdim: bool, /) -> Tensor: ...
def assign(target: Tensor, source: Tensor, /) -> None: ...
def astype(input: Tensor, dtype: DTypeLike, /) -> Tensor: ...
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float,
    dropout_p: float,
    seed: int,
    offset: int,
    softcap: float,
    left: int,
    right: int,
    /,
) -> tuple[Tensor, Tensor]: ...
def attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    output: Tensor,
    log_sum: Tensor,
    is_causal: bool,
    scale: float,
    dropout_p: float,
    seed: int,
    offset: int,
    softcap: float,
    left: int,
    right: int,
    need_query: bool,
    need_key_value: bool,
    need_mask: bool,
    /,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]: ...
def avg_pool2d(
    input: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int,
    /,
) -> Tensor: ...
def avg_pool2d_backward(
    grad: Tensor,
    input_shape: Sequence[int],
    channels_last: bool,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int,
    /,
) -> Tensor: ...
def batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    /,
) -> Tensor: ...
def batch_norm_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    training: bool,
    parameter_dtype: DTypeLike,
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
    /,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]: ...
def batch_norm_statistics(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    /,
) -> tuple[Tensor, Tensor, Tensor]: ...
def bitwise_and(input: Tensor | float, other: Tensor | float, /) -> Tensor: ...
def bitwise_or(input: Tensor | float, other: Tensor | float, /) -> Tensor: ...
def bitwise_xor(input: Tensor | float, other: Tensor | float, /) -> Tensor: ...
def cat(tensors: Sequence[Tensor], dim: int, /) -> Tensor: ...
def clip_grad_norm(
    grads: Sequence[Tensor], max_norm: float, norm_type: float, error_if_nonfinite: bool, /
) -> Tensor: ...
def clip_grad_value(grads: Sequence[Tensor], clip_value: float, /) -> None: ...
def clone(input: Tensor, /) -> Tensor: ...
def contiguous(input: Tensor, channels_last: bool, /) -> Tensor: ...
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
    residual: Tensor | None,
    /,
) -> Tensor: ...
def conv2d_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
    /,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]: ...
def conv2d_pool(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
    need_positions: bool,
    /,
) -> tuple[Tensor, Tensor | None]: ...
def cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, label_smoothing: float, /
) -> Tensor: ...
def cross_entropy_backward(saved: Tensor, grad: Tensor, /) -> Tensor: ...
def cross_entropy_with_gradient(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    needs_input: bool,
    needs_target: bool,
    /,
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]: ...
def div(input: Tensor | float, other: Tensor | float, /) -> Tensor: ...
def div_in_place(target: Tensor, other: Tensor | float, /) -> None: ...
def dropout(input: Tensor, p: float, seed: int, offset: int, /) -> tuple[Tensor, bool]: ...
def dropout_backward(grad: Tensor, p: float, seed: int, offset: int, channels_last: bool, /) -> Tensor: ...
def embedding(weight: Tensor, input: Tensor, /) -> Tensor: ...
def embedding_backward(
    grad: Tensor, input: Tensor, weight_shape: Sequence[int], padding_idx: int, scale_grad_by_freq: bool, /
) -> Tensor: ...
def embedding_bag(
    weight: Tensor,
    input: Tensor,
    offsets: Tensor,
    mode: str,
    per_sample_weights: Tensor | None,
    include_last_offset: bool,
    padding_idx: int,
    /,
) -> tuple[Tensor, Tensor | None]: ...
def embedding_bag_backward(
    grad: Tensor,
    weight: Tensor,
    input: Tensor,
    offsets: Tensor,
    maxima: Tensor | None,
    mode: str,
    per_sample_weights: Tensor | None,
    include_last_offset: bool,
    padding_idx: int,
    scale_grad_by_freq: bool,
    need_weight: bool,
    need_per_sample_weights: bool,
    /,
) -> tuple[Tensor | None, Tensor | None]: ...
def embedding_renorm(weight: Tensor, input: Tensor, max_norm: float, norm_type: float, /) -> None: ...
def empty(shape: Sequence[int], dtype: DTypeLike, device: str, /) -> Tensor: ...
def eq(input: Tensor | float, other: Tensor | float, /) -> Tensor: ...
def expand(input: Tensor, shape: Sequence[int], /) -> Tensor: ...
def fill(target: Tensor, value: Tensor | float, /) -> None: ...
def full(shape: Sequence[int], value: Tensor | float, dtype: DTypeLike, device: str, /) -> Tensor: ...
def ge(input: Tensor | float, other: Tensor | float, /) -> Tensor: ...
def group_norm(input: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, /) -> Tensor: ...
def group_norm_backward(
    grad: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    parameter_dtype: DTypeLike,
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
    /,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]: ...
def group_norm_statistics(
    input: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, /
) -> tuple[Tensor, Tensor, Tensor]: ...
def gt(input: Tensor | float, other: Tensor | float, /) -> Tensor: ...
def instance_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    /,
) -> Tensor: ...
def instance_norm_statistics(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    /,
) -> tuple[Tensor, Tensor, Tensor]: ...
def int_mm(input: Tensor, other: Tensor, /) -> Tensor: ...
def is_channels_last(input: Tensor, /) -> bool: ...
def layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float, /
) -> Tensor: ...
def layer_norm_backward(
    grad: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    parameter_dtype: DTypeLike,
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
    /,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]: ...
def layer_norm_statistics(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float, /
) -> tuple[Tensor, Tensor, Tensor]: ...
def le(input: Tensor | float, other: Tensor | float, /) -> Tensor: ...
def linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, activation: str, residual: Tensor | None, /
) -> Tensor: ...
def linear_backward(
    grad: Tensor, input: Tensor, weight: Tensor, need_input: bool, need_weight: bool, need_bias: bool, /
) -> tuple[Tensor | None, Tensor | None, Tensor | None]: ...
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    /,
) -> Tensor: ...
def linear_cross_entropy_backward(
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    grad: Tensor,
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
    /,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]: ...
def linear_cross_entropy_with_gradient(
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
    /,
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None, Tensor | None]]: ...
def linear_int8(
    input: Tensor,
    weight: Tensor,
    input_scale: float,
    input_zero_point: int,
    weight_scale: Tensor,
    bias: Tensor | None,
    activation: str,
    output_scale: float,
    output_zero_point: int,
    /,
) -> Tensor: ...
def lion_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    maximize: bool,
    /,
) -> None: ...
def log_softmax(input: Tensor, dim: int, /) -> Tensor: ...
def log_softmax_backward(output: Tensor, grad: Tensor, dim: int, /) -> Tensor: ...
def lt(input: Tensor | float, other: Tensor | float, /) -> Tensor: ...
def matmul(input: Tensor, other: Tensor, /) -> Tensor: ...
def max_along(input: Tensor, dim: int, keepdim: bool, /) -> tuple[Tensor, Tensor]: ...
def max_pool2d(
    input: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    /,
) -> Tensor: ...
def max_pool2d_backward(
    grad: Tensor,
    position: Tensor,
    input_shape: Sequence[int],
    channels_last: bool,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    /,
) -> Tensor: ...
def max_pool2d_indices(
    position: Tensor,
    input_shape: Sequence[int],
    channels_last: bool,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    /,
) -> Tensor: ...
def max_pool2d_positions(
    input: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    /,
) -> tuple[Tensor, Tensor, bool]: ...
def maximum(input: Tensor | float, other: Tensor | float, /) -> Tensor: ...
def may_overlap(a: Tensor, b: Tensor, /) -> bool: ...
def mean(input: Tensor, dim: Sequence[int], keepdim: bool, /) -> Tensor: ...
def min_along(input: Tensor, dim: int, keepdim: bool, /) -> tuple[Tensor, Tensor]: ...
def minimum(input: Tensor | float, other: Tensor | float, /) -> Tensor: ...
def mul(input: Tensor | float, other: Tensor | float, /) -> Tensor: ...
def mul_in_place(target: Tensor, other: Tensor | float, /) -> None: ...
def ne(input: Tensor | float, other: Tensor | float, /) -> Tensor: ...
def nll_loss(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, /) -> Tensor: ...
def nll_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, grad: Tensor, /
) -> Tensor: ...
def optimizer_state(param: Tensor, /) -> Tensor: ...
def penalty(params: Sequence[Tensor], p: float, weight: float, /) -> Tensor: ...
def penalty_backward(param: Tensor, grad: Tensor, p: float, weight: float, /) -> Tensor: ...
def permute(input: Tensor, dims: Sequence[int], /) -> Tensor: ...
def philox_words(group: int, offset: int, seed: int, /) -> Tensor: ...
def pointwise_loss(
    loss: str,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    reduction: str,
    a: float,
    /,
) -> Tensor: ...
def pointwise_loss_backward(
    loss: str,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    reduction: str,
    a: float,
    grad: Tensor,
    needs_input: bool,
    needs_target: bool,
    /,
) -> tuple[Tensor | None, Tensor | None]: ...
def pow(input: Tensor | float, exponent: Tensor | float, /) -> Tensor: ...
def probe_copy(bytes: int, seconds: float, /) -> float: ...
def probe_fma(dtype: str, seconds: float, /) -> float: ...
def probe_read(bytes: int, seconds: float, /) -> float: ...
def resample(input: Tensor, index: Sequence[Tensor], weights: Sequence[Tensor], /) -> Tensor: ...
def reshape(input: Tensor, shape: Sequence[int], /) -> Tensor: ...
def rms_norm(input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, eps: float, /) -> Tensor: ...
def rms_norm_backward(
    grad: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    rstd: Tensor,
    need_input: bool,
    need_weight: bool,
    /,
) -> tuple[Tensor | None, Tensor | None]: ...
def rms_norm_statistics(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, eps: float, /
) -> tuple[Tensor, Tensor]: ...
def rmsprop_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    square_avgs: Sequence[Tensor],
    grad_avgs: Sequence[Tensor],
    momenta: Sequence[Tensor],
    steps: Sequence[Tensor],
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
    maximize: bool,
    /,
) -> None: ...
def rnn_layer(
    cell: str,
    input: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    reverse: bool,
    /,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None, Tensor, Tensor | None]: ...
def rnn_layer_backward(
    cell: str,
    grad: Tensor | None,
    grad_h: Tensor | None,
    grad_c: Tensor | None,
    input: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    h: Tensor,
    c: Tensor | None,
    gates: Tensor,
    hidden_term: Tensor | None,
    reverse: bool,
    needs: Sequence[int],
    /,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]: ...
def rotary_embedding(input: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, inverse: bool, /) -> Tensor: ...
def sgd_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momenta: Sequence[Tensor],
    fresh: Sequence[int],
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    /,
) -> None: ...
def softmax(input: Tensor, dim: int, /) -> Tensor: ...
def softmax_backward(output: Tensor, grad: Tensor, dim: int, /) -> Tensor: ...
def sub(input: Tensor | float, other: Tensor | float, /) -> Tensor: ...
def sub_in_place(target: Tensor, other: Tensor | float, /) -> None: ...
def sum(input: Tensor, dim: Sequence[int], keepdim: bool, /) -> Tensor: ...
def sum_to(input: Tensor, shape: Sequence[int], /) -> Tensor: ...
def to_device(input: Tensor, device: str, /) -> Tensor: ...
def transpose(input: Tensor, dim0: int, dim1: int, /) -> Tensor: ...
def view(input: Tensor, shape: Sequence[int], /) -> Tensor: ...
def where(condition: Tensor, input: Tensor | float, other: Tensor | float, /) -> Tensor: ...
