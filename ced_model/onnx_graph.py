# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Writes the ONNX graph of a CED model from its configuration, with weights from its `model.safetensors`.

No tracing is needed and no weights are copied. The graph consists of standard operators (opset 20) and small constants;
its weights are ONNX external data that refers to the tensors in the safetensors file by offset. Each function below
writes one part of the model, in the order of its `forward`. B is the batch size, T the number of mel frames,
t = T // 16 the number of patches in time, N = 4 · t the number of tokens, D the width.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .log_mel import AMIN, TOP_DB, FrontEnd, hann_window, mel_filters
from .model_settings import ModelSettings
from .safetensors_index import StoredTensor

OPSET = 20  # the first with Gelu
IR_VERSION = 10
DATA_TYPES = {
    "F32": TensorProto.FLOAT,
    "F16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "F64": TensorProto.DOUBLE,
}
ACTIVATIONS = {"multi_label_classification": "Sigmoid", "single_label_classification": "Softmax", "regression": ""}

PROBABILITIES, EMBEDDINGS, STEPS = "probabilities", "embeddings", "step_probabilities"


class GraphBuilder:
    """Collects the nodes and constants of a graph. Values are referred to by name."""

    def __init__(self, tensors: Mapping[str, StoredTensor], inline: bool = False, in_half: bool = False) -> None:
        self.tensors = tensors
        self.inline, self.in_half = inline, in_half
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def node(self, op: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """Adds an operator; returns the name of its output, or a list of names if it has several."""
        name = name or f"{op}_{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}.{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """A small constant, stored in the graph; equal ones are shared."""
        array = np.asarray(values, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            name = self.constants[key] = f"constant_{len(self.constants)}"
            self.initializers[name] = numpy_helper.from_array(array, name)
        return self.constants[key]

    def weight(self, name: str) -> str:
        """A weight of the checkpoint as float32. Each may be used only once."""
        tensor = self.tensors[name]
        if not self.inline:
            self.initializers[name] = _external_tensor(name, tensor)
        else:
            is_matrix = name.endswith(".weight") and len(tensor.shape) > 1
            dtype = np.float16 if self.in_half and is_matrix else np.float32
            self.initializers[name] = numpy_helper.from_array(tensor.read().astype(dtype, copy=False), name)
        if self.initializers[name].data_type == TensorProto.FLOAT:
            return name
        return self.node("Cast", name, name=f"{name}.float32", to=TensorProto.FLOAT)

    def linear(self, rows: str, name: str, has_bias: bool = True) -> str:
        """`rows` (M, in) → (M, out). The weight keeps PyTorch's layout (out, in)."""
        inputs = [rows, self.weight(f"{name}.weight"), *([self.weight(f"{name}.bias")] if has_bias else [])]
        return self.node("Gemm", *inputs, name=name, transB=1)

    def layer_norm(self, values: str, name: str, epsilon: float) -> str:
        inputs = (values, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"))
        return self.node("LayerNormalization", *inputs, name=name, epsilon=epsilon)

    def shape_of(self, values: str, axis: int) -> str:
        """One dimension of a value, counted from the first axis: int64 of shape (1,)."""
        return self.node("Shape", values, start=axis, end=axis + 1)

    def join(self, *parts: str | int) -> str:
        """A shape from constant and computed dimensions."""
        names = [self.constant([part]) if isinstance(part, int) else part for part in parts]
        return self.node("Concat", *names, axis=0)

    def take(self, values: str, start: int, end: int | str, axis: int) -> str:
        stop = self.constant([end]) if isinstance(end, int) else end
        return self.node("Slice", values, self.constant([start]), stop, self.constant([axis]))


def build_graph(
    settings: ModelSettings,
    tensors: Mapping[str, StoredTensor],
    *,
    front_end: FrontEnd | None = None,
    inline: bool = False,
    in_half: bool = False,
    any_length: bool = False,
) -> onnx.ModelProto:
    """
    The graph of a classifier.

    Args:
        settings: The architecture.
        tensors: The tensors of the checkpoint by name.
        front_end: Include this front end in the graph, so that its input is a waveform.
        inline: Store the weights in the graph as float32, instead of referring to the safetensors file.
        in_half: With `inline`, store matrices as float16. Computation is in float32.
        any_length: Take spectrograms of any length, as required by sherpa-onnx, and return only the probabilities.

    Returns:
        A model with the input `log_mel` (float32, (B, n_mels, T): decibels, 16 ≤ T ≤ `target_length`) or `waveform`
        (float32, (B, samples)), and the outputs `probabilities` (float32, (B, classes); the raw outputs of a regression
        model) and `embeddings` (float32, (B, D)). If the model has steps, it also has the output `step_probabilities`
        (float32, (B, t, classes)), except with `any_length`.
    """
    g = GraphBuilder(tensors, inline, in_half)
    if front_end is None:
        graph_input = helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, ["batch", settings.n_mels, "frames"])
        log_mel = "log_mel"
    else:
        graph_input = helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", "samples"])
        log_mel = write_front_end(g, "waveform", front_end)
    values = write_batch_norm(g, log_mel)
    if any_length:
        values = split_long_clips(g, values, settings)
    tokens = write_encoder(g, values, settings)
    pooled = pool_tokens(g, tokens, settings)
    probabilities, steps = write_head(g, tokens, pooled, settings)
    outputs: dict[str, tuple[str, list[Any]]] = {PROBABILITIES: (probabilities, ["batch", settings.num_labels])}
    if any_length:
        by_clip = g.node("Reshape", probabilities, g.join(g.shape_of(log_mel, 0), -1, settings.num_labels))
        mean = g.node("ReduceMean", by_clip, g.constant([1]), keepdims=0)
        outputs[PROBABILITIES] = (mean, ["batch", settings.num_labels])
    else:
        outputs[EMBEDDINGS] = (pooled, ["batch", settings.embed_dim])
        if settings.has_steps:
            outputs[STEPS] = (steps, ["batch", "steps", settings.num_labels])
    for name, (value, _) in outputs.items():
        g.nodes.append(helper.make_node("Identity", [value], [name], name=name))
    graph = helper.make_graph(
        g.nodes,
        "ced",
        [graph_input],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, (_, shape) in outputs.items()],
        list(g.initializers.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="ced_model")
    model.ir_version = IR_VERSION
    return model


def write_front_end(g: GraphBuilder, waveform: str, front_end: FrontEnd) -> str:
    """
    `waveform` (B, samples) → log-mel (B, n_mels, T), as in [`ced_model.log_mel.log_mel`].

    The Fourier transform is computed as a matrix product, which is faster than the transforms of all runtimes. One step
    of the FFT halves the product: for the halves a and b of a windowed frame, even frequencies are those of a + b, odd
    ones those of a − b.
    """
    size, half = front_end.n_fft, front_end.n_fft // 2
    frames = g.node("Mul", _cut_frames(g, waveform, front_end), g.constant(hann_window(front_end), np.float32))
    first, second = g.take(frames, 0, half, 2), g.take(frames, half, size, 2)
    filters = mel_filters(front_end)
    powers = []
    for op, parity in (("Add", 0), ("Sub", 1)):
        frequencies = np.arange(parity, half + 1, 2)
        frequencies = frequencies[filters[frequencies].any(axis=1)]  # no filter uses 0 Hz and half the sampling rate
        # Angles are reduced modulo one turn as integers, since cosines of large arguments are less precise.
        angles = 2 * math.pi / size * (np.arange(half)[:, None] * frequencies % size)
        basis = np.concatenate([np.cos(angles), -np.sin(angles)], axis=1)
        spectrum = g.node("MatMul", g.node(op, first, second), g.constant(basis, np.float32))
        weights = np.concatenate([filters[frequencies]] * 2)  # power: the sum of squared real and imaginary parts
        powers.append(g.node("MatMul", g.node("Mul", spectrum, spectrum), g.constant(weights, np.float32)))
    mel = g.node("Max", g.node("Add", *powers), g.constant(AMIN, np.float32))  # (B, T, n_mels)
    decibels = g.node("Mul", g.node("Log", mel), g.constant(10 / math.log(10), np.float32))
    peak = g.node("ReduceMax", decibels, g.constant([1, 2]), keepdims=1)
    floor = g.node("Sub", peak, g.constant(TOP_DB, np.float32))
    return g.node("Transpose", g.node("Max", decibels, floor), name="log_mel", perm=[0, 2, 1])


def _cut_frames(g: GraphBuilder, waveform: str, front_end: FrontEnd) -> str:
    """Overlapping frames (B, T, n_fft), concatenated from rows of one hop, which is faster than gathering samples."""
    size, hop = front_end.n_fft, front_end.hop_size
    rows_per_frame = math.ceil(size / hop)
    samples = g.shape_of(waveform, 1)
    if front_end.center:
        waveform = g.node("Pad", waveform, g.constant([0, size // 2, 0, size // 2]), mode="reflect")
    else:
        samples = g.node("Sub", samples, g.constant([size]))
    number = g.node("Add", g.node("Div", samples, g.constant([hop])), g.constant([1]))  # T
    rows = g.node("Add", number, g.constant([rows_per_frame - 1]))
    waveform = g.node("Pad", waveform, g.constant([0, 0, 0, rows_per_frame * hop - size]))
    waveform = g.take(waveform, 0, g.node("Mul", rows, g.constant([hop])), 1)
    table = g.node("Reshape", waveform, g.join(0, rows, hop))
    parts = []
    for shift in range(rows_per_frame):
        part = g.take(table, shift, g.node("Add", number, g.constant([shift])), 1)
        width = min(hop, size - shift * hop)
        parts.append(part if width == hop else g.take(part, 0, width, 2))
    return g.node("Concat", *parts, axis=2)


def write_encoder(g: GraphBuilder, values: str, settings: ModelSettings) -> str:
    """Normalised log-mel (B, n_mels, T) → tokens (B, N, D), after the class token if there is one."""
    patches = write_patches(g, values, settings)
    tokens = write_tokens(g, patches, settings)
    shape = g.node("Shape", tokens)  # (B, N, D)
    heads, head_dim = settings.num_heads, settings.embed_dim // settings.num_heads
    by_head = g.join(g.shape_of(tokens, 0), g.shape_of(tokens, 1), heads, head_dim)
    rows = g.node("Reshape", tokens, g.constant([-1, settings.embed_dim]))
    for index in range(settings.depth):
        rows = write_block(g, rows, by_head, f"encoder.blocks.{index}", settings)
    rows = g.layer_norm(rows, "encoder.norm", 1e-6)
    return g.node("Reshape", rows, shape, name="last_hidden_state")


def write_batch_norm(g: GraphBuilder, log_mel: str) -> str:
    """`init_bn`, with mel bins as channels: (B, n_mels, T) → the same shape."""
    names = ("weight", "bias", "running_mean", "running_var")
    weights = [g.weight(f"encoder.init_bn.{name}") for name in names]
    return g.node("BatchNormalization", log_mel, *weights, name="encoder.init_bn", epsilon=1e-5)


def split_long_clips(g: GraphBuilder, values: str, settings: ModelSettings) -> str:
    """
    (B, n_mels, T) of any length → (B · n, n_mels, L): n pieces of equal length, with 16 ≤ L ≤ `target_length`.

    The last piece, which may lack up to n − 1 frames, and clips of less than 16 frames are padded with the mean.
    """
    longest, one = g.constant([settings.target_length]), g.constant([1])

    def divide_up(dividend: str, divisor: str) -> str:
        return g.node("Div", g.node("Sub", g.node("Add", dividend, divisor), one), divisor)

    frames = g.shape_of(values, 2)
    pieces = divide_up(frames, longest)
    length = g.node("Max", divide_up(frames, pieces), g.constant([settings.patch_size]))
    missing = g.node("Sub", g.node("Mul", pieces, length), frames)
    padded = g.node("Pad", values, g.node("Concat", g.constant([0] * 5), missing, axis=0))
    by_piece = g.node("Reshape", padded, g.join(0, 0, pieces, length))
    by_piece = g.node("Transpose", by_piece, perm=[0, 2, 1, 3])  # (B, n, n_mels, L)
    return g.node("Reshape", by_piece, g.join(-1, settings.n_mels, length))


def write_patches(g: GraphBuilder, values: str, settings: ModelSettings) -> str:
    """(B, n_mels, T) → patches (B, D, n_mels // 16, t) with their positions; a remainder of frames is dropped."""
    size = settings.patch_size
    image = g.node("Unsqueeze", values, g.constant([1]))
    weights = [g.weight(f"encoder.patch_embed.proj.{name}") for name in ("weight", "bias")]
    patches = g.node(
        "Conv", image, *weights, name="encoder.patch_embed.proj", kernel_shape=[size] * 2, strides=[size] * 2
    )
    positions = g.take(_time_positions(g, settings), 0, g.shape_of(patches, 3), 3)
    return g.node("Add", g.node("Add", patches, positions), g.weight("encoder.freq_pos_embed"))


def _time_positions(g: GraphBuilder, settings: ModelSettings) -> str:
    """The table (1, D, 1, positions), interpolated where `target_length` is longer than the checkpoint's."""
    name, positions = "encoder.time_pos_embed", settings.target_length // settings.patch_size
    stored = g.tensors[name]
    if stored.shape[-1] >= positions:
        return g.weight(name)
    return g.constant(resize_positions(stored.read(), positions), np.float32)


def resize_positions(table: np.ndarray, positions: int) -> np.ndarray:
    """Linear interpolation of the last axis to `positions`, as `interpolate(align_corners=False)` of PyTorch."""
    count = table.shape[-1]
    at = np.clip((np.arange(positions) + 0.5) * count / positions - 0.5, 0, None)
    left = np.minimum(at.astype(int), count - 1)
    right, share = np.minimum(left + 1, count - 1), (at - left).astype(np.float32)
    return table[..., left] * (1 - share) + table[..., right] * share


def write_tokens(g: GraphBuilder, patches: str, settings: ModelSettings) -> str:
    """(B, D, bands, t) → tokens (B, N, D) in frequency-major order, after the class token if there is one."""
    tokens = g.node("Transpose", g.node("Reshape", patches, g.constant([0, 0, -1])), perm=[0, 2, 1])
    if settings.pooling != "token":
        return tokens
    token = g.node("Add", g.weight("encoder.cls_token"), g.weight("encoder.token_pos_embed"))  # (1, 1, D)
    token = g.node("Expand", token, g.join(g.shape_of(tokens, 0), 1, settings.embed_dim))
    return g.node("Concat", token, tokens, axis=1)


def write_block(g: GraphBuilder, rows: str, by_head: str, name: str, settings: ModelSettings) -> str:
    """One pre-norm transformer block on the rows (B · N, D)."""
    values = write_attention(g, g.layer_norm(rows, f"{name}.norm1", 1e-6), by_head, f"{name}.attn", settings)
    rows = g.node("Add", rows, values)
    values = g.linear(g.layer_norm(rows, f"{name}.norm2", 1e-6), f"{name}.mlp.fc1")
    values = g.linear(g.node("Gelu", values), f"{name}.mlp.fc2")
    return g.node("Add", rows, values)


def write_attention(g: GraphBuilder, rows: str, by_head: str, name: str, settings: ModelSettings) -> str:
    """Self-attention within each clip. `by_head` is the shape (B, N, heads, head_dim)."""
    width, head_dim = settings.embed_dim, settings.embed_dim // settings.num_heads
    qkv = g.linear(rows, f"{name}.qkv", settings.qkv_bias)  # (B · N, 3 · D)
    parts = g.node("Split", qkv, outputs=3, axis=1, num_outputs=3)
    query, key, value = (g.node("Reshape", part, by_head) for part in parts)
    query = g.node("Transpose", query, perm=[0, 2, 1, 3])  # (B, heads, N, head_dim)
    key = g.node("Transpose", key, perm=[0, 2, 3, 1])  # (B, heads, head_dim, N)
    value = g.node("Transpose", value, perm=[0, 2, 1, 3])
    scores = g.node("Mul", g.node("MatMul", query, key), g.constant(head_dim**-0.5, np.float32))
    mixed = g.node("MatMul", g.node("Softmax", scores, axis=-1), value)  # (B, heads, N, head_dim)
    mixed = g.node("Reshape", g.node("Transpose", mixed, perm=[0, 2, 1, 3]), g.constant([-1, width]))
    return g.linear(mixed, f"{name}.proj")


def pool_tokens(g: GraphBuilder, tokens: str, settings: ModelSettings) -> str:
    """Tokens (B, N, D) → embeddings (B, D): their mean, or the class token."""
    if settings.pooling == "token":
        return g.node("Squeeze", g.take(tokens, 0, 1, 1), g.constant([1]), name="pooler_output")
    return g.node("ReduceMean", tokens, g.constant([1]), name="pooler_output", keepdims=0)


def write_head(g: GraphBuilder, tokens: str, pooled: str, settings: ModelSettings) -> tuple[str, str]:
    """
    Returns the probabilities (B, classes), from the embeddings or, with `dm` pooling, as the mean over time steps, and
    those of the steps (B, t, classes) if the model has steps.
    """
    if settings.pooling != "dm" and not settings.has_steps:
        return _activated(g, _logits(g, pooled), settings), ""
    bands, width = settings.n_mels // settings.patch_size, settings.embed_dim
    batch = g.shape_of(tokens, 0)
    patches = tokens if settings.pooling != "token" else g.take(tokens, 1, np.iinfo(np.int64).max, 1)
    by_band = g.node("Reshape", patches, g.constant([0, bands, -1, width]))
    steps = g.node("ReduceMean", by_band, g.constant([1]), keepdims=0)  # (B, t, D)
    rows = g.node("Reshape", steps, g.constant([-1, width]))
    by_step = g.join(batch, -1, settings.num_labels)
    if settings.pooling == "dm":
        logits = _logits(g, rows)
        probabilities = g.node("Reshape", _activated(g, logits, settings), by_step)
        probabilities = g.node("ReduceMean", probabilities, g.constant([1]), keepdims=0)
    else:  # one product for the rows of clips and steps
        both = _logits(g, g.node("Concat", pooled, rows, axis=0))
        probabilities = _activated(g, g.take(both, 0, batch, 0), settings)
        logits = g.node("Slice", both, batch, g.constant([np.iinfo(np.int64).max]), g.constant([0]))
    if not settings.has_steps:
        return probabilities, ""
    # Steps are trained with a binary cross-entropy for all problem types.
    return probabilities, g.node("Reshape", g.node("Sigmoid", logits), by_step)


def _logits(g: GraphBuilder, rows: str) -> str:
    """(M, D) → (M, classes)."""
    return g.linear(g.layer_norm(rows, "outputlayer.0", 1e-5), "outputlayer.1")


def _activated(g: GraphBuilder, logits: str, settings: ModelSettings) -> str:
    activation = ACTIVATIONS[settings.problem_type]
    return g.node(activation, logits) if activation else logits


def _external_tensor(name: str, tensor: StoredTensor) -> onnx.TensorProto:
    proto = TensorProto(name=name, data_type=DATA_TYPES[tensor.dtype], dims=tensor.shape)
    proto.data_location = TensorProto.EXTERNAL
    location = {"location": Path(tensor.file).name, "offset": tensor.offset, "length": tensor.num_bytes}
    for key, value in location.items():
        proto.external_data.add(key=key, value=str(value))
    return proto
