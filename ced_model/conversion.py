# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Original CED checkpoints and Hub repositories -> a complete, verified model folder in the format of this package."""

import os
import pickle
import re
import shutil
import sys
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    StrictDataclassError,
)
from huggingface_hub.errors import HTTPError as HubConnectionError  # of the HTTP client that huggingface_hub uses
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from .configuration_ced import CED_SIZES, CedConfig
from .custom_code import CODE_FILES
from .feature_extraction_ced import CedFeatureExtractor
from .hub import PUBLISHED_MODELS, ModelNotFoundError, locate_model
from .messages import one_line, printable
from .model_card import create_model_card, has_audioset_labels, published_eval_results, published_size
from .model_folder import PREPROCESSOR, check_settings
from .modeling_ced import CedForAudioClassification, CedModel
from .output import new_folder
from .zenodo import DownloadError, download_checkpoint, sha256_of

HUB_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
MODEL_FILES = frozenset((*HUB_FILES, *CODE_FILES, "README.md"))
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".safetensors")

# Fields of a training checkpoint's "config" that the shapes of the tensors do not tell.
CONFIG_FIELDS = ("num_heads", "pooling", "eval_avg", "pad_last", "target_length")
PUBLISHED_POSITIONS, PUBLISHED_TARGET_LENGTH = 63, 1012  # 63 patches hold 1008 frames; all published files say 1012

DECODER_NAME = re.compile(r"(decoder|mask_token)")  # what masked-autoencoder files carry beside the encoder
UNKNOWN_DATA = "The source of these weights does not say what they were trained on."
VERIFICATION_SAMPLES = 48000  # 3 s
VERIFICATION_TOLERANCE = 1e-5


