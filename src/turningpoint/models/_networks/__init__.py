"""Architectures of published checkpoints, with the parameter names of these."""
