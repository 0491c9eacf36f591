"""The methods and samplers by the names of the command line and presets; a new one needs a line here."""

METHODS: dict[str, str] = {
    "softpag": "diffusers_ext.processors.softpag:SoftPAG",
    "nag": "diffusers_ext.processors.nag:NAG",
    "clear": "diffusers_ext.processors.clear:CLEAR",
    "gna": "diffusers_ext.processors.gna:GNA",
    "radial": "diffusers_ext.processors.radial:Radial",
    "rectified": "diffusers_ext.processors.rectified:RectifiedSparse",
    "astar": "diffusers_ext.processors.astar:AStar",
    "structured": "diffusers_ext.processors.structured:StructuredGuidance",
    "ir-diffusion": "diffusers_ext.processors.ir_diffusion:IRDiffusion",
}

SAMPLERS: dict[str, str] = {
    "best-of-n": "diffusers_ext.sampling.best_of_n:BestOfN",
    "reno": "diffusers_ext.sampling.reno:ReNO",
    "ttsnap": "diffusers_ext.sampling.ttsnap:TTSnap",
    "zero-order": "diffusers_ext.sampling.zero_order:ZeroOrder",
    "paths": "diffusers_ext.sampling.paths:Paths",
    "fk-steering": "diffusers_ext.sampling.fk_steering:FKSteering",
    "svdd": "diffusers_ext.sampling.svdd:SVDD",
    "npnet": "diffusers_ext.sampling.npnet.transform:NPNet",
}
