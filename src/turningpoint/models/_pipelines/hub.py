"""Where a pipeline lies: a folder on disk, or a repository of the Hugging Face hub, copied to disk.

Of a repository only these files are fetched: what describes it (JSON, model card, licence), the tokenizers, and the
weights of the components that its ``model_index.json`` names, as safetensors where there are any.  No Python
file is among them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from ...errors import TurningpointError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Components that take no part in what a denoiser does."""
_WEIGHTS = re.compile(r"(diffusion_pytorch_model|model|pytorch_model)(?P<middle>[\w.-]*)\.(safetensors|bin)")
_TEXT = (".json", ".txt", ".model")


def find_folder(
    where: str, revision: str | None = None, variant: str | None = None, subfolder: str | None = None
) -> Path:
    """The folder that ``where`` means, fetched from the hub if need be.

    Parameters
    ----------
    where : str
        A folder, or ``owner/name``.
    revision : str, optional
        A branch, tag or commit of a repository of the hub.
    variant : str, optional
        ``fp16`` and the like: another set of weights in the same folder.
    subfolder : str, optional
        The pipeline lies in this folder of it.

    Raises
    ------
    TurningpointError
        If there is neither such a folder nor, reachable from here, such a repository.
    """
    path = Path(str(where)).expanduser()
    if path.is_file():
        raise TurningpointError(
            f"where is {str(where)!r}, which is a file; accepted: the folder of a pipeline, or owner/name on the hub."
        )
    if not path.is_dir() or not str(where):
        path = _fetched(str(where), revision, variant, subfolder)
    inner = path if subfolder is None else path / str(subfolder)
    if not inner.resolve().is_relative_to(path.resolve()) or not inner.is_dir():
        raise TurningpointError(f"subfolder is {subfolder!r}; accepted: a folder inside {str(where)!r}.")
    return inner


def _fetched(where: str, revision: str | None, variant: str | None, subfolder: str | None) -> Path:
    nowhere = f"where is {where!r}, which is neither a folder nor a repository of the hub that can be reached"
    if not HUB_ID.fullmatch(where):
        raise TurningpointError(f"{nowhere}; accepted: a folder, or owner/name.")
    import huggingface_hub

    try:
        about = huggingface_hub.HfApi().model_info(where, revision=revision, timeout=10)
        names = [file.rfilename for file in about.siblings or []]
    except Exception as error:  # its HTTP library has changed its errors more than once
        return _kept(
            where, revision, f"{nowhere} ({type(error).__name__}); accepted: a folder, or owner/name."
        )
    inner = f"{subfolder.strip('/')}/" if subfolder else ""
    try:
        components = _components(where, revision, f"{inner}model_index.json", names)
        wanted = wanted_files(names, components, variant, inner)
        return Path(huggingface_hub.snapshot_download(where, revision=revision, allow_patterns=wanted))
    except Exception as error:
        raise TurningpointError(
            f"where is {where!r}, a repository that could not be fetched ({type(error).__name__}); accepted: a "
            "folder, or a repository that can be reached."
        ) from None


def _kept(where: str, revision: str | None, otherwise: str) -> Path:
    """What an earlier download left on this machine."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(where, revision=revision, local_files_only=True))
    except Exception:
        raise TurningpointError(otherwise) from None


def _components(where: str, revision: str | None, index: str, names: list[str]) -> list[str]:
    """The folders of a pipeline that a model_index.json names; the repository itself if there is none."""
    if index not in names:
        return [""]
    import huggingface_hub

    path = Path(huggingface_hub.hf_hub_download(where, index, revision=revision))
    described = json.loads(path.read_text(encoding="utf-8"))
    return [name for name, value in described.items() if isinstance(value, list) and name not in UNUSED]


def wanted_files(
    names: Iterable[str], components: Iterable[str], variant: str | None = None, inner: str = ""
) -> list[str]:
    """Which files of a repository are needed.

    Parameters
    ----------
    names : iterable of str
        All its files.
    components : iterable of str
        The folders of its components; "" is the repository itself.
    variant : str, optional
        Another set of weights; a component that lacks it is fetched as it is.
    inner : str
        The folder of the pipeline, with a slash at its end.

    Examples
    --------
    >>> names = ["README.md", "model_index.json", "v1.ckpt", "unet/config.json", "unet/run.py"]
    >>> names += [f"unet/diffusion_pytorch_model.{end}" for end in ("bin", "safetensors", "fp16.safetensors")]
    >>> wanted_files(names, ["unet"])[2:]
    ['unet/config.json', 'unet/diffusion_pytorch_model.safetensors']
    """
    names = sorted(names)
    wanted = [name for name in names if re.fullmatch(r"(README\.md|LICEN[CS]E[\w.-]*)", name, re.IGNORECASE)]
    wanted += [f"{inner}model_index.json"] if f"{inner}model_index.json" in names else []
    for component in components:
        folder = f"{inner}{component}/" if component else inner
        own = [n.removeprefix(folder) for n in names if n.startswith(folder)]
        own = [n for n in own if "/" not in n]
        wanted += [folder + n for n in own if n.endswith(_TEXT) and folder + n not in wanted]
        weights = [n for n in own if _WEIGHTS.fullmatch(n)]
        for_variant = [n for n in weights if is_variant(n, variant)]
        plain = [n for n in weights if is_plain(n)]
        chosen = for_variant or plain
        tensors = [n for n in chosen if n.endswith(".safetensors")]
        wanted += [folder + n for n in tensors or chosen]
    return wanted


def is_plain(name: str) -> bool:
    """Whether a weights file belongs to no variant: its name is the stem, and perhaps the number of a shard.

    >>> is_plain("model-00001-of-00002.safetensors"), is_plain("model.fp16.safetensors")
    (True, False)
    """
    match = _WEIGHTS.fullmatch(name)
    return match is not None and re.fullmatch(r"(-\d+-of-\d+)?", match["middle"]) is not None


def is_variant(name: str, variant: str | None) -> bool:
    """Whether a weights file belongs to a variant; shards carry its name before or after their number.

    >>> is_variant("model.fp16-00001-of-00002.safetensors", "fp16"), is_variant("model.safetensors", "fp16")
    (True, False)
    """
    match = _WEIGHTS.fullmatch(name)
    return bool(variant and match and re.search(rf"\.{re.escape(variant)}(-|$)", match["middle"]))
