"""Training whose forward pass is the hardware: hooks for PyTorch (extra ``qat``)."""

from opennpe.quant.qat.module import Options, QuantModule
from opennpe.quant.qat.prepare import capture, convert, export_onnx, prepare

__all__ = ["Options", "QuantModule", "capture", "convert", "export_onnx", "prepare"]
