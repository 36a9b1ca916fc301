# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Events from scores over time, of recordings and of streams: smoothing, thresholds, merging."""

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from ced_model import AUDIOSET_LABELS, AudioTagger, Timeline
from ced_model.events import Event, event_rules, find_events, smoothed, smoothing_windows
from ced_model.log_mel import SharedFrames, log_mel
from ced_model.scheduling import cut_windows
from ced_model.streaming import smooth_stream, stream_events

LABELS = ["a", "b", "Silence"]


def timeline(*columns, hop_s=1.0, window_s=2.0):
    """Windows of 2 s every second; classes without scores have 0."""
    scores = np.zeros((len(columns[0]), len(LABELS)), np.float32)
    for index, column in enumerate(columns):
        scores[:, index] = column
    starts = np.arange(len(scores)) * hop_s
    return Timeline(scores, starts, starts + window_s, LABELS, starts[-1] + window_s)


def spans(events):
    return [(event.onset_s, event.offset_s) for event in events]


def test_an_event_begins_at_one_threshold_and_ends_at_another():
    found = timeline([0, 0.4, 0.6, 0.4, 0.3, 0.1, 0.4, 0])
    assert spans(found.events(0.5)) == [(2.5, 3.5)]
    assert spans(found.events(0.5, off_threshold=0.3)) == [(2.5, 5.5)]
    assert spans(found.events({"a": {"threshold": 0.5, "off_threshold": 0.35}})) == [(2.5, 4.5)]
    assert found.events(0.5, off_threshold=0.3)[0].peak == np.float32(0.6)


def test_smoothing_removes_short_events_and_short_gaps():
    found = timeline([0, 0.9, 0, 0, 0.9, 0.9, 0, 0.9, 0.9, 0])
    assert spans(found.events(0.5)) == [(1.5, 2.5), (4.5, 6.5), (7.5, 9.5)]
    assert spans(found.events(0.5, smooth_s=3)) == [(4.5, 9.5)]
    assert spans(found.events(0.25, smooth_s=3, smoothing="mean")) == [(0.0, 11.0)]
    assert found.events(0.5, smooth_s=1) == found.events(0.5)  # not longer than a hop


@pytest.mark.parametrize(("smooth_s", "hop_s", "windows"), [(0, 1, 1), (1, 1, 1), (2, 1, 3), (3, 1, 3), (0.5, 0.1, 5)])
def test_smoothing_takes_the_least_odd_number_of_windows(smooth_s, hop_s, windows):
    assert smoothing_windows(smooth_s, hop_s) == windows


@pytest.mark.parametrize("how", ["median", "mean"])
def test_smoothed_scores_are_the_median_or_mean_of_the_windows_around(how, monkeypatch):
    scores = np.random.default_rng(0).random((9, 2), dtype=np.float32)
    padded = np.concatenate([scores[:1], scores[:1], scores, scores[-1:], scores[-1:]])
    expected = [getattr(np, how)(padded[index : index + 5], axis=0) for index in range(9)]
    np.testing.assert_allclose(smoothed(scores, 5, how), expected, atol=1e-6)
    monkeypatch.setattr("ced_model.events.BLOCK", 25)  # in several blocks
    np.testing.assert_allclose(smoothed(scores, 5, how), expected, atol=1e-6)
    np.testing.assert_allclose(smoothed(scores[:, 0], 5, how), np.array(expected)[:, 0], atol=1e-6)


def test_long_events_are_cut_and_short_ones_left_out_after_merging():
    found = timeline([0.9, 0.8, 0.7, 0, 0.6, 0, 0, 0, 0.5, 0])
    assert found.events(0.5, max_duration_s=2) == [
        (0.0, 2.0, "a", np.float32(0.9)),
        (2.0, 3.5, "a", np.float32(0.8)),
        (4.5, 5.5, "a", np.float32(0.6)),
        (8.5, 9.5, "a", np.float32(0.5)),
    ]
    assert spans(found.events(0.5, 2)) == [(0.0, 3.5)]
    assert spans(found.events(0.5, 2, 1)) == [(0.0, 5.5)]
    assert spans(found.events({"a": {"threshold": 0.5, "min_duration_s": 1.5}}, merge_gap_s=3)) == [(0.0, 9.5)]


def test_silence_is_left_out_unless_it_is_given():
    found = timeline([0.9], [0.1], [0.8])
    assert [event.label for event in found.events(0.05)] == ["a", "b"]
    assert [event.label for event in found.events(0.05, labels="silence,b")] == ["Silence", "b"]
    assert [event.label for event in found.events({"Silence": 0.5})] == ["Silence"]
    assert [event.label for event in found.events({"b": 0.5, "*": 0.5})] == ["a"]
    assert [event.label for event in found.events({"Silence": 0.7, "*": 0.95})] == ["Silence"]
    assert [event.label for event in found.events(0.05, exclude=["a"])] == ["b"]


