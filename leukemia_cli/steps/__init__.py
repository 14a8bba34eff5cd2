"""One module per subcommand; together they are the Python API."""
