# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch CED model."""

from .custom_code import AUTO_MAP, OwnCode

# isort: split

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, logging
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.import_utils import is_tracing
from transformers.utils.output_capturing import capture_outputs

from .configuration_ced import CedConfig

logger = logging.get_logger(__name__)

# Probabilities of long clips are clamped to [1e-7, 1 - 1e-7] before they become logits again, so these stay finite.
MAX_LOGIT = math.log((1 - 1e-7) / 1e-7)


@dataclass
@auto_docstring(
    custom_intro="""
    Output of [`CedModel`].
    """
)
class CedModelOutput(BaseModelOutputWithPooling):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
        Tokens after the final LayerNorm, `n_mels // 16 * (frames // 16)` in frequency-major order, behind the class
        token if `pooling="token"`. A clip longer than `target_length` has the tokens of its chunks one after another.
    pooler_output (`torch.FloatTensor` of shape `(batch_size, hidden_size)`):
        Mean of the clip's tokens, or its class token if `pooling="token"`; for a long clip, the mean or maximum
        (`eval_avg`) over its chunks.
    chunk_states (`torch.FloatTensor` of shape `(batch_size, chunks, hidden_size)`):
        Input of the classification head: the pooled tokens of each chunk. With `pooling="dm"` the mean over frequency
        at each position in time, of shape `(batch_size, chunks, patches, hidden_size)`.
    patch_mask (`torch.LongTensor` of shape `(batch_size, chunks, patches)`, *optional*):
        1 for the valid patches in time of each chunk. `None` if all are valid.
    chunk_mask (`torch.LongTensor` of shape `(batch_size, chunks)`, *optional*):
        1 for the chunks that each clip has. `None` if every clip has all.
    """

    chunk_states: torch.FloatTensor | None = None
    patch_mask: torch.LongTensor | None = None
    chunk_mask: torch.LongTensor | None = None


class CedChunks(NamedTuple):
    """How the frames of an input are split: inputs longer than `target_length` are encoded in several chunks."""

    number: int
    frames: int  # of each chunk
    patches: int  # of each chunk, in time
    last_patches: int  # of the last chunk, which may be shorter

    @classmethod
    def of(cls, config: CedConfig, num_frames: int) -> "CedChunks":
        patches = num_frames // config.patch_size
        if num_frames <= config.target_length:
            return cls(1, num_frames, patches, patches)
        longest = config.target_length // config.patch_size
        if config.pad_last:
            number = (num_frames + config.target_length - 1) // config.target_length
            return cls(number, config.target_length, longest, longest)
        number = (patches + longest - 1) // longest
        return cls(number, longest * config.patch_size, longest, patches - (number - 1) * longest)

    def split(self, values: torch.Tensor) -> torch.Tensor:
        """Mel frames `(batch_size, n_mels, frames)` as zero-padded rows `(batch_size * chunks, n_mels, frames)`."""
        if self.number == 1:
            return values
        values = nn.functional.pad(values, (0, self.number * self.frames - values.shape[-1]))
        return values.unflatten(2, (self.number, self.frames)).transpose(1, 2).flatten(0, 1)

    def join(self, rows: torch.Tensor, num_bands: int, dim: int = 1) -> torch.Tensor:
        """
        Tokens of each clip's chunks one after another along `dim`, without those that only pad the last chunk.

        `rows` has one row per chunk, whose tokens are in frequency-major order, possibly behind a class token.
        """
        if self.number == 1:
            return rows
        tokens = rows.movedim(dim, 1).unflatten(0, (-1, self.number))
        special = tokens.shape[2] - num_bands * self.patches
        last = tokens[:, -1, special:].unflatten(1, (num_bands, self.patches))[:, :, : self.last_patches]
        parts = [tokens[:, :-1].flatten(1, 2), tokens[:, -1, :special], last.flatten(1, 2)]
        return torch.cat(parts, dim=1).movedim(1, dim)

    def get_masks(self, config: CedConfig, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Valid patches `(batch_size, chunks, patches)` and the chunks that each clip has `(batch_size, chunks)`.

        A patch is valid only if all of its frames are. Chunks that a clip does not have count as valid in the first
        mask, since attention needs something to attend to.
        """
        frames = nn.functional.pad(attention_mask.bool(), (0, self.number * self.frames - attention_mask.shape[-1]))
        if config.pad_last:
            # The zeros that fill up the last chunk of a long clip count as valid.
            positions = torch.arange(frames.shape[-1], device=frames.device)
            last = (frames * positions).amax(dim=-1, keepdim=True)
            frames = frames | ((last >= config.target_length) & (positions // self.frames == last // self.frames))
        frames = frames.unflatten(1, (self.number, self.frames))
        # Pooling drops a remainder of frames as the convolution does; a slice would fix the length of exported models.
        patch_mask = nn.functional.max_pool2d((~frames).float(), (1, config.patch_size)) == 0
        if not is_tracing(patch_mask) and not (has_patch := patch_mask[:, 0].any(dim=-1)).all():
            raise ValueError(
                f"`attention_mask` leaves clip {has_patch.int().argmin().item()} without a whole patch of"
                f" {config.patch_size} frames. `CedFeatureExtractor` pads short clips to one patch."
            )
        chunk_mask = patch_mask.any(dim=-1) | (torch.arange(self.number, device=frames.device) == 0)
        return patch_mask | ~chunk_mask.unsqueeze(-1), chunk_mask


def masked_mean(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean over the last dimension but one of `(…, length, hidden_size)` where the mask `(…, length)` is True."""
    if mask is None:
        return values.mean(dim=-2)
    weights = mask.unsqueeze(-1).to(values.dtype)
    return (values * weights).sum(dim=-2) / weights.sum(dim=-2)


def masked_max(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Maximum, as [`masked_mean`]."""
    if mask is not None:
        values = values.masked_fill(~mask.bool().unsqueeze(-1), -math.inf)
    return values.amax(dim=-2)


def masked_log_mean_exp(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Logarithm of the mean of `values.exp()`, as [`masked_mean`]."""
    mask = values.new_ones(values.shape[:-1]) if mask is None else mask
    values = values.masked_fill(~mask.bool().unsqueeze(-1), -math.inf)
    return values.logsumexp(dim=-2) - mask.sum(dim=-1, keepdim=True).to(values.dtype).log()


def average_probabilities(logits: torch.Tensor, mask: torch.Tensor | None, problem_type: str) -> torch.Tensor:
    """
    Logits of the mean class probability, as [`masked_mean`]; regression outputs are averaged as they are.

    The computation stays in the log domain: saturated probabilities neither overflow nor lose their gradient.
    """
    if problem_type == "regression":
        return masked_mean(logits, mask)
    logits = logits.float()
    if problem_type == "single_label_classification":
        return masked_log_mean_exp(logits.log_softmax(dim=-1), mask)
    positive, negative = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
    return masked_log_mean_exp(positive, mask) - masked_log_mean_exp(negative, mask)


def masked_batch_norm(norm: nn.BatchNorm2d, values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """
    Batch normalisation of mel frames `(batch_size, n_mels, frames)`, one channel per mel bin. Frames where `mask`
    `(batch_size, frames)` is False are left out of the statistics, and zero in the result.
    """
    if mask is not None:
        padding = ~mask.bool().unsqueeze(1)
        # NaN or infinity in the padding would reach statistics and gradients, since 0 · NaN is NaN.
        values = values.masked_fill(padding, 0.0)
    # A frozen layer uses its running statistics and leaves them as they are, in training too.
    is_frozen = not norm.weight.requires_grad
    if norm.running_mean is not None and (is_frozen or not norm.training):
        mean, var = norm.running_mean, norm.running_var
    elif mask is None:
        return norm(values.unsqueeze(2)).squeeze(2)
    else:
        weights = (~padding).to(values.dtype)
        count = weights.sum()
        mean = values.sum(dim=(0, 2)) / count
        var = ((values - mean[:, None]).square() * weights).sum(dim=(0, 2)) / count
        if norm.running_mean is not None:
            with torch.no_grad():
                norm.num_batches_tracked.add_(1)
                # Without a momentum, the cumulative average. The running variance is the unbiased one, as in PyTorch.
                momentum = 1 / norm.num_batches_tracked.to(var.dtype) if norm.momentum is None else norm.momentum
                norm.running_mean.lerp_(mean, momentum)
                norm.running_var.lerp_(var * count / (count - 1).clamp(min=1), momentum)
    values = (values - mean[:, None]) * torch.rsqrt(var + norm.eps)[:, None]
    values = values * norm.weight[:, None] + norm.bias[:, None]
    return values if mask is None else values.masked_fill(padding, 0.0)


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
    """Stochastic depth per sample (https://arxiv.org/abs/1603.09382): drops a whole residual branch in training."""

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
    Fits the time positions `(1, hidden_size, 1, positions)` of a checkpoint to the model's `target_length`: the first
    ones for a shorter table, bilinear interpolation for a longer one.
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
        return self  # a model is saved with the positions that it has


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
    # The binary cross-entropy is a mean over clips: Trainer must average it over accumulated batches itself.
    accepts_loss_kwargs = False
    # Decibels in half precision are steps of up to half a decibel.
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
        Saves the model as [`~PreTrainedModel.save_pretrained`] does, with its code, so that the folder loads with
        `trust_remote_code=True` where this package is not installed.
        """
        # All classes: transformers names this one alone, and a stored map may name the code of another repository.
        self.config.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the weights"""
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
        elif isinstance(module, nn.Conv2d):  # as PyTorch does
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, CedModel):
            init.normal_(module.time_pos_embed, std=std)
            init.normal_(module.freq_pos_embed, std=std)
            if module.cls_token is not None:
                init.normal_(module.cls_token, std=1e-6)
                init.normal_(module.token_pos_embed, std=std)


@auto_docstring(
    custom_intro="""
    The bare CED encoder, which turns log-mel spectrograms into tokens and a pooled embedding. It loads the encoder of
    classification checkpoints too, and fits the time positions to another `target_length`.
    """
)
class CedModel(CedPreTrainedModel):
    _auto_class = OwnCode("AutoModel")

    def __init__(self, config: CedConfig) -> None:
        super().__init__(config)
        self.num_bands, positions = config.num_patches
        # The dtype of `_keep_in_fp32_modules_strict`, which applies only where weights are loaded.
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

    def get_input_embeddings(self) -> CedPatchEmbeddings:
        return self.patch_embed

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CedModelOutput:
        r"""
        input_values (`torch.Tensor` of shape `(batch_size, n_mels, frames)`):
            Log-mel spectrograms in decibels from [`CedFeatureExtractor`], with at least 16 frames.
        attention_mask (`torch.Tensor` of shape `(batch_size, frames)`, *optional*):
            1 for frames of the clip, 0 for padding behind it. With it each clip's output is that of the clip alone.
            Without it all frames count. Each clip needs one valid patch of 16 frames.
        """
        n_mels, size = self.config.n_mels, self.config.patch_size
        if input_values.ndim != 3 or input_values.shape[1] != n_mels or input_values.shape[2] < size:
            raise ValueError(
                f"`input_values` must have shape (batch_size, {n_mels}, frames) with at least {size} frames, got"
                f" {tuple(input_values.shape)}. `CedFeatureExtractor` makes such log-mel spectrograms of waveforms."
            )
        batch_size, _, num_frames = input_values.shape
        if attention_mask is not None and attention_mask.shape != (batch_size, num_frames):
            raise ValueError(
                f"`attention_mask` must have shape (batch_size, frames), here {(batch_size, num_frames)}, got"
                f" {tuple(attention_mask.shape)}."
            )
        chunks = CedChunks.of(self.config, num_frames)
        if attention_mask is None and chunks.last_patches < chunks.patches:
            attention_mask = torch.ones_like(input_values[:, 0])
        values = masked_batch_norm(self.init_bn, input_values.to(self.init_bn.weight.dtype), attention_mask)
        hidden_states = self._embed(chunks.split(values))
        patch_mask = chunk_mask = block_mask = None  # all is valid; exported models would compute a mask nevertheless
        if attention_mask is not None:
            patch_mask, chunk_mask = chunks.get_masks(self.config, attention_mask)
            block_mask = create_bidirectional_mask(
                config=self.config,
                inputs_embeds=hidden_states,
                attention_mask=self._get_token_rows(patch_mask, chunk_mask),
            )
        # A tuple, if the configuration asks for one, is made of the result alone.
        rows = self._encode(hidden_states, block_mask, return_dict=True, **kwargs)

        tokens = rows.last_hidden_state.unflatten(0, (-1, chunks.number))  # (batch_size, chunks, tokens, hidden_size)
        if self.config.pooling == "token":
            pooled = tokens[:, :, 0]
        else:
            pooled = masked_mean(tokens, None if patch_mask is None else patch_mask.repeat(1, 1, self.num_bands))
        chunk_states = pooled
        if self.config.pooling == "dm":
            chunk_states = tokens.unflatten(2, (self.num_bands, chunks.patches)).mean(dim=2)

        def join(outputs: tuple[torch.Tensor | None, ...] | None, dim: int) -> tuple[torch.Tensor | None, ...] | None:
            return outputs and tuple(x if x is None else chunks.join(x, self.num_bands, dim) for x in outputs)

        return CedModelOutput(
            last_hidden_state=chunks.join(rows.last_hidden_state, self.num_bands),
            pooler_output=(masked_mean if self.config.eval_avg == "mean" else masked_max)(pooled, chunk_mask),
            hidden_states=join(rows.hidden_states, dim=1),
            attentions=join(rows.attentions, dim=2),
            chunk_states=chunk_states,
            patch_mask=None if patch_mask is None else patch_mask.long(),
            chunk_mask=None if chunk_mask is None else chunk_mask.long(),
        )

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def _encode(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """The blocks and the final norm, on rows of `(batch_size * chunks, tokens, hidden_size)`."""
        for block in self.blocks:
            hidden_states = block(hidden_states, attention_mask, **kwargs)
        return BaseModelOutputWithPooling(last_hidden_state=self.norm(hidden_states))

    def _embed(self, values: torch.Tensor) -> torch.Tensor:
        """Patches plus positions, as tokens `(rows, tokens, hidden_size)` in frequency-major order."""
        patches = self.patch_embed(values)
        # A slice would keep exported models from the full length, where it takes the whole table.
        positions = torch.arange(patches.shape[-1], device=patches.device)
        patches = patches + self.time_pos_embed.index_select(-1, positions) + self.freq_pos_embed
        # All blocks keep this layout: contiguous rows save each LayerNorm a copy.
        hidden_states = patches.flatten(2).transpose(1, 2).contiguous()
        if self.cls_token is not None:
            cls_token = (self.cls_token + self.token_pos_embed).expand(hidden_states.shape[0], -1, -1)
            hidden_states = torch.cat([cls_token, hidden_states], dim=1)
        return self.pos_drop(hidden_states)

    def get_token_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """
        Which tokens of `last_hidden_state` belong to each clip of a padded batch.

        Args:
            attention_mask (`torch.Tensor` of shape `(batch_size, frames)`):
                The mask that was passed to the model.

        Returns:
            `torch.BoolTensor` of shape `(batch_size, sequence_length)`: `last_hidden_state[i, mask[i]]` equals the
            tokens of clip `i` alone.
        """
        chunks = CedChunks.of(self.config, attention_mask.shape[-1])
        patch_mask, chunk_mask = chunks.get_masks(self.config, attention_mask)
        return chunks.join(self._get_token_rows(patch_mask & chunk_mask.unsqueeze(-1), chunk_mask), self.num_bands)

    def _get_token_rows(self, patch_mask: torch.Tensor, chunk_mask: torch.Tensor) -> torch.Tensor:
        """Masks of patches `(batch_size, chunks, patches)` and chunks as one of tokens `(rows, tokens)`."""
        tokens = patch_mask.flatten(0, 1).repeat(1, self.num_bands)
        return tokens if self.cls_token is None else torch.cat([chunk_mask.reshape(-1, 1), tokens], dim=1)


@auto_docstring(
    custom_intro="""
    CED with its tagging head: a LayerNorm and a linear layer on the pooled tokens, e.g. for AudioSet.
    """
)
class CedForAudioClassification(CedPreTrainedModel):
    _auto_class = OwnCode("AutoModelForAudioClassification")

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
        """Freezes the encoder, so that only the head is trained. The running statistics of `init_bn` stay too."""
        self.encoder.requires_grad_(False)

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        r"""
        input_values (`torch.Tensor` of shape `(batch_size, n_mels, frames)`):
            Log-mel spectrograms in decibels from [`CedFeatureExtractor`], with at least 16 frames.
        attention_mask (`torch.Tensor` of shape `(batch_size, frames)`, *optional*):
            1 for frames of the clip, 0 for padding behind it. With it each clip's output is that of the clip alone.
            Without it all frames count. Each clip needs one valid patch of 16 frames.
        labels (`torch.Tensor`, *optional*):
            By `config.problem_type`: `"multi_label_classification"` (the default) takes multi-hot or soft targets of
            shape `(batch_size, num_labels)` for a binary cross-entropy; `"single_label_classification"` takes class
            indices of shape `(batch_size,)` for a cross-entropy; `"regression"` takes floats of shape
            `(batch_size, num_labels)` for a mean squared error. Class indices (integers of shape `(batch_size,)`) for a
            multi-label model set the problem type to `"single_label_classification"`, with a warning.

        Returns:
            The `logits` are raw: `logits.sigmoid()` are the tag probabilities. The logits of a clip longer than
            `target_length` frames are those of its chunks' averaged (or, by `eval_avg`, maximal) probabilities.

        Example:

        ```python
        >>> import ced_model
        >>> import torch
        >>> from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

        >>> feature_extractor = AutoFeatureExtractor.from_pretrained("mispeech/ced-tiny")
        >>> model = AutoModelForAudioClassification.from_pretrained("mispeech/ced-tiny")

        >>> waveform = torch.zeros(16000)  # one second of silence: put mono audio at 16 kHz here
        >>> inputs = feature_extractor(waveform, sampling_rate=16000)
        >>> with torch.no_grad():
        ...     scores = model(**inputs).logits.sigmoid()[0]
        >>> top_tags = [model.config.id2label[index] for index in scores.topk(5).indices.tolist()]
        ```
        """
        if labels is not None:
            labels = self._prepare_labels(labels, input_values.shape[0])
        outputs: CedModelOutput = self.encoder(input_values, attention_mask=attention_mask, return_dict=True, **kwargs)
        logits = self.classify(outputs)

        loss = None
        if labels is not None:
            loss = self.loss_function(labels, logits, self.config, **kwargs)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def classify(self, outputs: CedModelOutput) -> torch.Tensor:
        """Logits of shape `(batch_size, num_labels)` from the output of the encoder."""
        config = self.config
        logits = self.outputlayer(outputs.chunk_states)  # (batch_size, chunks, num_labels)
        if config.pooling == "dm":
            logits = average_probabilities(logits, outputs.patch_mask, config.problem_type)
        if logits.shape[1] == 1:
            return logits.squeeze(1)
        if config.pooling == "logit" or config.problem_type == "regression":
            return (masked_mean if config.eval_avg == "mean" else masked_max)(logits, outputs.chunk_mask)
        if config.eval_avg == "mean":
            logits = average_probabilities(logits, outputs.chunk_mask, config.problem_type)
        else:
            is_softmax = config.problem_type == "single_label_classification"
            logits = masked_max(logits.log_softmax(dim=-1) if is_softmax else logits, outputs.chunk_mask)
        return logits.clamp(-MAX_LOGIT, MAX_LOGIT)

    def _prepare_labels(self, labels: torch.Tensor, batch_size: int) -> torch.Tensor:
        """Labels in the type that the loss takes; raises a ValueError where their shape does not fit."""
        is_index = labels.shape == (batch_size,) and not labels.is_floating_point()
        if is_index and self.config.problem_type == "multi_label_classification" and self.num_labels > 1:
            logger.warning_once(
                "The labels are class indices: setting `config.problem_type` to 'single_label_classification' (softmax"
                " and cross-entropy). Pass `problem_type` to `from_pretrained` to choose it yourself."
            )
            self.config.problem_type = "single_label_classification"
        if self.config.problem_type == "single_label_classification":
            labels, fits, expected = labels.long(), is_index, f"({batch_size},) with class indices"
        else:
            if self.num_labels == 1 and labels.ndim == 1:
                labels = labels.unsqueeze(1)
            labels, expected = labels.to(self.dtype), (batch_size, self.num_labels)
            fits = labels.shape == expected
        if not fits:
            raise ValueError(
                f"`labels` of shape {tuple(labels.shape)} do not fit `problem_type={self.config.problem_type!r}`, which"
                f" takes shape {expected}."
            )
        return labels


__all__ = ["CedForAudioClassification", "CedModel", "CedPreTrainedModel"]
