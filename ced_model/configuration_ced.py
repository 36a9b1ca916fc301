# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""CED model configuration."""

from .custom_code import OwnCode, drop_absent_code, pipeline_code

# isort: split

import os
from typing import Any, ClassVar, Self

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME, auto_docstring

from .model_settings import (
    CED_SIZES,
    PROBLEM_TYPES,
    EvalAverage,
    Pooling,
    ProblemType,
    check_architecture,
    check_numbers,
    count_labels,
    fill_in_size,
    find_problem_type,
    name_labels,
)


@auto_docstring(
    custom_intro="""
    Configuration of [`CedModel`] and its classifiers. The defaults are those of
    [mispeech/ced-base](https://huggingface.co/mispeech/ced-base). It reads and writes the `config.json` of the
    `mispeech/ced-*` repositories, including fields that are not listed here.

    `num_labels` (alias `outputdim`) defaults to 527. With 527 classes and no `id2label`, classes are named as in
    AudioSet. An `id2label` with AudioSet names that are cut at the first comma, as in some published files, is replaced
    by the full names.
    """
)
@strict
class CedConfig(PreTrainedConfig):
    r"""
    name (`str`, *optional*):
        `"ced-tiny"`, `"ced-mini"`, `"ced-small"` or `"ced-base"` sets the `embed_dim` and `num_heads` of that size. If
        `embed_dim` is given, the name is only stored.
    embed_dim (`int`, *optional*, defaults to 768):
        Width of the tokens. Alias: `hidden_size`.
    depth (`int`, *optional*, defaults to 12):
        Number of transformer blocks. Alias: `num_hidden_layers`.
    num_heads (`int`, *optional*, defaults to 12):
        Number of attention heads, by default `embed_dim // 64`. Alias: `num_attention_heads`.
    drop_rate (`float`, *optional*, defaults to 0.0):
        Dropout after the position embeddings, the attention projection and both MLP layers.
    attn_drop_rate (`float`, *optional*, defaults to 0.0):
        Dropout on the attention weights.
    drop_path_rate (`float`, *optional*, defaults to 0.0):
        Stochastic depth rate of the last block; rates grow linearly from 0 at the first block.
    patch_stride (`int`, *optional*, defaults to 16):
        Must equal `patch_size`, since patches do not overlap.
    n_mels (`int`, *optional*, defaults to 64):
        Number of mel bins, a multiple of `patch_size`.
    target_length (`int`, *optional*, defaults to 1012):
        Longest input in frames (of 10 ms) that is encoded in one piece; longer clips are split into chunks of this many
        frames. The model has `target_length // patch_size` time positions.
    pooling (`str`, *optional*, defaults to `"mean"`):
        `"mean"` (mean of all tokens), `"logit"` (the same, but raw outputs instead of probabilities are averaged over
        the chunks of a long clip), `"dm"` (tokens are averaged over frequency, then probabilities over time) or
        `"token"` (a class token).
    eval_avg (`str`, *optional*, defaults to `"mean"`):
        How the probabilities of the chunks of a long clip are combined: `"mean"` or `"max"`.
    pad_last (`bool`, *optional*, defaults to `True`):
        Whether to pad the last chunk of a long clip with zeros, as in the evaluation of the published checkpoints.
    problem_type (`str`, *optional*, defaults to `"multi_label_classification"`):
        `"multi_label_classification"` (sigmoid and binary cross-entropy, as AudioSet),
        `"single_label_classification"` (softmax and cross-entropy) or `"regression"` (mean squared error).
    n_fft (`int`, *optional*, defaults to 512):
        Size of the Fourier transform of the front end in samples.
    win_size (`int`, *optional*, defaults to 512):
        Length of the Hann window in samples.
    hop_size (`int`, *optional*, defaults to 160):
        Distance between frames in samples.
    f_min (`float`, *optional*, defaults to 0):
        Lowest frequency of the mel filterbank in Hz.
    f_max (`float`, *optional*, defaults to 8000):
        Highest frequency of the mel filterbank in Hz; `None` is half the sampling rate.
    center (`bool`, *optional*, defaults to `True`):
        Whether frames are centred, with reflection at both ends of the clip.
    loss (`str`, *optional*, defaults to `"BCE"`):
        Name of the loss in the public port. Without a `problem_type`, `"CrossEntropyLoss"` sets
        `"single_label_classification"`. Other values are stored and ignored.

    Example:

    ```python
    >>> from ced_model import CedConfig, CedForAudioClassification

    >>> config = CedConfig(name="ced-tiny")
    >>> config.embed_dim, config.num_heads, config.num_labels
    (192, 3, 527)

    >>> model = CedForAudioClassification(config)  # random weights
    ```"""

    model_type = "ced"
    _auto_class = OwnCode("AutoConfig")
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "embed_dim",
        "num_hidden_layers": "depth",
        "num_attention_heads": "num_heads",
        "outputdim": "num_labels",
    }

    name: str | None = None
    embed_dim: int | None = None
    depth: int = 12
    num_heads: int | None = None
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    drop_rate: float | int = 0.0
    attn_drop_rate: float | int = 0.0
    drop_path_rate: float | int = 0.0
    patch_size: int = 16
    patch_stride: int = 16
    n_mels: int = 64
    target_length: int = 1012
    pooling: Pooling = "mean"
    eval_avg: EvalAverage = "mean"
    pad_last: bool = True
    problem_type: ProblemType | None = None
    n_fft: int = 512
    win_size: int = 512
    hop_size: int = 160
    f_min: float | int = 0
    f_max: float | int | None = 8000
    center: bool = True
    loss: str | None = "BCE"
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        # With this package installed, `pipeline` finds its class by the model type. With this field, it would require
        # `trust_remote_code`.
        if not __name__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}."):
            kwargs.pop("custom_pipelines", None)
        for alias in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
            if alias in kwargs:
                setattr(self, alias, kwargs.pop(alias))
        self.embed_dim, self.num_heads = fill_in_size(self.name, self.embed_dim, self.num_heads)
        self.problem_type = find_problem_type(self.problem_type, self.loss)
        counts = {field: kwargs.pop(field, None) for field in ("num_labels", "outputdim")}
        kwargs["num_labels"] = count_labels({**counts, "id2label": self.id2label})
        stored, self.id2label = self.id2label, name_labels(self.id2label, kwargs["num_labels"])
        if self.label2id is None or list(self.id2label.values()) != list((stored or {}).values()):
            self.label2id = {name: index for index, name in self.id2label.items()}
        super().__post_init__(**kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "loss" and name in vars(self):  # code for the public port sets it after construction
            super().__setattr__("problem_type", PROBLEM_TYPES.get(str(value), self.problem_type))
        super().__setattr__(name, value)

    @property
    def num_patches(self) -> tuple[int, int]:
        """Number of patches `(frequency, time)` of the longest input: the sizes of the two position tables."""
        return self.n_mels // self.patch_size, self.target_length // self.patch_size

    def validate_architecture(self) -> None:
        """Part of `@strict`-powered validation."""
        check_numbers(vars(self))
        check_architecture(vars(self))

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Saves the configuration as [`~PreTrainedConfig.save_pretrained`] does, with its code if that was saved."""
        drop_absent_code(self, save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)

    def to_json_file(self, json_file_path: str | os.PathLike, use_diff: bool = True) -> None:
        """
        Writes the file as [`~PreTrainedConfig.to_json_file`] does, and the code of the pipeline next to the code of the
        configuration, if that is in the folder. (`save_pretrained` uploads the files that are new after this call.)
        """
        with pipeline_code(self, os.path.dirname(json_file_path)):
            super().to_json_file(json_file_path, use_diff)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """
        Creates a configuration from a dictionary. `kwargs` override its fields before construction, so that they are
        validated and dependent fields follow (transformers sets most `kwargs` on the finished configuration).
        """
        config_dict = dict(config_dict)
        if "outputdim" in kwargs:
            kwargs.setdefault("num_labels", kwargs.pop("outputdim"))
        count = kwargs.get("num_labels")
        if "id2label" in kwargs or (count is not None and count != len(config_dict.get("id2label") or {})):
            for field in ("id2label", "label2id", "outputdim"):
                config_dict.pop(field, None)
        if str(kwargs.get("loss")) in PROBLEM_TYPES:
            config_dict.pop("problem_type", None)
        # transformers resolves a dtype of "auto" itself.
        fields = (set(cls.__dataclass_fields__) | set(cls.attribute_map)) - {"dtype"}
        config_dict |= {field: kwargs.pop(field) for field in fields & kwargs.keys()}
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as a dictionary, with `outputdim` as in the `config.json` files on the Hub."""
        return {**super().to_dict(), "outputdim": self.num_labels}


__all__ = ["CED_SIZES", "CedConfig"]
