# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""An export computes what the model does, on every length and batch, with nothing but its own runtime."""

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
import torch
from transformers.exporters import DynamoConfig, DynamoExporter

from ced_model import CedConfig, CedFeatureExtractor, CedForAudioClassification
from ced_model.audioset import AUDIOSET_CLASSES
from ced_model.exporting import ExportReport, VerificationError, export_model, verification
from ced_model.exporting.graph import TaggingGraph
from ced_model.exporting.metadata import graph_input, labels_csv
from ced_model.exporting.output import check_export, check_output
from ced_model.exporting.recordings import spread
from ced_model.exporting.to_executorch import MAX_BATCH, contiguous_attention
from ced_model.exporting.to_sherpa_onnx import check_front_end
from ced_model.exporting.tracing import trace
from ced_model.output import new_folder
from ced_model.runtimes import load_export
from ced_model.runtimes.formats import SUPPORT, Format, check_export_packages, choose

# What the tests export: format, input, quantization.
EXPORTS = {
    "onnx": ("onnx", "waveform", None),
    "onnx-int8": ("onnx", "waveform", "int8"),
    "openvino": ("openvino", "waveform", None),
    "openvino-fp16": ("openvino", "waveform", "fp16"),
    "openvino-int8": ("openvino", "mel", "int8"),
    "torch": ("torch", "waveform", None),
    "torch-fp16": ("torch", "mel", "fp16"),
    "sherpa-onnx-fp16": ("sherpa-onnx", None, "fp16"),
}
SAMPLES = (2400, 2401, 5119, 5120, 40000, 161919)  # 16 frames, 31, 32, some, and `target_length`
LABELS = ["Speech", 'so-called "music"', "a, b", "Größe", *(f"class {index}" for index in range(4, 12)), "Crow"]

Export = Callable[[str], ExportReport]


@pytest.fixture(scope="session")
def small_model() -> CedForAudioClassification:
    """A classifier of one block, wide enough that its matrices are stored and quantized as larger ones are."""
    torch.manual_seed(0)
    config = CedConfig(embed_dim=96, depth=1, num_heads=2, id2label=dict(enumerate(LABELS)))
    model = CedForAudioClassification(config).eval()
    with torch.no_grad():  # as after training: inputs are normalised, and outputs differ
        model.encoder.init_bn.running_mean.fill_(-30.0)
        model.encoder.init_bn.running_var.fill_(200.0)
        model.outputlayer[1].weight.normal_(std=0.3)
    return model


@pytest.fixture(scope="session")
def exported(
    small_model: CedForAudioClassification, resources: Path, tmp_path_factory: pytest.TempPathFactory
) -> Export:
    """Makes each export when it is first asked for."""
    made: dict[str, ExportReport] = {}
    folder = tmp_path_factory.mktemp("exports")

    def make(name: str) -> ExportReport:
        if name not in made:
            format, input, quantize = EXPORTS[name]
            made[name] = export_model(
                small_model,
                folder / name,
                feature_extractor=CedFeatureExtractor(),
                format=format,
                input=input,
                quantize=quantize,
                recordings=sorted(resources.glob("*.flac")),
                model_name="small",
            )
        return made[name]

    return make


def clips(samples: int, batch_size: int) -> np.ndarray:
    noise = np.random.default_rng(samples).normal(size=(batch_size, samples))
    return (noise * np.linspace(0.3, 0.01, samples) * np.arange(1, batch_size + 1)[:, None]).astype(np.float32)


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_gives_what_torch_gives_for_any_length_and_batch(
    name: str, exported: Export, small_model: CedForAudioClassification
) -> None:
    export = load_export(exported(name).folder)
    tolerance = verification.TOLERANCES[export.metadata["quantization"]]
    for samples in SAMPLES:
        for batch_size in (1, 2, 5):
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


@pytest.mark.parametrize("name", ["onnx", "openvino", "torch"])
def test_a_clip_longer_than_target_length_is_an_error_and_not_a_wrong_answer(name: str, exported: Export) -> None:
    export = load_export(exported(name).folder)
    with pytest.raises(Exception, match=r"(?i)indices|guard|incompatible"):
        export.run(clips(1024 * 160, 1))


