r"""Images in 8 bit: levels, grey, histogram, entropy and Otsu's threshold, for a whole batch at once.

With :math:`x \in [-1, 1]` the image, :math:`R, G, B` its levels, and :math:`h_g` how many of its :math:`P` pixels
have grey :math:`g`,

.. math::

   u = \mathrm{round}\big(127.5\,(\min(\max(x, -1), 1) + 1)\big), \qquad
   g = \big\lfloor (9798 R + 19235 G + 3735 B + 2^{14}) / 2^{15} \big\rfloor, \qquad
   H = -\sum_g \tfrac{h_g}{P} \log_2 \tfrac{h_g}{P},

the luma of ITU-R BT.601 (0.299, 0.587, 0.114) in OpenCV's fixed point (``cvtColor``, ``COLOR_RGB2GRAY``). Otsu's
threshold is the grey :math:`t` with the largest variance between the pixels up to :math:`t` and those above it,

.. math:: \sigma^2(t) = \omega_0(t)\, \omega_1(t)\, \big(\mu_0(t) - \mu_1(t)\big)^2 .

Levels and greys are whole numbers held in float32, which is exact up to :math:`2^{24}`: arithmetic on them is
OpenCV's arithmetic on integers, and as fast as torch is.

Sources: ITU-R BT.601-7, section 2.5.1; Shannon 1948, Bell Syst. Tech. J. 27:379; Otsu 1979, IEEE Trans. Syst. Man
Cybern. 9(1):62, eq. 18.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 256
_SCALE = 2**15
_RED, _GREEN, _BLUE = 9798, 19235, 3735


def levels(images: Tensor) -> Tensor:
    """8-bit levels 0, 1, ..., 255 of images in [-1, 1], as float32; what sticks out is clipped.

    Examples
    --------
    >>> levels(torch.tensor([-3.0, -1.0, 0.001, 1.0]))
    tensor([  0.,   0., 128., 255.])
    """
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round()


def grey(pixels: Tensor) -> Tensor:
    """OpenCV's grey of three channels of 8-bit levels, the rounded mean of any other number of channels.

    Parameters
    ----------
    pixels : Tensor (B, C, H, W)
        Of `levels`.

    Returns
    -------
    Tensor (B, H, W)
        Whole numbers 0, ..., 255.

    Examples
    --------
    >>> grey(torch.tensor([[255.0, 0.0, 0.0], [0.0, 255.0, 0.0]])[:, :, None, None]).flatten()
    tensor([ 76., 150.])
    """
    if pixels.shape[1] == 1:
        return pixels[:, 0]
    if pixels.shape[1] != 3:
        return pixels.mean(1).round()
    red, green, blue = pixels.unbind(1)
    weighted = (_RED * red).add_(green, alpha=_GREEN).add_(blue, alpha=_BLUE).add_(_SCALE // 2)
    return weighted.div_(_SCALE).floor_()


def histogram(greys: Tensor) -> Tensor:
    """How many pixels of each image have each grey; (B, H, W) to integers (B, 256).

    Examples
    --------
    >>> histogram(torch.tensor([[[0.0, 2.0], [2.0, 255.0]]]))[0, :3]
    tensor([1, 0, 2])
    """
    first = LEVELS * torch.arange(len(greys), device=greys.device)
    places = greys.flatten(1).long() + first[:, None]
    return torch.bincount(places.flatten(), minlength=LEVELS * len(greys)).view(-1, LEVELS)


def entropy(counts: Tensor) -> Tensor:
    """Shannon entropy in bits of histograms (B, bins); (B,), from 0 for one grey to 8 for all 256 alike.

    Examples
    --------
    >>> entropy(torch.tensor([[4, 0, 0, 0], [1, 1, 1, 1]]))
    tensor([0., 2.])
    """
    shares = counts.float() / counts.sum(1, keepdim=True)
    bits: Tensor = torch.special.entr(shares).sum(1) / torch.log(shares.new_tensor(2.0))
    return bits


def otsu(counts: Tensor) -> Tensor:
    """Otsu's threshold of histograms (B, 256): the foreground is above it; an image of one grey has that grey.

    The smallest of several thresholds that are equally good, and the rounding, are those of
    ``skimage.filters.threshold_otsu``: the product of the two sizes in float32, all else in float64.

    Returns
    -------
    Tensor (B,)
        Integers 0, ..., 255.

    Examples
    --------
    >>> greys = torch.tensor([[[10.0, 10.0], [12.0, 200.0]], [[7.0, 7.0], [7.0, 7.0]]])
    >>> otsu(histogram(greys))
    tensor([12,  7])
    """
    places = torch.arange(counts.shape[1], device=counts.device)
    below, sums = counts.cumsum(1)[:, :-1], (counts * places).cumsum(1)
    above = counts.sum(1, keepdim=True) - below
    apart = sums[:, :-1].double() / below - (sums[:, -1:] - sums[:, :-1]).double() / above
    between = (below.float() * above.float()).double() * apart.square()
    parts = (below > 0) & (above > 0)
    best = torch.where(parts, between, -1.0).argmax(1)
    return torch.where(parts.any(1), best, counts.argmax(1))
