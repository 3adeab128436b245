"""The measure ``dino`` against `transformers` itself: DINOv2 and other vision networks in miniature."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_clip import PATCHES, SIZE, tiny_clip, tiny_dinov2
from tiny_flow_pipelines import redraw
from transformers import (
    AutoImageProcessor,
    AutoModel,
    BertConfig,
    BertModel,
    ConvNextConfig,
    ConvNextModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    IJepaConfig,
    IJepaModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)

from turningpoint.measures import measure

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": 8,
}
EPSILON = 32 * 2**-23  # cosines of vectors of 32 numbers in float32


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    return tiny_dinov2(tmp_path_factory.mktemp("dinov2"))


def images(count: int, seed: int = 0, size: int = 48) -> torch.Tensor:
    levels = torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed))
    return levels / 127.5 - 1


def by_transformers(folder: Path, batch: torch.Tensor):
    """What `transformers` answers for the batch as pictures of Pillow."""
    levels = ((batch + 1) * 127.5).round().to(torch.uint8)
    pillow = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in levels]
    inputs = AutoImageProcessor.from_pretrained(folder, backend="pil")(images=pillow, return_tensors="pt")
    model = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        return getattr(model, "vision_model", model)(**inputs)


def published(folder: Path, model, seed: int = 9) -> Path:
    redraw(model, seed)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return folder


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def test_the_embedding_is_the_class_token(network):
    dino = measure("dino", network=str(network), batch=2)
    assert not dino.by_default
    assert {dino.feature(reading): reading.kind for reading in dino.readings} == {
        "dino": "vector",
        "dino.patches": "map",
    }
    answer = by_transformers(network, images(5))
    found = dino.read(images(5))
    assert list(found) == [""]
    np.testing.assert_allclose(found[""], unit(answer.last_hidden_state[:, 0]), atol=EPSILON)


def test_patches(network):
    dino = measure("dino", network=str(network))
    a, b = images(3), images(3).flip(0)
    hidden = [by_transformers(network, batch).last_hidden_state[:, 1:] for batch in (a, b)]
    found = dino.compare_with([a, b], b)
    assert [list(one) for one in found] == [["patches"], []]
    assert found[0]["patches"].shape == (3, PATCHES)
    np.testing.assert_allclose(
        found[0]["patches"], 1 - torch.cosine_similarity(*hidden, dim=-1), atol=EPSILON
    )
    assert (found[0]["patches"][1] == 0).all()


def test_a_change_shows_where_it_is(network):
    """The processor enlarges nothing here: what one patch shows reaches the others by attention only."""
    before = torch.zeros(1, 3, 36, 36)
    after = before.clone()
    after[..., 2:10, 2:10] = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    far = measure("dino", network=str(network)).compare(before, after)["patches"][0]
    assert far.argmax() == 0


def test_retention_is_one_of_cosines(network):
    found = measure("dino", network=str(network)).read(images(2))[""].astype(np.float64)
    assert np.square(found[0] - found[1]).sum() == pytest.approx(2 * (1 - found[0] @ found[1]), abs=EPSILON)


def others(folder: Path):
    """Networks, their vector for the image, and where the patches begin; None: made of the patches."""
    yield (
        "registers",
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SMALL, mlp_ratio=2, num_register_tokens=3)),
        lambda answer: answer.last_hidden_state[:, 0],
        4,
    )
    yield "vit", ViTModel(ViTConfig(**SMALL, intermediate_size=48)), lambda answer: answer.pooler_output, 1
    yield (
        "jepa",
        IJepaModel(IJepaConfig(**SMALL, intermediate_size=48), add_pooling_layer=False),
        (lambda answer: answer.last_hidden_state.mean(1)),
        0,
    )
    config = ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], patch_size=2)
    yield "convnext", ConvNextModel(config), lambda answer: answer.pooler_output, 0


@pytest.mark.parametrize("kind", ["registers", "vit", "jepa", "convnext"])
def test_other_vision_networks(kind, tmp_path):
    model, whole, first = next(rest for name, *rest in others(tmp_path) if name == kind)
    folder = published(tmp_path, model)
    dino = measure("dino", network=str(folder))
    answer = by_transformers(folder, images(2))
    np.testing.assert_allclose(dino.read(images(2))[""], unit(whole(answer)), atol=EPSILON)
    hidden = answer.last_hidden_state
    hidden = hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden[:, first:]
    far = dino.compare(images(2), images(2).flip(0))["patches"][0]
    np.testing.assert_allclose(far, 1 - torch.cosine_similarity(hidden[0], hidden[1], dim=-1), atol=EPSILON)


def test_a_pooling_layer_that_was_never_trained_is_not_used(tmp_path):
    """DINO's own weights, of 2021, lack the pooler that `transformers` would draw at random."""
    folder = published(tmp_path, ViTModel(ViTConfig(**SMALL, intermediate_size=48)))
    tensors = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if "pooler" not in name}
    assert len(kept) == len(tensors) - 2
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    found = [measure("dino", network=str(folder)).read(images(2))[""] for _ in range(2)]
    np.testing.assert_array_equal(*found)
    expected = unit(by_transformers(folder, images(2)).last_hidden_state[:, 0])
    np.testing.assert_allclose(found[0], expected, atol=EPSILON)


def test_the_vision_half_of_a_clip(tmp_path):
    folder = tiny_clip(tmp_path)
    found = measure("dino", network=str(folder)).read(images(2))[""]
    np.testing.assert_allclose(found, unit(by_transformers(folder, images(2)).pooler_output), atol=EPSILON)


def test_order_and_company_do_not_matter(network):
    together = measure("dino", network=str(network)).read(images(5))[""]
    apart = measure("dino", network=str(network), batch=2).read(images(5).flip(0))[""]
    np.testing.assert_allclose(together[::-1], apart, atol=EPSILON)


def test_settings(network, tmp_path):
    without = measure("dino", network=str(network), patches="False")
    assert [reading.name for reading in without.readings] == [""]
    assert without.compare(images(1), images(1)) == {}
    known = measure("dino", network=str(network)).settings()
    assert json.loads(json.dumps(known)) == known == without.settings() | {"patches": True}
    other = measure("dino", network=str(tiny_dinov2(tmp_path, seed=5))).settings()
    assert other["weights"] != known["weights"]
    assert other["preprocessing"] == known["preprocessing"]


def test_networks_that_cannot_serve(tmp_path, refuses):
    with refuses("neither a folder nor a repository"):
        measure("dino", network=str(tmp_path / "nowhere"))
    hides = published(tmp_path / "mae", ViTMAEModel(ViTMAEConfig(**SMALL, intermediate_size=48)))
    with refuses("differently every time"):
        measure("dino", network=str(hides))
    words = BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=40))
    with refuses("cannot see a picture"):
        measure("dino", network=str(published(tmp_path / "bert", words)))


def test_no_pictures(network, refuses):
    dino = measure("dino", network=str(network))
    with refuses("shape"):
        dino.read(torch.zeros(2, 7))
    with refuses("finite"):
        dino.read(torch.full((1, 3, 8, 8), torch.nan))
