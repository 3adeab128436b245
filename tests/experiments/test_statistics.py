"""Statistics of a classifier's layers: the same in any number of parts, continued, and honest about bad pictures."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from turningpoint.experiments import statistics as module
from turningpoint.experiments.statistics import collect_statistics, merge_statistics, part_of
from turningpoint.measures._classifiers import image_classifier
from turningpoint.measures._layer_statistics import LayerStatistics, begun
from turningpoint.measures.layers import Layers

N = 23


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)
    )


@pytest.fixture
def folder(tmp_path):
    where = tmp_path / "photos"
    where.mkdir()
    for i, pixels in enumerate(photos()):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(where / f"{i:03}.png")
    return where


def photos(n: int = N, size: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 3, size, size), dtype=np.uint8)


def moments(one: LayerStatistics) -> list[np.ndarray]:
    kinds = ("mean", "variance", "second_moment")
    return [getattr(one.moments, kind)(layer.name) for layer in one.layers for kind in kinds]


def same_bits(one: LayerStatistics, other: LayerStatistics) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(moments(one), moments(other), strict=True))


def quiet(*arguments, **settings):
    return collect_statistics(*arguments, progress=None, **settings)


# ---- parts


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("batch", [4, 7, 32])
def test_parts_merged_are_the_whole_to_the_last_bit(net, folder, tmp_path, parts, batch):
    whole = quiet(net, folder, tmp_path / "whole.zarr", batch=batch)
    ranges = [f"{k}/{parts}" for k in range(1, parts + 1)]
    made = [
        quiet(net, folder, tmp_path / f"{parts}-{k}.zarr", part=part, batch=batch)
        for k, part in enumerate(ranges)
    ]
    order = [tmp_path / f"{parts}-{k}.zarr" for k in reversed(range(parts))]
    merged = merge_statistics(order, tmp_path / "merged.zarr")
    assert merged.complete
    assert merged.moments.images == N == sum(one.moments.images for one in made)
    assert same_bits(whole, merged)
    assert same_bits(whole, LayerStatistics.load(tmp_path / "merged.zarr"))


def test_they_are_the_moments_of_all_activations(net, folder, tmp_path):
    found = quiet(net, folder, tmp_path / "stats.zarr", layers=["0", "5"], batch=5)
    with torch.inference_mode():
        x = torch.from_numpy(photos()).float() / 127.5 - 1
        for name, a in (("0", net[0](x)), ("5", net(x))):
            axes = (0, 2, 3) if a.ndim == 4 else (0,)
            values = a.double().numpy()
            # activations of another batch differ by some 2^-23 of their size
            np.testing.assert_allclose(found.moments.mean(name), values.mean(axes), atol=1e-6)
            np.testing.assert_allclose(found.moments.variance(name), values.var(axes), rtol=1e-5)


def test_they_serve_the_measure_that_whitens(net, tmp_path):
    quiet(net, photos(), tmp_path / "stats.zarr")
    x = torch.from_numpy(photos()).float() / 127.5 - 1
    given = Layers(classifier=net, statistics=str(tmp_path / "stats.zarr"), shape=(3, 8, 8))
    own = Layers(classifier=net, shape=(3, 8, 8))
    own.study(lambda: iter(x.split(10)))
    for name, values in own.compare(x, x.flip(0)).items():
        np.testing.assert_allclose(given.compare(x, x.flip(0))[name], values, rtol=1e-6, atol=1e-6)


def test_part_of(refuses):
    for n in (1, 2, 5, 23):
        ranges = [part_of(23, f"{k}/{n}") for k in range(1, n + 1)]
        assert ranges[0][0] == 0
        assert ranges[-1][1] == 23
        assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
    for wrong in ("0/2", "3/2", "2", "a/b", "1/0", "-1/2", ""):
        with refuses("part is .*; accepted: k/n with k from 1 to n"):
            part_of(23, wrong)
    with refuses("part is '1/5' of 3 images, in which none is"):
        part_of(3, "1/5")


def test_what_does_not_belong_together_is_not_merged(net, folder, tmp_path, refuses):
    first = quiet(net, folder, tmp_path / "1.zarr", part="1/2", batch=4)
    with refuses("statistics to be merged overlap: images 0 to 3 are in two of them"):
        merge_statistics(
            [first, quiet(net, folder, tmp_path / "4.zarr", part="1/5", batch=4)], tmp_path / "m.zarr"
        )
    with refuses("statistics to be merged overlap"):
        merge_statistics([first, first], tmp_path / "m.zarr")
    with refuses("the layers are 0, logits, not 1, 3, 5"):
        merge_statistics(
            [first, quiet(net, folder, tmp_path / "l.zarr", part="2/2", layers="0")], tmp_path / "m.zarr"
        )
    with refuses("the images are other ones: 23 of .*, not 23 of .*photos"):
        merge_statistics(
            [first, quiet(net, 255 - photos(), tmp_path / "i.zarr", part="2/2")], tmp_path / "m.zarr"
        )
    other = nn.Sequential(*net[:-1], nn.Linear(32, 5))
    with refuses("the classifier is 'Sequential' with weights"):
        merge_statistics([first, quiet(other, folder, tmp_path / "c.zarr", part="2/2")], tmp_path / "m.zarr")
    with refuses("out is .*1.zarr', which is there already"):
        merge_statistics([first], tmp_path / "1.zarr")
    with refuses("parts is .*; accepted: a list of one or more statistics"):
        merge_statistics([], tmp_path / "m.zarr")
    with refuses("parts is .*nowhere.zarr', where no statistics are"):
        merge_statistics([tmp_path / "nowhere.zarr"], tmp_path / "m.zarr")
    assert not (tmp_path / "m.zarr").exists()


# ---- bad pictures


def spoil(folder, *numbers):
    for i in numbers:
        (folder / f"{i:03}.png").write_bytes(b"\x89PNG, but not really")


def test_a_bad_picture_is_named(net, folder, tmp_path, refuses):
    spoil(folder, 11)
    with refuses("011.png.*; leave such pictures out with --skip-bad"):
        quiet(net, folder, tmp_path / "stats.zarr", batch=4)
    assert not (tmp_path / "stats.zarr").exists()
    with pytest.warns(UserWarning, match=r"left out: .*011\.png"):
        found = quiet(net, folder, tmp_path / "stats.zarr", batch=4, skip_bad=True)
    assert found.skipped == ["011.png"]
    assert found.complete
    assert found.moments.images == N - 1


@pytest.mark.filterwarnings("ignore:left out")
def test_skipped_pictures_are_counted_in_every_part_and_change_nothing_else(net, folder, tmp_path):
    spoil(folder, 0, 11, 22)
    whole = quiet(net, folder, tmp_path / "whole.zarr", batch=4, skip_bad=True)
    parts = [
        quiet(net, folder, tmp_path / f"{k}", batch=4, part=f"{k}/5", skip_bad=True) for k in range(1, 6)
    ]
    merged = merge_statistics(parts, tmp_path / "merged.zarr")
    assert merged.skipped == whole.skipped == ["000.png", "011.png", "022.png"]
    assert same_bits(whole, merged)
    assert merged.moments.images == 20


@pytest.mark.filterwarnings("ignore:left out")
def test_nothing_that_can_be_read_is_refused(net, folder, tmp_path, refuses):
    spoil(folder, *range(N))
    with refuses("in which no picture of 23 can be read"):
        quiet(net, folder, tmp_path / "stats.zarr", skip_bad=True)


def test_pictures_of_several_sizes_need_a_size_or_a_classifier_that_resizes(net, folder, tmp_path, refuses):
    Image.fromarray(photos(1, 20)[0].transpose(1, 2, 0)).save(folder / "zzz.png")
    with refuses("the picture 'zzz.png' has shape .3, 20, 20. for the classifier, another one .3, 8, 8."):
        quiet(net, folder, tmp_path / "a.zarr")
    assert quiet(net, folder, tmp_path / "b.zarr", size=8).moments.images == N + 1
    resizing = image_classifier(net, size=8)
    assert quiet(resizing, folder, tmp_path / "c.zarr").moments.images == N + 1
    with refuses("size is 0; accepted: a positive number of pixels"):
        quiet(net, folder, tmp_path / "d.zarr", size=0)


# ---- interrupted and continued


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoppedError])
def test_interrupted_it_continues_where_it_stopped(net, folder, tmp_path, monkeypatch, error):
    whole = quiet(net, folder, tmp_path / "whole.zarr", batch=4)
    out, seen = tmp_path / "stats.zarr", []
    look = module._look

    def interrupted(classifier, layers, pictures, start, batch):
        if len(seen) == 2:
            raise error
        seen.append(start)
        return look(classifier, layers, pictures, start, batch)

    monkeypatch.setattr(module, "_look", interrupted)
    with pytest.raises(error):
        quiet(net, folder, out, batch=4)
    assert not out.exists()
    monkeypatch.setattr(module, "_look", look)
    told = []
    found = collect_statistics(net, folder, out, batch=4, progress=lambda *numbers: told.append(numbers))
    assert told[0] == (12, N, 4)  # two batches were there already
    assert told[-1] == (N, N, N - 8)
    assert same_bits(whole, found)
    assert not begun(out).exists()


def test_unfinished_statistics_of_other_settings_are_not_continued(
    net, folder, tmp_path, monkeypatch, refuses
):
    out = tmp_path / "stats.zarr"
    spoil(folder, 20)
    with refuses("020.png"):
        quiet(net, folder, out, batch=4)
    with refuses("which is not finished"):
        LayerStatistics.load(out)
    with refuses("where other statistics are: the layers are"):
        quiet(net, folder, out, batch=4, layers="0", skip_bad=True)
    with refuses("where other statistics are: it is another part, with images 0 to 19"):
        quiet(net, folder, out, batch=4, part="1/2", skip_bad=True)
    state = begun(out) / "state.npz"
    state.write_bytes(state.read_bytes()[:100])
    with refuses("keeps a damaged beginning"):
        quiet(net, folder, out, batch=4, skip_bad=True)


def test_finished_statistics_are_not_collected_again(net, folder, tmp_path, monkeypatch, refuses):
    out = tmp_path / "stats.zarr"
    first = quiet(net, folder, out, part="1/2")

    def never(*arguments):
        raise AssertionError("collected again")

    monkeypatch.setattr(module, "_collect", never)
    assert same_bits(first, quiet(net, folder, out, part="1/2"))
    with refuses("where other statistics are: it is another part, with images 0 to 10"):
        quiet(net, folder, out, part="2/2")
    with refuses("where other statistics are: the layers are 1, 3, 5, not 0, logits"):
        quiet(net, folder, out, part="1/2", layers="0")


def test_two_processes_do_not_share_one_place(net, folder, tmp_path, refuses):
    out = tmp_path / "stats.zarr"
    with module._working(out), refuses("which another process is making"):
        quiet(net, folder, out)


KILLED = """
import sys
import numpy as np, torch
from torch import nn
from turningpoint.experiments import statistics as module
torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)
)
module.CHECKPOINT = 1
def wait(done, total, read):
    if done >= 8:
        print("now", flush=True)
        sys.stdin.read()
