"""ONNX and TensorRT: export, parity, speed."""
