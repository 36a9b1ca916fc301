# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports have the outputs of the model for every length and batch, and need only their own runtime."""

import ast
import csv
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import sherpa_onnx
import torch

from ced_model import CedConfig, CedFeatureExtractor, CedForAudioClassification
from ced_model.audioset import AUDIOSET_CLASSES
from ced_model.calibration import spread
from ced_model.engines import MissingPackageError
from ced_model.exporting import ExportReport, VerificationError, export_model, load_export, verification
from ced_model.exporting.export import check_export, check_output
from ced_model.exporting.formats import choose_format
from ced_model.exporting.metadata import labels_csv
from ced_model.exporting.sherpa_onnx import check_front_end
from ced_model.log_mel import FrontEnd, log_mel
from ced_model.messages import OptionError
from ced_model.output import new_folder

# Exports of the tests: format, input, compute type.
EXPORTS = {
    "onnx": ("onnx", "waveform", "float32"),
    "onnx-int8": ("onnx", "waveform", "int8"),
    "openvino-float16": ("openvino", "waveform", "float16"),
    "openvino-int8": ("openvino", "mel", "int8"),
    "torch-float16": ("torch", "waveform", "float16"),
    "sherpa-onnx-float16": ("sherpa-onnx", None, "float16"),
}
SAMPLES = (2400, 5119, 5120, 161919)  # 16 frames, 32, 33 and `target_length`
LABELS = ["Speech", 'so-called "music"', "a, b", "Größe", *(f"class {index}" for index in range(4, 12)), "Crow"]

Export = Callable[[str], ExportReport]