class ConversionError(ValueError):
    """Why a checkpoint was not converted: one line that says what is wrong and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))  # names of files and tensors are in it


@dataclass(frozen=True)
class Checkpoint:
    """What was read from a source: tensors under the names of the Hub format, and what is known about the model."""

    tensors: dict[str, torch.Tensor]
    source_names: dict[str, str]  # Hub name -> name in the source, for messages
    dropped: tuple[str, ...]  # decoder tensors of a masked autoencoder
    settings: Mapping[str, Any]  # a training checkpoint's "config"
    folder: Path | None  # a Hub repository's, with its config.json
    description: str  # one Markdown sentence for the model card
    hub_id: str | None = None
    published: str | None = None  # "ced-tiny", ... where the source is proved to be that model

    @property
    def has_head(self) -> bool:
        return any(name.startswith("outputlayer.") for name in self.tensors)


@dataclass(frozen=True)
class Conversion:
    """A folder that was written and verified."""

    folder: Path
    architecture: str
    size: str | None  # "ced-tiny", ... for the published shapes
    parameters: int
    num_labels: int | None  # None for an encoder
    notes: tuple[str, ...]  # what was assumed or left out


def convert_checkpoint(
    source: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    num_heads: int | None = None,
    overwrite: bool = False,
    model_id: str | None = None,
    published: str | None = None,
) -> Conversion:
    """
    Converts an original CED checkpoint or a Hub repository into a complete model folder.

    The folder holds safetensors, both configurations, the custom code and a model card. It appears in one piece, after
    it was loaded again and found equal to the source; a failure leaves `output_dir` as it was.

    Args:
        source (`str` or `os.PathLike`):
            An original `.pt` file (a bare state dict, or one under `"model"`; without a head it becomes an encoder), a
            folder in the format of the Hub, or a Hub id.
        output_dir (`str` or `os.PathLike`):
            The folder to write. It must be missing or empty, or hold nothing but a model folder's files with
            `overwrite`.
        num_heads (`int`, *optional*):
            Attention heads, which the shapes do not tell; needed only where the source does not say and the width is
            not a published one.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to replace a model folder at `output_dir`.
        model_id (`str`, *optional*):
            Hub id that the model card's code names; by default the name of the folder.
        published (`str`, *optional*):
            `"tiny"`, `"mini"`, `"small"` or `"base"` where `source` is what [`download_checkpoint`] returned for it.
            The model card then has the published figures and `base_model`. The Hub ids of the published models have
            them without it, other sources never.

    Returns:
        [`Conversion`]: what was written.

    Raises:
        `ConversionError`: with one line, if the source cannot be read, holds unknown, missing or misshapen tensors (all
            are named), or the folder cannot be written or does not prove equal.
    """
    target = Path(output_dir).absolute()
    check_output_dir(target, overwrite)
    checkpoint = read_checkpoint(source)
    if published is not None:
        checkpoint = replace(checkpoint, published=f"ced-{published}")
    config, notes = _make_config(checkpoint, num_heads)
    model = _build_model(checkpoint, config)
    feature_extractor = _make_feature_extractor(checkpoint, config)
    card = _make_card(model, checkpoint, model_id or target.name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(target, check_model_folder if overwrite else None) as folder:
            save_model_folder(model, feature_extractor, folder, card)
            _verify(folder, model, feature_extractor, checkpoint)
    except (OSError, SafetensorError) as error:
        raise ConversionError(f"{target} could not be written: {one_line(error)}") from error
    if checkpoint.dropped:
        names = ", ".join(map(printable, checkpoint.dropped))
        notes.append(f"left out {len(checkpoint.dropped)} decoder tensors: {names}")
    return Conversion(
        folder=target,
        architecture=type(model).__name__,
        size=published_size(config),
        parameters=model.num_parameters(),
        num_labels=config.num_labels if checkpoint.has_head else None,
        notes=tuple(notes),
    )


def run(
    source: str | None,
    output_dir: str,
    *,
    download: str | None = None,
    push_to: str | None = None,
    num_heads: int | None = None,
    overwrite: bool = False,
) -> None:
    """Does what `convert_checkpoint.py` was asked for, and says on standard output what is done and proved."""
    check_output_dir(Path(output_dir).absolute(), overwrite)
    if push_to is not None:
        check_repo_id(push_to)
    if download is not None:
        try:
            source = os.fspath(download_checkpoint(download))
        except DownloadError as error:
            raise ConversionError(str(error)) from error
        print(f"downloaded {printable(source)}\nsha256 {sha256_of(source)}")
    if source is None:
        raise ConversionError("there is nothing to convert: give SOURCE, or a size to download.")
    done = convert_checkpoint(
        source, output_dir, num_heads=num_heads, overwrite=overwrite, model_id=push_to, published=download
    )
    for note in done.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    kind = "encoder without a head" if done.num_labels is None else f"{done.num_labels} classes"
    verified = (
        f"verified: {done.folder} loads with the tensors of {source} and the same outputs ({done.architecture},"
        f" {done.size or 'own size'}, {done.parameters:,} parameters, {kind})"
    )
    print(printable(verified))
    if push_to is not None:
        print(printable(f"uploaded to {push_to_hub(done.folder, push_to)}"))


# --- Reading ---------------------------------------------------------------------------------------------------------


def read_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """Reads a `.pt` file, a Hub folder or a Hub id; raises [`ConversionError`] if it is missing or bad."""
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, f"the model folder `{path.absolute().name}`.", None)
    if path.exists():
        return _read_file(path)
    name = os.fspath(source)
    if name.count("/") == 1 and not name.endswith(CHECKPOINT_SUFFIXES) and _is_repo_id(name):
        try:
            folder = locate_model(name)
        except ModelNotFoundError as error:
            raise ConversionError(str(error)) from error
        checkpoint = _read_folder(folder, f"[{name}](https://huggingface.co/{name}).", name)
        return replace(checkpoint, published=name.removeprefix("mispeech/") if name in PUBLISHED_MODELS else None)
    raise ConversionError(f"{name} does not exist: give a .pt file, a model folder, or a Hub id such as user/model.")


def _is_repo_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _read_folder(folder: Path, description: str, hub_id: str | None) -> Checkpoint:
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ConversionError(f"{folder} has no {name}: a model folder needs config.json and model.safetensors.")
    try:
        check_settings(folder)
    except ValueError as error:
        raise ConversionError(f"{folder}: {error}") from error
    try:
        tensors = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise ConversionError(f"{folder / 'model.safetensors'} cannot be read: {one_line(error)}") from error
    return _make_checkpoint(tensors, {}, folder, description, hub_id)


def _read_file(path: Path) -> Checkpoint:
    if path.suffix == ".safetensors":
        raise ConversionError(f"{path} is one file of a model folder: give the folder, which also has the config.json.")
    content = _load_pickle(path)
    settings: Any = {}
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        settings = content.get("config")
        content = content["model"]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    ):
        raise ConversionError(
            f"{path} holds neither a state dict (names and tensors) nor one under 'model': save model.state_dict()."
        )
    description = f"`{path.name}`, SHA-256 `{sha256_of(path)}`."
    settings = settings if isinstance(settings, Mapping) else {}
    return _make_checkpoint(dict(content), settings, None, description, None)


def _load_pickle(path: Path) -> Any:
    """Loads tensors and plain Python data from a file; code in it is never run."""
    try:
        _check_zip(path)
        # torch's own messages are pages long, advise unsafe loading, and come as all sorts of exceptions.
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {one_line(error)}") from error
    except pickle.UnpicklingError as error:
        objects = _objects_beside_tensors(path, error)
        if not objects:
            raise ConversionError(_not_a_checkpoint(path)) from error
        raise ConversionError(
            f"{path} holds Python objects beside tensors ({', '.join(objects)}), and loading these could run code from"
            " the file: where you trust it, save the model's state_dict() alone and convert that."
        ) from error
    except (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise ConversionError(_not_a_checkpoint(path)) from error


def _not_a_checkpoint(path: Path) -> str:
    return f"{path} is damaged or no PyTorch checkpoint: if it was downloaded, delete it and download it again."


def _check_zip(path: Path) -> None:
    """Raises ValueError if a part of the archive is damaged; torch.load itself does not look at the checksums."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            try:
                damaged = archive.testzip()
            except zipfile.BadZipFile as error:
                raise ValueError(str(error)) from error
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")


