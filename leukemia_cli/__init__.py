"""Classify leukaemia from microscope images of blood smears, and know how far to believe it. Research use only."""

__version__ = "0.1.0"
