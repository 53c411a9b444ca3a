"""One `Predictor` for each way to run a model: ONNX Runtime, a checkpoint, a TensorRT plan, Triton."""
