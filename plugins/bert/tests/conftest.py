"""Repositories as the Hub has them: tiny, random, in the layouts in which masked language models are published."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "a", "of", "to", "is", "not", "file", "name", "value", "text", "returns", "if", "none", "it", ".", ","]
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
VOCABULARY = 120
TINY = {
    "bert": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
    },
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 40},
}
TINY["roberta"] = {**TINY["bert"], "pad_token_id": 0, "max_position_embeddings": 41, "type_vocab_size": 1}
TINY["electra"] = {**TINY["bert"], "embedding_size": 16}
TINY["modernbert"] = {**TINY["bert"], "local_attention": 8, "global_attn_every_n_layers": 2}
TINY["modernbert"] |= {"bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make("roberta", classes=["no", "yes"], tokenizer=False, …) → a folder as `save_pretrained` writes it."""

    def build(kind: str, *, classes: list[str] | None = None, tokenizer: bool = True, **config: Any) -> Path:
        folder = tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}"
        values = {"vocab_size": VOCABULARY, "pad_token_id": 0, **TINY[kind], **config}
        if classes:
            values |= {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}
        torch.manual_seed(random.randrange(2**31))
        maker = AutoModelForSequenceClassification if classes else AutoModelForMaskedLM
        module = maker.from_config(AutoConfig.for_model(kind, **values))
        with torch.no_grad():
            for parameter in module.parameters():  # also biases and gains, which start as zeros and ones
                parameter.add_(0.1 * torch.randn_like(parameter))
        module.save_pretrained(folder)
        if tokenizer:
            write_tokenizer(folder)
        return folder

    return build


def write_tokenizer(folder: Path) -> None:
    """A WordPiece tokenizer, lower case, as google-bert's."""
    from transformers import BertTokenizerFast

    words = list(dict.fromkeys(SPECIAL + WORDS + LETTERS + [f"##{letter}" for letter in LETTERS]))
    BertTokenizerFast(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)