module.collect_statistics(net, sys.argv[1], sys.argv[2], batch=4, progress=wait)
"""


def test_killed_it_continues(net, folder, tmp_path):
    out = tmp_path / "stats.zarr"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, folder, out],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline() == b"now\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    told = []
    found = collect_statistics(net, folder, out, batch=4, progress=lambda *numbers: told.append(numbers))
    assert told[0] == (12, N, 4)
    assert same_bits(found, quiet(net, folder, tmp_path / "whole.zarr", batch=4))


# ---- the command


def test_the_command_collects_and_merges(command, folder, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),\n"
        "        torch.nn.Linear(144, 5))\n"
    )
    base = ["statistics", "--classifier", "python:mine.py:net", "--images", folder, "--json"]
    for k in (1, 2):
        status, said, _ = command(*base, "--part", f"{k}/2", "--out", f"{k}.zarr")
        assert status == 0
        assert json.loads(said)["complete"] is False
    status, said, _ = command("statistics", "--merge", "1.zarr", "2.zarr", "--out", "all.zarr", "--json")
    assert status == 0
    told = json.loads(said)
    assert told["complete"] is True
    assert (told["images"], told["of"], told["layers"]) == (N, N, ["1", "3"])
    status, said, _ = command(
        "statistics", "--merge", "1.zarr", "--merge", "2.zarr", "--out", "again.zarr", "--json"
    )
    assert status == 0
    spoil(folder, 3)
    status, said, complained = command(*base[:-1], "--out", "whole.zarr")
    assert status == 2
    assert "003.png" in complained
    assert "--skip-bad" in complained
    status, said, complained = command(*base[:-1], "--out", "whole.zarr", "--skip-bad")
    assert status == 0
    assert "1 pictures could not be read" in said
    assert "003.png" in complained
    assert "whole.zarr is finished" in said
    assert "was finished before" in command(*base[:-1], "--out", "whole.zarr", "--skip-bad")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--classifier is not given"),
        (["--classifier", "efficientnet-lite0"], "--images is not given"),
        (["a.zarr"], "parts are given without --merge"),
        (["--merge", "a.zarr", "--images", "photos"], "--images is given with --merge"),
        (["--classifier", "nosuch", "--images", "photos"], "classifier is 'nosuch'"),
    ],
)
def test_wrong_commands(command, folder, arguments, said):
    status, _, complained = command("statistics", "--out", "stats.zarr", *arguments)
    assert status == 2
    assert said in complained
    assert complained.count("\n") == 1
