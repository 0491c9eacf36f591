"""Ship small models: pipelines trained on a world of coloured shapes with ground truth.

Start in `world` with `captions` (what can be asked), `render` (pictures), `detect` (the detector) and
`suites` (prompts).
"""
