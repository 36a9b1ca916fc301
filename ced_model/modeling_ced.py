# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch CED model."""

from .custom_code import AUTO_MAP, OwnCode

# isort: split

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput, TokenClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, logging
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.import_utils import is_tracing
from transformers.utils.output_capturing import capture_outputs

from .configuration_ced import CedConfig

logger = logging.get_logger(__name__)

# The averaged probabilities of long clips are clamped to [1e-7, 1 - 1e-7], so that their logits are finite.
MAX_LOGIT = math.log((1 - 1e-7) / 1e-7)

INPUTS_DOCSTRING = r"""
    input_values (`torch.Tensor` of shape `(batch_size, n_mels, frames)`):
        Log-mel spectrograms in decibels from [`CedFeatureExtractor`], with at least 16 frames.
    attention_mask (`torch.Tensor` of shape `(batch_size, frames)`, *optional*):
        1 for frames of the clip, 0 for padding after it. With the mask, the output for a clip is the same as without
        padding; without it, all frames count as audio. Each clip needs at least one patch of 16 valid frames.
"""
LABELS_DOCSTRING = r"""
    labels (`torch.Tensor`, *optional*):
        By `config.problem_type`: `"multi_label_classification"` (the default) takes multi-hot or soft targets of
        shape `(batch_size, num_labels)` for a binary cross-entropy; `"single_label_classification"` takes class
        indices of shape `(batch_size,)` for a cross-entropy; `"regression"` takes floats of shape
        `(batch_size, num_labels)` for a mean squared error. If a multi-label model gets class indices (integers of
        shape `(batch_size,)`), the problem type becomes `"single_label_classification"`, with a warning.
"""
FRAME_LABELS_DOCSTRING = r"""
    labels (`torch.Tensor` of shape `(batch_size, steps, num_labels)`, *optional*):
        Multi-hot or soft targets of each step for a binary cross-entropy, with any `config.problem_type`. Steps
        that the `attention_mask` excludes are ignored.
"""


