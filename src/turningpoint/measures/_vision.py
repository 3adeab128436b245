r"""What a vision network of `transformers` sees in an image: one vector, and one for each patch.

An image in [-1, 1] is rounded to 256 levels, grey ones to three equal channels, since that is what such networks
were trained on, and goes through the network's own image processor.  With :math:`h_0` the network's
vector for the whole image and :math:`h_p` the last hidden state at patch :math:`p`,

.. math::

   \text{embedding} = \frac{h_0}{|h_0|}, \qquad
   \text{patches}_p(x, y) = 1 - \frac{h_p(x) \cdot h_p(y)}{|h_p(x)| \, |h_p(y)|}
       = \frac12 \Big| \frac{h_p(x)}{|h_p(x)|} - \frac{h_p(y)}{|h_p(y)|} \Big|^2.

The squared distance of two embeddings is twice one minus their cosine, so the retention of the vector is one
of cosines.  The patches say where two images differ, for correlations of changes between places (`Sclocchi, Favero,
Levi & Wyart 2025 <https://arxiv.org/abs/2410.13770>`_, who read them off CLIP).
"""

from __future__ import annotations

import hashlib
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..errors import TurningpointError
from ..models._pipelines.pipeline_folder import reason
from ..models.settings import whole
from . import Measure, Reading
from ._classifiers._identity import of_plain
from ._classifiers._preprocessing import pictures as as_pictures
from ._published import device_of
from .pixels import pictures

REMEMBERED = 2**28
"""Bytes of what was seen that are kept: a start is compared with what came back at every time."""
FIRST = ("cls_token", "class_embedding", "distillation_token", "register_tokens")
"""Parameters that stand before the patches in a sequence."""


class Seen(NamedTuple):
    """What a network makes of B images: ``embedding`` (B, d) and ``patches`` (B, P, D), both of unit length."""

    embedding: Tensor
    patches: Tensor


