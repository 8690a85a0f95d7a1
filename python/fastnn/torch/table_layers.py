"""Rows of the operators for normalization, attention, embedding, padding, transposed convolution, recurrent layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from ..ops import (
    attention,
    conv_transpose,
    embedding,
    embedding_bag,
    interpolate,
    normalization,
    padding,
    pooling3d,
    rnn,
)
from .table import Args, Row

# ---- normalization ---------------------------------------------------------------------------------------------------


def _batch_norm(x, weight, bias, mean, var, training, momentum, eps):
    return F.batch_norm(x, mean, var, weight, bias, training, momentum, eps)


def _instance_norm(x, weight, bias, mean, var, momentum, eps):
    return F.instance_norm(x, mean, var, weight, bias, True, momentum, eps)


def _batch_norm_again(args: Args) -> Args:
    x, weight, bias, mean, var, training, momentum, eps = args
    return (x, weight, bias, None, None, training, momentum, eps) if training else args


def _normalization() -> Iterator[Row]:
    yield Row(
        "layer_norm",
        normalization._layer_norm,
        "Tensor input, SymInt[] normalized_shape, Tensor? weight=None, Tensor? bias=None, float eps=1e-05",
        lambda x, shape, w, b, eps: F.layer_norm(x, shape, w, b, eps),
        layout="contiguous",
    )
    yield Row(
        "rms_norm",
        normalization._rms_norm,
        "Tensor input, SymInt[] normalized_shape, Tensor? weight, float eps",
        lambda x, shape, w, eps: F.rms_norm(x, shape, w, eps),
        layout="contiguous",
    )
    yield Row(
        "batch_norm",
        normalization._batch_norm,
        "Tensor input, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean, Tensor(b!)? running_var, bool training, "
        "float momentum, float eps",
        _batch_norm,
        layout="image",
        again=_batch_norm_again,
    )
    yield Row(
        "group_norm",
        normalization._group_norm,
        "Tensor input, SymInt num_groups, Tensor? weight=None, Tensor? bias=None, float eps=1e-05",
        lambda x, groups, w, b, eps: F.group_norm(x, groups, w, b, eps),
        layout="image",
    )
    yield Row(
        "instance_norm",
        normalization._instance_norm,
        "Tensor input, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean, Tensor(b!)? running_var, "
        "float momentum, float eps",
        _instance_norm,
        layout="image",
        again=lambda args: (*args[:3], None, None, *args[5:]),
    )
    yield Row(
        "normalize",
        normalization._normalize,
        "Tensor input, float p, int[] dim, float eps",
        lambda x, p, dim, eps: F.normalize(x, p, tuple(dim), eps),
    )


# ---- attention and embedding -----------------------------------------------------------------------------------------


def _attention(query, key, value, mask, causal, scale, dropout_p, words, softcap, left, right):
    grouped = query.ndim > 2 and bool(query.shape[-3] != key.shape[-3])
    if (mask is not None and causal) or left >= 0 or right >= 0 or softcap:
        visible = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device)
        if causal or right >= 0:
            visible = visible.tril(0 if causal else right)
        if left >= 0:
            visible = visible.triu(-left)
        if mask is None:
            mask = visible
        else:
            mask = mask & visible if mask.dtype is torch.bool else mask.masked_fill(~visible, float("-inf"))
        causal = False
    if softcap:
        if grouped:
            key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
        scores = softcap * torch.tanh(query @ key.mT * (scale / softcap))
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype is torch.bool else scores + mask
        hidden = (scores == float("-inf")).all(-1, keepdim=True)
        weights = torch.softmax(scores.masked_fill(hidden, 0), -1).masked_fill(hidden, 0)
        return F.dropout(weights, dropout_p).to(value.dtype) @ value
    return F.scaled_dot_product_attention(query, key, value, mask, dropout_p, causal, scale=scale, enable_gqa=grouped)


def _rotary(x, cos, sin, interleaved):
    half = cos.shape[-1]
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.split(half, -1)
    parts = a * cos - b * sin, b * cos + a * sin
    turned = torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)
    return torch.cat((turned.to(x.dtype), rest), -1)


def _embedding_bag(w, i, offsets, samples, mode, include_last_offset, padding_idx, scale_grad_by_freq):
    offsets = offsets.to(i.dtype)
    padding = padding_idx if padding_idx >= 0 else None
    return F.embedding_bag(
        i, w, offsets, None, 2, scale_grad_by_freq, mode, False, samples, include_last_offset, padding
    )


def _attention_and_embedding() -> Iterator[Row]:
    for words, overload in (("int[2]", ""), ("Tensor", ".Tensor")):
        yield Row(
            f"scaled_dot_product_attention{overload}",
            attention._attention,
            "Tensor query, Tensor key, Tensor value, Tensor? attn_mask, bool is_causal, float scale, float dropout_p, "
            f"{words} words, float softcap=0., int left=-1, int right=-1",
            _attention,
            autocast="lower",
        )
    yield Row(
        "rotary_embedding",
        attention._rotary,
        "Tensor input, Tensor cos, Tensor sin, bool interleaved=False",
        _rotary,
        saved=lambda args, y: args[1:],
    )
    yield Row(
        "embedding",
        embedding._embedding,
        "Tensor weight, Tensor input, SymInt padding_idx, bool scale_grad_by_freq",
        lambda w, i, at, scale: F.embedding(i, w, at if at >= 0 else None, scale_grad_by_freq=scale),
        layout="contiguous",
        saved=lambda args, y: (args[1], tuple(args[0].shape), *args[2:]),
    )
    yield Row(
        "embedding_renorm",
        embedding._renormed,
        "Tensor weight, Tensor input, float max_norm, float norm_type",
        lambda w, i, most, p: torch.embedding_renorm_(w.clone(), i.contiguous(), most, p),
    )
    yield Row(
        "embedding_bag",
        embedding_bag._embedding_bag,
        "Tensor weight, Tensor input, Tensor offsets, Tensor? per_sample_weights, str mode, bool include_last_offset, "
        "SymInt padding_idx, bool scale_grad_by_freq",
        _embedding_bag,
        layout="contiguous",
    )
    yield Row(
        "one_hot",
        embedding._one_hot,
        "Tensor input, int num_classes=-1",
        lambda i, classes: F.one_hot(i, classes),
        layout="contiguous",
    )


# ---- images ----------------------------------------------------------------------------------------------------------


def _pad(x: torch.Tensor, widths: list[int], mode: str, value: float) -> torch.Tensor:
    pairs = [pair for i in range(len(widths) - 2, -1, -2) for pair in widths[i : i + 2]]
    while len(pairs) > 2 and not pairs[-1] and not pairs[-2]:
        del pairs[-2:]
    return F.pad(x, pairs, mode, value if mode == "constant" else None)


def _conv_transpose2d(input, weight, bias, stride, padding, output_size, dilation, groups):
    top, bottom, left, right = padding
    natural = [
        (n - 1) * s - 2 * p + d * (k - 1) + 1
        for n, s, p, d, k in zip(input.shape[2:], stride, (top, left), dilation, weight.shape[2:], strict=True)
    ]
    extra = [size - n for size, n in zip(output_size, natural, strict=True)]
    out = F.conv_transpose2d(input, weight, bias, stride, (top, left), [max(e, 0) for e in extra], groups, dilation)
    return out[:, :, : output_size[0], : output_size[1]]


def _interpolate(x, size, mode, align_corners, scales):
    align = None if mode.startswith("nearest") else align_corners
    return F.interpolate(x, None if scales else list(size), list(scales) if scales else None, mode, align)


def _volume_indices(in_planes, in_columns, area):
    pixels, flat = in_columns.shape[-1], in_columns.flatten(-2)
    picked = in_planes.flatten(-2).gather(-1, flat.clamp(min=0))
    out = torch.div(flat, max(pixels, 1), rounding_mode="floor") * area + picked
    return torch.where((flat < 0) | (picked < 0), -1, out).reshape(in_columns.shape)


def _images() -> Iterator[Row]:
    yield Row(
        "interpolate",
        interpolate._interpolate,
        "Tensor input, SymInt[] size, str mode, bool align_corners, float[] scales",
        _interpolate,
        layout="image",
        saved=lambda args, y: (tuple(args[0].shape[2:]), *args[1:]),
    )
    for name in ("pixel_shuffle", "pixel_unshuffle"):
        yield Row(
            name,
            getattr(interpolate, f"_{name}"),
            "Tensor input, SymInt factor",
            getattr(F, name),
            layout="contiguous",
            saved=lambda args, y: (args[1],),
        )
    yield Row(
        "max_pool3d_indices",
        pooling3d._indices,
        "Tensor in_planes, Tensor in_columns, SymInt area",
        _volume_indices,
        layout="contiguous",
    )
    yield Row(
        "pad",
        padding._pad,
        "Tensor input, SymInt[] widths, str mode, float value",
        _pad,
        layout="image",
        saved=lambda args, y: (tuple(args[0].shape), args[1], args[2]),
        to_op=_pad_arguments,
        from_op=lambda x, widths, *rest: (x, [w for pair in widths for w in pair] if widths else widths, *rest),
    )
    yield Row(
        "conv_transpose2d",
        conv_transpose._conv_transpose2d,
        "Tensor input, Tensor weight, Tensor? bias, SymInt[2] stride, SymInt[4] padding, SymInt[2] output_size, "
        "SymInt[2] dilation, SymInt groups",
        _conv_transpose2d,
        layout="image",
        saved=lambda args, y: (args[0], args[1], args[3], args[4], args[6], args[7]),
        autocast="lower",
    )


def _pad_arguments(x: Any, widths: Any, *rest: Any) -> Args:
    if not isinstance(widths, (list, tuple)):
        return x, widths, *rest
    return x, tuple(zip(widths[::2], widths[1::2], strict=True)), *rest


# ---- recurrent layers ------------------------------------------------------------------------------------------------


def _recurrent(cell: str) -> Callable[..., tuple[torch.Tensor, ...]]:
    function = getattr(torch, cell)

    def composite(x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, reverse):
        weights = [w for w in (weight_ih, weight_hh, bias_ih, bias_hh) if w is not None]
        zeros = x.new_zeros(x.shape[1], weight_hh.shape[1])
        states = [zeros if s is None else s for s in ((h0, c0) if cell == "lstm" else (h0,))]
        states = [s.unsqueeze(0) for s in states]
        hx = tuple(states) if cell == "lstm" else states[0]
        y, *last = function(x.flip(0) if reverse else x, hx, weights, bias_ih is not None, 1, 0.0, False, False, False)
        return (y.flip(0) if reverse else y, *(s.squeeze(0) for s in last))

    return composite


def _recurrent_layers() -> Iterator[Row]:
    for cell, op in rnn._ops.items():
        yield Row(
            cell,
            op,
            "Tensor input, Tensor? h0, Tensor? c0, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, "
            "Tensor? bias_hh, bool reverse",
            _recurrent(cell),
            returns="(Tensor, Tensor, Tensor)" if cell == "lstm" else "(Tensor, Tensor)",
            layout="contiguous",
            autocast=None if cell == "gru" else "lower",  # as torch: a gru's state stays in the dtype that it has
        )


ROWS: list[Row] = [*_normalization(), *_attention_and_embedding(), *_images(), *_recurrent_layers()]
