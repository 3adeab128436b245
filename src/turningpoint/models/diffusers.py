r"""``diffusers:WHERE``: a pipeline of `diffusers`, in a folder or on the Hugging Face hub.

======================================  ===================================================================
``model_index.json`` says               becomes
======================================  ===================================================================
DDPM-, DDIM-, PNDMPipeline              a U-Net on pixels, with labels or without
DiTPipeline                             a transformer on latents, told a label or none
StableDiffusionPipeline                 a U-Net on latents, told a prompt (1.x; 2.x, epsilon and v)
StableDiffusionXLPipeline               the same with two text encoders
StableDiffusion3Pipeline, FluxPipeline  a flow's transformer on latents, told a prompt
======================================  ===================================================================

A folder of a ``UNet2DModel`` alone, its ``config.json`` and weights, is a U-Net on pixels too.  Nothing in a
folder is run (`_pipelines.pipeline_folder`).  The clock and the usual grid follow from the scheduler's configuration
(`_pipelines.noise_tables`), each of whose settings can be overridden by its own name.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..diffusion.denoiser import Denoiser
from ..errors import TurningpointError, one_of
from . import MODELS
from ._options import dtype_of
from ._pipelines.flow_transformers import flux, stable_diffusion_3
from ._pipelines.hub import find_folder
from ._pipelines.noise_tables import FLOWS, SCHEDULERS, known_settings
from ._pipelines.offload import OFFLOADS, offloaded
from ._pipelines.pipeline_folder import Options, PipelineFolder, reason
from ._pipelines.pixel_unets import dit, pixel_unet
from ._pipelines.text_to_image import stable_diffusion, stable_diffusion_xl

Builder = Callable[[PipelineFolder], Denoiser]

BUILDERS: dict[str, Builder] = {
    **dict.fromkeys(("UNet2DModel", "DDPMPipeline", "DDIMPipeline", "PNDMPipeline"), pixel_unet),
    "DiTPipeline": dit,
    **dict.fromkeys(("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"), stable_diffusion),
    **dict.fromkeys(("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"), stable_diffusion_xl),
    **dict.fromkeys(("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline"), stable_diffusion_3),
    **dict.fromkeys(("FluxPipeline", "FluxImg2ImgPipeline"), flux),
}
"""What makes a denoiser of a folder, by the class that it names."""

EXTRA: dict[Builder, tuple[str, ...]] = {
    pixel_unet: ("null_label",),
    stable_diffusion_3: ("max_sequence_length",),
    flux: ("max_sequence_length", "embedded_guidance"),
}
"""Settings of one family alone."""


@MODELS.add("diffusers")
def load(
    where: str,
    dtype: Any = "float32",
    device: str | None = None,
    offload: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    subfolder: str | None = None,
    height: int | None = None,
    width: int | None = None,
    negative_prompt: str | None = None,
    scheduler: Any = None,
    **settings: Any,
) -> Denoiser:
    """A pipeline of `diffusers` as a denoiser.

    Parameters
    ----------
    where : str
        Its folder, or ``owner/name`` on the hub.
    dtype : str
        Of the networks: ``float32``, ``float16`` or ``bfloat16``.  States and estimates stay float32.
    device : str, optional
        Where to run it.
    offload : str, optional
        ``model`` keeps but one of text encoders, network and autoencoder on ``device``, ``sequential`` but one
        layer; both need accelerate.
    revision, variant, subfolder : str, optional
        A branch, tag or commit of a repository; another set of weights, ``fp16``; the folder inside.
    height, width : int, optional
        Of an image, in pixels; by default the network's own size.
    negative_prompt : str, optional
        What guidance moves away from, for walks that do not say.
    scheduler : str or mapping, optional
        A scheduler's class, which keeps the folder's settings; a mapping of settings; or the path of another
        ``scheduler_config.json`` in the place of the folder's.
    **settings
        Any setting of the scheduler by its own name: ``prediction_type``, ``timestep_spacing``,
        ``rescale_betas_zero_snr``, ``set_alpha_to_one``, ``beta_end``.  ``clip_sample`` holds for estimates here, and
        only if given.  And of one family: ``null_label``, which of a U-Net's labels stands for none.

    Raises
    ------
    TurningpointError
        If nothing is there, it asks for code of its own, it is a class that is not read here, a part of it
        is missing or broken, or a setting is not accepted.

    Examples
    --------
    >>> load("no/such/folder", dtype="float16")                         # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    turningpoint.errors.TurningpointError: where is 'no/such/folder', which is neither a folder nor ...
    """
    if offload is not None and offload not in OFFLOADS:
        raise one_of("offload", offload, OFFLOADS)
    extras = {name: settings.pop(name) for names in EXTRA.values() for name in names if name in settings}
    clip = settings.get("clip_sample")
    options = Options(
        dtype=dtype_of(dtype),
        variant=variant,
        height=height,
        width=width,
        negative_prompt=_text("negative_prompt", negative_prompt),
        scheduler=_overridden(scheduler, settings),
        extra=extras,
    )
    try:
        folder = PipelineFolder(find_folder(where, revision, variant, subfolder), options)
    except ImportError as error:
        raise TurningpointError(
            f"diffusers: needs the package {error.name} for {str(where)!r}; accepted: pip install -U diffusers."
        ) from None
    if folder.kind not in BUILDERS:
        raise TurningpointError(
            f"{str(where)!r} is a {folder.kind}, which is not read here; accepted: {', '.join(BUILDERS)}."
        )
    build = BUILDERS[folder.kind]
    surplus = sorted(set(extras) - set(EXTRA.get(build, ())))
    if surplus:
        raise TurningpointError(f"{surplus[0]} is given, but a {folder.kind} takes no such setting.")
    try:
        model = build(folder)
    except TurningpointError:
        raise
    except Exception as error:  # whatever a stranger's configuration asks of a class
        raise TurningpointError(f"{str(where)!r} cannot be loaded: {reason(error)}.") from None
    model.clip_denoised = str(clip).lower() in ("true", "1")
    model.about = {"format": f"diffusers {folder.kind}", **model.about}
    model.about |= {"components": ", ".join(f"{k} ({v})" for k, v in folder.components().items())}
    licence = folder.licence()
    model.about |= {} if licence is None else {"licence": licence}
    where_to = None if device is None else _device(device)
    if offload is not None:
        return offloaded(model, offload, where_to)
    return model if where_to is None else model.to(where_to)


def _text(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TurningpointError(f"{name} is {value!r}; accepted: a text.")
    return value


def _device(device: Any) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, TypeError, AssertionError):
        raise TurningpointError(
            f"device is {device!r}; accepted: cpu, or one that this machine has."
        ) from None
    return place


def _overridden(scheduler: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What overrides the scheduler's configuration: its class under ``_class_name``, a file under ``_path``."""
    unknown = sorted(set(settings) - known_settings())
    if unknown:
        raise TurningpointError(
            f"{unknown[0]} is given, but diffusers: takes no such setting; accepted: dtype, device, offload, revision, "
            "variant, subfolder, height, width, negative_prompt, scheduler, and the settings of a scheduler."
        )
    if isinstance(scheduler, str) and scheduler.lstrip().startswith("{"):
        try:
            scheduler = ast.literal_eval(scheduler)
        except (ValueError, SyntaxError):
            raise TurningpointError(
                f"scheduler is {scheduler!r}; accepted: a mapping, a class or a path."
            ) from None
    if scheduler is None:
        return dict(settings)
    if isinstance(scheduler, Mapping):
        return {str(key): value for key, value in scheduler.items()} | dict(settings)
    if scheduler in (*SCHEDULERS, *FLOWS):
        return {"_class_name": scheduler} | dict(settings)
    path = Path(str(scheduler)).expanduser()
    inside = [path / name for name in ("scheduler_config.json", "config.json")] if path.is_dir() else [path]
    for file in inside:
        if file.is_file():
            return {"_path": str(file)} | dict(settings)
    raise TurningpointError(
        f"scheduler is {str(scheduler)!r}; accepted: a mapping of settings, the path of a scheduler_config.json, or "
        f"one of {', '.join((*SCHEDULERS, *FLOWS))}."
    )
