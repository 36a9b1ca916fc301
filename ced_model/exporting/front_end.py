# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The front end as a graph: batches of waveforms to log-mel spectrograms, in operators that every runtime has."""

import math

import torch
from torch import nn

from ..feature_extraction_ced import AMIN, TOP_DB, CedFeatureExtractor, _hann_window, _mel_filters


class LogMel(nn.Module):
    """
    What [`CedFeatureExtractor.log_mel`] computes, for a batch of clips of one length, each as if it were alone.

    The Fourier transform is a product with its basis: runtimes multiply matrices faster than they do anything else,
    ONNX Runtime's own STFT takes several times as long. Half of that product is saved by one step of the fast
    transform: with the halves a and b of a windowed frame, its even frequencies are those of a + b, its odd ones
    those of a − b.

    Args:
        feature_extractor (`CedFeatureExtractor`):
            The front end to copy.

    Raises:
        `ValueError`: if `n_fft` is odd.
    """

    window: torch.Tensor
    even_basis: torch.Tensor
    odd_basis: torch.Tensor
    even_filters: torch.Tensor
    odd_filters: torch.Tensor

    def __init__(self, feature_extractor: CedFeatureExtractor) -> None:
        super().__init__()
        extractor, cpu = feature_extractor, torch.device("cpu")
        if extractor.n_fft % 2:
            raise ValueError(f"`n_fft={extractor.n_fft}` is odd: only a front end with an even one can be exported.")
        self.n_fft, self.hop_size, self.center = extractor.n_fft, extractor.hop_size, extractor.center
        rate = extractor.sampling_rate
        f_max = rate / 2 if extractor.f_max is None else extractor.f_max
        filters = _mel_filters(self.n_fft, extractor.feature_size, rate, extractor.f_min, f_max, cpu)
        self.register_buffer("window", _hann_window(extractor.win_size, self.n_fft, cpu).clone())
        for name, parity in (("even", 0), ("odd", 1)):
            frequencies = torch.arange(parity, self.n_fft // 2 + 1, 2)
            frequencies = frequencies[filters[frequencies].any(dim=1)]  # no filter takes 0 Hz and half the rate
            self.register_buffer(f"{name}_basis", _fourier_basis(frequencies, self.n_fft))
            # The filters of real and imaginary parts: the sum of their squares is the power.
            self.register_buffer(f"{name}_filters", filters[frequencies].repeat(2, 1))

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """
        Args:
            waveform (`torch.Tensor` of shape `(batch_size, samples)`):
                Mono audio, float32 in [-1, 1], longer than half a window.

        Returns:
            `torch.Tensor` of shape `(batch_size, n_mels, frames)`: decibels, float32.
        """
        frames = self._frames(waveform) * self.window
        first, second = frames[..., : self.n_fft // 2], frames[..., self.n_fft // 2 :]
        even = torch.matmul(first + second, self.even_basis)
        odd = torch.matmul(first - second, self.odd_basis)
        mel = torch.matmul(even * even, self.even_filters) + torch.matmul(odd * odd, self.odd_filters)
        decibels = 10.0 * torch.log10(mel.clamp(min=AMIN))
        return torch.maximum(decibels, decibels.amax(dim=(1, 2), keepdim=True) - TOP_DB).transpose(1, 2)

    def _frames(self, waveform: torch.Tensor) -> torch.Tensor:
        """Overlapping frames `(batch_size, frames, n_fft)`, joined from rows of one hop; gathering them is slower."""
        size, hop = self.n_fft, self.hop_size
        rows_per_frame = math.ceil(size / hop)
        number = 1 + (waveform.shape[1] if self.center else waveform.shape[1] - size) // hop
        rows = number - 1 + rows_per_frame
        if self.center:
            waveform = nn.functional.pad(waveform.unsqueeze(1), (size // 2, size // 2), mode="reflect").squeeze(1)
        # Narrowed, since of a slice the tracer does not know that it is as long as it says.
        waveform = nn.functional.pad(waveform, (0, rows_per_frame * hop - size)).narrow(1, 0, rows * hop)
        table = waveform.unflatten(1, (rows, hop))
        last = size - (rows_per_frame - 1) * hop
        parts = [table[:, shift : shift + number] for shift in range(rows_per_frame)]
        parts[-1] = parts[-1][..., :last]
        return torch.cat(parts, dim=-1)


def _fourier_basis(frequencies: torch.Tensor, n_fft: int) -> torch.Tensor:
    """Cosines, then negative sines, of `frequencies` of an `n_fft`-point transform at its first half of samples."""
    samples = torch.arange(n_fft // 2)
    # The angle is taken modulo a turn in whole numbers, since cosines of large arguments are less exact.
    angles = 2 * math.pi / n_fft * (samples[:, None] * frequencies % n_fft).double()
    return torch.cat([angles.cos(), -angles.sin()], dim=1).float()
