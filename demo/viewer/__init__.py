"""The page that shows traces and rollouts. Nothing here imports torch or Gradio: it starts at once, also where neither is."""
