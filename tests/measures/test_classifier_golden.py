"""The `classifier` measure against what the published forward-backward scripts return (tests/measures/golden)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from published_classifier import expected, images, labels, network

from turningpoint.measures import measure
from turningpoint.measures._classifiers import image_classifier
from turningpoint.measures._classifiers._preprocessing import IMAGENET_MEAN, IMAGENET_STD

START, BACK = images("start"), images("t_12_25_images")


@pytest.fixture(scope="module")
def published():
    """The measure, told to prepare images as the published scripts do."""
    return measure("classifier", classifier=image_classifier(network(), levels="truncated"))


@pytest.mark.parametrize(("folder", "key"), [(START, "logits_start"), (BACK, "logits_sample")])
def test_logits_are_the_published_ones(published, folder, key):
    wanted = expected()[key]
    found = published.read(folder)["logits"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-5 * np.sqrt(np.mean(wanted**2)))
    np.testing.assert_array_equal(published.read(folder)["top1"], wanted.argmax(1))


def test_accuracies_are_the_published_ones(published):
    found = published.read(START)
    ranks = (found["logits"] > found["logits"][np.arange(12), labels()][:, None]).sum(1)
    assert 100 * np.mean(found["top1"] == labels()) == pytest.approx(16.6667, abs=1e-4)
    assert 100 * np.mean(ranks < 5) == pytest.approx(58.3333, abs=1e-4)


def test_top5_asks_for_the_class_of_the_start(published):
    logits = torch.from_numpy(expected()["logits_sample"])
    first = logits.topk(5).indices.numpy()
    wanted = [top in row for top, row in zip(expected()["logits_start"].argmax(1), first, strict=True)]
    np.testing.assert_array_equal(published.compare(START, BACK)["top5"], np.array(wanted, np.float32))
    assert published.compare(START, START)["top5"].tolist() == [1.0] * 12


def test_rounding_keeps_pixels_that_truncation_makes_darker():
    """Pixels u come back from u / 127.5 - 1 whole; in float32 truncation takes one level from some of them."""
    bytes_ = torch.arange(256.0)
    x = (bytes_ / 127.5 - 1).reshape(1, 1, 16, 16)
    mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
    exact = (bytes_.reshape(1, 1, 16, 16) / 255 - mean) / std
    rounded = image_classifier(network(), mean=IMAGENET_MEAN).prepare(x)
    truncated = image_classifier(network(), levels="truncated").prepare(x)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=1e-6)
    lost = ((rounded - truncated) * std * 255).round()
    assert set(lost.unique().tolist()) == {0.0, 1.0}


def test_the_layers_that_the_scripts_hook_are_the_default_ones():
    assert image_classifier(network()).layers == ("conv1", "conv2", "tok", "classifier")
