"""The run configs that ship with the package: one folder a setting, one YAML a stage."""

from pathlib import Path


def bundled_config(name: str = "tiny/run.yaml") -> Path:
    """The path of a config that ships with the package, the same from a checkout and from an installed wheel."""
    return Path(__file__).parent / name