def _objects_beside_tensors(path: Path, error: pickle.UnpicklingError) -> list[str]:
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a zip archive, or not to be disassembled: torch's message names the first object
        return re.findall(r"GLOBAL ([\w.]+) was not an allowed global", str(error))[:1]


def _make_checkpoint(
    named: dict[str, torch.Tensor],
    settings: Mapping[str, Any],
    folder: Path | None,
    description: str,
    hub_id: str | None,
) -> Checkpoint:
    tensors: dict[str, torch.Tensor] = {}
    source_names: dict[str, str] = {}
    dropped = []
    for name, tensor in named.items():
        plain = name.removeprefix("encoder.")
        if plain.startswith("front_end."):  # window and filterbank are no weights
            continue
        if DECODER_NAME.match(plain):
            dropped.append(name)
            continue
        hub_name = (
            plain if plain.startswith("outputlayer.") else "encoder." + re.sub(r"^init_bn\.1\.", "init_bn.", plain)
        )
        if hub_name in tensors:
            raise ConversionError(
                f"both {source_names[hub_name]} and {name} are the tensor {hub_name}: keep one of them."
            )
        tensors[hub_name] = tensor
        source_names[hub_name] = name
    return Checkpoint(tensors, source_names, tuple(dropped), settings, folder, description, hub_id)


# --- Configuration ---------------------------------------------------------------------------------------------------


def _make_config(checkpoint: Checkpoint, num_heads: int | None) -> tuple[CedConfig, list[str]]:
    """The model's configuration, and notes on what was assumed."""
    notes: list[str] = []
    try:
        if checkpoint.folder is not None:
            config = _read_config(checkpoint.folder, num_heads)
        else:
            config = _infer_config(checkpoint, num_heads, notes)
    except (ValueError, TypeError, OSError, StrictDataclassError) as error:
        if isinstance(error, ConversionError):
            raise
        raise ConversionError(f"the source's configuration is not that of a CED model: {one_line(error)}") from error
    return config, notes


def _read_config(folder: Path, num_heads: int | None) -> CedConfig:
    config = CedConfig.from_pretrained(folder)
    _check_heads_agree(num_heads, config.num_heads)
    return config


