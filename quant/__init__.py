"""From a trained model to a network in the engine's formats: import, calibration, format policy."""

from opennpe.quant.calibration import calibrate
from opennpe.quant.graph import Graph, UnsupportedModelError
from opennpe.quant.importer import load_onnx
from opennpe.quant.policy import Policy

__all__ = ["Graph", "Policy", "UnsupportedModelError", "calibrate", "load_onnx"]
