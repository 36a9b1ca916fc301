# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced clips`: detected stretches as audio files."""

import csv
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from click.testing import Result
from typer.testing import CliRunner

from ced_model import AudioTagger
from ced_model.cli.app import app
from ced_model.cli.progress import RunProgress
from ced_model.clip_choice import choose_clips
from ced_model.clip_files import Part, cut_parts, part_name, write_part

MODEL = Path(__file__).parents[1] / "golden" / "micro_hub"
OPTIONS = ("-m", MODEL, "--threshold", 0.5, "--window", 0.5, "--hop", 0.25)


def ced(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "clips.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A stereo recording of 24 bits at 22.05 kHz whose loudness varies, and a second one, in `sounds`."""
    (tmp_path / "sounds").mkdir()
    time = np.arange(8 * 22050) / 22050
    noise = np.random.default_rng(1).normal(scale=0.05, size=(len(time), 2)) * (1 + np.sin(2 * time))[:, None]
    soundfile.write(tmp_path / "sounds" / "a.wav", noise, 22050, "PCM_24")
    tone = 0.3 * np.sin(2 * np.pi * 440 * time) * (np.sin(3 * time) > 0)
    soundfile.write(tmp_path / "sounds" / "b.flac", tone, 22050)
    return tmp_path / "sounds"


@pytest.mark.parametrize(("format", "subtype"), [("wav", "PCM_24"), ("flac", "PCM_24")])
def test_events_become_files_with_the_samples_of_the_recording(sounds, tmp_path, format, subtype):
    output = tmp_path / "clips"
    result = ced("clips", sounds, "-o", output, *OPTIONS, "--padding", 0.25, "-f", format)
    assert result.exit_code == 0, result.output
    tagger = AudioTagger(MODEL)
    expected = {
        (str(path), event.label, event.onset_s, event.offset_s)
        for path in sounds.iterdir()
        for event in tagger.events(path, 0.5, window_s=0.5, hop_s=0.25)
    }
    table = rows(output)
    assert {(row["file"], row["label"], float(row["onset_s"]), float(row["offset_s"])) for row in table} == expected
    assert len(table) > 3
    assert {str(path.relative_to(output)) for path in output.glob(f"*/*.{format}")} == {row["clip"] for row in table}
    for row in table:
        samples, rate = soundfile.read(row["file"], always_2d=True)
        clip, clip_rate = soundfile.read(output / row["clip"], always_2d=True)
        start, end = float(row["start_s"]), float(row["end_s"])
        assert start == pytest.approx(max(0, float(row["onset_s"]) - 0.25))
        assert end == pytest.approx(min(8, float(row["offset_s"]) + 0.25))
        assert clip_rate == rate
        np.testing.assert_array_equal(clip, samples[round(start * rate) :][: round((end - start) * rate)])
        if row["file"].endswith("a.wav"):
            assert soundfile.info(output / row["clip"]).subtype == subtype


def test_an_interrupted_run_is_continued_without_tagging_again(sounds, tmp_path, monkeypatch):
    output, count = tmp_path / "clips", RunProgress.count

    def interrupt(self: RunProgress, failed: bool) -> None:
        count(self, failed)
        if self.done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunProgress, "count", interrupt)
        result = ced("clips", sounds, "-o", output, *OPTIONS)
    assert result.exit_code == 130 and "1 result so far in" in result.stderr
    assert "continue with --resume" in result.stderr
    assert "is not empty: add --resume" in ced("clips", sounds, "-o", output, *OPTIONS).stderr
    changed = ced("clips", sounds, "-o", output, *OPTIONS, "--padding", 3, "--resume")
    assert changed.exit_code == 2 and "--padding 3: expected 0.5, as when" in changed.stderr
    assert changed.stderr.endswith("was begun; or choose another output\n")
    result = ced("clips", sounds, "-o", output, *OPTIONS, "--resume")
    assert result.exit_code == 0 and "1 of 2 inputs were already done" in result.stderr
    assert {row["file"] for row in rows(output)} == {str(path) for path in sounds.iterdir()}
    assert not (output / "clips.csv.journal").exists()
    assert "is complete, so --resume has nothing to do" in ced("clips", sounds, "-o", output, "--resume").stderr


