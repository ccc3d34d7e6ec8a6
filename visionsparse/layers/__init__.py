"""Modules that two or more systems share."""
