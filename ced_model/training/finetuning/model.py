# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""What is trained: a model with a head for the classes, of which a part is frozen, or LoRA adapters."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as transformers_logging

from ...feature_extraction_ced import CedFeatureExtractor
from ...messages import one_line, printable
from ...model_folder import check_model_folder, find_folder
from ...modeling_ced import CedForAudioClassification
from .arguments import FinetuningOptions

INSTALL_LORA = 'pip install "ced_model[lora]"'


def load_classifier(model: str | os.PathLike) -> tuple[CedForAudioClassification, CedFeatureExtractor | None]:
    """
    A CED model in float32 on the CPU, and its front end if it has a file of its own. An encoder gets a head.

    Raises:
        ValueError: if it is no CED model, or lacks tensors.
        OSError: if there is no such folder or repository, or it cannot be reached.
    """
    try:
        folder = find_folder(model)
        check_model_folder(folder)
        with quiet():
            loaded: Any = CedForAudioClassification.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True
            )
    except (SafetensorError, StrictDataclassError, RuntimeError, ValueError) as error:
        raise ValueError(f"{printable(model)!r} cannot be loaded: {one_line(error)}") from error
    network, loading = loaded
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith("outputlayer."))
    if missing:
        raise ValueError(
            f"{printable(model)!r} is no whole model: it lacks {len(missing)} tensors, such as {missing[0]}."
        )
    try:
        return network, CedFeatureExtractor.from_pretrained(folder)
    except OSError:
        return network, None


def set_classes(model: CedForAudioClassification, labels: Sequence[str], problem_type: str, seed: int) -> bool:
    """
    Gives a model a new head for `labels`, unless these are its own.

    Returns:
        Whether the head is kept: the labels are those that it has, in the same order.
    """
    config: Any = model.config
    config.problem_type = problem_type
    if [config.id2label[index] for index in range(model.num_labels)] == list(labels):
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
    Freezes what is not to be trained, and adds LoRA adapters if they are asked for.

    Returns:
        The model, or a `peft.PeftModel` around it.

    Raises:
        ValueError: if the model has fewer blocks than are to be trained.
        ImportError: if LoRA is asked for and peft is not installed.
    """
    depth = len(model.encoder.blocks)
    k = depth if options.num_blocks is None else options.num_blocks
    if k > depth:
        raise ValueError(f"`train={options.train!r}`: the encoder has {depth} blocks.")
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
    if find_spec("peft") is None:
        raise ImportError(f"LoRA needs peft: {INSTALL_LORA}")
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


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' report on tensors that were not loaded, and its progress bar."""
    verbosity, shows_bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shows_bar:
            transformers_logging.enable_progress_bar()
