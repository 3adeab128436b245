"""Recipes that made the built-in models, and the loop they share."""
