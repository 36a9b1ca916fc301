# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch CED model."""

from .custom_code import AUTO_MAP

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
        Tokens after the final LayerNorm. A clip of up to `target_length` frames has `4 * (frames // 16)` of them in
        frequency-major order (token = band · (frames // 16) + patch in time), behind the class token if
        `pooling="token"`. A longer clip has those of its chunks one after another.
    pooler_output (`torch.FloatTensor` of shape `(batch_size, hidden_size)`):
        Mean of the clip's tokens, or its class token if `pooling="token"`. For a long clip, the mean or maximum
        (`eval_avg`) over its chunks.
    chunk_states (`torch.FloatTensor` of shape `(batch_size, chunks, hidden_size)`):
        What the classification head takes: the pooled tokens of each chunk; with `pooling="dm"` the mean over frequency
        of each step in time, of shape `(batch_size, chunks, patches, hidden_size)`.
    patch_mask (`torch.LongTensor` of shape `(batch_size, chunks, patches)`, *optional*):
        1 for the valid patches in time of each chunk. `None` if all are valid.
    chunk_mask (`torch.LongTensor` of shape `(batch_size, chunks)`, *optional*):
        1 for the chunks that each clip has. `None` if every clip has all.
    """

    chunk_states: torch.FloatTensor | None = None
    patch_mask: torch.LongTensor | None = None
    chunk_mask: torch.LongTensor | None = None


class CedChunks(NamedTuple):
    """How the frames of an input are cut: inputs longer than `target_length` are encoded as several chunks."""

    number: int
    frames: int  # from the start of one chunk to the next
    patches: int  # per chunk, in time
    last_patches: int  # of the last chunk, which may be shorter


def get_chunks(config: CedConfig, num_frames: int) -> CedChunks:
    """The chunks of an input of `num_frames` frames."""
    size = config.patch_size
    if num_frames <= config.target_length:
        return CedChunks(1, num_frames, num_frames // size, num_frames // size)
    patches = config.target_length // size
    if config.pad_last:
        number = (num_frames + config.target_length - 1) // config.target_length
        return CedChunks(number, config.target_length, patches, patches)
    number = (num_frames // size + patches - 1) // patches
    return CedChunks(number, size * patches, patches, num_frames // size - (number - 1) * patches)


def split_chunks(values: torch.Tensor, chunks: CedChunks) -> torch.Tensor:
    """Mel frames `(batch_size, n_mels, frames)`, zero-padded, as rows `(batch_size * chunks, n_mels, chunk frames)`."""
    if chunks.number == 1:
        return values
    values = nn.functional.pad(values, (0, chunks.number * chunks.frames - values.shape[-1]))
    return values.unflatten(2, (chunks.number, chunks.frames)).transpose(1, 2).flatten(0, 1)


def join_chunks(rows: torch.Tensor, chunks: CedChunks, num_bands: int) -> torch.Tensor:
    """
    Tokens of each clip's chunks one after another, without those that padded the last chunk.

    Args:
        rows (`torch.Tensor` of shape `(batch_size * chunks, tokens, …)`):
            One row per chunk, its tokens in frequency-major order, possibly behind a class token.
        num_bands (`int`):
            Patches in frequency.

    Returns:
        `torch.Tensor` of shape `(batch_size, sequence_length, …)`.
    """
    if chunks.number == 1:
        return rows
    tokens = rows.unflatten(0, (-1, chunks.number))
    if chunks.last_patches == chunks.patches:
        return tokens.flatten(1, 2)
    special = rows.shape[1] - num_bands * chunks.patches
    last = tokens[:, -1, special:].unflatten(1, (num_bands, chunks.patches))[:, :, : chunks.last_patches]
    return torch.cat([tokens[:, :-1].flatten(1, 2), tokens[:, -1, :special], last.flatten(1, 2)], dim=1)


def get_patch_mask(
    config: CedConfig, attention_mask: torch.Tensor, chunks: CedChunks
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Valid patches `(batch_size, chunks, patches)` and the chunks that each clip has `(batch_size, chunks)`.

    A patch is valid only if all of its frames are. Chunks that a clip does not have count as valid in the first mask,
    since attention needs something to attend to.
    """
    size = config.patch_size
    frames = nn.functional.pad(attention_mask.bool(), (0, chunks.number * chunks.frames - attention_mask.shape[-1]))
    starts = torch.arange(chunks.number, device=frames.device) * chunks.frames
    if chunks.number > 1 and config.pad_last:
        # The zeros that fill up the last chunk of a long clip count as valid.
        positions = torch.arange(frames.shape[-1], device=frames.device)
        lengths = (frames * (positions + 1)).amax(dim=-1, keepdim=True)
        frames = frames | ((lengths > config.target_length) & (positions >= lengths))
        chunk_mask = (starts < lengths) | (starts == 0)
    frames = frames.unflatten(1, (chunks.number, chunks.frames))
    # Pooling drops a remainder of frames as the convolution does; a slice would fix the length of an exported model.
    patch_mask = nn.functional.max_pool2d((~frames).float(), (1, size)) == 0
    if chunks.number == 1 or not config.pad_last:
        chunk_mask = patch_mask.any(dim=-1) | (starts == 0)
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
    if mask is None:
        # Not `math.log`: it would fix the length of a compiled or exported model.
        return values.logsumexp(dim=-2) - values.new_ones(values.shape[-2]).sum().log()
    values = values.masked_fill(~mask.bool().unsqueeze(-1), -math.inf)
    return values.logsumexp(dim=-2) - mask.sum(dim=-1, keepdim=True).to(values.dtype).log()


def average_probabilities(logits: torch.Tensor, mask: torch.Tensor | None, problem_type: str | None) -> torch.Tensor:
    """
    Logits of the mean class probability, as [`masked_mean`]; regression outputs are averaged as they are.

    It stays in the log domain, so that certain answers neither overflow nor lose their gradient.
    """
    if problem_type == "regression":
        return masked_mean(logits, mask)
    logits = logits.float()
    if problem_type == "single_label_classification":
        return masked_log_mean_exp(logits.log_softmax(dim=-1), mask)
    log_p = masked_log_mean_exp(nn.functional.logsigmoid(logits), mask)
    return log_p - masked_log_mean_exp(nn.functional.logsigmoid(-logits), mask)


def masked_batch_norm(norm: nn.BatchNorm2d, values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """
    Batch normalisation of mel frames `(batch_size, n_mels, frames)`, one channel per mel bin.

    In training, the statistics come from the frames where `mask` `(batch_size, frames)` is True. A frozen `norm` (its
    weight needs no gradient) uses its running statistics and leaves them as they are, in training too.
    """
    frozen = not norm.weight.requires_grad
    # As in PyTorch, statistics of the batch are used in evaluation too where there are no running ones.
    by_batch = (norm.training and not frozen) or norm.running_mean is None or norm.running_var is None
    if not by_batch or (frozen and norm.training):
        return nn.functional.batch_norm(
            values, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=by_batch, eps=norm.eps
        )
    if mask is None:
        return norm(values.unsqueeze(2)).squeeze(2)
    weights = mask.unsqueeze(1).to(values.dtype)
    count = weights.sum()
    mean = (values * weights).sum(dim=(0, 2), keepdim=True) / count
    var = ((values - mean).square() * weights).sum(dim=(0, 2), keepdim=True) / count
    if norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            momentum: float | torch.Tensor = 0.0 if norm.momentum is None else norm.momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
                if norm.momentum is None:  # the cumulative average
                    momentum = 1 / norm.num_batches_tracked.to(values.dtype)
            norm.running_mean.lerp_(mean.flatten(), momentum)
            # As in PyTorch, the running variance is the unbiased one.
            norm.running_var.lerp_((var * count / (count - 1).clamp(min=1)).flatten(), momentum)
    values = (values - mean) * torch.rsqrt(var + norm.eps)
    return values * norm.weight[:, None] + norm.bias[:, None]


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
    Fits a checkpoint's time positions `(1, hidden_size, 1, positions)` to the model's `target_length`: the first ones
    for a shorter table, bilinear interpolation for a longer one.
    """

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        _, positions = kwargs["config"].num_patches
        return {
            name: resize_time_positions(value[0] if isinstance(value, list) else value, positions)
            for name, value in input_dict.items()
        }

    @property
    def reverse_op(self) -> ConversionOps:
        return self  # a model is saved with the positions that it has


def resize_time_positions(table: torch.Tensor, positions: int) -> torch.Tensor:
    """The table `(1, hidden_size, 1, …)` of a checkpoint with as many time `positions` as asked for."""
    if positions <= table.shape[-1]:
        return table[..., :positions].contiguous()
    resized = nn.functional.interpolate(table.float(), size=(1, positions), mode="bilinear", align_corners=False)
    return resized.to(table.dtype)


register_checkpoint_conversion_mapping(
    "ced", [WeightConverter("time_pos_embed", "time_pos_embed", [ResizeTimePositions()])], overwrite=True
)


@auto_docstring
class CedPreTrainedModel(PreTrainedModel):
    config: CedConfig
    config_class = CedConfig
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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__ != __name__:
            cls._auto_class = None  # another author's code is saved only if it is registered

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """
        Saves the model as [`~PreTrainedModel.save_pretrained`] does, with its code, so that the folder loads with
        `trust_remote_code=True` where this package is not installed.
        """
        # Whole: transformers names this class alone, and what is stored may name another repository's code.
        self.config.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialises the weights as the paper's code does."""
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
        elif isinstance(module, nn.Conv2d):
            # PyTorch's own initialisation of a convolution.
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, CedModel):
            init.normal_(module.time_pos_embed, std=std)
            init.normal_(module.freq_pos_embed, std=std)
            if module.cls_token is not None and module.token_pos_embed is not None:
                init.normal_(module.cls_token, std=1e-6)
                init.normal_(module.token_pos_embed, std=std)


@auto_docstring(
    custom_intro="""
    The bare CED encoder, which turns log-mel spectrograms into tokens and a pooled embedding. It loads the encoder of
    classification checkpoints too, and fits the time positions to another `target_length`.
    """
)
class CedModel(CedPreTrainedModel):
    # What is saved carries the code, so that it loads where this package is not installed.
    _auto_class = "AutoModel"

    def __init__(self, config: CedConfig) -> None:
        super().__init__(config)
        num_bands, positions = config.num_patches
        # The dtype of `_keep_in_fp32_modules_strict`, which counts only where weights are loaded.
        self.init_bn = nn.BatchNorm2d(config.n_mels, momentum=0.01, dtype=torch.float32)
        self.patch_embed = CedPatchEmbeddings(config)
        self.time_pos_embed = nn.Parameter(torch.zeros(1, config.hidden_size, 1, positions))
        self.freq_pos_embed = nn.Parameter(torch.zeros(1, config.hidden_size, num_bands, 1))
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
            Log-mel spectrograms in decibels, as [`CedFeatureExtractor`] makes them; at least 16 frames.
        attention_mask (`torch.Tensor` of shape `(batch_size, frames)`, *optional*):
            1 for frames of the clip, 0 for padding behind it. With it each clip's output is that of the clip alone.
            Without it all frames count.

        Raises:
            `ValueError`: if `input_values` are of another layout or shorter than one patch (16 frames), or if the
                `attention_mask` has another shape or leaves a clip less than one patch.

        Example:

        ```python
        >>> import ced_model
        >>> import torch
        >>> from transformers import AutoFeatureExtractor, AutoModel

        >>> feature_extractor = AutoFeatureExtractor.from_pretrained("mispeech/ced-tiny")
        >>> model = AutoModel.from_pretrained("mispeech/ced-tiny")

        >>> waveform = torch.zeros(16000)  # one second of silence: put mono audio at 16 kHz here
        >>> inputs = feature_extractor(waveform, sampling_rate=16000)
        >>> with torch.no_grad():
        ...     outputs = model(**inputs)
        >>> outputs.last_hidden_state.shape, outputs.pooler_output.shape
        (torch.Size([1, 24, 192]), torch.Size([1, 192]))
        ```
        """
        self._check_inputs(input_values, attention_mask)
        num_bands, _ = self.config.num_patches
        chunks = get_chunks(self.config, input_values.shape[-1])
        patch_mask, chunk_mask = self._get_masks(input_values, attention_mask, chunks)
        # A tuple, if the configuration asks for one, is made of the result alone.
        rows = self._encode_chunks(input_values, attention_mask, chunks, patch_mask, return_dict=True, **kwargs)

        tokens = rows.last_hidden_state.unflatten(0, (-1, chunks.number))  # (batch_size, chunks, tokens, hidden_size)
        if self.config.pooling == "token":
            pooled = tokens[:, :, 0]
        else:
            pooled = masked_mean(tokens, None if patch_mask is None else patch_mask.repeat(1, 1, num_bands))
        chunk_states = pooled
        if self.config.pooling == "dm":
            chunk_states = tokens.unflatten(2, (num_bands, chunks.patches)).mean(dim=2)
        if chunks.number > 1:
            pooled = (masked_mean if self.config.eval_avg == "mean" else masked_max)(pooled, chunk_mask)
        else:
            pooled = pooled.squeeze(1)

        def join(states: torch.Tensor | None) -> torch.Tensor | None:
            return None if states is None else join_chunks(states, chunks, num_bands)

        def join_queries(weights: torch.Tensor | None) -> torch.Tensor | None:
            if weights is None or chunks.number == 1:
                return weights  # the tensor itself, so that its gradient can be retained
            return join_chunks(weights.transpose(1, 2), chunks, num_bands).transpose(1, 2)

        return CedModelOutput(
            last_hidden_state=join(rows.last_hidden_state),
            pooler_output=pooled,
            hidden_states=None if rows.hidden_states is None else tuple(map(join, rows.hidden_states)),
            attentions=None if rows.attentions is None else tuple(map(join_queries, rows.attentions)),
            chunk_states=chunk_states,
            patch_mask=None if patch_mask is None else patch_mask.long(),
            chunk_mask=None if chunk_mask is None else chunk_mask.long(),
        )

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def _encode_chunks(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None,
        chunks: CedChunks,
        patch_mask: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encodes every chunk of every clip as a row of its own: `(batch_size * chunks, tokens, hidden_size)`."""
        values, frame_mask = input_values.to(self.init_bn.weight.dtype), None
        if attention_mask is not None:
            frame_mask = attention_mask.bool()
            # NaN or infinity in the padding would reach statistics and gradients, since 0 · NaN is NaN.
            values = values.masked_fill(~frame_mask.unsqueeze(1), 0.0)
        values = masked_batch_norm(self.init_bn, values, frame_mask)
        if frame_mask is not None:
            values = values.masked_fill(~frame_mask.unsqueeze(1), 0.0)
        hidden_states = self._embed(split_chunks(values, chunks))

        block_mask = None  # of attention to all tokens; exported models would compute one nevertheless
        if patch_mask is not None:
            rows_mask = self._get_token_rows(patch_mask, torch.ones_like(patch_mask[..., 0]))
            block_mask = create_bidirectional_mask(
                config=self.config, inputs_embeds=hidden_states, attention_mask=rows_mask
            )
        for block in self.blocks:
            hidden_states = block(hidden_states, block_mask, **kwargs)
        return BaseModelOutputWithPooling(last_hidden_state=self.norm(hidden_states))

    def _embed(self, values: torch.Tensor) -> torch.Tensor:
        """Patches plus positions, as tokens `(rows, tokens, hidden_size)` in frequency-major order."""
        patches = self.patch_embed(values)
        # A slice would keep exported models from the full length, where it takes the whole table.
        positions = torch.arange(patches.shape[-1], device=patches.device)
        patches = patches + self.time_pos_embed.index_select(-1, positions) + self.freq_pos_embed
        # All blocks keep this layout: rows in one piece save each LayerNorm a copy.
        hidden_states = patches.flatten(2).transpose(1, 2).contiguous()
        if self.cls_token is not None and self.token_pos_embed is not None:
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
            `torch.BoolTensor` of shape `(batch_size, sequence_length)`: `last_hidden_state[i, mask[i]]` is what clip
            `i` gives alone.
        """
        num_bands, _ = self.config.num_patches
        chunks = get_chunks(self.config, attention_mask.shape[-1])
        patch_mask, chunk_mask = get_patch_mask(self.config, attention_mask, chunks)
        rows = self._get_token_rows(patch_mask & chunk_mask.unsqueeze(-1), chunk_mask)
        return join_chunks(rows, chunks, num_bands)

    def _get_token_rows(self, patch_mask: torch.Tensor, class_token: torch.Tensor) -> torch.Tensor:
        """Masks of patches `(batch_size, chunks, patches)` and class tokens as one of `(rows, tokens)`."""
        num_bands, _ = self.config.num_patches
        tokens = patch_mask.flatten(0, 1).repeat(1, num_bands)
        return tokens if self.cls_token is None else torch.cat([class_token.reshape(-1, 1), tokens], dim=1)

    def _get_masks(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None, chunks: CedChunks
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """[`get_patch_mask`], or None where everything is valid."""
        if attention_mask is None:
            if chunks.last_patches == chunks.patches:
                return None, None
            attention_mask = input_values.new_ones(input_values.shape[0], input_values.shape[-1], dtype=torch.bool)
        patch_mask, chunk_mask = get_patch_mask(self.config, attention_mask, chunks)
        if not is_tracing(patch_mask) and not (has_patch := patch_mask[:, 0].any(dim=-1)).all():
            raise ValueError(
                f"`attention_mask` leaves clip {has_patch.int().argmin().item()} without a whole patch of"
                f" {self.config.patch_size} frames. `CedFeatureExtractor` pads short clips to one patch."
            )
        return patch_mask, chunk_mask

    def _check_inputs(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
        n_mels, size = self.config.n_mels, self.config.patch_size
        if input_values.ndim != 3 or input_values.shape[1] != n_mels:
            raise ValueError(
                f"`input_values` must have shape (batch_size, {n_mels}, frames), got {tuple(input_values.shape)}."
                " `CedFeatureExtractor` turns waveforms into such log-mel spectrograms."
            )
        if input_values.shape[-1] < size:
            raise ValueError(
                f"`input_values` have {input_values.shape[-1]} frames, but one patch takes {size}."
                " `CedFeatureExtractor` pads short clips to one patch."
            )
        expected = (input_values.shape[0], input_values.shape[-1])
        if attention_mask is not None and attention_mask.shape != expected:
            raise ValueError(
                f"`attention_mask` must have shape (batch_size, frames), here {expected}, got"
                f" {tuple(attention_mask.shape)}."
            )


@auto_docstring(
    custom_intro="""
    CED with its tagging head: a LayerNorm and a linear layer on the pooled tokens, e.g. for AudioSet.
    """
)
class CedForAudioClassification(CedPreTrainedModel):
    _auto_class = "AutoModelForAudioClassification"

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
            Log-mel spectrograms in decibels, as [`CedFeatureExtractor`] makes them; at least 16 frames.
        attention_mask (`torch.Tensor` of shape `(batch_size, frames)`, *optional*):
            1 for frames of the clip, 0 for padding behind it. With it each clip's output is that of the clip alone.
            Without it all frames count.
        labels (`torch.Tensor`, *optional*):
            By `config.problem_type`: `"multi_label_classification"` (the default) takes multi-hot or soft targets of
            shape `(batch_size, num_labels)` for a binary cross-entropy; `"single_label_classification"` takes class
            indices of shape `(batch_size,)` for a cross-entropy; `"regression"` takes floats of shape
            `(batch_size, num_labels)` for a mean squared error. Class indices (integers of shape `(batch_size,)`) for a
            multi-label model set the problem type to `"single_label_classification"`, with a warning.

        Returns:
            The `logits` are raw: `logits.sigmoid()` are the tag probabilities. A clip longer than `target_length`
            frames is split into chunks, and its logits are those of the chunks' averaged (or, by `eval_avg`, maximal)
            probabilities.

        Raises:
            `ValueError`: if the inputs are not as described, or if the labels' shape does not fit the problem type.

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
        >>> scores.shape
        torch.Size([527])

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
        logits = self.outputlayer(outputs.chunk_states)  # (batch_size, chunks, num_labels)
        if self.config.pooling == "dm":
            logits = average_probabilities(logits, outputs.patch_mask, self.config.problem_type)
        return self._combine_chunks(logits, outputs.chunk_mask) if logits.shape[1] > 1 else logits.squeeze(1)

    def _combine_chunks(self, logits: torch.Tensor, chunk_mask: torch.Tensor | None) -> torch.Tensor:
        """Logits of long clips `(batch_size, num_labels)` from their chunks' `(batch_size, chunks, num_labels)`."""
        config = self.config
        if config.pooling == "logit" or config.problem_type == "regression":
            return (masked_mean if config.eval_avg == "mean" else masked_max)(logits, chunk_mask)
        if config.eval_avg == "mean":
            logits = average_probabilities(logits, chunk_mask, config.problem_type)
        elif config.problem_type == "single_label_classification":
            logits = masked_max(logits.log_softmax(dim=-1), chunk_mask)
        else:
            logits = masked_max(logits, chunk_mask)
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
            fits, expected = is_index, f"({batch_size},) with class indices"
        else:
            shapes = [(batch_size, self.num_labels), *([(batch_size,)] if self.num_labels == 1 else [])]
            fits, expected = tuple(labels.shape) in shapes, f"({batch_size}, {self.num_labels})"
        if not fits:
            raise ValueError(
                f"`labels` of shape {tuple(labels.shape)} and type {labels.dtype} do not fit"
                f" `problem_type={self.config.problem_type!r}`, which takes shape {expected}."
            )
        if self.config.problem_type == "single_label_classification":
            return labels.long()
        return labels.to(self.dtype).reshape(batch_size, self.num_labels)


__all__ = ["CedForAudioClassification", "CedModel", "CedPreTrainedModel"]
