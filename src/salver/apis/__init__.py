"""Bytes to requests and answers to bytes; no lifecycle, no runtime, no socket."""
