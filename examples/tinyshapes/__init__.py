"""A small Stable Diffusion 1.x model of drawn shapes: how it was drawn, trained, judged and exported."""
