"""Tools for inspecting and comparing runs. Run each as `python -m tools.NAME`."""
