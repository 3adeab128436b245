"""Folders of diffusers, class by class: noise tables, autoencoders, text encoders, U-Nets and transformers."""
