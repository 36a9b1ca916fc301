# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""CedFeatureExtractor computes the same log-mel spectrograms as torchaudio for single clips."""

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import soxr
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoFeatureExtractor, Trainer, TrainingArguments
from transformers.utils import logging as transformers_logging

from ced_model import CedFeatureExtractor, CedForAudioClassification
from ced_model import feature_extraction_ced as module

EXTRACTOR = CedFeatureExtractor()
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else []) + (["mps"] if torch.mps.is_available() else [])


def make_noise(samples: int, seed: int = 0, amplitude: float = 0.1) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * amplitude).astype(np.float32)


def extract(raw_speech: Any, **options: Any) -> Any:
    return EXTRACTOR(raw_speech, sampling_rate=16000, **options)


def mel_of(raw_speech: Any, **options: Any) -> torch.Tensor:
    return extract(raw_speech, **options)["input_values"]


def oracle(waveform: Any, extractor: CedFeatureExtractor = EXTRACTOR) -> torch.Tensor:
    """The result of torchaudio for one clip, of shape `(n_mels, frames)`."""
    transform = torchaudio.transforms.MelSpectrogram(
        sample_rate=extractor.sampling_rate,
        n_fft=extractor.n_fft,
        win_length=extractor.win_size,
        hop_length=extractor.hop_size,
        f_min=extractor.f_min,
        f_max=extractor.f_max,
        n_mels=extractor.feature_size,
        center=extractor.center,
    )
    to_decibels = torchaudio.transforms.AmplitudeToDB(stype="power", top_db=120)
    return to_decibels(transform(torch.as_tensor(waveform, dtype=torch.float32)))


def assert_decibels(actual: torch.Tensor, expected: torch.Tensor, atol: float = 1e-3) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


# The numbers


@pytest.mark.parametrize("amplitude", [1e-6, 1e-3, 0.1, 1.0])
@pytest.mark.parametrize("samples", [2400, 2559, 16000, 16001, 160000])
def test_noise_equals_torchaudio(samples: int, amplitude: float) -> None:
    waveform = make_noise(samples, amplitude=amplitude)
    assert_decibels(mel_of(waveform)[0], oracle(waveform))


