"""The only home of Typer and Rich."""
