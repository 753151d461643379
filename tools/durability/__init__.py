"""Kills processes at random points of their work on an image, and looks whether what was acknowledged is there."""
