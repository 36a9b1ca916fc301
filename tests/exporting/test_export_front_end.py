# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The front end inside a graph computes the decibels of `log_mel`, clip by clip."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from ced_model.audio import read_audio
from ced_model.calibration import synthetic_recordings
from ced_model.log_mel import FrontEnd, log_mel
from ced_model.onnx_graph import IR_VERSION, OPSET, GraphBuilder, write_front_end

RECORDINGS = ("misc_crow", "misc_burp", "perc_snap", "perc_bell", "guit_e_slide", "loop_tabla")
PUBLISHED = FrontEnd()


@lru_cache
def session_of(front_end: FrontEnd) -> onnxruntime.InferenceSession:
    g = GraphBuilder({})
    name = write_front_end(g, "waveform", front_end)
    values = [
        helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, shape)
        for value, shape in (("waveform", ["batch", "samples"]), (name, ["batch", front_end.n_mels, "frames"]))
    ]
    graph = helper.make_graph(g.nodes, "front_end", values[:1], values[1:], list(g.initializers.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def decibels_of(waveforms: np.ndarray, front_end: FrontEnd = PUBLISHED) -> np.ndarray:
    """(B, samples) → (B, n_mels, T)."""
    return session_of(front_end).run(None, {"waveform": waveforms.astype(np.float32)})[0]


@pytest.mark.parametrize("name", RECORDINGS)
def test_decibels_of_recordings_are_those_of_the_front_end(name: str, resources: Path) -> None:
    waveform = read_audio(resources / f"{name}.flac")
    expected = log_mel(waveform)
    decibels = decibels_of(waveform[None])[0]
    assert decibels.shape == expected.shape and decibels.dtype == np.float32
    # In both, single precision is inexact for values far below the maximum of their frame.
    audible = expected > expected.max(axis=0) - 60
    assert np.abs(decibels - expected)[audible].max() < 1e-3


def test_each_clip_of_a_batch_equals_the_clip_alone() -> None:
    noise = np.random.default_rng(0).normal(size=16000)
    batch = np.stack([noise, 1e-6 * noise, np.zeros(16000)])
    decibels = decibels_of(batch)
    for clip, row in zip(batch, decibels, strict=True):
        np.testing.assert_allclose(row, decibels_of(clip[None])[0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(decibels[2], -100, rtol=0, atol=1e-4)


def test_values_120_decibels_below_the_loudest_are_raised() -> None:
    waveform = np.zeros((1, 16000))
    waveform[0, 2000:4000] = 100 * np.random.default_rng(0).normal(size=2000)
    decibels = decibels_of(waveform)
    assert decibels.max() > 40 and decibels.min() == decibels.max() - 120


@pytest.mark.parametrize("samples", [2400, 2401, 2559, 2560, 16000, 161919])
def test_every_length_gives_the_frames_of_the_front_end(samples: int) -> None:
    waveform = synthetic_recordings(16000)[0][:samples]
    decibels = decibels_of(waveform[None])
    assert decibels.shape == (1, 64, PUBLISHED.num_frames(samples))
    np.testing.assert_allclose(decibels[0], log_mel(waveform), rtol=0, atol=2e-2)


@pytest.mark.parametrize(
    "front_end",
    [
        FrontEnd(hop_size=320),
        FrontEnd(hop_size=512),
        FrontEnd(win_size=400, hop_size=200),
        FrontEnd(n_fft=256, win_size=200, hop_size=300),
        FrontEnd(n_fft=1024, win_size=1024, n_mels=128),
        FrontEnd(center=False),
        FrontEnd(f_min=50, f_max=7600),
        FrontEnd(sampling_rate=32000, f_max=14000),
    ],
    ids=str,
)
def test_other_settings_of_the_front_end_are_exported_too(front_end: FrontEnd) -> None:
    waveform = synthetic_recordings(16000)[5][:20000]
    np.testing.assert_allclose(
        decibels_of(waveform[None], front_end)[0], log_mel(waveform, front_end), rtol=0, atol=2e-2
    )