def test_recordings_that_cannot_be_read_do_not_stop_the_others(sounds, tmp_path):
    (sounds / "broken.wav").write_bytes(b"RIFF")
    result = ced("clips", sounds, "-o", tmp_path / "clips", *OPTIONS, "--max-per-class", 1)
    assert result.exit_code == 1 and "broken.wav: " in result.stderr
    labels = [row["label"] for row in rows(tmp_path / "clips")]
    assert labels and len(labels) == len(set(labels))


def event(index: int, peak: float, label: str = "a") -> dict[str, float | str]:
    return {"onset_s": 10.0 * index, "offset_s": 10.0 * index + 1, "label": label, "peak": peak}


@pytest.mark.parametrize(
    ("choose", "expected"), [("best", [0.9, 0.8, 0.7]), ("spread", [0.9, 0.5, 0.1]), ("random", None)]
)
def test_the_number_of_clips_per_class_can_be_limited(choose, expected):
    peaks = [0.5, 0.9, 0.1, 0.3, 0.8, 0.7, 0.2]
    recordings = [{"file": "x.wav", "duration_s": 100.0, "events": [event(i, peak) for i, peak in enumerate(peaks)]}]
    recordings[0]["events"] += [event(0, 0.6, "b/c")]  # type: ignore[operator]
    options: dict[str, Any] = {"padding_s": 2, "most": 3, "choose": choose, "format": "wav"}
    chosen = choose_clips(recordings, seed=1, **options)
    assert [clip.label for clip in chosen].count("a") == 3 and chosen[-1].clip == "b_c/x_0.00.wav"
    found = sorted((clip.peak for clip in chosen if clip.label == "a"), reverse=True)
    if expected is None:
        assert chosen == choose_clips(recordings, seed=1, **options) and set(found) <= set(peaks)
        assert len({tuple(choose_clips(recordings, seed=seed, **options)) for seed in range(5)}) > 1
    else:
        assert found == expected
    assert all(clip.start_s == max(0, clip.onset_s - 2) and clip.end_s == clip.offset_s + 2 for clip in chosen)


def test_recordings_with_the_same_name_do_not_overwrite_each_other():
    recordings = [{"file": f"{name}/x.wav", "duration_s": 9.0, "events": [event(0, 0.5)]} for name in "pq"]
    chosen = choose_clips(recordings, padding_s=0, most=None, choose="best", seed=0, format="wav")
    assert [clip.clip for clip in chosen] == ["a/x_0.00.wav", "a/x_0.00-2.wav"]


def test_formats_that_libsndfile_does_not_know_are_cut(tmp_path):
    time = np.arange(3 * 16000) / 16000
    tone = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    path = str(tmp_path / "tone.m4a")
    with av.open(path, "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    first, second = cut_parts(path, [(0.5, 1.0), (0.75, 2.0)])
    assert (len(first.samples), len(second.samples), first.sampling_rate) == (8000, 20000, 16000)
    np.testing.assert_array_equal(first.samples[4000:], second.samples[:4000])
    assert np.abs(np.fft.rfft(first.samples[:, 0])).argmax() == 220


def test_unsupported_clip_formats_are_reported(tmp_path):
    with pytest.raises(RuntimeError, match="x.flac: cannot be written as flac"):
        write_part(Part(np.zeros((100, 9)), 16000, "PCM_16"), tmp_path / "x.flac", "flac")
    assert list(tmp_path.iterdir()) == []
    assert part_name("a/b\nc:d.wav", 1.5, "wav") == "b_nc_d_1.50.wav"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("-f", "mp3"), "--format mp3: expected wav or flac"),
        (("--choose", "worst"), "--choose worst: expected best, random, spread"),
        (("--padding", "-1"), "--padding -1: expected a number from 0"),
        (("--labels", "nothing"), "expected a class of the model"),
        (("--window", "60"), "--window 60: expected"),
        (("--min-duration", "-1"), "--min-duration -1: expected a number from 0"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(sounds, tmp_path, arguments, expected):
    result = ced("clips", sounds, "-m", MODEL, "-o", tmp_path / "clips", *arguments)
    assert result.exit_code == 2 and expected in result.stderr.splitlines()[-1]
    assert not (tmp_path / "clips").exists()


def test_an_output_that_is_a_file_is_refused(sounds, tmp_path):
    shutil.copy(sounds / "b.flac", tmp_path / "clips")
    assert "expected a folder" in ced("clips", sounds, "-m", MODEL, "-o", tmp_path / "clips").stderr
