"""Networks: specifications, PyTorch modules, saved models and prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torso.lazy import lazy_exports

if TYPE_CHECKING:
    from torso.image_spec import ImageSpec
    from torso.nets.models.card import FORMAT_VERSION, ModelCard, read_card
    from torso.nets.models.directory import find_model
    from torso.nets.models.loading import load, load_model
    from torso.nets.models.onnx_export import export_onnx, onnx_path
    from torso.nets.models.provenance import make_provenance, versions
    from torso.nets.models.saving import save_model
    from torso.nets.models.transfer import freeze_torso, has_running_statistics, load_torso, read_source, take_torso
    from torso.nets.modules import losses
    from torso.nets.modules.heads import Head, LabelHead, Prediction, TargetHead, ValueHead
    from torso.nets.modules.initialisation import INITS, initialise
    from torso.nets.modules.network import Network, build_network
    from torso.nets.modules.torsos import LARGE_WEIGHTS, MLP, ConvNet
    from torso.nets.prediction.backend import Backend, TorchBackend
    from torso.nets.prediction.predictor import Classification, Predictor
    from torso.nets.specs.calibration import Calibration
    from torso.nets.specs.heads import (
        CategoricalHeadSpec,
        ImplicitQuantileHeadSpec,
        LogitsHeadSpec,
        OneVsRestHeadSpec,
        QuantileHeadSpec,
        RegressionHeadSpec,
        ScalarHeadSpec,
        SigmoidHeadSpec,
        StepHeadSpec,
    )
    from torso.nets.specs.inputs import InputSpec
    from torso.nets.specs.named_torsos import NETS, net_spec
    from torso.nets.specs.network import NetworkSpec
    from torso.nets.specs.registry import ModelKind, register_head, register_torso
    from torso.nets.specs.torsos import ConvLayerSpec, ConvNetSpec, MLPSpec

_HOMES = {
    "Backend": "prediction.backend",
    "Calibration": "specs.calibration",
    "CategoricalHeadSpec": "specs.heads",
    "Classification": "prediction.predictor",
    "ConvLayerSpec": "specs.torsos",
    "ConvNet": "modules.torsos",
    "ConvNetSpec": "specs.torsos",
    "FORMAT_VERSION": "models.card",
    "Head": "modules.heads",
    "INITS": "modules.initialisation",
    "ImageSpec": "torso.image_spec",
    "ImplicitQuantileHeadSpec": "specs.heads",
    "InputSpec": "specs.inputs",
    "LARGE_WEIGHTS": "modules.torsos",
    "LabelHead": "modules.heads",
    "LogitsHeadSpec": "specs.heads",
    "MLP": "modules.torsos",
    "MLPSpec": "specs.torsos",
    "ModelCard": "models.card",
    "ModelKind": "specs.registry",
    "NETS": "specs.named_torsos",
    "Network": "modules.network",
    "NetworkSpec": "specs.network",
    "OneVsRestHeadSpec": "specs.heads",
    "Prediction": "modules.heads",
    "Predictor": "prediction.predictor",
    "QuantileHeadSpec": "specs.heads",
    "RegressionHeadSpec": "specs.heads",
    "ScalarHeadSpec": "specs.heads",
    "SigmoidHeadSpec": "specs.heads",
    "StepHeadSpec": "specs.heads",
    "TargetHead": "modules.heads",
    "TorchBackend": "prediction.backend",
    "ValueHead": "modules.heads",
    "build_network": "modules.network",
    "export_onnx": "models.onnx_export",
    "find_model": "models.directory",
    "freeze_torso": "models.transfer",
    "has_running_statistics": "models.transfer",
    "initialise": "modules.initialisation",
    "load": "models.loading",
    "load_model": "models.loading",
    "load_torso": "models.transfer",
    "losses": "modules.losses",
    "make_provenance": "models.provenance",
    "net_spec": "specs.named_torsos",
    "onnx_path": "models.onnx_export",
    "read_card": "models.card",
    "read_source": "models.transfer",
    "register_head": "specs.registry",
    "register_torso": "specs.registry",
    "save_model": "models.saving",
    "take_torso": "models.transfer",
    "versions": "models.provenance",
}

__all__ = [
    "FORMAT_VERSION",
    "INITS",
    "LARGE_WEIGHTS",
    "MLP",
    "NETS",
    "Backend",
    "Calibration",
    "CategoricalHeadSpec",
    "Classification",
    "ConvLayerSpec",
    "ConvNet",
    "ConvNetSpec",
    "Head",
    "ImageSpec",
    "ImplicitQuantileHeadSpec",
    "InputSpec",
    "LabelHead",
    "LogitsHeadSpec",
    "MLPSpec",
    "ModelCard",
    "ModelKind",
    "Network",
    "NetworkSpec",
    "OneVsRestHeadSpec",
    "Prediction",
    "Predictor",
    "QuantileHeadSpec",
    "RegressionHeadSpec",
    "ScalarHeadSpec",
    "SigmoidHeadSpec",
    "StepHeadSpec",
    "TargetHead",
    "TorchBackend",
    "ValueHead",
    "build_network",
    "export_onnx",
    "find_model",
    "freeze_torso",
    "has_running_statistics",
    "initialise",
    "load",
    "load_model",
    "load_torso",
    "losses",
    "make_provenance",
    "net_spec",
    "onnx_path",
    "read_card",
    "read_source",
    "register_head",
    "register_torso",
    "save_model",
    "take_torso",
    "versions",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
