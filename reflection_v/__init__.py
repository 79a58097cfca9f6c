"""The ``reflection-v`` command, the stage runner and the stages of a run."""