def test_a_group_is_one_event_with_the_highest_score():
    scores = np.zeros((4, 527), np.float32)
    for window, name in enumerate(["Bark", "Dog", "Howl"]):
        scores[window, AUDIOSET_LABELS.index(name)] = 0.6 + window / 10
    found = Timeline(scores, np.arange(4.0), np.arange(4.0) + 2, AUDIOSET_LABELS, 5.0)
    assert found.events({"Dog...": 0.5}) == [(0.0, 3.5, "Dog...", np.float32(0.8))]
    assert found.events(labels=["Dog..."], label_map={"Dog...": "hund"}) == [(0.0, 3.5, "hund", np.float32(0.8))]
    assert found.events({"hund": 0.75}, label_map={"Dog...": "hund"}) == [(2.5, 3.5, "hund", np.float32(0.8))]
    assert {event.label for event in found.events({"Dog...": 0.5, "*": 0.65})} == {"Dog...", "Dog", "Howl"}
    # Without a threshold, a group has the lowest one of its classes.
    assert spans(found.events({"Bark": 0.7, "Howl": 0.9, "Speech": 0.1}, labels="Dog...")) == [(1.5, 3.5)]


def test_selected_columns_are_those_of_classes_and_groups():
    found = Timeline(np.eye(527, dtype=np.float32), np.arange(527.0), np.arange(527.0) + 2, AUDIOSET_LABELS, 528.0)
    picked = found.select("Dog...,Speech")
    assert picked.labels == ["Speech", "Dog..."] and picked.scores.shape == (527, 2)
    assert picked.scores.sum(axis=0).tolist() == [1, 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"off_threshold": 0.6}, r"`off_threshold=0.6`: expected at most the threshold, which is 0.5"),
        ({"off_threshold": "x"}, r"`off_threshold='x'`: expected a number"),
        ({"thresholds": {"a": {"threshold": 0.5, "off_threshold": 0.6}}}, r"expected at most the threshold"),
        ({"thresholds": {"a": {"on": 0.5}}}, r"`thresholds\['a'\]='on'`: expected one of threshold"),
        ({"thresholds": {"a": 0.5}, "labels": "b"}, r"expected a threshold of 'b', or '\*' for all"),
        ({"thresholds": {"c": 0.5}}, r"expected a class of the model"),
        ({"thresholds": {"a": {"threshold": None}}}, r"expected a number"),
        ({"smooth_s": float("inf")}, r"expected at most 3600 seconds"),
        ({"thresholds": {"a": {"threshold": 0.5, "smooth_s": 1e9}}}, r"expected at most 3600 seconds"),
        ({"smooth_s": -1}, r"`smooth_s=-1`: expected a number from 0"),
        ({"smoothing": "max"}, r"`smoothing='max'`: expected median or mean"),
        ({"max_duration_s": 0}, r"`max_duration_s=0`: expected at least 0.1 seconds"),
        ({"max_duration_s": 1e-9}, r"`max_duration_s=1e-09`: expected at least 0.1 seconds"),
        ({"thresholds": 10**400}, r"`thresholds=1000.*…`: expected a number"),
        ({"label_map": ["a"]}, r"expected a mapping"),
        ({"label_map": {"a": 1}}, r"expected a name"),
    ],
)
def test_invalid_options_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        timeline([0.9]).events(**options)
    assert "\n" not in str(refusal.value)


def plain_events(scores, segments, rule):
    """Reference implementation of `find_events` for one class, window by window."""
    spans, on = [], False
    for score, (start_s, end_s) in zip(scores, segments, strict=True):
        on = score >= rule.threshold or (on and score >= rule.off_threshold)
        if on and spans and start_s - spans[-1][1] <= rule.merge_gap_s + 1e-6:
            spans[-1][1] = end_s
        elif on:
            spans.append([start_s, end_s])
    found = []
    for onset_s, offset_s in spans:
        if offset_s - onset_s >= rule.min_duration_s - 1e-6:
            while rule.max_duration_s is not None and offset_s - onset_s > rule.max_duration_s + 1e-6:
                found.append((onset_s, onset_s + rule.max_duration_s))
                onset_s += rule.max_duration_s
            found.append((onset_s, offset_s))
    return found


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(0, 1, width=16), min_size=1, max_size=40),
    st.sampled_from([0.1, 0.137, 0.5, 1.0, 2.0]),
    st.sampled_from([0.5, 0.7]),
    st.sampled_from([0.1, 0.3, 0.5]),
    *[st.sampled_from([0.0, 0.2, 1.0, 3.0])] * 2,
    st.sampled_from([None, 0.3, 1.0, 3.5]),
)
def test_events_are_those_of_a_plain_loop(scores, hop_s, threshold, off_threshold, min_s, gap_s, max_s):
    found = timeline(scores, hop_s=hop_s)
    (rule,) = event_rules(
        LABELS,
        {"a": threshold},
        off_threshold=off_threshold,
        min_duration_s=min_s,
        merge_gap_s=gap_s,
        max_duration_s=max_s,
    )
    events = find_events(found.scores, found.segments(), hop_s, [rule])
    np.testing.assert_allclose(spans(events), plain_events(found.scores[:, 0], found.segments(), rule), atol=1e-6)
    assert all(off_threshold <= event.peak for event in events) or gap_s


