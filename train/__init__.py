"""Cold-start SFT and GRPO on top of TRL; the recipe of the bundled tiny models."""
