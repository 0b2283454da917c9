"""Configuration: the schema of all options, the command line, and one YAML file per experiment."""
