"""Command line, files, hardware and plots: what the subject does not depend on. Imports nothing from outside."""
