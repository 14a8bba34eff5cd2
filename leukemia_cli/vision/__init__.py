"""Images without torch."""
