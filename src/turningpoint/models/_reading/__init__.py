"""Checkpoints as data: pickles, torch's archives and safetensors, read without running anything in them."""
