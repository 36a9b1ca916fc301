# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Renders General MIDI instruments, drum kits and synthetic speech."""

import random
import subprocess
import tempfile
from pathlib import Path

import mido

PHRASES = 4  # of each instrument in each soundfont
TICKS = 480  # to a beat
DRUM_KITS = (0, 8, 16, 24, 25, 32, 40, 48)  # the General MIDI 2 kits
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 6, 7, 10))
CHORDS = ((0, 4, 7), (0, 3, 7), (0, 4, 7, 10), (0, 5, 7))

SENTENCES = (
    "Good morning, how are you today?",
    "The train to the city leaves at half past nine from platform four.",
    "Please leave your message after the tone.",
    "It was a dark and stormy night, and nobody was on the road.",
    "One, two, three, four, five, six, seven, eight, nine, ten.",
    "I could not believe what I had just heard!",
    "Yes. No. Maybe. Come here. Stop it. Thank you very much.",
    "Temperatures will rise to twenty degrees, with light wind from the west.",
)


def render(sources: Path, soundfonts: dict[str, Path]) -> None:
    """Renders instruments to sources/general-midi and voices to sources/espeak-ng, unless they exist."""
    for name, soundfont in soundfonts.items():
        folder = sources / "general-midi" / name
        if not (folder / ".complete").exists():
            folder.mkdir(parents=True, exist_ok=True)
            _render_soundfont(soundfont, folder)
            (folder / ".complete").touch()
    folder = sources / "espeak-ng" / "voices"
    if not (folder / ".complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _speak(folder)
        (folder / ".complete").touch()


def _render_soundfont(soundfont: Path, folder: Path) -> None:
    for program in range(128):
        for phrase in range(PHRASES):
            rng = random.Random(f"{folder.name} {program} {phrase}")
            _render_midi(_melody(rng, program), soundfont, folder / f"program{program:03d}_{phrase}.flac")
    for kit in DRUM_KITS:
        for phrase in range(4 * PHRASES):
            rng = random.Random(f"{folder.name} kit {kit} {phrase}")
            _render_midi(_drums(rng, kit), soundfont, folder / f"kit{kit:02d}_{phrase}.flac")
    for phrase in range(40 * PHRASES):
        rng = random.Random(f"{folder.name} band {phrase}")
        _render_midi(_band(rng), soundfont, folder / f"band_{phrase}.flac")


def _render_midi(midi: mido.MidiFile, soundfont: Path, path: Path) -> None:
    with tempfile.NamedTemporaryFile(suffix=".mid") as file:
        midi.save(file.name)
        command = [
            "fluidsynth",
            "-ni",
            "-q",
            "-g",
            "0.6",
            "-r",
            "32000",
            "-T",
            "flac",
            "-F",
            path,
            soundfont,
            file.name,
        ]
        subprocess.run(command, check=True, capture_output=True)


def _track(rng: random.Random, channel: int, program: int) -> mido.MidiTrack:
    tempo = mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(rng.uniform(60, 160)))
    return mido.MidiTrack([tempo, mido.Message("program_change", channel=channel, program=program)])


def _melody(rng: random.Random, program: int, *, beats: float = 14, channel: int = 0) -> mido.MidiFile:
    """A phrase of single notes or chords, in the range of the kind of instrument."""
    midi = mido.MidiFile(ticks_per_beat=TICKS)
    track = _track(rng, channel, program)
    root = rng.randint(28, 50) if 32 <= program < 40 else rng.randint(45, 72)  # basses are lower
    scale, has_chords = rng.choice(SCALES), rng.random() < 0.35
    degree, beat = rng.randrange(7), 0.0
    while beat < beats:
        length = rng.choice((0.25, 0.5, 0.5, 1, 1, 2))
        degree = max(-5, min(12, degree + rng.choice((-3, -2, -1, -1, 0, 1, 1, 2, 3))))
        note = root + 12 * (degree // len(scale)) + scale[degree % len(scale)]
        notes = [note + step for step in rng.choice(CHORDS)] if has_chords else [note]
        _play(track, notes, velocity=rng.randint(50, 120), ticks=int(length * TICKS), channel=channel)
        beat += length
    track.append(mido.MetaMessage("end_of_track", time=2 * TICKS))
    midi.tracks.append(track)
    return midi


def _play(track: mido.MidiTrack, notes: list[int], *, velocity: int, ticks: int, channel: int) -> None:
    notes = [min(max(note, 0), 127) for note in notes]
    for note in notes:
        track.append(mido.Message("note_on", channel=channel, note=note, velocity=velocity, time=0))
    for number, note in enumerate(notes):
        track.append(mido.Message("note_off", channel=channel, note=note, time=0 if number else ticks))


def _drums(rng: random.Random, kit: int, *, bars: int = 4) -> mido.MidiFile:
    """A repeated pattern of one bar with small changes, or, with a probability of 1/4, a single drum."""
    midi = mido.MidiFile(ticks_per_beat=TICKS)
    track = _track(rng, 9, kit)
    if rng.random() < 0.25:
        pieces = [rng.randint(35, 81)] * 3
    else:
        pieces = [rng.choice((35, 36)), rng.choice((38, 40, 39, 37)), rng.choice((42, 44, 46, 51, 54, 70))]
    odds = [[rng.random() ** 2 for _ in range(16)] for _ in pieces]
    for _ in range(bars):
        for step in range(16):
            struck = [piece for piece, odd in zip(pieces, odds, strict=True) if rng.random() < odd[step]]
            velocity = rng.randint(60, 125)
            if struck:
                _play(track, sorted(set(struck)), velocity=velocity, ticks=TICKS // 4, channel=9)
            else:
                track.append(mido.Message("note_off", channel=9, note=0, time=TICKS // 4))
    track.append(mido.MetaMessage("end_of_track", time=2 * TICKS))
    midi.tracks.append(track)
    return midi


def _band(rng: random.Random) -> mido.MidiFile:
    """Two to five instruments at once, usually with drums."""
    midi = mido.MidiFile(ticks_per_beat=TICKS)
    for channel in range(rng.randint(2, 4)):
        midi.tracks += _melody(rng, rng.choice((rng.randrange(96), 32 + rng.randrange(8))), channel=channel).tracks
    if rng.random() < 0.7:
        midi.tracks += _drums(rng, rng.choice(DRUM_KITS)).tracks
    return midi


def _speak(folder: Path) -> None:
    """Speech in every language of espeak-ng, with several pitches and speeds."""
    listing = subprocess.run(["espeak-ng", "--voices"], check=True, capture_output=True, text=True).stdout
    for language in sorted({line.split()[1] for line in listing.splitlines()[1:]}):
        for take in range(8 if language.startswith("en") else 2):
            rng = random.Random(f"{language} {take}")
            variant = rng.choice(("", "+m3", "+m7", "+f1", "+f2", "+f4", "+croak", "+whisper"))
            text = " ".join(rng.sample(SENTENCES, 2))
            if not language.startswith("en"):  # espeak-ng can read numbers in every language
                text = ", ".join(str(rng.randrange(10 ** rng.randint(1, 4))) for _ in range(8))
            path = folder / f"{language}_{take}.wav"
            command = ["espeak-ng", "-v", language + variant, "-p", str(rng.randint(20, 80))]
            command += ["-s", str(rng.randint(120, 220)), "-w", path, text]
            if subprocess.run(command, capture_output=True).returncode:  # some languages do not have every variant
                path.unlink(missing_ok=True)
