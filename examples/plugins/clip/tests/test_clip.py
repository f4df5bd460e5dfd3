"""The plugin's promises, and what is special about CLIP: two towers, texts as classes, the library's own folders."""

from __future__ import annotations

import copy
import json
import math
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

import zoo
from zoo.data.letters import render
from zoo.testing import conformance

EMBEDDED = Path(find_spec("zoo_clip").origin).parent / "embedded"
TEXT = {"vocab_size": 320, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}

test_promise = conformance("clip")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tuned():
    """4 bit, LoRA on everything, a few steps on faces that it has not seen."""
    model = zoo.load("clip", bits=4, lora=zoo.LoRA(rank=4, targets="all"), device="cpu", seed=0)
    before = model.evaluate("letters:italic")["loss"]
    model.tune("letters:italic", steps=8, batch_size=32, lr=2e-3, quiet=True)
    return model, before


@pytest.fixture
def hub_folder(tmp_path):
    """What a Hub repository holds: config.json, model.safetensors, tokenizer; random weights."""
    torch.manual_seed(int(torch.randint(2**31, ())))
    text = {**TEXT, "max_position_embeddings": 20, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = {**VISION, "image_size": 24, "patch_size": 8}
    module = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    for parameter in module.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path / "hub"
    module.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / name, folder / name)
    return folder


def inputs(size: int, length: int, vocabulary: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(2, vocabulary, (3, length))
    ids[:, 0], ids[:, -1] = 0, 1
    return {"pixel_values": torch.randn(4, 3, size, size), "input_ids": ids}


def test_at_real_size_everything_is_quantized_and_adapted():
    model = zoo.load("clip-vit-base-patch32", bits=4, lora=zoo.LoRA(rank=8, targets="all"), device="meta")
    footprint = model.footprint()
    wide = [info for info in model.weights() if len(info.shape) >= 2]
    adapted = sum(math.prod(info.shape) for info in wide if info.adapters)
    assert footprint.parameters == 151_277_313  # OpenAI's ViT-B/32
    assert footprint.quantized_share > 0.985
    assert footprint.bytes < 0.29 * footprint.bytes_16bit
    assert adapted >= 0.99 * sum(math.prod(info.shape) for info in wide)


def test_every_factor_learns_in_four_bit_and_the_loss_falls(tuned):
    model, before = tuned
    assert model.evaluate("letters:italic")["loss"] < before
    assert all(float(factor.detach().abs().max()) > 0 for _, factor in model.trainable_parameters())
    paths = {name.split(".")[0] for name, _ in model.trainable_parameters()}
    assert {"text_model", "vision_model", "visual_projection", "text_projection"} <= paths


def test_a_tuned_model_is_saved_merged_and_copied(tuned, tmp_path):
    model, _ = tuned
    given = inputs(32, 9, 300)
    with torch.no_grad():
        expected = model(**given).logits_per_image
        model.save_adapter(tmp_path / "adapter")
        again = zoo.load("clip", bits=4, lora=str(tmp_path / "adapter"), device="cpu")
        assert torch.equal(again(**given).logits_per_image, expected)
        assert torch.equal(copy.deepcopy(model.module)(**given).logits_per_image, expected)
        model.save(tmp_path / "whole")  # as the library reads it
        theirs = CLIPModel.from_pretrained(tmp_path / "whole")
        torch.testing.assert_close(theirs(**given).logits_per_image, expected, atol=1e-4, rtol=1e-4)
        model.merge()
        torch.testing.assert_close(model(**given).logits_per_image, expected, atol=1e-4, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "whole")("the letter Q").input_ids[-1] == 1


def test_a_folder_as_the_library_writes_it_is_recognised_and_gives_the_same(hub_folder):
    given = inputs(24, 7, 300)
    theirs = CLIPModel.from_pretrained(hub_folder)
    mine = zoo.load(str(hub_folder), device="cpu")
    assert mine.entry.plugin == "clip"
    with torch.no_grad():
        expected, found = theirs(**given), mine(**given)
    for name in ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    model = zoo.load(str(hub_folder), bits=4, lora=zoo.LoRA(rank=2, targets="all"), device="cpu", seed=0)
    assert model.sample(2, seed=0, data="letters:sans").data.shape == (2, 26)
    assert model.sample(2, seed=0, data="letters:sans").images.shape == (2, 3, 24, 24)
    batch = next(iter(model.batches("letters:sans", batch_size=6)))
    model.loss(batch).backward()
    starting = [factor for _, factor in model.trainable_parameters() if not factor.detach().any()]
    assert 2 * len(starting) == len(list(model.trainable_parameters()))  # one factor of each pair starts at zero
    assert all(factor.grad.abs().max() > 0 for factor in starting)


def test_position_numbers_that_older_files_store_are_passed_over(hub_folder):
    given = inputs(24, 7, 300)
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(hub_folder)(**given).logits_per_image
        state = load_file(hub_folder / "model.safetensors")
        for tower, length in (("text_model", 20), ("vision_model", 10)):
            state[f"{tower}.embeddings.position_ids"] = torch.arange(length)[None]
        save_file(state, hub_folder / "model.safetensors", metadata={"format": "pt"})
        assert torch.equal(zoo.load(str(hub_folder), device="cpu")(**given).logits_per_image, expected)


def test_the_loss_is_the_librarys_own():
    model = zoo.load("clip", bits=4, lora=2, device="cpu")
    batch = next(iter(model.batches(batch_size=40, seed=int(torch.randint(1000, ())))))
    with torch.no_grad():
        torch.testing.assert_close(model.loss(batch), model.module(**batch, return_loss=True).loss)


def test_zero_shot_labels_read_letters():
    model = zoo.load("clip", bits=4, device="cpu")
    images, labels = render("serif", 52, seed=int(torch.randint(1000, ())), split="test")
    texts = [f"the letter {letter} in a serif face" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    samples = model.sample(images=images, labels=texts)
    assert samples.kind == "posterior"
    assert samples.labels == texts
    assert (samples.data.argmax(1) == labels).double().mean() > 0.8
    torch.testing.assert_close(samples.images[:, :1], images, atol=1e-5, rtol=0)


def test_pictures_with_texts_folders_of_classes_and_files(tmp_path):
    model = zoo.load("clip", device="cpu")
    pictures = []
    for index, name in enumerate("AABB"):
        image = zoo.Samples(render("sans", 1, seed=index)[0], "image").save(
            tmp_path / "classes" / name / f"{index}.png"
        )
        pictures.append(image)
    batch = next(iter(model.batches(tmp_path / "classes", batch_size=4)))
    assert batch["pixel_values"].shape == (4, 3, 32, 32)
    assert len(torch.unique(batch["input_ids"], dim=0)) == 2  # "a photo of A", "a photo of B"
    images = render("sans", 3, seed=9, size=48)[0]
    given = [(images, ["one", "two", "one"]), {"images": images, "texts": ["one", "two", "one"]}]
    given.append([{"image": image, "text": text} for image, text in zip(images, ("one", "two", "one"), strict=True)])
    found = [next(iter(model.batches(zoo.Data(data, split="all"), batch_size=3, split="test"))) for data in given]
    for batch in found:
        assert torch.equal(batch["pixel_values"], found[0]["pixel_values"])
        assert torch.equal(batch["input_ids"][0], batch["input_ids"][2])
    assert list(model.evaluate(given[0]))[:2] == ["accuracy", "loss"]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda model: model.sample(labels="cat"), "a list of texts"),
        (lambda model: model.sample(top_k=0), "top_k"),
        (lambda model: model.sample(3, images=torch.rand(2, 3, 32, 32)), "2 images"),
        (lambda model: model.batches(torch.rand(2, 3, 32, 32), batch_size=2), "images with texts"),
        (
            lambda model: model.batches((torch.rand(2, 3, 8, 8), ["one"]), batch_size=2),
            "columns of one length, got image: 2, caption: 1",
        ),
        (lambda model: model.evaluate("letters:gothic"), "gothic"),
        (lambda model: model.evaluate("nowhere:at all"), "nowhere"),
    ],
)
def test_mistakes_are_told_in_one_line(call, told):
    with pytest.raises(zoo.ZooError, match=told) as error:
        call(zoo.load("clip", device="cpu"))
    assert "\n" not in str(error.value)


