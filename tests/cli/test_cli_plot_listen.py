# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced plot` with recordings of any length; `ced listen` with working, failing and missing microphones."""

import builtins
import os
import re
import shutil
import signal
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, BinaryIO

import matplotlib.image
import numpy as np
import pytest
import soundfile
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from typer.testing import CliRunner

from ced_model import AudioTagger, Timeline
from ced_model.audio import read_audio
from ced_model.cli import plot as plot_module
from ced_model.cli.app import app
from ced_model.drawing import make_figure, mel_picture, tag_picture, time_label
from ced_model.live import microphone as microphone_module
from ced_model.live import sources
from ced_model.live.microphone import Microphone
from ced_model.log_mel import FrontEnd, log_mel

MODEL = Path(__file__).parents[1] / "golden" / "micro_hub"
TABLA = Path(__file__).parents[2] / "resources" / "loop_tabla.flac"
RATE = 16000
FRONT_END = FrontEnd()


def ced(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def only_error(result: Result, exit_code: int) -> str:
    """The only line on stderr of a failed command."""
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("model: ", "listening to "))]
    assert len(lines) == 1 and lines[0].startswith("ced: "), result.stderr
    return lines[0]


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(seconds * RATE)) * 0.1).astype(np.float32)


# Plot


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # pictures are written to the current folder
    return Path(shutil.copy(TABLA, tmp_path / "tabla.flac"))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that the command saves."""
    saved: list[Figure] = []
    save = plot_module.save_figure

    def remember(figure: Figure, file: BinaryIO) -> None:
        saved.append(figure)
        save(figure, file)

    monkeypatch.setattr(plot_module, "save_figure", remember)
    return saved


def test_a_recording_is_drawn_into_the_current_folder(recording, figures, monkeypatch):
    (recording.parent / "pictures").mkdir()
    monkeypatch.chdir(recording.parent / "pictures")
    result = ced("plot", recording, "-m", MODEL, "--window", 1, "--hop", 0.5, "-k", 7)
    assert result.exit_code == 0, result.output
    path = Path("tabla.flac.png")
    assert result.stdout == f"{path}\n"
    assert matplotlib.image.imread(path).std() > 0.1
    assert sorted(os.listdir(recording.parent)) == ["pictures", "tabla.flac"]

    (figure,) = figures
    mel_axes, tag_axes = figure.axes[:2]
    timeline = AudioTagger.from_pretrained(MODEL).timeline(recording, window_s=1, hop_s=0.5)
    assert mel_axes.get_xlim() == tag_axes.get_xlim() == (0, timeline.duration_s)
    assert mel_axes.get_position().x0 == tag_axes.get_position().x0
    assert mel_axes.get_position().x1 == tag_axes.get_position().x1
    order = np.argsort(-timeline.scores.max(axis=0))[:7]
    assert [label.get_text() for label in tag_axes.get_yticklabels()] == [timeline.labels[index] for index in order]
    (mesh,) = [child for child in tag_axes.collections if child.get_array() is not None]
    np.testing.assert_allclose(mesh.get_array(), timeline.scores[:, order].T, atol=1e-5)
    assert mesh.get_clim() == (0, 1)


def test_a_part_and_some_classes_can_be_drawn(recording, figures):
    tagger = AudioTagger.from_pretrained(MODEL)
    result = ced(
        "plot", recording, "-m", MODEL, "--start", 0.5, "--end", 2, "--window", 0.5, "-l", "class 3", "-l", "class 5"
    )
    assert result.exit_code == 0, result.output
    mel_axes, tag_axes = figures[0].axes[:2]
    assert mel_axes.get_xlim() == tag_axes.get_xlim() == (0.5, 2.0)
    assert all(0.5 <= tick <= 2 for tick in tag_axes.get_xticks())
    whole = read_audio(recording, sampling_rate=RATE)
    timeline = tagger.timeline(whole[RATE // 2 : 2 * RATE], window_s=0.5)
    order = sorted((3, 5), key=lambda index: -timeline.scores[:, index].max())
    assert [label.get_text() for label in tag_axes.get_yticklabels()] == [f"class {index}" for index in order]
    (mesh,) = [child for child in tag_axes.collections if child.get_array() is not None]
    np.testing.assert_allclose(mesh.get_array(), timeline.scores[:, order].T, atol=1e-5)

    peaks = tagger.timeline(recording).scores.max(axis=0)
    limit = float(np.sort(peaks)[-3])
    assert ced("plot", recording, "-m", MODEL, "--threshold", limit - 1e-4, "--overwrite").exit_code == 0
    assert len(figures[1].axes[1].get_yticklabels()) == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--threshold", 2), "--threshold 2: expected at most "),
        (("--labels", "nothing"), "--labels nothing: expected a class of the model"),
        (("--start", 3, "--end", 3), "--start 3 --end 3: expected a start from 0, and an end after it"),
        (("--start", -1), "--start -1 --end inf: expected a start from 0"),
        (("--start", 1e4), "--start 10000: "),
    ],
)
def test_missing_parts_and_classes_are_refused(recording, arguments, expected):
    result = ced("plot", recording, "-m", MODEL, *arguments)
    assert expected in only_error(result, 1 if arguments == ("--start", 1e4) else 2)
    assert os.listdir(recording.parent) == ["tabla.flac"]


def test_output_top_k_and_windows_have_defaults_and_can_be_chosen(recording, figures, tmp_path):
    output = tmp_path / "picture.PNG"
    assert ced("plot", recording, "-m", MODEL, "-o", output).exit_code == 0
    assert matplotlib.image.imread(output, format="png").ndim == 3
    assert len(figures[0].axes[1].get_yticklabels()) == 10
    assert f"--output {output}: expected a new file; this one exists: use --overwrite" in only_error(
        ced("plot", recording, "-m", MODEL, "-o", output), 2
    )
    assert ced("plot", recording, "-m", MODEL, "-o", output, "-k", 1, "--overwrite").exit_code == 0
    assert len(figures[1].axes[1].get_yticklabels()) == 1


@pytest.mark.parametrize("samples", [1, 100, 2400, 20_000])
def test_the_shortest_recordings_are_drawn(tmp_path, samples):
    soundfile.write(tmp_path / "short.wav", noise(samples / RATE), RATE)
    assert ced("plot", tmp_path / "short.wav", "-m", MODEL, "-o", tmp_path / "short.wav.png").exit_code == 0
    assert matplotlib.image.imread(tmp_path / "short.wav.png").std() > 0.1


def test_silence_and_names_with_dollars_and_other_scripts_are_drawn(tmp_path):
    path = tmp_path / "a $x_$ 猫\n\udcff.wav"
    with open(path, "wb") as file:
        soundfile.write(file, np.zeros(40_000), RATE, format="WAV")
    result = ced("plot", path, "-m", MODEL, "-o", tmp_path / "silence.png")
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines() == [f"model: {MODEL}, onnx float32 on cpu"]
    assert (tmp_path / "silence.png").stat().st_size > 10_000


def test_a_tone_is_drawn_at_its_frequency(figures, tmp_path):
    for hertz in (250, 1000, 4000):
        tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)
        soundfile.write(tmp_path / "tone.wav", tone, RATE)
        assert ced("plot", tmp_path / "tone.wav", "-m", MODEL, "-o", tmp_path / "t.png", "--overwrite").exit_code == 0
        axes = figures[-1].axes[0]
        loudest = axes.images[0].get_array().mean(axis=1).argmax() + 0.5  # the middle of a bin of height 1
        ticks = {label.get_text(): tick for tick, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}
        assert ticks[f"{hertz / 1000:g} k" if hertz >= 1000 else str(hertz)] == pytest.approx(loudest, abs=1)


def test_the_spectrogram_is_the_front_ends(tmp_path):
    waveform = noise(3)
    decibels, column_s = mel_picture([waveform], FRONT_END, 4096)
    assert column_s == 0.01
    expected = log_mel(waveform, FRONT_END)[:, :300]
    np.testing.assert_allclose(decibels, expected, atol=1e-3)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 159), st.sampled_from([8, 32, 64]))
def test_long_spectrograms_are_means_over_frames(frames, rest, max_columns):
    blocks = [noise(number * 0.1, seed) for seed, number in enumerate(frames)]
    blocks[-1] = np.concatenate([blocks[-1], noise(rest / RATE)])
    single = [mel_picture([block], FRONT_END, 4096)[0] for block in blocks]
    power = 10 ** (np.concatenate(single, axis=1) / 10)
    decibels, column_s = mel_picture(blocks, FRONT_END, max_columns)
    per_column = round(column_s / 0.01)
    assert max_columns // 2 < decibels.shape[1] <= max_columns or per_column == 1
    expected = [power[:, start : start + per_column].mean(axis=1) for start in range(0, power.shape[1], per_column)]
    np.testing.assert_allclose(decibels, 10 * np.log10(np.transpose(expected)), atol=1e-6)


def test_a_long_spectrogram_needs_no_more_memory_than_a_short_one():
    block = noise(40.96)

    def peak(number: int) -> int:
        tracemalloc.start()
        decibels, _ = mel_picture((block for _ in range(number)), FRONT_END, 512)
        assert decibels.shape[1] > 256
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    assert peak(30) < peak(5) + 100_000


@given(st.integers(1, 300), st.integers(1, 50))
def test_columns_of_long_timelines_show_their_highest_score(windows, max_columns):
    scores = np.random.default_rng(windows).random((windows, 6)).astype(np.float32)
    timeline = Timeline(scores, np.arange(windows) * 1.0, np.arange(windows) + 2.0, list("abcdef"), windows + 1.0)
    classes = np.array([4, 1])
    picture, borders_s = tag_picture(timeline, classes, max_columns)
    assert picture.shape[0] == 2 and picture.shape[1] <= max_columns and len(borders_s) == picture.shape[1] + 1
    segments = timeline.segments()
    for column, (start, end) in enumerate(zip(borders_s[:-1], borders_s[1:], strict=True)):
        inside = (segments[:, 0] >= start) & (segments[:, 1] <= end)
        np.testing.assert_array_equal(picture[:, column], scores[inside][:, classes].max(axis=0))
    assert (borders_s[0], borders_s[-1]) == (0, windows + 1)


def test_scores_that_are_no_probabilities_have_their_own_scale():
    timeline = Timeline(np.array([[-3.0, 7.5]], np.float32), np.zeros(1), np.ones(1), ["a", "b"], 1.0)
    figure = make_figure(np.zeros((64, 100)), 0.01, timeline, FRONT_END, "regression", 5)
    (mesh,) = [child for child in figure.axes[1].collections if child.get_array() is not None]
    assert mesh.get_clim() == (-3, 7.5)


@pytest.mark.parametrize("duration_s", [1e-4, 0.05, 0.7, 3, 59.9, 60, 61, 601, 3599, 3600, 36_000, 1e6])
def test_times_are_labelled_at_round_places_without_repetition(duration_s):
    timeline = Timeline(np.zeros((1, 1), np.float32), np.zeros(1), np.array([duration_s]), ["a"], duration_s)
    axes = make_figure(np.zeros((64, 4)), duration_s / 4, timeline, FRONT_END, "x", 1).axes[1]
    texts = [label.get_text() for label in axes.get_xticklabels()]
    assert len(set(texts)) == len(texts) <= 13
    assert len(texts) >= 4 or duration_s < 0.04
    assert axes.get_xticks()[-1] <= duration_s


@pytest.mark.parametrize(
    ("seconds", "step", "text"),
    [
        (0, 1, "0"),
        (2.5, 0.5, "2.5"),
        (0.05, 0.01, "0.05"),
        (65, 5, "1:05"),
        (3605, 5, "1:00:05"),
        (90_000, 3600, "25:00:00"),
    ],
)
def test_long_times_are_labelled_as_clock_times(seconds, step, text):
    assert time_label(seconds, step) == text


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["{folder}/missing.wav", "-m", MODEL], 1, "there is no such file"),
        (["{folder}", "-m", MODEL], 2, "expected a file, not a folder"),
        (["{folder}/text.wav", "-m", MODEL], 1, "text.wav"),
        (["{file}", "-m", MODEL, "--window", 11], 2, "0.15 to 10.12 seconds"),
        (["{file}", "-m", MODEL, "--hop", 3], 2, "--hop 3: expected more than 0 and at most the window of 2 seconds"),
        (["{file}", "-m", MODEL, "--channel", "left"], 2, "--channel left: expected mix, loudest or the number"),
        (["{file}", "-m", MODEL, "--channel", 9], 1, "there is no channel 9"),
        (["{file}", "-m", MODEL, "-o", "{folder}/picture.pdf"], 2, "ends in .png"),
        (["{file}", "-m", MODEL, "-o", "{folder}/missing/picture.png"], 2, "there is no folder"),
    ],
)
def test_errors_of_plot_are_one_line(recording, arguments, exit_code, message):
    (recording.parent / "text.wav").write_text("not audio")
    arguments = [str(text).format(file=recording, folder=recording.parent) for text in arguments]
    assert message in only_error(ced("plot", *arguments), exit_code)
    assert not list(recording.parent.glob("*.png*"))


def test_without_matplotlib_the_extra_is_named_before_any_work(recording, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(plot_module, "load_tagger", lambda *_: pytest.fail("the model was loaded"))
    assert "pip install matplotlib" in only_error(ced("plot", recording, "-m", MODEL), 1)


def test_a_picture_that_cannot_be_written_keeps_the_old_one(recording, monkeypatch):
    path = recording.with_name("tabla.flac.png")
    path.write_bytes(b"old")

    def full(self: Figure, file: Any, **kwargs: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    assert "No space left on device" in only_error(ced("plot", recording, "-m", MODEL, "--overwrite"), 1)
    assert path.read_bytes() == b"old"
    assert sorted(os.listdir(path.parent)) == ["tabla.flac", "tabla.flac.png"]


def test_a_picture_that_appears_during_the_work_is_not_changed_and_the_new_one_is_kept(recording, monkeypatch):
    path = recording.with_name("tabla.flac.png")
    monkeypatch.setattr(os, "fsync", lambda _: path.write_bytes(b"mine"))
    said = only_error(ced("plot", recording, "-m", MODEL), 1)
    (kept,) = path.parent.glob("tabla.flac-*.png")
    assert said.endswith(f"left as it is; the result is in {kept}") and path.read_bytes() == b"mine"
    assert matplotlib.image.imread(kept).ndim == 3


# Listen


class PortAudioError(Exception):
    pass


MICROPHONES = [
    {"index": 0, "name": "Loudspeaker", "max_input_channels": 0, "default_samplerate": 44100.0},
    {"index": 1, "name": "Built-in Microphone", "max_input_channels": 2, "default_samplerate": 16000.0},
    {"index": 2, "name": "USB Microphone", "max_input_channels": 1, "default_samplerate": 16000.0},
]


class FakeSoundCard(ModuleType):
    """
    A replacement of sounddevice whose microphones deliver a complete waveform when they are opened, and then nothing.
    Opening one again first fails `unplugged` times. It then delivers the waveform again if it `is_replugged`, and
    otherwise simulates Ctrl-C.
    """

    PortAudioError = PortAudioError

    def __init__(self, waveform: np.ndarray) -> None:
        super().__init__("sounddevice")
        self.waveform = waveform
        self.microphones = MICROPHONES
        self.default = SimpleNamespace(device=[1, 0])
        self.overflows: set[int] = set()  # blocks before which audio was lost
        self.opened: list[dict[str, Any]] = []
        self.closed = 0
        self.unplugged = 0
        self.is_replugged = False

    def query_devices(self, device: int | str | None = None, kind: str | None = None) -> Any:
        if kind is None:
            return self.microphones
        assert kind == "input"
        if not self.microphones:
            raise PortAudioError("Error querying device -1", -1)
        index = self.default.device[0] if device is None else device
        if isinstance(index, int) and index >= len(self.microphones):
            raise PortAudioError(f"Error querying device {index}")
        for found in self.microphones:
            if index == found["index"] or (isinstance(index, str) and index.lower() in found["name"].lower()):
                if not found["max_input_channels"]:
                    raise ValueError(f"Not an input device: {found['name']!r}")
                return found
        raise ValueError(f"No input device matching {device!r}")

    def InputStream(self, **options: Any) -> Any:
        self.opened.append(options)
        return self

    def __enter__(self) -> None:
        options = self.opened[-1]
        microphone = options["callback"].__self__
        if any(each["callback"].__self__ is microphone for each in self.opened[:-1]):
            if self.unplugged:
                self.unplugged -= 1
                raise PortAudioError("Error opening InputStream: Device unavailable [PaErrorCode -9985]", -9985)
            while not self.is_replugged and not (microphone.is_lost and not microphone.taken_s):
                time.sleep(0.005)  # until the complete waveform is processed
            if not self.is_replugged:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                return
            self.is_replugged = False
        buffer = np.empty((options["blocksize"], 1), np.float32)
        for number, start in enumerate(range(0, len(self.waveform), len(buffer))):
            part = self.waveform[start : start + len(buffer)]
            buffer[: len(part), 0] = part
            status = SimpleNamespace(input_overflow=number in self.overflows)
            options["callback"](buffer[: len(part)], len(part), None, status)
        buffer[:] = np.nan  # sound cards reuse the buffer

    def __exit__(self, *_: Any) -> None:
        self.closed += 1


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> FakeSoundCard:
    samples, _ = soundfile.read(TABLA, dtype="float32", always_2d=True)
    card = FakeSoundCard(np.ascontiguousarray(samples[: 5 * RATE, 0]))
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    monkeypatch.setattr(microphone_module, "SILENCE_S", 0.02)
    monkeypatch.setattr(sources, "FIRST_DELAY_S", 0.01)
    return card


def lines_of(waveform: np.ndarray, **options: Any) -> list[str]:
    """The output of the command for a waveform, without the times."""
    updates = AudioTagger.from_pretrained(MODEL).stream([waveform], **options)
    texts = [", ".join(f"{tag.label} {tag.score:.2f}" for tag in update.tags) for update in updates]
    return [text for text in texts if text]


def without_times(text: str) -> list[str]:
    lines = text.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d  ", line) for line in lines)
    return [line.split("  ", 1)[1] for line in lines]


def test_audio_of_a_microphone_is_tagged_line_by_line(card):
    result = ced("listen", "-m", MODEL)
    assert result.exit_code == 0
    assert "no audio for 0.02 s; connecting again" in result.stderr  # after the end of the waveform
    assert without_times(result.stdout) == lines_of(card.waveform)
    assert len(without_times(result.stdout)) == 4
    assert card.opened[0] | {"callback": None} == {
        "samplerate": 16000,
        "blocksize": 1600,
        "device": 1,
        "channels": 1,
        "dtype": "float32",
        "callback": None,
    }
    assert card.closed == 2


def test_a_microphone_that_is_unplugged_is_waited_for_and_reported_once(card):
    card.unplugged, card.is_replugged = 3, True
    result = ced("listen", "-m", MODEL)
    assert result.exit_code == 0
    assert without_times(result.stdout) == 2 * lines_of(card.waveform)
    reports = re.findall(r"^ced: \S+ \S+ microphone 'Built-in Microphone': (.*)$", result.stderr, flags=re.MULTILINE)
    assert reports == ["no audio for 0.02 s; connecting again", "audio again after 0 s"] + reports[:1]


def test_windows_classes_and_microphone_can_be_chosen(card):
    options = ["--window", 1, "--hop", 0.25, "-l", "class 3", "-l", "Class 7", "--input-device", "usb"]
    result = ced("listen", "-m", MODEL, *options)
    expected = lines_of(card.waveform, window_s=1, hop_s=0.25, labels=["class 3", "class 7"])
    assert without_times(result.stdout) == expected
    assert card.opened[0]["device"] == 2
    assert ced("listen", "-m", MODEL, "--input-device", 2).exit_code == 0
    assert card.opened[-1]["device"] == 2


def test_windows_without_tags_have_no_line(card):
    result = ced("listen", "-m", MODEL, "--threshold", 0.93, "--window", 0.5)
    expected = lines_of(card.waveform, threshold=0.93, window_s=0.5)
    assert 0 < len(expected) < 19
    assert without_times(result.stdout) == expected
    assert ced("listen", "-m", MODEL, "--threshold", 1).stdout == ""


def test_events_are_printed_when_they_end(card):
    options = ["--events", "--threshold", "class 3=0.5", "--smooth", 0.5, "--window", 0.5, "--hop", 0.1]
    result = ced("listen", "-m", MODEL, *options, "--max-duration", 2)
    tagger = AudioTagger.from_pretrained(MODEL)
    finding = {"smooth_s": 0.5, "max_duration_s": 2}
    expected = tagger.events(card.waveform, {"class 3": 0.5}, window_s=0.5, hop_s=0.1, **finding)
    found = re.findall(r"^\S+ (\S+) – (\S+)  (\d\.\d\d)  (.*)$", result.stdout, flags=re.MULTILINE)
    assert 0 < len(found) == len(result.stdout.splitlines())
    assert [(peak, label) for _, _, peak, label in found] == [(f"{event.peak:.2f}", event.label) for event in expected]
    assert "--merge-gap needs --events" in only_error(ced("listen", "-m", MODEL, "--merge-gap", 1), 2)
    assert "--top-k has no effect with --events" in only_error(ced("listen", "--events", "-k", 1), 2)
    assert "--labels Dgo: expected a class of the model" in ced("listen", "-m", MODEL, "-l", "Dgo").stderr


def test_lost_audio_is_reported_and_a_new_stream_begins(card):
    card.overflows = {17, 31}  # blocks of 0.1 s
    result = ced("listen", "-m", MODEL, "--window", 1)
    parts = [card.waveform[: 17 * 1600], card.waveform[17 * 1600 : 31 * 1600], card.waveform[31 * 1600 :]]
    expected = [line for part in parts for line in lines_of(part, window_s=1)]
    assert without_times(result.stdout) == expected
    gaps = [line for line in result.stderr.splitlines() if "gap: the sound card lost audio" in line]
    assert len(gaps) == 2


def test_audio_that_a_slow_model_loses_is_one_gap(card):
    microphone = Microphone(card, MICROPHONES[1])
    fine = SimpleNamespace(input_overflow=False)
    for number in range(305):
        microphone._receive(np.full((10, 1), number, np.float32), 10, None, fine)
    blocks = microphone.blocks_until_gap()
    for number in range(299):
        assert next(blocks)["array"][0] == number
    microphone._receive(np.full((10, 1), 305, np.float32), 10, None, fine)  # one block is still in the queue
    assert next(blocks)["array"][0] == 299
    microphone._receive(np.full((10, 1), 306, np.float32), 10, None, fine)
    assert list(blocks) == []
    assert "slower than the audio" in microphone.gap
    microphone._receive(np.full((10, 1), 307, np.float32), 10, None, fine)
    after = microphone.blocks_until_gap()
    assert [next(after)["array"][0], next(after)["array"][0]] == [306, 307]


def test_ctrl_c_ends_it_without_an_error(card, monkeypatch):
    monkeypatch.setattr(microphone_module, "SILENCE_S", 60)
    waiting = threading.Event()

    def press_and_go_on() -> None:
        assert waiting.wait(300)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        while not card.closed:
            fine = SimpleNamespace(input_overflow=False)
            card.opened[0]["callback"](np.zeros((1, 1), np.float32), 1, None, fine)
            time.sleep(0.01)

    presser = threading.Thread(target=press_and_go_on)
    hear_all = FakeSoundCard.__enter__
    monkeypatch.setattr(FakeSoundCard, "__enter__", lambda self: (hear_all(self), presser.start()))
    take = sources.queue.Queue.get

    def get(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.empty() and presser.is_alive():
            waiting.set()
        return take(self, *args, **kwargs)

    monkeypatch.setattr(sources.queue.Queue, "get", get)
    result = ced("listen", "-m", MODEL)
    presser.join()
    assert result.exit_code == 0
    assert without_times(result.stdout) == lines_of(card.waveform)[:4]
    assert result.stderr.splitlines()[-1] == "listening to microphone 'Built-in Microphone'; Ctrl-C ends it"
    assert card.closed == 1


def test_microphones_are_listed(card):
    result = ced("listen", "--list-devices")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["*  1  Built-in Microphone  16000 Hz", "   2  USB Microphone  16000 Hz"]


@pytest.mark.parametrize("arguments", [["--list-devices"], ["-m", MODEL]])
def test_no_microphone_is_one_line(card, arguments):
    card.microphones = []
    assert only_error(ced("listen", *arguments), 1) == "ced: no microphone was found"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["-l", "Dgo"], 2, "did you mean 'Dog'"),
        (["-m", MODEL, "--input-device", "radio"], 1, "--input-device radio: No input device matching 'radio'"),
        (["-m", MODEL, "--input-device", 0], 1, "Not an input device: 'Loudspeaker'"),
        (["-m", MODEL, "--input-device", 9], 1, "Error querying device 9; see --list-devices"),
        (["-m", MODEL, "--window", 0.1], 2, "0.15 to 10.12 seconds"),
        (["-m", MODEL, "--hop", 3], 2, "at most"),
        (["-m", MODEL, "-l", "Dog"], 2, "--labels Dog: expected a class of the model"),
    ],
)
def test_wrong_usage_is_one_line_before_the_microphone_opens(card, arguments, exit_code, message):
    assert message in only_error(ced("listen", *arguments), exit_code)
    assert card.opened == []


def test_a_microphone_that_cannot_be_opened_or_delivers_no_audio_is_one_line(card, monkeypatch):
    def refuse(self: FakeSoundCard) -> None:
        raise PortAudioError("Error opening InputStream: Device unavailable [PaErrorCode -9985]", -9985)

    card.waveform = np.full(20_000, np.nan, np.float32)
    assert "microphone 'Built-in Microphone': <array>: a sample is NaN" in only_error(ced("listen", "-m", MODEL), 1)
    card.waveform = np.zeros(0, np.float32)
    assert "no audio for 0.02 s" in only_error(ced("listen", "-m", MODEL), 1)
    monkeypatch.setattr(FakeSoundCard, "__enter__", refuse)
    assert "'Built-in Microphone': Error opening InputStream: Device un" in only_error(ced("listen", "-m", MODEL), 1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("No module named 'sounddevice'"), "pip install sounddevice"),
        (OSError("PortAudio library not found"), "PortAudio library not found; install PortAudio"),
    ],
)
def test_a_missing_package_or_library_is_one_line(monkeypatch, error, message):
    original = builtins.__import__

    def fail(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "sounddevice":
            raise error
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    for arguments in (["--list-devices"], ["-m", MODEL]):
        assert message in only_error(ced("listen", *arguments), 1)


@pytest.fixture
def real_sounddevice() -> Iterator[None]:
    yield
    sys.modules.pop("sounddevice", None)  # without PortAudio, its import is incomplete


def test_the_real_sounddevice_lists_microphones_or_reports_what_is_missing(real_sounddevice):
    result = ced("listen", "--list-devices")
    if result.exit_code == 0:
        assert all(re.match(r"[* ] *\d+  .+  \d+ Hz$", line) for line in result.stdout.splitlines())
        assert result.stdout and not result.stderr
    else:
        error = only_error(result, 1)
        assert any(text in error for text in ("no microphone", "install PortAudio", "pip install sounddevice"))
