"""Networks: what they are (specs), how they are built, saved, loaded and asked."""

from torso.nets.calibration import Calibration
from torso.nets.card import FORMAT_VERSION, ModelCard, read_card
from torso.nets.checkpoint import find_model, load, load_model, save_model
from torso.nets.export import export_onnx, onnx_path
from torso.nets.head_specs import (
    LogitsHeadSpec,
    OneVsRestHeadSpec,
    RegressionHeadSpec,
    ScalarHeadSpec,
    SigmoidHeadSpec,
    StepHeadSpec,
)
from torso.nets.heads import Head, LabelHead, Prediction, TargetHead, ValueHead
from torso.nets.initialisation import INITS, initialise
from torso.nets.network import Network, build_network
from torso.nets.predictor import Backend, Classification, Predictor, TorchBackend
from torso.nets.presets import NETS, net_spec
from torso.nets.provenance import make_provenance, versions
from torso.nets.registry import ModelKind, register_head, register_torso
from torso.nets.spec import (
    ConvLayerSpec,
    ConvNetSpec,
    ImageSpec,
    InputSpec,
    MLPSpec,
    NetworkSpec,
)
from torso.nets.torsos import LARGE_WEIGHTS, MLP, ConvNet
from torso.nets.transfer import freeze_torso, has_running_statistics, load_torso, read_source, take_torso

__all__ = [
    "FORMAT_VERSION",
    "INITS",
    "LARGE_WEIGHTS",
    "MLP",
    "NETS",
    "Backend",
    "Calibration",
    "Classification",
    "ConvLayerSpec",
    "ConvNet",
    "ConvNetSpec",
    "Head",
    "ImageSpec",
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
