"""Write a small data set of real photographs: overlapping squares cut out of scikit-image's, a folder for each.

    python docs/photographs.py photographs                 # 5 photographs x 16 squares of 64x64
    python docs/photographs.py few --side 4 --size 32      # the same in other numbers

Every square is three quarters as high as its photograph, and the squares of one photograph lie on a grid, so that
neighbours show nearly the same and all of them show the same thing: a small data set with two levels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

PHOTOGRAPHS = {
    "astronaut": data.astronaut,
    "cat": data.chelsea,
    "coffee": data.coffee,
    "motorcycle": lambda: data.stereo_motorcycle()[0],
    "rocket": data.rocket,
}
SHARE = 0.75
"""Of a photograph's height: the side of a square."""


def write(out: Path, side: int, size: int) -> int:
    """Write ``side`` x ``side`` squares of each photograph, ``size`` pixels wide; returns how many."""
    for name, photograph in PHOTOGRAPHS.items():
        whole = Image.fromarray(photograph()).convert("RGB")
        width = round(SHARE * min(whole.size))
        (out / name).mkdir(parents=True, exist_ok=True)
        for row, top in enumerate(np.linspace(0, whole.height - width, side).round()):
            for column, left in enumerate(np.linspace(0, whole.width - width, side).round()):
                box = int(left), int(top), int(left) + width, int(top) + width
                square = whole.crop(box).resize((size, size), Image.Resampling.LANCZOS)
                square.save(out / name / f"{row}{column}.png")
    return len(PHOTOGRAPHS) * side**2


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--side", type=int, default=4, help="squares along each side of a photograph")
    parser.add_argument("--size", type=int, default=64, help="pixels along each side of a square")
    told = parser.parse_args()
    print(f"{write(told.out, told.side, told.size)} squares are in {told.out}.")  # noqa: T201
