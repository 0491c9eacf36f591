"""The methods by the names that the command line and presets use; a new method needs a line here."""

METHODS: dict[str, str] = {
    "softpag": "diffusers_ext.processors.softpag:SoftPAG",
    "clear": "diffusers_ext.processors.clear:CLEAR",
    "gna": "diffusers_ext.processors.gna:GNA",
    "radial": "diffusers_ext.processors.radial:Radial",
    "rectified": "diffusers_ext.processors.rectified:RectifiedSparse",
}
