r"""``gain``: how much of the state the denoiser lets through, band by band.

Let :math:`x_k` be the Fourier coefficients (orthonormal 2-D DFT) of a state
:math:`x_t = \alpha x_0 + \sigma \varepsilon`, and :math:`\hat x_k` those of its estimate
:math:`\hat x_0(x_t)`.  In a radial band :math:`K_b` of `frequency`, all channels together,

.. math::

   \text{cross}_b = \frac{1}{|K_b|} \sum_{k \in K_b} \mathrm{Re}(\hat x_k x_k^*), \qquad
   \text{input}_b = \frac{1}{|K_b|} \sum_{k \in K_b} |x_k|^2 .

These are moments of one trajectory, not similarities: they have no largest value, and a retention or an onset
of them says nothing.  What they are for is the slope of the best line from the state, in VE coordinates
:math:`x_t / \alpha`, to the estimate,

.. math:: g_b(t) = \frac{E[\text{cross}_b]}{\alpha \, E[\text{input}_b / \alpha^2]}
                 = \frac{\alpha \, E[\text{cross}_b]}{E[\text{input}_b]},

a ratio of means over items (`turningpoint.statistics.emergence.gain`).

**Closed form.**  Gaussian data with modes of variance :math:`\lambda_k` have
:math:`\hat x_k = \alpha \lambda_k x_k / (\alpha^2 \lambda_k + \sigma^2)` and
:math:`E|x_k|^2 = \alpha^2 \lambda_k + \sigma^2`, so :math:`E[\hat x_k x_k^*] = \alpha \lambda_k` and, with
:math:`\tau = \sigma / \alpha`,

.. math:: g_b = \frac{\sum_k \alpha^2 \lambda_k}{\sum_k (\alpha^2 \lambda_k + \sigma^2)}
              = \frac{\sum_{k \in K_b} \lambda_k}{\sum_{k \in K_b} (\lambda_k + \tau^2)}
              = \frac{\bar\lambda_b}{\bar\lambda_b + \tau^2} .

It is one half at :math:`\tau^2 = \bar\lambda_b`, the *mean* variance of the band
(`turningpoint.theory.spectrum.band_half_gain`); the band's power has its half elsewhere, unless all its modes
have one variance.  Nothing here needs Gaussian data: the posterior mean has
:math:`E[\hat x_k x_k^*] = E[x_{0,k} x_k^*] = \alpha E|x_{0,k}|^2` for any data, so the same holds with the
second moments in the place of variances, and a gain off this curve is an error of the denoiser or of the
states it was asked at.

Source: Wiener's filter; Wang & Vastola 2023, arXiv:2303.02490, for its gain in diffusion models.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import TurningpointError
from . import MEASURES, Reading
from ._looking import Look, Looking
from .frequency import BANDS, by_band, inner_products, radial_bands
from .pixels import pictures


@MEASURES.add("gain")
class Gain(Looking):
    """Moments of state and estimate in radial bands, from which the denoiser's gain is made.

    Parameters
    ----------
    model : Denoiser, optional
        If given, descriptions state the bands' edges for its states.
    bands : int
        How many, as in `frequency`.
    edges : str or sequence of float, optional
        Edges of one's own in place of their number: ``gain?edges=0,2,4,8``.

    Raises
    ------
    TurningpointError
        If states are vectors, differ in shape from their estimates, or ``bands`` or ``edges`` do not suit
        their size.

    Examples
    --------
    >>> state = torch.rand(2, 1, 16, 16)
    >>> found = Gain(bands=2).compare(state, 0.25 * state)
    >>> (found["cross1"] / found["input1"]).round(6).tolist()
    [0.25, 0.25]
    """

    name = "gain"
    by_default = False
    against = "state"

    def __init__(self, model: Any = None, bands: int = BANDS, edges: Any = None) -> None:
        self.bands = radial_bands(bands, edges)
        names = self.bands.names(None if model is None else _state_size(model))
        self.readings = tuple(
            Reading(
                f"{stem}{b}", "comparison", f"{what} in radial band {where}", label=f"{stem} of band {where}"
            )
            for stem, what in (
                ("cross", "mean product of state and estimate"),
                ("input", "mean power of the state"),
            )
            for b, where in enumerate(names)
        )

    def look(self, images: Tensor) -> dict[str, Any]:
        images = pictures(images, self.name)
        return {
            "spectrum": torch.fft.rfft2(images, norm="ortho").flatten(2),
            "shape": tuple(images.shape[1:]),
        }

    def told(self, seen: Look) -> dict[str, Tensor]:
        del seen
        return {}

    def compared(self, first: Look, second: Look) -> dict[str, Tensor]:
        """The moments of states and of their estimates, each (B,)."""
        state, estimate, (channels, height, width) = first["spectrum"], second["spectrum"], first["shape"]
        if first["shape"] != second["shape"]:
            of_state, of_estimate = (len(state), *first["shape"]), (len(estimate), *second["shape"])
            raise TurningpointError(
                f"measure is {self.name!r}, but states have shape {of_state} and estimates {of_estimate}; "
                "accepted: one shape."
            )
        places = self.bands.places(height, width, state.device)
        modes = channels * places.counts
        cross = by_band("cross", places.sums(inner_products(estimate, state)) / modes)
        return cross | by_band("input", places.sums(inner_products(state, state)) / modes)

    def settings(self) -> dict[str, Any]:
        return self.bands.settings()


def _state_size(model: Any) -> tuple[int, int]:
    """Height and width of the model's states, which are latents where its images are decoded."""
    example = pictures(torch.zeros(1, *model.shape), "gain")
    return example.shape[2], example.shape[3]
