"""A backbone of torch becomes a graph for other engines: pixels as they are read go in, feature vectors come out."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from leukemia_cli.domain import Preprocessing
from leukemia_cli.errors import MachineError
from leukemia_cli.learning.classifier import Classifier
from leukemia_cli.learning.engines import EngineName
from leukemia_cli.learning.exported import graph_file
from leukemia_cli.learning.graphs import openvino


class _FromPixels(nn.Module):
    """Normalisation and backbone as one: uint8 (n, S, S, 3) to float32 (n, D)."""

    def __init__(self, backbone: nn.Module, spec: Preprocessing) -> None:
        super().__init__()
        self.backbone = backbone
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1) * 255.0)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1) * 255.0)

    def forward(self, views: Tensor) -> Tensor:
        """Give what `run_backbone` gives of tiles, each by itself."""
        features: Tensor = self.backbone((views.permute(0, 3, 1, 2).float() - self.mean) / self.std)
        return features


def need_exporters(engine: EngineName) -> None:
    """Raise MachineError where what writes graphs is not installed."""
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MachineError(
                f"export needs {package}, which is not installed",
                f"Install it: pip install 'leukemia-cli[{engine}]'",
            )


def onnx_graph(backbone: nn.Module, spec: Preprocessing, name: str) -> bytes:
    """Write a backbone as an ONNX model with any number of images a batch; raises MachineError for one that torch cannot."""
    side = spec.input_size_px
    whole = _FromPixels(copy.deepcopy(backbone).cpu().to(memory_format=torch.contiguous_format), spec).eval()
    example = torch.zeros((2, side, side, 3), dtype=torch.uint8)
    try:
        with torch.no_grad():
            traced = torch.export.export(whole, (example,), dynamic_shapes=({0: torch.export.Dim("n")},), strict=False)
            made = torch.onnx.export(
                traced, (), dynamo=True, input_names=["views"], output_names=["features"], verbose=False
            )
    except Exception as error:  # torch's exporters document no kinds
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MachineError(
            f"torch cannot export backbone {name}: {said[:200]}", "Use this run with --engine torch"
        ) from error
    if made is None:
        raise MachineError(f"torch wrote no model of backbone {name}", "Use this run with --engine torch")
    content: bytes = made.model_proto.SerializeToString()
    return content


def _as_openvino(model: bytes) -> dict[str, bytes]:
    """Turn an ONNX model into OpenVINO's own two files, in full precision."""
    runtime = openvino()
    read = runtime.Core().read_model(model=model)
    with tempfile.TemporaryDirectory(prefix="leuk-export-") as folder:
        xml = Path(folder) / "model.xml"
        runtime.save_model(read, str(xml), compress_to_fp16=False)
        return {"xml": xml.read_bytes(), "bin": xml.with_suffix(".bin").read_bytes()}


def graph_parts(classifier: Classifier, engine: EngineName) -> tuple[dict[str, bytes], tuple[int, ...]]:
    """Give the parts of an exported file that hold graphs, and the graph of each member; a shared backbone is one graph."""
    backbones: list[nn.Module] = []
    of_member = []
    for member in classifier.members:
        backbone = member.backbone if member.backbone is not None else classifier.backbone
        if backbone is None:
            raise ValueError("a member without a backbone in a run without a shared one")
        place = _place_of(backbone, backbones)
        if place is None:
            place = len(backbones)
            backbones.append(backbone)
        of_member.append(place)
    parts: dict[str, bytes] = {}
    for place, backbone in enumerate(backbones):
        model = onnx_graph(backbone, classifier.preprocessing, classifier.spec.name)
        files = {"onnx": model} if engine == "onnx" else _as_openvino(model)
        parts |= {graph_file(place, suffix): content for suffix, content in files.items()}
    return parts, tuple(of_member)


def _place_of(backbone: nn.Module, among: Sequence[nn.Module]) -> int | None:
    return next((place for place, other in enumerate(among) if other is backbone), None)
