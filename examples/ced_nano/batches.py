# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches for `train_gpu.py`: mixes, the student's log-mels of them, and the teacher's outputs. On a CPU, they can be
made in a separate process during the training."""

import multiprocessing
import queue
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import yamnet
import yamnet_torch
from ced_model.log_mel import AMIN, TOP_DB, FrontEnd, hann_window, mel_filters
from ced_model.training.distillation.augmentation import Augmentation
from mixing_torch import SAMPLING_RATE, TorchMixer

WAYS = ("consistent", "inconsistent", "none")
TEACHER_PATCHES = 32  # per call on a CPU, so that they fit into its cache
WAIT_S = 5.0

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # log-mels; the teacher's logits and embeddings per patch


@dataclass(frozen=True, kw_only=True)
class Request:
    """Describes a batch. Equal requests give equal batches on the same device."""

    clips: int
    patches: int  # the teacher's patches (0.96 s, one every 0.48 s) per clip
    seed: int
    number: int  # of the step, and within it
    part: int = 0
    mixes: int | None = None  # number of the mixes, if mixes are repeated with another augmentation
    is_clean: bool = False  # no masks; single recordings, or recordings in sequence


class LogMel(nn.Module):
    """CED's front end for batches of clips of equal length, on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.front_end = FrontEnd()
        self.register_buffer("window", torch.from_numpy(hann_window(self.front_end)))
        self.register_buffer("filters", torch.from_numpy(mel_filters(self.front_end)))

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(clips, samples) to decibels (clips, 64, frames)."""
        half = self.front_end.n_fft // 2
        padded = F.pad(waveforms[:, None], (half, half), mode="reflect")[:, 0]
        frames = padded.unfold(-1, self.front_end.n_fft, self.front_end.hop_size) * self.window
        power = torch.view_as_real(torch.fft.rfft(frames)).square().sum(-1) @ self.filters
        decibels = 10 * torch.log10(power.clamp(min=AMIN))
        return torch.maximum(decibels, decibels.amax((1, 2), keepdim=True) - TOP_DB).transpose(1, 2)


class Masks:
    """Time and frequency masks for a batch of clips, identical for both front ends."""

    def __init__(self, clips: int, frames: int, share: float, generator: torch.Generator, device: torch.device):
        limits = Augmentation()

        def bounds(max_width: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
            width = (torch.rand(clips, 1, generator=generator, device=device) * (max_width + 1)).floor()
            start = (torch.rand(clips, 1, generator=generator, device=device) * (length - width + 1)).floor()
            return start, start + width

        is_masked = torch.rand(clips, 1, generator=generator, device=device) < share
        start, stop = bounds(int(limits.max_time_mask * frames / (limits.chunk_s * 100)), frames)
        positions = torch.arange(frames, device=device)
        self.time = (positions >= start) & (positions < stop) & is_masked
        start, stop = bounds(limits.max_freq_mask, FrontEnd().n_mels)
        bins = torch.arange(FrontEnd().n_mels, device=device)
        self.bins = (bins >= start) & (bins < stop) & is_masked
        nearest = np.abs(_centers_hz(mel_filters(FrontEnd())) - _centers_hz(yamnet.mel_weights())[:, None]).argmin(1)
        self.teacher_bins = self.bins[:, torch.from_numpy(nearest).to(device)]

    def apply(self, log_mel: torch.Tensor, *, teacher: bool) -> torch.Tensor:
        """Replaces the masked parts of (clips, frames, bins) by the mean of the clip."""
        bins = self.teacher_bins if teacher else self.bins
        mask = self.time[:, : log_mel.shape[1], None] | bins[:, None]
        return torch.where(mask, log_mel.mean((1, 2), keepdim=True), log_mel)


def _centers_hz(filters: np.ndarray) -> np.ndarray:
    frequencies = np.linspace(0, SAMPLING_RATE / 2, len(filters))
    return (filters * frequencies[:, None]).sum(0) / filters.sum(0).clip(1e-9)


def samples_of(patches: int) -> int:
    """Number of samples for `patches` patches of the teacher and the corresponding frames of the student."""
    return yamnet.HOP * (yamnet.PATCH_HOP * (patches + 1) - 1) + yamnet.WINDOW


class Batches:
    """
    Makes batches on the device of a mixer.

    Args:
        mixer: Makes the mixes of recordings.
        way: Augmentation of the student: the same as the teacher's (`"consistent"`), a different one
            (`"inconsistent"`), or none for both (`"none"`).
        mask_share: Share of clips with masks.
        teacher_passes: 3 to average over patches shifted by -0.16, 0 and 0.16 s, otherwise 1.
        compile: Whether to compile the teacher.
    """

    def __init__(self, mixer: TorchMixer, way: str, mask_share: float, teacher_passes: int, compile: bool = False):
        self.mixer, self.device = mixer, mixer.samples.device
        self.way, self.mask_share, self.teacher_passes = way, mask_share, teacher_passes
        self.teacher = yamnet_torch.load(quantized=False).to(self.device)
        self.log_mel = LogMel().to(self.device)
        self.teach: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = self.teacher
        if self.device.type == "cpu" and hasattr(yamnet.teacher(), "run"):
            self.teach = teach_on_cpu
        elif compile:
            self.teach = torch.compile(self.teacher, dynamic=False)

    @torch.no_grad()
    def make(self, request: Request) -> Batch:
        clips, frames = request.clips, yamnet.PATCH_HOP * (request.patches + 1)
        numbers = 4 * request.part + np.arange(4)
        mixes = request.number if request.mixes is None else request.mixes
        mixing, masking, other = (
            torch.Generator(self.device).manual_seed((request.seed * 1_000_003 + number) * 16 + int(purpose))
            for number, purpose in zip((mixes, request.number, request.number), numbers, strict=False)
        )
        waveforms = self.mixer.batch(clips, samples_of(request.patches), mixing, clean=request.is_clean)
        is_augmented = self.way != "none" and not request.is_clean
        if request.mixes is not None and is_augmented:
            waveforms = _shifted(waveforms, masking)
        share = self.mask_share if is_augmented else 0.0
        masks = Masks(clips, frames, share, masking, self.device)
        logits, embeddings = self.targets(masks.apply(self.teacher.log_mel(waveforms), teacher=True))
        if self.way == "inconsistent" and is_augmented:
            masks = Masks(clips, frames, share, other, self.device)
            waveforms = _shifted(waveforms, other)
        seen = self.log_mel(waveforms)[:, :, :frames].transpose(1, 2)
        return masks.apply(seen, teacher=False).transpose(1, 2).contiguous(), logits, embeddings

    def targets(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The teacher's logits and embeddings per patch, averaged over its passes."""
        parts = yamnet_torch.patches_of(log_mel, yamnet.PATCH_HOP // self.teacher_passes)
        with autocast(self.device):
            logits, embeddings = self.teach(parts.flatten(0, 1))
        logits, embeddings = (x.float().unflatten(0, parts.shape[:2]) for x in (logits, embeddings))
        return (logits, embeddings) if self.teacher_passes == 1 else (_smoothed(logits), _smoothed(embeddings))


def autocast(device: torch.device) -> torch.autocast | nullcontext:
    return torch.autocast(device.type, torch.bfloat16)


def teach_on_cpu(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs the teacher in 8 bits with ONNX Runtime: on a CPU, three times as fast as bfloat16."""
    parts = patches.float().numpy()
    starts = range(0, len(parts), TEACHER_PATCHES)
    outputs = [yamnet.teacher().run(parts[start : start + TEACHER_PATCHES]) for start in starts]
    logits, embeddings = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*outputs, strict=True))
    return logits, embeddings


def _shifted(waveforms: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    shift = int(torch.randint(waveforms.shape[1], (1,), generator=generator, device=waveforms.device))
    return waveforms.roll(shift, dims=1)


def _smoothed(values: torch.Tensor) -> torch.Tensor:
    """Averages triples: (clips, 3 · patches - 2, ·) at a third of the hop to (clips, patches, ·)."""
    before = torch.cat([values[:, :1], values[:, 2::3]], 1)
    after = torch.cat([values[:, 1::3], values[:, -1:]], 1)
    return (before + values[:, ::3] + after) / 3


class Feeder:
    """Makes batches in a separate process with one thread. `take` returns them in the order of the requests."""

    def __init__(self, make_batches: Callable[[], Batches]) -> None:
        context = multiprocessing.get_context("spawn")
        self.requests, self.results = context.Queue(), context.Queue()
        self.process = context.Process(
            target=_feed, args=(make_batches, self.requests, self.results), name="feeder", daemon=True
        )
        self.process.start()

    def ask(self, request: Request) -> None:
        self.requests.put(request)

    def take(self) -> Batch:
        while True:
            try:
                log_mel, logits, embeddings = (torch.from_numpy(x) for x in self.results.get(timeout=WAIT_S))
                return log_mel.float(), logits, embeddings.float()
            except queue.Empty:
                if not self.process.is_alive():
                    raise SystemExit("The process that makes the batches has ended: run again to continue.") from None


def _feed(make_batches: Callable[[], Batches], requests: queue.Queue, results: queue.Queue) -> None:
    torch.set_num_threads(1)
    batches, parent = make_batches(), multiprocessing.parent_process()
    while parent is not None and parent.is_alive():
        try:
            log_mel, logits, embeddings = batches.make(requests.get(timeout=WAIT_S))
        except queue.Empty:
            continue
        results.put((log_mel.half().numpy(), logits.numpy(), embeddings.half().numpy()))
