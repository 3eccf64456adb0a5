"""The lifecycle of servables: from a wish for a version to its last handle.

TensorFlow Serving's vocabulary, on the standard library alone.
"""
