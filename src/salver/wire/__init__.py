"""Sockets to calls and back; knows no model and no tensor."""
