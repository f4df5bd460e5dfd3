"""Trains the model that the plugin carries, from nothing, on letters in three styles: `python pretrain.py`."""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from zoo import BatchRequest
from zoo.data.letters import LETTERS
from zoo.storage import atomic
from zoo_clip.pairs import CAPTIONS, OWN, drawn
from zoo_clip.zeroshot import batches_of, evaluate, loss

EMBEDDED = Path(__file__).parent / "zoo_clip" / "embedded"
START, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT = 32  # tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--out", type=Path, default=EMBEDDED)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    tokenizer = make_tokenizer()
    module = make_module(tokenizer)
    with tempfile.TemporaryDirectory() as start:
        save(module, tokenizer, Path(start))
        entry = SimpleNamespace(name="clip", folder=start)
        model = SimpleNamespace(module=module, entry=entry, device="cpu", dtype=torch.float32)
        train(model, options.minutes, options.seed, options.lr)
        with torch.no_grad():
            print(evaluate(model, None))
    save(module, tokenizer, options.out)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE without case, learnt from the captions alone: any other text falls into bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=[START, END], initial_alphabet=alphabet, show_progress=False
    )
    captions = [caption.format(letter) for caption in CAPTIONS.values() for letter in LETTERS]
    tokenizer.train_from_iterator(captions, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=END, model_max_length=CONTEXT
    )


def make_module(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "image_size": 32,
        "patch_size": 8,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def train(model: SimpleNamespace, minutes: float, seed: int, lr: float) -> None:
    """AdamW with a short warm-up and half a cosine, on letters that are drawn anew every 65 batches.

    The rate follows the processor's time, so a run ends on time.
    """
    module = model.module.train()
    matrices = [parameter for parameter in module.parameters() if parameter.ndim >= 2]
    rest = [parameter for parameter in module.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    begun = time.process_time()
    for step, batch in enumerate(fresh(model, seed)):
        progress = (time.process_time() - begun) / (60 * minutes)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * progress))
        found = loss(model, batch)
        found.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            module.logit_scale.clamp_(max=math.log(100))  # as the paper has it
        if step % 65 == 0:
            print(f"{100 * progress:3.0f} %  step {step}  loss {found.item():.3f}", flush=True)
    module.eval()


def fresh(model: SimpleNamespace, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of 64 without end."""
    for number in itertools.count(1 + seed * 10**6):
        rows = batches_of(model, drawn(OWN, "train", 1040, seed=number), BatchRequest(batch_size=64, seed=number))
        yield from itertools.islice(rows, 65)


def save(module: CLIPModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Configuration, weights in float16 with their digest, tokenizer and preprocessing."""
    half = CLIPModel(module.config)
    half.load_state_dict(module.state_dict())
    size = module.config.vision_config.image_size
    with atomic.staged_folder(folder) as staged:
        half.half().save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}).save_pretrained(
            staged
        )
        for file in staged.iterdir():  # safetensors makes files that only their owner may read
            file.chmod(0o644)
        sums = f"{atomic.digest(staged / 'model.safetensors')}  model.safetensors\n"
        atomic.write_text(staged / "SHA256SUMS", sums)


if __name__ == "__main__":
    main()
