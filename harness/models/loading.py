"""Resolve model names and load models. torch and transformers are imported inside functions.

A name is, in this order: a run folder of `harness train` (its newest checkpoint), a Hugging Face model directory, a
bundled model, or a hub id.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from harness.core import hub
from harness.core.errors import ConfigError, ModelError, nearest
from harness.core.protocols import ModelSource
from harness.models.digests import check_digests

T = TypeVar("T")

BUNDLED = Path(__file__).resolve().parent
CHECKPOINT_PREFIX = "step-"
_ENDS_BYTES = 2**22
_MODEL_SUFFIXES = (".json", ".safetensors", ".bin", ".model", ".jinja", ".txt")


def bundled_models() -> list[str]:
    return sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))


def resolve(name: str) -> str:
    """Return the directory or hub id of a name. Raise ModelError if it is known already that there is none."""
    folder = Path(name)
    if os.path.exists(folder / "run.json"):
        return str(newest_checkpoint(folder))
    if os.path.exists(folder / "config.json"):
        return name
    if os.path.isdir(folder):
        raise ModelError(f"{folder} holds no model: it has neither config.json (a model) nor run.json (a train run)")
    if name in bundled_models():
        return str(BUNDLED / name)
    if not _may_be_hub_id(name):
        raise ModelError(
            f"no model is called {name!r}; {nearest(name, bundled_models())} (a model is a Hugging Face directory, "
            "a train run, a bundled model or a hub id such as Qwen/Qwen2.5-7B)"
        )
    return name


def newest_checkpoint(run_folder: Path) -> Path:
    checkpoints = checkpoint_folders(run_folder)
    if not checkpoints:
        raise ModelError(f"the run {run_folder} has no checkpoint; only a train run has one, after its first step")
    return checkpoints[-1]


def checkpoint_folders(run_folder: Path) -> list[Path]:
    """Return complete checkpoints, oldest first. One being written has another name until it is complete."""
    found = (run_folder / "checkpoints").glob(CHECKPOINT_PREFIX + "*")
    return sorted((path for path in found if path.name.removeprefix(CHECKPOINT_PREFIX).isdecimal()), key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(CHECKPOINT_PREFIX))


def load_tokenizer(source: ModelSource) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = _pretrained(AutoTokenizer, source)
    except Exception as error:  # damaged files raise many types of errors
        raise ModelError(f"the tokenizer of {source.path} can't be loaded: {_first_line(error)}") from None
    if source.chat_template_of is not None:
        tokenizer.chat_template = _chat_template(source.chat_template_of)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer of {source.path} has no end-of-sequence token; set eos_token in it")
    return tokenizer


def _chat_template(path: str) -> Any:
    template = load_tokenizer(ModelSource(path)).chat_template
    if template is None:
        raise ModelError(f"the tokenizer of {path} has no chat template; leave model.chat_template out")
    return template


def load_config(source: ModelSource) -> Any:
    """Load the config of a model, without its weights."""
    from transformers import AutoConfig

    try:
        return _pretrained(AutoConfig, source)
    except Exception as error:  # as above
        raise ModelError(f"the config of {source.path} can't be loaded: {_first_line(error)}") from None


def context_of(source: ModelSource) -> int | None:
    """Return the most tokens a model supports, prompt and completion together; None if its config does not say."""
    config = load_config(source)
    limits: int | None = getattr(config, "max_position_embeddings", None)
    scaling = getattr(config, "rope_parameters", None)
    original, factor = (
        scaling.get(key) if scaling is not None else None for key in ("original_max_position_embeddings", "factor")
    )
    stretched = int(original * factor) if original is not None and factor is not None else 0
    return max(limits, stretched) if limits is not None else None


def load_module(source: ModelSource) -> Any:
    """Load a model in evaluation mode on its device."""
    import torch

    dtype = source.dtype if source.dtype == "auto" else getattr(torch, source.dtype, None)
    if dtype is None or not (dtype == "auto" or isinstance(dtype, torch.dtype)):
        raise ModelError(f"there is no dtype {source.dtype!r}; use auto, float32, bfloat16 or float16")
    check_digests(Path(source.path))
    device = pick_device(source.device)
    if dtype == "auto" and device == "cpu":
        dtype = torch.float32  # half precision is slower on most CPUs, and less exact
    try:
        return _load_or_initialise(source, dtype).to(device).eval()
    except ModelError:
        raise
    except Exception as error:  # as above
        raise ModelError(f"the model {source.path} can't be loaded: {_first_line(error)}") from None


def _load_or_initialise(source: ModelSource, dtype: Any) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # the progress bars of loading and saving would break our progress line
    logging.get_logger("transformers.modeling_utils").addFilter(_is_not_load_report)
    if source.random_seed is None:
        module, found = _pretrained(
            AutoModelForCausalLM, source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
        _check_complete(source.path, found)
        return module
    shape = _pretrained(AutoConfig, source)
    with torch.random.fork_rng():
        torch.manual_seed(source.random_seed)
        return AutoModelForCausalLM.from_config(shape, dtype=dtype, trust_remote_code=source.trust_remote_code)


def _pretrained(kind: Any, source: ModelSource, **options: Any) -> Any:
    """Load a part of a model. Code in its files runs only if the source says so, and nothing is asked on stdin."""
    options |= {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    return open_model(source.path, source.revision, lambda place: kind.from_pretrained(place, **options))


def open_model(path: str, revision: str | None, load: Callable[[str], T]) -> T:
    """Call `load` with a directory, with the model's folder in the hub's cache, or else with the id on the hub.

    Raise ModelError within a few seconds if the hub is needed and can't be reached.
    """
    cached = None if os.path.isdir(path) else _cached_snapshot(path, revision)
    if cached is not None:
        try:
            return load(cached)
        except Exception as error:  # perhaps only a part of it is in the cache
            if "trust_remote_code" in str(error):
                raise
    if not os.path.isdir(path):
        require_hub(path)
    return load(path)


def _cached_snapshot(path: str, revision: str | None) -> str | None:
    """Return the folder of a hub model in the hub's cache. Loading from it asks the hub nothing."""
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(path, revision=revision, local_files_only=True))
    except Exception:  # not there, or no id that the hub could have
        return None