@pytest.fixture(scope="module")
def small_model() -> CedForAudioClassification:
    """A classifier of one block whose outputs depend on its input."""
    torch.manual_seed(0)
    config = CedConfig(embed_dim=96, depth=1, num_heads=2, id2label=dict(enumerate(LABELS)))
    model = CedForAudioClassification(config).eval()
    with torch.no_grad():  # as after training: inputs are normalised, and outputs differ
        model.encoder.init_bn.running_mean.fill_(-30.0)
        model.encoder.init_bn.running_var.fill_(200.0)
        model.outputlayer[1].weight.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def small_folder(small_model: CedForAudioClassification, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    small_model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(small_folder: Path, resources: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Makes each export when it is first used."""
    made: dict[str, ExportReport] = {}
    folder = tmp_path_factory.mktemp("exports")

    def make(name: str) -> ExportReport:
        if name not in made:
            format, input, compute_type = EXPORTS[name]
            made[name] = export_model(
                small_folder,
                folder / name,
                format=format,
                input=input,
                compute_type=compute_type,
                recordings=sorted(resources.glob("*.flac")),
                num_threads=1,
            )
        return made[name]

    return make


def clips(samples: int, batch_size: int) -> np.ndarray:
    noise = np.random.default_rng(samples).normal(size=(batch_size, samples))
    return (noise * np.linspace(0.3, 0.01, samples) * np.arange(1, batch_size + 1)[:, None]).astype(np.float32)


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_has_the_outputs_of_torch_for_any_length_and_batch(
    name: str, exported: Export, small_model: CedForAudioClassification
) -> None:
    export = load_export(exported(name).folder, num_threads=1)
    tolerance = verification.TOLERANCES[export.metadata["compute_type"]]
    for samples in SAMPLES:
        for batch_size in (1, 2):
            batch = clips(samples, batch_size)
            mel = torch.stack([CedFeatureExtractor().log_mel(torch.from_numpy(clip)) for clip in batch])
            with torch.inference_mode():
                expected = small_model(mel).logits.sigmoid()
                embeddings = small_model.encoder(mel).pooler_output
            outputs = export.run(batch if export.metadata["input"] == "waveform" else mel.contiguous().numpy())
            assert list(outputs) == export.metadata["outputs"]
            np.testing.assert_allclose(outputs["probabilities"], expected, atol=tolerance, rtol=0)
            if not name.startswith("sherpa"):
                atol = 1e-3 if tolerance < 1e-3 else 0.3
                np.testing.assert_allclose(outputs["embeddings"], embeddings, atol=atol, rtol=0)


@pytest.mark.parametrize("name", ["onnx", "openvino-float16", "torch-float16"])
def test_a_clip_longer_than_target_length_is_an_error_and_not_a_wrong_answer(name: str, exported: Export) -> None:
    export = load_export(exported(name).folder)
    with pytest.raises(Exception, match=r"(?i)broadcast|guard|mismatch"):
        export.run(clips(1024 * 160, 1))


@pytest.mark.parametrize("name", EXPORTS)
def test_the_report_and_the_readme_have_the_measured_differences(name: str, exported: Export) -> None:
    report = exported(name)
    metadata = json.loads((report.folder / "metadata.json").read_text(encoding="utf-8"))
    assert {(check.batch_size, round(check.seconds, 2)) for check in report.checks} >= {
        (1, 0.15),
        (3, 0.15),
        (1, 10.12),
        (3, 10.12),
    }
    assert all(0 <= check.probabilities <= verification.TOLERANCES[metadata["compute_type"]] for check in report.checks)
    assert (metadata["compute_type"] == "float32") == (max(check.probabilities for check in report.checks) <= 1e-4)
    readme = (report.folder / "README.md").read_text(encoding="utf-8")
    assert "to 10.12 s, alone and in batches:" in readme and "small" in readme.splitlines()[0]
    assert report.file.is_file() and report.num_bytes >= report.file.stat().st_size > 10_000


@pytest.mark.parametrize("name", EXPORTS)
def test_no_file_names_a_folder_of_the_machine_that_made_it(name: str, exported: Export) -> None:
    here = [str(Path(__file__).parents[2]), str(Path(torch.__file__).parent), str(exported(name).folder.parent)]
    for file in exported(name).folder.iterdir():
        content = file.read_bytes()
        assert not any(folder.encode() in content for folder in here), file.name


@pytest.mark.parametrize("name", ["onnx", "openvino-float16", "sherpa-onnx-float16", "torch-float16"])
def test_the_ten_lines_of_the_readme_run_without_torch_and_transformers(name: str, exported: Export) -> None:
    folder = exported(name).folder
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    statements = [line for line in code[1].splitlines() if line.strip() and not line.startswith("import ")]
    assert len(statements) <= 10
    names = {
        alias.name for node in ast.walk(ast.parse(code[1])) if isinstance(node, ast.Import) for alias in node.names
    }
    packages = {"onnx": "onnxruntime", "sherpa-onnx-float16": "sherpa_onnx"}
    runtime = packages.get(name, name.removesuffix("-float16"))
    assert names <= {"csv", "numpy", runtime}
    blocked = ["transformers", "ced_model"] + ([] if "torch" in name else ["torch"])
    script = f"import sys\nfor name in {blocked}: sys.modules[name] = None\n{code[1]}"
    result = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    tags = [line.split(" ", 1) for line in result.stdout.splitlines() if re.match(r"\d\.\d{3} ", line)]
    assert len(tags) == 5 and {label for _, label in tags} <= {*LABELS, LABELS[1].replace('"', "'")}
    scores = [float(score) for score, _ in tags]
    assert scores == sorted(scores, reverse=True)
    if not name.startswith("sherpa"):  # silence, with the same export
        metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        probabilities = load_export(folder).run(np.zeros((1, 16000), np.float32))["probabilities"][0]
        assert [label for _, label in tags] == [metadata["labels"][index] for index in np.argsort(-probabilities)[:5]]


@pytest.mark.parametrize("name", EXPORTS)
def test_labels_and_limits_are_in_the_program_and_beside_it(name: str, exported: Export) -> None:
    report = exported(name)
    metadata = json.loads((report.folder / "metadata.json").read_text(encoding="utf-8"))
    format, input, compute_type = EXPORTS[name]
    assert metadata["labels"] == LABELS and metadata["mids"][0] == "/m/09x0r" and metadata["mids"][3] == ""
    assert (metadata["min_samples"], metadata["max_samples"]) == (2400, 161919)
    assert (metadata["min_frames"], metadata["max_frames"]) == (16, 1012)
    assert (metadata["sampling_rate"], metadata["activation"]) == (16000, "sigmoid")
    assert (metadata["model"], metadata["format"], metadata["input"]) == ("small", format, input or "mel")
    assert metadata["compute_type"] == compute_type
    assert metadata["versions"].keys() == {"ced_model", "onnx", "onnxruntime"} | set(
        choose_format(format, input, compute_type).packages
    )
    assert metadata_inside(report.file) == metadata
    with open(report.folder / "labels.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [label.replace('"', "'") for label in LABELS] if format == "sherpa-onnx" else LABELS
    assert [(int(row["index"]), row["display_name"]) for row in rows] == list(enumerate(names))


def metadata_inside(file: Path) -> dict[str, Any]:
    if file.suffix == ".onnx":
        stored = {entry.key: entry.value for entry in onnx.load(file, load_external_data=False).metadata_props}
    elif file.suffix == ".xml":
        model = openvino.Core().read_model(file)
        stored = {key: str(getattr(value, "value", value)) for key, value in model.get_rt_info(["ced"]).value.items()}
    else:
        extra = {"metadata.json": ""}
        torch.export.load(file, extra_files=extra)
        return json.loads(extra["metadata.json"])
    return {key: json.loads(value) if value[:1] in '[{"0123456789' else value for key, value in stored.items()}


def test_the_onnx_graph_has_dynamic_dimensions_with_names_and_no_branches(exported: Export) -> None:
    model = onnx.load(exported("onnx").file)
    onnx.checker.check_model(model, full_check=True)
    (waveform,), outputs = model.graph.input, list(model.graph.output)
    assert [value.name for value in (waveform, *outputs)] == ["waveform", "probabilities", "embeddings"]
    shapes = [
        [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (waveform, *outputs)
    ]
    assert shapes == [["batch", "samples"], ["batch", 13], ["batch", 96]]
    operators = Counter(node.op_type for node in model.graph.node)
    assert not {"If", "Loop", "Scan", "Where"} & operators.keys()  # there are no chunks or masks
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    assert operators["Conv"] == 1 and operators["Softmax"] == 1 and operators["Gemm"] == 5


def test_models_for_sherpa_onnx_have_one_input_and_probabilities_as_first_output(exported: Export) -> None:
    report = exported("sherpa-onnx-float16")
    graph = onnx.load(report.file).graph
    shapes = [
        [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    ]
    assert shapes == [["batch", 64, "frames"], ["batch", 13]]
    lines = (report.folder / "labels.csv").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["index,mid,display_name", '0,/m/09x0r,"Speech"'] and lines[4].endswith(',"Größe"')
    assert report.sherpa is not None and report.sherpa.recordings == 6
    # It computes Kaldi's features, and the random model is sensitive to the differences.
    assert report.sherpa.mean_probability < 0.05 and report.sherpa.top_1 >= 4


@pytest.mark.parametrize("samples", [800, 300 * 160, 1013 * 160, 25 * 16000])
def test_sherpa_onnx_tags_recordings_of_any_length_as_the_mean_of_equal_pieces(samples: int, exported: Export) -> None:
    report = exported("sherpa-onnx-float16")
    (waveform,) = clips(samples, 1)
    tagger = sherpa_onnx.AudioTagging(
        sherpa_onnx.AudioTaggingConfig(
            model=sherpa_onnx.AudioTaggingModelConfig(ced=str(report.file)),
            labels=str(report.folder / "labels.csv"),
            top_k=13,
        )
    )
    stream = tagger.create_stream()
    stream.accept_waveform(16000, waveform)
    assert len(tagger.compute(stream)) == 13
    run = load_export(report.folder).run
    mel = log_mel(waveform)
    pieces = -(-mel.shape[1] // 1012)
    length = -(-mel.shape[1] // pieces)
    if mel.shape[1] < 16:
        assert np.isfinite(run(mel[None])["probabilities"]).all()
    elif mel.shape[1] % pieces == 0:
        rows = run(np.stack(np.split(mel, pieces, axis=1)))["probabilities"]
        np.testing.assert_allclose(run(mel[None])["probabilities"][0], rows.mean(axis=0), atol=1e-5)
    else:  # the last piece is padded with the mean
        filled = np.pad(mel, ((0, 0), (0, pieces * length - mel.shape[1])), constant_values=-30.0)
        rows = run(np.stack(np.split(filled, pieces, axis=1)))["probabilities"]
        np.testing.assert_allclose(run(mel[None])["probabilities"][0], rows.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("field, value", [("f_min", 50.0), ("f_max", 4000.0), ("hop_size", 320), ("center", False)])
def test_sherpa_onnx_has_one_front_end(field: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"features of sherpa-onnx have {field}=.*the model requires {value}"):
        check_front_end(FrontEnd(**{field: value}))
    check_front_end(FrontEnd(f_max=None))


def test_recordings_are_taken_evenly_from_all_that_are_given() -> None:
    assert spread(range(5), 10) == [0, 1, 2, 3, 4]
    assert spread(range(101), 3) == [0, 50, 100]


def test_labels_of_audioset_are_the_table_that_sherpa_onnx_ships() -> None:
    metadata = {"labels": [name for _, name in AUDIOSET_CLASSES], "mids": [mid for mid, _ in AUDIOSET_CLASSES]}
    lines = labels_csv(metadata | {"format": "sherpa-onnx"}).splitlines()
    assert len(lines) == 528 and lines[22] == '21,/m/07rgt08,"Chuckle, chortle"'


def test_float16_halves_the_weights_but_not_those_of_the_front_end(exported: Export) -> None:
    half, full = exported("openvino-float16"), exported("onnx")
    matrices = 96 * (3 * 96 + 96 + 2 * 4 * 96 + 256) * 2  # two bytes less per element
    assert full.num_bytes - half.num_bytes > 0.6 * matrices
    types = {
        tensor.name: tensor.data_type for tensor in onnx.load(exported("sherpa-onnx-float16").file).graph.initializer
    }
    assert Counter(types.values())[onnx.TensorProto.FLOAT16] == 6
    found = load_export(half.folder).run(clips(40000, 1))["probabilities"]
    np.testing.assert_allclose(found, load_export(full.folder).run(clips(40000, 1))["probabilities"], atol=2e-3, rtol=0)


def test_an_export_that_differs_from_the_model_leaves_no_files(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(verification.TOLERANCES, "float16", 1e-9)
    with pytest.raises(VerificationError, match=r"clips of 0.15 s .* differ from the model by \S+ in probability"):
        export_model(small_folder, tmp_path / "out", compute_type="float16")
    assert not list(tmp_path.iterdir())


def test_nan_fails_the_verification() -> None:
    check = verification.Check(1.0, 1, float("nan"), None)
    with pytest.raises(VerificationError, match="differ from the model by nan"):
        verification.judge(check, "float32")


def test_an_interrupted_export_keeps_the_previous_one(
    small_folder: Path, exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    shutil.copytree(exported("onnx").folder, output)
    before = {file.name: file.read_bytes() for file in output.iterdir()}

    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ced_model.exporting.export.verify", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_model(small_folder, output, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {file.name: file.read_bytes() for file in output.iterdir()} == before


def test_a_new_folder_replaces_an_export_completely(exported: Export, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(exported("onnx").folder, output)
    with new_folder(check_output(output, overwrite=True), check_export) as folder:
        (folder / "model.pt2").touch()
        assert (output / "model.onnx").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in output.iterdir()] == ["model.pt2"]


def test_an_empty_folder_is_used_and_gets_default_permissions(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o700)
    for name in ("out", "new"):
        with new_folder(check_output(tmp_path / name)) as folder:
            (folder / "model.onnx").touch()
    (tmp_path / "plain").mkdir()
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "plain").stat().st_mode}


def test_only_another_export_is_replaced_and_only_if_asked(exported: Export, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="this one has an export: use `overwrite=True`"):
        check_output(exported("onnx").folder)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "metadata.json").write_text('{"format": "of my own"}')
    with pytest.raises(OptionError, match="this one has other files"):
        check_output(tmp_path / "precious", overwrite=True)
    with pytest.raises(OptionError, match="a folder, not a file"):
        check_output(tmp_path / "precious" / "metadata.json", overwrite=True)
    with pytest.raises(OptionError, match="a path in an existing folder"):
        check_output(tmp_path / "no" / "folder")


@pytest.mark.parametrize(
    ("settings", "activation"),
    [
        ({"pooling": "token"}, "sigmoid"),
        ({"pooling": "dm", "problem_type": "single_label_classification"}, "softmax"),
        ({"problem_type": "regression", "target_length": 200, "eval_avg": "max", "pad_last": False}, "none"),
    ],
    ids=["token", "dm", "regression"],
)
def test_models_of_other_kinds_are_exported_with_their_own_outputs(
    settings: dict[str, Any], activation: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = CedForAudioClassification(CedConfig(embed_dim=32, depth=1, num_heads=2, num_labels=5, **settings)).eval()
    model.save_pretrained(tmp_path / "model")
    export_model(tmp_path / "model", tmp_path / "out", input="mel")  # verified by the export itself
    export = load_export(tmp_path / "out")
    assert export.metadata["activation"] == activation
    assert export.metadata["max_frames"] == settings.get("target_length", 1012)
    outputs = export.run(np.zeros((2, 64, 100), np.float32))["probabilities"]
    sums = outputs.sum(axis=1)
    assert (np.abs(sums - 1) < 1e-5).all() == (activation == "softmax")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tflite",), "`format='tflite'`: expected onnx, openvino, sherpa-onnx, torch"),
        (("sherpa-onnx", "waveform"), "`input='waveform'`: expected mel for the format sherpa-onnx"),
        (("onnx", "speech"), "`input='speech'`: expected waveform or mel for the format onnx"),
        (("torch", None, "int8"), "`compute_type='int8'`: expected float32 or float16 for the format torch"),
    ],
)
def test_unsupported_combinations_are_refused_with_the_supported_ones(arguments: tuple, message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        choose_format(*arguments)


@pytest.mark.parametrize(
    ("arguments", "missing", "message"),
    [
        (("onnx",), "onnxruntime", "exporting requires onnxruntime: pip install onnxruntime onnx"),
        (("openvino",), "openvino", "the format openvino requires openvino: pip install openvino"),
        (("sherpa-onnx",), "sherpa_onnx", "requires sherpa-onnx: pip install sherpa-onnx"),
    ],
)
def test_a_missing_package_is_one_line_with_the_install_command(
    arguments: tuple, missing: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ced_model.packages.missing", lambda names: [name for name in names if name == missing])
    monkeypatch.delitem(sys.modules, missing, raising=False)
    with pytest.raises(MissingPackageError, match=re.escape(message)):
        choose_format(*arguments)
