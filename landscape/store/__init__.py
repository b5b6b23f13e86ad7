"""Artefacts on disk: runs and checkpoints, other people's formats, results."""
