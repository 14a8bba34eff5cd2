"""Dataset folders become samples, samples become a manifest."""
