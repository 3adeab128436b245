"""A folder in the form of `diffusers`, read and never run.

``model_index.json`` names for every component of a pipeline a library and a class, ``{"unet": ["diffusers",
"UNet2DConditionModel"]}``, and each has a folder of its own with a ``config.json`` and its weights.  `diffusers`
imports what that file names, even a Python file in the folder; here each component is compared with a list of
accepted classes first, its configuration is checked to be of ordinary size and to describe no more numbers
than its weights hold, and it is then loaded by that class itself.  Weights are safetensors; a ``.bin`` file is
read, with ``weights_only``, where there is nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import TurningpointError
from .hub import is_plain, is_variant
from .noise_tables import scheduler_config

MOST_BYTES_OF_JSON = 4 * 2**20
LARGEST_NUMBER = 2**24
LARGEST_SIZE = 4_096
"""Of an image or a latent, per side; position tables grow with its square."""
MOST = {"layers": 1_000, "sample_size": LARGEST_SIZE, "pos_embed_max_size": LARGEST_SIZE, "length of": 1_000}
"""The largest number that a configuration may hold where its name has such a part."""
STEMS = {"diffusers": ("diffusion_pytorch_model",), "transformers": ("model", "pytorch_model")}
VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")
RENAMED = {"Transformer2DModel": "DiTTransformer2DModel", "CLIPTokenizerFast": "CLIPTokenizer"}
"""Classes that newer versions know by another name."""


@dataclass(frozen=True)
class Options:
    """The settings that the loader has checked.

    Attributes
    ----------
    dtype : torch.dtype
        Of the networks.
    variant : str or None
        Another set of weights in the same folders, ``fp16``.
    height, width : int or None
        Of the decoded image, in pixels.
    negative_prompt : str or None
        What guidance moves away from where a walk does not say.
    scheduler : mapping
        What overrides the scheduler's configuration; ``_path`` is a file to read in the folder's place.
    extra : mapping
        Settings of one family.
    """

    dtype: torch.dtype = torch.float32
    variant: str | None = None
    height: int | None = None
    width: int | None = None
    negative_prompt: str | None = None
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


class PipelineFolder:
    """The components of one pipeline.

    Parameters
    ----------
    path : Path
        Holds ``model_index.json``; or, of a single network, its ``config.json``.
    options : Options
        How to load them.

    Attributes
    ----------
    kind : str
        The pipeline's class; of a single network, the network's.
    index : dict
        What ``model_index.json`` holds.

    Raises
    ------
    TurningpointError
        If there is neither file, or its class is one that only code in the folder could provide.
    """

    def __init__(self, path: Path, options: Options | None = None) -> None:
        self.path, self.options = path, options or Options()
        self.single = not (path / "model_index.json").is_file()
        if self.single and not (path / "config.json").is_file():
            raise TurningpointError(
                f"{str(path)!r} has no model_index.json, and no config.json of a network."
            )
        self.index = read_json(path / ("config.json" if self.single else "model_index.json"))
        kind = self.index.get("_class_name")
        if not isinstance(kind, str):
            raise TurningpointError(
                f"the pipeline of {str(path)!r} is {kind!r}, which asks for code of its own; accepted: a class of "
                "diffusers."
            )
        self.kind = kind
        variant = self.options.variant
        if variant is not None and not any(is_variant(f.name, variant) for f in path.glob("**/*.*")):
            raise TurningpointError(f"variant is {variant!r}, but no file of {str(path)!r} is of it.")

    def has(self, name: str) -> bool:
        """Whether the pipeline has such a component."""
        value = self.index.get(name)
        return isinstance(value, list) and len(value) == 2 and value != [None, None]

    def components(self) -> dict[str, str]:
        """The class of each component."""
        return {
            name: str(value[-1]) for name, value in self.index.items() if not self.single and self.has(name)
        }

    def _folder(self, name: str) -> Path:
        folder = self.path if self.single else self.path / name
        if not folder.is_dir():
            raise TurningpointError(
                f"the component {name} of {str(self.path)!r} is missing: there is no such folder."
            )
        return folder

    def config(self, name: str) -> dict[str, Any]:
        """The ``config.json`` of a component, its numbers checked to be of ordinary size."""
        config = read_json(self._folder(name) / "config.json")
        for key, value in _numbers(config):
            most = next((limit for part, limit in MOST.items() if part in key), LARGEST_NUMBER)
            if not abs(value) <= most:
                raise self._refused(name, f"its config.json has {key} = {value:g}; accepted: {most} at most")
        if config.get("quantization_config") is not None:
            raise self._refused(name, "it is quantised; accepted: plain weights")
        return config

    def scheduler(self) -> tuple[str, dict[str, Any]]:
        """The scheduler's class and configuration, see `scheduler_config`; a DDPM's if the folder has none."""
        given = dict(self.options.scheduler)
        replaced = given.pop("_path", None)
        described: dict[str, Any] = {}
        name = "DDPMScheduler"
        if replaced is not None:
            described = read_json(Path(replaced))
            name = str(described.get("_class_name", name))
        elif self.has("scheduler"):
            library, name = self._named("scheduler")
            if library != "diffusers":
                raise self._refused(
                    "scheduler", f"it is {library}.{name}; accepted: a scheduler of diffusers"
                )
            described = read_json(self._folder("scheduler") / "scheduler_config.json")
        config = scheduler_config(name, described, given)
        return str(config["_class_name"]), config

    def _named(self, name: str) -> tuple[str, str]:
        value = self.index.get(name)
        if not (isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)):
            raise TurningpointError(
                f"the component {name} of {str(self.path)!r} is missing: model_index.json says {value!r}."
            )
        return value[0], value[1]

    def _class(self, name: str, accepted: tuple[str, ...]) -> tuple[str, Any]:
        """The library and the class of a component, which must be among ``accepted``."""
        if self.single:
            library, kind = "diffusers", self.kind
        else:
            library, kind = self._named(name)
        kind = RENAMED.get(kind, kind)
        if f"{library}.{kind}" not in accepted:
            raise self._refused(name, f"it is {library}.{kind}; accepted: {', '.join(accepted)}")
        try:
            return library, getattr(importlib.import_module(library), kind)
        except (ImportError, AttributeError, RuntimeError):  # the last: a module of it cannot be imported
            why = f"it needs {kind} of {library}, which is not there whole, or too old: pip install -U {library}"
            if library == "transformers":
                why = "it needs transformers, which is not installed: pip install 'turningpoint[text]'"
            raise self._refused(name, why) from None

    def _refused(self, name: str, why: str) -> TurningpointError:
        return TurningpointError(f"the component {name} of {str(self.path)!r} cannot be loaded: {why}.")

    def module(self, name: str, *accepted: str, dtype: torch.dtype | None = None) -> Any:
        """A network of the pipeline with its weights, in evaluation and without gradients.

        Parameters
        ----------
        name : str
            The component: ``unet``.
        *accepted : str
            Its possible classes: ``"diffusers.UNet2DModel"``.
        dtype : torch.dtype, optional
            By default that of the options.

        Raises
        ------
        TurningpointError
            If it is another class, is missing, has wrong, missing or surplus tensors, or cannot be read.
        """
        library, kind = self._class(name, accepted)
        config, folder = self.config(name), self._folder(name)
        if not self.single and library == "diffusers":
            own = RENAMED.get(str(config.get("_class_name")), config.get("_class_name"))
            if own not in (None, kind.__name__):
                raise self._refused(name, f"its config.json is of {own!r}; accepted: {kind.__name__}")
        files, variant = self._weights(name, folder, library)
        dtype = dtype or self.options.dtype
        settings: dict[str, Any] = {"local_files_only": True, "variant": variant, "output_loading_info": True}
        settings["use_safetensors"] = files[0].suffix == ".safetensors"
        try:
            check_files(files)
            with quiet(library):
                if library == "transformers":
                    clean = {k: v for k, v in config.items() if not k.startswith("_") and k not in NOT_OURS}
                    settings |= {"config": kind.config_class.from_dict(clean), "dtype": dtype}
                    build, described = kind, settings["config"]
                else:
                    accelerated = importlib.util.find_spec("accelerate") is not None
                    settings |= {"torch_dtype": dtype, "low_cpu_mem_usage": accelerated}
                    build, described = kind.from_config, config
                with torch.device("meta"):
                    skeleton = build(described)
                check_size(skeleton, files)
                module, info = kind.from_pretrained(str(folder), **settings)
        except TurningpointError as error:
            raise self._refused(name, str(error).rstrip(".")) from None
        except Exception as error:  # whatever a library makes of a stranger's file
            raise self._refused(name, reason(error)) from None
        for what in ("missing", "unexpected", "mismatched"):
            keys = sorted(str(key) for key in info[f"{what}_keys"])
            if keys:
                raise self._refused(
                    name, f"its weights have {len(keys)} {_TELL[what]}, the first {keys[0]!r}"
                )
        return module.eval().requires_grad_(False)

    def _weights(self, name: str, folder: Path, library: str) -> tuple[list[Path], str | None]:
        """The files of a component's weights, safetensors if there are any, and their variant."""
        named = re.compile(rf"({'|'.join(STEMS[library])})[\w.-]*\.(safetensors|bin)")
        found = sorted(file for file in folder.iterdir() if named.fullmatch(file.name))
        variant = self.options.variant
        own = [file for file in found if is_variant(file.name, variant)]
        plain = [file for file in found if is_plain(file.name)]
        for files, which in ((own, variant), (plain, None)):
            for suffix in (".safetensors", ".bin"):
                chosen = [file for file in files if file.suffix == suffix]
                if chosen:
                    self._check_indices(name, folder, [file.name for file in found if file.suffix == suffix])
                    return (chosen if suffix == ".safetensors" else found), which
        raise self._refused(name, f"there are no weights in {str(folder)!r}; accepted: safetensors, or .bin")

    def _check_indices(self, name: str, folder: Path, accepted: list[str]) -> None:
        """Refuse a list of shards that names anything but the weights beside it."""
        suffix = Path(accepted[0]).suffix
        for index in folder.glob(f"*{suffix}*.json"):
            shards = read_json(index).get("weight_map")
            if not isinstance(shards, dict) or not all(shard in accepted for shard in shards.values()):
                raise self._refused(name, f"{index.name} names other files than the {suffix} files beside it")

    def tokenizer(self, name: str, *accepted: str) -> Any:
        """A tokenizer of the pipeline.

        Parameters
        ----------
        name : str
            The component: ``tokenizer``.
        *accepted : str
            Its possible classes: ``"transformers.CLIPTokenizer"``.
        """
        _, kind = self._class(name, accepted)
        folder = self._folder(name)
        if not any((folder / vocabulary).is_file() for vocabulary in VOCABULARIES):
            raise self._refused(
                name, f"there is no vocabulary in {str(folder)!r}; accepted: {', '.join(VOCABULARIES)}"
            )
        if sum(file.stat().st_size for file in folder.iterdir()) > 16 * MOST_BYTES_OF_JSON:
            raise self._refused(name, "its files are larger than those of any tokenizer")
        try:
            return kind.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # whatever a library makes of a stranger's file
            raise self._refused(name, reason(error)) from None

    def licence(self) -> str | None:
        """What the model card or a licence file says, if anything."""
        card = self.path / "README.md"
        if card.is_file():
            head = card.read_bytes()[:65_536].decode("utf-8", "replace")
            front = re.match(r"---\s*\n(.*?)\n---", head, re.DOTALL)
            said = re.search(r"^license(?:_name)?:\s*(\S.*?)\s*$", front[1], re.MULTILINE) if front else None
            if said:
                return said[1].strip("\"'")
        names = sorted(
            file.name for file in self.path.glob("*") if re.match(r"licen[cs]e", file.name, re.IGNORECASE)
        )
        return f"see {names[0]}" if names else None


