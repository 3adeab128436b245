r"""U-Nets and transformers of `diffusers` that know no text: ``UNet2DModel`` on pixels, DiT on latents.

``UNet2DModel`` predicts for images (B, C, H, W); with ``num_class_embeds`` it is told one of K labels.  DiT
(Peebles & Xie 2023) is told one of K labels or, as label K, none, and returns twice the channels of a latent:
epsilon, and the variance of a reverse step (Nichol & Dhariwal 2021, eq. 15).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import TurningpointError
from .._calls import indices
from ..settings import whole
from .latent import LatentDenoiser, autoencoder, latent_shape, side, sides
from .noise_tables import NoiseTable, Tabled
from .pipeline_folder import PipelineFolder

DIT_STEPS = 250
"""Ancestral steps of Peebles & Xie 2023, section 4."""


class PixelUNet(Tabled):
    """A ``UNet2DModel`` on images.

    Parameters
    ----------
    unet : nn.Module
        The network.
    table : NoiseTable
        Its scheduler's.
    size : tuple of int
        Height and width of an image.
    null_label : int, optional
        Which of the network's labels stands for none; None if it was not trained without.
    """

    def __init__(self, unet: Any, table: NoiseTable, size: tuple[int, int], null_label: int | None) -> None:
        config = unet.config
        channels, labels = int(config.in_channels), config.num_class_embeds
        if config.class_embed_type is not None:
            raise TurningpointError(
                f"class_embed_type is {config.class_embed_type!r}; accepted: None, with labels."
            )
        if config.out_channels not in (channels, 2 * channels):
            raise TurningpointError(
                f"the network makes {config.out_channels} channels of {channels}; accepted: as many, or twice as many."
            )
        if null_label is not None and labels is None:
            raise TurningpointError(f"null_label is {null_label}, but the network takes no labels.")
        if null_label is not None:
            whole("null_label", null_label, least=0, most=int(labels) - 1)
        known = None if labels is None else int(labels) - (null_label == labels - 1)
        learned = config.out_channels == 2 * channels
        super().__init__(
            unet, table.schedule, (channels, *size), table.predicts, known, learned_variance=learned
        )
        self.own_steps, self._null = {"ddpm": table.schedule.steps}, null_label
        self._needs_labels = null_label is None
        self.use(table)

    def raw(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The U-Net's own output, (B, C, H, W), or twice the channels with a learned variance."""
        told = {}
        if self.n_classes is not None:
            label = torch.full((len(x_t),), -1, device=x_t.device) if label is None else indices(label)
            if self._null is not None:
                label = torch.where(label < 0, self._null, label)
            elif label.device.type == "cpu" and bool((label < 0).any()):
                raise self._unlabelled()  # elsewhere a look at the labels would wait for the device
            told["class_labels"] = label
        output: Tensor = self.network(x_t.to(self.dtype), self.native(t), return_dict=False, **told)[0]
        return output.to(x_t)

    def check_condition(self, condition: Mapping[str, Any]) -> None:
        super().check_condition(condition)
        if self.n_classes is not None and self._null is None and condition.get("label") in (None, -1):
            raise self._unlabelled()

    def _unlabelled(self) -> TurningpointError:
        most = (self.n_classes or 1) - 1
        return TurningpointError(
            f"label is None, but the model {self.name!r} is always told one; accepted: 0 to {most}, or null_label= for "
            "the label that stands for none."
        )


def pixel_unet(folder: PipelineFolder) -> PixelUNet:
    """A pipeline, or a folder, of one ``UNet2DModel``."""
    unet = folder.module("unet", "diffusers.UNet2DModel")
    factor = 2 ** (len(unet.config.block_out_channels) - 1)
    height, width = sides(unet.config.sample_size)
    options = folder.options
    size = side("height", options.height, height, factor), side("width", options.width, width, factor)
    return PixelUNet(unet, NoiseTable(folder.scheduler()[1]), size, options.extra.get("null_label"))


class DiT(Tabled, LatentDenoiser):
    """A diffusion transformer on latents, told a label or none."""

    own_steps: Mapping[str, int] = {"ddpm": DIT_STEPS}

    def __init__(self, transformer: Any, vae: Any, table: NoiseTable, shape: tuple[int, int, int]) -> None:
        config = transformer.config
        channels = int(config.in_channels)
        if config.num_embeds_ada_norm is None:
            raise TurningpointError("num_embeds_ada_norm is None; accepted: the number of labels of a DiT.")
        if config.out_channels not in (None, channels, 2 * channels):
            raise TurningpointError(
                f"the network makes {config.out_channels} channels of {channels}; accepted: as many, or twice as many."
            )
        LatentDenoiser.__init__(
            self,
            transformer,
            vae,
            table.schedule,
            shape,
            table.predicts,
            int(config.num_embeds_ada_norm),
            learned_variance=config.out_channels == 2 * channels,
        )
        self.use(table)

    def raw(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The transformer's own output, (B, 2C, h, w) with a learned variance."""
        none = torch.full((len(x_t),), self.n_classes or 0, device=x_t.device)
        told = none if label is None else indices(label)
        told = torch.where(told < 0, none, told)
        output: Tensor = self.network(
            x_t.to(self.dtype), timestep=self.native(t), class_labels=told, return_dict=False
        )[0]
        return output.to(x_t)


def dit(folder: PipelineFolder) -> DiT:
    """A ``DiTPipeline``."""
    transformer = folder.module("transformer", "diffusers.DiTTransformer2DModel")
    vae = autoencoder(folder)
    config = transformer.config
    shape = latent_shape(folder.options, vae, int(config.in_channels), config.sample_size, config.patch_size)
    own = config.sample_size
    if shape[1:] != (own, own):
        raise TurningpointError(
            f"height and width give latents of {shape[1]}x{shape[2]}; accepted by this DiT: {own}x{own}."
        )
    return DiT(transformer, vae, NoiseTable(folder.scheduler()[1]), shape)
