"""Where artefacts lie, and how they come to lie there whole."""
