# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Event-based and segment-based metrics, and files of strong labels."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from ced_model import AudioTagger, Event
from ced_model.event_evaluation import compare_events, evaluate_events, match_files
from ced_model.event_scores import ScoringOptions, most_pairs, score_events
from ced_model.messages import OptionError, UsageError
from ced_model.strong_labels import read_event_file, read_strong_labels, strong_clips

GOLDEN = json.loads((Path(__file__).parent / "golden" / "event_scores.json").read_text())


def events_of(by_file: dict[str, list[Any]]) -> dict[str, list[Event]]:
    return {file: [Event(onset, offset, label, 1.0) for onset, offset, label in each] for file, each in by_file.items()}


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_all_figures_are_those_of_sed_eval(case: dict[str, Any]) -> None:
    references, predictions = events_of(case["references"]), events_of(case["predictions"])
    found = score_events(references, predictions, labels=["Bird", "Dog", "Speech"], **case["options"])
    for kind, expected in case["sed_eval"].items():
        table = getattr(found, kind)
        pairs = [(table.micro, expected["micro"]), (table.macro, expected["macro"])]
        pairs += [(table.per_class[label], figures) for label, figures in expected["per_class"].items()]
        for figures, wanted in pairs:
            wanted = [math.nan if number is None else number for number in wanted]
            assert list(figures) == pytest.approx(wanted, abs=1e-12, nan_ok=True)


@settings(max_examples=60)
@given(st.integers(0, 12), st.integers(0, 12), st.sampled_from([0.05, 0.2, 0.5, 0.9]), st.integers(0, 2**32 - 1))
def test_the_number_of_matched_events_is_maximal(rows: int, columns: int, share: float, seed: int) -> None:
    hits = np.random.default_rng(seed).random((rows, columns)) < share
    best = maximum_bipartite_matching(csr_matrix(hits)) if hits.size else np.zeros(0)
    assert most_pairs(hits) == (best >= 0).sum()


def test_a_long_augmenting_path_of_events_is_matched() -> None:
    hits = np.eye(3000, dtype=bool) | np.eye(3000, k=-1, dtype=bool)
    assert most_pairs(hits[:, ::-1]) == 3000


def test_other_classes_are_ignored_and_recordings_may_have_no_references() -> None:
    references = {"a": [Event(0, 1, "Dog", 1.0)], "silent": []}
    predictions = {"a": [Event(0, 1, "Dog", 1.0), Event(0, 1, "Cat", 1.0)], "silent": [Event(3, 4, "Dog", 1.0)]}
    found = score_events(references, predictions)
    assert found.event_based.micro == pytest.approx((2 / 3, 0.5, 1.0))
    assert list(found.event_based.per_class) == ["Dog"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("t_collar", 0),
        ("t_collar", math.nan),
        ("percentage_of_length", 50),
        ("percentage_of_length", -0.1),
        ("time_resolution", 0),
        ("time_resolution", math.inf),
        ("empty_system_output_handling", "zero"),
    ],
)
def test_invalid_options_are_refused(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"`{name}="):
        ScoringOptions(**{name: value})