@dataclass
@auto_docstring(
    custom_intro="""
    Output of [`CedModel`]. A clip longer than `target_length` frames is encoded in chunks; `hidden_states` and
    `attentions` have one row per chunk: `(batch_size * chunks, …)`.
    """
)
class CedModelOutput(BaseModelOutputWithPooling):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
        Tokens after the final LayerNorm: the class token if `pooling="token"`, then `n_mels // 16 * (frames // 16)`
        patches in frequency-major order. For a long clip, the tokens of its chunks are concatenated.
    pooler_output (`torch.FloatTensor` of shape `(batch_size, hidden_size)`):
        Mean of the clip's tokens, or its class token if `pooling="token"`. For a long clip, the mean or maximum
        (`eval_avg`) of its `chunk_states`.
    chunk_states (`torch.FloatTensor` of shape `(batch_size, chunks, hidden_size)`):
        The pooled tokens of each chunk.
    frame_states (`torch.FloatTensor` of shape `(batch_size, chunks, patches, hidden_size)`):
        Mean of the patch tokens over frequency, at each position in time.
    patch_mask (`torch.LongTensor` of shape `(batch_size, chunks, patches)`):
        1 for valid patches, 0 for padding.
    chunk_mask (`torch.LongTensor` of shape `(batch_size, chunks)`):
        1 for chunks of the clip, 0 for padding.
    """

    chunk_states: torch.FloatTensor | None = None
    frame_states: torch.FloatTensor | None = None
    patch_mask: torch.LongTensor | None = None
    chunk_mask: torch.LongTensor | None = None


def combine(values: torch.Tensor, mask: torch.Tensor, how: str = "mean") -> torch.Tensor:
    """Mean or maximum of `values` `(…, length, size)` over `length`, where `mask` `(…, length)` is 1."""
    mask = mask.bool().unsqueeze(-1)
    if how == "max":
        return values.masked_fill(~mask, -math.inf).amax(dim=-2)
    return (values * mask).sum(dim=-2) / mask.sum(dim=-2)


def average_logits(logits: torch.Tensor, mask: torch.Tensor, problem_type: str) -> torch.Tensor:
    """
    Logits of the mean class probabilities, averaged as in [`combine`]. Regression outputs are averaged directly.
    Computed in the log domain, in which saturated probabilities neither overflow nor lose their gradient.
    """

    def log_sum(log_probabilities: torch.Tensor) -> torch.Tensor:
        return log_probabilities.masked_fill(~mask.bool().unsqueeze(-1), -math.inf).logsumexp(dim=-2)

    if problem_type == "regression":
        return combine(logits, mask)
    logits = logits.float()
    if problem_type == "single_label_classification":
        return log_sum(logits.log_softmax(dim=-1)).log_softmax(dim=-1)
    return log_sum(nn.functional.logsigmoid(logits)) - log_sum(nn.functional.logsigmoid(-logits))


def masked_batch_norm(norm: nn.BatchNorm2d, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Batch normalisation of mel frames `(batch_size, n_mels, frames)`, one channel per mel bin. Frames where `mask`
    `(batch_size, frames)` is False are excluded from the statistics and set to zero.
    """
    mask = mask.unsqueeze(1)
    # NaN or infinity in the padding would reach statistics and gradients, since 0 · NaN is NaN.
    values = values.masked_fill(~mask, 0.0)
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    if norm.training and norm.weight.requires_grad:  # a frozen layer keeps its running statistics, in training too
        count = mask.sum()
        mean = values.sum(dim=(0, 2)) / count
        var = ((values - mean[:, None]).square() * mask).sum(dim=(0, 2)) / count
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            # As in PyTorch: a cumulative average without momentum, and an unbiased running variance.
            momentum = 1 / norm.num_batches_tracked.to(var.dtype) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean, momentum)
            norm.running_var.lerp_(var * count / (count - 1).clamp(min=1), momentum)
    values = (values - mean[:, None]) * torch.rsqrt(var + norm.eps)[:, None]
    return (values * norm.weight[:, None] + norm.bias[:, None]).masked_fill(~mask, 0.0)


