"""Models small enough to ship: a world of coloured shapes with ground truth, and pipelines trained on it.

Start with `captions` (what can be asked), `render` (pictures), `detect` (the judge) and `suites` (prompts).
"""
