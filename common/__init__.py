"""The ground that every room stands on: errors, files, progress, signals and command lines. Imports nothing of ours."""
