"""Classify leukaemia from microscope images of blood smears, and know how far to believe it. Research use only.

The Python API is the steps behind the subcommands, by the same names: `leukemia_cli.train` is what `leuk train` calls.
A name is imported when it is first used, so that `import leukemia_cli` loads neither torch nor numpy.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "Bar",
    "CellSettings",
    "ClassifySettings",
    "CompareSettings",
    "DataError",
    "EvaluateSettings",
    "ExportSettings",
    "ExtractSettings",
    "FitSvmSettings",
    "Interrupted",
    "LeukError",
    "MachineError",
    "PrepareSettings",
    "ThresholdMissed",
    "TrainSettings",
    "UsageError",
    "WorkspaceError",
    "__version__",
    "classify",
    "compare",
    "errors",
    "evaluate",
    "export",
    "extract_features",
    "find_cells_in",
    "find_run",
    "fit_svm",
    "merge",
    "open_classifier",
    "open_workspace",
    "plan_comparison",
    "prepare",
    "read_manifest",
    "report",
    "resume",
    "train",
]

if TYPE_CHECKING:
    from leukemia_cli import errors
    from leukemia_cli.data.manifest import read_manifest
    from leukemia_cli.errors import (
        DataError,
        Interrupted,
        LeukError,
        MachineError,
        ThresholdMissed,
        UsageError,
        WorkspaceError,
    )
    from leukemia_cli.judging.bars import Bar
    from leukemia_cli.learning.recipes import TrainSettings
    from leukemia_cli.steps.cells import CellSettings, find_cells_in
    from leukemia_cli.steps.classify import ClassifySettings, classify, open_classifier
    from leukemia_cli.steps.compare import CompareSettings, compare, plan_comparison
    from leukemia_cli.steps.evaluate import EvaluateSettings, evaluate
    from leukemia_cli.steps.export import ExportSettings, export
    from leukemia_cli.steps.extract_features import ExtractSettings, extract_features
    from leukemia_cli.steps.fit_svm import FitSvmSettings, fit_svm
    from leukemia_cli.steps.merge import merge
    from leukemia_cli.steps.prepare import PrepareSettings, prepare
    from leukemia_cli.steps.report import report
    from leukemia_cli.steps.train import resume, train
    from leukemia_cli.workspace.folders import open_workspace
    from leukemia_cli.workspace.runs import find_run
else:
    _HOMES = {
        "Bar": "judging.bars",
        "ClassifySettings": "steps.classify",
        "CellSettings": "steps.cells",
        "CompareSettings": "steps.compare",
        "DataError": "errors",
        "EvaluateSettings": "steps.evaluate",
        "ExportSettings": "steps.export",
        "ExtractSettings": "steps.extract_features",
        "FitSvmSettings": "steps.fit_svm",
        "Interrupted": "errors",
        "LeukError": "errors",
        "MachineError": "errors",
        "PrepareSettings": "steps.prepare",
        "ThresholdMissed": "errors",
        "TrainSettings": "learning.recipes",
        "UsageError": "errors",
        "WorkspaceError": "errors",
        "classify": "steps.classify",
        "compare": "steps.compare",
        "evaluate": "steps.evaluate",
        "export": "steps.export",
        "extract_features": "steps.extract_features",
        "find_cells_in": "steps.cells",
        "find_run": "workspace.runs",
        "fit_svm": "steps.fit_svm",
        "merge": "steps.merge",
        "open_classifier": "steps.classify",
        "open_workspace": "workspace.folders",
        "plan_comparison": "steps.compare",
        "prepare": "steps.prepare",
        "read_manifest": "data.manifest",
        "report": "steps.report",
        "resume": "steps.train",
        "train": "steps.train",
    }

    def __getattr__(name: str) -> object:
        """Import a public name where it is first asked for (PEP 562)."""
        import importlib

        if name == "errors":
            return importlib.import_module("leukemia_cli.errors")
        try:
            home = _HOMES[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        value = getattr(importlib.import_module(f"leukemia_cli.{home}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