@pytest.mark.parametrize("name", EXPORTS)
def test_the_report_and_the_readme_tell_what_was_measured(name: str, exported: Export) -> None:
    report = exported(name)
    metadata = json.loads((report.folder / "metadata.json").read_text(encoding="utf-8"))
    assert {(check.batch_size, round(check.seconds, 2)) for check in report.checks} >= {
        (1, 0.15),
        (3, 0.15),
        (1, 10.12),
        (3, 10.12),
    }
    assert all(0 <= check.probabilities <= verification.TOLERANCES[metadata["quantization"]] for check in report.checks)
    assert (metadata["quantization"] == "none") == (max(check.probabilities for check in report.checks) <= 1e-4)
    readme = (report.folder / "README.md").read_text(encoding="utf-8")
    assert readme.count(" of 10.12 s |") == 2 and "small" in readme.splitlines()[0]
    assert report.file.is_file() and report.num_bytes >= report.file.stat().st_size > 10_000


@pytest.mark.parametrize("name", EXPORTS)
def test_no_file_names_a_folder_of_the_machine_that_made_it(name: str, exported: Export) -> None:
    here = [str(Path(__file__).parent.parent), str(Path(torch.__file__).parent), str(exported(name).folder.parent)]
    for file in exported(name).folder.iterdir():
        content = file.read_bytes()
        assert not any(folder.encode() in content for folder in here), file.name


@pytest.mark.parametrize("name", ["onnx", "openvino", "sherpa-onnx-fp16", "torch"])
def test_the_ten_lines_of_the_readme_run_without_torch_and_transformers(name: str, exported: Export) -> None:
    folder = exported(name).folder
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    statements = [line for line in code[1].splitlines() if line.strip() and not line.startswith("import ")]
    assert len(statements) <= 10
    names = {
        alias.name for node in ast.walk(ast.parse(code[1])) if isinstance(node, ast.Import) for alias in node.names
    }
    runtime = {"onnx": "onnxruntime", "sherpa-onnx-fp16": "sherpa_onnx"}.get(name, name)
    assert names <= {"csv", "numpy", runtime}
    blocked = ["transformers", "ced_model"] + ([] if name == "torch" else ["torch"])
    script = f"import sys\nfor name in {blocked}: sys.modules[name] = None\n{code[1]}"
    result = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    tags = [line.split(" ", 1) for line in result.stdout.splitlines() if re.match(r"\d\.\d{3} ", line)]
    assert len(tags) == 5 and {label for _, label in tags} <= {*LABELS, LABELS[1].replace('"', "'")}
    scores = [float(score) for score, _ in tags]
    assert scores == sorted(scores, reverse=True)
    if not name.startswith("sherpa"):  # silence, by the same export
        metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        probabilities = load_export(folder).run(np.zeros((1, 16000), np.float32))["probabilities"][0]
        assert [label for _, label in tags] == [metadata["labels"][index] for index in np.argsort(-probabilities)[:5]]


@pytest.mark.parametrize("name", EXPORTS)
def test_labels_and_limits_are_in_the_program_and_beside_it(name: str, exported: Export) -> None:
    report = exported(name)
    metadata = json.loads((report.folder / "metadata.json").read_text(encoding="utf-8"))
    format, input, quantize = EXPORTS[name]
    assert metadata["labels"] == LABELS and metadata["mids"][0] == "/m/09x0r" and metadata["mids"][3] == ""
    assert (metadata["min_samples"], metadata["max_samples"]) == (2400, 161919)
    assert (metadata["min_frames"], metadata["max_frames"]) == (16, 1012)
    assert (metadata["sampling_rate"], metadata["activation"]) == (16000, "sigmoid")
    assert (metadata["model"], metadata["format"], metadata["input"]) == ("small", format, input or "mel")
    assert metadata["quantization"] == (quantize or "none")
    support = SUPPORT[Format(format)]
    known = {"ced_model", "torch", "transformers", *support.packages, *support.int8_packages}
    assert known >= metadata["versions"].keys()
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
    assert not {"If", "Loop", "Scan", "Where"} & operators.keys()  # neither chunks nor masks
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    assert operators["Conv"] == 1 and operators["Softmax"] == 1


