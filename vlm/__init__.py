"""Vision-language models: loading, pictures, chat, generation, the attention-mass probe, backends."""
