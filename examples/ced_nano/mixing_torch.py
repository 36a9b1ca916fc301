# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes batches of new mixes of recordings on the device that is used for training."""

import torch

SAMPLING_RATE = 16000
SLOTS = 4  # maximum number of recordings in a mix
SHARES = {False: (0.4, 0.15, 0.45), True: (0.8, 0.2, 0.0)}  # by `clean`: single recordings, sequences, mixtures
ROOMS = 128
ROOM_SAMPLES = 6000  # 0.375 s


class TorchMixer:
    """
    Mixes recordings that are drawn in proportion to their weights.

    Args:
        samples: The concatenated recordings, int16 of shape (total,), on the device for mixing.
        lengths: Number of samples of each recording.
        weights: Relative frequency with which each recording is drawn.
    """

    def __init__(self, samples: torch.Tensor, lengths: torch.Tensor, weights: torch.Tensor):
        device = samples.device
        self.samples, self.lengths = samples, lengths.to(device)
        self.starts = torch.cumsum(self.lengths, 0) - self.lengths
        self.cumulative = torch.cumsum(weights.double() / weights.double().sum(), 0).to(device)
        is_long = self.lengths >= 4 * SAMPLING_RATE
        long_weights = torch.where(is_long, weights.to(device), 0).double()
        self.long_cumulative = torch.cumsum(long_weights / long_weights.sum(), 0) if is_long.any() else self.cumulative
        self.rooms = make_rooms(torch.Generator(device).manual_seed(0), device)

    def batch(self, clips: int, samples: int, generator: torch.Generator, *, clean: bool = False) -> torch.Tensor:
        """Mixes, float32 (clips, samples) in [-1, 1]. With `clean`, mostly single recordings and sequences."""
        device = self.samples.device

        def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
            return low + (high - low) * torch.rand(*shape, generator=generator, device=device)

        alone, sequence, _ = SHARES[clean]
        kind = uniform(clips)
        is_sequence, is_mixture = (kind >= alone) & (kind < alone + sequence), kind >= alone + sequence
        slot = torch.arange(SLOTS, device=device)
        events = torch.where(is_sequence, SLOTS, torch.where(is_mixture, 2 + (uniform(clips) * (SLOTS - 1)).long(), 1))
        clip, slot = torch.nonzero(slot < events[:, None], as_tuple=True)  # one row per recording in a mix
        count, in_sequence = len(clip), is_sequence[clip]
        is_background, is_alone = is_mixture[clip] & (slot == 0), events[clip] == 1

        draw = uniform(count).double()
        index = torch.where(
            is_background, torch.searchsorted(self.long_cumulative, draw), torch.searchsorted(self.cumulative, draw)
        ).clamp(max=len(self.lengths) - 1)
        rate = torch.where(uniform(count) < 0.5, uniform(count, low=0.84, high=1.19), 1.0)
        length = self.lengths[index]
        longest = torch.where(in_sequence, uniform(count, low=0.5, high=5.0), 16.0) * SAMPLING_RATE
        available = torch.minimum(length, longest.long())
        # A recording that is longer than the mix fills it and starts at a random position.
        room = (length - torch.minimum(available, (samples * rate).long())).clamp(min=0)
        offset = (uniform(count) * (room + 1)).long().clamp(max=room)
        available = torch.minimum(available, length - offset)
        duration = available / rate
        pause = uniform(count, low=0.05, high=2.5) * SAMPLING_RATE
        period = torch.where(is_background, duration, duration + pause)
        once = is_mixture[clip] & ~is_background & (uniform(count) < 0.5)
        spread = torch.where(is_alone, 0.1, 0.8) * uniform(count) * samples
        onset = torch.where(is_background | (is_alone & (duration >= samples)), 0.0, spread)
        place = (slot + uniform(count, low=-0.2, high=0.2)).clamp(min=0) / SLOTS * samples
        onset = torch.where(in_sequence, place, onset)

        sound = self._read(index, offset, available, rate, onset, period, once | in_sequence, samples)
        altered = torch.nonzero(uniform(count) < (0.1 if clean else 0.4)).squeeze(1)
        if len(altered):
            sound[altered] = self._filtered(sound[altered], generator)
        level = torch.where(in_sequence, uniform(count, low=-8, high=0), uniform(count, low=-10, high=20))
        level = torch.where(is_background | is_alone, 0.0, level)
        sound *= (10 ** (level / 20) / rms(sound).clamp(min=1e-6))[:, None]
        mixes = torch.zeros(clips, samples, device=device).index_add_(0, clip, sound)

        noisy = torch.nonzero(uniform(clips) < (0.05 if clean else 0.25)).squeeze(1)
        if len(noisy):
            noise = _noise(len(noisy), samples, generator, device)
            gain = 10 ** (uniform(len(noisy), low=-45, high=-10) / 20)
            mixes[noisy] += noise * (rms(mixes[noisy]) * gain)[:, None]
        loudness = 10 ** (uniform(clips, low=-38, high=-8) / 20)
        return (mixes * (loudness / rms(mixes).clamp(min=1e-6))[:, None]).clamp(-1, 1)

    def _read(
        self,
        index: torch.Tensor,
        offset: torch.Tensor,
        available: torch.Tensor,
        rate: torch.Tensor,
        onset: torch.Tensor,
        period: torch.Tensor,
        once: torch.Tensor,
        samples: int,
    ) -> torch.Tensor:
        """Recordings that start at `onset` and, unless `once`, repeat with `period`: float32 (recordings, samples)."""
        elapsed = torch.arange(samples, device=index.device, dtype=torch.float64) - onset[:, None].double()
        period = torch.where(once, torch.inf, period.double()).clamp(min=1.0)[:, None]
        position = torch.where(period.isinf(), elapsed, torch.remainder(elapsed, period)) * rate[:, None].double()
        is_inside = (elapsed >= 0) & (position < available[:, None] - 1)
        position = torch.where(is_inside, position, 0.0)
        first = position.long()
        fraction = (position - first).float()
        first += (self.starts[index] + offset)[:, None]
        following = (first + 1).clamp(max=len(self.samples) - 1)
        values = torch.lerp(self.samples[first].float(), self.samples[following].float(), fraction)
        return torch.where(is_inside, values / 32768, 0.0)

    def _filtered(self, sound: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Applies random reverberation, spectral tilt and bandwidth."""
        count, samples = sound.shape
        device = sound.device
        size = samples + ROOM_SAMPLES
        room = self.rooms[torch.randint(ROOMS, (count,), generator=generator, device=device)]
        room[torch.rand(count, generator=generator, device=device) < 0.4, 1:] = 0
        spectrum = torch.fft.rfft(sound, size) * torch.fft.rfft(room, size)
        octaves = torch.log2(torch.linspace(0, SAMPLING_RATE / 2, size // 2 + 1, device=device).clamp(min=60) / 1000)
        tilt = 8 * torch.rand(count, 1, generator=generator, device=device) - 4  # dB per octave
        spectrum *= 10 ** (tilt * octaves / 20)
        cutoff = 1 + 2 * torch.rand(count, 1, generator=generator, device=device)  # 2 to 8 kHz
        is_narrow = torch.rand(count, 1, generator=generator, device=device) < 0.25
        spectrum = torch.where(is_narrow & (octaves > cutoff), 0, spectrum)
        return torch.fft.irfft(spectrum, size)[:, :samples]


def rms(sound: torch.Tensor) -> torch.Tensor:
    """RMS of each row without its silent parts: (rows, samples) to (rows,)."""
    blocks = sound[:, : sound.shape[1] // 400 * 400].unflatten(1, (-1, 400)).square().mean(2)
    is_loud = blocks > 1e-3 * blocks.amax(1, keepdim=True)
    return (torch.where(is_loud, blocks, 0).sum(1) / is_loud.sum(1).clamp(min=1)).sqrt()


def make_rooms(generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """Impulse responses (rooms, samples): the direct sound, then noise that decays by 60 dB in 0.1 to 1 s."""
    time_s = torch.arange(ROOM_SAMPLES, device=device) / SAMPLING_RATE
    decay_s = 0.1 * 10 ** torch.rand(ROOMS, 1, generator=generator, device=device)
    tail = torch.randn(ROOMS, ROOM_SAMPLES, generator=generator, device=device) * 10 ** (-3 * time_s / decay_s)
    delay_s = 0.002 + 0.02 * torch.rand(ROOMS, 1, generator=generator, device=device)
    tail = torch.where(time_s < delay_s, 0, tail)
    wet_db = 18 * torch.rand(ROOMS, 1, generator=generator, device=device) - 12
    tail *= 10 ** (wet_db / 20) / tail.square().sum(1, keepdim=True).sqrt()
    tail[:, 0] = 1
    return tail


def _noise(count: int, samples: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """White to brown noise with a standard deviation of 1."""
    spectrum = torch.fft.rfft(torch.randn(count, samples, generator=generator, device=device))
    slope = 1.2 * torch.rand(count, 1, generator=generator, device=device)
    noise = torch.fft.irfft(spectrum / torch.arange(spectrum.shape[1], device=device).clamp(min=20) ** slope, samples)
    return noise / noise.std(1, keepdim=True)
