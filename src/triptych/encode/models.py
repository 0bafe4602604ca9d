"""What encoders with learned weights share: the model's folder, the device, the number format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from logging import ERROR
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from triptych.encode.encoder import EncoderSpec, Options, versions
from triptych.errors import ConfigError, nearest
from triptych.files import hash_arrays, sha256

if TYPE_CHECKING:
    import torch

_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja")  # weights, settings, vocabularies
_NEVER_USED = ("masked_spec_embed", "mask_token")  # weights for training only, which some files lack


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine.

    Args:
        path: where.
        name: as people know it: the folder's name, or the name on the hub.
    """

    path: Path
    name: str

    def fingerprint(self) -> str:
        """Hash all files that decide what the model gives."""
        files = sorted(file for file in self.path.rglob("*") if file.suffix in _SUFFIXES and file.is_file())
        return hash_arrays(*((file.relative_to(self.path).as_posix(), sha256(file)) for file in files))


def find_model(name: str) -> ModelFolder:
    """Find a local folder by its path, or else a model of the Hugging Face hub by its name.

    A hub model is downloaded unless it is already there, or `HF_HUB_OFFLINE` is set.

    Raises:
        ConfigError: there is none, or it could be loaded only by running code that comes with it.
    """
    path = Path(name).expanduser()
    is_here = path.is_dir()
    folder = ModelFolder(path if is_here else _from_hub(name), path.resolve().name if is_here else name)
    with loading(folder):
        _refuse_code(folder)
    return folder


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[f"*{suffix}" for suffix in _SUFFIXES]))
    except Exception as error:  # the network, the hub, the name, the rights: each with errors of its own
        raise ConfigError(
            f"the model '{name}' is no folder, and the Hugging Face hub gives none: {_first_line(error)}",
            wanted="a model's folder, a built-in encoder, or a name on the hub while it can be reached",
            fix="Copy the model's folder to this machine and give its path",
        ) from error


def _refuse_code(folder: ModelFolder) -> None:
    """Refuse weights that would have to be unpickled, and modules that are not the library's."""
    pickled = [
        path for path in folder.path.rglob("pytorch_model*.bin") if not any(path.parent.glob("*.safetensors"))
    ]
    modules = folder.path / "modules.json"
    foreign = [
        module["type"]
        for module in (json.loads(modules.read_text(encoding="utf-8")) if modules.is_file() else [])
        if not module["type"].startswith("sentence_transformers.")
    ]
    if pickled or foreign:
        what = f"{pickled[0].name} without safetensors" if pickled else f"the module {foreign[0]}"
        raise ConfigError(
            f"the model '{folder.name}' holds {what}, which can run code of its own",
            wanted="weights as safetensors, and no code",
            fix="Save the model's weights as safetensors, or choose another model",
        )


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """Find the number format of a name; "auto" is bfloat16 where the device has it in hardware.

    Raises:
        ConfigError: the name is unknown.
    """
    import torch

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name == "auto":
        return dtypes["bfloat16" if _has_bfloat16(device) else "float32"]
    if name not in dtypes:
        raise ConfigError(
            f"the number format '{name}'", wanted="auto, float32 or bfloat16", fix=nearest(name, dtypes)
        )
    return dtypes[name]


def _has_bfloat16(device: torch.device) -> bool:
    import torch

    if device.type == "cpu":
        abilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions
        return bool(abilities.get("amx_bf16") or abilities.get("avx512_bf16"))
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


_UNLOADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError,
)  # fmt: skip
"""What the libraries raise over files that are no model."""


@contextmanager
def loading(folder: ModelFolder, *, report: bool = True) -> Iterator[None]:
    """Load a model without progress bars, and word what goes wrong. Torch's generator stays as it is.

    Args:
        folder: of the model, for messages.
        report: let transformers say which weights are lacking or left over.

    Raises:
        ConfigError: the library cannot make a model of the folder's files.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(level if report else ERROR)
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are filled
            yield
    except (*_UNLOADABLE, StrictDataclassError) as error:
        raise ConfigError(
            f"the model '{folder.name}' cannot be loaded: {_first_line(error)}",
            wanted="a whole model folder with settings and weights as safetensors",
            fix="Check that the folder is complete and of the right kind, or choose another model",
        ) from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


class Backbone:
    """A transformers model that turns prepared pictures or sounds into vectors.

    Args:
        folder: of the model.
        options: where and how to compute.
        features: the method by which models of pictures or sounds with texts give their common vector.

    Raises:
        ConfigError: the model cannot be loaded, or some of its weights are not in its files.
    """

    def __init__(self, folder: ModelFolder, options: Options, features: str) -> None:
        from transformers import AutoModel

        from triptych.device import resolve_device

        self.device = resolve_device(options.device)
        self.dtype = find_dtype(options.dtype, self.device)
        with loading(folder, report=False):  # it is looked at below
            model, report = AutoModel.from_pretrained(
                folder.path,
                dtype=self.dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        missing = sorted(name for name in report["missing_keys"] if not name.endswith(_NEVER_USED))
        self.has_pooler = not any(name.startswith("pooler.") for name in missing)
        lost = [name for name in missing if not name.startswith("pooler.")]
        lost += [name for name, *_ in report["mismatched_keys"]]
        if lost:
            raise ConfigError(
                f"the files of the model '{folder.name}' lack weights that fit {', '.join(lost[:5])}",
                wanted="all weights, since the others would be drawn at random",
                fix="Save the whole model again, or choose another model",
            )
        model = model.to(self.device).eval()
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        self.joint = hasattr(model, features)
        self._forward = getattr(model, features, model)

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        """Give the model's output for a batch of what its processor made."""
        import torch

        placed = {
            name: part.to(self.device, self.dtype if part.is_floating_point() else None)
            for name, part in inputs.items()
        }
        with torch.inference_mode():
            return self._forward(**placed)


def model_spec(folder: ModelFolder, library: str, dtype: torch.dtype, **settings: Any) -> EncoderSpec:
    """Say what the rows of a model are known by.

    Args:
        folder: of the model.
        library: the package that runs it; those below it are named as well.
        dtype: of its weights.
        settings: what else decides the rows.
    """
    packages = dict.fromkeys((library, "transformers", "torch"))
    version = f"{versions(*packages)}, files {folder.fingerprint()}"
    return EncoderSpec(folder.name, version, {"dtype": str(dtype).removeprefix("torch."), **settings})
