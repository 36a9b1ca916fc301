# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""AudioTagger: tags, timelines, events, streams and embeddings have the right values, independent of batching."""

import copy
import io
import json
import math
import os
import re
import shutil
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ced_model import (
    AudioError,
    AudioTagger,
    CedConfig,
    CedFeatureExtractor,
    CedForAudioClassification,
    Tag,
    Timeline,
    scheduling,
)
from ced_model.audio import read_audio
from ced_model.engines import Outputs
from ced_model.messages import OptionError

RATE = 16000
RESOURCES = Path(__file__).parent.parent / "resources"
MICRO = Path(__file__).parent / "golden" / "micro_hub"
PATIENCE_S = 300.0  # timeout for other threads; not an assertion about time

# name → recording, seconds, sampling rate, channels: all formats, lengths from 0.1 s to 25 s
CLIPS: dict[str, tuple[str, float, int, int]] = {
    "tabla.wav": ("loop_tabla", 10.67, 44100, 2),
    "tabla_start.flac": ("loop_tabla", 3.21, 48000, 1),
    "tabla_8k.wav": ("loop_tabla", 10.1, 8000, 1),
    "tabla_long.mp3": ("loop_tabla", 25.3, 44100, 2),
    "guitar.ogg": ("guit_e_slide", 4.3, 22050, 1),
    "guitar.mp3": ("guit_e_slide", 4.3, 32000, 1),
    "guitar_long.flac": ("guit_e_slide", 20.05, 16000, 1),
    "bell.mp3": ("perc_bell", 6.7, 48000, 2),
    "bell_96k.flac": ("perc_bell", 2.0, 96000, 2),
    "crow.wav": ("misc_crow", 0.48, 11025, 1),
    "burp.ogg": ("misc_burp", 0.79, 48000, 2),
    "snap.flac": ("perc_snap", 0.3, 44100, 2),
    "snap_short.wav": ("perc_snap", 0.1, 16000, 1),
}


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real recordings in several formats, lengths, rates and numbers of channels."""
    folder = tmp_path_factory.mktemp("clips")
    for name, (recording, seconds, rate, channels) in CLIPS.items():
        samples, own_rate = soundfile.read(RESOURCES / f"{recording}.flac", dtype="float32", always_2d=True)
        samples = soxr.resample(samples, own_rate, rate)
        samples = np.tile(samples, (math.ceil(seconds * rate / len(samples)), 2))[: int(seconds * rate), :channels]
        soundfile.write(folder / name, np.clip(samples, -1, 1), rate)
    return [folder / name for name in CLIPS]


@pytest.fixture(scope="module")
def tagger() -> AudioTagger:
    return AudioTagger(MICRO)


def noise(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(seconds * rate)) * 0.1).astype(np.float32)


def probabilities(tagger: AudioTagger, waveform: np.ndarray) -> np.ndarray:
    """Probabilities of a clip of up to 10.12 s, by feature extractor and model."""
    inputs = tagger.feature_extractor(waveform, sampling_rate=RATE)
    assert inputs.input_values.shape[-1] <= 1012
    with torch.no_grad():
        return tagger.model(**inputs).logits.sigmoid()[0].numpy()


def pieces(samples: int, window: int, hop: int) -> list[tuple[int, int]]:
    """Windows of a recording; a last one shorter than 0.15 s is joined to the one before, or extended to the left."""
    found = []
    for start in range(0, samples, hop):
        left = samples - start
        if left > window and left - hop >= 2400:
            found.append((start, start + window))
        elif left <= window or left <= 161_919:
            return found + [(start, samples)]
        else:
            return found + [(start, samples - 2400), (samples - 2400, samples)]
        if start + window == samples:
            return found
    return found


def clip_scores(tagger: AudioTagger, waveform: np.ndarray) -> np.ndarray:
    if len(waveform) <= 161_919:
        return probabilities(tagger, waveform)
    bounds = pieces(len(waveform), 160_000, 160_000)
    scores = np.stack([probabilities(tagger, waveform[start:end]) for start, end in bounds])
    return np.average(scores, axis=0, weights=[end - start for start, end in bounds])


def all_scores(tagger: AudioTagger, tags: list[Tag]) -> np.ndarray:
    """The scores of all classes in order, from tags."""
    assert len(tags) == len(tagger.labels)
    return np.array([tag.score for tag in sorted(tags, key=lambda tag: tag.index)])


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.005)


def our_threads() -> set[int | None]:
    return {thread.ident for thread in threading.enumerate() if thread.name.startswith("ced-")}


# Clips


@pytest.mark.parametrize(
    "samples", [1, 2400, 16000, 161_919, 161_920, 162_399, 162_400, 170_000, 320_000, 322_399, 322_400, 400_001]
)
def test_clip_scores_are_those_of_a_plain_loop_over_windows(tagger, samples):
    waveform = noise(samples / RATE) * np.linspace(0.1, 1, samples, dtype=np.float32)
    scores = all_scores(tagger, tagger(waveform, top_k=13))
    np.testing.assert_allclose(scores, clip_scores(tagger, waveform), atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{}, {"window_s": 3}, {"hop_s": 0.5}, {"window_s": 10, "hop_s": 2}])
def test_the_maximum_is_over_windows_of_2_s_by_default(tagger, options):
    waveform = noise(11.3)
    windows = {"window_s": 2} | ({"hop_s": options["window_s"]} if "window_s" in options else {}) | options
    scores = all_scores(tagger, tagger(waveform, top_k=13, average="max", **options))
    np.testing.assert_allclose(scores, tagger.timeline(waveform, **windows).scores.max(axis=0), atol=1e-6, rtol=0)


@settings(max_examples=30)
@given(
    st.integers(0, 2),
    st.sampled_from([1919, 1920, 2160, 2399, 2400]) | st.integers(1, 5000),
    st.sampled_from([10, 10.1]),
)
def test_around_the_longest_window_only_the_tail_is_short(band_tagger, windows, tail, window_s):
    samples = 160_000 * (windows + 1) + tail
    timeline = band_tagger.timeline(np.zeros(samples, np.float32), window_s=window_s, hop_s=window_s)
    start, end = np.rint(timeline.start_s * RATE), np.rint(timeline.end_s * RATE)
    assert start[0] == 0 and end[-1] == samples
    np.testing.assert_array_equal(start[1:], end[:-1])  # nothing twice, nothing left out
    sizes = end - start
    assert sizes.min() >= 2400 and sizes.max() <= 161_919
    assert (sizes[:-1] >= 159_520).all() and (sizes[:-2] == round(window_s * RATE)).all()


def test_windows_of_clips_can_be_chosen(tagger):
    waveform = noise(7.3)
    bounds = pieces(len(waveform), 48_000, 32_000)
    assert bounds == [(0, 48_000), (32_000, 80_000), (64_000, 112_000), (96_000, 116_800)]
    scores = np.stack([probabilities(tagger, waveform[start:end]) for start, end in bounds])
    expected = np.average(scores, axis=0, weights=[end - start for start, end in bounds])
    found = all_scores(tagger, tagger(waveform, top_k=13, window_s=3, hop_s=2))
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_many_inputs_of_any_length_and_format_equal_one_by_one(tagger, clips):
    together = tagger([str(clip) for clip in clips], top_k=13)
    for clip, tags in zip(clips, together, strict=True):
        found = all_scores(tagger, tags)
        np.testing.assert_allclose(found, all_scores(tagger, tagger(clip, top_k=13)), atol=1e-5, rtol=0)
        np.testing.assert_allclose(found, clip_scores(tagger, read_audio(clip)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("batch_size", "num_threads"), [(1, 1), (3, 2), (32, 4)])
def test_scores_do_not_depend_on_batch_size_or_threads(tagger, clips, batch_size, num_threads):
    other = AudioTagger(MICRO, batch_size=batch_size, num_threads=num_threads)
    for expected, tags in zip(tagger(clips, top_k=13), other(clips, top_k=13), strict=True):
        np.testing.assert_allclose(all_scores(tagger, tags), all_scores(tagger, expected), atol=1e-5, rtol=0)


def test_every_kind_of_input_gives_the_same_tags(tagger, clips):
    path = clips[list(CLIPS).index("guitar_long.flac")]
    waveform, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE
    inputs: list[Any] = [path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), waveform]
    inputs += [torch.from_numpy(waveform), {"array": waveform, "sampling_rate": RATE}]
    results = tagger(inputs, top_k=13)
    for tags in results:
        np.testing.assert_allclose(all_scores(tagger, tags), all_scores(tagger, results[0]), atol=1e-5, rtol=0)


def test_a_channel_can_be_chosen(tagger):
    source = {"array": np.stack([noise(3), -noise(3), 0.1 * noise(3, seed=1)]), "sampling_rate": RATE}
    expected, quiet = noise(3), 0.1 * noise(3, seed=1)
    for channel, waveform in ((0, expected), ("loudest", expected), (2, quiet), ("mix", quiet / 3)):
        found = all_scores(tagger, tagger(source, channel=channel, top_k=len(tagger.labels)))
        np.testing.assert_allclose(found, clip_scores(tagger, waveform), atol=1e-6)
        (result,) = tagger.tag([source], channel=channel)
        assert result.tags == tagger(source, channel=channel)
        scores = tagger.timeline(waveform).scores
        np.testing.assert_allclose(tagger.timeline(source, channel=channel).scores, scores, atol=1e-6)
        np.testing.assert_allclose(next(tagger.timelines([source], channel=channel)).timeline.scores, scores, atol=1e-6)
        np.testing.assert_allclose(tagger.embed(source, channel=channel), tagger.embed(waveform), atol=1e-5)
        assert len(tagger.events(source, 0.1, channel=channel)) == len(tagger.events(waveform, 0.1))
    for call in (tagger, tagger.timeline, tagger.events, tagger.embed):
        with pytest.raises(ValueError, match="`channel='left'`: expected mix, loudest or"):
            call(source, channel="left")
        with pytest.raises(AudioError, match="has 3 channels, numbered from 0: there is no channel 3"):
            call(source, channel=3)


def test_numpy_strings_are_paths(tagger, clips):
    paths = np.array([str(clip) for clip in clips[:2]])
    expected = tagger([str(clip) for clip in clips[:2]])
    assert tagger(paths) == expected and tagger(paths[0]) == expected[0]
    assert [result.tags for result in tagger.tag(paths)] == expected
    np.testing.assert_array_equal(tagger.embed(paths[0]), tagger.embed(str(clips[0])))
    for single in (paths[0], bytearray(b"RIFF"), memoryview(b"RIFF"), io.BytesIO(b"RIFF")):
        with pytest.raises(ValueError, match="expected a list of inputs; for a single one"):
            next(tagger.tag(single))


def test_bare_waveforms_are_resampled_from_the_given_rate(tagger):
    waveform = noise(3, rate=44100)
    found = tagger(waveform, top_k=13, sampling_rate=44100)
    expected = probabilities(tagger, soxr.resample(waveform, 44100, RATE))
    np.testing.assert_allclose(all_scores(tagger, found), expected, atol=1e-5, rtol=0)


def test_a_list_gives_a_list_and_one_input_its_tags(tagger):
    assert tagger([]) == []
    assert len(tagger([noise(1)])) == 1
    assert len(tagger((noise(1), noise(2)))) == 2
    assert tagger(noise(1)) == tagger([noise(1)])[0]


def test_tags_are_chosen_by_rank_threshold_and_class(tagger):
    waveform = noise(1)
    everything = tagger(waveform, top_k=13)
    assert [tag.score for tag in everything] == sorted((tag.score for tag in everything), reverse=True)
    assert all(tagger.labels[tag.index] == tag.label for tag in everything)
    assert tagger(waveform) == everything[:5]
    limit = everything[6].score
    assert tagger(waveform, threshold=limit) == everything[:7]
    assert tagger(waveform, threshold=limit, top_k=2) == everything[:2]
    assert tagger(waveform, threshold=1.0) == []
    chosen = [tag for tag in everything if tag.label in ("class 3", "class 11")]
    assert tagger(waveform, labels=["class 11", "CLASS 3", "class 3"]) == chosen
    assert tagger(waveform, labels=["class 3", "class 11"], top_k=1) == chosen[:1]
    assert tagger(waveform, labels=[]) == []


def test_unknown_classes_are_refused_with_suggestions(tagger):
    config = CedConfig(embed_dim=16, num_heads=1, depth=1)
    audioset = AudioTagger(CedForAudioClassification(config))
    with pytest.raises(ValueError, match="`labels='Snorring'`: expected a class of the model; did you mean 'Snoring'"):
        audioset(noise(1), labels=["Snorring"])
    with pytest.raises(ValueError, match="did you mean .*'Chicken, rooster'"):
        audioset.events(noise(1), {"rooster": 0.5})
    with pytest.raises(ValueError, match="`labels='xqzv'`: expected a class of the model$"):
        next(audioset.tag([noise(1)], labels=["xqzv"]))
    with pytest.raises(ValueError, match="`labels='Dgo'`: expected a class of the model; did you mean 'Dog'"):
        audioset(noise(1), labels="Cat, Dgo")
    with pytest.raises(ValueError, match="'class 99'`: expected a class of the model"):
        tagger.timeline(noise(3)).events({"class 99": 0.5})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_s": 0.1}, "0.15 to 10.12 seconds"),
        ({"window_s": 10.2}, "0.15 to 10.12 seconds"),
        ({"window_s": 2, "hop_s": 2.1}, "at most the window of 2 seconds"),
        ({"window_s": 2, "hop_s": 0}, "more than 0"),
        ({"window_s": 2, "hop_s": -1}, "more than 0"),
        ({"window_s": math.nan}, "expected a number"),
        ({"window_s": 2, "hop_s": math.inf}, "expected a length in seconds"),
        ({"average": "median"}, "mean or max"),
        ({"top_k": 0}, "a whole number from 1"),
    ],
)
def test_impossible_options_are_refused_before_any_work(tagger, options, message):
    def untouched() -> Iterator[Any]:
        raise AssertionError("an input was taken")
        yield

    with pytest.raises(ValueError, match=message):
        next(tagger.tag(untouched(), **options))


def test_probabilities_follow_the_problem_type(tagger):
    waveform = noise(2)
    logits = tagger.model(tagger.feature_extractor(waveform, sampling_rate=RATE).input_values).logits[0].detach()
    expected = {
        "multi_label_classification": logits.sigmoid(),
        "single_label_classification": logits.softmax(dim=-1),
        "regression": logits,
    }
    for problem_type, scores in expected.items():
        model = CedForAudioClassification.from_pretrained(MICRO, problem_type=problem_type)
        found = AudioTagger(model)(waveform, top_k=13)
        np.testing.assert_allclose(all_scores(tagger, found), scores.numpy(), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "logit", "dm", "token"])
@pytest.mark.parametrize("target_length", [16, 20, 31, 102])
def test_models_with_short_inputs_use_all_of_a_clip(pooling, target_length):
    torch.manual_seed(0)
    config = CedConfig(embed_dim=16, num_heads=1, depth=1, num_labels=4, target_length=target_length, pooling=pooling)
    model = CedForAudioClassification(config)
    seen: list[int] = []
    model.encoder.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[-1]))
    short = AudioTagger(model)
    assert short.max_window_s == pytest.approx(target_length / 100, abs=1e-4)
    timeline = short.timeline(noise(1.234), window_s=short.max_window_s, hop_s=short.max_window_s)
    assert timeline.start_s[0] == 0 and timeline.end_s[-1] == 1.234
    assert (timeline.start_s[1:] <= timeline.end_s[:-1]).all()
    assert (timeline.end_s - timeline.start_s).min() > 0.15 - 1e-9
    assert len(short(noise(1.234), top_k=4)) == 4
    assert set(frames % 16 for frames in seen) == {0} and max(seen) <= target_length


def test_silence_and_single_samples_are_tagged(tagger):
    for waveform in (np.zeros(32_000), np.zeros(1), np.ones(100), np.zeros(300_000)):
        scores = all_scores(tagger, tagger(waveform.astype(np.float32), top_k=13))
        assert np.isfinite(scores).all()


# Many inputs


class Slow(io.BytesIO):
    """A file that can only be read once `go` is set."""

    def __init__(self, content: bytes, go: threading.Event) -> None:
        super().__init__(content)
        self.go = go

    def read(self, *args: Any) -> bytes:
        assert self.go.wait(PATIENCE_S), "nothing else went on"
        return super().read(*args)

    def seek(self, *args: Any) -> int:
        assert self.go.wait(PATIENCE_S), "nothing else went on"
        return super().seek(*args)


def test_results_are_in_order_even_if_the_first_input_waits_for_the_last(tagger, clips):
    go = threading.Event()
    expected = tagger(clips)

    def inputs() -> Iterator[Any]:
        yield Slow(clips[0].read_bytes(), go)
        yield from clips[1:]
        yield clips[0].parent / "missing.wav"
        yield from clips
        go.set()

    results = list(tagger.tag(inputs()))
    errors = [index for index, result in enumerate(results) if result.error is not None]
    assert errors == [len(clips)]
    assert "No such file" in str(results[len(clips)].error)
    found = [result.tags for result in results if result.error is None]
    for tags, others in zip(found, expected * 2, strict=True):
        np.testing.assert_allclose([tag.score for tag in tags], [tag.score for tag in others], atol=1e-5)
    assert [result.source for result in results[1 : len(clips)]] == clips[1:]


def test_broken_inputs_give_results_with_an_error_and_the_others_continue(tagger, clips, tmp_path):
    text = tmp_path / "text.wav"
    text.write_text("not audio")
    empty = tmp_path / "empty.wav"
    empty.touch()
    cut = tmp_path / "cut.flac"
    content = (RESOURCES / "loop_tabla.flac").read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    nan = np.full(16000, np.nan, np.float32)
    inputs: list[Any] = [text, clips[0], empty, tmp_path, nan, clips[1], cut, np.zeros(0, np.float32), 7, clips[2]]
    results = list(tagger.tag(inputs))
    assert [result.error is None for result in results] == [source in clips for source in map(_path, inputs)]
    for result in results:
        if result.error is not None:
            assert isinstance(result.error, AudioError) and result.tags == []
            assert "\n" not in str(result.error) and str(result.error).startswith(result.name)
        else:
            assert len(result.tags) == 5


def _path(source: Any) -> Path | None:
    return source if isinstance(source, Path) else None


HUGE = {"one sample": 1e30, "the least": 1e19, "the most": 3e38, "negative": -1e20}


def with_sample(value: float, seconds: float = 3.0, rate: int = RATE) -> np.ndarray:
    waveform = noise(seconds, rate=rate)
    waveform[len(waveform) * 2 // 3] = value
    return waveform


@pytest.mark.parametrize(
    ("value", "seconds"), [*((value, 3.0) for value in HUGE.values()), (1e30, 45.0)], ids=[*HUGE, "in a later block"]
)
def test_samples_that_are_too_large_are_an_error_of_their_input(tagger, tmp_path, value, seconds):
    path = tmp_path / "huge.wav"
    soundfile.write(path, with_sample(value, seconds), RATE, subtype="FLOAT")
    expected = all_scores(tagger, tagger(noise(1), top_k=13))
    for method, options in ((tagger.tag, {"top_k": 13}), (tagger.timelines, {})):
        results = list(method([noise(1), path, noise(1)], **options))
        assert [result.error is None for result in results] == [True, False, True]
        assert re.match(rf"{path}: the sample \S+ at {seconds * 2 / 3:.3f} s is too large", str(results[1].error))
        assert isinstance(results[1].error, AudioError) and "\n" not in str(results[1].error)
        for result in (results[0], results[2]):
            scores = all_scores(tagger, result.tags) if result.tags else result.timeline.scores[0]
            np.testing.assert_allclose(scores, expected, atol=1e-5)
    for call in (tagger, tagger.timeline, tagger.events, tagger.embed):
        with pytest.raises(AudioError, match="huge.wav: the sample .* is too large"):
            call(path)
    for rate in (RATE, 48000):
        updates = tagger.stream([with_sample(value, seconds, rate)], sampling_rate=rate)
        with pytest.raises(AudioError, match="the stream: the sample .* is too large"):
            list(updates)


def test_large_samples_within_the_limit_are_tagged(tagger):
    for value in (2.0**31, -1e16):
        assert np.isfinite(all_scores(tagger, tagger(with_sample(value), top_k=13))).all()
        assert np.isfinite(tagger.embed(np.full(RATE, value, np.float32))).all()


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_scores_that_are_nan_are_an_error_of_their_input(micro_model, number):
    def fail_if_loud(_: Any, inputs: Any, outputs: Any) -> None:
        for part in (outputs.pooler_output, outputs.chunk_states):
            part[inputs[0].amax(dim=(1, 2)) > 40, ..., -1] = number

    tagger = AudioTagger(micro_model, num_threads=1)
    expected = all_scores(tagger, tagger(noise(1), top_k=13))
    micro_model.encoder.register_forward_hook(fail_if_loud)
    loud = noise(25)
    loud[20 * RATE :] *= 3000
    for method, options in ((tagger.tag, {"top_k": 13}), (tagger.timelines, {})):
        good, bad, other = method([noise(1), loud, noise(1)], **options)
        assert good.error is None is other.error and isinstance(bad.error, AudioError)
        assert re.match(r"<array>: the model's scores are NaN or infinite \(from (19|20)\.0 s on\)", str(bad.error))
        scores = all_scores(tagger, good.tags) if good.tags else good.timeline.scores[0]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
    for call in (tagger, tagger.timeline, tagger.events, tagger.embed):
        for source in (loud, loud[-RATE:]):
            with pytest.raises(AudioError, match="<array>: the model's scores are NaN or infinite"):
                call(source)
    updates = []
    with pytest.raises(AudioError, match="the stream: the model's scores are NaN or infinite"):
        updates += tagger.stream([loud])
    assert tagger.embed([noise(1)]).shape == (1, 48)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name", ["encoder.init_bn.running_var", "encoder.blocks.1.mlp.fc1.weight", "outputlayer.1.bias"]
)
def test_a_model_with_nan_weights_is_refused(micro_model, tmp_path, name, number):
    with torch.no_grad():
        micro_model.state_dict()[name].view(-1)[-1] = number
    micro_model.save_pretrained(tmp_path)
    for load in (lambda: AudioTagger(micro_model), lambda: AudioTagger(tmp_path)):
        with pytest.raises(ValueError, match=f"weights are damaged: {name} has NaN or infinite values") as refusal:
            load()
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("thresholds", [50, -0.1, {"class 1": 50}, {"*": -0.1}, {"class 1": {"threshold": 2}}])
def test_thresholds_that_no_score_can_have_are_refused(tagger, thresholds):
    for find in (
        lambda: tagger(np.zeros(RATE, np.float32), threshold=thresholds),
        lambda: tagger.events(np.zeros(RATE, np.float32), thresholds),
        lambda: next(tagger.stream_events([np.zeros(RATE, np.float32)], thresholds)),
    ):
        with pytest.raises(OptionError, match="expected a score from 0 to 1"):
            find()


def test_huge_weights_are_not_refused(micro_model):
    with torch.no_grad():
        micro_model.encoder.blocks[0].mlp.fc1.weight.fill_(3e38)  # their sum is infinite
    AudioTagger(micro_model)


@pytest.mark.parametrize("method", ["tag", "timelines"])
def test_no_result_waits_for_a_later_input(tagger, method):
    go = [threading.Event() for _ in range(3)]

    def inputs() -> Iterator[Any]:
        yield noise(1)
        for index, event in enumerate(go):
            assert event.wait(PATIENCE_S), "the result waits for the next input"
            yield noise(25) if index == 1 else b"not audio"

    results = getattr(tagger, method)(inputs())
    found = [next(results)]
    for event in go:
        event.set()
        found.append(next(results))
    assert list(results) == [] and [result.error is None for result in found] == [True, False, True, False]


@pytest.mark.parametrize("source", [b"", "missing.wav", np.full(400_000, np.nan), None])
def test_a_single_broken_input_gives_a_result_too(tagger, source):
    for method in (tagger.tag, tagger.timelines):
        results = list(method([source]))
        assert len(results) == 1
        assert isinstance(results[0].error, AudioError)
        assert results[0].timeline is None and results[0].tags == []
    for call in (tagger, tagger.timeline, tagger.events, tagger.embed):
        with pytest.raises(AudioError):
            call(source)


def test_errors_do_not_keep_audio_in_memory(tagger):
    broken = np.zeros(480_000, np.float32)
    broken[-1] = np.nan
    list(tagger.tag([broken] * 2))
    tracemalloc.start()
    errors = [result.error for result in tagger.tag([broken] * 10)]
    errors += [next(tagger.tag([broken])).error for _ in range(10)]
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert all(isinstance(error, AudioError) for error in errors)
    assert kept < 1_000_000  # a block of audio has 1.9 MB


def test_the_number_of_results_after_a_slow_input_is_bounded(tagger, monkeypatch):
    monkeypatch.setattr(scheduling, "MAX_WAITING", 20)
    go = threading.Event()
    taken = 0

    def inputs() -> Iterator[Any]:
        nonlocal taken
        yield Slow((RESOURCES / "misc_crow.flac").read_bytes(), go)
        for _ in range(500):
            taken += 1
            yield noise(0.2)

    results: list[Any] = []
    caller = threading.Thread(target=lambda: results.extend(tagger.tag(inputs())))
    caller.start()
    previous = -1
    while taken != previous or taken < 10:  # until the readers wait
        previous = taken
        time.sleep(0.1)
    assert taken < 200
    go.set()
    caller.join(PATIENCE_S)
    assert len(results) == 501 and all(result.error is None for result in results)


def test_an_abandoned_generator_ends_its_threads(tagger):
    before, threads = our_threads(), torch.get_num_threads()
    endless = (noise(3, seed=index) for index in range(10**9))
    for count, result in enumerate(tagger.tag(endless)):
        assert result.error is None
        if count == 5:
            break
    wait_until(lambda: our_threads() == before)
    assert torch.get_num_threads() == threads


def test_other_threads_keep_their_number_of_cpu_threads(tagger):
    """`torch.set_num_threads` sets the number for all threads that start later."""

    def in_a_new_thread() -> int:
        numbers: list[int] = []
        thread = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return numbers[0]

    before = torch.get_num_threads(), in_a_new_thread()
    workers: list[int] = []
    other = AudioTagger(MICRO, engine="torch", num_threads=3)
    hook = other.model.encoder.register_forward_hook(lambda *_: workers.append(torch.get_num_threads()))
    try:
        for _ in other.tag([noise(1)] * 20):
            assert (torch.get_num_threads(), in_a_new_thread()) == before
        assert set(workers) == {1}
        workers.clear()
        other(noise(1))  # a single window uses all threads
        list(other.stream([noise(1)]))
        assert workers == [3, 3]
    finally:
        hook.remove()
    assert (torch.get_num_threads(), in_a_new_thread()) == before


def test_errors_of_the_model_reach_the_caller():
    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    model = CedForAudioClassification(CedConfig(embed_dim=16, num_heads=1, depth=1))
    model.encoder.register_forward_hook(fail)
    broken = AudioTagger(model)
    before = our_threads()
    for inputs in ([noise(1)], [noise(1)] * 50, [noise(30)]):
        with pytest.raises(RuntimeError, match="out of memory"):
            list(broken.tag(inputs))
    wait_until(lambda: our_threads() == before)


@pytest.mark.parametrize("good", [0, 1, 2, 20])
def test_errors_of_the_callers_iterator_reach_the_caller(tagger, good):
    def inputs() -> Iterator[Any]:
        yield from [noise(0.5)] * good
        raise LookupError("the list is gone")

    with pytest.raises(LookupError, match="the list is gone"):
        list(tagger.tag(inputs()))


def test_several_taggers_work_in_several_threads(tagger, clips):
    expected = [all_scores(tagger, tags) for tags in tagger(clips, top_k=13)]
    failures: list[str] = []

    def work(own: AudioTagger) -> None:
        for _ in range(2):
            for tags, scores in zip(own(clips, top_k=13), expected, strict=True):
                if not np.allclose(all_scores(own, tags), scores, atol=1e-5):
                    failures.append("other scores")
        failures.append("")

    taggers = [tagger, tagger, AudioTagger(MICRO, num_threads=1, batch_size=3)]
    callers = [threading.Thread(target=work, args=(own,)) for own in taggers]
    threads = torch.get_num_threads()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE_S)
    assert failures == ["", "", ""]  # each thread finished
    assert torch.get_num_threads() == threads
    wait_until(lambda: not our_threads())


def test_results_have_their_source_and_its_length(tagger, clips):
    results = list(tagger.tag(clips))
    for result, clip, (_, seconds, rate, _) in zip(results, clips, CLIPS.values(), strict=True):
        assert result.name == str(clip) and result.source is clip
        # MP3 adds silence at both ends.
        assert result.duration_s == pytest.approx(
            int(seconds * rate) / rate, abs=0.1 if clip.suffix == ".mp3" else 1e-3
        )
    assert [result.name for result in tagger.tag([noise(1), b"RIFF"])] == ["<array>", "<bytes>"]


# Timelines


@pytest.mark.parametrize(
    ("window_s", "hop_s", "seconds"),
    [(2.0, 1.0, 11.37), (2.0, None, 2.0), (2.0, 2.0, 4.1), (1.5, 1.4, 6.05), (10.0, 10.0, 10.14), (3.0, 0.5, 0.05)],
)
def test_a_timeline_has_the_scores_of_its_windows(tagger, window_s, hop_s, seconds):
    waveform = noise(seconds)
    timeline = tagger.timeline(waveform, window_s=window_s, hop_s=hop_s)
    window, hop = round(window_s * RATE), round((hop_s or window_s / 2) * RATE)
    bounds = pieces(len(waveform), window, hop)
    np.testing.assert_allclose(timeline.start_s, [start / RATE for start, _ in bounds])
    np.testing.assert_allclose(timeline.end_s, [end / RATE for _, end in bounds])
    expected = [probabilities(tagger, waveform[start:end]) for start, end in bounds]
    np.testing.assert_allclose(timeline.scores, expected, atol=1e-5, rtol=0)
    assert timeline.scores.dtype == np.float32 and timeline.labels == tagger.labels
    assert timeline.duration_s == seconds


def test_timelines_of_many_files_equal_those_of_each(tagger, clips):
    results = list(tagger.timelines([*clips, "missing.wav"], window_s=1.0, hop_s=0.5))
    assert results[-1].error is not None and results[-1].timeline is None
    for clip, result in zip(clips, results, strict=False):
        timeline = result.timeline
        assert timeline is not None
        alone = tagger.timeline(clip, window_s=1.0, hop_s=0.5)
        np.testing.assert_allclose(timeline.scores, alone.scores, atol=1e-5, rtol=0)
        np.testing.assert_array_equal(timeline.start_s, alone.start_s)
        np.testing.assert_array_equal(timeline.end_s, alone.end_s)


@given(st.floats(0.01, 30), st.floats(0.15, 10), st.floats(0.05, 1))
def test_segments_cover_the_recording_without_overlap(seconds, window_s, hop_share):
    bounds = np.array(pieces(max(1, round(seconds * RATE)), round(window_s * RATE), round(window_s * hop_share * RATE)))
    start_s, end_s = bounds.T / RATE
    segments = Timeline(np.zeros((len(bounds), 1), np.float32), start_s, end_s, ["a"]).segments()
    assert segments[0, 0] == 0 and segments[-1, 1] == end_s[-1]
    np.testing.assert_array_equal(segments[1:, 0], segments[:-1, 1])
    assert (segments[:, 1] > segments[:, 0]).all()
    assert (segments[:, 0] >= start_s).all() and (segments[:, 1] <= end_s).all()


# Events


BANDS = {"low": slice(6, 10), "middle": slice(26, 30), "high": slice(44, 47)}  # mel bins


class BandEngine:
    """Scores three bands: the score of a band is 0.5 if its tone fills half of the window."""

    name, compute_type, device = "bands", "float32", "cpu"

    def run(self, log_mels: np.ndarray, is_alone: bool) -> Outputs:
        loud = np.stack([(log_mels[:, band].max(axis=1) > -5).mean(axis=-1) for band in BANDS.values()], axis=-1)
        return Outputs((1 / (1 + np.exp(-8 * (loud - 0.5)))).astype(np.float32), np.zeros((len(log_mels), 16)))


def mel_tone(name: str, seconds: float) -> np.ndarray:
    """A tone in the middle of one of the bands."""
    band = BANDS[name]
    mel = (band.start + band.stop + 1) / 2 / 65 * 2595 * math.log10(1 + 8000 / 700)
    frequency = 700 * (10 ** (mel / 2595) - 1)
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


SCENE = [  # onset, offset, band
    (2.0, 5.0, "low"),
    (4.0, 6.5, "high"),
    (9.0, 10.5, "middle"),
    (11.5, 14.0, "middle"),
    (15.0, 15.8, "low"),
    (17.2, 20.0, "high"),
]


@pytest.fixture(scope="module")
def band_tagger() -> AudioTagger:
    config = CedConfig(embed_dim=16, num_heads=1, depth=1, id2label=dict(enumerate(BANDS)), num_labels=3)
    tagger = AudioTagger(CedForAudioClassification(config), num_threads=2)
    tagger._engine = BandEngine()
    return tagger


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """20 s of soft noise with tones at known times."""
    waveform = noise(20) * 0.01
    for onset, offset, band in SCENE:
        waveform[round(onset * RATE) : round(offset * RATE)] += mel_tone(band, offset - onset)
    return waveform


def as_tuples(events: list[Any]) -> list[tuple[float, float, str]]:
    return [(event.onset_s, event.offset_s, event.label) for event in events]


@pytest.mark.parametrize(("window_s", "hop_s"), [(1.0, 0.5), (0.5, 0.25), (0.5, 0.1), (0.2, 0.2)])
def test_events_are_at_the_times_of_the_sounds(band_tagger, scene, window_s, hop_s):
    events = band_tagger.events(scene, 0.5, window_s=window_s, hop_s=hop_s)
    assert [event.label for event in events] == [label for _, _, label in SCENE]
    for event, (onset, offset, _) in zip(events, SCENE, strict=True):
        # Within half a hop, and a few frames of 10 ms that only partly contain the tone.
        assert event.onset_s == pytest.approx(onset, abs=hop_s / 2 + 0.04)
        assert event.offset_s == pytest.approx(offset, abs=hop_s / 2 + 0.04)
        assert event.peak > 0.9
    assert events[-1].offset_s == 20.0


def test_close_events_are_merged_and_short_ones_left_out(band_tagger, scene):
    options = {"window_s": 0.5, "hop_s": 0.1}
    single = band_tagger.events(scene, 0.5, **options)
    merged = band_tagger.events(scene, 0.5, merge_gap_s=1.2, **options)
    middle = [event for event in single if event.label == "middle"]
    assert len(middle) == 2
    expected = [event for event in single if event.label != "middle"]
    assert [event for event in merged if event.label != "middle"] == expected
    (joined,) = [event for event in merged if event.label == "middle"]
    assert (joined.onset_s, joined.offset_s) == (middle[0].onset_s, middle[1].offset_s)
    assert joined.peak == max(event.peak for event in middle)
    assert len(band_tagger.events(scene, 0.5, merge_gap_s=0.8, **options)) == 6

    long = band_tagger.events(scene, 0.5, min_duration_s=1.2, **options)
    assert long == [event for event in single if event.onset_s < 14.5 or event.onset_s > 16]
    # After merging, not before.
    both = band_tagger.events(scene, 0.5, min_duration_s=4, merge_gap_s=1.2, **options)
    assert as_tuples(both) == [(joined.onset_s, joined.offset_s, "middle")]


def test_thresholds_by_class_leave_the_others_out(band_tagger, scene):
    everything = band_tagger.events(scene, 0.5, window_s=0.5)
    assert band_tagger.events(scene, {"Low": 0.5}, window_s=0.5) == [e for e in everything if e.label == "low"]
    some = band_tagger.events(scene, {"low": 0.99, "high": 0.5}, window_s=0.5)
    assert some == [event for event in everything if event.label == "high"]
    assert band_tagger.events(scene, {}, window_s=0.5) == []
    assert band_tagger.timeline(scene, window_s=0.5).events(0.5) == everything


def test_lengths_that_are_equal_but_for_rounding_count_as_equal():
    start_s = np.arange(40) * 0.1
    scores = np.zeros((40, 1), np.float32)
    scores[[3, 4, 5, 9, 10, 14, 18, 19, 20]] = 1
    timeline = Timeline(scores, start_s, start_s + 0.1, ["a"])
    assert len(timeline.events(merge_gap_s=0.3)) == 1
    assert len(timeline.events(merge_gap_s=0.299)) == 4
    assert len(timeline.events(min_duration_s=0.3)) == 2
    assert len(timeline.events(min_duration_s=0.1)) == 4
    assert len(timeline.events(min_duration_s=0.301)) == 0


# Streams


def cut_at(waveform: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    position = index = 0
    while position < len(waveform):
        size = sizes[index % len(sizes)]
        yield waveform[position : position + size]
        position, index = position + size, index + 1


def assert_stream_equals_timeline(tagger: AudioTagger, chunks: Any, waveform: np.ndarray, rate: int, **options: Any):
    updates = list(tagger.stream(chunks, sampling_rate=rate, **options))
    timeline = tagger.timeline(waveform, sampling_rate=rate, **options)
    np.testing.assert_allclose([update.start_s for update in updates], timeline.start_s, atol=1e-9)
    np.testing.assert_allclose([update.end_s for update in updates], timeline.end_s, atol=1e-9)
    np.testing.assert_allclose([update.scores for update in updates], timeline.scores, atol=1e-4, rtol=0)
    return updates


@settings(max_examples=25)
@given(
    st.sampled_from([8000, 16000, 44100, 48000]),
    st.floats(0.001, 4),
    st.lists(st.integers(1, 30_000).filter(lambda size: size > 50), min_size=1, max_size=4),
    st.sampled_from([(0.5, 0.25), (0.5, 0.5), (1.0, 0.3), (2.0, 1.0), (0.15, 0.15), (0.4, 0.35)]),
    st.sampled_from([np.int16, np.float32]),
)
def test_a_stream_equals_the_timeline_for_any_chunks(tagger, rate, seconds, sizes, layout, dtype):
    waveform = noise(seconds + 1 / rate, rate=rate)
    if dtype is np.int16:
        waveform = (waveform * 2**15).astype(np.int16)
    chunks = cut_at(waveform, sizes)
    assert_stream_equals_timeline(tagger, chunks, waveform, rate, window_s=layout[0], hop_s=layout[1])


def test_chunks_may_be_single_samples_empty_tensors_or_dictionaries(tagger):
    waveform = noise(0.6)
    singles = [waveform[index : index + 1] for index in range(len(waveform))]
    assert_stream_equals_timeline(tagger, singles, waveform, RATE, window_s=0.3)
    chunks = [waveform[:0], torch.from_numpy(waveform[:5000]), torch.zeros(0), waveform[5000:, np.newaxis].T, []][:-1]
    assert_stream_equals_timeline(tagger, chunks, waveform, RATE, window_s=0.3)
    marked = [
        {"array": waveform[:700], "start": 0, "sampling_rate": RATE},
        {"array": waveform[700:700], "start": 700},
        {"array": waveform[700:], "start": 700},
    ]
    assert_stream_equals_timeline(tagger, marked, waveform, RATE, window_s=0.3)


def test_a_stream_takes_the_rate_of_its_first_chunk(tagger):
    waveform = noise(2, rate=44100)
    updates = list(tagger.stream([{"array": waveform, "sampling_rate": 44100}], window_s=1.0))
    expected = tagger.timeline(waveform, window_s=1.0, sampling_rate=44100)
    np.testing.assert_allclose([update.scores for update in updates], expected.scores, atol=1e-4, rtol=0)


def test_short_and_empty_streams(tagger):
    assert list(tagger.stream([])) == []
    assert list(tagger.stream([np.zeros(0, np.float32)] * 3, sampling_rate=48000)) == []
    for samples in (1, 100, 2399, 2400, 20_000):
        (update,) = assert_stream_equals_timeline(tagger, [noise(samples / RATE)], noise(samples / RATE), RATE)
        assert (update.start_s, update.end_s) == (0, samples / RATE)


def test_updates_carry_the_chosen_tags(tagger):
    for update in tagger.stream([noise(3)], labels=["class 5", "class 6"], threshold=0.0):
        assert {tag.index for tag in update.tags} == {5, 6}
        assert all(tag.score == update.scores[tag.index] for tag in update.tags)
        assert update.scores.shape == (13,)


def test_a_gap_or_another_rate_is_an_error_after_earlier_updates(tagger):
    first = {"array": noise(1), "start": 0, "sampling_rate": RATE}
    for second, message in [
        ({"array": noise(1), "start": 16_100}, "gap: the next sample is 16000, but the chunk starts at 16100"),
        ({"array": noise(1), "start": 0}, "gap"),
        ({"array": noise(1), "sampling_rate": 48000}, "changed its sampling rate from 16000 to 48000 Hz"),
    ]:
        updates = tagger.stream([first, second], window_s=1.0)
        assert next(updates).end_s == 1.0
        with pytest.raises(ValueError, match=message):
            next(updates)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.zeros((100, 2), np.float32), "shape"),
        (np.full(100, np.nan, np.float32), "NaN"),
        (np.zeros(100, np.complex64), "complex64"),
        (b"\0" * 100, "chunk of type bytes"),
        ("clip.wav", "chunk of type str"),
        ([0.0, 0.1], "chunk of type list"),
        (None, "chunk of type NoneType"),
        ({"samples": np.zeros(100)}, "chunk of type NoneType"),
    ],
)
def test_chunks_that_are_not_audio_are_refused(tagger, chunk, message):
    with pytest.raises(AudioError, match=message):
        list(tagger.stream([noise(0.1), chunk]))


@pytest.mark.parametrize(
    ("rate", "window_s", "hop_s", "delay_s"),
    [
        (16000, 2.0, 0.5, 0.0),
        (16000, 1.0, 0.9, 0.05),  # an overlap of 0.1 s, and a tail must have 0.15 s
        (16000, 1.0, 1.0, 0.15),
        (48000, 1.0, 0.25, 0.06),  # the delay of the resampler
        (44100, 1.0, 0.25, 0.06),
        (8000, 1.0, 0.25, 0.15),
    ],
)
def test_an_update_is_yielded_as_soon_as_its_audio_has_arrived(band_tagger, rate, window_s, hop_s, delay_s):
    waveform = noise(8, rate=rate)
    chunk = rate // 100
    sent = 0

    def chunks() -> Iterator[np.ndarray]:
        nonlocal sent
        for start in range(0, len(waveform), chunk):
            sent = start + chunk
            yield waveform[start:sent]

    count = 0
    for update in band_tagger.stream(chunks(), sampling_rate=rate, window_s=window_s, hop_s=hop_s):
        count += 1
        late_s = sent / rate - update.end_s
        assert late_s < delay_s + 0.01 + 1e-6
        assert late_s > delay_s - 0.01 - 1e-6 or rate != RATE or sent == len(waveform)
    assert count >= (8 - window_s) / hop_s


def test_a_long_stream_takes_no_more_memory_than_a_short_one(band_tagger):
    def peak(seconds: int) -> int:
        tracemalloc.start()
        chunks = (np.full(24_000, index % 7, np.float32) for index in range(2 * seconds))
        count = sum(1 for _ in band_tagger.stream(chunks, sampling_rate=48000, window_s=5.0, hop_s=2.5))
        assert count == seconds / 2.5 - 1
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    assert peak(200) < peak(20) + 500_000  # 180 s at 16 kHz are 11.5 MB


# Embeddings


def test_embeddings_are_the_pooled_output_of_the_encoder(tagger, clips):
    def pooled(waveform: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            inputs = tagger.feature_extractor(waveform, sampling_rate=RATE)
            return tagger.model.encoder(**inputs).pooler_output[0].numpy()

    clips = clips[::3]
    embeddings = tagger.embed(clips)
    assert embeddings.shape == (len(clips), 48) and embeddings.dtype == np.float32
    for clip, embedding in zip(clips, embeddings, strict=True):
        waveform = read_audio(clip)
        bounds = [(0, len(waveform))] if len(waveform) <= 161_919 else pieces(len(waveform), 160_000, 160_000)
        expected = np.average(
            [pooled(waveform[start:end]) for start, end in bounds],
            axis=0,
            weights=[end - start for start, end in bounds],
        )
        np.testing.assert_allclose(embedding, expected, atol=1e-4, rtol=0)
        np.testing.assert_allclose(tagger.embed(clip), embedding, atol=1e-4, rtol=0)
    assert tagger.embed([]).shape == (0, 48)
    assert tagger.embed([noise(1)]).shape == (1, 48)
    with pytest.raises(AudioError):
        tagger.embed([noise(1), b""])


# Loading


def test_other_kinds_of_models_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "audio-spectrogram-transformer"}')
    with pytest.raises(ValueError, match="'audio-spectrogram-transformer' model, not CED"):
        AudioTagger(tmp_path)
    with pytest.raises(OSError):
        AudioTagger(tmp_path / "missing")


@pytest.mark.parametrize("device", ["cuda:63", "gpu", "mps:9"])
def test_a_device_that_does_not_exist_gives_one_line(device):
    with pytest.raises(
        ValueError, match=f"device='{device}'`: expected cpu, or a device that PyTorch can use"
    ) as caught:
        AudioTagger(MICRO, engine="torch", device=device)
    assert "\n" not in str(caught.value)


def test_bfloat16_is_close_to_float32(tagger):
    for engine in ("torch", "openvino"):
        half = AudioTagger(MICRO, engine=engine, compute_type="bfloat16")
        assert half.compute_type == "bfloat16" and half.device == "cpu"
        waveforms = [noise(1), noise(12)]
        for tags, others in zip(tagger(waveforms, top_k=13), half(waveforms, top_k=13), strict=True):
            np.testing.assert_allclose(all_scores(half, others), all_scores(tagger, tags), atol=0.05)


def test_without_a_preprocessor_config_the_front_end_is_that_of_the_configuration(tmp_path):
    shutil.copytree(MICRO, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"f_max": 6000, "hop_size": 200}))
    with pytest.raises(ValueError, match="`hop_size` is 160 in preprocessor_config.json, but 200 in config.json"):
        AudioTagger.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config | {"f_max": 6000, "hop_size": 200}))
    described = AudioTagger(tmp_path)
    for front_end in (described.front_end, described.feature_extractor.front_end):
        assert (front_end.hop_size, front_end.f_max) == (200, 6000)
    assert AudioTagger(described.model).front_end.hop_size == 200
    own = AudioTagger(described.model, feature_extractor=CedFeatureExtractor(f_max=7000))
    assert own.front_end.f_max == 7000 and own.feature_extractor.f_max == 7000


RATES = {"drop_rate": 0.5, "attn_drop_rate": 0.5, "drop_path_rate": 0.5}


def training_model() -> CedForAudioClassification:
    """A model in training mode, except for one block."""
    model = CedForAudioClassification.from_pretrained(MICRO, **RATES).train()
    model.encoder.blocks[1].eval()
    return model


def state_of(model: CedForAudioClassification) -> tuple[list[bool], dict[str, torch.Tensor]]:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return [module.training for module in model.modules()], state


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_in_training_mode_is_run_in_evaluation_mode_and_not_changed(tagger, attention):
    model = training_model()
    model.set_attn_implementation(attention)
    modes, state = state_of(model)
    other = AudioTagger(model, num_threads=2)
    for inputs in (noise(1), [noise(1)] * 6, noise(25)):
        found, expected = other(inputs, top_k=13), tagger(inputs, top_k=13)
        for tags, others in zip(*([x] if x and isinstance(x[0], Tag) else x for x in (found, expected)), strict=True):
            np.testing.assert_allclose(all_scores(tagger, tags), all_scores(tagger, others), atol=1e-5)
    np.testing.assert_allclose(other.timeline(noise(5)).scores, tagger.timeline(noise(5)).scores, atol=1e-5)
    np.testing.assert_allclose(other.embed([noise(1)] * 3), tagger.embed([noise(1)] * 3), atol=1e-4)
    updates = other.stream([noise(5)])
    np.testing.assert_allclose([u.scores for u in updates], tagger.timeline(noise(5)).scores, atol=1e-5)
    modes_after, state_after = state_of(model)
    assert modes_after == modes and any(modes) and not all(modes)
    assert all(torch.equal(state_after[name], tensor) for name, tensor in state.items())


def test_the_owner_may_switch_modes_while_the_tagger_computes(tagger):
    model = CedForAudioClassification.from_pretrained(MICRO, **RATES)
    other = AudioTagger(model, num_threads=2, batch_size=2)
    model.encoder.register_forward_pre_hook(lambda *_: model.train(not model.training) and None)
    state = state_of(model)[1]
    expected = all_scores(tagger, tagger(noise(1), top_k=13))
    for result in other.tag([noise(1)] * 30, top_k=13):
        np.testing.assert_allclose(all_scores(other, result.tags), expected, atol=1e-5)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


def test_later_changes_of_the_weights_take_effect(micro_model):
    other = AudioTagger(micro_model.train())
    with torch.no_grad():
        micro_model.outputlayer[1].bias += 1
    micro_model.encoder.blocks[0].mlp.act = torch.nn.ReLU()
    expected = AudioTagger(copy.deepcopy(micro_model).eval())
    np.testing.assert_allclose(
        all_scores(other, other(noise(1), top_k=13)), all_scores(expected, expected(noise(1), top_k=13)), atol=1e-5
    )


def test_a_model_with_another_forward_is_computed_in_evaluation_mode_only(tagger, micro_model):
    encode = micro_model.encoder.forward
    micro_model.encoder.forward = lambda *args, **kwargs: encode(*args, **kwargs)
    other = AudioTagger(micro_model)
    assert [tag.label for tag in other(noise(1))] == [tag.label for tag in tagger(noise(1))]
    micro_model.train()
    with pytest.raises(ValueError, match=r"in training mode, and was compiled or given another `forward`: call `model"):
        other(noise(1))


@pytest.mark.parametrize("options", [{"num_threads": 0}, {"batch_size": 0}])
def test_invalid_numbers_are_refused(tagger, options):
    with pytest.raises(OptionError, match="expected a whole number from 1"):
        AudioTagger(tagger.model, **options)


@pytest.mark.parametrize("job", ["tag", "timelines"])
def test_on_audio_is_called_with_each_second_once(tagger, clips, job):
    told: list[float] = []
    results = list(getattr(tagger, job)(clips, on_audio=told.append))
    assert all(seconds > 0 for seconds in told) and len(told) > len(clips) / 2
    assert sum(told) == pytest.approx(sum(result.duration_s for result in results))

    alone: list[float] = []
    [result] = getattr(tagger, job)([RESOURCES / "misc_crow.flac"], on_audio=alone.append)
    assert alone == [result.duration_s]


def test_a_checkpoint_without_a_head_or_without_safetensors_gives_one_line(tmp_path):
    CedForAudioClassification.from_pretrained(MICRO).encoder.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"4 missing: outputlayer\.0\.weight.*$") as refusal:
        AudioTagger(tmp_path)
    assert "\n" not in str(refusal.value)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"^\S+ has no model.safetensors") as refusal:
        AudioTagger(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_single_input_in_place_of_a_list_is_refused(tagger):
    for single in (
        "night.flac",
        b"RIFF",
        Path("night.flac"),
        np.zeros(RATE),
        torch.zeros(RATE),
        {"array": np.zeros(9)},
    ):
        with pytest.raises(ValueError, match=r"expected a list of inputs"):
            next(tagger.tag(single))
        with pytest.raises(ValueError, match=r"expected a list of inputs; for a single one"):
            next(tagger.timelines(single))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": math.nan}, r"`threshold=nan`: expected a number"),
        ({"threshold": "0.3"}, r"`threshold='0.3'`: expected a number"),
        ({"threshold": 50}, r"`threshold=50`: expected a score from 0 to 1"),
        ({"threshold": 10**400}, r"`threshold=10+…`: expected a number"),
        ({"window_s": 10**400}, r"`window_s=10+…`: expected a number"),
        ({"labels": [1.5]}, r"expected names of classes"),
        ({"labels": [13]}, r"expected names of classes"),
        ({"exclude": "class 99"}, r"`exclude='class 99'`: expected a class of the model"),
        ({"top_k": 2.5}, r"`top_k=2.5`: expected a whole number from 1"),
        ({"window_s": "2"}, r"`window_s='2'`: expected a number"),
        ({"sampling_rate": 0}, r"0"),
    ],
)
def test_unusable_options_are_refused_in_one_line(tagger, options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        tagger(np.zeros(RATE, np.float32), **options)
    if "window_s" in options:
        with pytest.raises(ValueError, match=message):
            tagger.timeline(np.zeros(RATE, np.float32), **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "options",
    [
        {"thresholds": ["class 1"]},
        {"thresholds": {"class 1": math.nan}},
        {"min_duration_s": -1},
        {"merge_gap_s": math.nan},
    ],
)
def test_event_options_are_refused_before_any_work(tagger, options):
    with pytest.raises(ValueError, match=r"expected a number"):
        tagger.events("there is no such file.wav", **options)


def test_streams_accept_blocks_of_sound_cards_and_refuse_other_shapes(tagger):
    column = noise(3)[:, np.newaxis]
    [*updates] = tagger.stream([column[:20000], column[20000:]])
    np.testing.assert_allclose(np.stack([u.scores for u in updates]), tagger.timeline(column[:, 0]).scores, atol=1e-5)
    with pytest.raises(AudioError, match=r"chunk of shape \(100, 2\): expected mono.*chunk.mean\(axis=1\)"):
        next(tagger.stream([np.zeros((100, 2), np.float32)]))
    with pytest.raises(AudioError, match=r"chunk of shape \(\).*a list of chunks rather than one array"):
        next(tagger.stream(noise(3)))


def test_half_precision_waveforms_are_accepted(tagger):
    waveform = torch.from_numpy(noise(1)).to(torch.bfloat16)
    assert tagger(waveform) == tagger(waveform.float())


def test_a_missing_folder_is_reported(tmp_path):
    for path in (tmp_path / "none", "./there is none"):
        with pytest.raises(OSError, match="There is no folder"):
            AudioTagger(path)


def test_only_ced_models_are_accepted_by_taggers():
    with pytest.raises(ValueError, match="`model='Linear'`: expected a CED classification model"):
        AudioTagger(torch.nn.Linear(2, 2))


def test_a_timeline_stores_its_scores_only_once(tagger, monkeypatch):
    windows, classes = 20_000, 500
    monkeypatch.setattr(tagger, "_scores", lambda waveforms: np.zeros((len(waveforms), classes), np.float32))
    samples = np.zeros(round(0.01 * RATE) * windows, np.float32)
    tracemalloc.start()
    timeline = tagger.timeline(samples, window_s=0.16, hop_s=0.01)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(timeline.scores) > 0.99 * windows and peak < 1.6 * timeline.scores.nbytes


def test_a_tagger_names_itself_and_refuses_options_that_it_does_not_have(tagger: AudioTagger):
    assert repr(tagger) == f"<AudioTagger {tagger.name}, onnx float32 on cpu>"
    with pytest.raises(TypeError, match=r"AudioTagger\(\) got an unexpected keyword argument 'threads'"):
        AudioTagger(MICRO, threads=2)
    with pytest.raises(ValueError, match=r"`feature_extractor='CedFeatureExtractor'`: expected None for a folder"):
        AudioTagger(MICRO, feature_extractor=CedFeatureExtractor(f_max=7000))
    with pytest.raises(ValueError, match=r"`num_threads=1025`: expected at most 1024"):
        AudioTagger(MICRO, num_threads=1025)
    with pytest.raises(OSError, match=r"'' is not a model folder"):
        AudioTagger("")


@pytest.mark.parametrize(("given", "threads"), [("3", 3), ("3,2", 3), ("1024", 1024)])
def test_the_number_of_threads_is_that_of_omp(monkeypatch, given, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert AudioTagger(MICRO).num_threads == threads


@pytest.mark.parametrize("given", ["", "0", "-1", "x", "\u00b2", "1025", "9" * 5000])
def test_an_unusable_number_of_threads_of_omp_is_ignored(monkeypatch, given):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert 1 <= AudioTagger(MICRO).num_threads <= os.cpu_count()


def test_thresholds_may_be_given_by_index(tagger):
    waveform = noise(1)
    by_index, by_name = ({key: 0.2, "*": 1.0} for key in (3, tagger.labels[3]))
    assert tagger(waveform, threshold=by_index) == tagger(waveform, threshold=by_name)
    assert tagger.events(waveform, by_index) == tagger.events(waveform, by_name)


def test_a_negated_view_of_a_tensor_is_read_as_its_values(tagger):
    waveform = torch.from_numpy(noise(1))
    conjugate = torch.complex(torch.zeros_like(waveform), -waveform).conj().imag
    assert conjugate.is_neg() and tagger(conjugate) == tagger(waveform)


@pytest.mark.parametrize("rate", ["x", 0, -1, math.nan, True, 10**400, np.array([RATE])])
def test_impossible_rates_of_streams_are_refused(tagger, rate):
    for chunks, options in (([noise(1)], {"sampling_rate": rate}), ([{"array": noise(1), "sampling_rate": rate}], {})):
        with pytest.raises(ValueError, match=r"`sampling_rate=.*`: expected a number from 1000 to 10000000"):
            next(tagger.stream(chunks, **options))


def test_a_stream_does_not_end_at_a_first_chunk_of_none(tagger):
    with pytest.raises(AudioError, match="a chunk of type NoneType"):
        next(tagger.stream([None, noise(1)]))


def test_a_row_that_cannot_be_loaded_is_an_error_of_this_input_only(tagger):
    class Row(Mapping):
        def __getitem__(self, key: str) -> Any:
            raise RuntimeError("the shard\nis gone")

        def __iter__(self) -> Iterator[str]:
            return iter(["array"])

        def __len__(self) -> int:
            return 1

    waveform = noise(1)
    for inputs in ([Row()], [Row(), waveform]):
        broken, *others = tagger.tag(inputs)
        assert (broken.name, str(broken.error)) == ("<row>", "<row>: cannot be loaded: the shard is gone")
        assert [other.tags for other in others] == [tagger(waveform)] * (len(inputs) - 1)
    with pytest.raises(AudioError, match="cannot be loaded: the shard is gone"):
        tagger(Row())
