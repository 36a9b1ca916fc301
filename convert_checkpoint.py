#!/usr/bin/env python3
# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Converts an original CED checkpoint, or a CED repository of the Hugging Face Hub, into a model folder."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="a .pt file, a model folder or a Hub id")
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="the model folder to write")
    parser.add_argument("--download", choices=["tiny", "mini", "small", "base"], help="fetch SOURCE from Zenodo")
    parser.add_argument(
        "--push-to-hub", dest="push_to", metavar="REPO", help="upload the folder to this Hub repository afterwards"
    )
    parser.add_argument("--num-heads", metavar="N", type=int, help="attention heads, where the source does not tell")
    parser.add_argument("--overwrite", action="store_true", help="replace a model folder at OUTPUT_DIR")
    arguments = parser.parse_intermixed_args(argv)
    if (arguments.source is None) == (arguments.download is None):
        parser.error("give either SOURCE OUTPUT_DIR, or --download SIZE OUTPUT_DIR")
    if arguments.num_heads is not None and arguments.num_heads < 1:
        parser.error("--num-heads must be at least 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        # Takes seconds, which --help and wrong usage need not wait for.
        import ced_model.conversion  # noqa: F401
    except ImportError as error:
        if error.name is not None:  # not a message on what to install
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    from ced_model.messages import one_line
    from ced_model.zenodo import DownloadError

    try:
        convert(arguments)
    except (ValueError, DownloadError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command resumes a download", file=sys.stderr)
        return 130
    return 0


def convert(arguments: argparse.Namespace) -> None:
    from ced_model.conversion import check_repo_id, convert_checkpoint, push_to_hub
    from ced_model.messages import printable
    from ced_model.pretrained import check_output
    from ced_model.zenodo import download_checkpoint, sha256_of

    source, repo = arguments.source, arguments.push_to
    check_output(Path(arguments.output_dir).absolute(), arguments.overwrite)  # before a download
    if repo is not None:
        check_repo_id(repo)
    if arguments.download is not None:
        source = os.fspath(download_checkpoint(arguments.download))
        print(f"downloaded {printable(source)}\nsha256 {sha256_of(source)}")
    done = convert_checkpoint(
        source,
        arguments.output_dir,
        num_heads=arguments.num_heads,
        overwrite=arguments.overwrite,
        model_id=repo,
        published=arguments.download,
    )
    for note in done.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    kind = "encoder without a head" if done.num_labels is None else f"{done.num_labels} classes"
    verified = (
        f"verified: {done.folder} loads with the tensors of {source} and the same outputs ({done.architecture},"
        f" {done.size or 'own size'}, {done.parameters:,} parameters, {kind})"
    )
    print(printable(verified))
    if repo is not None:
        print(printable(f"uploaded to {push_to_hub(done.folder, repo)}"))


if __name__ == "__main__":
    sys.exit(main())
