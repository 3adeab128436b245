"""Networks in the form in which `transformers` publishes them: a folder, read and never run.

=============================  ==============================================================================
``config.json``                the architecture, by its ``model_type``, and its numbers
``model*.safetensors``         the weights; ``pytorch_model*.bin`` is read, with ``weights_only``, if it is alone
``preprocessor_config.json``   how a picture becomes the network's input
``tokenizer.json``, ...        how a text does
=============================  ==============================================================================

Of the hub only such files are fetched (`models._pipelines.hub`).  An architecture is one of `transformers`'
own: what a folder asks for beyond its numbers, code or compiled kernels, is left out or refused.  So are weights
with gaps, which `transformers` would fill with random numbers.

A picture is prepared by the Pillow variant of its processor, on every machine: torchvision's variant, which
`transformers` prefers where it is installed, resizes to slightly different pixels.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import TurningpointError
from ..models._pipelines.hub import find_folder, is_plain
from ..models._pipelines.pipeline_folder import NOT_OURS, check_files, check_size, quiet, read_json, reason

_ASIDE = {*NOT_OURS, "_attn_implementation", "_commit_hash", "_name_or_path"}


class Published:
    """A network, its image processor and its tokenizer.

    Parameters
    ----------
    where : str
        Its folder, or ``owner/name`` on the hub.
    argument : str
        What the user calls it, for the errors' sentences.

    Attributes
    ----------
    folder : Path
        Where it lies on this machine.
    config : dict
        What its ``config.json`` says.

    Raises
    ------
    TurningpointError
        If there is no such folder and no such repository, or `transformers` is missing; from the methods, if
        a part is missing, broken, or not among `transformers`' own classes.
    """

    def __init__(self, where: str, argument: str = "network") -> None:
        self.where, self.argument = str(where), argument
        if importlib.util.find_spec("transformers") is None:
            raise TurningpointError(
                f"{argument} is {self.where!r}, which needs transformers: pip install 'turningpoint[text]'."
            )
        try:
            self.folder = find_folder(self.where)
        except TurningpointError:
            raise TurningpointError(
                f"{argument} is {self.where!r}, which is neither a folder nor a repository of the hub that can be "
                "reached; accepted: the folder of a network of transformers, or owner/name."
            ) from None
        self.config = self._made("config.json", lambda: read_json(self.folder / "config.json"))

    def _refused(self, why: str) -> TurningpointError:
        return TurningpointError(f"{self.argument} is {self.where!r}, which cannot be read: {why}.")

    def _made(self, what: str, make: Callable[[], Any]) -> Any:
        try:
            with quiet("transformers"):
                return make()
        except TurningpointError as error:
            why = str(error).removeprefix(f"{self.argument} is {self.where!r}, which cannot be read: ")
            raise self._refused(why.rstrip(".")) from None
        except Exception as error:  # whatever a library makes of a stranger's file
            raise self._refused(f"its {what}: {reason(error)}") from None

    @cached_property
    def described(self) -> Any:
        """The configuration, of a class of `transformers`."""
        kind = self.config.get("model_type")
        if not isinstance(kind, str):
            raise self._refused("its config.json has no model_type; accepted: one that transformers has")
        if self.config.get("quantization_config") is not None:
            raise self._refused("it is quantised; accepted: plain weights")
        from transformers import AutoConfig

        numbers = {key: value for key, value in _without(self.config, _ASIDE).items() if key != "model_type"}
        return self._made("config.json", lambda: AutoConfig.for_model(kind, **numbers))

    def network(self, auto: str = "AutoModel", optional: Sequence[str] = ()) -> tuple[nn.Module, bool]:
        """The network in float32, in evaluation and without gradients.

        Parameters
        ----------
        auto : str
            The class of `transformers` that chooses its class: ``AutoModelForImageClassification``.
        optional : sequence of str
            Names of modules that the weights may lack.

        Returns
        -------
        network : nn.Module
        whole : bool
            Whether the weights have the optional modules too.
        """
        import transformers

        files = self._weights()

        def load() -> tuple[nn.Module, dict[str, Any]]:
            check_files(files)
            build = getattr(transformers, auto)
            with torch.device("meta"):
                skeleton = build.from_config(self.described)
            check_size(skeleton, files)
            found: tuple[nn.Module, dict[str, Any]] = build.from_pretrained(
                str(self.folder),
                config=self.described,
                dtype=torch.float32,
                use_safetensors=files[0].suffix == ".safetensors",
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            return found

        module, info = self._made("weights", load)
        gaps = sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"])))
        needed = [key for key in gaps if not set(key.split(".")) & set(optional)]
        if needed:
            raise self._refused(f"its weights lack {len(needed)} tensors, the first {needed[0]!r}")
        return module.eval().requires_grad_(False), not gaps

    def _weights(self) -> list[Path]:
        plain = sorted(file for file in self.folder.iterdir() if is_plain(file.name))
        for suffix in (".safetensors", ".bin"):
            chosen = [file for file in plain if file.suffix == suffix]
            if chosen:
                return chosen
        raise self._refused("there are no weights; accepted: safetensors, or .bin")

    def image_processor(self) -> Any:
        """What makes the network's input of a list of pictures, by Pillow."""
        from transformers import AutoImageProcessor

        # transformers 4 knew a "fast" and a slow processor instead
        by_pillow = importlib.util.find_spec("transformers.image_processing_backends") is not None
        how: dict[str, Any] = {"backend": "pil"} if by_pillow else {"use_fast": False}
        return self._made(
            "image processor",
            lambda: AutoImageProcessor.from_pretrained(
                str(self.folder), local_files_only=True, trust_remote_code=False, **how
            ),
        )

    def tokenizer(self) -> Any:
        """What cuts a text into tokens."""
        from transformers import AutoTokenizer

        return self._made(
            "tokenizer",
            lambda: AutoTokenizer.from_pretrained(
                str(self.folder), local_files_only=True, trust_remote_code=False
            ),
        )


def device_of(device: Any = None) -> torch.device:
    """Where a network runs: where it is told, else on a GPU if there is one.

    Raises
    ------
    TurningpointError
        If this machine has no such device.

    Examples
    --------
    >>> device_of("cpu")
    device(type='cpu')
    """
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=place)
    except (RuntimeError, TypeError, AssertionError):
        raise TurningpointError(
            f"device is {device!r}; accepted: cpu, or one that this machine has."
        ) from None
    return place


def _without(value: Any, names: set[str]) -> Any:
    """A JSON value without the entries of these names, at any depth."""
    if isinstance(value, Mapping):
        return {key: _without(inner, names) for key, inner in value.items() if key not in names}
    return [_without(inner, names) for inner in value] if isinstance(value, list) else value