def test_sherpa_onnx_gets_one_input_and_first_of_all_probabilities(exported: Export) -> None:
    report = exported("sherpa-onnx-fp16")
    graph = onnx.load(report.file).graph
    shapes = [
        [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    ]
    assert shapes == [["batch", 64, "frames"], ["batch", 13]]
    lines = (report.folder / "labels.csv").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["index,mid,display_name", '0,/m/09x0r,"Speech"'] and lines[4].endswith(',"Größe"')
    assert report.sherpa is not None and report.sherpa.recordings == 6
    # Its features are Kaldi's, whose differences this model was not trained to ignore.
    assert report.sherpa.mean_probability < 0.05 and report.sherpa.top_1 >= 4


@pytest.mark.parametrize("field, value", [("f_min", 50.0), ("f_max", 4000.0), ("hop_size", 320), ("center", False)])
def test_sherpa_onnx_has_one_front_end(
    field: str, value: Any, micro_model: CedForAudioClassification, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=f"sherpa-onnx has a front end of its own, with {field}=.*this model has {value}"
    ):
        export_model(
            micro_model,
            tmp_path / "out",
            feature_extractor=CedFeatureExtractor(**{field: value}),
            format="sherpa-onnx",
        )
    assert not (tmp_path / "out").exists()
    check_front_end(CedFeatureExtractor(f_max=None))


def test_recordings_are_taken_evenly_from_all_that_are_given() -> None:
    assert spread(range(5), 10) == [0, 1, 2, 3, 4]
    assert spread(range(101), 3) == [0, 50, 100]


def test_labels_of_audioset_are_the_table_that_sherpa_onnx_ships() -> None:
    metadata = {"labels": [name for _, name in AUDIOSET_CLASSES], "mids": [mid for mid, _ in AUDIOSET_CLASSES]}
    lines = labels_csv(metadata | {"format": "sherpa-onnx"}).splitlines()
    assert len(lines) == 528 and lines[22] == '21,/m/07rgt08,"Chuckle, chortle"'


def test_fp16_halves_the_weights_but_not_those_of_the_front_end(exported: Export) -> None:
    half, full = exported("openvino-fp16"), exported("openvino")
    saved = full.num_bytes - half.num_bytes
    matrices = 96 * (3 * 96 + 96 + 2 * 4 * 96 + 256) * 2  # of which each element takes two bytes less
    assert saved > 0.6 * matrices
    types = {tensor.name: tensor.data_type for tensor in onnx.load(exported("sherpa-onnx-fp16").file).graph.initializer}
    assert Counter(types.values())[onnx.TensorProto.FLOAT16] >= 4
    mel = load_export(half.folder).run(clips(40000, 1))["probabilities"]
    np.testing.assert_allclose(mel, load_export(full.folder).run(clips(40000, 1))["probabilities"], atol=2e-3, rtol=0)


def test_int8_takes_the_linear_layers_of_the_blocks_and_nothing_else(exported: Export) -> None:
    graph = onnx.load(exported("onnx-int8").file).graph
    dequantized = {output for node in graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    quantized = [
        node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv") and node.input[1] in dequantized
    ]
    assert Counter(node.op_type for node in quantized) == {"MatMul": 4}  # qkv, proj, fc1, fc2
    floats = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv") and node not in quantized]
    assert Counter(node.op_type for node in floats) == {"MatMul": 6, "Conv": 1, "Gemm": 1}  # mel, scores and context
    model = openvino.Core().read_model(exported("openvino-int8").file)
    consumers = {
        target.get_node().get_type_name()
        for node in model.get_ops()
        if node.get_type_name() == "FakeQuantize"
        for target in node.output(0).get_target_inputs()
    }
    assert "MatMul" in consumers and "Convolution" not in consumers


def failing_export(model: CedForAudioClassification, output: Path, **options: Any) -> None:
    export_model(model, output, feature_extractor=CedFeatureExtractor(), format="torch", input="mel", **options)


def test_an_export_that_differs_from_torch_leaves_nothing_behind(
    small_model: CedForAudioClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(verification.TOLERANCES, "fp16", 1e-9)
    with pytest.raises(VerificationError, match=r"clips of 0.15 s .* differ from torch by \S+ in probability"):
        failing_export(small_model, tmp_path / "out", quantize="fp16")
    assert not list(tmp_path.iterdir())


def test_what_is_not_a_number_is_no_match(small_model: CedForAudioClassification, tmp_path: Path) -> None:
    check = verification.Check(1.0, 1, float("nan"), None)
    with pytest.raises(VerificationError, match="differ from torch by nan"):
        verification._judge(check, "none")


def test_an_interrupted_export_leaves_the_one_before_it(
    small_model: CedForAudioClassification, exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    shutil.copytree(exported("torch-fp16").folder, output)
    before = {file.name: file.read_bytes() for file in output.iterdir()}

    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ced_model.exporting.export.verify", interrupt)
    with pytest.raises(KeyboardInterrupt):
        failing_export(small_model, output, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {file.name: file.read_bytes() for file in output.iterdir()} == before


def test_a_new_folder_replaces_an_export_whole(exported: Export, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(exported("onnx").folder, output)
    with new_folder(check_output(output, overwrite=True), check_export) as folder:
        (folder / "model.pt2").touch()
        assert (output / "model.onnx").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in output.iterdir()] == ["model.pt2"]


def test_an_empty_folder_is_as_good_as_none_and_readable_by_all(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o700)
    for name in ("out", "new"):
        with new_folder(check_output(tmp_path / name)) as folder:
            (folder / "model.onnx").touch()
    (tmp_path / "plain").mkdir()
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "plain").stat().st_mode}


def test_only_another_export_is_replaced_and_only_if_asked(exported: Export, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="has an export already"):
        check_output(exported("onnx").folder)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "metadata.json").write_text('{"format": "of my own"}')
    with pytest.raises(FileExistsError, match="a folder with other files in it"):
        check_output(tmp_path / "precious", overwrite=True)
    with pytest.raises(FileExistsError, match="a file; give a folder"):
        check_output(tmp_path / "precious" / "metadata.json", overwrite=True)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
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
    failing_export(model, tmp_path / "out")  # verified by the export itself
    export = load_export(tmp_path / "out")
    assert export.metadata["activation"] == activation
    assert export.metadata["max_frames"] == settings.get("target_length", 1012)
    outputs = export.run(np.zeros((2, 64, 100), np.float32))["probabilities"]
    sums = outputs.sum(axis=1)
    assert (np.abs(sums - 1) < 1e-5).all() == (activation == "softmax")


def test_for_executorch_the_attention_is_that_of_torch_in_a_graph_of_bounded_sizes(
    small_model: CedForAudioClassification,
) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register("ced_contiguous", contiguous_attention)
    graph = TaggingGraph(small_model, CedFeatureExtractor())
    graph.model.set_attn_implementation("ced_contiguous")
    inputs = graph_input(small_model.config, CedFeatureExtractor(), choose("executorch"))
    program = trace(DynamoExporter, DynamoConfig(), graph, inputs, MAX_BATCH)
    assert not any(node.target is torch.sym_min for node in program.graph.nodes)  # no kernel computes it
    bounds = sorted((int(bound.lower), int(bound.upper)) for bound in program.range_constraints.values())
    assert bounds == [(1, MAX_BATCH), (2400, 161919)]
    module = program.module()
    for samples in SAMPLES:
        batch = clips(samples, 3)
        mel = torch.stack([CedFeatureExtractor().log_mel(torch.from_numpy(clip)) for clip in batch])
        with torch.inference_mode():
            outputs = module(waveform=torch.from_numpy(batch))["probabilities"]
            torch.testing.assert_close(outputs, small_model(mel).logits.sigmoid(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tflite",), "unknown format 'tflite': choose one of onnx, openvino, torch, executorch, sherpa-onnx"),
        (("sherpa-onnx", "waveform"), "sherpa-onnx takes no input 'waveform', only mel"),
        (("onnx", "speech"), "onnx takes no input 'speech', only waveform or mel"),
        (
            ("torch", None, "int8"),
            "torch cannot be quantized to 'int8', only to fp16; onnx, openvino, executorch, sherpa-onnx can",
        ),
        (("onnx", None, "int4"), "onnx cannot be quantized to 'int4', only to fp16 or int8; no format can"),
    ],
)
def test_what_is_not_supported_is_refused_with_what_is(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        choose(*arguments)


@pytest.mark.parametrize(
    ("arguments", "missing", "message"),
    [
        (("onnx",), "onnxruntime", 'onnx needs onnxruntime: pip install "ced_model[onnx]"'),
        (("openvino",), "openvino", 'openvino needs openvino: pip install "ced_model[openvino]"'),
        (("openvino", None, "int8"), "nncf", 'openvino int8 needs nncf: pip install "ced_model[openvino]"'),
        (("executorch", None, "int8"), "torchao", 'executorch int8 needs torchao: pip install "ced_model[executorch]"'),
        (("executorch",), "executorch", 'executorch needs executorch: pip install "ced_model[executorch]"'),
        (("sherpa-onnx",), "sherpa_onnx", 'sherpa-onnx needs sherpa-onnx: pip install "ced_model[sherpa-onnx]"'),
    ],
)
def test_a_missing_runtime_names_its_extra(
    arguments: tuple, missing: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ced_model.runtimes.formats.find_spec", lambda name: None if name == missing else object())
    with pytest.raises(ImportError, match=re.escape(message)):
        check_export_packages(choose(*arguments))
    check_export_packages(choose("torch"))
