"""Moments of activations: exact, the same however they are merged, and whitening by them."""

from __future__ import annotations

import shutil
from fractions import Fraction

import numpy as np
import torch
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from turningpoint.measures._activations import Layer
from turningpoint.measures._layer_statistics import LayerStatistics, begun
from turningpoint.measures._moments import EPSILON, Moments, digits, integers, row_sums, whitened

MAP, TOKENS, VECTOR = Layer("conv", "map", 3), Layer("block", "tokens", 3), Layer("fc", "vector", 4)
LAYERS = (MAP, TOKENS, VECTOR)


def activations(n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(n, *shape, generator=generator)

    return {"conv": 3 * draw(3, 5, 4) + 1, "block": draw(6, 3) - 2, "fc": draw(4) * 100}


def moments(parts) -> Moments:
    found = Moments(LAYERS)
    for part in parts:
        one = Moments(LAYERS)
        one.add(part)
        found.merge(one)
    return found


def rows(batch, *which):
    return {name: values[list(which)] for name, values in batch.items()}


# ---- exact sums


@given(st.lists(st.floats(-(2.0**94), 2.0**94, width=64), min_size=1, max_size=5))
def test_digits_are_the_number(values):
    # rounded once, to the nearest unit of 2^-96
    total = digits(np.array(values)[:, None]).sum(0)
    assert integers(total) == [sum(round(Fraction(v) * 2**96) for v in values)]


def test_sums_are_of_every_image():
    batch = activations(4)
    for layer, axes in zip(LAYERS, [(2, 3), (1,), ()], strict=True):
        a = batch[layer.name].double().numpy()
        sums, squares = row_sums(layer, batch[layer.name])
        # float64: the order of 20 additions matters by at most 20 units in the last place
        np.testing.assert_allclose(
            sums, a.sum(axes), rtol=20 * 2**-52, atol=20 * 2**-52 * np.abs(a).max() * 20
        )
        np.testing.assert_allclose(squares, np.square(a).sum(axes), rtol=20 * 2**-52)


# ---- moments


def test_mean_variance_and_second_moment_are_numpys():
    batch = activations(7)
    found = moments([batch])
    for layer, axes in zip(LAYERS, [(0, 2, 3), (0, 1), (0,)], strict=True):
        a = batch[layer.name].double().numpy()
        np.testing.assert_allclose(found.mean(layer.name), a.mean(axes), rtol=1e-12)
        np.testing.assert_allclose(found.variance(layer.name), a.var(axes), rtol=1e-12)
        np.testing.assert_allclose(found.second_moment(layer.name), np.square(a).mean(axes), rtol=1e-12)
    assert found.images == 7
    assert found.counts.tolist() == [7 * 20, 7 * 6, 7]


@settings(max_examples=20)
@given(st.lists(st.integers(0, 4), min_size=13, max_size=13), st.randoms())
def test_however_images_are_cut_and_merged_the_moments_are_the_same_bits(parts, random):
    batch = activations(13)
    one_by_one = {part: [i for i in range(13) if parts[i] == part] for part in set(parts)}
    order = list(one_by_one.values())
    random.shuffle(order)
    whole, merged = moments([batch]), moments([rows(batch, *which) for which in order])
    for layer in LAYERS:
        for kind in ("mean", "variance", "second_moment"):
            assert np.array_equal(getattr(whole, kind)(layer.name), getattr(merged, kind)(layer.name))
    assert whole.digest(["conv", "fc"]) == merged.digest(["conv", "fc"])


def test_a_channel_far_from_zero_loses_nothing():
    a = torch.tensor([[1e4 + 2**-10 * k] for k in range(-3, 4)])
    layer = Layer("fc", "vector", 1)
    found = Moments([layer])
    found.add({"fc": a})
    exact = [Fraction(float(v)) for v in a[:, 0]]
    mean = sum(exact) / 7
    assert found.mean("fc")[0] == float(mean)
    variance = float(sum((v - mean) ** 2 for v in exact) / 7)
    assert variance == 4 * 2**-20  # of -3 ... 3
    assert found.variance("fc")[0] == variance
    naive = float(a.square().mean() - a.mean() ** 2)
    assert abs(naive - variance) >= variance  # in float32 nothing is left


def test_numbers_that_are_not_finite_are_refused_and_add_nothing(refuses):
    found = moments([activations(2)])
    before = found.digest(["conv", "block", "fc"])
    for wrong in (float("nan"), float("inf"), 1e20):
        batch = activations(2)
        batch["block"][1, 2, 1] = wrong
        with refuses("the layer 'block' answers an image with numbers that are not finite"):
            found.add(batch)
    assert found.images == 2
    assert found.digest(["conv", "block", "fc"]) == before


def test_over_no_images_moments_are_nan():
    assert np.isnan(Moments(LAYERS).mean("fc")).all()
    assert np.isnan(Moments(LAYERS).variance("fc")).all()


# ---- whitening


def test_whitened_channels_have_mean_zero_and_variance_one():
    batch = activations(9)
    found = moments([batch])
    for layer, axes in zip(LAYERS, [(0, 2, 3), (0, 1), (0,)], strict=True):
        a = whitened(batch[layer.name], layer.form, *found.whitening(layer.name, "variance"))
        assert a.dtype == torch.float32
        # float32 rounds 1.2e-7 of each of the values, which reach 3 standard deviations and means of 100
        np.testing.assert_allclose(a.double().numpy().mean(axes), 0, atol=1e-6)
        np.testing.assert_allclose(a.double().numpy().var(axes), 1, atol=1e-6)


def test_the_published_whitening_divides_by_the_root_second_moment(refuses):
    batch = activations(9)
    found = moments([batch])
    for layer, axes, shape in (
        (MAP, (0, 2, 3), (1, 3, 1, 1)),
        (TOKENS, (0, 1), (3,)),
        (VECTOR, (0, 1), (1,)),
    ):
        a = batch[layer.name].double().numpy()
        mean, second = a.mean(axes).reshape(shape), np.square(a).mean(axes).reshape(shape)
        expected = (a - mean) / np.sqrt(second + EPSILON)
        given_ = whitened(batch[layer.name], layer.form, *found.whitening(layer.name, "second-moment"))
        np.testing.assert_allclose(given_.numpy(), expected, atol=1e-6)
    with refuses("whiten is 'std'; accepted: variance, second-moment, none"):
        found.whitening("fc", "std")


def test_not_whitened_is_a_copy():
    a = activations(2)["conv"]
    same = whitened(a, "map", *moments([activations(2)]).whitening("conv", "none"))
    assert torch.equal(same, a)
    assert same.data_ptr() != a.data_ptr()


# ---- on disk

CLASSIFIER = {"classifier": "net", "weights": "abc", "preprocessing": "none"}
IMAGES = {"where": "photos", "count": 9, "digest": "123", "shape": None, "fit": None}


def statistics(first=0, last=9, **other):
    images = IMAGES | {key: other.pop(key) for key in ("count", "digest", "where", "shape") if key in other}
    found = moments([rows(activations(9), *range(first, last))])
    return LayerStatistics(found, CLASSIFIER | other, images, [(first, last)], ["bad.png"])


def test_what_is_saved_is_what_is_loaded(tmp_path):
    one = statistics()
    one.save(tmp_path / "deep" / "stats.zarr")
    again = LayerStatistics.load(tmp_path / "deep" / "stats.zarr")
    assert again.attributes() == one.attributes()
    assert np.array_equal(again.moments.sums, one.moments.sums)
    assert again.complete
    assert again.skipped == ["bad.png"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["stats.zarr"]


def test_xarray_opens_them(tmp_path):
    one = statistics()
    one.save(tmp_path / "stats.zarr")
    with xr.open_zarr(tmp_path / "stats.zarr", consolidated=False) as found:
        assert dict(found.sizes) == {"moment": 2, "digit": 6, "channel": 10}
        np.testing.assert_array_equal(found.variance[found.layer == 2], one.moments.variance("fc"))


def test_only_parts_that_belong_together_are_merged(refuses):
    one = statistics(0, 4)
    one.merge(statistics(6, 9, where="elsewhere", classifier="the same net by another name"))
    assert one.covered == [(0, 4), (6, 9)]
    assert not one.complete
    with refuses("overlap: images 3 to 3 are in two of them"):
        one.merge(statistics(3, 5))
    with refuses("the classifier is 'net' with weights xyz, not 'net' with weights abc"):
        one.merge(statistics(4, 6, weights="xyz"))
    with refuses("the images are other ones: 8 of 'photos', not 9 of 'photos'"):
        one.merge(statistics(4, 6, count=8))
    with refuses("the images are other ones"):
        one.merge(statistics(4, 6, digest="456"))
    with refuses("the images' shape is .3, 8, 8., not None"):
        one.merge(statistics(4, 6, shape=[3, 8, 8]))
    other = LayerStatistics(Moments([MAP, VECTOR]), CLASSIFIER, IMAGES, [(4, 6)])
    with refuses("the layers are conv, fc, not conv, block, fc"):
        one.merge(other)
    one.merge(statistics(4, 6))
    assert one.complete
    assert one.moments.digest(["conv"]) == statistics().moments.digest(["conv"])


def test_what_is_no_statistics_is_refused(tmp_path, refuses):
    where = tmp_path / "stats.zarr"
    with refuses("statistics is .*stats.zarr', where no statistics are"):
        LayerStatistics.load(where)
    begun(where).mkdir()
    with refuses("which is not finished; accepted: whole statistics"):
        LayerStatistics.load(where)
    zarr.open_group(where, mode="w", zarr_format=3)
    with refuses("out is .*, which holds something else"):
        LayerStatistics.load(where, "out")
    with refuses("which is there already"):
        statistics().save(where)
    shutil.rmtree(where)
    statistics().save(where)
    zarr.open_group(where, mode="a").attrs["format"] = 2
    with refuses("has format 2; this version reads up to 1"):
        LayerStatistics.load(where)
    zarr.open_group(where, mode="a").attrs["format"] = 1
    shutil.rmtree(where / "sums")
    with refuses("which is damaged"):
        LayerStatistics.load(where)
    (where / "zarr.json").write_text("{")
    with refuses("which is damaged"):
        LayerStatistics.load(where)