NOT_OURS = (
    "auto_map",
    "attn_implementation",
    "experts_implementation",
    "quantization_config",
    "dtype",
    "torch_dtype",
)
"""What a configuration of `transformers` could ask for besides numbers."""
_TELL = {
    "missing": "missing tensors",
    "unexpected": "surplus tensors",
    "mismatched": "tensors of another shape",
}


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file of at most 4 MiB.

    Raises
    ------
    TurningpointError
        If there is no such file, or it is no such object.
    """
    if not path.is_file():
        raise TurningpointError(f"the file {str(path)!r} is missing.")
    if path.stat().st_size > MOST_BYTES_OF_JSON:
        raise TurningpointError(
            f"the file {str(path)!r} has {path.stat().st_size} bytes; accepted: 4 MiB of JSON."
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise TurningpointError(f"the file {str(path)!r} is not a JSON object.")
    return value


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a configuration with the names that they stand under; also the lengths of its lists."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(inner, str(name))
    elif isinstance(value, list):
        yield f"length of {key}", len(value)
        for inner in value:
            yield from _numbers(inner, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


def check_files(files: list[Path]) -> None:
    """Refuse truncated safetensors, and compressed archives, which could grow without end."""
    from safetensors import safe_open

    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                tensors.keys()
        elif zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise TurningpointError(f"{file.name} is compressed; accepted: as torch.save writes it.")


def check_size(skeleton: nn.Module, files: list[Path]) -> None:
    """Refuse a configuration of more numbers than its weights can hold, before any memory is taken."""
    described = sum(parameter.numel() for parameter in skeleton.parameters())
    held = sum(file.stat().st_size for file in files)
    if described > held:
        raise TurningpointError(
            f"its config.json describes {described} numbers, its weights hold {held} bytes."
        )


@contextlib.contextmanager
def quiet(library: str) -> Iterator[None]:
    """Without the progress bars and warnings of a library, whose complaints are our sentences."""
    log = importlib.import_module(f"{library}.utils.logging")
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def reason(error: BaseException) -> str:
    """What an error says, as a part of one sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"[.!?:]\s+(?=[A-Z0-9])|\s-\s", text)[0][:240].rstrip(" .:,")