# Files of strong labels


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Two recordings of 4 s."""
    for name in ("a.wav", "b.flac"):
        soundfile.write(tmp_path / name, np.random.default_rng(0).normal(scale=0.1, size=64000), 16000)
    return tmp_path


def written(folder: Path, text: str, name: str = "labels.tsv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


HEADER = "filename\tonset\toffset\tevent_label\n"
ROWS = [("a.wav", [(0.5, 1.0, "Dog"), (1.5, 2.25, "Male speech, man speaking")]), ("b.flac", [])]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("header.tsv", HEADER + "a.wav\t1.5\t2.25\tMale speech, man speaking\na.wav\t0.5\t1\tDog\nb.flac\t\t\t\n"),
        ("headerless.txt", "a.wav\t0.5\t1\tDog\na.wav\t1.5\t2.25\tMale speech, man speaking\nb.flac\n"),
        ("bom.tsv", "\ufeff" + HEADER + "a.wav\t0.5\t1\tDog\r\n\r\na.wav\t1.5\t2.25\tMale speech, man speaking\r\n"
         "b.flac\t\t\t"),
        ("ced.csv", "file,duration_s,onset_s,offset_s,label,peak,error\na.wav,4,0.5,1.0,Dog,0.9,\n"
         'a.wav,4,1.5,2.25,"Male speech, man speaking",0.9,\nb.flac,4,,,,,\nc.wav,,,,,,broken\n'),
        ("semicolons.csv", "event_label;offset;onset;filename;rater\nDog;1;0.5;a.wav;x\n"
         "Male speech, man speaking;2.25;1.5;a.wav;y\n;;;b.flac;y\n"),
        ("ced.json", '[{"file": "a.wav", "duration_s": 4.0, "events": [{"onset_s": 0.5, "offset_s": 1.0,'
         ' "label": "Dog", "peak": 0.9}, {"onset_s": 1.5, "offset_s": 2.25, "label": "Male speech, man speaking",'
         ' "peak": 0.9}]},'
         ' {"file": "b.flac", "duration_s": 4.0, "events": []}]'),
    ],
)  # fmt: skip
def test_strong_labels_are_read_from_common_tables(audio: Path, name: str, text: str) -> None:
    recordings = read_strong_labels(written(audio, text, name))
    assert [(each.name, [tuple(event) for event in each.events]) for each in recordings] == ROWS
    assert [each.duration_s for each in recordings] == [4.0, 4.0]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.wav\t1\t4.5\tDog", "line 3: the offset 4.5 is after the end of a.wav, 4 s"),
        ("a.wav\t-0.1\t1\tDog", "line 3: the onset -0.1 is negative"),
        ("a.wav\t1\t1\tDog", "line 3: the onset 1 is not before the offset 1"),
        ("a.wav\t2\t1\tDog", "line 3: the onset 2 is not before the offset 1"),
        ("c.wav\t1\t2\tDog", "line 3: .*c.wav: there is no such file"),
        ("labels.tsv\t1\t2\tDog", "line 3: .*labels.tsv: "),
        ("a.wav\t1\t2\t", "line 3: the class is missing"),
        ("a.wav\t1\t2\t  ", "line 3: the class is missing"),
        ("\t1\t2\tDog", "line 3: the file name is missing"),
        ("a.wav\t1\t\tDog", "line 3: the offset is missing"),
        ("a.wav\t1\t2", r"line 3: expected 4 cells as in the header, separated by tabs, found 3"),
        ("a.wav\t1\t2\tDog\tx", "line 3: expected 4 cells as in the header, separated by tabs, found 5"),
        ("a.wav\t1,5\t2,5\tDog", "line 3: the onset '1,5' is not a number of seconds: write a point, not a comma"),
        ("a.wav\t1\tnan\tDog", "line 3: the offset 'nan' is not a number of seconds"),
        ("a.wav\t1\tinf\tDog", "line 3: the offset 'inf' is not a number of seconds"),
        ("a.wav\t0:01\t2\tDog", "line 3: the onset '0:01' is not a number of seconds"),
        ("b.flac\t0.5\t1.0\tDog", r"line 3: 'Dog' from 0.5 s appears twice \(line 2\)"),
        ("b.flac\t0.9\t1.1\tdog", r"line 3: 'dog' from 0.9 s overlaps another event of the class: .* \(line 2\)"),
        ("b.flac\t0.1\t3\tDog", r"line 3: 'Dog' from 0.5 s overlaps another event of the class: .* \(line 2\)"),
    ],
)  # fmt: skip
def test_invalid_labels_are_refused_with_line_and_reason(audio: Path, row: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"labels.tsv, {reason}"):
        read_strong_labels(written(audio, f"{HEADER}b.flac\t0.5\t1\tDog\n{row}\n"))


@pytest.mark.parametrize("column", HEADER.split())
def test_a_column_that_appears_twice_is_refused(audio: Path, column: str) -> None:
    text = HEADER.strip() + f"\t{column.title()}\na.wav\t1\t2\tDog\t3\n"
    with pytest.raises(UsageError, match=rf"labels.tsv, line 1: expected one column {column}, found several named"):
        read_strong_labels(written(audio, text))


def test_other_lines_with_problems_are_listed(audio: Path) -> None:
    text = HEADER + "a.wav\t1\t2\tDog\na.wav\t3\t2\tDog\na.wav\tx\t2\tDog\na.wav\t3\t2\t\n"
    with pytest.raises(UsageError, match="line 3: the onset 3 is not before the offset 2; 2 more: line 4, 5$"):
        read_strong_labels(written(audio, text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there are no events"),
        (HEADER, "there are no events"),
        ("filename\tonset\tevent_label\n", "line 1: expected the columns .*; there is no offset"),
        ("name,begin,finish,what\n", "line 1: the onset 'begin' is not a number"),
        ("a.wav\t0,5\t1,5\tDog\n", "line 1: the onset '0,5' is not a number of seconds: write a point"),
    ],
)
def test_invalid_tables_are_refused(audio: Path, text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"labels.tsv[:,] {reason}"):
        read_strong_labels(written(audio, text))


def test_offsets_may_be_rounded_up_and_events_may_touch(audio: Path) -> None:
    (recording,) = read_strong_labels(written(audio, "a.wav\t3.0\t4.1\tDog\na.wav\t2.0\t3.0\tDog\n"))
    assert len(recording.events) == 2


def test_results_may_overlap(audio: Path) -> None:
    path = written(audio, "a.wav\t1\t3\tDog\na.wav\t2\t4\tDog\n")
    assert len(read_event_file(path, is_reference=False)["a.wav"]) == 2


def test_labels_for_training_are_spelled_as_in_the_model(audio: Path) -> None:
    recordings = read_strong_labels(written(audio, HEADER + "a.wav\t1\t3\t/m/0bt9lr\nb.flac\t1\t2\tmy_owl\n"))
    clips = strong_clips(recordings, model_labels=["Speech", "Dog"])
    assert clips.labels == ["Dog", "my_owl"] and clips.targets.tolist() == [[1, 0], [0, 1]]
    assert clips.select([1]).events == [[(1.0, 2.0, 1)]]
    with pytest.raises(UsageError, match="labels.tsv, line 3: 'my_owl' is not among the 1 class: 'Dog'"):
        strong_clips(recordings, labels=["Dog"], model_labels=["Speech", "Dog"])


# Comparing


def test_recordings_are_matched_by_the_end_of_their_paths() -> None:
    files = ["/data/x/a.wav", "/data/y/a.wav", "b.wav"]
    assert match_files(["x/a.wav", "audio/b.wav", "c.wav"], files) == {"x/a.wav": files[0], "audio/b.wav": "b.wav"}
    with pytest.raises(UsageError, match="a.wav of the labels may be .*: give longer paths"):
        match_files(["a.wav"], files)


def test_a_model_and_a_file_of_its_events_have_the_same_metrics(resources: Path, tmp_path: Path) -> None:
    tagger = AudioTagger(num_threads=1)
    text = "misc_burp.flac\t0\t0.8\tburping, eructation\nloop_tabla.flac\t0\t4\t/m/04rlf\nmisc_crow.flac\n"
    labels = written(tmp_path, text)
    options: dict[str, Any] = {"hop_s": 0.5, "window_s": 1.0}
    found = evaluate_events(tagger, labels, audio_root=resources, thresholds=0.1, **options)
    assert found.labels == ["Burping, eructation", "Music"] and found.num_recordings == 3 and found.psds is None
    lines = [HEADER]
    for name in ("misc_burp", "loop_tabla", "misc_crow"):
        for event in tagger.events(resources / f"{name}.flac", 0.1, **options):
            lines.append(f"audio/{name}.flac\t{event.onset_s}\t{event.offset_s}\t{event.label}\n")
    compared = compare_events(written(tmp_path, "".join(lines), "found.tsv"), labels)
    assert compared.labels == ["Music", "burping, eructation"]
    assert compared.scores.event_based.micro == found.scores.event_based.micro
    assert found.scores.segment_based.micro.f_measure > 0.3


def test_an_unknown_class_is_reported_with_its_line(audio: Path) -> None:
    labels = written(audio, HEADER + "a.wav\t1\t2\tDgo\n")
    with pytest.raises(
        UsageError, match="labels.tsv, line 2: 'Dgo': expected a class of the model; did you mean 'Dog'"
    ):
        evaluate_events(AudioTagger(num_threads=1), labels)