def test_a_folder_without_a_tokenizer_or_with_a_wrong_configuration_is_refused(hub_folder):
    (hub_folder / "tokenizer.json").unlink()
    model = zoo.load(str(hub_folder), device="cpu")
    with pytest.raises(zoo.CheckpointError, match=r"tokenizer\.json"):
        model.evaluate("letters:sans")
    config = json.loads((hub_folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = 25
    (hub_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(zoo.ZooError):
        zoo.load(str(hub_folder), device="cpu")


def test_from_random_weights_it_sees_letters_that_are_drawn_anew(tmp_path):
    model = zoo.load("clip", weights="random", seed=0, device="cpu")
    batches = iter(model.batches("letters:fresh", batch_size=64))
    seen = [next(batches)["pixel_values"] for _ in range(70)]
    assert (
        len({image.numpy().tobytes() for images in seen for image in images}) > 3200
    )  # 65 batches of one draw, 5 of the next
    with torch.no_grad():
        model.module.logit_scale.fill_(7.0)
    model.loss(next(batches))
    assert model.module.logit_scale.item() == pytest.approx(math.log(100))  # as the paper has it
    result = model.tune(steps=3, batch_size=8, quiet=True)
    assert result.lr == 2e-3
    model.save(tmp_path / "new", digests=True)
    again = zoo.load(f"{tmp_path}/new", device="cpu")
    assert torch.equal(again.sample(2, seed=0).data, model.sample(2, seed=0).data)
