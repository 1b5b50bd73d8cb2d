"""Experiments, one file for each chapter; each has its `PRESETS`."""