def test_a_class_with_only_other_settings_has_the_common_threshold():
    found = timeline([0.6, 0.6, 0, 0, 0.6, 0.6, 0.6, 0.6], [0.9] * 8)
    assert [event.label for event in found.events({"a": {"min_duration_s": 3}})] == ["a"]
    assert found.events({"a": {"min_duration_s": 3}}) == found.events({"a": {"threshold": 0.5, "min_duration_s": 3}})


# Streams

RULE = st.fixed_dictionaries(
    {"threshold": st.sampled_from([0.3, 0.5, 0.7])},
    optional={
        "off_threshold": st.sampled_from([0.2, 0.3]),
        "smooth_s": st.sampled_from([0, 2, 3, 5]),
        "smoothing": st.sampled_from(["median", "mean"]),
        "min_duration_s": st.sampled_from([0, 1.5, 3]),
        "merge_gap_s": st.sampled_from([0, 1, 2.5]),
        "max_duration_s": st.sampled_from([3.0, 3.5, 10]),
    },
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 1, width=16), min_size=2, max_size=2), min_size=3, max_size=30),
    st.dictionaries(st.sampled_from(["a", "b"]), RULE, min_size=1),
    st.sampled_from([0.5, 1.0, 2.0]),
)
def test_events_of_a_stream_equal_those_of_the_recording(scores, thresholds, hop_s):
    scores = np.array(scores, np.float32)
    starts = np.arange(len(scores)) * hop_s
    rules = event_rules(["a", "b"], thresholds)
    found = Timeline(scores, starts, starts + 2, ["a", "b"], starts[-1] + 2)
    updates = zip(starts, starts + 2, scores, strict=True)
    streamed = sorted(stream_events(updates, hop_s, rules))
    expected = sorted(find_events(scores, found.segments(), hop_s, rules))
    assert [event[:3] for event in streamed] == [event[:3] for event in expected]
    np.testing.assert_allclose([event.peak for event in streamed], [event.peak for event in expected], atol=1e-6)


def test_events_of_a_stream_are_yielded_when_they_end_and_pieces_before():
    seen = []

    def updates():
        for window in range(40):
            seen.append(window)
            yield float(window), window + 2.0, np.array([0.9 if window < 30 else 0, 0], np.float32)

    def first(**options):
        seen.clear()
        event = next(stream_events(updates(), 1.0, event_rules(["a", "b"], 0.5, **options)))
        return event, len(seen)

    assert first() == (Event(0.0, 30.5, "a", pytest.approx(0.9)), 32)
    assert first(merge_gap_s=3)[1] == 35
    assert first(smooth_s=5)[1] == 34  # 2 hops later
    assert first(max_duration_s=4) == (Event(0.0, 4.0, "a", pytest.approx(0.9)), 5)


@pytest.mark.parametrize(("windows", "delay"), [(1, 0), (3, 1), (7, 3)])
def test_smoothing_delays_a_stream_by_half_its_windows(windows, delay):
    scores = np.random.default_rng(0).random((20, 3), dtype=np.float32)
    taken = []

    def updates():
        for index, row in enumerate(scores):
            taken.append(index)
            yield float(index), index + 2.0, row

    found = []
    for update in smooth_stream(updates(), windows, "mean"):
        assert len(taken) == min(len(found) + 1 + delay, 20)
        found.append(update)
    assert [start for start, _, _ in found] == list(range(20))
    np.testing.assert_allclose([row for _, _, row in found], smoothed(scores, windows, "mean"), atol=1e-6)


# Real recordings


@pytest.fixture(scope="module")
def tagger():
    return AudioTagger()


@pytest.fixture(scope="module")
def scene(resources, tmp_path_factory):
    """A burp at 3 s and a tabla from 10 s to 15 s, in 20 s of faint noise."""
    waveform = np.random.default_rng(0).normal(scale=1e-4, size=20 * 16000).astype(np.float32)
    for name, onset_s in (("misc_burp.flac", 3), ("loop_tabla.flac", 10)):
        samples, rate = soundfile.read(resources / name, dtype="float32", always_2d=True)
        sound = soxr.resample(samples.mean(axis=1), rate, 16000)[: 16000 * 5]
        place = slice(onset_s * 16000, onset_s * 16000 + len(sound))
        waveform[place] += sound
    path = tmp_path_factory.mktemp("scene") / "scene.wav"
    soundfile.write(path, waveform, 16000)
    return path


