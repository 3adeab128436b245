"""U-turns against clones: what is counted and compared is what has an interval."""

import math

import numpy as np
import pandas as pd
from matplotlib.collections import PolyCollection

from turningpoint.figures.difference import difference, spoken


def differences(rows):
    names = ("logsnr", "difference", "error", "low", "high")
    table = pd.DataFrame([dict(zip(names, row, strict=True)) for row in rows])
    return table.assign(feature="clip.color", label="color")


def test_a_difference_without_an_interval_is_neither_counted_nor_the_largest():
    table = differences(
        [
            (-4.0, 0.1, 0.02, 0.06, 0.14),
            (-3.0, 0.7, math.nan, -math.inf, math.inf),
            (-2.0, -0.2, 0.15, -0.5, 0.1),
            (-1.0, 0.9, math.nan, 0.1, math.inf),
            (0.0, math.nan, math.nan, math.nan, math.nan),
        ]
    )
    words = spoken(table)
    assert words.startswith("Of 2 differences 1 leave zero with their 95 % interval")
    assert "the largest is −0.20 [−0.50, 0.10], of color at log-SNR −2.00." in words
    assert words.endswith("For 2 more the starting images are too few for an interval.")
    axes = difference(table).axes[0]
    circled = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert [line.get_xdata().tolist() for line in circled] == [[-4.0]]
    bands = [shape for shape in axes.collections if isinstance(shape, PolyCollection)]
    assert all(np.isfinite(path.vertices).all() for band in bands for path in band.get_paths())


def test_differences_without_any_interval_are_said_to_have_none():
    words = spoken(differences([(-3.0, 0.7, math.nan, -math.inf, math.inf)]))
    assert words == "The starting images are too few for a 95 % interval of any difference."
    assert "no reading" in spoken(differences([(-3.0, math.nan, math.nan, math.nan, math.nan)]))
