"""Methods, one file each: settings, rule and core; nothing about models."""

METHODS: dict[str, str] = {
    "softpag": "diffusers_ext.processors.softpag:SoftPAG",
}
