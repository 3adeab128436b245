"""Starting images: from arrays, an .npz, a folder of pictures, or the model itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from ..errors import TurningpointError
from ..models.pictures import PictureError, picture_files, read_arrays, read_pictures
from ..simulation.batches import in_batches


def starting_images(
    images: Any, model: Denoiser, items: int | None = None, skip_bad: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Starting images (N, *decoded_shape) float32 in [-1, 1], and their labels (N,) if they are known.

    For a latent model an array (N, *shape) holds latents, and stays what it is.

    Parameters
    ----------
    images : array, Tensor, path or None
        (N, C, H, W), or (N, d) for vectors: floats in [-1, 1] or uint8 in 0..255; an ``.npz`` with
        ``images`` (and ``labels``), an ``.npy``; a folder of pictures, read in the order of their names;
        None for the model's own.
    model : Denoiser
        Whose shape they must have.
    items : int, optional
        Take the first ones only.
    skip_bad : bool
        Leave out files of a folder that cannot be used, with a warning for each, instead of refusing.

    Raises
    ------
    TurningpointError
        If there are none, or one cannot be read or has another shape.
    """
    labels: np.ndarray | None = None
    if images is None:
        own = model.starting_images()
        if own is None:
            raise TurningpointError(
                f"images is not given, and the model {model.name!r} ships none; accepted: a folder, an .npz, "
                "an array, or generate=N."
            )
        array, labels = own[0].numpy(), None if own[1] is None else own[1].numpy()
    elif isinstance(images, str | Path):
        array, labels = _from_path(Path(images), model, skip_bad)
    elif isinstance(images, Tensor):
        cpu = images.detach().cpu()
        array = (cpu.float() if cpu.dtype == torch.bfloat16 else cpu).numpy()
    elif hasattr(images, "values"):
        array = np.asarray(images.values)
    else:
        try:
            array = np.asarray(images)
        except ValueError:
            raise TurningpointError("images is a ragged list; accepted: an array (N, C, H, W).") from None
    array = checked(array, model)
    if labels is not None and np.shape(labels) != (len(array),):
        raise TurningpointError(
            f"labels have shape {np.shape(labels)}; accepted: ({len(array)},), one per image."
        )
    return array[:items], None if labels is None else np.asarray(labels[:items]).astype(np.int64)


def checked(array: np.ndarray, model: Denoiser) -> np.ndarray:
    """Images as float32 (N, *shape) in [-1, 1], or one sentence about what is wrong with them."""
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / np.float32(127.5) - np.float32(1)
    shape = model.decoded_shape
    if array.ndim == len(shape) and shape[:1] == (1,) and array.shape[1:] == shape[1:]:
        array = array[:, None]  # (N, H, W) for a model of one channel
    latents = array.shape[1:] == model.shape != shape
    if array.shape[1:] != shape and not latents:
        or_latents = "" if model.shape == shape else f", or latents (N, {', '.join(map(str, model.shape))})"
        raise TurningpointError(
            f"images have shape {array.shape}; accepted by the model {model.name!r}: (N, "
            f"{', '.join(map(str, shape))}){or_latents}."
        )
    if len(array) == 0:
        raise TurningpointError("images holds no image; accepted: one or more.")
    if not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
        raise TurningpointError(
            "images holds numbers that are not finite; accepted: floats in [-1, 1], or uint8."
        )
    if len(shape) == 3 and not latents and np.abs(array).max() > 4:
        raise TurningpointError(
            f"images range up to {np.abs(array).max():.4g}; accepted: floats in [-1, 1], or uint8 in 0..255."
        )
    return array.astype(np.float32)


def _from_path(path: Path, model: Denoiser, skip_bad: bool) -> tuple[np.ndarray, np.ndarray | None]:
    if path.is_dir():
        return _from_folder(path, model, skip_bad), None
    return read_arrays(path, "images")


def _from_folder(folder: Path, model: Denoiser, skip_bad: bool) -> np.ndarray:
    files = picture_files(folder, "images")
    if len(model.decoded_shape) != 3:
        raise TurningpointError(
            f"images is a folder of pictures; the model {model.name!r} takes {model.decoded_shape}."
        )
    try:
        read = read_pictures(files, model.decoded_shape, skip_bad)
    except PictureError as error:
        raise TurningpointError(f"{error} Leave such files out with --skip-bad.") from None
    if read is None:
        raise TurningpointError(f"images is {str(folder)!r}, which holds no picture that can be used.")
    return read


def in_pictures(start: np.ndarray, model: Denoiser, batch: int) -> np.ndarray:
    """Starting images (N, *decoded_shape); latents are decoded."""
    if start.shape[1:] == model.decoded_shape:
        return start
    return in_batches(model.decode, start, _device(model), batch)


def in_latents(start: np.ndarray, model: Denoiser, batch: int) -> np.ndarray:
    """What the sampler works on, (N, *shape); images are encoded."""
    if start.shape[1:] == model.shape != model.decoded_shape:
        return start
    return in_batches(model.encode, start, _device(model), batch)


def _device(model: Denoiser) -> torch.device:
    parameter = next(iter(model.parameters()), None)
    return torch.device("cpu") if parameter is None else parameter.device
