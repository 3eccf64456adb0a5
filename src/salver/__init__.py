"""Salver serves machine-learned models over TensorFlow Serving's gRPC and REST.

Importing this package does nothing and costs nothing: every part is imported by its own name.
"""

__version__ = "0.1.0"
