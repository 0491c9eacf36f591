"""Name the version of the package, for the build and for records beside results."""

__version__ = "0.1.0"
