# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`pipeline("audio-classification")` of a CED model accepts all kinds of inputs, with the scores of AudioTagger."""

import io
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas
import peft
import pytest
import soundfile
import torch
import transformers
from transformers import AutoConfig, AutoFeatureExtractor, AutoProcessor, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from ced_model import AudioTagger, CedAudioClassificationPipeline, CedFeatureExtractor, CedForAudioClassification
from ced_model.results import Tag

RECORDINGS = ["guit_e_slide", "loop_tabla", "misc_burp", "misc_crow", "perc_bell", "perc_snap"]


@pytest.fixture(scope="module")
def micro(golden: Path) -> str:
    return str(golden / "micro_hub")


@pytest.fixture(scope="module")
def pipe(micro: str) -> Any:
    return pipeline("audio-classification", model=micro)


@pytest.fixture(scope="module")
def tagger(micro: str) -> AudioTagger:
    return AudioTagger(micro)


@pytest.fixture(scope="module")
def paths(resources: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Recordings of mixed lengths, rates and channels; one is longer than the longest input of the model."""
    long = tmp_path_factory.mktemp("clips") / "long.wav"
    soundfile.write(long, np.random.default_rng(0).normal(scale=0.1, size=(25 * 8000, 2)), 8000)
    return [*(str(resources / f"{name}.flac") for name in RECORDINGS), str(long)]


@pytest.fixture(scope="module")
def url(resources: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(resources))
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def assert_tags(found: list[dict[str, Any]], tags: list[Tag], atol: float = 1e-5) -> None:
    assert {tag["label"]: tag["score"] for tag in found} == pytest.approx(
        {tag.label: tag.score for tag in tags}, abs=atol
    )
    assert [tag["score"] for tag in found] == sorted((tag["score"] for tag in found), reverse=True)


def test_the_pipeline_is_that_of_ced(pipe: Any) -> None:
    assert type(pipe) is CedAudioClassificationPipeline
    assert isinstance(pipe, transformers.AudioClassificationPipeline)
    assert type(pipe.model) is CedForAudioClassification and type(pipe.feature_extractor) is CedFeatureExtractor
    assert pipe.model.input_modalities == ("audio",)


SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
OTHERS = {
    "AST": (transformers.ASTConfig(**SMALL), "ASTForAudioClassification", transformers.ASTFeatureExtractor()),
    "wav2vec2": (
        transformers.Wav2Vec2Config(
            **SMALL, conv_dim=(8,), conv_kernel=(10,), conv_stride=(5,), num_conv_pos_embedding_groups=1
        ),
        "Wav2Vec2ForSequenceClassification",
        transformers.Wav2Vec2FeatureExtractor(),
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_pipelines_of_other_models_are_untouched(other: str, tmp_path: Path) -> None:
    config, name, extractor = OTHERS[other]
    getattr(transformers, name)(config).save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    own = pipeline("audio-classification", model=str(tmp_path))
    assert type(own) is transformers.AudioClassificationPipeline
    assert len(own(np.zeros(16000, np.float32), top_k=2)) == 2


# --- Inputs ----------------------------------------------------------------------------------------------------------


def read(path: str) -> tuple[np.ndarray, int]:
    """A recording as `(channels, samples)`, and its sampling rate."""
    samples, sampling_rate = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.T, sampling_rate


INPUTS: dict[str, Callable[[str], Any]] = {
    "path": str,
    "Path": Path,
    "bytes": lambda path: Path(path).read_bytes(),
    "file": lambda path: io.BytesIO(Path(path).read_bytes()),
    "array": lambda path: {"array": read(path)[0], "sampling_rate": read(path)[1]},
    "raw": lambda path: {"raw": torch.from_numpy(read(path)[0]), "sampling_rate": read(path)[1]},
    "decoded row": lambda path: {"path": path, "array": read(path)[0], "sampling_rate": read(path)[1]},
    "row of bytes": lambda path: {"bytes": Path(path).read_bytes(), "path": "elsewhere.flac"},
    "row of a path": lambda path: {"bytes": None, "path": path},
    "AudioDecoder of a row": lambda path: SimpleNamespace(
        _hf_encoded={"bytes": None, "path": path}, get_all_samples=lambda: pytest.fail("decoded by torchcodec")
    ),
    "AudioDecoder": lambda path: SimpleNamespace(
        get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(read(path)[0]), sample_rate=read(path)[1])
    ),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_scores_of_every_kind_of_input_equal_those_of_the_tagger(
    kind: str, pipe: Any, tagger: AudioTagger, paths: list[str]
) -> None:
    for path in (paths[3], paths[-1]):  # one channel at 44.1 kHz; two channels at 8 kHz, long
        assert_tags(pipe(INPUTS[kind](path), top_k=13), tagger(path, top_k=13))


def test_urls_and_arrays_at_the_models_rate(pipe: Any, tagger: AudioTagger, paths: list[str], url: str) -> None:
    assert_tags(pipe(f"{url}/misc_crow.flac"), tagger(paths[3]))
    noise = np.random.default_rng(0).normal(scale=0.1, size=16000)
    for array in (noise, torch.from_numpy(noise), (noise * 2**15).astype(np.int16)):
        assert_tags(pipe(array), tagger(array))
    assert_tags(pipe(noise, sampling_rate=8000), tagger(noise, sampling_rate=8000))


def audio_dataset(paths: list[str]) -> datasets.Dataset:
    rows = {"label": [0] * len(paths), "sound": paths}
    return datasets.Dataset.from_dict(rows).cast_column("sound", datasets.Audio())


CONTAINERS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "generator": iter,
    "map": lambda paths: map(Path, paths),
    "KeyDataset": lambda paths: KeyDataset(audio_dataset(paths), "sound"),  # type: ignore[arg-type]
    "dataset": audio_dataset,
    "column": lambda paths: audio_dataset(paths)["sound"],
    "streamed dataset": lambda paths: audio_dataset(paths).to_iterable_dataset(),
    "streamed column": lambda paths: audio_dataset(paths).to_iterable_dataset()["sound"],
    "generator of rows": lambda paths: (
        row["sound"] for row in audio_dataset(paths).cast_column("sound", datasets.Audio(decode=False))
    ),
    "pandas": lambda paths: pandas.Series(paths[::-1], index=range(len(paths)))[::-1],
    "texts": lambda paths: KeyDataset(  # with a column that would be decoded
        datasets.Dataset.from_dict({"path": paths, "audio": paths}).cast_column("audio", datasets.Audio()),
        "path",  # type: ignore[arg-type]
    ),
    "rows": lambda paths: [{"bytes": Path(path).read_bytes(), "path": None} for path in paths],
}


@pytest.mark.parametrize(
    ("kind", "batch_size"), [*((kind, 8) for kind in CONTAINERS), ("list", None), ("list", 1), ("dataset", None)]
)
def test_mixed_lengths_in_any_container_and_batch_equal_one_by_one(
    kind: str, batch_size: int | None, pipe: Any, tagger: AudioTagger, paths: list[str]
) -> None:
    """Rows of `datasets` are read without torchcodec, which is not installed here."""
    results = pipe(CONTAINERS[kind](paths), batch_size=batch_size, top_k=13)
    assert isinstance(results, list) == (kind in ("list", "tuple", "rows"))
    results = list(results)
    assert len(results) == len(paths)
    for found, path in zip(results, paths, strict=True):
        assert_tags(found, tagger(path, top_k=13))


def test_results_of_a_dataset_have_its_length_and_can_be_iterated_again(pipe: Any, paths: list[str]) -> None:
    results = pipe(KeyDataset([{"path": path} for path in paths[2:4]], "path"))  # type: ignore[arg-type]
    assert len(results) == 2
    assert list(results) == list(results) == pipe(paths[2:4])
    assert pipe([]) == []


# --- Results ---------------------------------------------------------------------------------------------------------


def test_timelines_and_events_are_those_of_the_tagger(pipe: Any, tagger: AudioTagger, paths: list[str]) -> None:
    found = pipe(paths[-1], return_timestamps=True, top_k=2)
    timeline = tagger.timeline(paths[-1])
    assert len(found) == 2 * len(timeline.scores)
    assert [tag["timestamp"] for tag in found[::2]] == list(zip(timeline.start_s, timeline.end_s, strict=True))
    np.testing.assert_allclose([tag["score"] for tag in found[::2]], timeline.scores.max(axis=1), atol=1e-5)
    best = timeline.scores.argmax(axis=1)
    assert [tag["label"] for tag in found[::2]] == [tagger.labels[index] for index in best]

    options: dict[str, Any] = {"min_duration_s": 1.0, "merge_gap_s": 0.5, "window_s": 1.0, "hop_s": 0.25}
    for threshold in (0.6, {"class 1": 0.8, "class 5": 0.4}):
        events = tagger.events(paths[1], threshold, **options)
        found = pipe(paths[1], events=True, threshold=threshold, **options)
        assert [(*tag["timestamp"], tag["label"]) for tag in found] == [event[:3] for event in events] and events
        assert [tag["score"] for tag in found] == pytest.approx([event.peak for event in events], abs=1e-5)
    highest = pipe(paths[1], events=True, threshold=0.4, top_k=1)
    assert highest == [max(pipe(paths[1], events=True, threshold=0.4), key=lambda tag: tag["score"])]


def test_top_k_threshold_and_function_work_as_in_other_pipelines(micro: str, pipe: Any, paths: list[str]) -> None:
    crow = paths[3]
    every = pipe(crow, top_k=None)
    assert len(every) == len(pipe(crow, top_k=100)) == 13
    assert pipe(crow) == every[:5] and pipe(crow, top_k=3) == pipe(crow, top_k=np.int64(3)) == every[:3]
    assert pipe(crow, threshold=0.6) == [tag for tag in every if tag["score"] >= 0.6]
    assert pipe(crow, threshold=0.6, top_k=1) == every[:1]
    logits = np.array([tag["score"] for tag in pipe(crow, top_k=None, function_to_apply="none")])
    np.testing.assert_allclose([tag["score"] for tag in every], 1 / (1 + np.exp(-logits)), atol=1e-6)
    softmax = [tag["score"] for tag in pipe(crow, top_k=None, function_to_apply="softmax")]
    np.testing.assert_allclose(softmax, np.exp(logits) / np.exp(logits).sum(), atol=1e-6)
    preset = pipeline("audio-classification", model=micro, top_k=2, function_to_apply="none", batch_size=3)
    assert [tag["score"] for tag in preset(crow)] == pytest.approx(logits[:2])
    assert preset(crow, top_k=1, function_to_apply="sigmoid") == every[:1]
    single = CedForAudioClassification.from_pretrained(micro, problem_type="single_label_classification")
    tags = pipeline("audio-classification", model=single, feature_extractor=pipe.feature_extractor)(crow, top_k=None)
    assert [tag["score"] for tag in tags] == pytest.approx(softmax, abs=1e-6)


def test_long_clips_are_combined_as_the_tagger_does(pipe: Any, tagger: AudioTagger, paths: list[str]) -> None:
    for options in ({"average": "max"}, {"window_s": 3.0, "hop_s": 1.5}, {"channel": 1}, {"channel": "loudest"}):
        assert_tags(pipe(paths[-1], **options), tagger(paths[-1], **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, micro: str, tagger: AudioTagger, paths: list[str]) -> None:
    half = pipeline("audio-classification", model=micro, dtype=dtype)
    assert half.model.dtype == dtype
    for found, path in zip(half(paths, batch_size=8, top_k=13), paths, strict=True):
        assert_tags(found, tagger(path, top_k=13), atol=0.02)


def test_device_map_adapters_and_models_in_training(
    micro: str, pipe: Any, tagger: AudioTagger, paths: list[str], tmp_path: Path
) -> None:
    mapped = pipeline("audio-classification", model=micro, device_map="auto")
    assert_tags(mapped(paths[3]), tagger(paths[3]))

    trained = CedForAudioClassification.from_pretrained(micro).train()
    statistics = trained.encoder.init_bn.running_mean.clone()
    adapted: Any = peft.get_peft_model(trained, peft.LoraConfig(target_modules=["qkv"], init_lora_weights=False))
    extractor = pipe.feature_extractor
    own = pipeline("audio-classification", model=adapted, feature_extractor=extractor)
    assert type(own) is CedAudioClassificationPipeline
    tags = own(paths[3], top_k=13)
    assert trained.training and torch.equal(statistics, trained.encoder.init_bn.running_mean)
    assert tags != pipe(paths[3], top_k=13)
    adapted.merge_and_unload().save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    assert_tags(tags, AudioTagger(str(tmp_path))(paths[3], top_k=13))


def test_a_saved_pipeline_loads_with_every_auto_class(pipe: Any, paths: list[str], tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    assert pipeline("audio-classification", model=tmp_path)(paths[3]) == pipe(paths[3])
    assert not hasattr(
        AutoConfig.from_pretrained(tmp_path), "custom_pipelines"
    )  # `pipeline` would require `trust_remote_code`
    for auto in (AutoFeatureExtractor, AutoProcessor):
        assert type(auto.from_pretrained(tmp_path)) is CedFeatureExtractor


# --- Bad input -------------------------------------------------------------------------------------------------------

NOT_AUDIO: dict[str, tuple[Any, str]] = {
    "None": (None, "inputs: got NoneType: expected a path, a URL, bytes, an array"),
    "number": (42, "inputs: got int: expected a path"),
    "class": (object(), "inputs: got object: expected a path"),
    "dictionary": ({"audio": 1, "label": 2}, "inputs: <row>: a dictionary without audio; it has 'audio', 'label'"),
    "empty row": ({"bytes": None, "path": None}, "inputs: <row>: a row without audio: its bytes and path are None"),
    "path of another type": ({"path": 3}, "inputs: <row>: a row without audio: path is of type int$"),
    "no rate": ({"array": np.zeros(16000)}, 'inputs: <array>: a dict needs "array" .* and "sampling_rate"'),
    "rate None": (
        {"array": np.zeros(16000), "sampling_rate": None},
        "inputs: <array>: a dict needs .*got \\['array'\\]",
    ),
    "splits": ({"test": datasets.Dataset.from_dict({})}, r"inputs: <row>: .*: pass one, as dataset\['test'\]"),
    "no name": ("", "inputs: '': cannot be opened: No such file"),
    "content as text": ("RIFF" * 9999, "inputs: (RIFF){25}…: cannot be opened: File name too long$"),
    "numbers": ([0.1, 0.2], r"inputs\[0\]: got float: expected a path"),
    "lists": ([["a.wav"]], r"inputs\[0\]: got list: expected a path"),
    "missing file": ("missing.wav", "inputs: missing.wav: cannot be opened: No such file"),
    "text": (b"this is text", "inputs: <bytes>: .*"),
    "channels last": (
        {"array": np.zeros((16000, 2)), "sampling_rate": 16000},
        r"inputs: .* of shape \(16000, 2\): exp",
    ),
    "NaN": (np.full(16000, np.nan), "inputs: <array>: .*NaN.*"),
    "URL": ("http://127.0.0.1:9/a.wav", "inputs: http://127.0.0.1:9/a.wav: cannot be downloaded: .*"),
    "other URL": ("ftp://host/a.wav", "inputs: ftp://host/a.wav: URLs are not fetched"),
}


@pytest.mark.parametrize("case", NOT_AUDIO)
def test_inputs_that_are_not_audio_give_one_line_with_the_accepted_kinds(case: str, pipe: Any) -> None:
    given, message = NOT_AUDIO[case]
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        pipe(given)
    assert "\n" not in str(caught.value)
    results = pipe([given] if not isinstance(given, list) else given, on_error="yield")
    assert set(results[0]) == {"error"} and results[0]["error"].startswith("inputs[0]: ")


class Rows(torch.utils.data.Dataset):
    """A dataset with a second row that cannot be loaded."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> str:
        if index == 1:
            raise RuntimeError("row without\naudio")
        return self.paths[index]


def test_an_invalid_row_is_reported_with_its_index_and_the_others_continue(pipe: Any, paths: list[str]) -> None:
    good = pipe(paths[2:4])
    broken = {"bytes": b"RIFF", "path": "x.wav"}
    for inputs in ([paths[2], broken, paths[3]], iter([paths[2], broken, paths[3]])):
        first, error, last = pipe(inputs, on_error="yield")
        assert [first, last] == good and error["error"].startswith("inputs[1]: <bytes>: ")
    for options in ({}, {"return_timestamps": True}, {"events": True}):
        first, error, last = pipe(Rows([paths[2], "", paths[3]]), on_error="yield", **options)
        assert error == {"error": "inputs[1]: row without audio"} and isinstance(last, list)
    results = iter(pipe(Rows([paths[2], "", paths[3]])))
    assert next(results) == good[0]
    with pytest.raises(ValueError, match=r"^inputs\[1\]: row without audio$"):
        next(results)


@pytest.mark.parametrize("on_error", ["raise", "yield"])
def test_inputs_before_an_error_of_a_generator_have_their_results(on_error: str, pipe: Any, paths: list[str]) -> None:
    def some() -> Iterator[str]:
        yield from paths[2:5]
        raise KeyError("the source of the inputs")

    results = iter(pipe(some(), on_error=on_error))
    assert [next(results) for _ in range(3)] == pipe(paths[2:5])
    with pytest.raises(KeyError, match="the source of the inputs"):
        next(results)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "`top_k=0`: expected a whole number from 1, or None"),
        ({"top_k": "3"}, "`top_k='3'`: expected a whole number"),
        ({"threshold": "high"}, "`threshold='high'`: expected a number"),
        ({"threshold": 50}, "`threshold=50`: expected a score from 0 to 1"),
        ({"threshold": {"class 1": 50}, "events": True}, "`threshold['class 1']=50`: expected a score from 0 to 1"),
        ({"threshold": {"class 1": 0.5}}, "`threshold={'class 1': 0.5}`: expected a number"),
        ({"threshold": {"clas 1": 0.5}, "events": True}, "`threshold='clas 1'`: expected a class of the model; did"),
        ({"threshold": {"class 1": "a"}, "events": True}, "`threshold['class 1']='a'`: expected a number"),
        ({"sampling_rate": "16 kHz"}, "`sampling_rate='16 kHz'`: expected a number from 1000 to 10000000 (Hz)"),
        ({"sampling_rate": 0}, "`sampling_rate=0`: expected a number from 1000"),
        ({"function_to_apply": "relu"}, "`function_to_apply='relu'`: expected None or sigmoid or softmax or none"),
        ({"return_timestamps": "word"}, "`return_timestamps='word'`: expected True or False"),
        ({"events": 2}, "`events=2`: expected True or False"),
        ({"on_error": "skip"}, "`on_error='skip'`: expected raise or yield"),
        ({"window_s": 11}, "`window_s=11`: expected 0.15 to 10.12 seconds"),
        ({"hop_s": 3, "events": True}, "`hop_s=3`: expected more than 0 and at most the window of 2 seconds"),
        ({"channel": -1}, "`channel=-1`: expected mix, loudest or the number of a channel"),
        ({"batch_size": 0}, "`batch_size=0`: expected a whole number from 1"),
    ],
)
def test_invalid_options_are_refused_before_any_work(
    options: dict[str, Any], message: str, micro: str, pipe: Any
) -> None:
    def untouched() -> Iterator[Any]:
        raise AssertionError("an input was taken")
        yield

    for call in (partial(pipe, untouched()), partial(pipeline, "audio-classification", model=micro)):
        with pytest.raises(ValueError) as caught:
            call(**options)
        assert str(caught.value).startswith(message)


