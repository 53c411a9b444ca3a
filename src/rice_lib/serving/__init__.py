"""Serving by Triton: the model repository, the server's life, and the checks of notebook 07."""
