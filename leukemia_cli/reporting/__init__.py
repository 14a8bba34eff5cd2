"""Values become text, JSON, CSV, Markdown and pictures."""
