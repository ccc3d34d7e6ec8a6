"""Thimble: a made-up system that shows how little one has to be."""
