"""Files in, records out: inputs, the pipeline, output that can be resumed, Ray."""
