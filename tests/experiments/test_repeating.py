"""A trace and a patch are made again from their manifests alone."""

import numpy as np
import pytest

import turningpoint as tp
from turningpoint.experiments.patch import patch
from turningpoint.experiments.trace import trace


def test_a_trace_from_noise(tmp_path):
    look = {"measures": ["frequency?bands=3", "color"], "of": "estimate,state", "activations": "mid_block"}
    run = trace(
        "digits", 3, steps=6, every=2, label=[1, 2, 3], keep="estimate", first_item=4, progress=None, **look
    )
    again, apart = tp.repeat(run, tmp_path / "again", progress=None)
    assert apart == 0
    assert again.settings == run.settings
    assert again.manifest["axes"] == run.manifest["axes"]
    for side in ("estimate", "state"):
        assert again.features(side) == run.features(side)
    np.testing.assert_array_equal(
        again.series("frequency.energy2").values, run.series("frequency.energy2").values
    )
    np.testing.assert_array_equal(again.activation_summaries()[0], run.activation_summaries()[0])


def test_a_trace_from_noised_images():
    images = tp.generate("digits", 2, steps=4, progress=None).images.values.clip(-1, 1)
    run = trace("digits", images=images, from_time=0.6, measures="color", steps=5, progress=None)
    again, apart = tp.repeat(run, progress=None)
    assert apart == 0
    np.testing.assert_array_equal(again.start.values, images)


@pytest.mark.parametrize(
    "how",
    [
        {"mode": "scale:0.5"},
        {"mode": "patch", "label": [1, 2], "donor": {"label": [3, 3], "seed": 5}},
        {"mode": "patch", "label": 1, "donor": {"label": None}},
    ],
)
def test_a_patch(how):
    run = patch("digits", ["mid_block"], (0.2, 0.9), 2, steps=4, progress=None, **how)
    again, apart = tp.repeat(run, progress=None)
    assert apart == 0
    assert again.settings == run.settings
    np.testing.assert_array_equal(again.data["clean"].values, run.data["clean"].values)


def test_the_command(command, tmp_path):
    trace("digits", 2, steps=3, measures="color", out=tmp_path / "t", progress=None)
    patch("digits", "mid_block", (0.2, 0.9), 2, steps=3, out=tmp_path / "p", progress=None)
    for name in ("t", "p"):
        status, out, _ = command("repeat", name)
        assert status == 0
        assert out == f"The repetition is in {name}-repeat; its images differ by at most 0.\n"


def test_what_a_manifest_does_not_hold_is_refused(refuses):
    def brightness(images):
        return images.mean((1, 2, 3))

    run = trace("digits", 2, steps=3, measures=brightness, progress=None)
    with refuses("which cannot be had from its manifest"):
        tp.repeat(run, progress=None)