def test_a_short_call_in_a_clip_padded_with_silence_is_found_by_the_maximum(tagger, resources):
    sound, rate = soundfile.read(resources / "misc_burp.flac", dtype="float32")
    clip = {"array": np.concatenate([np.zeros(4 * rate), sound, np.zeros(5 * rate)]), "sampling_rate": rate}
    (mean,) = tagger(clip, labels="Burping, eructation")
    (highest,) = tagger(clip, labels="Burping, eructation", average="max")
    assert mean.score < 0.05 and highest.score > 0.3


def test_sounds_are_found_at_their_times(tagger, scene):
    options = {"hop_s": 0.1, "smooth_s": 0.5, "merge_gap_s": 1, "min_duration_s": 0.3}
    burp, music = tagger.events(scene, {"Burping, eructation": 0.2, "Music...": 0.4}, **options)
    assert (burp.label, music.label) == ("Burping, eructation", "Music...")
    assert 1.9 <= burp.onset_s <= 3.3 and 3.3 <= burp.offset_s <= 5
    assert 8.9 <= music.onset_s <= 11 and 14 <= music.offset_s <= 16.1


def test_events_of_a_stream_of_real_audio_equal_those_of_the_file(tagger, scene):
    waveform, rate = soundfile.read(scene, dtype="float32")
    options = {"hop_s": 0.5, "smooth_s": 1.5, "off_threshold": 0.2, "merge_gap_s": 1}
    chunks = (waveform[start : start + 3001] for start in range(0, len(waveform), 3001))
    streamed = sorted(tagger.stream_events(chunks, 0.3, sampling_rate=rate, **options))
    expected = sorted(tagger.events(scene, 0.3, **options))
    assert [event[:3] for event in streamed] == [event[:3] for event in expected] and expected
    updates = list(
        tagger.stream([waveform], sampling_rate=rate, hop_s=0.5, smooth_s=1.5, threshold={"Percussion": 0.1})
    )
    plain = tagger.timeline(scene, hop_s=0.5)
    np.testing.assert_allclose([u.scores for u in updates], smoothed(plain.scores, 3, "median"), atol=1e-5)
    assert {tag.label for update in updates for tag in update.tags} == {"Percussion"}


# Fine hops


@pytest.mark.parametrize(
    ("window", "hop"), [(32000, 1600), (32000, 160), (8000, 4000), (32000, 16000), (24001, 320), (2560, 160)]
)
def test_shared_frames_give_the_same_spectrograms_as_single_windows(window, hop):
    waveform = np.random.default_rng(0).normal(scale=0.1, size=48000 + hop).astype(np.float32)
    waveform[20000:30000] *= 1e-9  # far below each window's own maximum
    shared, front_end = SharedFrames(AudioTagger().front_end), AudioTagger().front_end
    for cut in cut_windows([waveform], window, hop, 2400, 161919):
        if cut.start % 160 == 0:
            np.testing.assert_allclose(
                shared.log_mel(cut.start, cut.waveform), log_mel(cut.waveform, front_end), atol=1e-3, rtol=0
            )


def test_each_frame_of_overlapping_windows_is_computed_once(monkeypatch):
    import ced_model.log_mel as module

    computed, compute = [], module.decibels_of

    def counted(frames, front_end):
        computed.append(len(frames))
        return compute(frames, front_end)

    monkeypatch.setattr(module, "decibels_of", counted)
    AudioTagger().timeline(np.random.default_rng(0).normal(size=10 * 16000).astype(np.float32), hop_s=0.1)
    assert len(computed) >= 81 and sum(computed) < 1001 + 5 * len(computed)


@pytest.mark.parametrize("hop_s", [0.1, 0.37])
def test_a_timeline_with_short_hops_equals_its_windows_one_by_one(tagger, scene, hop_s):
    waveform, _ = soundfile.read(scene, dtype="float32")
    waveform = waveform[8 * 16000 : 12 * 16000]
    found = tagger.timeline(waveform, hop_s=hop_s)
    for index in (0, 1, len(found.scores) // 2, len(found.scores) - 1):
        start, end = round(found.start_s[index] * 16000), round(found.end_s[index] * 16000)
        alone = sorted(tagger(waveform[start:end], top_k=527), key=lambda tag: tag.index)
        np.testing.assert_allclose(found.scores[index], [tag.score for tag in alone], atol=1e-5, rtol=0)
