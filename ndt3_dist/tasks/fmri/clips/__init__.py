"""Clips as they are published: features of films, BOLD of subjects, names, lengths."""