def test_a_second_input_outside_a_list_is_refused(pipe: Any, paths: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^`num_workers='b\.wav'`: expected a whole number, or None$"):
        pipe(paths[2], "b.wav")
    assert pipe(paths[2], num_workers=2) == pipe(paths[2])


def test_datasets_without_one_audio_column_are_refused_unless_their_rows_are_audio(pipe: Any, paths: list[str]) -> None:
    two = datasets.Dataset.from_dict({"a": paths[:1], "b": paths[:1]})
    two = two.cast_column("a", datasets.Audio()).cast_column("b", datasets.Audio())
    with pytest.raises(ValueError, match=r"^`inputs='Dataset'`: expected a dataset with one audio column, not a, b: "):
        pipe(two)
    rows = datasets.Dataset.from_dict({"bytes": [Path(paths[3]).read_bytes()], "path": ["x.flac"]})
    assert list(pipe(rows)) == [pipe(paths[3])]
    with pytest.raises(ValueError, match=r"^inputs\[0\]: <row>: a dictionary without audio; it has 'file': pass"):
        list(pipe(rows.select_columns("path").rename_column("path", "file")))


@pytest.mark.parametrize(
    ("make", "value", "expected"),
    [
        (lambda rows: KeyDataset(rows, "sound"), "sound", "a column of the dataset: audio, label"),
        (lambda rows: KeyDataset(rows.to_iterable_dataset(), "sound"), "sound", "a column of the dataset: audio"),
        (lambda rows: pandas.DataFrame({"path": ["a.wav"]}), "DataFrame", 'one column of it, such as table["path"]'),
    ],
)
def test_a_missing_column_is_refused_with_the_existing_ones(
    make: Any, value: str, expected: str, pipe: Any, paths: list[str]
) -> None:
    rows = datasets.Dataset.from_dict({"audio": paths[:1], "label": [1]}).cast_column("audio", datasets.Audio())
    with pytest.raises(ValueError, match=rf"^`inputs='{value}'`: expected {re.escape(expected)}"):
        pipe(make(rows))
    with pytest.raises(ValueError, match=r"^inputs\[0\]: got int: expected a path"):
        next(iter(pipe(KeyDataset(rows, "label"))))  # type: ignore[arg-type]


def test_unknown_options_and_other_models_are_refused(pipe: Any) -> None:
    with pytest.raises(
        TypeError, match="Unknown argument `topk` of CedAudioClassificationPipeline: its options are top_k"
    ):
        pipe("x.wav", topk=3)
    own = CedAudioClassificationPipeline
    with pytest.raises(ValueError, match=r"`model='CedModel'`: expected a CED classifier"):
        own(model=pipe.model.encoder, feature_extractor=pipe.feature_extractor)
    with pytest.raises(ValueError, match=r"`feature_extractor='ASTFeatureExtractor'`: expected a CedFeatureExtractor"):
        own(model=pipe.model, feature_extractor=transformers.ASTFeatureExtractor())
