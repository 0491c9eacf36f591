"""The methods and samplers by the names of the command line and presets; a new one needs a line here."""

METHODS: dict[str, str] = {
    "softpag": "diffusers_ext.processors.softpag:SoftPAG",
    "nag": "diffusers_ext.processors.nag:NAG",
    "clear": "diffusers_ext.processors.clear:CLEAR",
    "gna": "diffusers_ext.processors.gna:GNA",
    "radial": "diffusers_ext.processors.radial:Radial",
    "rectified": "diffusers_ext.processors.rectified:RectifiedSparse",
}

SAMPLERS: dict[str, str] = {
    "best-of-n": "diffusers_ext.sampling.best_of_n:BestOfN",
}