def require_hub(name: str) -> None:
    """Raise ModelError within a few seconds if the hub can't be reached; its client would try for minutes."""
    reason = hub.why_unreachable()
    if reason is not None:
        raise ModelError(
            f"{name} is not in the hub's cache on this machine, and the hub can't be reached ({reason}); with a "
            "network run the command again, or name a directory that has the model"
        )


def _is_not_load_report(record: Any) -> bool:
    """Hide transformers' table of missing weights: `_check_complete` raises a one-line error."""
    return not any(word in record.getMessage() for word in ("| MISSING", "| MISMATCH"))


def _check_complete(path: str, found: Mapping[str, Any]) -> None:
    """Raise ModelError for missing or misshapen weights: transformers would initialise them at random and continue."""
    others = [(name, f"in the shape {tuple(has)}, not {tuple(needs)}") for name, has, needs in found["mismatched_keys"]]
    gaps = sorted([*((name, "not there") for name in found["missing_keys"]), *others])
    if gaps:
        name, what = gaps[0]
        more = f" (and {len(gaps) - 1} more weights do not fit)" if len(gaps) > 1 else ""
        raise ModelError(
            f"the model {path} can't be loaded: by its config.json it needs {name}, which is {what}{more}; "
            "its files are damaged, or not of one model"
        )


def pick_device(wanted: str) -> str:
    import torch

    if wanted != "auto":
        try:
            torch.empty(0, device=wanted)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"the device {wanted!r} can't be used: {_first_line(error)}") from None
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_compiler(device: Any, setting: str) -> None:
    """Compile one line now, so that a missing compiler is reported before the run and not in its first pass."""
    import torch

    try:
        torch.compile(lambda x: x.sin() + 1, dynamic=True)(torch.ones(4, device=device))
    except Exception as error:  # a compiler's tools raise errors of many types
        lines = str(error).strip().splitlines()
        cause = lines[0] if lines else type(error).__name__
        raise ConfigError(
            f"{setting} needs torch.compile, which does not work here ({cause}); "
            f"install a C++ compiler (g++) for processors or triton for GPUs, or leave {setting} off"
        ) from None


def fingerprint(path: str) -> dict[str, str]:
    """Return a cheap identity of a model: a hash of the names, sizes and both ends of its files.

    For a hub id, the id itself; its revision is part of the config.
    """
    folder = Path(path)
    if not folder.is_dir():
        return {"name": path}
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.suffix in _MODEL_SUFFIXES and path.is_file()):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_ENDS_BYTES))
            stream.seek(max(0, file.stat().st_size - _ENDS_BYTES))
            digest.update(stream.read(_ENDS_BYTES))
    return {"name": folder.name, "fingerprint": digest.hexdigest()[:16]}


def _may_be_hub_id(name: str) -> bool:
    owner, slash, repository = name.partition("/")
    return bool(slash and owner and repository) and "/" not in repository and owner not in (".", "..", "~")


def _first_line(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return (
            "it needs Python code from its own files (auto_map in its config.json), which is not run unless you trust "
            "it; read the code, and set model.trust_remote_code = true to run it with your rights"
        )
    kind, lines = type(error).__name__, str(error).strip().splitlines()
    if not lines:
        return kind
    # The messages of other errors address developers, such as a bare key.
    return lines[0] if isinstance(error, (OSError, ValueError, RuntimeError, AssertionError)) else f"{kind}: {lines[0]}"
