"""Experiments: the schema of all options, the command line that sets them, and one YAML file per experiment."""
