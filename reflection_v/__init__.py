"""The front door: the reflection-v command, the run config, the stage runner."""
