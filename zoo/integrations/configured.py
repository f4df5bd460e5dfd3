"""Configurations as they are handed to a library: without what would make it fetch, or run code that is not its own.

Attention from a kernel on the Hub, classes in a repository's own files, the weights of a backbone, a file anywhere on
this machine: a library takes them from a configuration too. Here the keys go, at any depth; a part that is named by a
repository and cannot be left out is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from zoo.bounded.json_text import read_object
from zoo.bounded.text import read_text
from zoo.errors import CheckpointError, shown

# Which implementation computes, where code or weights are, and whether to trust it: ours to say, never a file's.
_LEFT_OUT = frozenset(
    """
    attn_implementation _attn_implementation _attn_implementation_internal _attn_implementation_autoset
    experts_implementation _experts_implementation _experts_implementation_internal use_kernels kernel_config
    auto_map custom_pipelines custom_generate trust_remote_code code_revision local_files_only token use_auth_token
    use_pretrained_backbone pretrained pretrained_backbone checkpoint_path cache_dir pretrained_cfg_overlay
    _name_or_path name_or_path _commit_hash compile_config
    """.split()  # noqa: SIM905 - a list of words reads better so
)
# The libraries take a name with one of these as a repository, or a folder.
_NAMED = frozenset({"backbone", "architecture", "timm_backbone"})
# A tokenizer's files, which may be long, and those that only say how it is used.
_TEXTS = frozenset({"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt"})
_CONFIGURED = frozenset({"config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"})
_VOCABULARY = 256 << 20  # bytes
_PLACE = ("/", ":", "\\")


def without_code(values: Any, where: str) -> Any:
    """Return the values of a configuration without the keys that make a library fetch, or run code, at any depth.

    Args:
        values: the parsed JSON.
        where: how the error begins.

    Raises:
        CheckpointError: a part is named by a repository or a folder.
    """
    if isinstance(values, Mapping):
        for key in _NAMED & values.keys():
            if isinstance(values[key], str) and any(sign in values[key] for sign in _PLACE):
                raise CheckpointError(
                    f"{where}: its configuration takes the {key} from {shown(values[key])}, and nothing that a "
                    "configuration names is fetched: put that part's own configuration there"
                )
        return {key: without_code(value, where) for key, value in values.items() if key not in _LEFT_OUT}
    return [without_code(value, where) for value in values] if isinstance(values, list) else values


def check_files(folder: Path, files: Collection[str]) -> None:
    """Check the files of a tokenizer or processor before a library reads them, all but what they say.

    Raises:
        CheckpointError: one is no text, no JSON, or beyond the bounds.
    """
    for name in _TEXTS & set(files):
        read_text(folder / name, limit=_VOCABULARY, error=CheckpointError)
    for name in _CONFIGURED & set(files):
        read_object(folder / name)
