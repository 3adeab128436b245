r"""Latent diffusion: a denoiser that works on what an autoencoder makes of images (Rombach et al. 2022).

With the posterior :math:`q(z | x) = N(\mu(x), s^2(x))` of a variational autoencoder, and its constants,

.. math:: x_0 = (\mu(x) - \mathrm{shift}) \cdot \mathrm{scaling}, \qquad
          \hat x = \mathrm{decoder}(x_0 / \mathrm{scaling} + \mathrm{shift}),

or, where mean and standard deviation of each latent channel are given (``latents_mean``, ``latents_std``), the
shift is the mean and the factor is scaling / std.  Encoding takes the mode, so that it is a function of the
image; decoded images are not clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...diffusion.schedule import Schedule
from ...errors import TurningpointError
from .._calls import DirectCalls
from ..settings import whole
from .pipeline_folder import LARGEST_SIZE, Options, PipelineFolder

AUTOENCODERS = ("diffusers.AutoencoderKL",)


def home(module: nn.Module) -> torch.device | None:
    """Where a module's inputs belong; None if it fetches them itself (offloaded by accelerate)."""
    if hasattr(module, "_hf_hook"):
        return getattr(module._hf_hook, "execution_device", None)
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def autoencoder(folder: PipelineFolder, name: str = "vae", *accepted: str) -> Any:
    """The autoencoder of a pipeline, in float32 where half precision would overflow (``force_upcast``)."""
    config, dtype = folder.config(name), folder.options.dtype
    upcast = dtype == torch.float16 and bool(config.get("force_upcast", True))
    return folder.module(name, *(accepted or AUTOENCODERS), dtype=torch.float32 if upcast else dtype)


def side(name: str, given: Any, own: Any, multiple: int) -> int:
    """A side of an image in pixels: what the user asks for, or the model's own."""
    if given is None and own is None:
        raise TurningpointError(f"{name} is None, but the model states no size of its own; accepted: pixels.")
    pixels = whole(name, own if given is None else given, least=multiple, most=LARGEST_SIZE)
    if pixels % multiple:
        raise TurningpointError(f"{name} is {pixels}; accepted by this model: a multiple of {multiple}.")
    return pixels


def sides(size: Any) -> tuple[Any, Any]:
    """The height and width that a configuration's ``sample_size`` states: one number, two, or none."""
    if isinstance(size, list | tuple) and len(size) == 2:
        return size[0], size[1]
    return (None, None) if isinstance(size, list | tuple) else (size, size)


def latent_shape(
    options: Options, autoencoder: Any, channels: int, sample_size: Any, multiple: int = 1
) -> tuple[int, int, int]:
    """The shape of a latent, for the image that the user asks for or of the network's own size.

    Parameters
    ----------
    options : Options
        ``height`` and ``width`` are in pixels.
    autoencoder : module
        A latent pixel is 2^(its blocks - 1) pixels of an image.
    channels : int
        Of a latent.
    sample_size : int, pair of int or None
        The network's own, in latent pixels.
    multiple : int
        Sides of a latent are multiples of this (the patches of a transformer).
    """
    factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)
    height, width = (None if s is None else s * factor for s in sides(sample_size))
    h = side("height", options.height, height, factor * multiple)
    w = side("width", options.width, width, factor * multiple)
    return channels, h // factor, w // factor


class LatentDenoiser(DirectCalls):
    """A network on latents, with the autoencoder around it.

    Parameters
    ----------
    network : nn.Module
        A model of `diffusers`.
    vae : nn.Module
        An ``AutoencoderKL``.
    schedule : Schedule
        The clock.
    shape : tuple of int
        Of a latent, (C, h, w).
    predicts, n_classes, learned_variance
        As a `NetworkDenoiser` takes them.
    """

    def __init__(
        self,
        network: nn.Module,
        vae: Any,
        schedule: Schedule,
        shape: Sequence[int],
        predicts: str,
        n_classes: int | None = None,
        *,
        learned_variance: bool = False,
    ) -> None:
        super().__init__(network, schedule, shape, predicts, n_classes, learned_variance=learned_variance)
        self.vae: Any = vae
        config = vae.config
        if config.latent_channels != shape[0]:
            raise TurningpointError(
                f"the autoencoder has {config.latent_channels} latent channels, but the network takes {shape[0]}."
            )
        factor = 2 ** (len(config.block_out_channels) - 1)
        self.image_shape = (int(config.out_channels), shape[1] * factor, shape[2] * factor)
        self._scale, self._shift = _affine(config)

    @property
    def decoded_shape(self) -> tuple[int, ...]:
        return self.image_shape

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to latents: the posterior's mode, shifted and scaled."""
        mode: Tensor = self.vae.encode(_sent(images, self.vae)).latent_dist.mode()
        return (mode.to(images) - self._shift.to(images)) * self._scale.to(images)

    def decode(self, x_0: Tensor) -> Tensor:
        """Latents (B, *shape) to images (B, C, H, W), in about [-1, 1]."""
        z = x_0 / self._scale.to(x_0) + self._shift.to(x_0)
        return cast(Tensor, self.vae.decode(_sent(z, self.vae), return_dict=False)[0].to(x_0))


def _affine(config: Any) -> tuple[Tensor, Tensor]:
    """The factor of a latent, and what is taken from it before, (1, C, 1, 1) or (1, 1, 1, 1)."""

    def read(name: str) -> Any:
        return getattr(config, name, None)

    scaling = 1.0 if read("scaling_factor") is None else read("scaling_factor")
    means, stds, shift = read("latents_mean"), read("latents_std"), read("shift_factor") or 0.0
    if means is not None and stds is not None:
        scale, shift = scaling / torch.tensor(stds, dtype=torch.float64), means
    else:
        scale = torch.tensor([scaling], dtype=torch.float64)
    return scale.reshape(1, -1, 1, 1), torch.tensor(shift, dtype=torch.float64).reshape(1, -1, 1, 1)


def _sent(x: Tensor, module: Any) -> Tensor:
    """``x`` in the type of a module's weights, and where they are."""
    sent: Tensor = x.to(device=home(module), dtype=module.dtype)
    return sent
