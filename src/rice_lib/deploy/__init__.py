"""From a checkpoint to something that answers: ONNX, TensorRT, Triton, and one interface to ask any of them.

Nothing here imports training code, and a module imports the library of its backend alone.
"""
