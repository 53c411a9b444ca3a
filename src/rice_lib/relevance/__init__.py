"""Which parts of an image a model's answer rests on: relevance maps, how faithful they are, and pictures of them.

`open_explainer` reads a model's name and hands on an `Explainer`: uint8 pixels in, an `Explanation` out. It works on a
checkpoint (torch) and on an ONNX file (numpy, onnx and onnxruntime alone), with the same maps.
"""