def whole_patches(frames: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Mask `(…, patches)` of the patches that contain only valid frames, from a mask of frames `(…, frames)`."""
    # Pooling drops a remainder of frames like the convolution; a slice would fix the length in exported models.
    return nn.functional.max_pool2d((~frames).float(), (1, patch_size)) == 0


def check_tensor(value: Any, name: str = "labels") -> None:
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"`{name}` must be a tensor, got {type(value).__name__}.")


class CedPatchEmbeddings(nn.Module):
    """
    Turns normalised mel frames of shape `(batch_size, n_mels, frames)` into non-overlapping patches of shape
    `(batch_size, hidden_size, n_mels // patch_size, frames // patch_size)`. A remainder of frames is dropped.
    """

    def __init__(self, config: CedConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_stride)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.proj(values.unsqueeze(1).to(self.proj.weight.dtype))


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    attn_weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        attn_weights = attn_weights + attention_mask

    attn_weights = nn.functional.softmax(attn_weights, dim=-1, dtype=torch.float32).to(query.dtype)
    attn_weights = nn.functional.dropout(attn_weights, p=dropout, training=module.training)

    attn_output = torch.matmul(attn_weights, value)
    attn_output = attn_output.transpose(1, 2).contiguous()
    return attn_output, attn_weights


class CedAttention(nn.Module):
    def __init__(self, config: CedConfig) -> None:
        super().__init__()
        self.config = config
        self.num_attention_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.attention_dropout = config.attn_drop_rate
        self.scaling = self.head_dim**-0.5
        self.is_causal = False

        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.proj_drop = nn.Dropout(config.drop_rate)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        qkv = self.qkv(hidden_states).unflatten(-1, (3, self.num_attention_heads, self.head_dim))
        query, key, value = qkv.transpose(1, 3).unbind(dim=2)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, attn_weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.proj_drop(self.proj(attn_output.flatten(2))), attn_weights


class CedMLP(nn.Module):
    def __init__(self, config: CedConfig) -> None:
        super().__init__()
        intermediate_size = int(config.hidden_size * config.mlp_ratio)
        self.fc1 = nn.Linear(config.hidden_size, intermediate_size)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(intermediate_size, config.hidden_size)
        self.drop = nn.Dropout(config.drop_rate)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.drop(self.act(self.fc1(hidden_states)))
        return self.drop(self.fc2(hidden_states))


class CedDropPath(nn.Module):
    """Stochastic depth (https://arxiv.org/abs/1603.09382): drops residual branches of single samples in training."""

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return hidden_states
        keep_prob = 1 - self.drop_prob
        keep = hidden_states.new_empty(hidden_states.shape[0], 1, 1).bernoulli_(keep_prob)
        return hidden_states * keep / keep_prob


class CedLayer(GradientCheckpointingLayer):
    """A pre-norm transformer block."""

    def __init__(self, config: CedConfig, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.attn = CedAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.mlp = CedMLP(config)
        self.drop_path = CedDropPath(drop_path_rate)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attn_output, _ = self.attn(self.norm1(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + self.drop_path(attn_output)
        return hidden_states + self.drop_path(self.mlp(self.norm2(hidden_states)))


class ResizeTimePositions(ConversionOps):
    """
    Fits the time positions `(1, hidden_size, 1, positions)` of a checkpoint to the model's `target_length`: a shorter
    table gets the first positions, a longer one bilinear interpolation.
    """

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        _, positions = kwargs["config"].num_patches
        tables = {name: table[0] if isinstance(table, list) else table for name, table in input_dict.items()}
        for name, table in tables.items():
            if table.shape[-1] < positions:
                resized = nn.functional.interpolate(table.float(), size=(1, positions), mode="bilinear")
                tables[name] = resized.to(table.dtype)
            else:
                tables[name] = table[..., :positions].contiguous()
        return tables

    @property
    def reverse_op(self) -> ConversionOps:
        return self  # positions are saved unchanged


register_checkpoint_conversion_mapping(
    "ced", [WeightConverter("time_pos_embed", "time_pos_embed", [ResizeTimePositions()])], overwrite=True
)


@auto_docstring
class CedPreTrainedModel(PreTrainedModel):
    config: CedConfig
    base_model_prefix = "encoder"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    # The binary cross-entropy is a mean over clips, which Trainer must average over accumulated batches.
    accepts_loss_kwargs = False
    # bfloat16 would round decibels to steps of up to 0.5 dB.
    _keep_in_fp32_modules_strict = {"init_bn"}
    _no_split_modules = ["CedPatchEmbeddings", "CedLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": CedLayer, "attentions": CedAttention}
    _input_embed_layer = "patch_embed"

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """
        Saves the model as [`~PreTrainedModel.save_pretrained`] does, and its code, so that the folder can be loaded
        with `trust_remote_code=True` where this package is not installed.
        """
        # transformers would add only this class, and a loaded `auto_map` may refer to the code of another repository.
        self.config.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the weights"""
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
        elif isinstance(module, nn.Conv2d):
            module.reset_parameters()  # as PyTorch does
        elif isinstance(module, CedModel):
            init.normal_(module.time_pos_embed, std=std)
            init.normal_(module.freq_pos_embed, std=std)
            if module.cls_token is not None:
                init.normal_(module.cls_token, std=1e-6)
                init.normal_(module.token_pos_embed, std=std)


@auto_docstring(
    custom_intro="""
    The bare CED encoder, which outputs tokens and a pooled embedding, without any head. It also loads classification
    checkpoints, and resizes their time positions to a different `target_length`.
    """
)
class CedModel(CedPreTrainedModel):
    _auto_class = OwnCode("AutoModel")

    def __init__(self, config: CedConfig) -> None:
        super().__init__(config)
        self.num_bands, positions = config.num_patches
        # `_keep_in_fp32_modules_strict` applies only when weights are loaded.
        self.init_bn = nn.BatchNorm2d(config.n_mels, momentum=0.01, dtype=torch.float32)
        self.patch_embed = CedPatchEmbeddings(config)
        self.time_pos_embed = nn.Parameter(torch.zeros(1, config.hidden_size, 1, positions))
        self.freq_pos_embed = nn.Parameter(torch.zeros(1, config.hidden_size, self.num_bands, 1))
        self.cls_token = self.token_pos_embed = None
        if config.pooling == "token":
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
            self.token_pos_embed = nn.Parameter(torch.zeros(1, config.hidden_size))
        self.pos_drop = nn.Dropout(config.drop_rate)
        rates = torch.linspace(0, config.drop_path_rate, config.num_hidden_layers, device="cpu").tolist()
        self.blocks = nn.ModuleList([CedLayer(config, rate) for rate in rates])
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-6)

        # Initialize weights and apply final processing
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    @auto_docstring(custom_args=INPUTS_DOCSTRING)
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CedModelOutput:
        self._check_inputs(input_values, attention_mask)
        mask = input_values.new_ones(input_values[:, 0].shape) if attention_mask is None else attention_mask
        values = masked_batch_norm(self.init_bn, input_values.to(self.init_bn.weight.dtype), mask.bool())
        chunks = self._split(values)  # (batch_size, n_mels, chunks, frames)
        hidden_states = self._embed(chunks.transpose(1, 2).flatten(0, 1))
        patch_mask, chunk_mask = self._get_masks(mask.bool())
        block_mask = None
        # No mask if there is no padding: exported models would compute it for each input.
        if attention_mask is not None or not (chunk_mask.shape[1] == 1 or self.config.pad_last):
            token_mask = self._get_token_rows(patch_mask, chunk_mask).flatten(0, 1)
            block_mask = create_bidirectional_mask(self.config, hidden_states, token_mask)
        for block in self.blocks:
            hidden_states = block(hidden_states, block_mask, **kwargs)
        tokens = self.norm(hidden_states).unflatten(0, (-1, chunk_mask.shape[1]))

        patch_tokens = tokens if self.cls_token is None else tokens[:, :, 1:]
        frame_states = patch_tokens.unflatten(2, (self.num_bands, -1)).mean(dim=2)
        chunk_states = combine(frame_states, patch_mask) if self.cls_token is None else tokens[:, :, 0]
        return CedModelOutput(
            last_hidden_state=self._join(tokens, input_values.shape[-1]),
            pooler_output=combine(chunk_states, chunk_mask, self.config.eval_avg),
            chunk_states=chunk_states,
            frame_states=frame_states,
            patch_mask=patch_mask.long(),
            chunk_mask=chunk_mask.long(),
        )

    def _check_inputs(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
        check_tensor(input_values, "input_values")
        if attention_mask is not None:
            check_tensor(attention_mask, "attention_mask")
        n_mels, size, frames = self.config.n_mels, self.config.patch_size, input_values.shape[-1]
        if input_values.shape[1:] != (n_mels, frames) or frames < size:
            raise ValueError(
                f"`input_values` must have shape (batch_size, {n_mels}, frames), with at least {size} frames, got"
                f" {tuple(input_values.shape)}."
            )
        if attention_mask is None:
            return
        expected = input_values[:, 0].shape
        if attention_mask.shape != expected:
            raise ValueError(f"`attention_mask` must have shape {tuple(expected)}, got {tuple(attention_mask.shape)}.")
        has_patch = whole_patches(self._split(attention_mask.bool())[:, :1], size).any(dim=-1)
        if not is_tracing(has_patch) and not has_patch.all():
            clip = has_patch.int().argmin().item()
            raise ValueError(f"`attention_mask` leaves clip {clip} without a patch of {size} valid frames.")

    def _embed(self, values: torch.Tensor) -> torch.Tensor:
        """Patch plus position embeddings: tokens `(rows, tokens, hidden_size)` in frequency-major order."""
        patches = self.patch_embed(values)
        # Not a slice, which would exclude the full length from the input lengths of exported models.
        positions = torch.arange(patches.shape[-1], device=patches.device)
        patches = patches + self.time_pos_embed.index_select(-1, positions) + self.freq_pos_embed
        # Contiguous, which saves each LayerNorm in the blocks a copy.
        hidden_states = patches.flatten(2).transpose(1, 2).contiguous()
        if self.cls_token is not None:
            cls_token = (self.cls_token + self.token_pos_embed).expand(hidden_states.shape[0], -1, -1)
            hidden_states = torch.cat([cls_token, hidden_states], dim=1)
        return self.pos_drop(hidden_states)

    def _plan_chunks(self, num_frames: int) -> tuple[int, int, int]:
        """Number of chunks of a clip, frames per chunk, and number of patches in the last chunk."""
        number, frames, size = 1, num_frames, self.config.patch_size
        if num_frames > self.config.target_length:
            frames = self.config.target_length
            if not self.config.pad_last:  # chunks of whole patches, so that only frames at the end are dropped
                frames, num_frames = frames // size * size, num_frames // size * size
            number = (num_frames + frames - 1) // frames
        return number, frames, (num_frames - (number - 1) * frames) // size

    def _split(self, values: torch.Tensor) -> torch.Tensor:
        """Zero-pads values `(…, frames)` and splits them into chunks `(…, chunks, frames)`."""
        number, frames, _ = self._plan_chunks(values.shape[-1])
        return nn.functional.pad(values, (0, number * frames - values.shape[-1])).unflatten(-1, (number, frames))

    def _join(self, tokens: torch.Tensor, num_frames: int) -> torch.Tensor:
        """`(batch_size, chunks, tokens, …)` → `(batch_size, tokens, …)`, without the padding of the last chunk."""
        number, _, last_patches = self._plan_chunks(num_frames)
        if number == 1 or self.config.pad_last:
            return tokens.flatten(1, 2)
        special, last = int(self.cls_token is not None), tokens[:, -1]
        patches = last[:, special:].unflatten(1, (self.num_bands, -1))[:, :, :last_patches].flatten(1, 2)
        return torch.cat([tokens[:, :-1].flatten(1, 2), last[:, :special], patches], dim=1)

    def _get_masks(self, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Masks of the valid patches `(batch_size, chunks, patches)` and chunks `(batch_size, chunks)` of each clip.

        In the first mask, padding chunks count as valid, since attention needs at least one valid token per row.
        """
        frames, chunk = self._split(mask), torch.arange(self._plan_chunks(mask.shape[-1])[0], device=mask.device)
        if self.config.pad_last:
            # Padding of the last chunk of a long clip counts as valid.
            last = (frames.any(dim=-1) * chunk).amax(dim=-1, keepdim=True)
            frames = frames | ((chunk == last) & (last > 0)).unsqueeze(-1)
        patch_mask = whole_patches(frames, self.config.patch_size)
        chunk_mask = patch_mask.any(dim=-1) | (chunk == 0)
        return patch_mask | ~chunk_mask.unsqueeze(-1), chunk_mask

    def _get_token_rows(self, patch_mask: torch.Tensor, chunk_mask: torch.Tensor) -> torch.Tensor:
        """Mask of tokens `(batch_size, chunks, tokens)` from the masks of patches and chunks."""
        tokens = patch_mask.repeat(1, 1, self.num_bands)
        return tokens if self.cls_token is None else torch.cat([chunk_mask.unsqueeze(-1), tokens], dim=-1)

    def get_token_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """
        Mask of the tokens of `last_hidden_state` that are not padding.

        Args:
            attention_mask (`torch.Tensor` of shape `(batch_size, frames)`):
                The mask that was passed to the model.

        Returns:
            `torch.BoolTensor` of shape `(batch_size, sequence_length)`: `last_hidden_state[i, mask[i]]` are the tokens
            of clip `i`, the same as without padding.
        """
        patch_mask, chunk_mask = self._get_masks(attention_mask.bool())
        rows = self._get_token_rows(patch_mask & chunk_mask.unsqueeze(-1), chunk_mask)
        return self._join(rows, attention_mask.shape[-1])


class CedHeadModel(CedPreTrainedModel):
    """The encoder with a tagging head: a LayerNorm and a linear layer."""

    def __init__(self, config: CedConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.encoder = CedModel(config)
        self.outputlayer = nn.Sequential(
            nn.LayerNorm(config.hidden_size), nn.Linear(config.hidden_size, config.num_labels)
        )

        # Initialize weights and apply final processing
        self.post_init()

    def freeze_base_model(self) -> None:
        """Freezes the encoder, including the running statistics of `init_bn`, so that only the head is trained."""
        self.encoder.requires_grad_(False)

    def classify(self, outputs: CedModelOutput) -> torch.Tensor:
        """Computes logits of shape `(batch_size, num_labels)` from the encoder's output."""
        config, problem_type = self.config, self.config.problem_type
        if config.pooling == "dm":
            logits = average_logits(self.outputlayer(outputs.frame_states), outputs.patch_mask, problem_type)
        else:
            logits = self.outputlayer(outputs.chunk_states)  # (batch_size, chunks, num_labels)
        if logits.shape[1] == 1:
            return logits.squeeze(1)
        if config.pooling == "logit" or problem_type == "regression":
            return combine(logits, outputs.chunk_mask, config.eval_avg)
        if problem_type == "single_label_classification":
            logits = logits.log_softmax(dim=-1)  # comparable between chunks
        if config.eval_avg == "mean":
            logits = average_logits(logits, outputs.chunk_mask, problem_type)
        else:
            logits = combine(logits, outputs.chunk_mask, "max")
        return logits.clamp(-MAX_LOGIT, MAX_LOGIT)


@auto_docstring(
    custom_intro="""
    CED with a tagging head on top (a LayerNorm and a linear layer on the pooled tokens), e.g. for AudioSet.
    """
)
class CedForAudioClassification(CedHeadModel):
    _auto_class = OwnCode("AutoModelForAudioClassification")

    @can_return_tuple
    @auto_docstring(custom_args=INPUTS_DOCSTRING + LABELS_DOCSTRING)
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        r"""
        Returns:
            The `logits` before the sigmoid: `logits.sigmoid()` are the tag probabilities. For a clip longer than
            `target_length` frames, probabilities are averaged over its chunks (or their maximum, see `eval_avg`).

        Example:

        ```python
        >>> import ced_model
        >>> import torch
        >>> from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

        >>> feature_extractor = AutoFeatureExtractor.from_pretrained("mispeech/ced-tiny")
        >>> model = AutoModelForAudioClassification.from_pretrained("mispeech/ced-tiny")

        >>> waveform = torch.zeros(16000)  # mono audio at 16 kHz, here one second of silence
        >>> inputs = feature_extractor(waveform, sampling_rate=16000)
        >>> with torch.no_grad():
        ...     scores = model(**inputs).logits.sigmoid()[0]
        >>> top_tags = [model.config.id2label[index] for index in scores.topk(5).indices.tolist()]
        ```
        """
        if labels is not None:
            check_tensor(input_values, "input_values")
            labels = self._prepare_labels(labels, input_values.shape[0])
        outputs: CedModelOutput = self.encoder(input_values, attention_mask=attention_mask, return_dict=True, **kwargs)
        logits = self.classify(outputs)

        loss = None
        if labels is not None:
            loss = self.loss_function(labels, logits, self.config, **kwargs)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _prepare_labels(self, labels: torch.Tensor, batch_size: int) -> torch.Tensor:
        """Checks the shape of the labels and converts them to the dtype of the loss."""
        check_tensor(labels)
        is_index = labels.shape == (batch_size,) and not labels.is_floating_point()
        if is_index and self.config.problem_type == "multi_label_classification" and self.num_labels > 1:
            logger.warning_once(
                "The labels are class indices: setting `config.problem_type` to 'single_label_classification' (softmax"
                " and cross-entropy). Pass `problem_type` to `from_pretrained` to choose it yourself."
            )
            self.config.problem_type = "single_label_classification"
        if self.config.problem_type == "single_label_classification":
            labels, fits = labels.long(), is_index
        else:
            labels = labels.unsqueeze(1) if self.num_labels == 1 and labels.ndim == 1 else labels
            labels, fits = labels.to(self.dtype), labels.shape == (batch_size, self.num_labels)
        if not fits:
            raise ValueError(
                f"`labels` of shape {tuple(labels.shape)} do not fit {batch_size} clips, {self.num_labels} classes and"
                f" `problem_type={self.config.problem_type!r}`."
            )
        return labels


@auto_docstring(
    custom_intro="""
    CED with a tagging head on top of each time step of 160 ms (the mean of its tokens over frequency), for sound event
    detection. It loads the head of classification checkpoints. Attention spans the clip, so the scores of a step also
    depend on sounds before and after it. Onsets of single sounds in a quiet scene are found to within about half a step
    (`benchmarks/onsets.py`).
    """
)
class CedForAudioFrameClassification(CedHeadModel):
    _auto_class = OwnCode("AutoModelForAudioFrameClassification")

    @can_return_tuple
    @auto_docstring(custom_args=INPUTS_DOCSTRING + FRAME_LABELS_DOCSTRING)
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TokenClassifierOutput:
        r"""
        Returns:
            The `logits` before the sigmoid, of shape `(batch_size, steps, num_labels)` with `steps = frames // 16`. See
            [`CedForAudioFrameClassification.get_step_mask`] for those of padding. For a clip longer than
            `target_length`, the steps of its chunks are concatenated. With `pad_last=True` a chunk of 1012 frames has
            63 steps and the last 4 frames are dropped; load the model with `pad_last=False` for steps of exactly
            160 ms throughout.
        """
        outputs: CedModelOutput = self.encoder(input_values, attention_mask=attention_mask, return_dict=True, **kwargs)
        logits = self._join_steps(self.outputlayer(outputs.frame_states), input_values.shape[-1])

        loss = None
        if labels is not None:
            check_tensor(labels)
            if labels.shape != logits.shape:
                raise ValueError(f"`labels` must have shape {tuple(logits.shape)}, got {tuple(labels.shape)}.")
            mask = torch.ones_like(input_values[:, 0]) if attention_mask is None else attention_mask
            mask = self.get_step_mask(mask).unsqueeze(-1)
            labels = labels.to(logits.dtype).masked_fill(~mask, 0.0)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
            loss = (loss * mask).sum() / (mask.sum() * self.num_labels)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def get_step_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """
        Mask of the steps of `logits` that are not padding.

        Args:
            attention_mask (`torch.Tensor` of shape `(batch_size, frames)`):
                The mask that was passed to the model.

        Returns:
            `torch.BoolTensor` of shape `(batch_size, steps)`: True where all 16 frames of a step are valid.
        """
        patch_mask = whole_patches(self.encoder._split(attention_mask.bool()), self.config.patch_size)
        return self._join_steps(patch_mask, attention_mask.shape[-1])

    def _join_steps(self, steps: torch.Tensor, num_frames: int) -> torch.Tensor:
        """`(batch_size, chunks, patches, …)` → `(batch_size, steps, …)`, without the padding of the last chunk."""
        number, _, last_patches = self.encoder._plan_chunks(num_frames)
        return steps.flatten(1, 2)[:, : (number - 1) * steps.shape[2] + last_patches]


__all__ = ["CedForAudioClassification", "CedForAudioFrameClassification", "CedModel", "CedPreTrainedModel"]