class Vision:
    """A network and its image processor.

    Parameters
    ----------
    name : str
        What the user calls the network.
    network : nn.Module
        A vision model of `transformers`; moved to ``device``.
    processor : image processor of `transformers`
        Makes the network's input of a list of pictures.
    pooled : bool
        Whether the network's pooled output stands for the image; if not, or if there is none, the first
        token does, and without such a token the mean of the patches.
    projection : callable, optional
        From that vector to the space that images share with texts.
    batch : int
        Images that the network sees at once.
    device : str, optional
        By default a GPU if there is one.
    remember : bool
        Whether to keep what was seen, up to 256 MB.

    Raises
    ------
    TurningpointError
        If the network cannot see a picture, or sees it differently every time.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        processor: Any,
        *,
        pooled: bool = True,
        projection: Callable[[Tensor], Tensor] | None = None,
        batch: Any = 32,
        device: Any = None,
        remember: bool = True,
    ) -> None:
        self.device, self.batch, self.remember = device_of(device), whole("batch", batch), remember
        self._network, self._processor = network.to(self.device), processor
        self._pooled = pooled
        self._projection = projection.to(self.device) if isinstance(projection, nn.Module) else projection
        parameters = dict(network.named_parameters())
        first = [value for key, value in parameters.items() if key.rpartition(".")[2] in FIRST]
        self._first = sum(value.shape[1] if value.ndim == 3 else 1 for value in first)
        accepted = inspect.signature(network.forward).parameters
        self._renamed = (
            {} if "pixel_attention_mask" in accepted else {"pixel_attention_mask": "attention_mask"}
        )
        self._kept: OrderedDict[bytes, Seen] = OrderedDict()
        self._try(name)

    def _try(self, name: str) -> None:
        ramp = np.arange(48 * 48 * 3, dtype=np.uint32).reshape(48, 48, 3) % 251
        picture = Image.fromarray(ramp.astype(np.uint8))
        try:
            once, again = self._see([picture]), self._see([picture])
        except Exception as error:  # whatever a network wants besides a picture
            raise TurningpointError(
                f"network is {name!r}, which cannot see a picture ({reason(error)}); accepted: a vision model."
            ) from None
        if not torch.allclose(once.patches, again.patches, atol=1e-2):
            raise TurningpointError(
                f"network is {name!r}, which sees a picture differently every time; accepted: one without chance."
            )

    def preprocessing(self) -> str:
        """A hash of the image processor's settings."""
        return of_plain(self._processor.to_dict())

    def look(self, images: Tensor) -> Iterator[Seen]:
        """What is seen in images (B, 1 or 3, H, W) in [-1, 1], in pieces of ``batch``."""
        for piece in images.cpu().split(self.batch):
            shown = as_pictures(piece)
            yield self._recalled(shown) if self.remember else self._see(shown)

    def _recalled(self, shown: list[Image.Image]) -> Seen:
        digest = hashlib.sha256(str((len(shown), shown[0].size)).encode())
        for picture in shown:
            digest.update(picture.tobytes())
        key = digest.digest()
        if key not in self._kept:
            self._kept[key] = self._see(shown)
        self._kept.move_to_end(key)
        found = self._kept[key]
        size = found.patches.numel() * found.patches.element_size()
        while len(self._kept) > max(REMEMBERED // max(size, 1), 1):
            self._kept.popitem(last=False)
        return found

    @torch.inference_mode()
    def _see(self, shown: list[Image.Image]) -> Seen:
        prepared = self._processor(images=shown, return_tensors="pt")
        inputs = {self._renamed.get(name, name): value.to(self.device) for name, value in prepared.items()}
        output = self._network(**inputs)
        hidden = output.last_hidden_state
        if hidden.ndim == 4:  # a convolutional network's (B, D, h, w)
            hidden = hidden.flatten(2).transpose(1, 2)
        patches = hidden[:, self._first :]
        if "pixel_attention_mask" in prepared:  # images of one size are padded alike
            patches = patches[:, prepared["pixel_attention_mask"][0].bool()]
        image = getattr(output, "pooler_output", None) if self._pooled else None
        if image is None:
            image = hidden[:, 0] if self._first else patches.mean(1)
        image = image.flatten(1)
        if self._projection is not None:
            image = self._projection(image)
        return Seen(normalize(image.float(), dim=-1).cpu(), normalize(patches.float(), dim=-1).cpu())


class VisionMeasure(Measure):
    """A measure that looks through a `Vision`.

    Attributes
    ----------
    vision : Vision
        The network.
    patches : bool
        Whether patches are compared.
    """

    by_default = False
    vision: Vision
    patches: bool

    def compare(self, a: Tensor, b: Tensor) -> dict[str, np.ndarray]:
        if not self.patches:
            return {}
        a, b = pictures(a, self.name), pictures(b, self.name)
        pairs = zip(self.vision.look(a), self.vision.look(b), strict=True)
        far = [(one.patches - other.patches).square().sum(-1) / 2 for one, other in pairs]
        return {"patches": torch.cat(far).numpy()}

    def compare_with(self, starts: Sequence[Tensor], images: Tensor) -> list[dict[str, np.ndarray]]:
        return [self.compare(start, images) if k == 0 else {} for k, start in enumerate(starts)]

    def compared(self) -> tuple[Reading, ...]:
        """The reading of the patches, if they are compared."""
        far = Reading(
            "patches", "map", "cosine distance at each patch", largest=0.0, label=f"{self.name} patches"
        )
        return (far,) if self.patches else ()

    def embeddings(self, images: Tensor) -> Tensor:
        """The embeddings of images, (B, d) of unit length."""
        return torch.cat([seen.embedding for seen in self.vision.look(pictures(images, self.name))])


def switch(argument: str, value: Any) -> bool:
    """True or False from a user's setting, or one sentence.

    >>> switch("patches", 0), switch("patches", "True")
    (False, True)
    """
    said = {"true": True, "1": True, "false": False, "0": False}.get(str(value).lower())
    if said is None:
        raise TurningpointError(f"{argument} is {value!r}; accepted: True or False.")
    return said
