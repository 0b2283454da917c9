"""Shared basics: errors, files, progress, signals and command lines. Imports no other package of this project."""
