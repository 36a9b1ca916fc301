# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The exported front end is the feature extractor's, clip by clip."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank

from ced_model import CedFeatureExtractor
from ced_model.audio import read_audio
from ced_model.exporting.front_end import LogMel
from ced_model.exporting.recordings import synthetic_recordings

RECORDINGS = ("misc_crow", "misc_burp", "perc_snap", "perc_bell", "guit_e_slide", "loop_tabla")


def exact_log_mel(waveform: np.ndarray) -> torch.Tensor:
    """Spec section 1 in double precision, by numpy."""
    padded = np.pad(waveform.astype(np.float64), 256, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 512)[::160]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    mel = power @ mel_filter_bank(257, 64, 0, 8000, 16000, norm=None, mel_scale="htk")
    decibels = 10 * np.log10(np.maximum(mel, 1e-10))
    return torch.from_numpy(np.maximum(decibels, decibels.max() - 120).T)


@pytest.mark.parametrize("name", RECORDINGS)
def test_decibels_of_recordings_are_as_exact_as_the_feature_extractors(name: str, resources: Path) -> None:
    waveform = read_audio(resources / f"{name}.flac")
    extractor = CedFeatureExtractor()
    reference, exact = extractor.log_mel(torch.from_numpy(waveform)), exact_log_mel(waveform)
    decibels = LogMel(extractor)(torch.from_numpy(waveform)[None])[0]
    assert decibels.shape == reference.shape and decibels.dtype == torch.float32
    # Single precision rounds what is far below the loudest of its frame, in both.
    audible = exact > exact.amax(dim=0) - 60
    assert (decibels - reference)[audible].abs().max() < 1e-3
    own_rounding = (reference - exact).abs().max()
    assert (decibels - exact).abs().max() <= max(1e-3, 2 * own_rounding)


def test_each_clip_of_a_batch_is_as_if_it_were_alone() -> None:
    front_end = LogMel(CedFeatureExtractor())
    noise = torch.randn(16000, generator=torch.Generator().manual_seed(0))
    batch = torch.stack([noise, 1e-6 * noise, torch.zeros(16000)])
    decibels = front_end(batch)
    for clip, row in zip(batch, decibels, strict=True):
        torch.testing.assert_close(row, front_end(clip[None])[0], rtol=0, atol=1e-4)
    assert torch.all(decibels[2] == -100)


def test_values_120_decibels_below_the_loudest_are_raised() -> None:
    waveform = torch.zeros(1, 16000)
    waveform[0, 2000:4000] = 100 * torch.randn(2000, generator=torch.Generator().manual_seed(0))
    decibels = LogMel(CedFeatureExtractor())(waveform)
    assert decibels.max() > 40 and decibels.min() == decibels.max() - 120


@pytest.mark.parametrize("samples", [2400, 2401, 2559, 2560, 16000, 161919])
def test_every_length_gives_the_frames_of_the_feature_extractor(samples: int) -> None:
    extractor = CedFeatureExtractor()
    waveform = torch.from_numpy(synthetic_recordings(16000)[0][:samples])
    decibels = LogMel(extractor)(waveform[None])
    assert decibels.shape == (1, 64, extractor.num_frames(samples))
    torch.testing.assert_close(decibels[0], extractor.log_mel(waveform), rtol=0, atol=2e-2)


@pytest.mark.parametrize(
    "settings",
    [
        {"hop_size": 320},
        {"hop_size": 512},
        {"n_fft": 512, "win_size": 400, "hop_size": 200},
        {"n_fft": 256, "win_size": 200, "hop_size": 300},
        {"n_fft": 1024, "win_size": 1024, "hop_size": 160, "feature_size": 128},
        {"center": False},
        {"f_min": 50, "f_max": 7600},
        {"sampling_rate": 32000, "f_max": 14000},
    ],
    ids=str,
)
def test_other_settings_of_the_front_end_are_exported_too(settings: dict) -> None:
    extractor = CedFeatureExtractor(**settings)
    waveform = torch.from_numpy(synthetic_recordings(16000)[5][:20000])
    decibels = LogMel(extractor)(waveform[None])[0]
    reference = extractor.log_mel(waveform)
    assert decibels.shape == reference.shape
    torch.testing.assert_close(decibels, reference, rtol=0, atol=2e-2)


def test_an_odd_transform_is_refused() -> None:
    with pytest.raises(ValueError, match="`n_fft=511` is odd"):
        LogMel(CedFeatureExtractor(n_fft=511, win_size=511))


def test_synthetic_recordings_are_the_same_at_every_call_and_audible() -> None:
    first, second = synthetic_recordings(16000), synthetic_recordings(16000)
    assert len(first) == 12
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == np.float32 and len(one) == 161920 and np.isfinite(one).all()
        assert 1e-3 < np.abs(one).max() <= 1
