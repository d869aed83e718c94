"""The version of the package: the only place that holds it."""

__all__ = ["__version__"]

__version__ = "0.1.0"