def exact_log_mel(waveform: np.ndarray) -> np.ndarray:
    """The definition in float64, for the default parameters."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(waveform.astype(np.float64), 256, mode="reflect"), 512)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    power = np.abs(np.fft.rfft(frames[::160] * window)) ** 2
    filters = torchaudio.functional.melscale_fbanks(257, 0.0, 8000.0, 64, 16000).double().numpy()
    decibels = 10 * np.log10(np.maximum(power @ filters, 1e-10)).T
    return np.maximum(decibels, decibels.max() - 120)


RECORDINGS = ["misc_crow", "misc_burp", "guit_e_slide", "loop_tabla", "perc_bell"]


def read_recording(folder: Path, name: str) -> np.ndarray:
    waveform, sampling_rate = soundfile.read(folder / f"{name}.flac", dtype="float32", always_2d=True)
    return soxr.resample(waveform.mean(axis=1), sampling_rate, 16000)


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_equal_torchaudio(name: str, resources: Path) -> None:
    """Within 1e-3 dB; bins far below the peak of their frame, where torchaudio is inexact, are closer to float64."""
    waveform = read_recording(resources, name)
    exact, reference = torch.from_numpy(exact_log_mel(waveform)), oracle(waveform)
    is_loud = exact > exact.amax(dim=0) - 60
    for mel in (EXTRACTOR.log_mel(torch.from_numpy(waveform)), EXTRACTOR._torch_log_mel(torch.from_numpy(waveform))):
        assert (mel - reference).abs().median() < 2e-5
        assert (mel - reference).abs()[is_loud].max() < 1e-3
    ours, theirs = (mel_of(waveform)[0] - exact).abs(), (reference - exact).abs()
    differs = (mel_of(waveform)[0] - reference).abs() > 1e-3
    assert ours.max() < theirs.max()
    assert not differs.any() or ours[differs].mean() < theirs[differs].mean()


def test_a_pure_tone_is_exact_even_far_below_its_peak() -> None:
    tone = np.sin(np.arange(16000) * 2 * np.pi * 1000 / 16000).astype(np.float32)
    exact = torch.from_numpy(exact_log_mel(tone))
    ours, theirs = ((mel - exact).abs().max() for mel in (mel_of(tone)[0], oracle(tone)))
    assert ours < theirs < 1e-3


@pytest.mark.parametrize("options", [{}, {"center": False, "feature_size": 32}, {"win_size": 400, "hop_size": 320}])
def test_pytorch_and_numpy_compute_the_same(options: dict[str, Any]) -> None:
    extractor = CedFeatureExtractor(**options)
    for waveform in (make_noise(16000), make_noise(2600, amplitude=1e-6), np.zeros(5400, np.float32)):
        by_numpy, by_torch = (f(torch.from_numpy(waveform)) for f in (extractor.log_mel, extractor._torch_log_mel))
        assert by_torch.shape == by_numpy.shape and by_torch.dtype == by_numpy.dtype
        assert_decibels(by_torch, by_numpy)


def test_silence_is_minus_100_decibels() -> None:
    mel = mel_of(np.zeros(16000, dtype=np.float32))
    assert mel.shape == (1, 64, 101)
    assert_decibels(mel, torch.full_like(mel, -100.0))


def test_the_dynamic_range_is_120_decibels_below_the_clips_own_maximum() -> None:
    tone = np.sin(np.arange(16000) * 2 * np.pi * 1000 / 16000).astype(np.float32)
    waveform = np.concatenate([tone, np.zeros(16000, dtype=np.float32)])
    mel = mel_of(waveform)[0]
    assert mel.max() > 30  # so that the floor is above that of silence
    assert mel.min() == mel.max() - 120
    assert (mel[:, -50:] == mel.min()).all()
    assert_decibels(mel, oracle(waveform))


@pytest.mark.parametrize("quiet_first", [True, False])
def test_a_loud_clip_in_the_batch_changes_nothing(quiet_first: bool) -> None:
    quiet, loud = make_noise(16000, amplitude=1e-7), make_noise(16000, amplitude=1.0)
    assert oracle(quiet).mean() < oracle(loud).max() - 125  # a clamp over the batch would raise most of it
    batch = mel_of([quiet, loud] if quiet_first else [loud, quiet])
    assert_decibels(batch[0 if quiet_first else 1], oracle(quiet))
    assert_decibels(batch[1 if quiet_first else 0], oracle(loud))


def test_integer_samples_are_scaled_by_the_range_of_their_dtype() -> None:
    waveform = np.clip(make_noise(16000), -0.99, 0.99)
    for dtype, scale in ((np.int16, 2**15), (np.int32, 2**31), (np.int8, 2**7)):
        pcm = (waveform.astype(np.float64) * scale).astype(dtype)
        expected = mel_of((pcm / scale).astype(np.float32))
        assert torch.equal(mel_of(pcm), expected)
        assert torch.equal(mel_of(torch.from_numpy(pcm)), expected)
    unsigned = (waveform * 128 + 128).astype(np.uint8)
    assert torch.equal(mel_of(unsigned), mel_of((unsigned.astype(np.float32) - 128) / 128))


def test_floats_of_any_width_are_not_scaled() -> None:
    waveform = make_noise(16000)
    assert torch.equal(mel_of(waveform.astype(np.float64)), mel_of(waveform))
    half = waveform.astype(np.float16)
    assert torch.equal(mel_of(half), mel_of(half.astype(np.float32)))
    brain = torch.from_numpy(waveform).bfloat16()
    assert torch.equal(mel_of(brain), mel_of(brain.float()))
    loud = waveform * 100
    assert_decibels(mel_of(loud)[0], oracle(loud))


@pytest.mark.parametrize(
    "options",
    [
        {"feature_size": 128, "sampling_rate": 32000, "f_min": 50, "f_max": 14000, "n_fft": 1024, "win_size": 800},
        {"center": False, "feature_size": 32},
        {"win_size": 400, "hop_size": 320},
        {"hop_size": 10, "n_fft": 1024},
    ],
    ids=str,
)
@pytest.mark.parametrize("samples", [1, 20000])
def test_other_parameters_equal_torchaudio(options: dict[str, Any], samples: int) -> None:
    extractor = CedFeatureExtractor(**options)
    waveform = make_noise(samples)
    features = extractor(waveform, sampling_rate=extractor.sampling_rate)
    padded = np.pad(waveform, (0, max(0, extractor.min_samples - samples)))
    mel = features["input_values"][0]
    assert mel.shape[-1] == extractor.num_frames(len(padded)) >= 16
    assert_decibels(mel, oracle(padded, extractor))


# Accepted inputs


WAVEFORM = make_noise(16000)


@pytest.mark.parametrize(
    "raw_speech",
    [
        WAVEFORM,
        torch.from_numpy(WAVEFORM),
        torch.from_numpy(WAVEFORM).clone().requires_grad_(),
        WAVEFORM[None],
        torch.from_numpy(WAVEFORM)[None],
        WAVEFORM.tolist(),
        tuple(WAVEFORM.tolist()),
        [WAVEFORM],
        [WAVEFORM[None]],
        [torch.from_numpy(WAVEFORM)[None]],
        [WAVEFORM.tolist()],
        list(WAVEFORM),
        WAVEFORM.astype(">f4"),
        WAVEFORM[::-1].copy()[::-1],
        np.repeat(WAVEFORM, 2)[::2],
    ],
    ids="array, tensor, tensor with gradient, (1 n) array, (1 n) tensor, list of floats, tuple of floats, list of an"
    " array, list of a (1 n) array, list of a (1 n) tensor, list of lists, list of scalars, other byte order, reversed"
    " view, strided view".split(", "),
)
def test_one_clip_in_any_form_is_one_clip(raw_speech: Any) -> None:
    features = extract(raw_speech)
    assert set(features) == {"input_values"}
    mel = features["input_values"]
    assert mel.shape == (1, 64, 101) and mel.dtype == torch.float32 and not mel.requires_grad
    assert_decibels(mel[0], oracle(WAVEFORM))


def test_read_only_arrays_give_no_warning() -> None:
    waveform = WAVEFORM.copy()
    waveform.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(mel_of(waveform), mel_of(WAVEFORM))


def test_the_input_is_not_changed() -> None:
    waveform = torch.from_numpy(WAVEFORM.copy())
    mel_of([waveform, waveform[:100]])
    assert torch.equal(waveform, torch.from_numpy(WAVEFORM))


@pytest.mark.parametrize("convert", [lambda clips: clips, torch.from_numpy, list, np.ndarray.tolist])
def test_several_clips_in_any_form(convert: Callable[[np.ndarray], Any]) -> None:
    clips = np.stack([make_noise(16000, seed) for seed in range(3)])
    features = extract(convert(clips))
    assert set(features) == {"input_values"}
    assert features["input_values"].shape == (3, 64, 101)
    for mel, clip in zip(features["input_values"], clips, strict=True):
        assert_decibels(mel, oracle(clip))


def test_clips_of_different_types_and_lengths_in_one_list() -> None:
    pcm = (make_noise(5000, 1) * 2**15).astype(np.int16)
    features = extract([WAVEFORM, torch.from_numpy(pcm), WAVEFORM[None, :8000], WAVEFORM[:3000].tolist()])
    assert features["input_values"].shape == (4, 64, 101)
    assert features["attention_mask"].sum(dim=1).tolist() == [101, 32, 51, 19]
    assert torch.equal(features["input_values"][1, :, :32], mel_of(pcm)[0])


@pytest.mark.parametrize(
    ("raw_speech", "options", "shape"),
    [
        (np.zeros((2, 16000)), {}, (2, 64, 101)),
        ([np.zeros(10), np.zeros(16000)], {"max_length": 32000, "truncation": True}, (2, 64, 201)),
        ([np.zeros(10), np.zeros(16000)], {"max_length": 16000}, (2, 64, 101)),
        (np.zeros((1, 16000)), {}, (1, 64, 101)),
        (np.zeros(160000), {}, (1, 64, 1001)),
    ],
    ids=str,
)
def test_calls_that_the_public_port_accepts_keep_their_shapes(
    raw_speech: Any, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    assert mel_of(raw_speech, **options).shape == shape
    tensors = (
        torch.from_numpy(raw_speech) if isinstance(raw_speech, np.ndarray) else list(map(torch.tensor, raw_speech))
    )
    assert mel_of(tensors, **options).shape == shape


# The sampling rate


@pytest.mark.parametrize("sampling_rate", [44100, 8000, np.int64(48000)])
def test_another_sampling_rate_is_an_error_with_a_way_to_resample(sampling_rate: int) -> None:
    with pytest.raises(ValueError, match=rf"{sampling_rate} Hz.*16000 Hz.*resample\(waveform, {sampling_rate}, 16000"):
        EXTRACTOR(WAVEFORM, sampling_rate=sampling_rate)


def test_without_a_sampling_rate_there_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    transformers_logging.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger=module.__name__):
        EXTRACTOR(WAVEFORM, sampling_rate=16000)
        assert caplog.records == []
        mel = EXTRACTOR(WAVEFORM)["input_values"]
        EXTRACTOR(WAVEFORM)
    (record,) = caplog.records
    assert "sampling_rate" in record.getMessage() and "16000 Hz" in record.getMessage()
    assert torch.equal(mel, mel_of(WAVEFORM))


# Padding and truncation


def test_padding_to_the_longest_is_the_default() -> None:
    clips = [WAVEFORM, WAVEFORM[:8000]]
    for options in ({}, {"padding": True}, {"padding": "longest"}):
        features = extract(clips, **options)
        assert features["input_values"].shape == (2, 64, 101)
        assert features["attention_mask"].sum(dim=1).tolist() == [101, 51]
        assert torch.equal(features["input_values"][1, :, :51], mel_of(clips[1])[0])
        assert (features["input_values"][1, :, 51:] == 0).all()


def test_frames_are_padded_with_the_padding_value() -> None:
    extractor = CedFeatureExtractor(padding_value=-7.5)
    mel = extractor([WAVEFORM, WAVEFORM[:8000]], sampling_rate=16000)["input_values"]
    assert (mel[1, :, 51:] == -7.5).all() and (mel[1, :, :51] != -7.5).all()


def test_padding_to_a_length_in_samples() -> None:
    features = extract(WAVEFORM[:8000], padding="max_length", max_length=16000)
    assert features["input_values"].shape == (1, 64, 101)
    assert features["attention_mask"].tolist() == [[1] * 51 + [0] * 50]
    # Without truncation a longer clip is not cut, and the others are padded to it.
    features = extract([WAVEFORM, WAVEFORM[:100]], padding="max_length", max_length=8000)
    assert features["attention_mask"].sum(dim=1).tolist() == [101, 16]
    # Clips are not padded to the length if padding is disabled.
    assert mel_of(WAVEFORM[:8000], padding="longest", max_length=16000).shape == (1, 64, 51)
    assert mel_of(WAVEFORM[:8000], padding=False, max_length=16000).shape == (1, 64, 51)
    # No clip is shorter than one patch.
    assert mel_of(WAVEFORM[:100], max_length=200, truncation=True).shape == (1, 64, 16)


def test_truncation_keeps_the_first_samples_of_arrays_tensors_and_lists() -> None:
    expected = mel_of(WAVEFORM[:8000])
    options: dict[str, Any] = {"max_length": 8000, "truncation": True}
    for raw_speech in (WAVEFORM, torch.from_numpy(WAVEFORM), [torch.from_numpy(WAVEFORM)], WAVEFORM.tolist()):
        features = extract(raw_speech, **options)
        assert set(features) == {"input_values"}
        assert torch.equal(features["input_values"], expected)
    batch = extract([torch.from_numpy(WAVEFORM), torch.from_numpy(WAVEFORM[:4000])], **options)
    assert batch["attention_mask"].sum(dim=1).tolist() == [51, 26]


def test_pad_to_multiple_of_counts_frames() -> None:
    features = extract([WAVEFORM, WAVEFORM[:8000]], pad_to_multiple_of=16)
    assert features["input_values"].shape == (2, 64, 112)
    assert features["attention_mask"].sum(dim=1).tolist() == [101, 51]
    assert extract(WAVEFORM, pad_to_multiple_of=16)["attention_mask"].tolist() == [[1] * 101 + [0] * 11]
    assert set(extract(WAVEFORM, pad_to_multiple_of=101)) == {"input_values"}
    assert mel_of(WAVEFORM, max_length=16160, pad_to_multiple_of=16).shape == (1, 64, 112)


def test_without_padding_each_clip_keeps_its_length() -> None:
    features = extract([WAVEFORM, WAVEFORM[:8000]], padding=False, return_tensors=None)
    assert set(features) == {"input_values"}
    assert [mel.shape for mel in features["input_values"]] == [(64, 101), (64, 51)]
    with pytest.raises(ValueError, match="padding=True"):
        extract([WAVEFORM, WAVEFORM[:8000]], padding=False)
    assert mel_of([WAVEFORM, WAVEFORM], padding=False).shape == (2, 64, 101)


@pytest.mark.parametrize("samples", [1, 10, 256, 2399])
def test_a_clip_shorter_than_one_patch_is_zero_padded_to_it(samples: int) -> None:
    clip = make_noise(samples)
    features = extract(clip)
    assert set(features) == {"input_values"}  # the zeros count as valid
    assert_decibels(features["input_values"][0], oracle(np.pad(clip, (0, 2400 - samples))))
    assert features["input_values"].shape == (1, 64, 16)
    mask = extract([clip, WAVEFORM])["attention_mask"]
    assert mask.sum(dim=1).tolist() == [16, 101]


# The attention mask


@pytest.mark.parametrize("stored", [False, None])
def test_a_mask_is_returned_if_clips_were_padded(stored: bool | None) -> None:
    extractor = CedFeatureExtractor(return_attention_mask=stored)  # type: ignore[arg-type]
    padded, equal = [WAVEFORM, WAVEFORM[:8000]], [WAVEFORM, WAVEFORM]
    mask = extractor(padded, sampling_rate=16000)["attention_mask"]
    assert mask.dtype == torch.int64 and mask.tolist() == [[1] * 101, [1] * 51 + [0] * 50]
    assert set(extractor(equal, sampling_rate=16000)) == {"input_values"}


def test_only_an_explicit_false_in_the_call_suppresses_the_mask() -> None:
    clips = [WAVEFORM, WAVEFORM[:8000]]
    assert set(extract(clips, return_attention_mask=False)) == {"input_values"}
    always = CedFeatureExtractor(return_attention_mask=True)
    assert set(always(clips, sampling_rate=16000, return_attention_mask=False)) == {"input_values"}


def test_a_requested_mask_is_always_returned() -> None:
    assert extract(WAVEFORM, return_attention_mask=True)["attention_mask"].tolist() == [[1] * 101]
    always = CedFeatureExtractor(return_attention_mask=True)
    assert always(WAVEFORM, sampling_rate=16000)["attention_mask"].tolist() == [[1] * 101]


# Tensors and devices


def test_tensor_types() -> None:
    clips = [WAVEFORM, WAVEFORM[:8000]]
    as_torch, as_numpy, as_list = (extract(clips, return_tensors=kind) for kind in ("pt", "np", None))
    for name in ("input_values", "attention_mask"):
        assert isinstance(as_torch[name], torch.Tensor)
        assert isinstance(as_numpy[name], np.ndarray)
        assert isinstance(as_list[name], list) and all(isinstance(row, np.ndarray) for row in as_list[name])
        np.testing.assert_array_equal(as_numpy[name], as_torch[name].numpy())
        np.testing.assert_array_equal(np.stack(as_list[name]), as_numpy[name])
    assert as_numpy["input_values"].dtype == np.float32 and as_numpy["attention_mask"].dtype == np.int64


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("as_object", [True, False])
def test_tensors_are_returned_on_the_device(device: str, as_object: bool) -> None:
    features = extract([WAVEFORM, WAVEFORM[:8000]], device=torch.device(device) if as_object else device)
    assert {value.device.type for value in features.values()} == {device}
    assert_decibels(features["input_values"][0].cpu(), oracle(WAVEFORM))


def test_an_unknown_device_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no-such-device"):
        extract(WAVEFORM, device="no-such-device")


def test_features_computed_in_inference_mode_can_be_trained_on() -> None:
    with torch.inference_mode():
        mel_of(WAVEFORM)
    gain = torch.ones(64, 1, requires_grad=True)
    (gain * EXTRACTOR.log_mel(torch.from_numpy(WAVEFORM))).sum().backward()
    assert gain.grad is not None and gain.grad.isfinite().all() and gain.grad.any()


@pytest.mark.parametrize("method", [EXTRACTOR.log_mel, EXTRACTOR._torch_log_mel])
def test_autocast_and_default_types_change_nothing(method: Callable[[torch.Tensor], torch.Tensor]) -> None:
    waveform = torch.from_numpy(WAVEFORM)
    expected = method(waveform)
    assert expected.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(method(waveform), expected)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(method(waveform), expected)
    finally:
        torch.set_default_dtype(torch.float32)


# Saving and loading


def test_the_hubs_preprocessor_config_survives_reading_and_writing(tmp_path: Path, golden: Path) -> None:
    extractor = AutoFeatureExtractor.from_pretrained(golden / "micro_hub")
    assert type(extractor) is CedFeatureExtractor
    clips = [WAVEFORM, WAVEFORM[:8000]]
    features = extractor(clips, sampling_rate=16000)
    assert set(features) == {"input_values", "attention_mask"}  # in spite of `return_attention_mask: false`
    assert torch.equal(features["input_values"], mel_of(clips))
    extractor.save_pretrained(tmp_path)
    stored = json.loads((golden / "micro_hub" / "preprocessor_config.json").read_text())
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert {name: written[name] for name in stored} == stored


def test_parameters_survive_saving_and_loading(tmp_path: Path) -> None:
    extractor = CedFeatureExtractor(f_min=50, f_max=7000, hop_size=320, center=False, padding_value=-1.0)
    extractor.save_pretrained(tmp_path)
    loaded = CedFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == extractor.to_dict()
    mel = loaded(WAVEFORM, sampling_rate=16000)["input_values"]
    assert torch.equal(mel, extractor(WAVEFORM, sampling_rate=16000)["input_values"])
    assert mel.shape[-1] == 1 + (16000 - 512) // 320


# Bad input


def with_sample(value: float, position: int = 5000) -> np.ndarray:
    waveform = WAVEFORM.copy()
    waveform[position] = value
    return waveform


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (with_sample(np.nan), "NaN or infinite"),
        (with_sample(np.inf, 0), "NaN or infinite"),
        (with_sample(-np.inf, 15999), "NaN or infinite"),
        (np.array([np.inf, -np.inf] * 2000), "NaN or infinite"),
        (WAVEFORM.astype(np.float64) * 1e300, "NaN or infinite"),
        (with_sample(1e30), "too large"),
        (np.zeros(0), "empty"),
        ([], "empty"),
        (np.zeros((1, 0)), "empty"),
        (np.stack([WAVEFORM, WAVEFORM]), r"shape \(2, 16000\).*mono"),
        (np.stack([WAVEFORM, WAVEFORM], axis=1), r"shape \(16000, 2\).*mono"),
        (np.zeros((1, 1, 5)), r"shape \(1, 1, 5\).*mono"),
        (WAVEFORM > 0, "torch.bool.*PCM"),
        (np.zeros(5000, dtype=np.int64), "torch.int64.*PCM"),
        (np.zeros(5000, dtype=np.complex64), "torch.complex64.*PCM"),
        (["a", "b"], "not a waveform of numbers"),
        ([None], "not a waveform of numbers"),
        (None, "not a waveform of numbers"),
        ([0.1, [0.2, 0.3]], "not a waveform of numbers"),
        (np.array([WAVEFORM, None], dtype=object), "not a waveform of numbers"),
        (np.ma.masked_greater(WAVEFORM, 0), "masked samples: fill them"),
        (torch.zeros(5000).to_sparse(), "a sparse, nested or meta tensor: convert it"),
        (torch.zeros(5000, device="meta"), "a sparse, nested or meta tensor: convert it"),
    ],
    ids=range(23),
)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_invalid_clips_are_refused_with_their_index(clip: Any, reason: str, position: int) -> None:
    clips: list[Any] = [WAVEFORM, WAVEFORM[:100]]
    clips.insert(position, clip)
    if position == 0 and (clip is None or (isinstance(clip, list) and not clip)):
        clips[0], clips[1], position = (
            clips[1],
            clips[0],
            1,
        )  # the first one distinguishes a list of clips from one clip
    with pytest.raises(ValueError, match=rf"(?s)^Clip {position} .*{reason}"):
        extract(clips)


@pytest.mark.parametrize(
    ("raw_speech", "reason"),
    [
        (np.zeros((2, 2, 4000)), r"Clip 0 has shape \(2, 4000\).*Average the channels"),
        (torch.zeros(1, 2, 4000), r"Clip 0 has shape \(2, 4000\)"),
        (np.zeros((16000, 2)), r"\(16000, 2\).*looks like \(samples, channels\)"),
        (np.zeros(0), "Clip 0 is empty"),
        (np.zeros((2, 0)), "Clip 0 is empty"),
        (np.zeros((0, 100)), "holds no clips"),
        ([], "empty"),
        (None, "is a NoneType"),
        ("clip.wav", "is a str"),
        (b"RIFF", "is a bytes"),
        (0.5, "is a float"),
        ({"array": WAVEFORM}, "is a dict"),
        (iter([WAVEFORM]), "is a list_iterator"),
        (torch.tensor(0.5), r"Clip 0 has shape \(\)"),
        ([torch.tensor(0.5, requires_grad=True)], "Clip 0 is not a waveform"),
    ],
    ids=range(15),
)
def test_inputs_that_are_not_audio_are_refused(raw_speech: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        extract(raw_speech)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"truncation": True}, "`truncation=True` needs a `max_length`"),
        ({"max_length": 0}, "`max_length` must be a whole number, at least 1, got 0"),
        ({"max_length": 8000.0}, "`max_length` must be a whole number.*8000.0"),
        ({"pad_to_multiple_of": 0}, "`pad_to_multiple_of` must be a whole number, at least 1, got 0"),
        ({"pad_to_multiple_of": -4}, "`pad_to_multiple_of` must be"),
        ({"padding": "max_length"}, "max_length is defined"),
        ({"padding": "left"}, "left is not a valid PaddingStrategy"),
        ({"return_tensors": "tf"}, "tf is not a valid TensorType"),
        ({"hop_lenght": 3}, "unexpected keyword argument 'hop_lenght'"),
    ],
    ids=str,
)
def test_invalid_options_of_a_call_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises((ValueError, TypeError), match=reason):
        extract(WAVEFORM, **options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"padding_side": "left"}, "`padding_side='left'` must be"),
        ({"hop_size": 0}, "`hop_size` must be a whole number from 1"),
        ({"feature_size": 0}, "`feature_size` must be a whole number from 1 to 1,024"),
        ({"sampling_rate": 0}, "`sampling_rate` must be a whole number from 1,000"),
        ({"win_size": 1024}, r"`win_size` \(1024 samples\) does not fit into `n_fft` \(512 samples\)"),
        ({"f_min": 9000}, r"`f_min` \(9000 Hz\) must be below `f_max` \(8000 Hz\)"),
        ({"f_min": -1}, "`f_min` must be a number from 0 to"),
    ],
    ids=str,
)
def test_invalid_parameters_are_refused_at_construction(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        CedFeatureExtractor(**options)


# Properties


@st.composite
def make_clips(draw: st.DrawFn) -> list[Any]:
    """Clips of random lengths, loudness, types and containers."""
    clips: list[Any] = []
    for _ in range(draw(st.integers(1, 5))):
        samples = draw(st.one_of(st.integers(1, 20), st.integers(2300, 2600), st.integers(1, 30000)))
        clip = make_noise(samples, draw(st.integers(0, 2**16)), draw(st.sampled_from([0.0, 1e-7, 1e-3, 0.1, 1.0])))
        form = draw(st.sampled_from(["array", "tensor", "double", "int16", "row", "reversed"]))
        forms: dict[str, Callable[[np.ndarray], Any]] = {
            "array": lambda clip: clip,
            "tensor": torch.from_numpy,
            "double": lambda clip: clip.astype(np.float64),
            "int16": lambda clip: (np.clip(clip, -1, 0.99) * 2**15).astype(np.int16),
            "row": lambda clip: clip[None],
            "reversed": lambda clip: clip[::-1],
        }
        clips.append(forms[form](clip))
    return clips


@settings(max_examples=50)
@given(clips=make_clips(), multiple=st.sampled_from([None, 1, 16, 50]))
def test_any_batch_equals_its_clips_alone(clips: list[Any], multiple: int | None) -> None:
    features = extract(clips, pad_to_multiple_of=multiple, return_attention_mask=True)
    assert features["input_values"].isfinite().all()
    for mel, mask, clip in zip(features["input_values"], features["attention_mask"], clips, strict=True):
        alone = mel_of([clip])[0]
        frames = alone.shape[-1]
        assert frames == EXTRACTOR.num_frames(max(clip.shape[-1], 2400))
        assert torch.equal(mel[:, :frames], alone)  # to the last bit
        assert (mel[:, frames:] == 0).all()
        assert torch.equal(mask, (torch.arange(len(mask)) < frames).long())


@settings(max_examples=20)
@given(
    shape=st.tuples(st.integers(2, 4), st.integers(9, 6000)),
    seed=st.integers(0, 2**16),
    max_length=st.one_of(st.none(), st.integers(1, 8000)),
)
def test_rows_of_an_array_equal_a_list_and_truncation_equals_slicing(
    shape: tuple[int, int], seed: int, max_length: int | None
) -> None:
    clips = make_noise(shape[0] * shape[1], seed).reshape(shape)
    options: dict[str, Any] = {} if max_length is None else {"max_length": max_length, "truncation": True}
    rows = mel_of(clips, **options)
    assert torch.equal(rows, mel_of(torch.from_numpy(clips), **options))
    assert torch.equal(rows, mel_of(list(clips), **options))
    sliced = mel_of(clips[:, :max_length])
    assert torch.equal(rows[..., : sliced.shape[-1]], sliced)
    assert (rows[..., sliced.shape[-1] :] == 0).all()


@pytest.mark.parametrize("has_mask", [True, False])
def test_trainer_pads_features_stored_by_dataset_map_and_removes_unused_columns(
    has_mask: bool, golden: Path, feature_extractor: CedFeatureExtractor, tmp_path: Path
) -> None:
    """As `processing_class`, the feature extractor pads clips of mixed lengths, without a collator or options."""
    generator = np.random.default_rng(0)
    rows = [{"audio": generator.normal(scale=0.1, size=n), "label": n % 2, "name": "x"} for n in (3000, 8001, 5000)]
    stored = datasets.Dataset.from_list(rows).map(
        lambda row: dict(feature_extractor(row["audio"], sampling_rate=16000, return_attention_mask=has_mask))
    )
    model = CedForAudioClassification.from_pretrained(
        golden / "micro_hub", num_labels=2, problem_type="single_label_classification", ignore_mismatched_sizes=True
    )
    arguments = TrainingArguments(str(tmp_path), max_steps=1, report_to=[], use_cpu=True, save_strategy="no")
    trainer = Trainer(model, arguments, train_dataset=stored, processing_class=feature_extractor)
    trainer.train()
    predictions = trainer.predict(stored).predictions
    with torch.no_grad():
        alone = [model(**feature_extractor(row["audio"], sampling_rate=16000)).logits[0] for row in rows]
    np.testing.assert_allclose(predictions, torch.stack(alone), atol=1e-5)
