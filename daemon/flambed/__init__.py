"""flambed: from one YAML file to a running, set-up and protected cluster on AWS, and back."""

from importlib.metadata import version

__version__ = version("flambed")
