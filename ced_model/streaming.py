# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Live audio, in chunks of any length → blocks at the model's sampling rate."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import soxr

from .audio import AudioError, read_blocks


def stream_blocks(chunks: Iterable[Any], rate: int | None, model_rate: int) -> Iterator[np.ndarray]:
    """Mono float32 blocks at the model's rate from the chunks of a stream."""
    chunks = iter(chunks)
    first = next(chunks, None)
    if first is None:
        return
    if rate is None:
        rate = first.get("sampling_rate", model_rate) if isinstance(first, dict) else model_rate
    resampler = None
    position = 0
    for chunk in chain([first], chunks):
        samples = _mono_chunk(chunk, rate, position)
        position += len(samples)
        if rate != model_rate:
            resampler = resampler or soxr.ResampleStream(rate, model_rate, 1, dtype="float32")
            samples = resampler.resample_chunk(samples)
        if len(samples):
            yield samples
    if resampler is not None and len(block := resampler.resample_chunk(np.zeros(0, np.float32), last=True)):
        yield block


def _mono_chunk(chunk: Any, rate: int, position: int) -> np.ndarray:
    """One chunk as mono float32; raises where it does not continue the stream."""
    if isinstance(chunk, dict):
        if chunk.get("sampling_rate", rate) != rate:
            raise ValueError(
                f"The stream changed its sampling rate from {rate} to {chunk['sampling_rate']} Hz; start a new stream."
            )
        if chunk.get("start", position) != position:
            raise ValueError(
                f"The stream has a gap: the next sample is {position}, but the chunk starts at {chunk['start']};"
                " start a new stream."
            )
        chunk = chunk.get("array")
    if not hasattr(chunk, "shape"):
        raise AudioError(
            f"The stream has a chunk of type {type(chunk).__name__}: expected a waveform (an array or a tensor of shape"
            ' `(samples,)`), or {"array": waveform}.'
        )
    if len(chunk.shape) == 2 and chunk.shape[1] == 1:  # as sound cards deliver one channel
        chunk = chunk[:, 0]
    if len(chunk.shape) != 1 and tuple(chunk.shape[:-1]) != (1,):
        raise AudioError(
            f"The stream has a chunk of shape {tuple(chunk.shape)}: expected mono, (samples,). Average the channels,"
            " for example with `chunk.mean(axis=1)`, and give a list of chunks rather than one array."
        )
    if 0 in chunk.shape:
        return np.zeros(0, np.float32)
    # No resampling: the whole stream goes through one resampler.
    return np.concatenate(list(read_blocks(chunk, sampling_rate=rate, array_sampling_rate=rate)))
