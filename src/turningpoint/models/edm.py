r"""``edm``: the pickles of Karras et al. 2022 (NVlabs' EDM), ``tp.load("edm:net.pkl")``.

A pickle holds a preconditioning (`_preconditioning`) with a U-Net inside (`SongUNet`, `DhariwalUNet`), which are
built anew from their recorded arguments and tensors (`_edm_snapshot`).

Whatever the preconditioning, :math:`x_t = x_0 + \sigma \varepsilon`: alpha is 1, and the clock is `EDM`'s.  Samplers
visit noise levels from 0.002 to 80 (``sigma_min``, ``sigma_max``), narrowed to those that the network was trained for.
The table of an iDDPM network is its clock's ``levels``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import expand
from ..diffusion.discretization import karras_grid
from ..diffusion.grid import Grid
from ..diffusion.schedule import EDM
from ..errors import TurningpointError
from . import MODELS
from ._calls import DirectCalls
from ._edm_snapshot import recorded_network
from ._options import OPTIONS
from ._preconditioning import Coefficients, Preconditioning
from ._reading.checkpoint import read_checkpoint
from ._recognise import refuse_other_families
from .settings import number

USUAL_STEPS = 18
DISCRETIZATIONS = {"euler": "edm", "heun": "edm"} | {
    f"{solver}_{kind}": kind for solver in ("euler", "heun") for kind in ("vp", "ve")
}
"""The noise levels that go with a sampler (Karras et al. 2022, Table 1)."""


def _nearest(levels: Tensor, sigma: float) -> float:
    return float(levels[(levels.to(torch.float64) - sigma).abs().argmin()])


class EDMDenoiser(DirectCalls):
    """A U-Net and its preconditioning.

    Parameters
    ----------
    network : nn.Module
        Called as ``network(x, c_noise, class_labels, augment_labels)``.
    preconditioning : Preconditioning
        What surrounds it.
    shape : tuple of int
        (C, H, W).
    sigma_min, sigma_max : float
        The range in which samplers are to run.
    rho : float
        The exponent of their grid.
    n_classes : int, optional
        The length of one-hot labels.
    augment_dim : int
        The length of what is told about augmentation; 0 for none.

    Raises
    ------
    TurningpointError
        If nothing of the range is among the network's noise levels.

    Attributes
    ----------
    sigma_range : tuple of float
        The range in which samplers run, narrowed to the network's; for a network with levels the clock's
        ``sigma_min`` and ``sigma_max`` are the levels nearest to its ends.
    """

    def __init__(
        self,
        network: nn.Module,
        preconditioning: Preconditioning,
        shape: tuple[int, int, int],
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        n_classes: int | None = None,
        augment_dim: int = 0,
    ) -> None:
        low, high = max(sigma_min, preconditioning.sigma_min), min(sigma_max, preconditioning.sigma_max)
        if not 0 < low < high:
            raise TurningpointError(
                f"sigma_min, sigma_max are {sigma_min:g}, {sigma_max:g}; accepted by this network: a range above 0 "
                f"that overlaps with {preconditioning.sigma_min:g} to {preconditioning.sigma_max:g}."
            )
        levels = preconditioning.levels()
        bottom, top = (end if levels is None else _nearest(levels, end) for end in (low, high))
        super().__init__(network, EDM(bottom, top, rho, levels), shape, n_classes=n_classes, name="edm")
        self.preconditioning, self.augment_dim = preconditioning, augment_dim
        self.sigma_range = low, high
        self.predicts = f"{type(preconditioning).__name__}'s F"

    def usual_grid(self, sampler: str, steps: int | None) -> Grid | None:
        """For the samplers of Karras et al. 2022 the noise levels of their Table 1; 18 steps.

        A network with levels takes the levels nearest to those between the ends of `sigma_range`, which need not
        be those nearest to the ones between the clock's own ends.
        """
        kind = DISCRETIZATIONS.get(sampler)
        steps = USUAL_STEPS if steps is None else steps
        if kind is None:
            return None
        if kind == "edm" and self.preconditioning.levels() is None:
            return Grid(steps, "rho")
        return karras_grid(self.schedule, kind, steps, self.sigma_range)

    def native(self, t: Tensor) -> Tensor:
        """c_noise at ``t``, (B,) float32."""
        return self._coefficients(t).c_noise

    def _coefficients(self, t: Tensor) -> Coefficients:
        return self.preconditioning.coefficients(self.schedule.sigma(t).float())

    def raw(
        self, x_t: Tensor, t: Tensor, label: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """The network's own answer F, (B, C, H, W) float32; an iDDPM network has 2C channels."""
        c_in, c_noise = self._coefficients(t)[2:]
        x_t = x_t.float()
        x = x_t * expand(c_in, x_t) if isinstance(c_in, Tensor) else x_t * c_in
        condition = self.one_hot(label), self._augmentation(augment_labels, x_t)
        output: Tensor = self.network(x.to(self.dtype), c_noise, *condition)
        return output.float()

    def estimate(self, x_t: Tensor, t: Tensor, **condition: Any) -> Tensor:
        t, condition = self.checked(x_t, t, condition)
        x_t = x_t.float()
        c_skip, c_out = self._coefficients(t)[:2]
        output = self.raw(x_t, t, **condition)[:, : self.shape[0]]
        kept = x_t * expand(c_skip, x_t) if isinstance(c_skip, Tensor) else x_t * c_skip
        return kept + expand(c_out, x_t) * output

    def forward(
        self, x_t: Tensor, t: Tensor, label: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """E[x_0 | x_t, label], (B, C, H, W) float32.

        Parameters
        ----------
        x_t : Tensor (B, C, H, W)
            Noisy images.
        t : Tensor (B,)
            Times, in float32 or float64; or one for all.
        label : Tensor (B,) or (B, K), optional
            Class indices, -1 for none, or one for all; or one-hot labels, zeros for none.
        augment_labels : Tensor (B, augment_dim), optional
            What was done to the images, for networks that were told so in training; none by default.

        Raises
        ------
        TurningpointError
            If the network takes no labels or no augmentation, or anything is of another shape.
        """
        return self.clipped(self.estimate(x_t, t, label=label, augment_labels=augment_labels))

    def one_hot(self, label: Tensor | None) -> Tensor | None:
        """Labels (B,) or (B, K) as the network is told them, (B, K) float32, or None for none at all."""
        if label is None or label.ndim == 2:
            return None if label is None else label.float()
        return (label[:, None] == torch.arange(self.n_classes or 0, device=label.device)).float()

    def _augmentation(self, augment_labels: Any, x_t: Tensor) -> Tensor | None:
        if augment_labels is None:
            return None
        accepted = f"({len(x_t)}, {self.augment_dim})" if self.augment_dim else "None"
        try:
            told = torch.as_tensor(augment_labels, dtype=torch.float32, device=x_t.device)
        except (TypeError, ValueError, RuntimeError):
            raise TurningpointError(
                f"augment_labels is {augment_labels!r}; accepted by this network: {accepted}."
            ) from None
        if tuple(told.shape) != (len(x_t), self.augment_dim):
            raise TurningpointError(
                f"augment_labels has shape {tuple(told.shape)}; accepted by this network: {accepted}."
            )
        return told

    def fingerprint_config(self) -> dict[str, Any]:
        about = {"preconditioning": self.preconditioning.config(), "sigma_range": list(self.sigma_range)}
        return super().fingerprint_config() | about


@MODELS.add("edm")
def load(
    where: str, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0, **unknown: Any
) -> EDMDenoiser:
    """A network of an EDM pickle.

    Parameters
    ----------
    where : str
        The file.
    sigma_min, sigma_max : float
        The noise levels between which samplers run, narrowed to those that the network was trained for.
    rho : float
        The exponent of their grid.

    Raises
    ------
    TurningpointError
        If the file is not such a pickle, its parts do not fit together, the range is empty, or there is
        no such setting.
    """
    if unknown:
        accepted = ", ".join(("sigma_min", "sigma_max", "rho", *OPTIONS))
        raise TurningpointError(
            f"{next(iter(unknown))} is given, but edm: takes no such setting; accepted: {accepted}."
        )
    low, high = number("sigma_min", sigma_min, 0.0), number("sigma_max", sigma_max, 0.0)
    content = read_checkpoint(Path(where).expanduser())
    refuse_other_families(content, "edm", where)
    recorded = recorded_network(content, str(where))
    channels, resolution = recorded.facts["img_channels"], recorded.facts["img_resolution"]
    model = EDMDenoiser(
        recorded.network,
        recorded.preconditioning,
        (channels, resolution, resolution),
        low,
        high,
        number("rho", rho, 1e-3),
        recorded.facts["label_dim"] or None,
        recorded.arguments["augment_dim"],
    )
    model.about = recorded.about()
    return model
