r"""Image classifiers, from wherever they come: images in [-1, 1] to logits.

A classifier is two maps, one after the other,

.. math:: x \in [-1, 1]^{C \times H \times W} \;\mapsto\; z = \text{prepare}(x) \;\mapsto\; \ell(z) \in \mathbb{R}^K,

its own preprocessing and its network.  They are apart because a network can be looked into on its way
(`measures.layers`), which starts from prepared images.  One file of this package per source:

==============================  =======================================================================
name                            what it is
==============================  =======================================================================
``reference``                   the diffusion model's own classifier
``efficientnet-lite0``          EfficientNet-Lite0 with ImageNet weights from a package: works offline
``torchvision:NAME[:WEIGHTS]``  a network of torchvision; WEIGHTS names an entry or a file
``timm:NAME[:FILE]``            a network of timm
``transformers:FOLDER_OR_ID``   a network of transformers, from disk or from the hub
``onnx:FILE``                   an ONNX graph
``program:FILE``                TorchScript or ``torch.export``: a program, which must be trusted
``python:MODULE:FUNCTION``      one's own code
==============================  =======================================================================

Other packages add theirs under the entry point ``turningpoint.classifiers``: functions
``(request: Request, **settings) -> ImageClassifier``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch
from torch import Tensor, nn

from ...errors import TurningpointError
from ...models._names import divided, literal
from ...models._pipelines.pipeline_folder import reason
from ...registry import Registry
from .._published import device_of
from ._layers import default_layers

NETWORK_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
"""What networks raise for an input that they cannot take."""


class ImageClassifier:
    """A network that gives logits, with its own preprocessing.

    Parameters
    ----------
    name : str
        What it is called in tables and settings.
    network : nn.Module or callable
        Prepared images to logits (B, K), to a tuple that begins with them, or to a thing with ``.logits``.
        A module is moved to ``device`` and put into evaluation, in place.
    prepare : callable
        Images (B, C, H, W) in [-1, 1] to what the network takes, which begins with B.
    classes : sequence of str
        Names of the K classes, if they are known.
    layers : sequence of str, optional
        Layers to look at by default; found by `default_layers` if not given.
    identity : mapping
        What tells this classifier from others: ``weights`` and ``preprocessing``, as JSON writes them.
    device : str or torch.device
        Where the network runs.

    Attributes
    ----------
    name, classes, layers : str, tuple of str, tuple of str
    module : nn.Module or None
        The network, if it is one that can be looked into: ONNX graphs and programs cannot.
    device : torch.device

    Examples
    --------
    >>> dark = ImageClassifier("dark", lambda z: torch.stack([-z, z], 1), lambda x: x.mean((1, 2, 3)))
    >>> dark(dark.prepare(torch.ones(1, 3, 4, 4)))
    tensor([[-1.,  1.]])
    """

    def __init__(
        self,
        name: str,
        network: Callable[[Tensor], Any],
        prepare: Callable[[Tensor], Tensor],
        *,
        classes: Sequence[str] = (),
        layers: Sequence[str] | None = None,
        identity: Mapping[str, Any] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.name = name
        self.classes = tuple(classes)
        self.device = torch.device(device)
        self.module = network if isinstance(network, nn.Module) else None
        if self.module is not None:
            self.module.float().to(self.device).eval().requires_grad_(False)
        self.layers = tuple(layers if layers is not None else default_layers(self.module))
        self._network, self._prepare = network, prepare
        self._identity = dict(identity or {})

    def prepare(self, images: Tensor) -> Tensor:
        """The network's input for a batch of images.

        Parameters
        ----------
        images : Tensor (B, C, H, W)
            In [-1, 1]; values that stick out are cut off where the preprocessing makes pixels of them.

        Returns
        -------
        Tensor (B, ...)
            On the CPU, in float32.
        """
        return self._prepare(images.detach().cpu().float())

    def __call__(self, prepared: Tensor) -> Tensor:
        """Logits (B, K), float32 on the CPU, of prepared images.

        Raises
        ------
        TurningpointError
            If the network cannot take them, or returns something else.
        """
        shape = tuple(prepared.shape)
        try:
            with torch.inference_mode():
                answer = self._network(prepared.to(self.device))
        except TurningpointError:
            raise
        except NETWORK_ERRORS as error:
            raise TurningpointError(
                f"classifier is {self.name!r}, which cannot take a batch of shape {shape}: {reason(error)}."
            ) from error
        logits = answer[0] if isinstance(answer, tuple | list) else getattr(answer, "logits", answer)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(prepared):
            given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise TurningpointError(
                f"classifier is {self.name!r}, which made {given} of a batch of shape {shape}; "
                "accepted: logits (B, K)."
            )
        return logits.float().cpu()

    def settings(self) -> dict[str, Any]:
        """Its name, and fingerprints of its weights and its preprocessing."""
        return {"classifier": self.name, **self._identity}


@dataclass(frozen=True)
class Request:
    """What a source is asked for.

    Parameters
    ----------
    where : str
        What follows the source's name and a colon.
    model : Denoiser or None
        The diffusion model under study.
    trust_program : bool
        Whether files that are programs may be run.
    device : torch.device
        Where the network shall run.
    """

    where: str
    model: Any
    trust_program: bool
    device: torch.device


CLASSIFIERS: Registry[Callable[..., ImageClassifier]] = Registry(
    "classifier", "turningpoint.measures._classifiers", "turningpoint.classifiers"
)
"""Sources: functions ``(request, **settings) -> ImageClassifier``."""


def image_classifier(
    what: Any = None, model: Any = None, *, trust_program: Any = False, device: Any = None, **settings: Any
) -> ImageClassifier:
    """A classifier from its name, from a network, or the one that is given.

    Parameters
    ----------
    what : str, ImageClassifier, nn.Module, callable or None
        A name from the table above, with settings behind a question mark (``onnx:net.onnx?size=224``); the path
        of a file or folder, whose kind is then recognised; a network or function from images in [-1, 1] to
        logits.  None is ``reference``.
    model : Denoiser, optional
        The diffusion model under study, for its own classifier.
    trust_program : bool
        Whether files that are programs may be run.
    device : str, optional
        Where it runs; by default a GPU if there is one.
    **settings
        The source's own, as after the question mark.

    Raises
    ------
    TurningpointError
        If there is no such classifier, a package is missing, or a file cannot be read.
    """
    if isinstance(what, ImageClassifier):
        return what
    place = device_of(device)
    trust = trust_program is True or str(trust_program).lower() in ("true", "1", "yes")
    if what is not None and not isinstance(what, str | Path):
        from .python import adopted

        return adopted(what, place, **settings)
    head, query = divided(str(what or "reference"))
    given = {key: literal(value) for key, value in parse_qsl(query)} | settings
    source, _, where = head.partition(":")
    if source not in CLASSIFIERS and (kind := _recognised(head)) is not None:
        source, where = kind, head
    load = CLASSIFIERS[source]
    takes = list(inspect.signature(load).parameters.values())
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in takes):
        accepted = [parameter.name for parameter in takes[1:]]
        unknown = sorted(set(given) - set(accepted))
        if unknown:
            raise TurningpointError(
                f"{unknown[0]} is given to the classifier {str(what)!r}; "
                f"accepted there: {', '.join(accepted) or 'no settings'}."
            )
    return load(Request(where, model, trust, place), **given)


def _recognised(head: str) -> str | None:
    """The source of a bare path."""
    path = Path(head).expanduser()
    if path.suffix == ".onnx":
        return "onnx"
    if path.suffix in (".pt2", ".ts"):
        return "program"
    return "transformers" if (path / "config.json").is_file() else None
