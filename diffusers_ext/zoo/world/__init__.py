"""Define shapes world: captions, scenes, pictures, clips, and the detector that gives verdicts on them."""
