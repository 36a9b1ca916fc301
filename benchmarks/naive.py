# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""A naive port of CED to PyTorch: eager attention, and torchaudio objects created at each call."""

from collections.abc import Sequence

import numpy as np
import torch
import torchaudio
from torch import nn

from ced_model import CedConfig, CedForAudioClassification


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        q, k, v = (
            self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), Mlp(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    def __init__(self, config: CedConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.init_bn = nn.BatchNorm2d(config.n_mels)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, width, 16, 16)})
        self.time_pos_embed = nn.Parameter(torch.zeros(1, width, 1, config.target_length // 16))
        self.freq_pos_embed = nn.Parameter(torch.zeros(1, width, config.n_mels // 16, 1))
        self.blocks = nn.Sequential(*(Block(width, config.num_heads) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        x = self.init_bn(log_mel.unsqueeze(1).permute(0, 2, 1, 3)).permute(0, 2, 1, 3)
        x = self.patch_embed["proj"](x)
        x = x + self.time_pos_embed[..., : x.shape[-1]] + self.freq_pos_embed
        return self.norm(self.blocks(x.flatten(2).transpose(1, 2)))


class NaiveCed(nn.Module):
    """The same names and outputs as `CedForAudioClassification`, with mean pooling, for clips of up to 10.12 s."""

    def __init__(self, model: CedForAudioClassification) -> None:
        super().__init__()
        config = model.config
        self.encoder = Encoder(config)
        self.outputlayer = nn.Sequential(nn.LayerNorm(config.embed_dim), nn.Linear(config.embed_dim, model.num_labels))
        self.load_state_dict(model.state_dict())
        self.eval()

    @torch.no_grad()
    def forward(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Probabilities of waveforms (samples,) at 16 kHz; shorter ones are zero-padded, without a mask."""
        samples = max(map(len, waveforms))
        padded = torch.from_numpy(np.stack([np.pad(w, (0, samples - len(w))) for w in waveforms]))
        mel = torchaudio.transforms.MelSpectrogram(16000, 512, 512, 160, 0.0, 8000.0, n_mels=64)(padded)
        log_mel = torchaudio.transforms.AmplitudeToDB(top_db=120)(mel)
        return self.outputlayer(self.encoder(log_mel).mean(1)).sigmoid().numpy()
