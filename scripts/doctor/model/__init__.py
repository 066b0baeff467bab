"""Checks of the model node alone: a bundle for the other node leaves this folder out."""
