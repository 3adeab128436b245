"""Small sets of pictures on disk, for the tests of data sets."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def noise(seed: int, height: int = 6, width: int = 8, channels: int = 3) -> np.ndarray:
    """Pixels that no two seeds share, uint8 (C, H, W)."""
    return np.random.default_rng(seed).integers(0, 256, (channels, height, width), dtype=np.uint8)


def picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    picture(pixels).save(file, "PNG")
    return file.getvalue()


def files(names: Iterable[str]) -> dict[str, bytes]:
    """A PNG of `noise` for every name that is a picture's, numbered from 0."""
    return {name: png(noise(k)) for k, name in enumerate(names)}


def folder(where: Path, content: Mapping[str, bytes]) -> Path:
    for name, data in content.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_bytes(data)
    return where


def archive(where: Path, content: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(where, "w") as file:
        for name, data in content.items():
            file.writestr(name, data)
    return where


def table(
    where: Path,
    images: list[Any],
    *,
    names: list[str] | None = None,
    column: str = "image",
    group: int = 4,
    **columns: Any,
) -> Path:
    """A parquet as Hugging Face's ``datasets`` writes it; ``names`` are those of the classes in ``label``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pa.table({column: images, **columns})
    if names is not None:
        features = {column: {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    where.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, where, row_group_size=group)
    return where
