"""The measure ``clip`` against `transformers`' own processors and models, on tiny CLIP, SigLIP and SigLIP 2."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_clip import PATCHES, tiny_clip, tiny_dinov2, tiny_siglip, tiny_siglip2
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

import turningpoint as tp
from turningpoint.measures import measure
from turningpoint.measures._vision import Vision
from turningpoint.measures.clip import question, questions
from turningpoint.models.empirical import Empirical

COLOR, BACKGROUND = "color: red, blue, green", "background: city, forest, sea"
MAKERS = {"clip": tiny_clip, "siglip": tiny_siglip, "siglip2": tiny_siglip2}
# Logits are 100 times cosines of vectors of 24 numbers in float32; half of that goes into a logarithm of p.
RESOLUTION = 100 * 24 * 2**-23


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def network(networks) -> Path:
    return networks["clip"]


def images(count: int, height: int = 40, width: int = 40, channels: int = 3) -> torch.Tensor:
    """Coarse random pictures of 256 levels in [-1, 1]."""
    generator = torch.Generator().manual_seed(count + height)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 127.5 - 1


def as_pillow(batch: torch.Tensor) -> list[Image.Image]:
    levels = ((batch + 1) * 127.5).round().to(torch.uint8).expand(-1, 3, -1, -1)
    return [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in levels]


def by_transformers(folder: Path, batch: torch.Tensor, texts: list[str]):
    """Logits and image embedding as `transformers` gives them for pictures of Pillow."""
    model = AutoModel.from_pretrained(folder).eval()
    pixels = AutoImageProcessor.from_pretrained(folder, backend="pil")(
        images=as_pillow(batch), return_tensors="pt"
    )
    tokens = AutoTokenizer.from_pretrained(folder)(
        texts,
        padding="max_length",
        max_length=model.config.text_config.max_position_embeddings,
        return_tensors="pt",
    )
    with torch.inference_mode():
        answer = model(**pixels, **tokens)
    return answer.logits_per_image, answer.image_embeds


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("shape", [(40, 40, 3), (32, 32, 1), (33, 50, 3)])
def test_probabilities_are_transformers_own(networks, kind, shape):
    batch = images(9, *shape)
    clip = measure("clip", network=str(networks[kind]), ask=[COLOR, BACKGROUND], batch=4)
    found = clip.read(batch)
    for name, alternatives in clip.questions.items():
        logits, embedding = by_transformers(
            networks[kind], batch, [f"a photo of a {one}" for one in alternatives]
        )
        np.testing.assert_allclose(
            np.log(found[f"{name}.probability"]), logits.log_softmax(1), atol=2 * RESOLUTION, rtol=1e-5
        )
        np.testing.assert_array_equal(found[name], logits.argmax(1))
        embedding = embedding / embedding.norm(dim=1, keepdim=True)
        np.testing.assert_allclose(found["embedding"], embedding, atol=24 * 2**-23)


def test_sigmoids_given_that_one_alternative_is_right(networks):
    """The formula of the module's docstring, with SigLIP's own scale, bias and sigmoids."""
    batch = images(6)
    found = measure("clip", network=str(networks["siglip"]), ask=COLOR).read(batch)
    texts = [f"a photo of a {one}" for one in ("red", "blue", "green")]
    matches = by_transformers(networks["siglip"], batch, texts)[0].double().sigmoid()
    one_alone = torch.stack(
        [
            matches[:, k] * torch.cat([1 - matches[:, :k], 1 - matches[:, k + 1 :]], 1).prod(1)
            for k in range(3)
        ],
        1,
    )
    expected = one_alone / one_alone.sum(1, keepdim=True)
    np.testing.assert_allclose(found["color.probability"], expected, rtol=2 * RESOLUTION)


def test_readings_are_as_declared(network):
    clip = measure("clip", network=str(network), ask=[COLOR, BACKGROUND])
    assert not clip.by_default
    kinds = {clip.feature(reading): reading.kind for reading in clip.readings}
    assert kinds == {
        "clip.color": "categorical",
        "clip.color.probability": "vector",
        "clip.background": "categorical",
        "clip.background.probability": "vector",
        "clip.embedding": "vector",
        "clip.patches": "map",
    }
    assert clip.readings[0].values == ("red", "blue", "green")
    found = clip.read(images(7))
    assert set(found) == {reading.name for reading in clip.readings} - {"patches"}
    assert found["color"].dtype == np.int64
    assert found["color.probability"].shape == (7, 3)
    np.testing.assert_allclose(np.linalg.norm(found["embedding"], axis=1), 1, atol=1e-6)
    assert len(set(found["color"])) > 1  # the tiny network is not blind


def test_without_questions_only_the_embedding(network):
    clip = measure("clip", network=str(network), patches=0)
    assert [reading.name for reading in clip.readings] == ["embedding"]
    assert list(clip.read(images(2))) == ["embedding"]
    assert clip.compare(images(2), images(2)) == {}


def test_order_and_company_do_not_matter(network):
    batch = images(7)
    together = measure("clip", network=str(network), ask=COLOR).read(batch)
    order = torch.tensor([4, 1, 6, 0, 2, 5, 3])
    apart = measure("clip", network=str(network), ask=COLOR, batch=2).read(batch[order])
    np.testing.assert_array_equal(together["color"][order], apart["color"])
    for name in ("embedding", "color.probability"):
        np.testing.assert_allclose(together[name][order], apart[name], rtol=RESOLUTION, atol=24 * 2**-23)


def test_a_question_does_not_depend_on_the_others(network):
    alone = measure("clip", network=str(network), ask=COLOR).read(images(3))
    both = measure("clip", network=str(network), ask=(BACKGROUND, COLOR)).read(images(3))
    np.testing.assert_array_equal(alone["color.probability"], both["color.probability"])


def test_images_become_pictures_of_256_levels(network):
    clip = measure("clip", network=str(network))
    levels = images(2)
    between = (levels + (torch.rand_like(levels) - 0.5) * 0.9 / 127.5) * (1 + 1e-5)
    np.testing.assert_array_equal(clip.read(levels)["embedding"], clip.read(between)["embedding"])


@pytest.mark.parametrize("kind", MAKERS)
def test_patches_are_cosine_distances_of_hidden_states(networks, kind):
    a, b = images(3, 32, 32), images(3, 32, 32).flip(0)
    found = measure("clip", network=str(networks[kind])).compare(a, b)["patches"]
    assert found.shape == (3, PATCHES)
    model = AutoModel.from_pretrained(networks[kind]).eval()
    processor = AutoImageProcessor.from_pretrained(networks[kind], backend="pil")
    hidden = []
    for batch in (a, b):
        inputs = processor(images=as_pillow(batch), return_tensors="pt")
        with torch.inference_mode():
            hidden.append(model.vision_model(**inputs).last_hidden_state[:, -PATCHES:])
    cosine = torch.cosine_similarity(*hidden, dim=-1)
    np.testing.assert_allclose(found, 1 - cosine, atol=32 * 2**-23)
    assert (found[1] == 0).all()  # the picture in the middle is its own partner
    assert (found[0] > 0.01).any()


def test_padded_patches_are_left_out(networks):
    """SigLIP 2 cuts a wide picture into fewer patches than it has room for."""
    wide = images(2, 16, 40)
    found = measure("clip", network=str(networks["siglip2"])).compare(wide, wide.flip(0))["patches"]
    processor = AutoImageProcessor.from_pretrained(networks["siglip2"], backend="pil")
    rows, columns = processor(images=as_pillow(wide), return_tensors="pt")["spatial_shapes"][0].tolist()
    assert rows * columns < PATCHES
    assert found.shape == (2, rows * columns)


def test_each_image_is_seen_once(network, monkeypatch):
    seen = []
    see = Vision._see
    clip = measure("clip", network=str(network), ask=COLOR, batch=4)
    monkeypatch.setattr(Vision, "_see", lambda self, shown: seen.append(len(shown)) or see(self, shown))
    starts, back, again = images(6), images(6, 48), images(6, 56)
    clip.read(starts)
    for images_back in (back, again):
        clip.read(images_back)
        compared = clip.compare_with([starts, starts.roll(1, 0), starts.roll(2, 0)], images_back)
        assert [list(one) for one in compared] == [["patches"], [], []]
    assert sum(seen) == 18
    np.testing.assert_array_equal(clip.compare(starts, again)["patches"], compared[0]["patches"])


def test_memory_is_bounded(network, monkeypatch):
    clip = measure("clip", network=str(network), batch=2)
    monkeypatch.setattr("turningpoint.measures._vision.REMEMBERED", 3 * 2 * PATCHES * 32 * 4)
    expected = clip.compare(images(20), images(20).flip(0))
    assert len(clip.vision._kept) == 3
    fresh = measure("clip", network=str(network), batch=20).compare(images(20), images(20).flip(0))
    np.testing.assert_allclose(expected["patches"], fresh["patches"], atol=32 * 2**-23)


# ---- what was asked before


def turned() -> tp.Run:
    """U-turns of four pictures in colour."""
    return tp.uturn(Empirical(images(4, 16, 16)), times=[0.3, 0.9], items=4, steps=2, progress=None)


def test_questions_add_up_over_a_run(network):
    run = turned()
    run.measure("clip", network=str(network), ask=COLOR, progress=None)
    run.measure("clip", network=str(network), ask=[BACKGROUND], progress=None)
    together = turned().measure("clip", network=str(network), ask=[COLOR, BACKGROUND], progress=None)
    features = ["clip.color", "clip.background", "clip.color.probability", "clip.embedding", "clip.patches"]
    for feature in features:
        mine, theirs = run.reading(feature), together.reading(feature)
        np.testing.assert_array_equal(mine["back"], theirs["back"])
    assert run.reading("clip.patches")["back"].shape == (4, 1, 2, PATCHES)
    run.measure("clip", network=str(network), ask="color: pink, white", progress=None)
    assert run.reading("clip.color.probability")["back"].shape[-1] == 2
    assert run.reading("clip.background.probability")["back"].shape[-1] == 3


def test_settings(network, networks, tmp_path):
    known = measure("clip", network=str(network), ask=COLOR).settings()
    assert json.loads(json.dumps(known)) == known
    assert known["questions"] == {"color": ["red", "blue", "green"]}
    other = measure("clip", network=str(tiny_clip(tmp_path, seed=7)), ask=COLOR, template="a {}").settings()
    assert {key for key in known if known[key] != other[key]} == {"network", "weights", "template"}


def test_settings_tell_processors_apart(network, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(network, changed)
    file = changed / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"resample": 2}))
    one, other = (measure("clip", network=str(folder)).settings() for folder in (network, changed))
    assert one["weights"] == other["weights"]
    assert one["preprocessing"] != other["preprocessing"]


# ---- what is asked


def test_questions_in_every_form():
    asked = {"color": ("red", "blue"), "pose": ("lying", "sitting, with a ball")}
    texts = ["color: red,blue", ' pose : lying , "sitting, with a ball"']
    assert questions(texts) == questions(tuple(texts)) == questions(["color: cyan, pink", *texts]) == asked
    assert questions(texts[0]) == {"color": ("red", "blue")}
    assert questions(None) == questions([]) == questions(()) == {}
    assert question("time: 10:30, 11:30") == ("time", ("10:30", "11:30"))


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        ("red, blue", "ask is 'red, blue'"),
        ("color: red", r"alternatives \['red'\]"),
        ("color:", "alternatives"),
        ("color: red,, blue", "alternatives"),
        ("color: red, blue, red", "'red' twice"),
        ("the color: red, blue", "'the color'"),
        ("embedding: red, blue", "'embedding'"),
        (": red, blue", "named|names"),
        ('color: "red, blue', "quote"),
        (3, "ask is 3"),
        ([1, 2], r"ask is \[1, 2\]"),
        ({"color": ["red", "blue"]}, "ask is {"),
    ],
)
def test_bad_questions(ask, said, refuses):
    with refuses(said):
        measure("clip", network="not/looked-at", ask=ask)


def test_bad_settings(network, refuses):
    for template in ("a photo", "{} and {}", 3):
        with refuses("template is"):
            measure("clip", network=str(network), template=template)
    with refuses("batch is 0"):
        measure("clip", network=str(network), batch=0)
    with refuses("patches is 'perhaps'"):
        measure("clip", network=str(network), patches="perhaps")
    with refuses("device is 'abacus'"):
        measure("clip", network=str(network), device="abacus")
    with refuses("tokens; accepted: at most 77"):
        measure("clip", network=str(network), ask=["length: short, " + "long " * 40])


def test_no_pictures(network, refuses):
    clip = measure("clip", network=str(network))
    with refuses("shape"):
        clip.read(torch.zeros(2, 7))
    with refuses("shape"):
        clip.read(torch.zeros(2, 4, 8, 8))


# ---- networks that cannot be used


def broken(network: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(network, tmp_path / "broken"))


def test_no_such_network(tmp_path, refuses):
    with refuses("neither a folder nor a repository"):
        measure("clip", network=str(tmp_path / "nowhere"))
    with refuses("config.json"):
        measure("clip", network=str(tmp_path))
    with refuses("Dinov2Model; accepted: a CLIP"):
        measure("clip", network=str(tiny_dinov2(tmp_path / "dino")))


def test_transformers_missing(network, refuses, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refuses(r"pip install 'turningpoint\[text\]'"):
        measure("clip", network=str(network))


def test_weights_with_gaps_are_refused(network, tmp_path, refuses):
    folder = broken(network, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_model.encoder.layers.0.mlp.fc1.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with refuses("lack 1 tensors, the first 'text_model.encoder.layers.0.mlp.fc1.weight'"):
        measure("clip", network=str(folder))
    (folder / "model.safetensors").unlink()
    with refuses("there are no weights"):
        measure("clip", network=str(folder))


def test_bin_weights_are_read_without_running_them(network, tmp_path, refuses):
    folder = broken(network, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    expected = measure("clip", network=str(network)).read(images(2))
    found = measure("clip", network=str(folder)).read(images(2))
    np.testing.assert_array_equal(found["embedding"], expected["embedding"])

    torch.save({**tensors, "logit_scale": Trap(tmp_path / "sprung")}, folder / "pytorch_model.bin")
    with refuses("cannot be read"):
        measure("clip", network=str(folder))
    assert not (tmp_path / "sprung").exists()


class Trap:
    """What a hostile pickle holds: it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_beside_the_weights_is_not_run(network, tmp_path, refuses):
    folder = broken(network, tmp_path)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass Own: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.Own", "AutoModel": "own.Own"}
    config["vision_config"]["_attn_implementation"] = "somebody/kernel"
    (folder / "config.json").write_text(json.dumps(config))
    for name, auto in (("preprocessor_config", "AutoImageProcessor"), ("tokenizer_config", "AutoTokenizer")):
        file = folder / f"{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": {auto: "own.Own"}}))
    assert measure("clip", network=str(folder)).read(images(1))["embedding"].shape == (1, 24)
    config["model_type"] = "own"
    (folder / "config.json").write_text(json.dumps(config))
    with refuses("cannot be read"):
        measure("clip", network=str(folder))
    assert not (tmp_path / "sprung").exists()
    assert "own" not in sys.modules


def test_a_config_larger_than_its_weights_is_refused(network, tmp_path, refuses):
    folder = broken(network, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] = 10**9
    (folder / "config.json").write_text(json.dumps(config))
    with refuses("describes"):
        measure("clip", network=str(folder))


def test_nothing_heavy_is_imported_with_the_measures():
    import subprocess

    code = "import sys, turningpoint.measures as m; m.MEASURES.names(); print('transformers' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
