# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The configuration of a checkpoint, from its file or inferred from the shapes of its tensors."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ..configuration_ced import CED_SIZES, CedConfig
from ..messages import one_line
from ..model_card import has_audioset_labels, published_size
from .checkpoint import Checkpoint, ConversionError

# Fields of the "config" in a training checkpoint that cannot be inferred from shapes.
CONFIG_FIELDS = ("num_heads", "pooling", "eval_avg", "pad_last", "target_length")
PUBLISHED_POSITIONS, PUBLISHED_TARGET_LENGTH = 63, 1012  # 63 patches have 1008 frames; all published files have 1012


def make_config(checkpoint: Checkpoint, num_heads: int | None) -> tuple[CedConfig, list[str]]:
    """The model's configuration, and notes on assumptions."""
    notes: list[str] = []
    try:
        if checkpoint.folder is None:
            return _infer_config(checkpoint, num_heads, notes), notes
        config = CedConfig.from_pretrained(checkpoint.folder)
        _check_heads_agree(num_heads, config.num_heads)
        return config, notes
    except ConversionError:
        raise
    except (ValueError, TypeError, OSError, StrictDataclassError) as error:
        raise ConversionError(f"the source's configuration is not that of a CED model: {one_line(error)}") from error


def _infer_config(checkpoint: Checkpoint, num_heads: int | None, notes: list[str]) -> CedConfig:
    """The configuration from the shapes of the tensors, and from the `settings` of a training checkpoint."""
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
        # Missing blocks are reported later, but a single wrong name must not make a huge model.
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
            "no tensors of a CED encoder: expected names such as blocks.0.norm1.weight, but found"
            f" {', '.join(list(tensors)[:5]) or 'nothing'}."
        )
    return embed_dim


def _size(tensors: Mapping[str, torch.Tensor], pattern: str, axis: int) -> int | None:
    """The most frequent size of encoder or head tensors along `axis`, so that a misshapen one is reported later."""
    named = re.compile(rf"(encoder\.)?({pattern})")
    sizes = Counter(tensor.shape[axis] for name, tensor in tensors.items() if named.fullmatch(name) and tensor.ndim > 0)
    return sizes.most_common(1)[0][0] if sizes else None


def _check_heads_agree(asked: int | None, stored: Any) -> None:
    if asked is not None and stored is not None and asked != stored:
        raise ConversionError(f"{asked} attention heads were given, but the configuration has {stored}.")


def _assume_heads(embed_dim: int, notes: list[str]) -> int:
    if any(size["embed_dim"] == embed_dim for size in CED_SIZES.values()):
        return embed_dim // 64
    for head_dim in (64, 16):
        if embed_dim % head_dim == 0:
            heads = embed_dim // head_dim
            notes.append(
                f"assumed {heads} attention heads of width {head_dim}, which the tensors do not show; if it is a"
                " different number, give --num-heads"
            )
            return heads
    raise ConversionError(f"the number of attention heads is not known for a width of {embed_dim}: give --num-heads.")
