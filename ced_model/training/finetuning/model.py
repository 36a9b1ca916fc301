# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The model to train: a head for the classes, and frozen blocks or LoRA adapters."""

import warnings
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from ...messages import OptionError, one_line
from ...modeling_ced import CedForAudioClassification
from .options import FinetuningOptions


def set_classes(model: CedForAudioClassification, labels: Sequence[str], problem_type: str, seed: int) -> bool:
    """
    Gives a model a new head for `labels`, unless these are its own.

    Returns:
        Whether the head is kept: the labels are those that it has, in the same order.
    """
    config: Any = model.config
    config.problem_type = problem_type
    if [config.id2label[index] for index in range(config.num_labels)] == list(labels):
        return True
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    model.num_labels = len(labels)
    weight = torch.empty(len(labels), config.hidden_size)
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(config.hidden_size, len(labels))
    linear.weight = nn.Parameter(nn.init.trunc_normal_(weight, std=config.initializer_range, generator=generator))
    nn.init.zeros_(linear.bias)
    model.outputlayer[1] = linear
    return False


def choose_trained(model: CedForAudioClassification, options: FinetuningOptions) -> Any:
    """
    Freezes the rest of the model, and adds LoRA adapters if requested.

    Returns:
        The model, or a `peft.PeftModel` around it.

    Raises:
        ValueError: if the model has fewer blocks than requested.
        ImportError: if LoRA is asked for and peft is not installed.
    """
    depth = len(model.encoder.blocks)
    k = depth if options.num_blocks is None else options.num_blocks
    if k > depth:
        raise OptionError("train", options.train, f"at most last:{depth}, the blocks that the encoder has")
    if options.lora is not None:
        return _add_lora(model, options.lora, range(depth - k, depth), options.seed)
    if options.train == "all":
        # Batches of few clips would move its statistics away from what the weights have learnt with.
        model.encoder.init_bn.requires_grad_(False)
        return model
    model.freeze_base_model()
    if options.train != "head":
        model.encoder.blocks[depth - k :].requires_grad_(True)
        model.encoder.norm.requires_grad_(True)
    return model


def _add_lora(model: CedForAudioClassification, rank: int, blocks: Iterable[int], seed: int) -> Any:
    numbers = "|".join(map(str, blocks))
    try:
        import peft

        config = peft.LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=rf"encoder\.blocks\.({numbers})\.(attn\.(qkv|proj)|mlp\.fc[12])",
            modules_to_save=["outputlayer"],
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of names that transformers has changed
            torch.manual_seed(seed)
            # PEFT's own function: transformers' `add_adapter` refuses versions of PEFT that work here.
            return peft.get_peft_model(model, config)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # one is too old for the other
        raise ImportError(
            f"LoRA: peft {version('peft')} does not work with transformers {version('transformers')}"
            f" ({one_line(error)}): pip install --upgrade peft transformers"
        ) from error


def count_trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def describe_trained(options: FinetuningOptions) -> str:
    where = "all blocks" if options.num_blocks is None else f"the last {options.num_blocks} blocks"
    if options.lora is not None:
        return f"the head and LoRA adapters of rank {options.lora} in {where}"
    if options.train == "head":
        return "the head"
    return "all but the input statistics" if options.num_blocks is None else f"the head and {where}"
