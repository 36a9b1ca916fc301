# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports with torch.export: one file that needs only PyTorch, not transformers or this package."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.fx.experimental._config as symbolic_shapes
from torch import nn
from torch.export import Dim
from torch.nn.utils import parametrize

from ..engines.torch import activate, load_model
from ..log_mel import AMIN, TOP_DB, FrontEnd, hann_window, mel_filters
from ..model_folder import ModelFolder
from .metadata import METADATA_FILE


class TorchProgram(nn.Module):
    """Computes probabilities and embeddings, of waveforms if it has a front end, else of log-mel spectrograms."""

    def __init__(self, model: ModelFolder, front_end: FrontEnd | None, in_half: bool) -> None:
        super().__init__()
        self.front_end = None if front_end is None else LogMel(front_end)
        self.model = load_model(model).requires_grad_(False)
        if in_half:
            for module in list(self.model.modules()):
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.weight = nn.Parameter(module.weight.half(), requires_grad=False)
                    parametrize.register_parametrization(module, "weight", InSinglePrecision(), unsafe=True)

    def forward(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Waveforms (B, samples) or log-mel (B, n_mels, T) → (B, classes) and (B, D)."""
        encoded = self.model.encoder(values if self.front_end is None else self.front_end(values), return_dict=True)
        probabilities = activate(self.model.classify(encoded), str(self.model.config.problem_type))
        return {"probabilities": probabilities, "embeddings": encoded.pooler_output}


class InSinglePrecision(nn.Module):
    """A parametrization that converts a weight stored in half precision to single precision."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.float()


class LogMel(nn.Module):
    """[`ced_model.log_mel.log_mel`] for a batch of clips: (B, samples) → (B, n_mels, T)."""

    window: torch.Tensor
    filters: torch.Tensor

    def __init__(self, front_end: FrontEnd) -> None:
        super().__init__()
        self.settings = front_end
        self.register_buffer("window", torch.from_numpy(hann_window(front_end)))
        self.register_buffer("filters", torch.from_numpy(mel_filters(front_end)))

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        size = self.settings.n_fft
        if self.settings.center:
            waveform = nn.functional.pad(waveform[:, None], (size // 2, size // 2), mode="reflect")[:, 0]
        frames = waveform.unfold(1, size, self.settings.hop_size) * self.window
        mel = torch.matmul(torch.fft.rfft(frames).abs().square(), self.filters)  # (B, T, n_mels)
        decibels = 10.0 * torch.log10(mel.clamp(min=AMIN))
        return torch.maximum(decibels, decibels.amax(dim=(1, 2), keepdim=True) - TOP_DB).transpose(1, 2)


def write_torch(
    model: ModelFolder, path: Path, metadata: Mapping[str, Any], front_end: FrontEnd | None, in_half: bool
) -> None:
    """Writes the file, with `metadata` as JSON in its extra files."""
    shortest, longest = (metadata[f"{end}_{'frames' if front_end is None else 'samples'}"] for end in ("min", "max"))
    length = (shortest + longest) // 2
    sample = torch.zeros(2, length) if front_end else torch.zeros(2, model.settings.n_mels, length)
    # Otherwise torch.export would specialise on batches and patch counts of 1.
    with symbolic_shapes.patch(backed_size_oblivious=True), torch.no_grad():  # type: ignore[attr-defined]
        dynamic = {"values": {0: Dim.AUTO, sample.dim() - 1: Dim.AUTO}}
        program = torch.export.export(
            TorchProgram(model, front_end, in_half).eval(), (sample,), dynamic_shapes=dynamic, strict=False
        )
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # it has paths of this machine
    content = io.BytesIO()  # PyTorch aborts the process if it cannot write to a file
    torch.export.save(program, content, extra_files={METADATA_FILE: json.dumps(metadata, ensure_ascii=False)})
    path.write_bytes(content.getbuffer())
