# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The README.md of an export: a description, example code, and differences from the model."""

from collections.abc import Mapping, Sequence
from typing import Any

from .formats import FORMATS
from .sherpa_onnx import SherpaComparison
from .verification import Check

CODE = {
    "onnx": """\
import csv
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
labels = [row["display_name"] for row in csv.DictReader(open("labels.csv", encoding="utf-8"))]
{values}
{outputs} = session.run(None, {{"{name}": {name}}})
for index in np.argsort(-probabilities[0])[:5]:
    print(f"{{probabilities[0, index]:.3f}} {{labels[index]}}")
""",
    "openvino": """\
import csv
import numpy as np
import openvino

model = openvino.Core().compile_model("model.xml", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
labels = [row["display_name"] for row in csv.DictReader(open("labels.csv", encoding="utf-8"))]
{values}
{outputs} = model([{name}]).values()
for index in np.argsort(-probabilities[0])[:5]:
    print(f"{{probabilities[0, index]:.3f}} {{labels[index]}}")
""",
    "torch": """\
import csv
import numpy as np
import torch

model = torch.export.load("model.pt2").module()
labels = [row["display_name"] for row in csv.DictReader(open("labels.csv", encoding="utf-8"))]
{values}
probabilities = model(torch.from_numpy({name}))["probabilities"]
for index in probabilities[0].argsort(descending=True)[:5]:
    print(f"{{probabilities[0, index]:.3f}} {{labels[index]}}")
""",
    "sherpa-onnx": """\
import numpy as np
import sherpa_onnx

model = sherpa_onnx.AudioTaggingModelConfig(ced="model.onnx")
tagger = sherpa_onnx.AudioTagging(sherpa_onnx.AudioTaggingConfig(model=model, labels="labels.csv", top_k=5))
stream = tagger.create_stream()
waveform = np.zeros({rate}, np.float32)  # one second of silence: put mono audio at {rate} Hz here
stream.accept_waveform({rate}, waveform)
for event in tagger.compute(stream):
    print(f"{{event.prob:.3f}} {{event.name}}")
""",
}
VALUES = {
    "waveform": (
        "waveform = np.zeros((1, {rate}), np.float32)  # one second of silence: put mono audio at {rate} Hz here"
    ),
    "mel": "log_mel = np.zeros((1, {n_mels}, 101), np.float32)  # put log-mel spectrograms in dB here",
}


def write_readme(metadata: Mapping[str, Any], checks: Sequence[Check], comparison: SherpaComparison | None) -> str:
    """The text of the README.md."""
    format = metadata["format"]
    weights = {"float32": "", "float16": ", with weights in half precision", "int8": ", in 8-bit integers"}
    parts = [
        f"# {metadata['model']} for {FORMATS[format].runtime}",
        f"An audio tagging model with {len(metadata['labels'])} classes{weights[metadata['compute_type']]}, exported"
        f" with ced_model {metadata['versions']['ced_model']}.",
        f"Install its packages with `pip install numpy {FORMATS[format].pip}`, and run this code in this folder:",
        f"```python\n{_code(format, metadata)}```",
        _describe(format, metadata),
        "## Verification",
        _verified(metadata, checks),
    ]
    if comparison is not None:
        parts.append(_compared(comparison))
    return "\n\n".join(parts) + "\n"


def _code(format: str, metadata: Mapping[str, Any]) -> str:
    rate, n_mels = metadata["sampling_rate"], metadata["front_end"]["n_mels"]
    return CODE[format].format(
        values=VALUES[metadata["input"]].format(rate=rate, n_mels=n_mels),
        outputs=", ".join(metadata["outputs"]) if len(metadata["outputs"]) > 1 else "(probabilities,)",
        name="waveform" if metadata["input"] == "waveform" else "log_mel",
        rate=rate,
    )


def _describe(format: str, metadata: Mapping[str, Any]) -> str:
    rate = metadata["sampling_rate"]
    shortest, longest = metadata["min_samples"] / rate, metadata["max_samples"] / rate
    lines = [f"- `{FORMATS[format].file}` is the model. `metadata.json` has the facts below in a form for programs."]
    if metadata["input"] == "waveform":
        lines.append(
            f"- Input: `waveform`, float32 of shape (batch, samples), mono at {rate} Hz, with values in [-1, 1]. The"
            " model computes the log-mel spectrogram itself."
            f" All clips of a batch have the same length, from {metadata['min_samples']:,} to"
            f" {metadata['max_samples']:,} samples ({shortest:.2f} to {longest:.2f} s). Pad shorter clips with zeros,"
            " and split longer ones into windows."
        )
    else:
        lines.append(
            f"- Input: `log_mel`, float32 of shape (batch, {metadata['front_end']['n_mels']}, frames), log-mel"
            f" spectrograms in dB with {metadata['min_frames']} to {metadata['max_frames']} frames (clips of"
            f" {shortest:.2f} to {longest:.2f} s at {rate} Hz)."
        )
    meaning = {"sigmoid": "one for each class", "softmax": "which sum to 1", "none": "raw values of a regression"}
    lines.append(
        f"- Output: `probabilities` of shape (batch, {len(metadata['labels'])}), {meaning[metadata['activation']]}, in"
        " the order of `labels.csv`."
    )
    if "embeddings" in metadata["outputs"]:
        lines.append(f"- Output: `embeddings` of shape (batch, {metadata['embedding_size']}).")
    if "step_probabilities" in metadata["outputs"]:
        frames = metadata["patch_frames"]
        step_s = frames * metadata["front_end"]["hop_size"] / rate
        lines.append(
            f"- Output: `step_probabilities` of shape (batch, frames // {frames}, {len(metadata['labels'])}), for each"
            f" step of {step_s:.3g} s. `probabilities` are for the complete clip."
        )
    if format == "openvino":
        lines.append(
            "- Without `INFERENCE_PRECISION_HINT`, some processors compute in bfloat16. This is faster and changes"
            " probabilities by some 0.01."
        )
    return "\n".join(lines)


def _verified(metadata: Mapping[str, Any], checks: Sequence[Check]) -> str:
    seconds = [check.seconds for check in checks]
    embeddings = [check.embeddings for check in checks if check.embeddings is not None]
    lines = [
        f"Largest differences from the float32 model, for clips of {min(seconds):.2f} to {max(seconds):.2f} s, alone"
        " and in batches:",
        "",
        f"- probabilities: {max(check.probabilities for check in checks):.1e}",
    ]
    lines += [f"- embeddings: {max(embeddings):.1e}, relative to their largest value"] if embeddings else []
    versions = ", ".join(f"{name} {version}" for name, version in metadata["versions"].items())
    return "\n".join(lines) + f"\n\nMade with {versions}."


def _compared(comparison: SherpaComparison) -> str:
    return (
        "sherpa-onnx computes the features differently. On"
        f" {comparison.recordings} recordings, its probabilities differ by {comparison.mean_probability:.1e} on average"
        f" and by at most {comparison.probability:.1e}. {comparison.top_1} recordings have the same top class."
    )
