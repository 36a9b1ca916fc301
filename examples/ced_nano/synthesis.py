# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Synthesises sounds with simple physical models: clocks, engines, rotors, rain, fire, bells, sirens, …

    python examples/ced_nano/synthesis.py WORK [--takes 40]

writes WORK/src/synthesis/KIND/*.flac and WORK/synthesis.json. A take is kept if one of its classes is in the teacher's
top 5. The share of these takes is printed for each kind. A take depends only on its kind and number.
"""

import argparse
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile

RATE = 16000
TRIES = 3  # maximum number of takes per requested take
Random = np.random.Generator
Maker = Callable[[Random, int], np.ndarray]  # (random numbers, samples) → samples


# --- Building blocks -------------------------------------------------------------------------------------------------


def band(rng: Random, samples: int, low: float, high: float, slope: float = 0.0) -> np.ndarray:
    """Noise between two frequencies in Hz, with a spectrum that falls by `slope` · 6 dB per octave."""
    frequencies = np.fft.rfftfreq(samples, 1 / RATE)
    shape = (frequencies > low) & (frequencies < high)
    spectrum = np.fft.rfft(rng.standard_normal(samples)) * shape / np.maximum(frequencies, 20) ** slope
    noise = np.fft.irfft(spectrum, samples)
    return noise / max(noise.std(), 1e-12)


def slow(rng: Random, samples: int, hz: float, low: float, high: float) -> np.ndarray:
    """A smooth random curve between two values, with about `hz` changes per second."""
    points = max(4, int(samples / RATE * hz) + 4)
    curve = scipy.signal.resample_poly(rng.standard_normal(points), 64, 1)
    curve = np.interp(np.linspace(0, len(curve) - 1, samples), np.arange(len(curve)), curve)
    return low + (high - low) / (1 + np.exp(-1.5 * curve))


def modes(rng: Random, frequencies: np.ndarray, decays_s: np.ndarray, levels: np.ndarray, samples: int) -> np.ndarray:
    """A struck body: decaying partials."""
    time = np.arange(samples) / RATE
    sound = np.zeros(samples)
    for frequency, decay, level in zip(frequencies, decays_s, levels, strict=True):
        if frequency < RATE / 2:
            sound += level * np.exp(-time / decay) * np.sin(2 * np.pi * (frequency * time + rng.random()))
    return sound


def click(rng: Random, length_s: float, low: float, high: float) -> np.ndarray:
    """A burst of noise in a band that decays within its length."""
    samples = max(32, int(length_s * RATE))
    return band(rng, samples, low, high) * np.exp(-5 * np.arange(samples) / samples)


def place(sound: np.ndarray, part: np.ndarray, start_s: float, level: float = 1.0) -> None:
    start = int(start_s * RATE)
    if 0 <= start < len(sound):
        part = part[: len(sound) - start]
        sound[start : start + len(part)] += level * part


def resonant(sound: np.ndarray, *peaks: tuple[float, float]) -> np.ndarray:
    """The sum of the outputs of resonant filters (Hz, quality)."""
    result = np.zeros(len(sound))
    for frequency, quality in peaks:
        result += scipy.signal.lfilter(*scipy.signal.iirpeak(min(frequency, 7800), quality, RATE), sound)
    return result


def in_room(rng: Random, sound: np.ndarray) -> np.ndarray:
    """Adds reverberation: noise that decays by 60 dB in 0.1 to 0.8 s."""
    length = int(0.4 * RATE)
    time = np.arange(length) / RATE
    tail = rng.standard_normal(length) * 10 ** (-3 * time / rng.uniform(0.1, 0.8))
    tail = scipy.signal.lfilter(*scipy.signal.butter(1, rng.uniform(1500, 6000), fs=RATE), tail)
    tail[: int(rng.uniform(0.002, 0.01) * RATE)] = 0
    tail *= rng.uniform(0.2, 1.2) / np.sqrt(np.sum(tail**2))
    tail[0] = 1
    return scipy.signal.fftconvolve(sound, tail)[: len(sound)]


def pulses(rng: Random, rate_hz: np.ndarray, *, cylinders: int = 1, jitter: float = 0.02, unevenness: float = 0.1):
    """A train of pulses of varying strength: firings of an engine, blades of a rotor."""
    phase = np.cumsum(rate_hz) / RATE + jitter * np.cumsum(rng.standard_normal(len(rate_hz))) / np.sqrt(RATE)
    starts = np.flatnonzero(np.diff(np.floor(phase)) > 0)
    strengths = 1 + unevenness * rng.standard_normal(cylinders)
    train = np.zeros(len(rate_hz))
    train[starts] = strengths[np.arange(len(starts)) % cylinders] * (
        1 + 0.5 * unevenness * rng.standard_normal(len(starts))
    )
    return train


def engine(
    rng: Random, speed: np.ndarray, *, cylinders: int, muffler_hz: float, noise: float, roughness: float
) -> np.ndarray:
    """Firings filtered by an exhaust (low resonances), and mechanical noise modulated by them."""
    train = pulses(rng, speed, cylinders=cylinders, unevenness=roughness, jitter=0.03)
    length = int(RATE * rng.uniform(0.004, 0.02))
    shape = np.exp(-5 * np.arange(length) / length) * (1 + 0.5 * rng.standard_normal(length))
    firing = scipy.signal.fftconvolve(train, shape)[: len(train)]
    exhaust = resonant(firing, *((muffler_hz * k * rng.uniform(0.9, 1.1), rng.uniform(1, 4)) for k in (1, 2, 3.3, 5.1)))
    envelope = scipy.signal.fftconvolve(train, np.exp(-np.arange(400) / 120))[: len(train)]
    rattle = band(rng, len(train), 300, rng.uniform(3000, 7500), 0.5) * (0.3 + envelope / max(envelope.std(), 1e-9))
    return exhaust / max(exhaust.std(), 1e-9) + noise * rattle / rattle.std()


# --- Machines and vehicles -------------------------------------------------------------------------------------------


def clock(rng: Random, samples: int) -> np.ndarray:
    """One to three impacts of the escapement per tick: short noise, small metal parts, and the case."""
    sound, interval = np.zeros(samples), rng.choice((1.0, 1.0, 0.5, 0.4, 0.25, 0.2))
    parts = []
    for _ in range(2):  # tick and tock
        metal, case = rng.uniform(1800, 6000, 3), rng.uniform(250, 1500, 3)
        part = modes(rng, metal, rng.uniform(0.0008, 0.004, 3), rng.uniform(0.1, 0.6, 3), 1600)
        part += modes(rng, case, rng.uniform(0.002, 0.008, 3), rng.uniform(0.05, 0.5, 3), 1600)
        impact = click(rng, rng.uniform(0.003, 0.008), rng.uniform(400, 1500), 7800)
        part[: len(impact)] += rng.uniform(0.5, 1.2) * impact
        parts.append(part)
    impacts = [(0.0, 1.0)] + [(rng.uniform(0.006, 0.04), rng.uniform(0.1, 0.7)) for _ in range(rng.integers(0, 3))]
    loudness = rng.uniform(0.5, 1)
    for number, start in enumerate(np.arange(rng.uniform(0, interval), samples / RATE, interval)):
        for delay, level in impacts:
            place(sound, parts[number % 2], start + delay, level * (loudness if number % 2 else 1))
    return sound + rng.choice((0.003, 0.01, 0.02)) * band(rng, samples, 50, 7000, 0.7)


def car_engine(rng: Random, samples: int) -> np.ndarray:
    speed = slow(rng, samples, rng.uniform(0.1, 0.6), *sorted(rng.uniform(18, 140, 2)))
    cylinders = int(rng.choice((3, 4, 6, 8)))
    return engine(
        rng, speed, cylinders=cylinders, muffler_hz=rng.uniform(60, 160), noise=rng.uniform(0.05, 0.4), roughness=0.15
    )


def truck(rng: Random, samples: int) -> np.ndarray:
    speed = slow(rng, samples, 0.3, *sorted(rng.uniform(15, 70, 2)))
    sound = engine(rng, speed, cylinders=6, muffler_hz=rng.uniform(40, 90), noise=rng.uniform(0.2, 0.8), roughness=0.3)
    return sound + 0.3 * band(rng, samples, 30, 400, 0.8)


def motorcycle(rng: Random, samples: int) -> np.ndarray:
    speed = slow(rng, samples, rng.uniform(0.3, 1.2), *sorted(rng.uniform(25, 180, 2)))
    cylinders = int(rng.choice((1, 2)))
    return engine(
        rng, speed, cylinders=cylinders, muffler_hz=rng.uniform(90, 250), noise=rng.uniform(0.1, 0.5), roughness=0.35
    )


def chainsaw(rng: Random, samples: int) -> np.ndarray:
    """A two-stroke engine (one firing per turn, high speed, varying load) and the teeth of the chain."""
    load = slow(rng, samples, rng.uniform(0.3, 1.5), 0, 1)
    speed = rng.uniform(60, 110) + load * rng.uniform(30, 90)
    train = pulses(rng, speed, cylinders=2, unevenness=0.25, jitter=0.05)
    length = int(RATE * rng.uniform(0.002, 0.006))
    firing = scipy.signal.fftconvolve(train, np.exp(-4 * np.arange(length) / length) * rng.standard_normal(length))
    peaks = (
        (rng.uniform(180, 450), 2),
        (rng.uniform(700, 1300), 2),
        (rng.uniform(1800, 3500), 2),
        (rng.uniform(4000, 6500), 3),
    )
    exhaust = resonant(firing[:samples], *peaks)
    envelope = scipy.signal.fftconvolve(train, np.exp(-np.arange(200) / 50))[:samples]
    rasp = band(rng, samples, 1000, 7800) * (0.2 + envelope) * (0.3 + load)
    sound = np.tanh(rng.uniform(1, 3) * exhaust / exhaust.std()) + rng.uniform(0.2, 0.8) * rasp / rasp.std()
    return sound * (0.6 + 0.4 * load)


def lawn_mower(rng: Random, samples: int) -> np.ndarray:
    speed = rng.uniform(22, 55) * slow(rng, samples, 1, 0.95, 1.05)
    sound = engine(rng, speed, cylinders=1, muffler_hz=rng.uniform(100, 220), noise=rng.uniform(0.4, 1), roughness=0.2)
    return sound + 0.5 * band(rng, samples, 200, 6000, 0.5)


def helicopter(rng: Random, samples: int) -> np.ndarray:
    """Ten to thirty blade slaps per second (bursts of low noise), and the turbine."""
    blades = rng.uniform(9, 28) * slow(rng, samples, 0.2, 0.95, 1.05)
    train = pulses(rng, blades, cylinders=int(rng.choice((2, 3, 4))), unevenness=0.15, jitter=0.02)
    length = int(RATE * rng.uniform(0.015, 0.06))
    slap = np.exp(-4 * np.arange(length) / length)
    envelope = scipy.signal.fftconvolve(train, slap)[:samples]
    body = band(rng, samples, 40, rng.uniform(500, 2500), rng.uniform(0.6, 1.2)) * (rng.uniform(0.02, 0.3) + envelope)
    thump = resonant(train, (rng.uniform(40, 90), 2), (rng.uniform(90, 200), 2))
    turbine = band(rng, samples, 1000, 5000, 0.4) * rng.uniform(0.02, 0.25)
    time = np.arange(samples) / RATE
    whine = rng.uniform(0, 0.06) * np.sin(2 * np.pi * rng.uniform(1500, 4500) * time)
    distance = slow(rng, samples, 0.15, rng.uniform(0.3, 1), 1)
    return distance * (body / body.std() + rng.uniform(0.2, 1) * thump / thump.std() + turbine + whine)


def propeller(rng: Random, samples: int) -> np.ndarray:
    speed = rng.uniform(50, 110) * slow(rng, samples, 0.2, 0.97, 1.03)
    sound = engine(
        rng, speed, cylinders=4, muffler_hz=rng.uniform(70, 150), noise=rng.uniform(0.2, 0.6), roughness=0.08
    )
    return sound * slow(rng, samples, 0.2, 0.4, 1) + 0.2 * band(rng, samples, 50, 3000, 0.8)


def train(rng: Random, samples: int) -> np.ndarray:
    """Rolling noise, and pairs of wheels that pass rail joints."""
    sound = band(rng, samples, 30, rng.uniform(800, 2500), rng.uniform(0.7, 1)) + 0.1 * band(rng, samples, 1000, 4000)
    interval, gap = rng.uniform(0.5, 1.2), rng.uniform(0.12, 0.2)
    for start in np.arange(0, samples / RATE, interval):
        for delay in (0, gap):
            place(sound, click(rng, 0.2, 60, 1500), start + delay, rng.uniform(1, 2.5))
    return sound


def drill(rng: Random, samples: int) -> np.ndarray:
    load = slow(rng, samples, 0.8, 0, 1)
    turns = rng.uniform(150, 500) * (1 - 0.25 * load)
    phase = 2 * np.pi * np.cumsum(turns) / RATE
    gear = sum(rng.uniform(0.2, 1) / k * np.sin(k * phase + rng.random()) for k in range(1, 16))
    return gear + rng.uniform(0.3, 1.5) * band(rng, samples, 500, 7500) * (0.3 + load)


def vacuum_cleaner(rng: Random, samples: int) -> np.ndarray:
    phase = 2 * np.pi * np.cumsum(rng.uniform(150, 420) * slow(rng, samples, 0.3, 0.99, 1.01)) / RATE
    motor = sum(rng.uniform(0.2, 1) / k**0.7 * np.sin(k * phase + rng.random()) for k in range(1, 14))
    air = resonant(band(rng, samples, 80, 7000, 0.5), (rng.uniform(300, 900), 1.5), (rng.uniform(1000, 3000), 1.5))
    return motor / motor.std() + rng.uniform(0.5, 1.5) * air / air.std()


def gunshots(rng: Random, samples: int) -> np.ndarray:
    sound, interval = np.zeros(samples), rng.choice((0.09, 0.12, 0.8, 1.5))
    for start in np.arange(0.1, samples / RATE, interval):
        if rng.random() < 0.8:
            shot = click(rng, rng.uniform(0.1, 0.5), 60, 7500)
            place(sound, np.tanh(3 * shot) + 0.3 * np.roll(shot, 800), start)
    return sound


# --- Weather, water, fire --------------------------------------------------------------------------------------------


def rain(rng: Random, samples: int) -> np.ndarray:
    """Thousands of drops (clicks or short bubbles) over the noise of distant ones."""
    seconds, sound = samples / RATE, np.zeros(samples)
    density = 10 ** rng.uniform(2.5, 3.8)
    starts = (rng.random(int(density * seconds)) * samples).astype(int)
    np.add.at(sound, starts, rng.exponential(1, len(starts)) * rng.choice((-1, 1), len(starts)))
    length = int(RATE * rng.uniform(0.001, 0.004))
    drop = rng.standard_normal(length) * np.exp(-4 * np.arange(length) / length)
    sound = scipy.signal.fftconvolve(sound, drop)[:samples]
    hiss = band(rng, samples, rng.uniform(100, 600), 7900, rng.uniform(0.2, 0.6))
    return sound / sound.std() + rng.uniform(0.5, 3) * hiss


def stream(rng: Random, samples: int) -> np.ndarray:
    sound = rng.uniform(0.1, 0.6) * band(rng, samples, 200, 6000, 0.6)
    for start in rng.random(int(rng.uniform(60, 250) * samples / RATE)) * samples / RATE:
        length, base = int(rng.uniform(0.01, 0.05) * RATE), 10 ** rng.uniform(2.5, 3.5)
        time = np.arange(length) / RATE
        place(sound, np.sin(2 * np.pi * base * (time + 3 * time**2)) * np.hanning(length), start, rng.exponential(0.4))
    return sound


def waves(rng: Random, samples: int) -> np.ndarray:
    """Breakers every few seconds: noise whose level and brightness rise and fall."""
    sound = 0.15 * band(rng, samples, 50, 1500, 0.8)
    position = -rng.uniform(0, 4)
    while position < samples / RATE:
        length, rise = int(rng.uniform(4, 9) * RATE), rng.uniform(0.2, 0.5)
        time = np.linspace(0, 1, length)
        swell = np.where(time < rise, (time / rise) ** 2, np.exp(-4 * (time - rise)))
        wave = band(rng, length, 40, 1200, 0.7) * swell + 0.5 * band(rng, length, 800, 7500, 0.3) * swell**2
        skip = int(max(0, -position) * RATE)
        place(sound, wave[skip:], max(0, position), rng.uniform(0.6, 1.2))
        position += rng.uniform(3, 7)
    return sound


def wind(rng: Random, samples: int) -> np.ndarray:
    gusts = slow(rng, samples, rng.uniform(0.3, 1.5), 0.1, 1) ** 1.5
    sound = band(rng, samples, 30, rng.uniform(500, 2000), rng.uniform(0.8, 1.3)) * gusts
    howl_hz = rng.uniform(300, 800) * (0.7 + 0.6 * gusts)
    howl = np.sin(2 * np.pi * np.cumsum(howl_hz) / RATE) * band(rng, samples, 1, 30)
    return sound + rng.choice((0, 0.05, 0.2)) * howl * gusts**2


def thunder(rng: Random, samples: int) -> np.ndarray:
    """A crack, followed by rolling noise that loses its high frequencies."""
    sound = np.zeros(samples)
    for start in np.sort(rng.uniform(0, samples / RATE * 0.4, int(rng.integers(1, 4)))):
        length = int(rng.uniform(2, 6) * RATE)
        decay = np.exp(-4 * np.linspace(0, 1, length))
        roll = band(rng, length, 20, rng.uniform(200, 600), 1.2) * decay * slow(rng, length, rng.uniform(3, 8), 0.1, 1)
        bright = band(rng, length, 40, rng.uniform(1000, 4000), 0.9) * decay**3 * slow(rng, length, 10, 0.1, 1)
        place(sound, roll + rng.uniform(0, 0.8) * bright, start, rng.uniform(0.4, 1))
    return sound + 0.005 * band(rng, samples, 50, 3000, 0.7)


def fire(rng: Random, samples: int) -> np.ndarray:
    """Crackles of many sizes over a low roar."""
    sound = rng.uniform(0.03, 0.2) * band(rng, samples, 40, rng.uniform(300, 1200), 0.8)
    position, mean = 0.0, rng.uniform(0.008, 0.05)
    while position < samples / RATE:
        position += rng.exponential(mean)
        burst = click(rng, rng.uniform(0.002, 0.01), rng.uniform(500, 1500), rng.uniform(4000, 7900))
        place(sound, burst, position, min(3, rng.pareto(1.8)) * 0.4)
    return sound


# --- Household, signals, people --------------------------------------------------------------------------------------


def bell(rng: Random, samples: int) -> np.ndarray:
    """Church bells: hum, prime, tierce, quint, nominal and above (A. Lehr), with repeated strokes."""
    ratios = np.array([0.5, 1, 1.19, 1.5, 2, 2.51, 2.66, 3.01, 4.17, 5.43])
    sound, prime = np.zeros(samples), rng.uniform(180, 900)
    decays = rng.uniform(1.5, 6) / ratios**0.8
    levels = np.array([0.5, 0.8, 1, 0.4, 1, 0.5, 0.5, 0.4, 0.3, 0.2]) * rng.uniform(0.5, 1.5, 10)
    stroke = modes(rng, prime * ratios * (1 + 0.004 * rng.standard_normal(10)), decays, levels, samples)
    stroke[:400] += 0.3 * click(rng, 0.025, 500, 7000)
    interval = rng.uniform(0.8, 3.5)
    for start in np.arange(rng.uniform(0, 0.5), samples / RATE, interval):
        place(sound, stroke, start, rng.uniform(0.7, 1))
    return sound


def small_bell(rng: Random, samples: int) -> np.ndarray:
    """The bell of a bicycle or alarm clock, or a hand bell: high partials with fast strokes."""
    base = rng.uniform(1500, 3800)
    frequencies = base * np.array([1, 1.003, 2.1, 2.76, 3.9])
    stroke = modes(rng, frequencies, rng.uniform(0.1, 0.8, 5), rng.uniform(0.2, 1, 5), RATE)
    sound, position, rate = np.zeros(samples), rng.uniform(0, 0.5), rng.uniform(10, 28)
    while position < samples / RATE:
        end = position + rng.uniform(0.3, 2.5)
        while position < end:
            place(sound, stroke, position, rng.uniform(0.6, 1))
            position += 1 / rate
        position += rng.uniform(0.3, 2)
    return sound


def telephone(rng: Random, samples: int) -> np.ndarray:
    """A telephone with a bell or with two alternating tones, with pauses."""
    time = np.arange(samples) / RATE
    if rng.random() < 0.4:
        base = rng.uniform(900, 1600)
        stroke = modes(rng, base * np.array([1, 1.25, 2.6, 3.3]), rng.uniform(0.1, 0.4, 4), np.ones(4), RATE // 2)
        sound = np.zeros(samples)
        for start in np.arange(0, samples / RATE, 1 / rng.uniform(20, 26)):
            place(sound, stroke, start)
    else:
        low, high = rng.uniform(600, 1500), rng.uniform(1.1, 1.6)
        is_high = np.sin(2 * np.pi * rng.uniform(10, 25) * time) > 0
        sound = np.sin(2 * np.pi * np.cumsum(np.where(is_high, low * high, low)) / RATE)
        sound = np.tanh(rng.uniform(0.8, 3) * sound)
    period = rng.uniform(2, 5)
    return sound * ((time % period) < rng.uniform(0.35, 0.6) * period)


def call_tones(rng: Random, samples: int) -> np.ndarray:
    """Dial tone, busy tone or tone dialling (ITU-T E.180, Q.23)."""
    time, kind = np.arange(samples) / RATE, rng.integers(3)
    if kind == 0:
        first, second = ((350, 440), (425, 425), (400, 425))[rng.integers(3)]
        return np.sin(2 * np.pi * first * time) + np.sin(2 * np.pi * second * time)
    if kind == 1:
        return np.sin(2 * np.pi * rng.choice((425, 480)) * time) * ((time % rng.choice((0.5, 1.0))) < 0.25)
    sound, position, length = np.zeros(samples), 0.1, rng.uniform(0.07, 0.2)
    while position < samples / RATE:
        tone = time[: int(length * RATE)]
        pair = rng.choice((697, 770, 852, 941)), rng.choice((1209, 1336, 1477))
        place(sound, sum(np.sin(2 * np.pi * hz * tone) for hz in pair), position)
        position += length * rng.uniform(1.3, 3)
    return sound


def siren(rng: Random, samples: int) -> np.ndarray:
    """Wail, yelp, two alternating tones, or the slow rise of a civil defence siren; some pass by."""
    time, kind = np.arange(samples) / RATE, rng.integers(4)
    low, high = rng.uniform(400, 700), rng.uniform(1100, 1700)
    if kind == 0:
        pitch = low + (high - low) * (0.5 - 0.5 * np.cos(2 * np.pi * time / rng.uniform(3, 6)))
    elif kind == 1:
        pitch = low + (high - low) * np.abs(scipy.signal.sawtooth(2 * np.pi * time * rng.uniform(2.5, 4.5), 0.5))
    elif kind == 2:
        pitch = np.where(
            (time % (period := rng.uniform(0.8, 2))) < period / 2, rng.uniform(400, 500), rng.uniform(540, 700)
        )
    else:
        pitch = 420 * (1 - np.exp(-time / 2.5)) + 30
    pitch = pitch * np.linspace(1 + (shift := rng.uniform(0, 0.06)), 1 - shift, samples)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    sound = sum(rng.uniform(0.2, 1) / k * np.sin(k * phase) for k in range(1, 8))
    return sound * slow(rng, samples, 0.2, 0.3, 1) + rng.uniform(0, 0.2) * band(rng, samples, 50, 3000, 0.8)


def beeps(rng: Random, samples: int) -> np.ndarray:
    """The repeated tone of an alarm clock, a smoke detector or a reversing truck."""
    time, pitch = np.arange(samples) / RATE, rng.uniform(700, 3800)
    tone = np.tanh(rng.uniform(0.5, 4) * np.sin(2 * np.pi * pitch * time))
    group, period = int(rng.integers(1, 5)), rng.uniform(0.4, 1.6)
    phase = (time % period) / period * (group + 1)
    return tone * (phase < group) * ((phase % 1) < rng.uniform(0.4, 0.8))


def heartbeat(rng: Random, samples: int) -> np.ndarray:
    sound, interval = np.zeros(samples), rng.uniform(0.5, 1.1)
    for start in np.arange(0.1, samples / RATE, interval):
        for delay, level in ((0, 1), (0.3 * interval, 0.7)):
            place(
                sound,
                modes(rng, np.array([rng.uniform(40, 70), 95.0]), np.array([0.05, 0.03]), np.ones(2), 4000),
                start + delay,
                level,
            )
    return sound


def crickets(rng: Random, samples: int) -> np.ndarray:
    time, sound = np.arange(samples) / RATE, np.zeros(samples)
    for _ in range(int(rng.integers(1, 5))):
        pitch, rate, pulse = rng.uniform(2500, 5500), rng.uniform(0.8, 4), rng.uniform(20, 60)
        chirp = (np.sin(2 * np.pi * pulse * time) > 0) * (((time + rng.random()) * rate % 1) < rng.uniform(0.3, 0.9))
        chirp = scipy.signal.lfilter(np.ones(40) / 40, 1, chirp.astype(float))
        sound += rng.uniform(0.2, 1) * chirp * np.sin(2 * np.pi * pitch * time)
    return sound + 0.02 * band(rng, samples, 100, 7000, 0.5)


def hum(rng: Random, samples: int) -> np.ndarray:
    time, mains = np.arange(samples) / RATE, rng.choice((50, 60))
    sound = sum(rng.exponential(1) / k**0.7 * np.sin(2 * np.pi * mains * k * time + rng.random()) for k in range(1, 30))
    return sound + rng.uniform(0, 0.3) * band(rng, samples, 50, 7000, 0.3)


KINDS: dict[str, tuple[Maker, tuple[str, ...]]] = {  # functions and AudioSet classes
    "clock": (clock, ("Clock", "Tick", "Tick-tock")),
    "car_engine": (
        car_engine,
        ("Engine", "Idling", "Accelerating, revving, vroom", "Medium engine (mid frequency)", "Car"),
    ),
    "truck": (truck, ("Truck", "Heavy engine (low frequency)", "Bus", "Engine", "Idling")),
    "motorcycle": (motorcycle, ("Motorcycle", "Engine", "Accelerating, revving, vroom")),
    "chainsaw": (chainsaw, ("Chainsaw",)),
    "lawn_mower": (lawn_mower, ("Lawn mower", "Light engine (high frequency)", "Engine")),
    "helicopter": (helicopter, ("Helicopter",)),
    "propeller": (propeller, ("Propeller, airscrew", "Fixed-wing aircraft, airplane", "Aircraft", "Aircraft engine")),
    "train": (train, ("Train", "Rail transport", "Railroad car, train wagon", "Clickety-clack")),
    "drill": (drill, ("Drill", "Power tool", "Dental drill, dentist's drill")),
    "vacuum_cleaner": (vacuum_cleaner, ("Vacuum cleaner", "Hair dryer", "Mechanical fan")),
    "gunshots": (gunshots, ("Gunshot, gunfire", "Machine gun", "Fusillade")),
    "rain": (rain, ("Rain", "Raindrop", "Rain on surface")),
    "stream": (stream, ("Stream", "Gurgling", "Water", "Waterfall", "Trickle, dribble")),
    "waves": (waves, ("Ocean", "Waves, surf")),
    "wind": (wind, ("Wind", "Wind noise (microphone)")),
    "thunder": (thunder, ("Thunder", "Thunderstorm")),
    "fire": (fire, ("Fire", "Crackle")),
    "bell": (bell, ("Bell", "Church bell")),
    "small_bell": (small_bell, ("Bicycle bell", "Bell", "Alarm clock", "Telephone bell ringing", "Doorbell")),
    "telephone": (telephone, ("Telephone", "Telephone bell ringing", "Ringtone")),
    "call_tones": (call_tones, ("Telephone dialing, DTMF", "Dial tone", "Busy signal")),
    "siren": (siren, ("Siren", "Civil defense siren", "Police car (siren)", "Ambulance (siren)")),
    "beeps": (beeps, ("Alarm clock", "Beep, bleep", "Smoke detector, smoke alarm", "Reversing beeps", "Alarm")),
    "heartbeat": (heartbeat, ("Heart sounds, heartbeat", "Heart murmur")),
    "crickets": (crickets, ("Cricket", "Insect")),
    "hum": (hum, ("Mains hum", "Hum", "Static")),
}


INDOORS = ("clock", "drill", "vacuum_cleaner", "small_bell", "telephone", "beeps", "gunshots", "train", "bell")


def make(kind: str, take: int, *, seconds: float | None = None) -> np.ndarray:
    """float32 samples at 16 kHz with a peak of 0.9; by default 3 to 10 s long."""
    rng = np.random.default_rng((zlib.crc32(kind.encode()), take))
    length = rng.uniform(3, 10) if seconds is None else seconds
    sound = KINDS[kind][0](rng, int(length * RATE))
    if kind in INDOORS and rng.random() < 0.6:
        sound = in_room(rng, sound)
    return (0.9 * sound / max(np.abs(sound).max(), 1e-9)).astype(np.float32)


def share_named(scores: np.ndarray, labels: tuple[str, ...], names: list[str], top_k: int = 5) -> bool:
    """Whether one of the labels is among the `top_k` highest of the scores (classes,)."""
    return bool({names[index] for index in np.argsort(-scores)[:top_k]} & set(labels))


def write(folder: Path, takes: int) -> dict[str, float]:
    """Writes up to `takes` sounds of each kind that the teacher recognises; returns the share of these sounds."""
    import yamnet

    teacher, shares = yamnet.teacher(), {}
    for kind, (_, labels) in KINDS.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        kept = tried = 0
        while kept < takes and tried < TRIES * takes:
            sound = make(kind, tried)
            if share_named(teacher(sound[None])[0], labels, list(teacher.labels)):
                kept += 1
                # Each take is a separate series, so that some takes of each kind are held out.
                soundfile.write(folder / kind / f"{kind} {_letters(tried)}.flac", sound, RATE)
            tried += 1
        shares[kind] = kept / tried
        print(f"{kind:15} {kept:3d} of {tried:3d}", flush=True)
    return shares


def _letters(number: int) -> str:
    """A name without digits, because names that differ only in digits form a series."""
    return "".join(chr(ord("a") + int(digit)) for digit in f"{number:04d}")


def write_all(work: Path, takes: int) -> None:
    """Writes WORK/src/synthesis and then WORK/synthesis.json, unless the latter exists."""
    if (work / "synthesis.json").exists():
        return
    shares = write(work / "src" / "synthesis", takes)
    (work / "synthesis.json").write_text(json.dumps(shares, indent=1), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--takes", type=int, default=40, help="maximum number of sounds of each kind")
    options = parser.parse_args()
    write_all(options.work, options.takes)


if __name__ == "__main__":
    main()