def _infer_config(checkpoint: Checkpoint, num_heads: int | None, notes: list[str]) -> CedConfig:
    """Reads the shape of the model off its tensors; `settings` of a training checkpoint tell what these do not."""
    tensors = checkpoint.tensors
    embed_dim = _embed_dim(tensors)
    patch_size = _size(tensors, r"patch_embed\.proj\.weight", -1) or 16
    positions = _size(tensors, r"time_pos_embed", -1) or PUBLISHED_POSITIONS
    hidden = _size(tensors, r"blocks\.\d+\.mlp\.fc1\.(weight|bias)", 0) or 4 * embed_dim
    blocks = [int(match[1]) for name in tensors if (match := re.match(r"encoder\.blocks\.(\d+)\.", name))]
    settings = {
        field: checkpoint.settings[field] for field in CONFIG_FIELDS if checkpoint.settings.get(field) is not None
    }
    _check_heads_agree(num_heads, settings.get("num_heads"))
    heads = settings.pop("num_heads", num_heads) or _assume_heads(embed_dim, notes)
    fields: dict[str, Any] = {
        "embed_dim": embed_dim,
        # Blocks may be missing, and are named then; but one stray name must not make a giant.
        "depth": min(max(blocks, default=0) + 1, 2 * len(set(blocks)) or 1),
        "num_heads": heads,
        "mlp_ratio": hidden // embed_dim if hidden % embed_dim == 0 else hidden / embed_dim,
        "qkv_bias": any(name.endswith(".attn.qkv.bias") for name in tensors),
        "patch_size": patch_size,
        "patch_stride": patch_size,
        "n_mels": _size(tensors, r"init_bn\.(weight|bias|running_mean|running_var)", 0) or 64,
        "target_length": PUBLISHED_TARGET_LENGTH if positions == PUBLISHED_POSITIONS else positions * patch_size,
        "pooling": "token" if "encoder.cls_token" in tensors else "mean",
        **settings,
    }
    outputdim = _size(tensors, r"outputlayer\.1\.(weight|bias)", 0)
    if outputdim is not None:
        fields["outputdim"] = outputdim
    config = CedConfig(**fields)
    if checkpoint.has_head and has_audioset_labels(config):
        config.name = published_size(config)
    return config


def _embed_dim(tensors: Mapping[str, torch.Tensor]) -> int:
    embed_dim = _size(tensors, r"(blocks\.\d+\.)?norm\d?\.(weight|bias)|patch_embed\.proj\.(weight|bias)", 0)
    if embed_dim is None:
        raise ConversionError(
            "no tensor of a CED encoder is there: expected names such as blocks.0.norm1.weight, but found"
            f" {', '.join(list(tensors)[:5]) or 'nothing'}."
        )
    return embed_dim


def _size(tensors: Mapping[str, torch.Tensor], pattern: str, axis: int) -> int | None:
    """The size that most tensors of the encoder or head have along `axis`, so that one misshapen tensor stands out."""
    named = re.compile(rf"(encoder\.)?({pattern})")
    sizes = Counter(tensor.shape[axis] for name, tensor in tensors.items() if named.fullmatch(name) and tensor.ndim > 0)
    return sizes.most_common(1)[0][0] if sizes else None


def _check_heads_agree(asked: int | None, stored: Any) -> None:
    if asked is not None and stored is not None and asked != stored:
        raise ConversionError(
            f"{asked} attention heads were asked for, but the source's own configuration says {stored}."
        )


def _assume_heads(embed_dim: int, notes: list[str]) -> int:
    if any(size["embed_dim"] == embed_dim for size in CED_SIZES.values()):
        return embed_dim // 64
    for head_dim in (64, 16):
        if embed_dim % head_dim == 0:
            heads = embed_dim // head_dim
            notes.append(
                f"assumed {heads} attention heads of width {head_dim}, which the tensors do not tell; give the right"
                " number with --num-heads if it is another"
            )
            return heads
    raise ConversionError(
        f"the number of attention heads cannot be told from a width of {embed_dim}: give it with --num-heads."
    )


def _make_feature_extractor(checkpoint: Checkpoint, config: CedConfig) -> CedFeatureExtractor:
    if checkpoint.folder is not None and (checkpoint.folder / PREPROCESSOR).is_file():
        return CedFeatureExtractor.from_pretrained(checkpoint.folder)
    shared = ("f_min", "f_max", "n_fft", "win_size", "hop_size", "center")
    return CedFeatureExtractor(feature_size=config.n_mels, **{field: getattr(config, field) for field in shared})


# --- Model -----------------------------------------------------------------------------------------------------------


def _build_model(checkpoint: Checkpoint, config: CedConfig) -> CedModel | CedForAudioClassification:
    """The model with the checkpoint's tensors, in their dtype; every tensor that does not fit is named in one error."""
    architecture: Any = CedForAudioClassification if checkpoint.has_head else CedModel
    with torch.device("meta"):
        shapes = architecture(config).state_dict()
    expected = {_hub_name(name, checkpoint): tensor for name, tensor in shapes.items()}
    problems = _find_problems(checkpoint, expected)
    if problems:
        raise ConversionError("the tensors are not those of this model: " + "; ".join(problems))
    floating = {tensor.dtype for name, tensor in checkpoint.tensors.items() if expected[name].is_floating_point()}
    # Mixed precision is widened, which loses nothing.
    dtype = floating.pop() if len(floating) == 1 else torch.float32
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are not ours to draw
        model = architecture(config).to(dtype)
    model.load_state_dict({name: checkpoint.tensors[_hub_name(name, checkpoint)] for name in shapes})
    return model.eval()


