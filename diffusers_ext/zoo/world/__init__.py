"""Shapes world: captions, scenes, pictures, clips, and the detector that judges them."""
