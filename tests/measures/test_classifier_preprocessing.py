"""From images to pixels to what a network takes; and EfficientNet-Lite0 on photographs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from plain_classifier import RGB, photograph
from skimage import data

from turningpoint.measures._classifiers import image_classifier
from turningpoint.measures._classifiers._preprocessing import Steps, pictures, pixels

# ---- pixels and steps


def test_pixels_are_rounded_or_truncated_and_cut_off():
    x = torch.tensor([-3.0, -1, -0.5, 0, 0.999, 1, 7]).reshape(1, 1, 1, 7)
    assert pixels(x)[0, 0, :, 0].tolist() == [0, 0, 64, 128, 255, 255, 255]
    assert pixels(x, "truncated")[0, 0, :, 1].tolist() == [0, 0, 63, 127, 254, 255, 255]


def test_pictures_are_what_pixels_say():
    assert (np.asarray(pictures(RGB)[2]) == pixels(RGB)[2]).all()
    assert pictures(RGB[:, :1])[0].mode == "RGB"


@pytest.mark.parametrize("shape", [(4, 7), (2, 2, 8, 8), (3, 8, 8)])
def test_what_is_no_picture_is_refused(shape, refuses):
    with refuses("accepted: \\(B, 1, H, W\\) or \\(B, 3, H, W\\)"):
        pixels(torch.zeros(shape))


def test_numbers_that_are_not_finite_are_refused(refuses):
    with refuses("not finite"):
        pixels(torch.full((1, 1, 2, 2), torch.nan))


def test_steps_resize_cut_and_normalise_as_written_out():
    steps = Steps.given(size=(16, 20), resize=24, mean=0.4, std=[0.1, 0.2, 0.3], interpolation="bicubic")
    found = steps(RGB)
    for row, picture in zip(found, pictures(RGB), strict=True):
        small = picture.resize((28, 24), Image.Resampling.BICUBIC)  # 24 * 48 // 40 = 28
        cut = np.asarray(small)[4:20, 4:24] / 255
        wanted = (cut - 0.4) / np.array([0.1, 0.2, 0.3])
        np.testing.assert_allclose(row.permute(1, 2, 0).numpy(), wanted, atol=2e-5)


def test_steps_keep_the_middle_of_imagenet_by_default():
    assert Steps.given(size=224).resize == 256
    assert Steps.given().size is None
    assert Steps.given()(RGB).shape == RGB.shape


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": "big"},
        {"size": (3, 4, 5)},
        {"size": True},
        {"resize": 2.5},
        {"size": 9, "resize": 8},
        {"mean": "red"},
        {"std": (1, 2)},
        {"std": 0},
        {"interpolation": "cubic"},
        {"levels": "floor"},
    ],
)
def test_steps_refuse_what_they_are_not(wrong, refuses):
    with refuses(f"{list(wrong)[-1]} is .*accepted: "):
        Steps.given(**wrong)


# ---- EfficientNet-Lite0


@pytest.fixture(scope="module")
def lite():
    return image_classifier("efficientnet-lite0", device="cpu")


@pytest.mark.parametrize(
    ("name", "seen"), [("chelsea", "Egyptian cat"), ("coffee", "espresso"), ("rocket", "missile")]
)
def test_efficientnet_knows_photographs(lite, name, seen):
    logits = lite(lite.prepare(photograph(name)))
    assert logits.shape == (1, 1000)
    assert lite.classes[int(logits.argmax())] == seen


def test_efficientnet_sees_the_whole_cat():
    whole = image_classifier("efficientnet-lite0?crop=whole", device="cpu")
    chelsea = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None].float() / 127.5 - 1
    chance = whole(whole.prepare(chelsea)).softmax(1)
    assert chance.argmax() == 285
    assert float(chance[0, 285]) == pytest.approx(
        0.771, abs=0.005
    )  # as the package's network gives it by hand


def test_efficientnet_prepares_as_its_release_does(lite):
    """Of 224 / 256 of the shorter edge, resized to 224, (u - 127) / 128."""
    x = torch.zeros(1, 3, 300, 451)
    x[:, :, 19 + 0 : 19 + 262, 95 : 95 + 262] = 1  # int(0.875 * 300) = 262, (300 - 262 + 1) // 2 = 19
    assert torch.equal(lite.prepare(x), torch.ones(1, 3, 224, 224))
    x[:, :, 19, :] = -1
    assert not torch.equal(lite.prepare(x), torch.ones(1, 3, 224, 224))
    assert image_classifier("efficientnet-lite0?crop=1").prepare(RGB[:1, :, :40, :40]).shape[2:] == (224, 224)


def test_efficientnet_looks_at_its_16_blocks_and_the_logits(lite):
    assert lite.layers == (*(f"_blocks.{k}" for k in range(16)), "_fc")


def test_logits_do_not_depend_on_company(lite):
    prepared = lite.prepare(torch.cat([photograph("chelsea", 64), photograph("coffee", 64)]))
    together, alone = lite(prepared), torch.cat([lite(prepared[:1]), lite(prepared[1:])])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)  # order of sums in float32


def test_the_thousand_classes_have_names_of_their_own(lite):
    assert len(set(lite.classes)) == 1000
    assert (lite.classes[0], lite.classes[134], lite.classes[999]) == (
        "tench",
        "crane (bird)",
        "toilet tissue",
    )


@pytest.mark.parametrize("crop", ["0", "1.5", "half", "True"])
def test_efficientnet_refuses_a_crop_that_is_no_share(crop, refuses):
    with refuses("crop is .*accepted: a number above 0 and up to 1, or whole"):
        image_classifier(f"efficientnet-lite0?crop={crop}")