def _hub_name(name: str, checkpoint: Checkpoint) -> str:
    """Name of a model's tensor in the Hub format; a bare encoder has its own without the prefix."""
    return name if checkpoint.has_head else f"encoder.{name}"


def _find_problems(checkpoint: Checkpoint, expected: Mapping[str, torch.Tensor]) -> list[str]:
    """One phrase per kind of misfit, with the names that the source uses."""
    tensors, names = checkpoint.tensors, checkpoint.source_names
    is_original = checkpoint.folder is None
    common = [name for name in tensors if name in expected]
    misshapen = [name for name in common if tensors[name].shape != expected[name].shape]
    typed_wrong = [name for name in common if not _fits_dtype(tensors[name].dtype, expected[name].dtype)]
    not_finite = [name for name in common if not torch.isfinite(tensors[name]).all()]
    kinds = {
        "missing": [_original_name(name) if is_original else name for name in expected if name not in tensors],
        "unknown": [names[name] for name in tensors if name not in expected],
        "misshapen": [
            f"{names[name]} {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}" for name in misshapen
        ],
        "of the wrong type": [f"{names[name]} {tensors[name].dtype}" for name in typed_wrong],
        "with NaN or infinite values": [names[name] for name in not_finite],
    }
    return [f"{len(listed)} {kind}: {', '.join(listed)}" for kind, listed in kinds.items() if listed]


def _fits_dtype(dtype: torch.dtype, expected: torch.dtype) -> bool:
    """Whether weights come in a precision that models run in, and the counter of BatchNorm as an integer."""
    return dtype in (torch.float32, torch.float16, torch.bfloat16) if expected.is_floating_point else dtype == expected


def _original_name(name: str) -> str:
    return re.sub(r"^init_bn\.", "init_bn.1.", name.removeprefix("encoder."))


def _make_card(model: CedModel | CedForAudioClassification, checkpoint: Checkpoint, model_id: str) -> ModelCard:
    config: CedConfig = model.config
    # A shape proves nothing: anyone may have trained these weights on anything.
    is_published = checkpoint.published is not None and checkpoint.published == published_size(config)
    return create_model_card(
        model,
        model_id=model_id,
        source=f"Converted from {checkpoint.description}",
        base_model=checkpoint.hub_id or (f"mispeech/{checkpoint.published}" if is_published else None),
        eval_results=published_eval_results(config) if is_published and checkpoint.has_head else [],
        datasets=None if is_published else [],
        training_data=None if is_published else UNKNOWN_DATA,
    )


# --- Writing ---------------------------------------------------------------------------------------------------------


def check_output_dir(output_dir: Path, overwrite: bool) -> None:
    """Raises [`ConversionError`] if writing to `output_dir` would harm what is there."""
    if output_dir.is_symlink() or (output_dir.exists() and not output_dir.is_dir()):
        raise ConversionError(f"{output_dir} is not a folder: give another OUTPUT_DIR.")
    if not output_dir.exists():
        return
    if any(output_dir.iterdir()) and not overwrite:
        raise ConversionError(f"{output_dir} is not empty: give another OUTPUT_DIR, or --overwrite to replace it.")
    check_model_folder(output_dir)


def check_model_folder(output_dir: Path, further: Collection[str] = ()) -> None:
    """Raises [`ConversionError`] if a folder holds anything but a model and what is named in `further`."""
    foreign = sorted(path.name for path in output_dir.iterdir() if path.name not in {*MODEL_FILES, *further})
    if foreign:
        raise ConversionError(
            f"{output_dir} holds more than a model ({', '.join(foreign[:5])}) and is kept: give another OUTPUT_DIR."
        )


def save_model_folder(
    model: CedModel | CedForAudioClassification,
    feature_extractor: CedFeatureExtractor,
    folder: str | os.PathLike[str],
    card: ModelCard,
) -> None:
    """
    Writes what a Hub repository of a CED model holds into `folder`: weights, both configurations, custom code, card.

    The folder loads with `trust_remote_code=True` where `ced_model` is not installed.
    """
    with _without_progress_bar():
        model.save_pretrained(folder)
    feature_extractor.save_pretrained(folder)
    # safetensors creates its file for the owner alone, whatever the umask says.
    shutil.copymode(Path(folder) / "config.json", Path(folder) / "model.safetensors")
    card.save(Path(folder) / "README.md")


def _verify(
    folder: Path,
    model: CedModel | CedForAudioClassification,
    feature_extractor: CedFeatureExtractor,
    checkpoint: Checkpoint,
) -> None:
    """Loads the folder again; raises [`ConversionError`] unless its tensors are the source's, its outputs `model`'s."""
    absent = sorted(MODEL_FILES - {path.name for path in folder.iterdir()})
    if absent:
        raise ConversionError(f"the written folder is not complete, nothing was kept: {', '.join(absent)} missing.")
    architecture: Any = type(model)
    with _without_progress_bar():
        reloaded, report = architecture.from_pretrained(folder, dtype=model.dtype, output_loading_info=True)
    loaded = {_hub_name(name, checkpoint): tensor for name, tensor in reloaded.state_dict().items()}
    differing = [name for name, tensor in checkpoint.tensors.items() if not _equals(loaded.get(name), tensor)]
    differing += [
        name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in map(str, report[kind])
    ]
    if differing:
        raise ConversionError(f"the written tensors differ from the source, nothing was kept: {', '.join(differing)}")
    try:
        deviation = _deviation(model, feature_extractor, reloaded, CedFeatureExtractor.from_pretrained(folder))
    except (ValueError, RuntimeError) as error:
        raise ConversionError(f"the model cannot be run, nothing was kept: {one_line(error)}") from error
    if not deviation <= VERIFICATION_TOLERANCE:
        raise ConversionError(
            f"the written model's outputs differ by {deviation:.2g} from the source, nothing was kept."
        )


def _equals(loaded: torch.Tensor | None, source: torch.Tensor) -> bool:
    # The loaded dtype is the source's, or wider where the source mixes several.
    return loaded is not None and torch.equal(loaded, source.to(loaded.dtype))


def _deviation(
    model: torch.nn.Module,
    feature_extractor: CedFeatureExtractor,
    reloaded: torch.nn.Module,
    reloaded_extractor: CedFeatureExtractor,
) -> float:
    """Largest difference of the two models' outputs for the same noise, each behind its own feature extractor."""
    waveform = 0.1 * torch.randn(VERIFICATION_SAMPLES, generator=torch.Generator().manual_seed(0))
    outputs = []
    for network, front_end in ((model, feature_extractor), (reloaded, reloaded_extractor)):
        input_values = front_end(waveform, sampling_rate=front_end.sampling_rate)["input_values"]
        with torch.inference_mode():
            output = network.float().eval()(input_values)
        outputs.append(output.logits if "logits" in output else output.last_hidden_state)
    if outputs[0].shape != outputs[1].shape:
        return float("inf")
    return (outputs[0] - outputs[1]).abs().max().item()


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    was_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            transformers_logging.enable_progress_bar()


# --- Hub -------------------------------------------------------------------------------------------------------------


def check_repo_id(repo_id: str) -> None:
    """Raises [`ConversionError`] if `repo_id` cannot name a repository on the Hub."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConversionError(f"{repo_id} is no Hub repository name: {one_line(error)}") from error


def push_to_hub(folder: str | os.PathLike[str], repo_id: str, api: huggingface_hub.HfApi | None = None) -> str:
    """
    Uploads a model folder to the Hub, creating the repository if needed.

    Args:
        folder (`str` or `os.PathLike`):
            A folder written by [`convert_checkpoint`].
        repo_id (`str`):
            The repository, `user/model`.
        api (`huggingface_hub.HfApi`, *optional*):
            The client to use, with its token; by default one with the token of `hf auth login` or `HF_TOKEN`.

    Returns:
        `str`: the address of the repository.

    Raises:
        `ConversionError`: with one line, if there is no token, no permission or no network.
    """
    check_repo_id(repo_id)
    client = api or huggingface_hub.HfApi()
    try:
        repo = client.create_repo(repo_id, exist_ok=True)
        client.upload_folder(repo_id=repo.repo_id, folder_path=Path(folder), commit_message="Add CED model")
    except (OSError, HubConnectionError, ValueError) as error:
        raise ConversionError(
            f"{folder} is complete, but not uploaded to {repo_id} (run again with --overwrite): {_upload_hint(error)}"
        ) from error
    return str(repo)


def _upload_hint(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return "log in with `hf auth login` or set HF_TOKEN to a token with write access."
    if status == 403:
        return "the token may not write there; use one with write access."
    if isinstance(error, HfHubHTTPError):
        return f"the Hub answered {one_line(error)}"
    return f"the Hugging Face Hub could not be reached; is there no network? ({one_line(error)})"
